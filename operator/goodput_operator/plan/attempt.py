"""The life of an attempt: Forming → Starting → Running → Stopping → Closed.

Pure functions from one status to the next. Who calls them, and when, is in `plan.rules`.
The number only grows, and nothing here is undone: a new try is a new attempt.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from goodput.protocol import Commit
from goodput_operator.api.base import truncate
from goodput_operator.api.spec import MAX_SPARES, RecoverySpec
from goodput_operator.api.status import (
    MAX_ATTEMPT,
    MAX_REASONS,
    AttemptState,
    AttemptStatus,
    CheckpointStatus,
    ConditionType,
    Exclusion,
    LineageLink,
    RecoveryStatus,
    RestartRecord,
    SlotStatus,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import CANNOT_RESHARD, Finding, GangProgress
from goodput_operator.observe.snapshot import NodeHealth, Worker
from goodput_operator.plan.elastic import remembering, with_exposure
from goodput_operator.plan.members import MAX_SIZES_SHOWN, is_ready, ranked, swaps
from goodput_operator.plan.reasons import (
    NOT_CONFIRMED,
    OTHER_REASON,
    PLANNED,
    RESIZED,
    SUSPENDED,
    stop_revision,
)
from goodput_operator.plan.view import (
    SHORTEST_BACKOFF_SECONDS,
    View,
    next_incarnation,
    with_condition,
)

MAX_LINEAGE = 64
MAX_EXCLUSIONS = 64


def sized_slots(view: View) -> list[SlotStatus]:
    """Return the job's slots, outside any world, each with the incarnation it had.

    As many as there are workers and spares. A flexible job keeps those that it has ever had: a
    name of a pod must not come back, and which slots are held is not for their numbers to say.
    """
    known = {slot.slot: slot.incarnation for slot in view.status.slots}
    wanted = view.spec.workers + view.spares
    count = max([wanted, *(slot + 1 for slot in known if view.flexible)])
    return [SlotStatus(slot=number, incarnation=known.get(number, 0)) for number in range(count)]


def open_next(view: View) -> TrainingJobStatus:
    """Return the status with the next attempt forming, from all of the job's slots."""
    status = view.status
    number = status.attempt.number + 1 if status.attempt else 1
    return status.model_copy(
        update={
            "attempt": AttemptStatus(
                number=number, state=AttemptState.FORMING, opened_at=truncate(view.now)
            ),
            "slots": sized_slots(view),
        }
    )


def publish(view: View, members: Sequence[Worker]) -> TrainingJobStatus:
    """Return the status with the world of the forming attempt fixed: these members, in order.

    Nobody runs the attempt yet, so its number may still rise: above every attempt that has
    left anything in the checkpoint directory, whoever's it was.
    """
    master = members[0]
    ranks = {worker.slot: rank for rank, worker in enumerate(members)}
    assert master.agent is not None
    assert master.pod is not None
    status, attempt = _in_its_directory(view), view.attempt
    disks = [worker.agent.request.disk for worker in view.snapshot.workers if worker.agent]
    found = [disk.highest_attempt for disk in disks if disk.highest_attempt < MAX_ATTEMPT]
    number = max([attempt.number, *(highest + 1 for highest in found)])
    commit = _restore_point(status, [disk.newest for disk in disks if disk.newest])
    link = LineageLink(
        attempt=number,
        origin=commit.attempt if commit else 0,
        step=commit.step if commit else 0,
    )
    return status.model_copy(
        update={
            "attempt": attempt.model_copy(
                update={
                    "number": number,
                    "state": AttemptState.STARTING,
                    "published_at": truncate(view.now),
                    "run_id": f"{view.snapshot.uid}-{number}",
                    "world_size": len(members) * view.processes,
                    "master_address": master.pod.address,
                    "master_port": master.agent.request.free_port,
                    "restore_step": commit.step if commit else None,
                }
            ),
            "slots": [
                slot.model_copy(update={"rank": ranks.get(slot.slot, -1)}) for slot in status.slots
            ],
            "checkpoint": status.checkpoint.model_copy(
                update={"lineage": _extended(status.checkpoint.lineage, link)}
            ),
        }
    )


def _in_its_directory(view: View) -> TrainingJobStatus:
    """Return the status with no checkpoints known if the user has named another directory.

    That can happen while the job is suspended. What the new directory holds is welcome then, as
    a former job's is.
    """
    directory = view.spec.checkpoint.directory if view.spec.checkpoint else ""
    known = view.status.checkpoint
    if known.directory == directory or not known.lineage:
        return view.status.model_copy(
            update={"checkpoint": known.model_copy(update={"directory": directory})}
        )
    fresh = CheckpointStatus(directory=directory)
    return view.status.model_copy(update={"checkpoint": fresh})


def in_lineage(commit: Commit, lineage: list[LineageLink]) -> bool:
    """Return whether a commit belongs to this history of the job.

    Its newest attempt's own commits do, and of each earlier one those up to the step from
    which its successor went on. What a zombie commits after that lies outside.
    """
    if not lineage:
        return True  # no attempt of this job has run yet: a former job's commits are welcome
    if commit.attempt == lineage[0].attempt:
        return True
    return any(link.origin == commit.attempt and commit.step <= link.step for link in lineage)


def is_newer(commit: Commit, checkpoint: CheckpointStatus) -> bool:
    """Return whether a commit came after the newest one that is known to be durable."""
    known = checkpoint.last_durable_step
    if known is None:
        return True
    return (commit.attempt, commit.step) > (checkpoint.last_durable_attempt or 0, known)


def _restore_point(status: TrainingJobStatus, found: list[Commit]) -> Commit | None:
    lineage = status.checkpoint.lineage
    known = list(found)
    if (
        status.checkpoint.last_durable_step is not None
        and status.checkpoint.last_durable_attempt is not None
    ):
        known.append(
            Commit(status.checkpoint.last_durable_attempt, status.checkpoint.last_durable_step)
        )
    if lineage and lineage[0].origin:  # what the last attempt went on from: maybe an older one
        known.append(Commit(lineage[0].origin, lineage[0].step))
    welcome = [commit for commit in known if in_lineage(commit, lineage)]
    if not lineage:
        return max(welcome, key=lambda one: (one.attempt, one.step), default=None)
    return max(welcome, key=lambda one: (one.step, one.attempt), default=None)


def _extended(lineage: list[LineageLink], link: LineageLink) -> list[LineageLink]:
    """Put a link at the head; keep only what leads to its origin."""
    kept = [one for one in lineage if one.attempt <= link.origin]
    return [link, *kept][:MAX_LINEAGE]


def with_restored(status: TrainingJobStatus, progress: GangProgress) -> TrainingJobStatus:
    """Return the status with the lineage as the trainers really took it.

    The world named a restore point; a commit that did not verify makes them fall back. A restore
    that ended with nothing has failed, or was broken off: the history stays what it was, for
    without it the next attempt would begin from nothing.
    """
    lineage, actual = status.checkpoint.lineage, progress.restored
    if actual is None or not lineage or status.attempt is None:
        return status
    head = lineage[0]
    link = LineageLink(attempt=head.attempt, origin=actual.attempt, step=actual.step)
    if head.attempt != status.attempt.number or link == head or link.origin == head.attempt:
        return status
    return status.model_copy(
        update={
            "attempt": status.attempt.model_copy(update={"restore_step": actual.step}),
            "checkpoint": status.checkpoint.model_copy(
                update={"lineage": _extended(lineage[1:], link)}
            ),
        }
    )


def stop(
    view: View, *, reason: str, message: str, charged: bool, ended_at: datetime
) -> TrainingJobStatus:
    """Return the status with the attempt stopping, for a fault or by wish."""
    attempt = view.attempt
    begin = attempt.published_at or attempt.opened_at
    status = view.status.model_copy(
        update={
            "attempt": attempt.model_copy(
                update={
                    "state": AttemptState.STOPPING,
                    "stopping_at": truncate(view.now),
                    "ended_at": truncate(min(max(ended_at, begin), view.now)),
                    "reason": reason,
                    "message": message[:1500],
                    "charged": charged,
                }
            )
        }
    )
    status = _remembered(view, status, reason)
    if reason in PLANNED:
        return status
    return with_condition(
        status,
        ConditionType.RECOVERING,
        "True",
        reason,
        message,
        generation=view.snapshot.generation,
        now=view.now,
    )


def _remembered(view: View, status: TrainingJobStatus, reason: str) -> TrainingJobStatus:
    """Return the status of a flexible job that knows for how long its gang has trained."""
    if status.elastic is None:
        return status
    trained = len(view.gang) if view.attempt.running_at else 0
    fault = reason not in PLANNED
    status = with_exposure(status, trained, view.now, interrupted=fault)
    since = status.attempt.ended_at if fault and trained and status.attempt else None
    return remembering(status, resize_began_at=None, interrupted_at=since)


def stuck(view: View) -> bool:
    """Return whether who has not stopped by now is given up: it was told to for long enough."""
    return view.now - told_to_stop_at(view) > timedelta(seconds=view.timing.stuck_seconds)


def told_to_stop_at(view: View) -> datetime:
    """Return since when this operator has told the agents of a stopping attempt to stop."""
    return max(view.attempt.stopping_at or view.now, view.snapshot.listening_since)


def stopped(worker: Worker, attempt: int) -> bool:
    """Return whether it is certain that no process of `attempt` lives in this worker.

    By the word of its agent, which has seen the order to stop; of its pod; or of its node.
    """
    pod, agent = worker.pod, worker.agent
    if worker.rank < 0 or pod is None or pod.ended is not None or worker.node is NodeHealth.GONE:
        return True
    if agent is None or agent.request.seen_revision != stop_revision(attempt):
        return False
    return agent.request.run is None or agent.request.run.alive == 0


def close(view: View) -> TrainingJobStatus:
    """Return the status with the attempt closed, its incident counted once, its lost replaced."""
    status, attempt = view.status, view.attempt
    lost = frozenset(
        worker.slot
        for worker in view.snapshot.workers
        if worker.slot in view.diagnosis.lost_slots
        or (worker.pod is None and worker.rank >= 0)
        or (worker.pod is not None and worker.pod.dead)
        or worker.notice is not None
        or not stopped(worker, attempt.number)
    )
    closed = attempt.model_copy(update={"state": AttemptState.CLOSED})
    status = _with_bench(view, lost)
    status = status.model_copy(
        update={
            "attempt": closed,
            "slots": next_incarnation(status.slots, lost),
            "exclusions": _exclusions(view),
            "progress": status.progress.model_copy(
                update={"best_step": _best_step(status, view.diagnosis.progress)}
            ),
        }
    )
    if attempt.reason in (SUSPENDED, RESIZED):
        return status
    if attempt.reason == NOT_CONFIRMED:
        return start_failed(status, view.spec.recovery, view.now)
    return status.model_copy(update={"recovery": _counted(view, closed)})


def _with_bench(view: View, lost: frozenset[int]) -> TrainingJobStatus:
    """Return the status that knows who goes on, and which spares take the lost ones' places."""
    if not view.flexible:
        return view.status
    members = ranked(view.snapshot.workers)
    gone = [one for one in members if one.slot in lost]
    waiting = [one for one in view.snapshot.workers if one.rank < 0 and is_ready(one)]
    places = max(0, view.wanted - (len(members) - len(gone)))
    picked, bench = swaps(gone, waiting, places)
    size, unfit = len(members), view.elastic.unfit_sizes
    if view.attempt.reason == CANNOT_RESHARD and size not in unfit:
        unfit = [*unfit, size][-MAX_SIZES_SHOWN:]
    return remembering(
        view.status,
        unfit_sizes=unfit,
        benched=sorted(one.slot for one in bench)[:MAX_SPARES],
        swaps=min(len(picked), len(gone)),
    )


def start_failed(
    status: TrainingJobStatus, policy: RecoverySpec, now: datetime
) -> TrainingJobStatus:
    """Return the status with one more gang that came to nothing before it ran, and its back-off."""
    failures = status.recovery.start_failures + 1
    wait = backoff_seconds(policy, failures)
    return status.model_copy(
        update={
            "recovery": status.recovery.model_copy(
                update={
                    "start_failures": failures,
                    "not_before": truncate(now + timedelta(seconds=wait)),
                }
            )
        }
    )


def backoff_seconds(policy: RecoverySpec, failures: int) -> int:
    """Return the wait before the next try; the first is immediate, then it doubles.

    However short the policy wants it, what fails again and again is not tried without a pause.
    """
    if failures <= 1:
        return 0
    doublings = min(failures - 2, 32)  # past any cap
    wanted = min(policy.backoff_seconds * 2**doublings, policy.max_backoff_seconds)
    return int(max(wanted, SHORTEST_BACKOFF_SECONDS))


def made_progress(status: TrainingJobStatus, progress: GangProgress) -> bool:
    """Return whether this attempt finished a step that none had finished before."""
    best = status.progress.best_step
    newest = max(
        (step for step in (progress.step, progress.tracker_step) if step is not None),
        default=None,
    )
    return newest is not None and (best is None or newest > best)


def _best_step(status: TrainingJobStatus, progress: GangProgress) -> int | None:
    steps = [status.progress.best_step, progress.step, progress.tracker_step]
    return max((step for step in steps if step is not None), default=None)


def _counted(view: View, attempt: AttemptStatus) -> RecoveryStatus:
    recovery, policy = view.status.recovery, view.spec.recovery
    ended_at = attempt.ended_at or view.now
    began = view.now - timedelta(seconds=policy.window_seconds)
    restarts = [record for record in recovery.restarts if record.at > began]
    if attempt.charged:
        restarts.append(
            RestartRecord(
                attempt=attempt.number, at=truncate(ended_at), reason=attempt.reason, charged=True
            )
        )
    progressed = made_progress(view.status, view.diagnosis.progress)
    without = 0 if progressed else recovery.without_progress + 1
    charged = 0 if progressed else recovery.charged_without_progress + int(attempt.charged)
    return RecoveryStatus(
        total=recovery.total + 1,
        by_reason=tally(recovery.by_reason, attempt.reason),
        restarts=restarts[-1000:],
        without_progress=without,
        charged_without_progress=charged,
        start_failures=0,
        not_before=truncate(ended_at + timedelta(seconds=backoff_seconds(policy, without))),
    )


def tally(counts: Mapping[str, int], reason: str) -> dict[str, int]:
    """Return the counts with one more; they stay few, whatever reasons the years bring."""
    known = reason in counts or len(counts) < MAX_REASONS - 1
    name = reason if known else OTHER_REASON
    return dict(sorted({**counts, name: counts.get(name, 0) + 1}.items()))


def _exclusions(view: View) -> list[Exclusion]:
    live = [one for one in view.status.exclusions if one.until > view.now]
    until = truncate(view.now + timedelta(seconds=view.timing.exclusion_seconds))
    for worker in view.snapshot.workers:
        finding = _node_fault(view.diagnosis.findings, worker.slot)
        node = worker.pod.node if worker.pod else ""
        if finding is None or not node or any(one.node == node for one in live):
            continue
        live.append(Exclusion(node=node, until=until, reason=finding.reason))
    return live[-MAX_EXCLUSIONS:]


def _node_fault(findings: Iterable[Finding], slot: int) -> Finding | None:
    return next(
        (
            one
            for one in findings
            if one.slot == slot
            and one.certain
            and one.reason in ("NodeLost", "NodeGone", "WorkerSilent", "Evicted")
        ),
        None,
    )


def avoiding(view: View, nodes: Iterable[str], reason: str, seconds: float) -> list[Exclusion]:
    """Return the exclusions with these nodes avoided, too, unless they are already."""
    live = [one for one in view.status.exclusions if one.until > view.now]
    until = truncate(view.now + timedelta(seconds=seconds))
    new = sorted({node for node in nodes if node} - {one.node for one in live})
    live += [Exclusion(node=node, until=until, reason=reason) for node in new]
    return live[-MAX_EXCLUSIONS:]
