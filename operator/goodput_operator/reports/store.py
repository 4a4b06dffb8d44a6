"""What every agent said last, and what each of them is to be told.

Kept in memory only: an operator that has just taken over knows everything again after one
round of reports. No clock and no I/O here: `server` adds the network and the time-outs, a
simulation may drive the same object on its own clock. All calls come from one thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from heapq import heappop, heappush
from operator import attrgetter

from goodput.protocol import (
    HOLD,
    HOLD_SECONDS,
    STOP,
    Message,
    Progress,
    Run,
    SyncAnswer,
    SyncRequest,
)
from goodput_operator.observe.agents import AgentView, JobKey, PodIdentity, Vigil

Release = Callable[[SyncAnswer], None]

NOTHING_TO_SAY = SyncAnswer(kind=HOLD)
"""What an agent hears before the first pass has decided anything about it."""


def _all_but(kind: type[Message], *quiet: str) -> Callable[[object], tuple[object, ...]]:
    """Return a getter of the fields that a pass must hear of; a new field is one of them."""
    return attrgetter(*(item.name for item in fields(kind) if item.name not in quiet))


_request_facts = _all_but(
    SyncRequest, "sequence", "sent_at", "hold_seconds", "seen_revision", "free_port", "run"
)
_run_facts = _all_but(Run, "progress")
_progress_facts = _all_but(
    Progress,
    "step",
    "step_at",
    "step_milliseconds",
    "checkpoint_stall_milliseconds",
    "data_stall_milliseconds",
    "committed_stall_milliseconds",
    "tracker_step_at",
)


def matters(old: SyncRequest, new: SyncRequest) -> bool:
    """Return whether a pass could decide differently after `new` than after `old`.

    Steps, stalls and heartbeats do not matter: the ledger reads them at its own pace.
    """
    if _request_facts(old) != _request_facts(new) or bool(old.free_port) != bool(new.free_port):
        return True
    if old.run is None or new.run is None:
        return old.run is not new.run
    return _run_facts(old.run) != _run_facts(new.run) or _progress_facts(
        old.run.progress
    ) != _progress_facts(new.run.progress)


def _is_old_news(known: SyncRequest, request: SyncRequest) -> bool:
    """Sent before what we know, or of an attempt before the one that this pod has run."""
    known_attempt = known.run.attempt if known.run else 0
    attempt = request.run.attempt if request.run else 0
    return request.sequence <= known.sequence or attempt < known_attempt


@dataclass(frozen=True, slots=True)
class _Poll:
    """A request whose answer is being held."""

    seen_revision: str
    deadline: datetime
    release: Release


@dataclass(slots=True)
class _Agent:
    """One agent: its newest report, and its poll when one is being held."""

    key: JobKey
    view: AgentView
    poll: _Poll | None = None


@dataclass(slots=True)
class _Watch:
    """A vigil, and when the next silence can have lasted too long at the earliest."""

    vigil: Vigil
    due: datetime


class AgentStore:
    """Newest report and due answer by pod UID.

    Args:
        wake: told the key of a job that a pass should look at; must not block.
    """

    def __init__(self, wake: Callable[[JobKey], None]) -> None:
        self._wake = wake
        self._agents: dict[str, _Agent] = {}
        self._jobs: dict[JobKey, set[str]] = {}
        self._answers: dict[JobKey, dict[str, SyncAnswer]] = {}
        self._watches: dict[JobKey, _Watch] = {}
        self._deadlines: list[tuple[datetime, int, str]] = []  # a heap; of some polls that are over
        self._holds = 0

    def __len__(self) -> int:
        return len(self._agents)

    @property
    def held_polls(self) -> int:
        """How many agents are waiting for their answer to change."""
        return sum(agent.poll is not None for agent in self._agents.values())

    def report(self, pod: PodIdentity, request: SyncRequest, received_at: datetime) -> bool:
        """Keep what an agent says; return False when it changes nothing.

        Old news does not, nor what nobody can know of an attempt that was not ordered yet.

        The first contact, and every change that matters to a pass, wakes the job. A newer
        request lets the pod's held poll go: that agent has moved on.
        """
        agent = self._agents.get(pod.uid)
        if agent is None:
            view = AgentView(request, received_at, first_seen_at=received_at)
            self._agents[pod.uid] = _Agent(pod.key, view)
            self._jobs.setdefault(pod.key, set()).add(pod.uid)
            self._wake(pod.key)
            return True
        known = agent.view
        if _is_old_news(known.request, request) or self._was_not_ordered(pod, request):
            return False
        agent.view = AgentView(request, received_at, known.first_seen_at)
        self._let_go(pod.uid, agent)
        if matters(known.request, request) or self._has_seen_stop(pod, known.request, request):
            self._wake(pod.key)
        return True

    def _was_not_ordered(self, pod: PodIdentity, request: SyncRequest) -> bool:
        """Return whether it speaks of an attempt after the one that this pod was told of.

        Believed, it would make old news of all that its agent says of the attempt that runs.
        """
        due = self._answers.get(pod.key, {}).get(pod.uid)
        return bool(due and request.run and 0 < due.attempt < request.run.attempt)

    def _has_seen_stop(self, pod: PodIdentity, old: SyncRequest, new: SyncRequest) -> bool:
        """Return whether this is the first word of an agent that knows it must stop.

        A worker whose processes had all died before has nothing else to say, and the next
        attempt waits for it. Other orders show in what the agent runs.
        """
        due = self._answers.get(pod.key, {}).get(pod.uid)
        return (
            due is not None
            and due.kind == STOP
            and new.seen_revision == due.revision != old.seen_revision
        )

    def heard_by(self, key: JobKey, now: datetime) -> None:
        """Take what seems to have been heard later than `now` as heard now.

        The clock was put back. Silence counts from here then, else it would not for as long as
        the clock has to catch up.
        """
        for uid in self._jobs.get(key, ()):
            agent = self._agents[uid]
            if agent.view.received_at > now:
                seen_at = min(agent.view.first_seen_at, now)
                agent.view = replace(agent.view, received_at=now, first_seen_at=seen_at)

    def views(self, key: JobKey) -> Mapping[str, AgentView]:
        """Return the newest report of each agent of a job, by pod UID, in a fixed order."""
        return {uid: self._agents[uid].view for uid in sorted(self._jobs.get(key, ()))}

    def set_answers(self, key: JobKey, answers: Mapping[str, SyncAnswer]) -> None:
        """Replace all answers of a job, and release the polls that have not seen theirs.

        An answer of the same revision replaces the old one silently: news that can wait (a
        durable commit) travels with the next poll and wakes nobody. A pod that is not
        mentioned is told to hold; no answers at all forget the job's.
        """
        if answers:
            self._answers[key] = dict(answers)
        else:
            self._answers.pop(key, None)
        for uid in sorted(self._jobs.get(key, ())):
            agent, due = self._agents[uid], answers.get(uid)
            if agent.poll and due and due.revision != agent.poll.seen_revision:
                self._let_go(uid, agent)

    def hold(
        self, pod: PodIdentity, request: SyncRequest, now: datetime, release: Release
    ) -> SyncAnswer | None:
        """Return the answer when it is due at once; else None, and call `release` with it later.

        Only the newest request of an agent is held, and only while there is nothing that it
        has not seen. `release` is called once: on a new answer, on a newer request, or when
        the time that the agent allowed is over. Nobody listening any more is no harm.
        """
        agent = self._agents.get(pod.uid)
        due = self._answers.get(pod.key, {}).get(pod.uid)
        hold_seconds = min(request.hold_seconds, HOLD_SECONDS)
        if agent is None or agent.view.request is not request or hold_seconds <= 0:
            return due or NOTHING_TO_SAY
        if due is not None and due.revision != request.seen_revision:
            return due
        deadline = now + timedelta(seconds=hold_seconds)
        agent.poll = _Poll(request.seen_revision, deadline, release)
        self._holds += 1
        heappush(self._deadlines, (deadline, self._holds, pod.uid))
        return None

    def expire(self, now: datetime) -> None:
        """Release every poll that has been held for its time, with its answer as it is."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, uid = heappop(self._deadlines)
            agent = self._agents.get(uid)
            if agent is not None and agent.poll is not None and agent.poll.deadline <= now:
                self._let_go(uid, agent)

    def keep_vigil(self, key: JobKey, vigil: Vigil | None, now: datetime) -> None:
        """Wake a job, once, when one of these agents has been silent for too long.

        Replaces what was said of the job before; None: nobody's silence wakes it.
        """
        if vigil is None:
            self._watches.pop(key, None)
        else:
            self._watches[key] = _Watch(vigil, now)

    def notice_silence(self, now: datetime) -> None:
        """Wake the jobs over which a vigil is kept and one of whose agents is silent."""
        for key, watch in list(self._watches.items()):
            limit = timedelta(seconds=watch.vigil.limit_seconds)
            if now < watch.due <= now + limit:
                continue
            self.heard_by(key, now)  # the clock may have been put back
            views = [self._agents[uid].view for uid in watch.vigil.pods if uid in self._agents]
            heard_at = min((view.received_at for view in views), default=now)
            watch.due = heard_at + limit
            if watch.due < now:
                del self._watches[key]
                self._wake(key)

    def forget(self, pod_uid: str) -> None:
        """Drop all about a pod that is gone; its deletion itself is what wakes the job."""
        agent = self._agents.get(pod_uid)
        if agent is None:
            return
        self._let_go(pod_uid, agent)
        del self._agents[pod_uid]
        members = self._jobs[agent.key]
        members.discard(pod_uid)
        if not members:
            del self._jobs[agent.key]
            self._answers.pop(agent.key, None)
            self._watches.pop(agent.key, None)

    def clear(self) -> None:
        """Forget everything, without waking anyone: another replica leads now."""
        for uid, agent in self._agents.items():
            self._let_go(uid, agent)
        self._agents.clear()
        self._jobs.clear()
        self._answers.clear()
        self._watches.clear()

    def _let_go(self, uid: str, agent: _Agent) -> None:
        poll, agent.poll = agent.poll, None
        if poll is not None:
            poll.release(self._answers.get(agent.key, {}).get(uid, NOTHING_TO_SAY))
