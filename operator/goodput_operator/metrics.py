"""The Prometheus page: each job's numbers straight from its status, and the operator's own health.

What a job has lost and gained is counted in its status, which outlives us; so these counters
are neither reset by a restart of the operator nor counted twice by two replicas: only the
leader shows them. They vanish with the job.

The labels `namespace` and `job` name the TrainingJob. Prometheus calls the target it scrapes by
the same names, so a scrape configuration needs `honor_labels: true` (`honorLabels` in a
ServiceMonitor), as for every exporter that speaks of things other than itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector

from goodput_operator import names
from goodput_operator.api.spec import Launcher
from goodput_operator.api.status import Bucket

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_CONDITIONS = 16

Job = Mapping[str, Any]
"""A raw TrainingJob."""
Sample = tuple[Mapping[str, str], int | str]
"""Labels, and the value as an integer or in decimal."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's numbers are read from at each scrape; none of them may block.

    Attributes:
        jobs: every known TrainingJob, raw.
        queue_depth: jobs that are due for a pass.
        watch_ages_seconds: by resource, since the last sign of life of its watch.
        api_requests: calls to the API server by (verb, resource, HTTP status; 0: no answer).
        report_results: requests of agents by result.
        agents: how many agents have reported and live.
    """

    jobs: Callable[[], Iterable[Job]]
    queue_depth: Callable[[], int]
    watch_ages_seconds: Callable[[], Mapping[str, float]]
    api_requests: Callable[[], Mapping[tuple[str, str, int], int]]
    report_results: Callable[[], Mapping[str, int]]
    agents: Callable[[], int]


class Metrics:
    """Builds the page. The leader shows the jobs; every replica its own health."""

    def __init__(self, sources: Sources) -> None:
        self._jobs = _JobPage(sources.jobs)
        self._registry = CollectorRegistry()
        self._registry.register(_Health(sources))
        ProcessCollector(registry=self._registry)
        self._leader = Gauge(
            "goodput_operator_leader",
            "1 while this replica leads, else 0.",
            registry=self._registry,
        )
        self._passes = Counter(
            "goodput_operator_passes_total",
            "Passes over a TrainingJob, by how they ended.",
            ["result"],
            registry=self._registry,
        )
        self._pass_seconds = Histogram(
            "goodput_operator_pass_duration_seconds",
            "How long a pass over a TrainingJob took.",
            buckets=PASS_SECONDS,
            registry=self._registry,
        )
        self._leading = False

    def lead(self, leading: bool) -> None:
        """Say whether this replica leads."""
        self._leading = leading
        self._leader.set(int(leading))

    def count_pass(self, result: str, seconds: float) -> None:
        """Count one pass; `result` is one of a few words: the label must stay bounded."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)

    def render(self) -> bytes:
        """Return the page in the text format 0.0.4; its content type is `CONTENT_TYPE`."""
        health = generate_latest(self._registry)
        return self._jobs.render() + health if self._leading else health


class _Health:
    """Reads, at each scrape, what others count."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield GaugeMetricFamily(
            "goodput_operator_queue_depth",
            "TrainingJobs that are due for a pass.",
            value=sources.queue_depth(),
        )
        yield GaugeMetricFamily(
            "goodput_operator_agents",
            "Agents that have reported to this replica and whose pods live.",
            value=sources.agents(),
        )
        ages = GaugeMetricFamily(
            "goodput_operator_watch_age_seconds",
            "Time since the last sign of life of a watch.",
            labels=["resource"],
        )
        for resource, age_seconds in sorted(sources.watch_ages_seconds().items()):
            ages.add_metric([resource], age_seconds)
        yield ages
        requests = CounterMetricFamily(
            "goodput_operator_api_requests_total",
            "Requests to the API server; code 0 means that no answer came.",
            labels=["verb", "resource", "code"],
        )
        for (verb, resource, code), count in sorted(sources.api_requests().items()):
            requests.add_metric([verb, resource, str(code)], count)
        yield requests
        reports = CounterMetricFamily(
            "goodput_operator_reports_total",
            "Requests of agents, by result.",
            labels=["result"],
        )
        for result, count in sorted(sources.report_results().items()):
            reports.add_metric([result], count)
        yield reports


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric of a job: how it is called, and how it is read from the status."""

    name: str
    kind: str
    help: str
    read: Callable[[Job, Mapping[str, Any]], Iterable[Sample]]

    def head(self) -> str:
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n"

    def lines(self, job: Job, status: Mapping[str, Any], own_labels: str) -> str:
        return "".join(
            f"{self.name}{{{own_labels}{_labels(labels)}}} {value}\n"
            for labels, value in self.read(job, status)
        )


class _JobPage:
    """The jobs' part of the page; a job is written anew only when it has changed."""

    def __init__(self, jobs: Callable[[], Iterable[Job]]) -> None:
        self._jobs = jobs
        self._written: dict[str, tuple[str, tuple[str, ...]]] = {}

    def render(self) -> bytes:
        written = {}
        for job in self._jobs():
            uid, version = job["metadata"]["uid"], job["metadata"]["resourceVersion"]
            known = self._written.get(uid)
            if known is None or known[0] != version:
                known = version, _write(job)
            written[uid] = known
        self._written = written
        columns = [lines for _, lines in written.values() if lines]
        return "".join(
            family.head() + "".join([lines[place] for lines in columns])
            for place, family in enumerate(FAMILIES)
        ).encode()


def _write(job: Job) -> tuple[str, ...]:
    """Return the job's lines, family by family; nothing for a job that we do not manage."""
    status = job.get("status")
    if not status or job["spec"].get("managedBy", names.MANAGED_BY) != names.MANAGED_BY:
        return ()
    metadata = job["metadata"]
    own_labels = f'namespace="{_escape(metadata["namespace"])}",job="{_escape(metadata["name"])}"'
    return tuple(family.lines(job, status, own_labels) for family in FAMILIES)


def _labels(labels: Mapping[str, str]) -> str:
    return "".join(f',{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    """As the text format 0.0.4 wants label values."""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return escaped.encode("utf-8", "replace").decode()


def _seconds(milliseconds: int) -> str:
    """In decimal, so that the page shows exactly what the status counts."""
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def _one(value: int | str | None) -> Iterable[Sample]:
    return () if value is None else (({}, value),)


def _info(job: Job, _status: Mapping[str, Any]) -> Iterable[Sample]:
    launcher = job["spec"].get("launcher", Launcher.COMMAND.value)
    return (({"uid": job["metadata"]["uid"], "launcher": launcher}, 1),)


def _workers(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    workers = status.get("workers") or {}
    states = ("wanted", "bound", "connected", "training")
    return tuple(({"state": state}, workers.get(state, 0)) for state in states)


def _conditions(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    values = {"True": 1, "False": 0}
    conditions = (status.get("conditions") or ())[:MAX_CONDITIONS]
    return tuple(
        ({"type": one["type"]}, values[one["status"]])
        for one in conditions
        if one["status"] in values
    )


def _buckets(job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    counted = (status.get("ledger") or {}).get("acceleratorMilliseconds") or {}
    elastic = "elastic" in job["spec"]
    return tuple(
        ({"bucket": bucket.value}, _seconds(counted.get(bucket, 0)))
        for bucket in Bucket
        if elastic or bucket is not Bucket.DEGRADED  # of others, nobody is ever missing
    )


def _unsettled(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    return _one(_seconds((status.get("ledger") or {}).get("unsettledMilliseconds", 0)))


def _field(*path: str) -> Callable[[Job, Mapping[str, Any]], Iterable[Sample]]:
    """Return a reader of one number of the status; no sample while there is none."""

    def read(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
        value: Any = status
        for name in path:
            value = (value or {}).get(name)
        return _one(value)

    return read


def _step_seconds(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    milliseconds = (status.get("progress") or {}).get("stepMilliseconds")
    return _one(None if milliseconds is None else _seconds(milliseconds))


def _checkpoint_time(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    text = (status.get("checkpoint") or {}).get("time")
    return _one(None if text is None else f"{datetime.fromisoformat(text).timestamp():.3f}")


def _restarts(_job: Job, status: Mapping[str, Any]) -> Iterable[Sample]:
    return _one((status.get("recovery") or {}).get("total", 0))


FAMILIES: tuple[_Family, ...] = (
    _Family("goodput_job_info", "gauge", "Always 1; what a job is.", _info),
    _Family(
        "goodput_accelerator_seconds_total",
        "counter",
        "Accelerator time (worker time for a job without accelerators) by where it went.",
        _buckets,
    ),
    _Family(
        "goodput_unsettled_accelerator_seconds",
        "gauge",
        "Accelerator time since the last durable checkpoint: productive at the next, "
        "lost work when the attempt dies.",
        _unsettled,
    ),
    _Family(
        "goodput_job_accelerators",
        "gauge",
        "Accelerators whose time is being counted.",
        _field("ledger", "accelerators"),
    ),
    _Family("goodput_job_workers", "gauge", "Workers by how far they are.", _workers),
    _Family(
        "goodput_job_condition",
        "gauge",
        "1 when a condition is True, 0 when it is False, absent when it is Unknown.",
        _conditions,
    ),
    _Family(
        "goodput_job_attempt", "gauge", "Number of the newest attempt.", _field("attempt", "number")
    ),
    _Family("goodput_job_restarts_total", "counter", "Attempts ended by an incident.", _restarts),
    _Family("goodput_job_step", "gauge", "Newest finished step.", _field("progress", "step")),
    _Family(
        "goodput_job_step_duration_seconds", "gauge", "Duration of a recent step.", _step_seconds
    ),
    _Family(
        "goodput_job_durable_step",
        "gauge",
        "Step of the newest durable checkpoint.",
        _field("checkpoint", "lastDurableStep"),
    ),
    _Family(
        "goodput_job_checkpoint_timestamp_seconds",
        "gauge",
        "When the newest durable checkpoint was made, in seconds since the epoch.",
        _checkpoint_time,
    ),
)
