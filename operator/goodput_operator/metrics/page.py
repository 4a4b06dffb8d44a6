"""The page of /metrics: the jobs, which the leader shows, and every replica's own health.

The labels `namespace` and `job` name the TrainingJob. Prometheus calls the target it scrapes by
the same names, so a scrape configuration needs `honor_labels: true` (`honorLabels` in a
ServiceMonitor), as for every exporter that speaks of things other than itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector

from goodput_operator.metrics.jobs import Job, JobLabels, JobPages
from goodput_operator.observe.agents import JobKey

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page's numbers are read from at each scrape; none of them may block.

    Attributes:
        jobs: how many TrainingJobs are known.
        queue_depth: jobs that are due for a pass.
        watch_ages_seconds: by resource, since the last sign of life of its watch.
        api_requests: calls to the API server by (verb, resource, HTTP status; 0: no answer).
        report_results: requests of agents by result.
        agents: how many agents have reported and live.
        accelerators: by resource, how many the nodes that take workers have, and how many of
            them are free; nothing where we may not see nodes.
        now: the clock.
    """

    jobs: Callable[[], int]
    queue_depth: Callable[[], int]
    watch_ages_seconds: Callable[[], Mapping[str, float]]
    api_requests: Callable[[], Mapping[tuple[str, str, int], int]]
    report_results: Callable[[], Mapping[str, int]]
    agents: Callable[[], int]
    accelerators: Callable[[], Mapping[str, tuple[int, int]]]
    now: Callable[[], datetime]


class Metrics:
    """Builds the page. The leader shows the jobs; every replica its own health."""

    def __init__(self, sources: Sources, labels: JobLabels) -> None:
        self._jobs = JobPages(labels, sources.now)
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
        Info(
            "goodput_operator_build",
            "Which operator this is.",
            registry=self._registry,
        ).info({"version": _version()})
        self._cluster = CollectorRegistry()
        self._cluster.register(_Cluster(sources))
        self._leading = False

    def lead(self, leading: bool) -> None:
        """Say whether this replica leads."""
        self._leading = leading
        self._leader.set(int(leading))

    def count_pass(self, result: str, seconds: float) -> None:
        """Count one pass; `result` is one of a few words: the label must stay bounded."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)

    def follow(self, key: JobKey, job: Job | None) -> None:
        """Take in a TrainingJob that has changed; None: it is gone."""
        self._jobs.write(key, job)

    def collect(self) -> Iterator[Metric]:
        """Yield what a leader shows beside the jobs."""
        yield from self._cluster.collect()
        yield from self._registry.collect()

    def render(self) -> bytes:
        """Return the page in the text format 0.0.4; its content type is `CONTENT_TYPE`."""
        health = generate_latest(self._registry)
        if not self._leading:
            return health
        return self._jobs.render() + generate_latest(self._cluster) + health


def _version() -> str:
    try:
        return version("goodput-operator")
    except PackageNotFoundError:  # run from a checkout
        return "unknown"


class _Cluster:
    """Reads, at each scrape, what the leader knows of the cluster."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        there = GaugeMetricFamily(
            "goodput_cluster_accelerators",
            "Accelerators of the nodes that take workers, by resource.",
            labels=["accelerator"],
        )
        free = GaugeMetricFamily(
            "goodput_cluster_accelerators_free",
            "Those of them that no pod holds and no gang is promised.",
            labels=["accelerator"],
        )
        for resource, (count, left) in sorted(self._sources.accelerators().items()):
            there.add_metric([resource], count)
            free.add_metric([resource], left)
        yield there
        yield free


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
            "goodput_operator_jobs", "TrainingJobs that this replica knows.", value=sources.jobs()
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
