"""How many workers a gang should have: legal sizes, when to grow, wait or shrink, and spares.

Pure arithmetic over a handful of numbers; `plan.rules` asks it and `simulate` runs the same
functions over recorded failures. Symbols, as in the design: n workers of the running world, g the
workers that a change would win or lose, M the mean seconds to the job's next unavoidable
restart, W the worker-seconds that joinable capacity has stood idle since the last restart.

What is remembered (`Decaying`, `FailureHistory`, `Idle`) is a frozen value of integers and a
time, fit for the status: it is read as of any later moment, and written anew only when
something happens, so an operator restarted in between decides the same.

Left out, for on a recorded year of 400 nodes they changed nothing: probation of nodes that
return, a pause after a fault before counting nodes, hysteresis in node counts, and the failure
rate in the decision to grow; and, worth less than 0.0003 of the cluster, to take idle nodes with
the fewest past faults first.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Protocol

HALF_LIFE_SECONDS = 7 * 86_400
"""What is older than a week counts half: faults come in bursts, and hardware gets mended."""

STEADY_FAULTS_PER_NODE_SECOND = 5 / (1000 * 86_400)
"""λ0 before a job has seen anything: 5 faults per 1,000 node-days, as large clusters report."""

SPOT_FAULTS_PER_NODE_SECOND = 1 / 86_400
"""λ0 on spot and preemptible nodes: one reclaim per node-day."""

PRIOR_RESTART_SECONDS = 60.0
"""What a planned restart costs until one of this job has been measured."""

MEASURED_RESTARTS = 5
"""The planned restarts whose median counts: few, so that a new image shows soon."""

_SECOND = timedelta(seconds=1)
_MICRO = 1_000_000


# --- legal sizes -----------------------------------------------------------------------------


class Parallelism(Protocol):
    """How the training splits its model and its batch over the ranks; 1 means not at all."""

    @property
    def tensor(self) -> int:
        """Ranks that share each layer's matrices."""

    @property
    def pipeline(self) -> int:
        """Ranks that the layers are dealt to."""

    @property
    def context(self) -> int:
        """Ranks that share each sequence."""

    @property
    def expert(self) -> int:
        """Ranks, of those with different data, that the experts are dealt to."""

    @property
    def global_batch_size(self) -> int | None:
        """Samples per optimizer step over all ranks; None: any size will do."""

    @property
    def micro_batch_size(self) -> int | None:
        """Samples per forward pass of one model replica; None: any size will do."""


def data_parallel_degree(
    workers: int, processes_per_worker: int, parallelism: Parallelism | None
) -> int | None:
    """Return how many replicas of the model a world of this size holds; None if not a whole number.

    workers × processes ÷ (tensor × pipeline × context). Expert parallelism spends no ranks of
    its own: the experts are spread over replicas, so their number must divide the degree.
    """
    world = workers * processes_per_worker
    if parallelism is None:
        return world
    degree, left = divmod(world, parallelism.tensor * parallelism.pipeline * parallelism.context)
    return None if left or degree == 0 or degree % parallelism.expert else degree


def accumulation_steps(parallelism: Parallelism | None, degree: int) -> int | None:
    """Return forward passes per optimizer step that keep the global batch; None if not whole.

    globalBatchSize ÷ (microBatchSize × degree): the batch stays the same at every size, so the
    loss curve does, and a smaller gang takes more passes for a step. 1 where no batch is given.
    """
    batch = parallelism.global_batch_size if parallelism else None
    micro = parallelism.micro_batch_size if parallelism else None
    if batch is None:
        return 1
    steps, left = divmod(batch, (micro or 1) * degree)
    if left or steps == 0:
        return None
    return steps if micro is not None else 1


def legal_sizes(
    *,
    min_workers: int,
    max_workers: int,
    processes_per_worker: int,
    parallelism: Parallelism | None = None,
    worker_sizes: Sequence[int] = (),
) -> tuple[int, ...]:
    """Return the numbers of workers that the training can run with, ascending.

    Those within [min, max] at which the world is a whole number of model replicas that the
    experts can be spread over, and the global batch a whole number of passes of all of them;
    `worker_sizes`, where given, narrows them.
    """
    wanted = sorted(set(worker_sizes)) or range(min_workers, max_workers + 1)
    return tuple(
        size
        for size in wanted
        if max(min_workers, 1) <= size <= max_workers
        and (degree := data_parallel_degree(size, processes_per_worker, parallelism)) is not None
        and accumulation_steps(parallelism, degree) is not None
    )


def largest_legal(sizes: Sequence[int], available: int) -> int | None:
    """Return the largest of the ascending `sizes` that `available` workers can fill."""
    index = bisect_right(sizes, available)
    return sizes[index - 1] if index else None


def nearest_legal(sizes: Sequence[int], wanted: int) -> tuple[int, ...]:
    """Return `wanted` if legal, else its legal neighbours below and above, for a message."""
    index = bisect_left(sizes, wanted)
    if index < len(sizes) and sizes[index] == wanted:
        return (wanted,)
    return tuple(sizes[max(index - 1, 0) : index + 1])


# --- what is remembered ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decaying:
    """A sum that halves every week.

    Attributes:
        micro: the sum in millionths, as of `as_of`.
        as_of: the time that it has decayed to.
    """

    micro: int
    as_of: datetime

    def at(self, now: datetime) -> float:
        """Return the sum as of `now`."""
        return self.micro / _MICRO * _decay(self.as_of, now)

    def plus(self, amount: float, now: datetime) -> "Decaying":
        """Return the sum with `amount` added at `now`."""
        return Decaying(round((self.at(now) + amount) * _MICRO), max(now, self.as_of))

    def plus_steadily(self, per_second: float, now: datetime) -> "Decaying":
        """Return the sum with `per_second` added in each second from `as_of` until `now`.

        The integral of what each second has decayed to: per_second · h/ln 2 · (1 − 2^(−Δ/h)).
        """
        lived_seconds = HALF_LIFE_SECONDS / math.log(2) * (1 - _decay(self.as_of, now))
        return self.plus(per_second * lived_seconds, now)


def _decay(since: datetime, now: datetime) -> float:
    age_seconds = max(0.0, (now - since) / _SECOND)
    return math.exp2(-age_seconds / HALF_LIFE_SECONDS)


@dataclass(frozen=True, slots=True)
class FailureHistory:
    """What a job has suffered, for how long, and so how soon it expects the next restart.

    Attributes:
        episodes: K, its unavoidable interruptions; one per episode, however many nodes fell.
        worker_seconds: E, worker-seconds in which they could have happened.
        interruptions: N, all of them without decay.
        faults_per_node_second: λ0, what to expect before there is a history.
    """

    episodes: Decaying
    worker_seconds: Decaying
    interruptions: int = 0
    faults_per_node_second: float = STEADY_FAULTS_PER_NODE_SECOND

    @classmethod
    def begin(
        cls, now: datetime, faults_per_node_second: float = STEADY_FAULTS_PER_NODE_SECOND
    ) -> "FailureHistory":
        """Return an empty history."""
        return cls(Decaying(0, now), Decaying(0, now), 0, faults_per_node_second)

    def lived(self, workers: int, now: datetime) -> "FailureHistory":
        """Return the history with `workers` exposed since it was last written, until `now`.

        To be written when `workers` changes, before an interruption is added, and whenever the
        status is written anyway; not every second, for the rounding would add up.
        """
        return replace(self, worker_seconds=self.worker_seconds.plus_steadily(workers, now))

    def interrupted(self, now: datetime) -> "FailureHistory":
        """Return the history with one more unavoidable interruption."""
        return replace(
            self, episodes=self.episodes.plus(1, now), interruptions=self.interruptions + 1
        )

    def mean_seconds_to_restart(self, workers: int, now: datetime) -> float:
        """Return M, the mean seconds until this job's next unavoidable restart.

        M = 1/(λ n) with λ = (f + K) / (f/λ0 + E). The prior is one imaginary fault in 1/λ0
        node-seconds; f = 0.5^N fades it with each real one, for a prior that stays cost 6–13
        points of a spot job's time.
        """
        fading = 0.5**self.interruptions
        exposure = fading / self.faults_per_node_second + self.worker_seconds.at(now)
        faults = fading + self.episodes.at(now)
        if faults <= 0 or workers <= 0:
            return math.inf
        return exposure / faults / workers


@dataclass(frozen=True, slots=True)
class Idle:
    """W: worker-seconds that capacity which could join has stood idle since the last restart.

    Attributes:
        worker_milliseconds: the sum as of `as_of`.
        joinable: g, the workers that growing would add, since `as_of`.
        as_of: when `joinable` last changed.
    """

    worker_milliseconds: int
    joinable: int
    as_of: datetime

    @classmethod
    def since_restart(cls, joinable: int, now: datetime) -> "Idle":
        """Return the sum as it begins with every restart, planned or not."""
        return cls(0, joinable, now)

    def worker_seconds(self, now: datetime) -> float:
        """Return W as of `now`."""
        waited_seconds = max(0.0, (now - self.as_of) / _SECOND)
        return self.worker_milliseconds / 1000 + self.joinable * waited_seconds

    def changed(self, joinable: int, now: datetime) -> "Idle":
        """Return the sum with another number of joinable workers from `now` on."""
        if joinable == self.joinable:
            return self
        return Idle(round(self.worker_seconds(now) * 1000), joinable, now)

    def due_at(self, worker_seconds: float, now: datetime) -> datetime | None:
        """Return when W reaches `worker_seconds`, not before `now`; None if nothing joins."""
        if self.joinable <= 0:
            return None
        missing = worker_seconds - self.worker_milliseconds / 1000
        return max(now, self.as_of + timedelta(seconds=max(0.0, missing) / self.joinable))


# --- grow, wait, shrink ----------------------------------------------------------------------


def restart_price(*, workers: int, restart_seconds: float, stall_seconds: float) -> float:
    """Return worker-seconds that growing costs those who train: n·(R_g + w).

    Args:
        workers: n, of the running world.
        restart_seconds: R_g, how long a planned restart takes; see `planned_restart_seconds`.
        stall_seconds: w, how long training stands still to save before it.
    """
    return workers * (restart_seconds + stall_seconds)


def grow_due(
    *, idle_worker_seconds: float, workers: int, restart_seconds: float, stall_seconds: float
) -> bool:
    """Return whether the gang should grow now: W ≥ n·(R_g + w).

    The rule of the ski hirer: what has been wasted by waiting equals the price of not waiting,
    so whatever the future brings, the sum is at most twice the price that hindsight would have
    paid. It needs no failure rate. Growing at once pays the price for every node that comes
    back, and loses up to 6 % of the cluster where nodes fail often.
    """
    price = restart_price(
        workers=workers, restart_seconds=restart_seconds, stall_seconds=stall_seconds
    )
    return idle_worker_seconds >= price


def planned_restart_seconds(measured_seconds: Sequence[float]) -> float:
    """Return R_g, the median of the job's last five planned restarts, newest last."""
    if not measured_seconds:
        return PRIOR_RESTART_SECONDS
    return float(median(measured_seconds[-MEASURED_RESTARTS:]))


def percentile_90(measured_seconds: Sequence[float]) -> float | None:
    """Return the smallest measurement that nine in ten do not exceed; None without any."""
    ordered = sorted(measured_seconds)
    return ordered[math.ceil(len(ordered) * 0.9) - 1] if ordered else None


def wait_seconds(
    *,
    replacement_seconds: float | None,
    restart_seconds: float,
    lost_workers: int,
    workers: int,
    mean_seconds_to_restart: float,
    limit_seconds: float,
) -> float:
    """Return how long to wait for a replacement before the gang shrinks; 0: shrink at once.

    While it waits the whole gang stands still. A shrink instead loses `lost_workers` until they
    are taken in again: by a planned restart (R_g for everybody) or by the next unavoidable one
    (g·M worker-seconds, g·M/n for each). So wait t90 if t90 ≤ min(R_g, g·M/n).

    Args:
        replacement_seconds: t90, 90th percentile of measured replacements, if a healthy node that
            a worker could be bound to is free now; None: there is none, or nothing is known.
        restart_seconds: R_g, how long a planned restart takes.
        lost_workers: g, workers that a shrink to the next legal size would lose.
        workers: n, of the world before the loss.
        mean_seconds_to_restart: M, see `FailureHistory`.
        limit_seconds: never longer than spec.elastic.faultyScaleDownTimeoutSeconds.
    """
    if replacement_seconds is None:
        return 0.0
    until_next_seconds = lost_workers * mean_seconds_to_restart / max(workers, 1)
    if replacement_seconds > min(restart_seconds, until_next_seconds):
        return 0.0
    return min(replacement_seconds, limit_seconds)


# --- spares -------------------------------------------------------------------------------------


def economic_spares(
    *,
    workers: int,
    saved_seconds: float,
    mean_seconds_to_restart: float,
    one_by_one: bool,
) -> int:
    """Return how many spares pay for themselves: ⌊2 ln(n·ΔR/M)⌋, 0 when n·ΔR ≤ M.

    Args:
        workers: n, of the running world.
        saved_seconds: ΔR, by how much a swap's restart is shorter than a shrink's, both measured.
        mean_seconds_to_restart: M, see `FailureHistory`.
        one_by_one: sizes go by one worker. Where they do not, nodes left over wait to join and
            are spares for nothing.
    """
    if mean_seconds_to_restart <= 0:  # so only by hand: no time has passed without a fault
        return 0
    saved_workers = workers * saved_seconds / mean_seconds_to_restart
    return math.floor(2 * math.log(saved_workers)) if one_by_one and saved_workers > 1 else 0
