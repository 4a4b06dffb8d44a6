"""What Prometheus finds."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from goodput_operator.api.status import Bucket
from goodput_operator.metrics import CONTENT_TYPE, JobLabels, Metrics, Sources
from goodput_operator.metrics.jobs import CONDITIONS, FAMILIES, MAX_SERIES

Job = dict[str, Any]

NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)
JOB: Job = {
    "metadata": {
        "namespace": "lab",
        "name": "gpt",
        "uid": "u-1",
        "resourceVersion": "100",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"kueue.x-k8s.io/queue-name": "gold", "team": "speech"},
    },
    "spec": {
        "launcher": "Processes",
        "recovery": {"maxRestarts": 3, "windowSeconds": 3600},
        "template": {
            "spec": {
                "priorityClassName": "urgent",
                "containers": [{"resources": {"limits": {"cpu": 1, "nvidia.com/gpu": 8}}}],
            }
        },
    },
    "status": {
        "phase": "Running",
        "conditions": [
            {"type": "Running", "status": "True"},
            {"type": "Progressing", "status": "True"},
            {"type": "Degraded", "status": "False"},
            {"type": "CheckpointFresh", "status": "Unknown"},
        ],
        "workers": {"wanted": 4, "bound": 4, "connected": 3, "training": 2, "text": "2/4"},
        "attempt": {"number": 3, "state": "Running"},
        "progress": {"step": 1410, "stepMilliseconds": 412},
        "checkpoint": {"lastDurableStep": 1400, "time": "2026-01-02T03:04:05.678Z"},
        "recovery": {
            "total": 2,
            "byReason": {"NodeLost": 1, "ProcessFailed": 1},
            "restarts": [
                {"at": "2026-01-02T02:59:59Z", "reason": "ProcessFailed"},
                {"at": "2026-01-02T03:30:00Z", "reason": "ProcessFailed"},
            ],
        },
        "ledger": {
            "acceleratorMilliseconds": {"productive": 118230001, "lost_work": 5},
            "unsettledMilliseconds": 40000,
            "accelerators": 32,
        },
    },
}

JOB_LINES = """\
goodput_job_info{namespace="lab",job="gpt",uid="u-1",queue="gold",team="speech",\
priority_class="urgent",backend="BuiltIn",launcher="Processes",accelerator="nvidia.com/gpu"} 1
goodput_job_created_timestamp_seconds{namespace="lab",job="gpt"} 1767225600.000
goodput_job_phase{namespace="lab",job="gpt",phase="Running"} 1
BUCKETS
goodput_unsettled_accelerator_seconds{namespace="lab",job="gpt"} 40.000
goodput_job_accelerators{namespace="lab",job="gpt"} 32
goodput_job_workers{namespace="lab",job="gpt",state="wanted"} 4
goodput_job_workers{namespace="lab",job="gpt",state="bound"} 4
goodput_job_workers{namespace="lab",job="gpt",state="training"} 2
goodput_job_condition{namespace="lab",job="gpt",type="Progressing"} 1
goodput_job_attempt{namespace="lab",job="gpt"} 3
goodput_job_restarts_total{namespace="lab",job="gpt"} 2
goodput_job_incidents_total{namespace="lab",job="gpt",reason="NodeLost"} 1
goodput_job_incidents_total{namespace="lab",job="gpt",reason="ProcessFailed"} 1
goodput_job_restarts_charged{namespace="lab",job="gpt"} 1
goodput_job_restarts_allowed{namespace="lab",job="gpt"} 3
goodput_job_step{namespace="lab",job="gpt"} 1410
goodput_job_step_duration_seconds{namespace="lab",job="gpt"} 0.412
goodput_job_durable_step{namespace="lab",job="gpt"} 1400
goodput_job_checkpoint_timestamp_seconds{namespace="lab",job="gpt"} 1767323045.678
"""
SECONDS = {"productive": "118230.001", "lost_work": "0.005"}
JOB_LINES = JOB_LINES.replace(
    "BUCKETS",
    "\n".join(
        'goodput_accelerator_seconds_total{namespace="lab",job="gpt",'
        f'bucket="{bucket}"}} {SECONDS.get(bucket, "0.000")}'
        for bucket in Bucket
        if bucket not in (Bucket.DEGRADED, Bucket.SPARE)
    ),
)


class World:
    """What the operator would show."""

    def __init__(self, *jobs: Job, labels: JobLabels | None = None) -> None:
        self.requests: dict[tuple[str, str, int], int] = {}
        self.results: dict[str, int] = {}
        self.accelerators: dict[str, tuple[int, int]] = {}
        self.metrics = Metrics(
            Sources(
                jobs=lambda: 3,
                queue_depth=lambda: 7,
                watch_ages_seconds=lambda: {"pods": 1.5},
                api_requests=lambda: self.requests,
                report_results=lambda: self.results,
                agents=lambda: 4,
                accelerators=lambda: self.accelerators,
                now=lambda: NOW,
            ),
            labels or JobLabels("kueue.x-k8s.io/queue-name", "team"),
        )
        self.metrics.lead(True)
        for job in jobs:
            self.change(job)

    def change(self, job: Job) -> None:
        self.metrics.follow((job["metadata"]["namespace"], job["metadata"]["name"]), job)

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
    assert counted.pop(Bucket.SPARE) is None, "only of a job with spares does anybody stand by"
    assert counted == {bucket: ledger.get(bucket, 0) / 1000 for bucket in counted}


def test_an_elastic_job_shows_what_was_missing() -> None:
    missed = changed(5, ledger={"acceleratorMilliseconds": {"degraded": 1500}})
    missed["spec"] = {**missed["spec"], "elastic": {}}
    value = World(missed).value(
        "goodput_accelerator_seconds_total", namespace="lab", job="gpt", bucket="degraded"
    )
    assert value == 1.5


@pytest.mark.parametrize(
    ("spares", "economic", "shown"),
    [
        pytest.param(0, 3, None, id="none are wanted"),
        pytest.param(2, 0, 1, id="so many are wanted"),
        pytest.param("auto", 0, None, id="none would pay"),
        pytest.param("auto", 1, 1, id="one would pay"),
    ],
)
def test_a_job_that_wants_spares_shows_how_many_stand_by(
    spares: int | str, economic: int, shown: int | None
) -> None:
    job = changed(5, workers={"spares": 1}, elastic={"economicSpares": economic})
    job["spec"] = {**job["spec"], "spares": spares}
    value = World(job).value("goodput_job_workers", namespace="lab", job="gpt", state="spare")
    assert value == shown


def test_a_new_version_of_a_job_is_shown_at_the_next_scrape() -> None:
    world = World(JOB)
    assert world.value("goodput_job_restarts_total", namespace="lab", job="gpt") == 2
    world.change(changed(101, recovery={"total": 3}))
    assert world.value("goodput_job_restarts_total", namespace="lab", job="gpt") == 3


def test_the_series_vanish_with_the_job() -> None:
    world = World(JOB)
    assert 'job="gpt"' in world.page()
    world.metrics.follow(("lab", "gpt"), None)
    assert 'job="gpt"' not in world.page()


def test_a_job_of_the_same_name_starts_anew() -> None:
    world = World(JOB)
    world.page()
    reborn = changed(100, recovery={"total": 0})
    reborn["metadata"] = {**reborn["metadata"], "uid": "u-2"}
    world.change(reborn)
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


def test_a_job_costs_at_most_forty_series_whatever_its_status_holds() -> None:
    largest = changed(
        5,
        conditions=[{"type": kind, "status": "True"} for kind in CONDITIONS]
        + [{"type": f"C{number}", "status": "True"} for number in range(100)],
        ledger={
            "acceleratorMilliseconds": dict.fromkeys([*Bucket, "other"], 1),
            "accelerators": 8,
        },
        recovery={"byReason": {f"R{number}": 1 for number in range(100)}},
        workers=dict.fromkeys(["wanted", "bound", "training", *map(str, range(100))], 1),
    )
    largest["spec"] = {**largest["spec"], "elastic": {}, "spares": 2}
    lines = list(job_lines(World(largest).page()))
    assert {line.partition("{")[0] for line in lines} == {family.name for family in FAMILIES}
    assert len(lines) <= MAX_SERIES == 40


def test_every_sample_has_the_labels_that_its_family_is_described_with() -> None:
    described = {one.name: {"namespace", "job", *one.labels} for one in FAMILIES}
    shown = [name for name in samples(World(JOB).page()) if name[0] in described]
    assert {name for name, _ in shown} == set(described)
    assert all({label for label, _ in labels} == described[name] for name, labels in shown)


def test_a_finished_job_holds_no_accelerator() -> None:
    world = World(changed(5, finishedAt="2026-01-02T03:04:05Z"))
    assert world.value("goodput_job_accelerators", namespace="lab", job="gpt") == 0


def test_a_job_without_the_labels_belongs_to_nobody_in_particular() -> None:
    bare = {**JOB, "metadata": {**JOB["metadata"], "labels": None}}
    assert 'queue="",team=""' in World(bare).page()
    assert 'queue="",team=""' in World(JOB, labels=JobLabels()).page()


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"checkpoint": {"time": "yesterday"}}, id="a time that is none"),
        pytest.param({"ledger": [1]}, id="a list for a mapping"),
        pytest.param({"progress": {"step": "many"}}, id="a word for a number"),
        pytest.param({"progress": {"stepMilliseconds": float("inf")}}, id="no number"),
        pytest.param({"phase": 7}, id="a number for a word"),
    ],
)
def test_a_status_that_makes_no_sense_costs_no_other_job_its_page(status: dict[str, Any]) -> None:
    other = changed(6)
    other["metadata"] = {**other["metadata"], "name": "other", "uid": "u-2"}
    page = World(changed(5, **status), other).page()
    assert samples(page)
    assert 'job="gpt"' not in page
    assert len(list(job_lines(page))) == len(JOB_LINES.splitlines())


def test_ten_thousand_jobs_are_ten_thousand_times_one() -> None:
    jobs = []
    for number in range(10_000):
        job = changed(number)
        jobs.append({**job, "metadata": {**job["metadata"], "name": f"gpt-{number}"}})
    world = World(*jobs)
    assert sum(1 for _ in job_lines(world.page())) == 10_000 * len(JOB_LINES.splitlines())
    for job in jobs:
        world.metrics.follow(("lab", job["metadata"]["name"]), None)
    assert not list(job_lines(world.page()))


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
    world = World(changed(5, phase=text))
    assert world.value("goodput_job_phase", namespace="lab", job="gpt", phase=text) == 1


def test_a_label_is_cut_to_what_a_label_may_be() -> None:
    world = World(changed(5, phase="x" * 10**6))
    assert world.value("goodput_job_phase", namespace="lab", job="gpt", phase="x" * 253) == 1


def test_half_a_surrogate_does_not_break_the_page() -> None:
    world = World(changed(5, phase="\ud800"))
    assert world.value("goodput_job_phase", namespace="lab", job="gpt", phase="?") == 1


def test_the_operator_shows_its_own_health() -> None:
    world = World()
    world.requests = {("get", "pods", 200): 3, ("create", "pods", 0): 1}
    world.results = {"Accepted": 5, "Unauthorized": 1}
    world.metrics.count_pass("ok", 0.004)
    world.metrics.count_pass("conflict", 0.2)
    assert world.value("goodput_operator_queue_depth") == 7
    assert world.value("goodput_operator_jobs") == 3
    assert world.value("goodput_operator_agents") == 4
    assert world.value("goodput_operator_watch_age_seconds", resource="pods") == 1.5
    api = "goodput_operator_api_requests_total"
    assert world.value(api, verb="get", resource="pods", code="200") == 3
    assert world.value(api, verb="create", resource="pods", code="0") == 1
    assert world.value("goodput_operator_reports_total", result="Unauthorized") == 1
    assert world.value("goodput_operator_passes_total", result="conflict") == 1
    assert world.value("goodput_operator_pass_duration_seconds_count") == 2
    assert world.value("goodput_operator_pass_duration_seconds_bucket", le="0.005") == 1


def test_only_the_leader_shows_what_is_free() -> None:
    world = World()
    world.accelerators = {"nvidia.com/gpu": (64, 8)}
    assert world.value("goodput_cluster_accelerators", accelerator="nvidia.com/gpu") == 64
    assert world.value("goodput_cluster_accelerators_free", accelerator="nvidia.com/gpu") == 8
    world.metrics.lead(False)
    assert "goodput_cluster_accelerators" not in world.page()
