"""What Prometheus finds."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from goodput_operator.api.status import Bucket
from goodput_operator.metrics import CONTENT_TYPE, Metrics, Sources

Job = dict[str, Any]

JOB: Job = {
    "metadata": {"namespace": "lab", "name": "gpt", "uid": "u-1", "resourceVersion": "100"},
    "spec": {"launcher": "Processes"},
    "status": {
        "phase": "Running",
        "conditions": [
            {"type": "Running", "status": "True"},
            {"type": "Degraded", "status": "False"},
            {"type": "CheckpointFresh", "status": "Unknown"},
        ],
        "workers": {"wanted": 4, "bound": 4, "connected": 3, "training": 2, "text": "2/4"},
        "attempt": {"number": 3, "state": "Running"},
        "progress": {"step": 1410, "stepMilliseconds": 412},
        "checkpoint": {"lastDurableStep": 1400, "time": "2026-01-02T03:04:05.678Z"},
        "recovery": {"total": 2},
        "ledger": {
            "acceleratorMilliseconds": {"productive": 118230001, "lost_work": 5},
            "unsettledMilliseconds": 40000,
            "accelerators": 32,
        },
    },
}

JOB_LINES = """\
goodput_job_info{namespace="lab",job="gpt",uid="u-1",launcher="Processes"} 1
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="productive"} 118230.001
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="queued"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="scheduling"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="pod_start"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="startup"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="restore"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="lost_work"} 0.005
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="detection"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="recovery"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="suspended"} 0.000
goodput_accelerator_seconds_total{namespace="lab",job="gpt",bucket="unknown"} 0.000
goodput_unsettled_accelerator_seconds{namespace="lab",job="gpt"} 40.000
goodput_job_accelerators{namespace="lab",job="gpt"} 32
goodput_job_workers{namespace="lab",job="gpt",state="wanted"} 4
goodput_job_workers{namespace="lab",job="gpt",state="bound"} 4
goodput_job_workers{namespace="lab",job="gpt",state="connected"} 3
goodput_job_workers{namespace="lab",job="gpt",state="training"} 2
goodput_job_condition{namespace="lab",job="gpt",type="Running"} 1
goodput_job_condition{namespace="lab",job="gpt",type="Degraded"} 0
goodput_job_attempt{namespace="lab",job="gpt"} 3
goodput_job_restarts_total{namespace="lab",job="gpt"} 2
goodput_job_step{namespace="lab",job="gpt"} 1410
goodput_job_step_duration_seconds{namespace="lab",job="gpt"} 0.412
goodput_job_durable_step{namespace="lab",job="gpt"} 1400
goodput_job_checkpoint_timestamp_seconds{namespace="lab",job="gpt"} 1767323045.678
"""


class World:
    """What the operator would show."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = list(jobs)
        self.requests: dict[tuple[str, str, int], int] = {}
        self.results: dict[str, int] = {}
        self.metrics = Metrics(
            Sources(
                jobs=lambda: self.jobs,
                queue_depth=lambda: 7,
                watch_ages_seconds=lambda: {"pods": 1.5},
                api_requests=lambda: self.requests,
                report_results=lambda: self.results,
                agents=lambda: 4,
            )
        )
        self.metrics.lead(True)

    def page(self) -> str:
        return self.metrics.render().decode()

    def value(self, name: str, **labels: str) -> float | None:
        return samples(self.page()).get((name, tuple(sorted(labels.items()))))


def samples(page: str) -> Mapping[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the page as Prometheus does; a series that is shown twice is an error."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            series = sample.name, tuple(sorted(sample.labels.items()))
            assert series not in found
            found[series] = sample.value
    return found


def job_lines(page: str) -> Iterable[str]:
    return (line for line in page.splitlines() if ',job="' in line)


def changed(version: int, **status: Any) -> Job:
    return {
        **JOB,
        "metadata": {**JOB["metadata"], "resourceVersion": str(version)},
        "status": {**JOB["status"], **status},
    }


def test_a_job_is_shown_by_exactly_these_series() -> None:
    assert "\n".join(job_lines(World(JOB).page())) + "\n" == JOB_LINES


def test_every_family_is_described_once_and_its_series_stand_together() -> None:
    second = changed(5)
    second["metadata"] = {**second["metadata"], "name": "other", "uid": "u-2"}
    page = World(JOB, second).page()
    order = [
        line.split("{")[0].split()[0] for line in page.splitlines() if not line.startswith("#")
    ]
    jobs = [name for name in order if name.startswith("goodput_job")]
    assert [name for i, name in enumerate(jobs) if i == 0 or jobs[i - 1] != name] == sorted(
        set(jobs), key=jobs.index
    )
    helped = [line.split()[2] for line in page.splitlines() if line.startswith("# HELP")]
    assert len(helped) == len(set(helped))


def test_the_page_is_the_text_format_that_every_prometheus_reads() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    assert samples(World(JOB).page())


def test_the_counters_are_the_status_itself_so_an_operator_that_restarts_shows_the_same() -> None:
    assert list(job_lines(World(JOB).page())) == list(job_lines(World(JOB).page()))
    counted = {
        bucket: World(JOB).value(
            "goodput_accelerator_seconds_total", namespace="lab", job="gpt", bucket=bucket
        )
        for bucket in Bucket
    }
    ledger = JOB["status"]["ledger"]["acceleratorMilliseconds"]
    assert counted.pop(Bucket.DEGRADED) is None, "only of an elastic job may anybody be missing"
    assert counted == {bucket: ledger.get(bucket, 0) / 1000 for bucket in counted}


def test_an_elastic_job_shows_what_was_missing() -> None:
    missed = changed(5, ledger={"acceleratorMilliseconds": {"degraded": 1500}})
    missed["spec"] = {**missed["spec"], "elastic": {}}
    value = World(missed).value(
        "goodput_accelerator_seconds_total", namespace="lab", job="gpt", bucket="degraded"
    )
    assert value == 1.5


def test_a_new_version_of_a_job_is_shown_at_the_next_scrape() -> None:
    world = World(JOB)
    assert world.value("goodput_job_restarts_total", namespace="lab", job="gpt") == 2
    world.jobs = [changed(101, recovery={"total": 3})]
    assert world.value("goodput_job_restarts_total", namespace="lab", job="gpt") == 3


def test_the_series_vanish_with_the_job() -> None:
    world = World(JOB)
    assert 'job="gpt"' in world.page()
    world.jobs = []
    assert 'job="gpt"' not in world.page()


def test_a_job_of_the_same_name_starts_anew() -> None:
    world = World(JOB)
    world.page()
    reborn = changed(100, recovery={"total": 0})
    reborn["metadata"] = {**reborn["metadata"], "uid": "u-2"}
    world.jobs = [reborn]
    assert world.value("goodput_job_restarts_total", namespace="lab", job="gpt") == 0


def test_only_the_leader_shows_jobs_and_every_replica_its_health() -> None:
    world = World(JOB)
    world.metrics.lead(False)
    assert 'job="gpt"' not in world.page()
    assert world.value("goodput_operator_leader") == 0
    world.metrics.lead(True)
    assert 'job="gpt"' in world.page()
    assert world.value("goodput_operator_leader") == 1


@pytest.mark.parametrize(
    "job",
    [
        pytest.param({**JOB, "status": {}}, id="that nobody has visited"),
        pytest.param({k: v for k, v in JOB.items() if k != "status"}, id="without a status"),
        pytest.param({**JOB, "spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}, id="of others"),
    ],
)
def test_nothing_is_shown_of_a_job(job: Job) -> None:
    assert not list(job_lines(World(job).page()))


def test_a_job_that_has_not_begun_shows_what_is_known() -> None:
    world = World({**JOB, "status": {"observedGeneration": 1, "attempt": None, "progress": {}}})
    assert world.value("goodput_job_step", namespace="lab", job="gpt") is None
    assert world.value("goodput_job_attempt", namespace="lab", job="gpt") is None
    assert (
        world.value(
            "goodput_accelerator_seconds_total", namespace="lab", job="gpt", bucket="queued"
        )
        == 0
    )


def test_a_job_costs_at_most_forty_series_however_many_conditions_it_has() -> None:
    many = [{"type": f"C{i}", "status": "True"} for i in range(100)]
    assert len(list(job_lines(World(changed(5, conditions=many)).page()))) <= 40


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a/b", id="a slash"),
        pytest.param("Größe–日本", id="Unicode"),
        pytest.param('say "hi"', id="quotes"),
        pytest.param("back\\slash\\n", id="a backslash"),
        pytest.param("two\nlines", id="a line break"),
    ],
)
def test_a_label_survives(text: str) -> None:
    world = World(changed(5, conditions=[{"type": text, "status": "True"}]))
    assert world.value("goodput_job_condition", namespace="lab", job="gpt", type=text) == 1


def test_half_a_surrogate_does_not_break_the_page() -> None:
    world = World(changed(5, conditions=[{"type": "\ud800", "status": "True"}]))
    assert world.value("goodput_job_condition", namespace="lab", job="gpt", type="?") == 1


def test_the_operator_shows_its_own_health() -> None:
    world = World()
    world.requests = {("get", "pods", 200): 3, ("create", "pods", 0): 1}
    world.results = {"Accepted": 5, "Unauthorized": 1}
    world.metrics.count_pass("ok", 0.004)
    world.metrics.count_pass("conflict", 0.2)
    assert world.value("goodput_operator_queue_depth") == 7
    assert world.value("goodput_operator_agents") == 4
    assert world.value("goodput_operator_watch_age_seconds", resource="pods") == 1.5
    api = "goodput_operator_api_requests_total"
    assert world.value(api, verb="get", resource="pods", code="200") == 3
    assert world.value(api, verb="create", resource="pods", code="0") == 1
    assert world.value("goodput_operator_reports_total", result="Unauthorized") == 1
    assert world.value("goodput_operator_passes_total", result="conflict") == 1
    assert world.value("goodput_operator_pass_duration_seconds_count") == 2
    assert world.value("goodput_operator_pass_duration_seconds_bucket", le="0.005") == 1
