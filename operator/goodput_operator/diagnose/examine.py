"""Examine one job's world: who is lost, what failed, does the gang advance?

Pure. `plan` calls this on a snapshot; a finding never says what to do. The one principle:
*silence is not death*. In synchronous training, if the other ranks advance, the silent one is
alive, whatever its node's conditions say. Only a gang that stands still, or the word of a
pod or of a node, makes a silent worker a lost one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from goodput.protocol import (
    EXIT_CODE_DO_NOT_REQUEUE,
    EXIT_CODE_PYTHON_TOO_OLD,
    Commit,
    ProcessExit,
    Progress,
)
from goodput_operator.api.status import AttemptState, AttemptStatus
from goodput_operator.observe.snapshot import JobSnapshot, NodeHealth, PodView, Worker

SILENCE_LIMIT_SECONDS = 12.0
"""Two heartbeats (5 s each) missed and some; then a worker of a gang at rest is lost."""
STARTING_SILENCE_LIMIT_SECONDS = 30.0
"""The same before the first step, when every rank may be busy importing."""
BLIND_SILENCE_LIMIT_SECONDS = 60.0
"""The same where the trainer gives no sign of progress: its node must be not ready, too."""
HEARD_SECONDS = 7.0
"""A worker that lives is heard of this often: the longest poll, and some."""
STILL_SECONDS = 5.0
STILL_STEPS = 10
"""A gang stands still when no step has been finished for so long: both of these."""
LONGEST_STILL_SECONDS = 86_400.0
"""Whatever a trainer says of its steps: no gang is waited for longer than a day."""

MAX_OUTPUT_CHARACTERS = 800
CANNOT_RESHARD = "CannotReshard"
_RESHARD_ERROR = "ReshardError"
"""The name of the SDK's exception, as it ends a traceback."""
SIGKILL = 9

TELLING_SECONDS = 1.0
"""From the end of a step until a report can tell of it: the SDK says its steps four a second."""
SAVE_NOTICE_SECONDS = 3.0
"""From the question to save until the step in question ends, at least: all ranks must know."""


class Kind(StrEnum):
    """What a finding is about."""

    WORKER_LOST = "WorkerLost"
    PROCESS_FAILED = "ProcessFailed"
    RESTORED_APART = "RestoredApart"
    """The members cannot go on from one checkpoint: they would train from different states."""
    REPORTS_VANISHED = "ReportsVanished"
    """No agent is heard while their nodes are well: the fault is probably ours. Hold."""
    WORKER_SILENT = "WorkerSilent"
    """Not heard of, but not known to be lost."""
    CANNOT_START = "CannotStart"
    """A pod can never run our agent: no retry will help."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        slot: of the worker; -1 for the gang.
        reason: CamelCase, the class of the fault.
        message: for people, names the worker, its node and the evidence.
        at: when it happened, as well as we know.
        certain: an act that destroys may rest on it.
        charged: it is the user's own fault, so the user's budget pays.
        requeue: trying again makes sense.
        killed: from outside, by SIGKILL: no peer's failure explains it, but it explains theirs.
        rank: the training process that failed, where it is one.
    """

    kind: Kind
    slot: int
    reason: str
    message: str
    at: datetime
    certain: bool = True
    charged: bool = False
    requeue: bool = True
    killed: bool = False
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class GangProgress:
    """What the trainers of the current attempt said, taken together; times are ours.

    Attributes:
        heard_at: when the newest report came that this is taken from.
        sdk: the processes use the SDK.
        checkpoints: they save and restore by it, too: a restore has begun, or there is a commit.
        signal: there is any sign of progress, from the SDK or a tracker file.
        checkpoint_stall_milliseconds, data_stall_milliseconds: how long training has stood still
            since the first step; of the member that has stood longest, for the others wait for it.
        stalled_since_commit_milliseconds: both together, since the committed step was finished.
        restored: the commit that was restored, the oldest where the members differ; None when
            nothing was, or not yet.
    """

    heard_at: datetime | None = None
    sdk: bool = False
    checkpoints: bool = False
    signal: bool = False
    step: int | None = None
    step_at: datetime | None = None
    step_milliseconds: int | None = None
    first_step_at: datetime | None = None
    restore_began_at: datetime | None = None
    restore_ended_at: datetime | None = None
    restored: Commit | None = None
    restore_problems: tuple[str, ...] = ()
    committed: Commit | None = None
    committed_step_at: datetime | None = None
    checkpoint_stall_milliseconds: int = 0
    data_stall_milliseconds: int = 0
    stalled_since_commit_milliseconds: int = 0
    tracker_step: int | None = None
    tracker_step_at: datetime | None = None

    @property
    def can_save(self) -> bool:
        """Whether the training can be asked to save: it does so by the SDK, and says its steps."""
        return self.checkpoints and self.step is not None and self.step_milliseconds is not None

    def steps_until_told(self, now: datetime) -> int:
        """Return how many steps will be finished before all ranks know what they are asked now."""
        ahead_seconds = (now - self._heard_of(now)).total_seconds() + SAVE_NOTICE_SECONDS
        return max(1, math.ceil(ahead_seconds * 1000 / max(1, self.step_milliseconds or 1))) + 1

    def saved_at(self, now: datetime) -> datetime:
        """Return when a step is finished that the training is asked now to save."""
        step_seconds = min(max(1, self.step_milliseconds or 1) / 1000, LONGEST_STILL_SECONDS)
        until = self.steps_until_told(now) * step_seconds
        underway_since = self._heard_of(now) - timedelta(seconds=step_seconds)
        return max(self.step_at or now, underway_since) + timedelta(seconds=until)

    def _heard_of(self, now: datetime) -> datetime:
        """Return since when steps may have been finished that nobody has told of yet."""
        told = (self.heard_at or now) - timedelta(seconds=TELLING_SECONDS)
        return max(self.step_at or now, told)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, the first cause first, and how far the gang is."""

    findings: tuple[Finding, ...]
    progress: GangProgress
    lost_slots: frozenset[int]
    recheck_at: datetime | None = None
    """When a silence that lasts would become a finding."""
    silence_limit_seconds: float = SILENCE_LIMIT_SECONDS
    """How long it would have to last."""

    @property
    def first_cause(self) -> Finding | None:
        """The certain finding that explains the others."""
        return next((one for one in self.findings if one.certain), None)


def examine(snapshot: JobSnapshot, attempt: AttemptStatus | None, now: datetime) -> Diagnosis:
    """Return what is wrong with the current attempt.

    A lost worker comes before failed processes: when a worker dies, its peers fail of it.
    """
    if attempt is None:
        return Diagnosis((), GangProgress(), frozenset())
    published = attempt.state in (
        AttemptState.STARTING,
        AttemptState.RUNNING,
        AttemptState.STOPPING,
    )
    if published:
        snapshot = _world_of(snapshot)
    progress = gang_progress(snapshot.workers, attempt.number)
    findings = [*_cannot_start(snapshot, now)]
    lost: list[Finding] = []
    recheck_at = None
    if published:
        lost = [
            finding
            for worker in snapshot.workers
            if (finding := _lost_by_word(worker, attempt, progress, now)) is not None
        ]
        silent, recheck_at = _silent(snapshot, attempt, progress, now)
        lost += [one for one in silent if one.slot not in {known.slot for known in lost}]
        findings += sorted(lost, key=lambda one: (one.charged, one.at, one.slot))
        findings += _restored_apart(snapshot.workers, attempt.number, progress.restored)
        findings += _failed_processes(snapshot.workers, attempt.number, now)
    return Diagnosis(
        findings=tuple(findings),
        progress=progress,
        lost_slots=frozenset(
            one.slot for one in lost if one.certain and one.kind is Kind.WORKER_LOST
        ),
        recheck_at=recheck_at,
        silence_limit_seconds=_silence_limit(attempt, progress),
    )


def _world_of(snapshot: JobSnapshot) -> JobSnapshot:
    """Return the snapshot of the world alone: whoever waits to join is no concern of it."""
    members = tuple(worker for worker in snapshot.workers if worker.rank >= 0)
    return replace(snapshot, workers=members) if members else snapshot


def gang_progress(workers: Iterable[Worker], attempt: int) -> GangProgress:
    """Return what the members of `attempt` said, taken together.

    The earliest first step, the newest step, the newest commit; a restore lasts from the first
    rank's beginning to the last rank's end.
    """
    said = [
        (worker.agent, progress)
        for worker in workers
        if worker.agent and (progress := worker.progress_of(attempt)) is not None
    ]
    steps = [
        (progress.step, agent.time_of(progress.step_at), progress.step_milliseconds)
        for agent, progress in said
        if progress.step is not None and progress.step_at is not None
    ]
    newest = max(steps, key=lambda one: (one[1], one[0]), default=None)
    commits = [
        (progress.committed, agent.time_of(progress.committed_step_at), _stalled_since(progress))
        for agent, progress in said
        if progress.committed is not None
        and progress.committed.attempt == attempt
        and progress.committed_step_at is not None
    ]
    commit = max(commits, key=lambda one: one[0].step, default=None)
    trackers = [
        (p.tracker_step, a.time_of(p.tracker_step_at))
        for a, p in said
        if p.tracker_step is not None and p.tracker_step_at is not None
    ]
    tracker = max(trackers, key=lambda one: (one[0], -one[1].timestamp()), default=None)
    ended = [a.time_of(p.restore_ended_at) for a, p in said if p.restore_ended_at is not None]
    restored = [p.restored for _, p in said if p.restored is not None]
    return GangProgress(
        heard_at=max((agent.received_at for agent, _ in said), default=None),
        sdk=any(progress.sdk for _, progress in said),
        checkpoints=any(
            p.sdk and (p.restore_began_at, p.restore_ended_at, p.committed) != (None, None, None)
            for _, p in said
        ),
        signal=bool(steps or trackers or commits) or any(p.sdk for _, p in said),
        step=newest[0] if newest else None,
        step_at=newest[1] if newest else None,
        step_milliseconds=newest[2] if newest else None,
        first_step_at=min(
            (a.time_of(p.first_step_at) for a, p in said if p.first_step_at is not None),
            default=None,
        ),
        restore_began_at=min(
            (a.time_of(p.restore_began_at) for a, p in said if p.restore_began_at is not None),
            default=None,
        ),
        restore_ended_at=max(ended, default=None),
        restored=min(restored, key=lambda one: (one.attempt, one.step), default=None),
        restore_problems=next((p.restore_problems for _, p in said if p.restore_problems), ()),
        committed=commit[0] if commit else None,
        committed_step_at=commit[1] if commit else None,
        checkpoint_stall_milliseconds=max(
            (p.checkpoint_stall_milliseconds or 0 for _, p in said), default=0
        ),
        data_stall_milliseconds=max((p.data_stall_milliseconds or 0 for _, p in said), default=0),
        stalled_since_commit_milliseconds=commit[2] if commit else 0,
        tracker_step=tracker[0] if tracker else None,
        tracker_step_at=tracker[1] if tracker else None,
    )


def _stalled_since(progress: Progress) -> int:
    """Return for how many milliseconds this worker has stood since it finished what it saved."""
    stalls = (progress.checkpoint_stall_milliseconds or 0) + (progress.data_stall_milliseconds or 0)
    return max(0, stalls - (progress.committed_stall_milliseconds or 0))


def succeeded(worker: Worker, attempt: int) -> bool:
    """Return whether all processes of this worker have ended well.

    An agent leaves with exit code 0 only then, or when it was told to. What the status has of it
    outlives the pod.
    """
    run = worker.run_of(attempt)
    if worker.succeeded or (run is not None and run.succeeded):
        return True
    return (
        worker.pod is not None
        and worker.pod.ended is not None
        and (worker.pod.ended.exit_code == 0)
    )


def succeeded_at(worker: Worker, attempt: int) -> datetime | None:
    """Return when the last process of a worker that has succeeded ended; None: nobody knows it.

    As its agent says, else the kubelet, by its node's clock: that is up to ten minutes later, for
    which an agent that is not heard waits to be told to leave.
    """
    run = worker.run_of(attempt)
    if run is not None and run.succeeded and run.exits and worker.agent is not None:
        return worker.agent.time_of(max(end.at for end in run.exits))
    return worker.pod.ended.at if worker.pod is not None and worker.pod.ended else None


def stands_still(progress: GangProgress, now: datetime) -> bool | None:
    """Return whether the gang makes no step; None when it gives no sign by which to tell."""
    if progress.step_at is None:
        return True if progress.sdk else None
    return now > still_at(progress, progress.step_at)


def still_at(progress: GangProgress, step_at: datetime) -> datetime:
    """Return when a gang whose newest step was finished at `step_at` counts as standing still."""
    late_seconds = STILL_STEPS * (progress.step_milliseconds or 0) / 1000
    return step_at + timedelta(seconds=min(max(STILL_SECONDS, late_seconds), LONGEST_STILL_SECONDS))


def where(worker: Worker) -> str:
    """Return "worker 2 (pod a-2-0 on node-3)"."""
    if worker.pod is None:
        return f"worker {worker.slot}"
    place = f" on {worker.pod.node}" if worker.pod.node else ""
    return f"worker {worker.slot} (pod {worker.pod.name}{place})"


def _cannot_start(snapshot: JobSnapshot, now: datetime) -> Iterable[Finding]:
    for worker in snapshot.workers:
        ended = worker.pod.ended if worker.pod else None
        if ended is None:
            continue
        why = ""
        if ended.exit_code == EXIT_CODE_PYTHON_TOO_OLD:
            why = "the image's python3 is older than 3.8"
        elif ended.reason == "StartError" and "python3" in ended.message:
            why = "the image has no python3"
        if why:
            yield Finding(
                Kind.CANNOT_START,
                worker.slot,
                "ImageLacksPython",
                f"{where(worker)}: {why}, and the agent that starts the training processes "
                f"needs Python 3.8 or newer: install it in the image of the trainer container "
                f"({ended.message.strip()[:300]})",
                now,
                charged=True,
                requeue=False,
            )


def lingers(worker: Worker, attempt: AttemptStatus, progress: GangProgress, now: datetime) -> bool:
    """Return whether a worker whose pod is being deleted trains on until the gang has saved."""
    if attempt.state is not AttemptState.RUNNING or worker.notice is None:
        return False
    due_at, run = worker.notice.due_at(now), worker.run_of(attempt.number)
    if now >= due_at:
        return False
    if worker.agent is None:  # an operator that has just begun to listen does not know yet
        return worker.silent_seconds <= SILENCE_LIMIT_SECONDS
    if run is None or run.alive == 0 or run.failed or run.stopping:
        return False
    if worker.agent.request.ends_at is None and progress.sdk:
        return True  # its pod's end is known before its agent's word of it, which tells more
    return attempt.save_by is not None or (progress.can_save and progress.saved_at(now) <= due_at)


def _lost_by_word(
    worker: Worker, attempt: AttemptStatus, progress: GangProgress, now: datetime
) -> Finding | None:
    """Return the finding when the worker's pod or node says that it is gone."""
    if succeeded(worker, attempt.number):
        return None
    pod = worker.pod
    lived_at = _lived_at(worker, progress, now)
    if pod is None:
        return Finding(
            Kind.WORKER_LOST, worker.slot, "PodGone", f"{where(worker)}: its pod is gone", lived_at
        )
    if pod.ended is not None:
        return _ended(worker, pod, lived_at)
    if pod.deleting and not lingers(worker, attempt, progress, now):
        assert worker.notice is not None
        reason, why = worker.notice.reason, worker.notice.why
        run = worker.run_of(attempt.number)
        trains = run is not None and run.alive > 0 and not run.failed and not run.stopping
        at = now if trains and worker.silent_seconds <= HEARD_SECONDS else lived_at
        return Finding(Kind.WORKER_LOST, worker.slot, reason, f"{where(worker)}: {why}", at)
    if worker.node is NodeHealth.GONE:
        return Finding(
            Kind.WORKER_LOST,
            worker.slot,
            "NodeGone",
            f"{where(worker)}: its node is deleted or out of service",
            lived_at,
        )
    return None


def _lived_at(worker: Worker, progress: GangProgress, now: datetime) -> datetime:
    """Return a worker's last sign of life: its own word, or the gang's newest step.

    No step is finished without all workers, and the others tell of it at once when one is gone,
    while the last word of that one may be seconds old.
    """
    signs = [worker.agent.received_at] if worker.agent else []
    signs += [progress.step_at] if progress.step_at else []
    return min(max(signs, default=now), now)


def _ended(worker: Worker, pod: PodView, lived_at: datetime) -> Finding:
    ended = pod.ended
    assert ended is not None
    said = f": {ended.message.strip()[:300]}" if ended.message.strip() else ""
    if ended.reason == "OOMKilled":
        return Finding(
            Kind.WORKER_LOST,
            worker.slot,
            "OutOfMemory",
            f"{where(worker)}: the kernel killed its container for using more memory than its "
            f"limit; raise resources.limits.memory or use less",
            lived_at,
            charged=True,
        )
    reason = "Evicted" if ended.reason in ("Evicted", "NodeShutdown", "Preempting") else "PodFailed"
    return Finding(
        Kind.WORKER_LOST,
        worker.slot,
        reason,
        f"{where(worker)}: its container ended with exit code {ended.exit_code} "
        f"({ended.reason or 'no reason given'}){said}",
        lived_at,
    )


def _silent(
    snapshot: JobSnapshot, attempt: AttemptStatus, progress: GangProgress, now: datetime
) -> tuple[list[Finding], datetime | None]:
    """Return findings on workers that are not heard of, and when there would be another."""
    waiting = [
        worker
        for worker in snapshot.workers
        if worker.pod is not None
        and not worker.pod.dead
        and worker.node is not NodeHealth.GONE
        and not succeeded(worker, attempt.number)
    ]
    limit = _silence_limit(attempt, progress)
    over = [worker for worker in waiting if worker.silent_seconds > limit]
    deaf = min(worker.silent_seconds for worker in snapshot.workers) > HEARD_SECONDS
    still = None if deaf else stands_still(progress, _heard_at(snapshot, now))
    if attempt.state is AttemptState.STOPPING and not deaf:
        still = True
    findings = [_silence(worker, progress, still, deaf, now) for worker in over]
    if deaf and over and not any(one.certain for one in findings):
        findings = [_reports_vanished(now)]
    next_times = [
        now + timedelta(seconds=max(0.5, limit - worker.silent_seconds + 0.1))
        for worker in waiting
        if worker not in over
    ]
    if over:
        due = now + timedelta(seconds=1)
        if still is False and progress.step_at is not None:
            due = max(due, still_at(progress, progress.step_at))
        next_times.append(due)
    return findings, min(next_times, default=None)


def _heard_at(snapshot: JobSnapshot, now: datetime) -> datetime:
    """Return when somebody of the gang was last heard of.

    That the gang stands still is known from a word that came later than the next step should
    have: a word that does not come tells nothing of the gang.
    """
    return max((one.agent.received_at for one in snapshot.workers if one.agent), default=now)


def _silence(
    worker: Worker, progress: GangProgress, still: bool | None, deaf: bool, now: datetime
) -> Finding:
    """Return what the silence of one worker means, in a gang that stands still or does not."""
    silence = f"{where(worker)}: not heard of for {worker.silent_seconds:.0f} s"
    silent_since = now - timedelta(seconds=worker.silent_seconds)
    at = progress.step_at if progress.step_at and still else silent_since
    if still is False:
        left_alone = f"{where(worker)} is silent, but the gang advances: left alone"
        return _uncertain(worker, left_alone, at)
    if worker.node is NodeHealth.NOT_READY:
        also = "nobody else is heard of" if deaf else "nothing tells that the gang advances"
        message = f"{silence}; its node is not ready, and "
        message += "the gang stands still" if still else also
        return Finding(Kind.WORKER_LOST, worker.slot, "NodeLost", message, at)
    if still:
        message = f"{silence}, and the gang stands still"
        return Finding(Kind.WORKER_LOST, worker.slot, "WorkerSilent", message, at)
    unknown = f"{where(worker)} is silent, and nothing tells whether the gang advances: left alone"
    return _uncertain(worker, unknown, at)


def _reports_vanished(now: datetime) -> Finding:
    message = (
        "no worker is heard of, but their nodes are well: nothing is done until somebody speaks"
    )
    return Finding(Kind.REPORTS_VANISHED, -1, "ReportsVanished", message, now, certain=False)


def _uncertain(worker: Worker, message: str, at: datetime) -> Finding:
    return Finding(Kind.WORKER_SILENT, worker.slot, "WorkerSilent", message, at, certain=False)


def _silence_limit(attempt: AttemptStatus, progress: GangProgress) -> float:
    if attempt.state is AttemptState.STOPPING:
        return SILENCE_LIMIT_SECONDS
    if progress.step_at is not None:
        return SILENCE_LIMIT_SECONDS
    if progress.sdk:
        return STARTING_SILENCE_LIMIT_SECONDS
    return BLIND_SILENCE_LIMIT_SECONDS


def _restored_apart(
    workers: Iterable[Worker], attempt: int, oldest: Commit | None
) -> list[Finding]:
    """Return the finding when members cannot go on from one commit, or do not.

    What they restored of the attempt itself is left out: processes that are restarted within
    an attempt go on from its own commits, and not all of them are heard of at once.
    """
    said = [
        (worker, worker.agent, progress)
        for worker in workers
        if worker.agent
        and (progress := worker.progress_of(attempt)) is not None
        and progress.restored is not None
        and progress.restored.attempt != attempt
    ]
    if oldest is None or not said:
        return []
    apart = len({progress.restored for _, _, progress in said}) > 1
    for worker, agent, progress in said:
        if progress.restore_apart or (apart and progress.restored == oldest):
            why = f": {'; '.join(progress.restore_problems)}" if progress.restore_problems else ""
            return [
                Finding(
                    Kind.RESTORED_APART,
                    worker.slot,
                    "RestoredApart",
                    f"{where(worker)} could not restore the checkpoint that the attempt was to go "
                    f"on from{why}. The newest that all can read is step {oldest.step} of attempt "
                    f"{oldest.attempt}",
                    agent.time_of(progress.restore_ended_at or agent.request.sent_at),
                )
            ]
    return []


def _failed_processes(workers: Iterable[Worker], attempt: int, now: datetime) -> list[Finding]:
    findings = []
    for worker in workers:
        run = worker.run_of(attempt)
        if run is None or not run.failed or worker.agent is None:
            continue
        exits = [one for one in run.exits if one.exit_code != 0]
        first = min(exits, key=lambda one: (one.at, one.rank), default=None)
        if first is None:
            findings.append(
                Finding(
                    Kind.PROCESS_FAILED,
                    worker.slot,
                    "ProcessFailed",
                    f"{where(worker)}: a process failed",
                    now,
                    charged=True,
                )
            )
            continue
        how = f"signal {first.signal}" if first.signal else f"exit code {first.exit_code}"
        findings.append(
            Finding(
                Kind.PROCESS_FAILED,
                worker.slot,
                _kind_of_failure(first),
                f"rank {first.rank} of {where(worker)} ended with {how}"
                + (f" ({first.reason})" if first.reason not in ("", "Error") else "")
                + (f": {first.exception[:500]}" if first.exception else "")
                + _last_lines(first.last_lines),
                worker.agent.time_of(first.at),
                charged=True,
                requeue=first.exit_code != EXIT_CODE_DO_NOT_REQUEUE,
                killed=first.signal == SIGKILL,
                rank=first.rank,
            )
        )
    # A worker that asks not to be tried again is the cause, whoever failed of it first. So is one
    # that was killed: the kernel takes its time to free its memory, its peers fail at once.
    return sorted(findings, key=lambda one: (one.requeue, not one.killed, one.at, one.slot))


def _kind_of_failure(end: ProcessExit) -> str:
    if end.reason == "OutOfMemory":
        return "OutOfMemory"
    name = end.exception.partition(":")[0].rpartition(".")[2]
    return CANNOT_RESHARD if name == _RESHARD_ERROR else "ProcessFailed"


def _last_lines(lines: Sequence[str]) -> str:
    """Return the end of a process's output, as further lines of a message."""
    text = "\n".join(lines)
    if len(text) > MAX_OUTPUT_CHARACTERS:
        text = text[-MAX_OUTPUT_CHARACTERS:]
        text = text.partition("\n")[2] or text  # whole lines, where there are any
    return f"\nIts last lines:\n{text}" if text else ""
