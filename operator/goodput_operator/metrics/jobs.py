"""Each job's numbers for Prometheus, straight from its status.

What a job has lost and gained is counted in its status, which outlives us; so these counters
are neither reset by a restart of the operator, by another leader or by a new attempt, nor
counted twice by two replicas: only the leader shows them. They vanish with the job.

A job costs at most `MAX_SERIES` series, whatever its status holds. Its lines are written when
it changes, which is at most once a minute while nothing happens to it, and never at a scrape.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from goodput_operator import names
from goodput_operator.api.spec import AUTO, Launcher, RecoverySpec
from goodput_operator.api.status import MAX_REASONS, Bucket, ConditionType
from goodput_operator.observe.agents import JobKey
from goodput_operator.observe.resources import is_accelerator, mapping, mappings

logger = logging.getLogger(__name__)

MAX_SERIES = 40
"""What one job may cost, and a test holds it to."""
MAX_LABEL_LENGTH = 253
WORKER_STATES = ("wanted", "bound", "training")
CONDITIONS = (ConditionType.PROGRESSING, ConditionType.CHECKPOINT_FRESH)
"""What neither the phase nor the numbers of workers say."""

Job = Mapping[str, Any]
"""A raw TrainingJob."""
Sample = tuple[Mapping[str, str], int | str]
"""Labels, and the value as an integer or in decimal."""


@dataclass(frozen=True, slots=True)
class JobLabels:
    """Which labels of a TrainingJob say whose it is; an empty name: none does.

    Attributes:
        queue: the label's key that `goodput_job_info` shows as `queue`.
        team: the one that it shows as `team`.
    """

    queue: str = ""
    team: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the readers of a job's families see."""

    job: Job
    status: Mapping[str, Any]
    labels: JobLabels
    now: datetime


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of a job.

    Attributes:
        labels: further ones, beside `namespace` and `job`.
        read: its samples, from the status.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[Reading], Iterable[Sample]]

    def head(self) -> bytes:
        """Return the two lines that come before its samples."""
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n".encode()

    def lines(self, reading: Reading, own_labels: str) -> bytes:
        """Return the samples of one job."""
        return "".join(
            f"{self.name}{{{own_labels}{_labels(labels)}}} {value}\n"
            for labels, value in self.read(reading)
        ).encode()


class JobPages:
    """The lines of every job, family by family."""

    def __init__(self, labels: JobLabels, now: Callable[[], datetime]) -> None:
        self._labels = labels
        self._now = now
        self._written: dict[JobKey, tuple[bytes, ...]] = {}

    def write(self, key: JobKey, job: Job | None) -> None:
        """Write a job anew that has changed, or forget it when it is gone (None).

        Of a job that somebody else manages, or whose status is none of ours, nothing is shown:
        one job must not cost the page of all the others.
        """
        self._written.pop(key, None)
        if job is None:
            return
        try:
            lines = self._lines(job)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
            logger.warning("%s/%s: its status has no numbers that could be shown", *key)
            return
        if lines:
            self._written[key] = lines

    def render(self) -> bytes:
        """Return all jobs' part of the page."""
        jobs = tuple(self._written.values())
        return b"".join(
            part
            for place, family in enumerate(FAMILIES)
            for part in (family.head(), *(lines[place] for lines in jobs))
        )

    def _lines(self, job: Job) -> tuple[bytes, ...]:
        status = job.get("status")
        if not status or job["spec"].get("managedBy", names.MANAGED_BY) != names.MANAGED_BY:
            return ()
        metadata = job["metadata"]
        own = f'namespace="{_escape(metadata["namespace"])}",job="{_escape(metadata["name"])}"'
        reading = Reading(job, status, self._labels, self._now())
        return tuple(family.lines(reading, own) for family in FAMILIES)


def _labels(labels: Mapping[str, str]) -> str:
    return "".join(f',{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    """As the text format 0.0.4 wants label values."""
    cut = value[:MAX_LABEL_LENGTH]
    escaped = cut.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return escaped.encode("utf-8", "replace").decode()


def _seconds(milliseconds: int) -> str:
    """In decimal, so that the page shows exactly what the status counts."""
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def _one(value: int | str | None) -> Iterable[Sample]:
    return () if value is None else (({}, value),)


def _time(text: str | None) -> Iterable[Sample]:
    return _one(None if text is None else f"{datetime.fromisoformat(text).timestamp():.3f}")


def _field(*path: str) -> Callable[[Reading], Iterable[Sample]]:
    """Return a reader of one number of the status; no sample while there is none."""

    def read(reading: Reading) -> Iterable[Sample]:
        value: Any = reading.status
        for name in path:
            value = (value or {}).get(name)
        return _one(value if value is None else int(value))

    return read


def _info(reading: Reading) -> Iterable[Sample]:
    metadata, spec = reading.job["metadata"], reading.job["spec"]
    pod, gang = mapping(mapping(spec.get("template")).get("spec")), mapping(spec.get("gang"))
    tags = mapping(metadata.get("labels"))
    labels = {
        "uid": metadata["uid"],
        "queue": tags.get(reading.labels.queue, ""),
        "team": tags.get(reading.labels.team, ""),
        "priority_class": pod.get("priorityClassName", ""),
        "backend": gang.get("backend", "BuiltIn"),
        "launcher": spec.get("launcher", Launcher.COMMAND.value),
        "accelerator": _accelerator(pod),
    }
    return ((labels, 1),)


def _accelerator(pod: Mapping[str, Any]) -> str:
    """Return the resource that a worker's accelerators are asked for by; empty without any."""
    sections = (
        mapping(mapping(container.get("resources")).get(section))
        for container in mappings(pod.get("containers"))
        for section in ("limits", "requests")
    )
    return min((name for one in sections for name in one if is_accelerator(name)), default="")


def _phase(reading: Reading) -> Iterable[Sample]:
    phase = reading.status.get("phase")
    return (({"phase": phase}, 1),) if phase else ()


def _workers(reading: Reading) -> Iterable[Sample]:
    workers = reading.status.get("workers") or {}
    shown = [(state, workers.get(state, 0)) for state in WORKER_STATES]
    if _wants_spares(reading):
        shown.append(("spare", workers.get("spares", 0)))
    return tuple(({"state": state}, count) for state, count in shown)


def _wants_spares(reading: Reading) -> bool:
    spares = reading.job["spec"].get("spares", 0)
    if spares == AUTO:
        spares = (reading.status.get("elastic") or {}).get("economicSpares", 0)
    return bool(spares > 0)


def _conditions(reading: Reading) -> Iterable[Sample]:
    values = {"True": 1, "False": 0}
    found = {one["type"]: one["status"] for one in reading.status.get("conditions") or ()}
    return tuple(
        ({"type": kind.value}, values[found[kind]])
        for kind in CONDITIONS
        if found.get(kind) in values
    )


def _buckets(reading: Reading) -> Iterable[Sample]:
    counted = (reading.status.get("ledger") or {}).get("acceleratorMilliseconds") or {}
    spec = reading.job["spec"]
    never = set()
    if "elastic" not in spec:
        never.add(Bucket.DEGRADED)
    if not (spec.get("spares") or counted.get(Bucket.SPARE)):
        never.add(Bucket.SPARE)
    return tuple(
        ({"bucket": bucket.value}, _seconds(counted.get(bucket, 0)))
        for bucket in Bucket
        if bucket not in never
    )


def _unsettled(reading: Reading) -> Iterable[Sample]:
    return _one(_seconds((reading.status.get("ledger") or {}).get("unsettledMilliseconds", 0)))


def _accelerators(reading: Reading) -> Iterable[Sample]:
    over = reading.status.get("finishedAt") is not None
    return _one(0 if over else (reading.status.get("ledger") or {}).get("accelerators"))


def _step_seconds(reading: Reading) -> Iterable[Sample]:
    milliseconds = (reading.status.get("progress") or {}).get("stepMilliseconds")
    return _one(None if milliseconds is None else _seconds(milliseconds))


def _checkpoint_time(reading: Reading) -> Iterable[Sample]:
    return _time((reading.status.get("checkpoint") or {}).get("time"))


def _creation_time(reading: Reading) -> Iterable[Sample]:
    return _time(reading.job["metadata"].get("creationTimestamp"))


def _restarts(reading: Reading) -> Iterable[Sample]:
    return _one((reading.status.get("recovery") or {}).get("total", 0))


def _incidents(reading: Reading) -> Iterable[Sample]:
    by_reason = (reading.status.get("recovery") or {}).get("byReason") or {}
    return tuple(
        ({"reason": reason}, count) for reason, count in sorted(by_reason.items())[:MAX_REASONS]
    )


def _charged(reading: Reading) -> Iterable[Sample]:
    seconds = _recovery(reading).get("windowSeconds", _default("window_seconds"))
    began = reading.now - timedelta(seconds=seconds)
    records = (reading.status.get("recovery") or {}).get("restarts") or ()
    return _one(sum(datetime.fromisoformat(one["at"]) > began for one in records))


def _allowed(reading: Reading) -> Iterable[Sample]:
    return _one(_recovery(reading).get("maxRestarts", _default("max_restarts")))


def _recovery(reading: Reading) -> Mapping[str, Any]:
    return mapping(reading.job["spec"].get("recovery"))


def _default(field: str) -> Any:
    return RecoverySpec.model_fields[field].default


FAMILIES: tuple[Family, ...] = (
    Family(
        "goodput_job_info",
        "gauge",
        "Always 1; what a job is, and whose.",
        ("uid", "queue", "team", "priority_class", "backend", "launcher", "accelerator"),
        _info,
    ),
    Family(
        "goodput_job_created_timestamp_seconds",
        "gauge",
        "When the job was created, in seconds since the epoch.",
        (),
        _creation_time,
    ),
    Family(
        "goodput_job_phase",
        "gauge",
        "Always 1; the one word for where the job is in its life.",
        ("phase",),
        _phase,
    ),
    Family(
        "goodput_accelerator_seconds_total",
        "counter",
        "Accelerator time (worker time for a job without accelerators) by where it went.",
        ("bucket",),
        _buckets,
    ),
    Family(
        "goodput_unsettled_accelerator_seconds",
        "gauge",
        "Accelerator time since the last durable checkpoint: productive at the next, "
        "lost work when the attempt dies.",
        (),
        _unsettled,
    ),
    Family(
        "goodput_job_accelerators",
        "gauge",
        "Accelerators whose time is being counted, be they held or waited for.",
        (),
        _accelerators,
    ),
    Family(
        "goodput_job_workers",
        "gauge",
        "Workers by how far they are; `spare` only where spares are wanted.",
        ("state",),
        _workers,
    ),
    Family(
        "goodput_job_condition",
        "gauge",
        "1 when a condition is True, 0 when it is False, absent when it is Unknown.",
        ("type",),
        _conditions,
    ),
    Family(
        "goodput_job_attempt",
        "gauge",
        "Number of the newest attempt.",
        (),
        _field("attempt", "number"),
    ),
    Family(
        "goodput_job_restarts_total",
        "counter",
        "Attempts ended by an incident; suspensions and changes of size are none.",
        (),
        _restarts,
    ),
    Family(
        "goodput_job_incidents_total",
        "counter",
        "The same by their reason; one that has not happened yet is absent.",
        ("reason",),
        _incidents,
    ),
    Family(
        "goodput_job_restarts_charged",
        "gauge",
        "Restarts inside the window of spec.recovery that count against the budget.",
        (),
        _charged,
    ),
    Family(
        "goodput_job_restarts_allowed",
        "gauge",
        "How many of them spec.recovery allows.",
        (),
        _allowed,
    ),
    Family("goodput_job_step", "gauge", "Newest finished step.", (), _field("progress", "step")),
    Family(
        "goodput_job_step_duration_seconds",
        "gauge",
        "Duration of a recent step.",
        (),
        _step_seconds,
    ),
    Family(
        "goodput_job_durable_step",
        "gauge",
        "Step of the newest durable checkpoint.",
        (),
        _field("checkpoint", "lastDurableStep"),
    ),
    Family(
        "goodput_job_checkpoint_timestamp_seconds",
        "gauge",
        "When the operator learned of the newest durable checkpoint, in seconds since the epoch.",
        (),
        _checkpoint_time,
    ),
)
