"""What each agent is to be told: a pure function of the persisted status.

An agent gets an order only after the status that names it has been written, so an operator
that dies between the two gives the same order again.
"""

from collections.abc import Mapping

from goodput.protocol import EXIT, HOLD, RUN, STOP, Ancestor, Commit, SyncAnswer, World
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    ConditionType,
    TrainingJobStatus,
)
from goodput_operator.observe.snapshot import JobSnapshot, Worker
from goodput_operator.plan.members import ranked
from goodput_operator.plan.reasons import RESIZED, SUSPENDED, stop_revision
from goodput_operator.plan.view import Timing, find_condition

EXIT_CODE_TERMINATED = 143
FAILED_EXIT_CODE = 1


def answers(
    status: TrainingJobStatus, snapshot: JobSnapshot, processes: int, timing: Timing
) -> Mapping[str, SyncAnswer]:
    """Return the answer that is due to each pod's agent, by pod UID.

    Args:
        status: as persisted.
        snapshot: whose pods are to be answered, already seated by `status`.
        processes: training processes of one worker.
        timing: the grace periods.
    """
    due = {
        pod.uid: SyncAnswer(
            kind=EXIT,
            revision="stray.exit",
            grace_seconds=timing.stop_grace_seconds,
            exit_code=EXIT_CODE_TERMINATED,
        )
        for pod in snapshot.strays
    }
    finished = _final_exit(status, timing)
    members = len(ranked(snapshot.workers))
    for worker in snapshot.workers:
        if worker.pod is not None:
            due[worker.pod.uid] = finished or _for_member(
                status, worker, members, processes, timing
            )
    return due


def _final_exit(status: TrainingJobStatus, timing: Timing) -> SyncAnswer | None:
    for kind, code in (
        (ConditionType.SUCCEEDED, 0),
        (ConditionType.FAILED, FAILED_EXIT_CODE),
    ):
        condition = find_condition(status, kind)
        if condition is not None and condition.status == "True":
            return SyncAnswer(
                kind=EXIT,
                revision=f"{kind}.exit",
                grace_seconds=timing.stop_grace_seconds,
                exit_code=code,
            )
    return None


def _for_member(
    status: TrainingJobStatus, worker: Worker, workers: int, processes: int, timing: Timing
) -> SyncAnswer:
    attempt = status.attempt
    durable = _durable(status)
    if attempt is None or attempt.state in (AttemptState.FORMING, AttemptState.CLOSED):
        number = attempt.number if attempt else 0
        return SyncAnswer(kind=HOLD, revision=f"{number}.hold", attempt=number, durable=durable)
    if worker.rank < 0:
        return SyncAnswer(
            kind=HOLD, revision=f"{attempt.number}.wait", attempt=attempt.number, durable=durable
        )
    if attempt.state is AttemptState.STOPPING:
        planned = attempt.reason in (SUSPENDED, RESIZED)
        return SyncAnswer(
            kind=STOP,
            revision=stop_revision(attempt.number),
            attempt=attempt.number,
            grace_seconds=timing.suspend_grace_seconds if planned else timing.stop_grace_seconds,
            durable=durable,
        )
    asked = f".save-{attempt.save_step}" if attempt.save_step is not None else ""
    return SyncAnswer(
        kind=RUN,
        revision=f"{attempt.number}.run{asked}",
        attempt=attempt.number,
        world=_world(status, attempt, worker, workers, processes),
        durable=durable,
        save_step=attempt.save_step,
    )


def _world(
    status: TrainingJobStatus,
    attempt: AttemptStatus,
    worker: Worker,
    workers: int,
    processes: int,
) -> World:
    return World(
        attempt=attempt.number,
        run_id=attempt.run_id,
        workers=workers,
        worker_rank=worker.rank,
        processes=processes,
        world_size=attempt.world_size,
        rank_offset=worker.rank * processes,
        master_address=attempt.master_address,
        master_port=attempt.master_port,
        restore_step=attempt.restore_step,
        lineage=tuple(
            Ancestor(attempt=link.attempt, origin=link.origin, step=link.step)
            for link in status.checkpoint.lineage
        ),
    )


def _durable(status: TrainingJobStatus) -> Commit | None:
    checkpoint = status.checkpoint
    if checkpoint.last_durable_step is None or checkpoint.last_durable_attempt is None:
        return None
    return Commit(attempt=checkpoint.last_durable_attempt, step=checkpoint.last_durable_step)
