"""What every agent said last, and what each of them is to be told.

Kept in memory only: an operator that has just taken over knows everything again after one
round of reports. No clock and no I/O here: `server` adds the network and the time-outs, a
simulation may drive the same object on its own clock. All calls come from one thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter

from goodput.protocol import HOLD, Message, Progress, Run, SyncAnswer, SyncRequest
from goodput_operator.observe.agents import AgentView, JobKey, PodIdentity

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
_progress_facts = _all_but(Progress, "step", "step_at", "step_milliseconds", "tracker_step_at")


def matters(old: SyncRequest, new: SyncRequest) -> bool:
    """Return whether a pass could decide differently after `new` than after `old`.

    Steps and heartbeats do not matter: the ledger reads them at its own pace.
    """
    if _request_facts(old) != _request_facts(new) or bool(old.free_port) != bool(new.free_port):
        return True
    if old.run is None or new.run is None:
        return old.run is not new.run
    return _run_facts(old.run) != _run_facts(new.run) or _progress_facts(
        old.run.progress
    ) != _progress_facts(new.run.progress)


@dataclass(slots=True)
class _Agent:
    """One agent: its newest report, and its poll when one is being held."""

    key: JobKey
    view: AgentView
    held: Release | None = None
    held_revision: str = ""


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

    def __len__(self) -> int:
        return len(self._agents)

    @property
    def held_polls(self) -> int:
        """How many agents are waiting for their answer to change."""
        return sum(agent.held is not None for agent in self._agents.values())

    def report(self, pod: PodIdentity, request: SyncRequest, received_at: datetime) -> bool:
        """Keep what an agent says; return False when it is old news and changes nothing.

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
        if request.sequence <= known.request.sequence:
            return False
        agent.view = AgentView(request, received_at, known.first_seen_at)
        self._let_go(pod.uid, agent)
        if matters(known.request, request):
            self._wake(pod.key)
        return True

    def views(self, key: JobKey) -> Mapping[str, AgentView]:
        """Return the newest report of each agent of a job, by pod UID, in a fixed order."""
        return {uid: self._agents[uid].view for uid in sorted(self._jobs.get(key, ()))}

    def answer(self, pod: PodIdentity) -> SyncAnswer:
        """Return what this agent is to be told now."""
        return self._due(pod.key, pod.uid)

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
            agent = self._agents[uid]
            if agent.held and uid in answers and answers[uid].revision != agent.held_revision:
                self._let_go(uid, agent)

    def hold(self, pod: PodIdentity, request: SyncRequest, release: Release) -> SyncAnswer | None:
        """Return the answer when it is due at once; else None, and call `release` with it later.

        Held is only the newest request of an agent that has seen its answer, or has none yet.
        `release` is called once: on a new answer, a newer request, or `let_go` (the time-out,
        which must be given the same object).
        """
        agent = self._agents.get(pod.uid)
        due = self._answers.get(pod.key, {}).get(pod.uid)
        if agent is None or request is not agent.view.request or request.hold_seconds <= 0:
            return due or NOTHING_TO_SAY
        if due is not None and due.revision != request.seen_revision:
            return due
        agent.held, agent.held_revision = release, request.seen_revision
        return None

    def let_go(self, pod: PodIdentity, release: Release) -> None:
        """Release one held poll with the answer as it is; nothing when it is no longer held."""
        agent = self._agents.get(pod.uid)
        if agent is not None and agent.held is release:
            self._let_go(pod.uid, agent)

    def forget(self, pod_uid: str) -> None:
        """Drop all about a pod that is gone; its deletion itself is what wakes the job."""
        agent = self._agents.pop(pod_uid, None)
        if agent is None:
            return
        if agent.held is not None:
            agent.held(self._due(agent.key, pod_uid))
        members = self._jobs[agent.key]
        members.discard(pod_uid)
        if not members:
            del self._jobs[agent.key]
            self._answers.pop(agent.key, None)

    def clear(self) -> None:
        """Forget everything, without waking anyone: another replica leads now."""
        for uid, agent in self._agents.items():
            self._let_go(uid, agent)
        self._agents.clear()
        self._jobs.clear()
        self._answers.clear()

    def _due(self, key: JobKey, uid: str) -> SyncAnswer:
        return self._answers.get(key, {}).get(uid, NOTHING_TO_SAY)

    def _let_go(self, uid: str, agent: _Agent) -> None:
        release, agent.held = agent.held, None
        if release is not None:
            release(self._due(agent.key, uid))
