"""Who belongs to the gang, and at which sizes it may train. Pure.

A job has *slots*, each with at most one pod. The *world* of an attempt is those of them that
have a rank, from 0 on without a gap, in the order of the slots. Where the size is fixed and no
spares are wanted these are all slots. Else the others are vacancies, without a pod, or *joiners*:
their agents are connected, or will be, and wait for the next attempt: to make the gang larger, or
as *spares*, beyond the wanted size, to take the place of a lost member. What is said of all workers
(ready, confirmed, stopped, lost, succeeded) is said of the world once there is one.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from goodput_operator.api.spec import ParallelismSpec, TrainingJobSpec
from goodput_operator.api.status import ElasticStatus
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.sizing import largest_legal, legal_sizes, nearest_legal

MAX_SIZES_SHOWN = 64


def sizes_of(spec: TrainingJobSpec, processes: int) -> tuple[int, ...]:
    """Return the sizes that the gang may have, ascending; of a fixed gang only its own.

    Args:
        spec: the job's.
        processes: training processes of one worker.
    """
    elastic = spec.elastic
    if elastic is None:
        return _legal_sizes(spec.workers, spec.workers, processes, spec.parallelism, ())
    few, many, only = elastic.min_workers, elastic.max_workers, tuple(elastic.worker_sizes)
    return _legal_sizes(few, many, processes, spec.parallelism, only)


@lru_cache(maxsize=256)  # asked in every pass, and there may be thousands
def _legal_sizes(
    few: int,
    many: int,
    processes: int,
    parallelism: ParallelismSpec | None,
    only: tuple[int, ...],
) -> tuple[int, ...]:
    return legal_sizes(
        min_workers=few,
        max_workers=many,
        processes_per_worker=processes,
        parallelism=parallelism,
        worker_sizes=only,
    )


def fit_sizes(sizes: Sequence[int], elastic: ElasticStatus | None) -> Sequence[int]:
    """Return the sizes at which the training could load its checkpoint, as far as is known."""
    unfit = elastic.unfit_sizes if elastic else ()
    return tuple(size for size in sizes if size not in unfit) or sizes


def wanted_size(spec: TrainingJobSpec, sizes: Sequence[int]) -> int:
    """Return the size that the gang should have: what is asked for, or the next legal below."""
    return largest_legal(sizes, spec.workers) or spec.workers


def size_problems(spec: TrainingJobSpec, sizes: Sequence[int]) -> tuple[str, ...]:
    """Return why no gang of this job could train; mostly the API server has refused it before."""
    if largest_legal(sizes, spec.workers) is not None:
        return ()
    near = ", ".join(str(size) for size in nearest_legal(sizes, spec.workers))
    remedy = f"the nearest that can: {near}" if near else "no size within the limits can"
    problem = (
        f"spec.workers={spec.workers}: spec.parallelism cannot be laid over so many workers of "
        f"{spec.processes_per_worker or 1} processes, nor over fewer; {remedy}"
    )
    return (problem,)


def is_ready(worker: Worker) -> bool:
    """Return whether this worker's agent is there, idle, and has left all earlier attempts."""
    agent, pod = worker.agent, worker.pod
    if agent is None or pod is None or pod.dead or not pod.node or not pod.address:
        return False
    if worker.notice is not None:  # it would not stay
        return False
    if worker.silent_seconds > SILENCE_LIMIT_SECONDS or not 0 < agent.request.free_port < 65_536:
        return False
    run = agent.request.run
    return run is None or run.alive == 0


def ranked(workers: Iterable[Worker]) -> tuple[Worker, ...]:
    """Return the members of the published world, in rank order."""
    return tuple(sorted((one for one in workers if one.rank >= 0), key=lambda one: one.rank))


def chosen(ready: Iterable[Worker], size: int, benched: Collection[int] = ()) -> tuple[Worker, ...]:
    """Return who of the ready workers trains next, in slot order: the longest there.

    Those hold the state, in memory and in caches; whoever came last is surplus. Before them all
    are those who are not `benched`, as spares were that nobody needed.
    """
    order = sorted(by_age(ready), key=lambda one: one.slot in benched)  # stable: then by age
    return tuple(sorted(order[:size], key=lambda one: one.slot))


def swaps(
    lost: Sequence[Worker], spares: Iterable[Worker], places: int
) -> tuple[tuple[Worker, ...], tuple[Worker, ...]]:
    """Return which spares take the lost workers' places, and which stay on the bench.

    One of the lost one's rack first: whoever talked to it talked within the rack. Else the one
    that has stood there longest.

    Args:
        lost: members of the world that is over.
        spares: who is ready and was not in it.
        places: how many the next world has for them.
    """
    bench, picked = by_age(spares), []
    for domain in [*(one.domain for one in lost), *([""] * places)][:places]:
        found = next((one for one in bench if domain and one.domain == domain), None)
        if found is None and bench:
            found = bench[0]
        if found is not None:
            bench.remove(found)
            picked.append(found)
    return tuple(picked), tuple(bench)


def by_age(workers: Iterable[Worker]) -> list[Worker]:
    """Return those of the workers that have a pod, the one with the oldest first."""
    aged = [(one.pod.created_at, one.slot, one) for one in workers if one.pod is not None]
    return [one for _, _, one in sorted(aged, key=lambda item: item[:2])]
