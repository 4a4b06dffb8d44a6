"""What each agent is to be told: a pure function of the persisted status.

An agent gets an order only after the status that names it has been written, so an operator
that dies between the two gives the same order again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from goodput.protocol import EXIT, HOLD, RUN, STOP, Ancestor, Commit, SyncAnswer, World
from goodput_operator.api.spec import ParallelismSpec
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    ConditionType,
    TrainingJobStatus,
)
from goodput_operator.observe.snapshot import JobSnapshot, Worker
from goodput_operator.plan.members import ranked
from goodput_operator.plan.reasons import RESIZED, SUSPENDED, stop_revision
from goodput_operator.plan.sizing import accumulation_steps, data_parallel_degree
from goodput_operator.plan.view import Timing, find_condition

EXIT_CODE_TERMINATED = 143
FAILED_EXIT_CODE = 1


def answers(
    status: TrainingJobStatus,
    snapshot: JobSnapshot,
    processes: int,
    timing: Timing,
    parallelism: ParallelismSpec | None = None,
) -> Mapping[str, SyncAnswer]:
    """Return the answer that is due to each pod's agent, by pod UID.

    Args:
        status: as persisted.
        snapshot: whose pods are to be answered, already seated by `status`.
        processes: training processes of one worker.
        timing: the grace periods.
        parallelism: how the training is split, for the batch at this size.
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
    split = _split(parallelism, len(ranked(snapshot.workers)), processes)
    for worker in snapshot.workers:
        if worker.pod is not None:
            due[worker.pod.uid] = finished or _for_member(status, worker, split, timing)
    return due


def farewell(timing: Timing) -> SyncAnswer:
    """Return what a pod's agent is told whose job is gone."""
    return SyncAnswer(
        kind=EXIT,
        revision="job.gone",
        grace_seconds=timing.suspend_grace_seconds,
        exit_code=EXIT_CODE_TERMINATED,
    )


@dataclass(frozen=True, slots=True)
class Split:
    """What is the same for all members of a world: its size, and how the training is split."""

    workers: int
    processes: int
    global_batch_size: int | None = None
    accumulation_steps: int | None = None
    data_parallel_degree: int | None = None
    ranks_alike: int = 1


def _split(parallelism: ParallelismSpec | None, workers: int, processes: int) -> Split:
    if parallelism is None or not workers:
        return Split(workers, processes)
    degree = data_parallel_degree(workers, processes, parallelism)
    batch = parallelism.global_batch_size
    return Split(
        workers,
        processes,
        global_batch_size=batch,
        accumulation_steps=accumulation_steps(parallelism, degree) if degree and batch else None,
        data_parallel_degree=degree,
        ranks_alike=parallelism.tensor * parallelism.context,
    )


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
    status: TrainingJobStatus, worker: Worker, split: Split, timing: Timing
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
        world=_world(status, attempt, worker, split),
        durable=durable,
        save_step=attempt.save_step,
    )


def _world(
    status: TrainingJobStatus,
    attempt: AttemptStatus,
    worker: Worker,
    split: Split,
) -> World:
    return World(
        attempt=attempt.number,
        run_id=attempt.run_id,
        workers=split.workers,
        worker_rank=worker.rank,
        processes=split.processes,
        world_size=attempt.world_size,
        rank_offset=worker.rank * split.processes,
        master_address=attempt.master_address,
        master_port=attempt.master_port,
        restore_step=attempt.restore_step,
        lineage=tuple(
            Ancestor(attempt=link.attempt, origin=link.origin, step=link.step)
            for link in status.checkpoint.lineage
        ),
        global_batch_size=split.global_batch_size,
        accumulation_steps=split.accumulation_steps,
        data_parallel_degree=split.data_parallel_degree,
        ranks_alike=split.ranks_alike,
    )


def _durable(status: TrainingJobStatus) -> Commit | None:
    checkpoint = status.checkpoint
    if checkpoint.last_durable_step is None or checkpoint.last_durable_attempt is None:
        return None
    return Commit(attempt=checkpoint.last_durable_attempt, step=checkpoint.last_durable_step)
