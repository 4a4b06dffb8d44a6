"""TrainingJobs, pods and events as they were read: typed, and whatever was in them. Pure.

A status may be of an older or a newer operator, or edited by hand. What is missing or of
another kind is None, zero or empty; nothing here raises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from goodput_operator import names
from goodput_operator.cli.words import CAUSES, PRODUCTIVE

Json = Mapping[str, Any]

MOST_LINEAGE = 64
"""So many links of the lineage a status has room for; with fewer, it has them all."""
ANNOTATION_TOTAL_STEPS = f"{names.GROUP}/total-steps"
"""On a TrainingJob: the number of the last step that it will train, for its ETA."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition by the Kubernetes conventions."""

    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    since: datetime | None = None


UNSET = Condition()


@dataclass(frozen=True, slots=True)
class Attempt:
    """The newest attempt; its times are those of `status.attempt`."""

    number: int
    state: str
    opened_at: datetime | None
    published_at: datetime | None
    running_at: datetime | None
    first_step_at: datetime | None
    ended_at: datetime | None
    world_size: int
    restore_step: int | None
    reason: str
    message: str
    save_by: datetime | None


@dataclass(frozen=True, slots=True)
class Incident:
    """One interruption, as in `status.incidents`."""

    attempt: int
    reason: str
    planned: bool
    charged: bool
    slot: int | None
    rank: int | None
    pod: str
    node: str
    message: str
    decision: str
    why: str
    fault_at: datetime | None
    decided_at: datetime | None
    scheduled_at: datetime | None
    published_at: datetime | None
    running_at: datetime | None
    first_step_at: datetime | None
    caught_up_at: datetime | None
    step: int | None
    restore_step: int | None
    steps_lost: int | None
    price: Mapping[str, int]
    """Accelerator-milliseconds by bucket."""

    @property
    def cost(self) -> int:
        """Its whole price in accelerator-milliseconds."""
        return sum(self.price.values())


@dataclass(frozen=True, slots=True)
class Ledger:
    """Accelerator-milliseconds by bucket, in the ledger's order, and what is not settled yet."""

    buckets: Mapping[str, int] = field(default_factory=dict)
    unsettled: int = 0
    accelerators: int = 0
    accounted_until: datetime | None = None

    @property
    def settled(self) -> int:
        """All that has fallen into a bucket."""
        return sum(self.buckets.values())

    @property
    def productive(self) -> int:
        """What has become of it that a checkpoint keeps."""
        return self.buckets.get(PRODUCTIVE, 0)

    @property
    def lost(self) -> int:
        """All that was not productive, for whatever cause."""
        return self.settled - self.productive

    @property
    def losses(self) -> list[tuple[str, int]]:
        """The causes of loss with what each has cost, the dearest first."""
        found = [(name, cost) for name, cost in self.buckets.items() if name != PRODUCTIVE and cost]
        return sorted(found, key=lambda one: -one[1])


@dataclass(frozen=True, slots=True)
class Work:
    """What a step is, as far as the spec says it.

    Attributes:
        tokens: in a step.
        samples: in a step.
        flops_per_token: floating-point operations of the model.
        peak_teraflops: of one accelerator.
    """

    tokens: int | None
    samples: int | None
    flops_per_token: int | None
    peak_teraflops: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """A TrainingJob."""

    namespace: str
    name: str
    uid: str
    created_at: datetime | None
    deleting: bool
    ours: bool
    managed_by: str
    visited: bool
    suspend: bool
    elastic: bool
    max_restarts: int
    directory: str
    total_steps: int | None
    work: Work
    pod_spec: Json
    """Of the template, as it is."""
    phase: str
    reason: str
    conditions: Mapping[str, Condition]
    wanted: int
    bound: int
    connected: int
    training: int
    attempt: Attempt | None
    step: int | None
    step_milliseconds: int | None
    step_at: datetime | None
    best_step: int | None
    durable_step: int | None
    durable_at: datetime | None
    verified: bool
    origin_step: int | None
    """The step that its first attempt went on from; 0 for a start from nothing."""
    restarts: int
    not_before: datetime | None
    excluded: tuple[str, ...]
    ledger: Ledger
    incidents: tuple[Incident, ...]
    queued_since: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    def condition(self, kind: str) -> Condition:
        """Return a condition; an unknown one when the job has none of that type."""
        return self.conditions.get(kind, UNSET)

    def holds(self, kind: str) -> bool:
        """Return whether a condition is True."""
        return self.condition(kind).status == "True"


@dataclass(frozen=True, slots=True)
class Pod:
    """A worker's pod: where it is, and what keeps it from running."""

    name: str
    phase: str
    node: str
    trouble: str


@dataclass(frozen=True, slots=True)
class Event:
    """An Event that tells of a job; `about` is the job's UID."""

    about: str
    at: datetime | None
    warning: bool
    reason: str
    note: str


def read_job(raw: Json) -> Job:
    """Return what a raw TrainingJob says of itself."""
    metadata, spec, status = _part(raw, "metadata"), _part(raw, "spec"), _part(raw, "status")
    workers, progress = _part(status, "workers"), _part(status, "progress")
    checkpoint, recovery = _part(status, "checkpoint"), _part(status, "recovery")
    managed_by = _text(spec, "managedBy") or names.MANAGED_BY
    incidents = (_incident(one) for one in _parts(status, "incidents"))
    return Job(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        created_at=_time(metadata, "creationTimestamp"),
        deleting=bool(metadata.get("deletionTimestamp")),
        ours=managed_by == names.MANAGED_BY,
        managed_by=managed_by,
        visited=bool(status),
        suspend=spec.get("suspend") is True,
        elastic=isinstance(spec.get("elastic"), Mapping),
        max_restarts=_count(_part(spec, "recovery"), "maxRestarts"),
        directory=_text(_part(spec, "checkpoint"), "directory"),
        total_steps=_total_steps(_part(metadata, "annotations")),
        pod_spec=_part(_part(spec, "template"), "spec"),
        work=_work(_part(spec, "work"), _part(spec, "parallelism")),
        phase=_text(status, "phase"),
        reason=_text(status, "reason"),
        conditions={_text(one, "type"): _condition(one) for one in _parts(status, "conditions")},
        wanted=_count(workers, "wanted") or _count(spec, "workers"),
        bound=_count(workers, "bound"),
        connected=_count(workers, "connected"),
        training=_count(workers, "training"),
        attempt=_attempt(_part(status, "attempt")),
        step=_number(progress, "step"),
        step_milliseconds=_number(progress, "stepMilliseconds"),
        step_at=_time(progress, "observedAt"),
        best_step=_number(progress, "bestStep"),
        durable_step=_number(checkpoint, "lastDurableStep"),
        durable_at=_time(checkpoint, "time"),
        verified=checkpoint.get("verified") is True,
        origin_step=_origin_step(_parts(checkpoint, "lineage")),
        restarts=_count(recovery, "total"),
        not_before=_time(recovery, "notBefore"),
        excluded=tuple(_text(one, "node") for one in _parts(status, "exclusions")),
        ledger=_ledger(_part(status, "ledger")),
        incidents=tuple(incidents),
        queued_since=_time(status, "queuedSince"),
        started_at=_time(status, "startedAt"),
        finished_at=_time(status, "finishedAt"),
    )


def read_pod(raw: Json) -> Pod:
    """Return what a raw pod says of what keeps it from running."""
    status = _part(raw, "status")
    return Pod(
        name=_text(_part(raw, "metadata"), "name"),
        phase=_text(status, "phase"),
        node=_text(_part(raw, "spec"), "nodeName"),
        trouble=_trouble(status),
    )


def _trouble(status: Json) -> str:
    for condition in _parts(status, "conditions"):
        if _text(condition, "type") == "PodScheduled" and _text(condition, "status") == "False":
            return f"has no node: {_text(condition, 'message') or _text(condition, 'reason')}"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in _parts(status, kind):
            waiting = _part(_part(container, "state"), "waiting")
            reason = _text(waiting, "reason")
            if reason and reason not in ("PodInitializing", "ContainerCreating"):
                return f"container {_text(container, 'name')}: {_joined(waiting)}"
    if _text(status, "phase") == "Failed":
        return _joined(status) or "has failed"
    return ""


def _joined(part: Json) -> str:
    both = (_text(part, "reason"), _text(part, "message"))
    return ": ".join(text for text in both if text)


def read_event(raw: Json) -> Event:
    """Return what a raw Event of v1 tells."""
    at = _time(_part(raw, "series"), "lastObservedTime") or _time(raw, "lastTimestamp")
    return Event(
        about=_text(_part(raw, "involvedObject"), "uid"),
        at=at or _time(raw, "eventTime"),
        warning=_text(raw, "type") == "Warning",
        reason=_text(raw, "reason"),
        note=_text(raw, "message"),
    )


def _condition(raw: Json) -> Condition:
    return Condition(
        status=_text(raw, "status") or "Unknown",
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        since=_time(raw, "lastTransitionTime"),
    )


def _attempt(raw: Json) -> Attempt | None:
    if not raw:
        return None
    return Attempt(
        number=_count(raw, "number"),
        state=_text(raw, "state"),
        opened_at=_time(raw, "openedAt"),
        published_at=_time(raw, "publishedAt"),
        running_at=_time(raw, "runningAt"),
        first_step_at=_time(raw, "firstStepAt"),
        ended_at=_time(raw, "endedAt"),
        world_size=_count(raw, "worldSize"),
        restore_step=_number(raw, "restoreStep"),
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        save_by=_time(raw, "saveBy"),
    )


def _incident(raw: Json) -> Incident:
    return Incident(
        attempt=_count(raw, "attempt"),
        reason=_text(raw, "reason"),
        planned=raw.get("planned") is True,
        charged=raw.get("charged") is True,
        slot=_number(raw, "slot"),
        rank=_number(raw, "rank"),
        pod=_text(raw, "pod"),
        node=_text(raw, "node"),
        message=_text(raw, "message"),
        decision=_text(raw, "decision"),
        why=_text(raw, "why"),
        fault_at=_time(raw, "faultAt"),
        decided_at=_time(raw, "decidedAt"),
        scheduled_at=_time(raw, "scheduledAt"),
        published_at=_time(raw, "publishedAt"),
        running_at=_time(raw, "runningAt"),
        first_step_at=_time(raw, "firstStepAt"),
        caught_up_at=_time(raw, "caughtUpAt"),
        step=_number(raw, "step"),
        restore_step=_number(raw, "restoreStep"),
        steps_lost=_number(raw, "stepsLost"),
        price=_amounts(_part(raw, "acceleratorMilliseconds")),
    )


def _ledger(raw: Json) -> Ledger:
    return Ledger(
        buckets=_amounts(_part(raw, "acceleratorMilliseconds")),
        unsettled=_count(raw, "unsettledMilliseconds"),
        accelerators=_count(raw, "accelerators"),
        accounted_until=_time(raw, "accountedUntil"),
    )


def _amounts(raw: Json) -> dict[str, int]:
    """Return the known buckets in their order, then those of a newer operator."""
    ordered = [*CAUSES, *sorted(name for name in raw if name not in CAUSES)]
    return {name: cost for name in ordered if (cost := _count(raw, name))}


def _work(work: Json, parallelism: Json) -> Work:
    return Work(
        tokens=_count(work, "tokensPerStep") or None,
        samples=_count(parallelism, "globalBatchSize") or None,
        flops_per_token=_count(work, "flopsPerToken") or None,
        peak_teraflops=_count(work, "acceleratorPeakTeraflops") or None,
    )


def _origin_step(lineage: Sequence[Json]) -> int | None:
    return _number(lineage[-1], "step") if 0 < len(lineage) < MOST_LINEAGE else None


def _total_steps(annotations: Json) -> int | None:
    text = _text(annotations, ANNOTATION_TOTAL_STEPS).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _part(raw: Json, name: str) -> Json:
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def _parts(raw: Json, name: str) -> Sequence[Json]:
    value = raw.get(name)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(raw: Json, name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def _number(raw: Json, name: str) -> int | None:
    value = raw.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(raw: Json, name: str) -> int:
    return max(0, _number(raw, name) or 0)


def _time(raw: Json, name: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(raw, name))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the year 0 or 10000, by its zone
        return None
