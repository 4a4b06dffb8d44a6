"""What a rule looks at, and what it answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from goodput_operator import names
from goodput_operator.api.base import truncate
from goodput_operator.api.spec import (
    MAX_SPARES,
    MAX_WORKERS,
    SNOOZE_SECONDS,
    TrainingJobSpec,
)
from goodput_operator.api.status import (
    AttemptStatus,
    Condition,
    ConditionType,
    ElasticStatus,
    Exclusion,
    SlotStatus,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import (
    BLIND_SILENCE_LIMIT_SECONDS,
    SILENCE_LIMIT_SECONDS,
    Diagnosis,
    examine,
)
from goodput_operator.gang.placement import NoRoom, Placement
from goodput_operator.observe.snapshot import JobSnapshot, Worker, reseat
from goodput_operator.plan.members import fit_sizes, ranked, wanted_size
from goodput_operator.plan.reasons import LIVE, PUBLISHED

SHORTEST_BACKOFF_SECONDS = 1
"""Between two failures, whatever the policy says: none would be a loop of API writes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The times that the plan goes by, in seconds.

    Attributes:
        confirm_seconds: a published world that not all have confirmed by then is formed again.
        stop_grace_seconds: between SIGTERM and SIGKILL when an attempt has failed anyway.
        suspend_grace_seconds: the same for a stop that the user asked for.
        stuck_seconds: a member that has not stopped by then is given up, its pod replaced.
        exclusion_seconds: a job's new workers avoid a node that lost one, for so long.
        unschedulable_seconds: the same for a node that the scheduler refused.
        flush_seconds: the ledger is written at least this often while a job lives.
        flush_durable_seconds: the same when a new durable commit waits to be acknowledged.
        flush_visible_seconds: the same when only what people read has changed.
        flush_suspended_seconds: the same while nothing happens at all.
        cleanup_seconds: a finished job's pods have this long to end by themselves.
    """

    confirm_seconds: float = 30
    stop_grace_seconds: float = 2
    suspend_grace_seconds: float = 20
    stuck_seconds: float = 30
    exclusion_seconds: float = 600
    unschedulable_seconds: float = 60
    flush_seconds: float = 60
    flush_durable_seconds: float = 15
    flush_visible_seconds: float = 10
    flush_suspended_seconds: float = 600
    cleanup_seconds: float = 10


PlaceFunction = Callable[
    [Sequence[int], Mapping[int, str], Sequence[Exclusion], int], Placement | NoRoom
]
"""(slots to place, nodes of the bound, nodes to avoid, priority) → room for all, or none."""


@dataclass(frozen=True, slots=True)
class View:
    """A job at one moment. Rules read it; a rule's answer makes the next one."""

    spec: TrainingJobSpec
    status: TrainingJobStatus
    snapshot: JobSnapshot
    diagnosis: Diagnosis
    now: datetime
    place: PlaceFunction
    pinned: bool
    accelerators: int
    processes: int
    timing: Timing
    template_problems: Sequence[str] = ()
    sizes: Sequence[int] = ()
    room: Mapping[int, str | None] = field(default_factory=dict)

    @property
    def attempt(self) -> AttemptStatus:
        """The newest attempt; only where the rules have made sure that there is one."""
        assert self.status.attempt is not None
        return self.status.attempt

    @property
    def elastic(self) -> ElasticStatus:
        """What is remembered for the size of the gang; only of an elastic job."""
        return self.status.elastic or ElasticStatus()

    @property
    def flexible(self) -> bool:
        """Whether the job has, or has had, slots without a place in the world."""
        return (
            self.spec.elastic is not None
            or self.spec.spares != 0
            or self.status.elastic is not None
        )

    @property
    def wanted(self) -> int:
        """The size that the gang should have."""
        if not self.flexible:
            return len(self.snapshot.workers)
        return wanted_size(self.spec, self.sizes)

    @property
    def spares(self) -> int:
        """How many workers are to stand ready beside a gang of the wanted size."""
        asked = self.spec.spares
        wanted = asked if isinstance(asked, int) else min(self.elastic.economic_spares, MAX_SPARES)
        return max(0, min(wanted, MAX_WORKERS - self.spec.workers))

    @property
    def snooze(self) -> timedelta:
        """How long growth is left alone after it has failed."""
        elastic = self.spec.elastic
        seconds = elastic.scale_up_snooze_time_seconds if elastic else SNOOZE_SECONDS
        return timedelta(seconds=seconds)

    @property
    def patient_until(self) -> datetime:
        """Until when an operator that has just begun to listen waits for the agents' first words.

        For so long as silence may last from the first of them on; but while nobody at all is heard
        of, which may well be our own fault, for a minute.
        """
        since = self.snapshot.listening_since
        spoke_at = [one.agent.first_seen_at for one in self.snapshot.workers if one.agent]
        blind = since + timedelta(seconds=BLIND_SILENCE_LIMIT_SECONDS)
        if not spoke_at:
            return blind
        return min(blind, max(since, min(spoke_at)) + timedelta(seconds=SILENCE_LIMIT_SECONDS))

    def awaits(self, workers: Iterable[Worker]) -> bool:
        """Return whether some of these may have spoken to a former operator, and not yet to us."""
        since = self.snapshot.listening_since
        if self.now >= since + timedelta(seconds=BLIND_SILENCE_LIMIT_SECONDS):
            return False  # so it is nearly always, and a gang of a thousand is not looked through
        return self.now < self.patient_until and any(
            one.agent is None and one.pod is not None and one.pod.created_at < since
            for one in workers
            if not (one.succeeded or (one.pod is not None and one.pod.ended))
        )

    @property
    def unheard(self) -> bool:
        """Whether there is a gang that is to train, and we have yet to hear of some of it."""
        attempt = self.status.attempt
        return attempt is not None and attempt.state in LIVE and self.awaits(self.gang)

    @property
    def survivors(self) -> tuple[Worker, ...]:
        """Those of the gang whose pods are older than the attempt."""
        began = self.attempt.opened_at.replace(microsecond=0)  # as precise as a pod's creation
        return tuple(one for one in self.gang if one.pod and one.pod.created_at < began)

    @property
    def gang(self) -> tuple[Worker, ...]:
        """Who the attempt is about: its world once there is one, before that whoever may join.

        Of a flexible job that is who has a pod or is about to get one, else all slots.
        """
        workers, attempt = self.snapshot.workers, self.status.attempt
        if not self.flexible:
            return workers
        if attempt is not None and attempt.state in PUBLISHED:
            return ranked(workers) or workers
        return tuple(one for one in workers if one.pod is not None or one.slot in self.room)

    def condition(self, kind: ConditionType) -> Condition | None:
        """Return the condition of this type, if it is set."""
        return find_condition(self.status, kind)

    def holds(self, kind: ConditionType) -> bool:
        """Return whether the condition of this type is True."""
        return is_true(self.status, kind)

    @property
    def backing_off_until(self) -> datetime | None:
        """When the next gang may start, None when it may now.

        No back-off is longer than the policy's cap: a later time was written before the clock
        was put back.
        """
        until = self.status.recovery.not_before
        cap_seconds = max(self.spec.recovery.max_backoff_seconds, SHORTEST_BACKOFF_SECONDS)
        longest = timedelta(seconds=cap_seconds)
        return until if until is not None and self.now < until <= self.now + longest else None

    def becomes(self, status: TrainingJobStatus) -> "View":
        """Return the view in which `status` is the intent; a refusal is answered once."""
        snapshot = replace(reseat(self.snapshot, status.slots), refusal="")
        return replace(
            self,
            status=status,
            snapshot=snapshot,
            sizes=fit_sizes(self.sizes, status.elastic),
            diagnosis=examine(snapshot, status.attempt, self.now),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A rule's answer.

    Attributes:
        status: the intent from now on; the unchanged one when there is nothing to do but wait.
        reason: CamelCase, the decision's name.
        message: the decision in words.
        recheck_at: when time alone could change the answer.
        room: where missing workers are to be created, when the rule admits them.
    """

    status: TrainingJobStatus
    reason: str
    message: str = ""
    recheck_at: datetime | None = None
    room: Mapping[int, str | None] | None = None


def find_condition(status: TrainingJobStatus, kind: ConditionType) -> Condition | None:
    """Return the condition of this type, if it is set."""
    return next((one for one in status.conditions if one.type == kind), None)


def is_true(status: TrainingJobStatus, kind: ConditionType) -> bool:
    """Return whether the condition of this type is True."""
    found = find_condition(status, kind)
    return found is not None and found.status == "True"


def is_finished(status: TrainingJobStatus) -> bool:
    """Return whether the job has succeeded or failed."""
    return is_true(status, ConditionType.SUCCEEDED) or is_true(status, ConditionType.FAILED)


def with_condition(
    status: TrainingJobStatus,
    kind: ConditionType,
    value: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    *,
    generation: int,
    now: datetime,
) -> TrainingJobStatus:
    """Return the status with this condition set; its time moves only when its value does."""
    before = find_condition(status, kind)
    since = before.last_transition_time if before and before.status == value else truncate(now)
    condition = Condition(
        type=kind,
        status=value,
        observed_generation=generation,
        last_transition_time=since,
        reason=reason,
        message=message[:2000],
    )
    if before is None:
        return status.model_copy(update={"conditions": [*status.conditions, condition]})
    return status.model_copy(
        update={"conditions": [condition if one.type == kind else one for one in status.conditions]}
    )


def leave_by(finished_at: datetime, snapshot: JobSnapshot, timing: Timing) -> datetime:
    """Return when a finished job's pods have had their time to end by themselves, with their logs.

    An operator that dies before it has told them leaves that to the next one.
    """
    told_at = max(finished_at, snapshot.listening_since)
    return told_at + timedelta(seconds=timing.cleanup_seconds)


def next_incarnation(slots: Sequence[SlotStatus], which: frozenset[int]) -> list[SlotStatus]:
    """Return the slots with those of `which` moved on to a new pod, outside any world.

    After the last incarnation that a name has room for comes the first: its pod is long gone.
    """
    return [
        SlotStatus(slot=slot.slot, incarnation=(slot.incarnation + 1) % (names.MAX_INCARNATION + 1))
        if slot.slot in which
        else slot
        for slot in slots
    ]
