"""What was done to three jobs is what Prometheus, its rules and every panel say was done.

And it is what the trainers' own output says (`e2e.support.diary`), which no part of the operator
has had a hand in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.support import prometheus
from e2e.support.diary import Diary
from e2e.support.installation import Operator
from e2e.support.job import Job
from e2e.support.prometheus import Prometheus
from e2e.support.story import ACCELERATORS, FAULTS, STEP_SECONDS, WORKERS, Story
from e2e.support.watching import TIMES, failed_rules, unrecorded, wait_seen, write_rules
from goodput_operator.plan.view import Timing
from monitoring.asking import Shown, ask
from monitoring.dashboards import RECOVERY, dashboards
from monitoring.dashboards import job as jobs_dashboard
from monitoring.panels import Kind

pytestmark = pytest.mark.alone  # it kills the leader and a node, and counts what is free

STEPS, STEPS_BETWEEN, CHECKPOINT_EVERY = 230, 30, 25
EXACT_SECONDS = 1.0
"""Of each worker's time, in all, between the final ledger and what the trainers wrote down.

What the pencil does not see is small: the step that was under way at a fault, the exit of the
processes after the last step.
"""
FLUSH_SECONDS = Timing().flush_seconds
SCRAPE_SECONDS = 1.0


@pytest.fixture
def seen(operator: Operator, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both replicas."""
    reason = prometheus.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    configured = prometheus.configuration(operator.metrics_targets(), [write_rules(tmp_path)])
    with prometheus.serving(configured) as server:
        wait_seen(server, "goodput_operator_leader == 1")
        yield server


def test_three_jobs_are_seen_as_they_were(
    cluster: Cluster,
    operator: Operator,
    seen: Prometheus,
    namespace: str,
    record_property: Callable[[str, object], None],
) -> None:
    began = time.time()
    story = Story.begin(
        cluster,
        namespace,
        steps=STEPS,
        checkpoint_every=CHECKPOINT_EVERY,
        nodes_wanted=len(cluster.nodes) + 1,
    )
    clean, broken, waits = story.clean, story.broken, story.waits
    story.break_it(operator, STEPS_BETWEEN)
    broken.wait_phase("Succeeded")

    for job, faults in ((clean, ()), (broken, FAULTS)):
        wait_seen(seen, of(job, "goodput_job_phase", phase="Succeeded"))
        job.assert_every_second_is_accounted_for()
        assert_the_counters_are_the_ledger(job, seen)
        assert_the_incidents_are_what_was_done(job, seen, faults)
        diary = Diary.of(job)
        assert len(diary.attempts) == 1 + len(faults)
        record_property(f"{job.name}, ledger less diary", differences(job, diary))
        assert_the_ledger_is_what_the_trainers_wrote_down(job, diary)
        assert_no_scrape_was_further_off_than_a_flush(job, diary, seen, began)
    assert seen.value(of(waits, "goodput_job_phase", phase="Queued")) == 1
    counters = of(waits, "goodput_accelerator_seconds_total")
    waited = {one["metric"]["bucket"] for one in seen.query(f"{counters} > 0")}
    assert waited == {"queued"}
    went_back = f'resets(goodput_accelerator_seconds_total{{namespace="{namespace}"}}[10m]) > 0'
    assert not seen.query(went_back), "no counter goes back, whoever leads"

    told = {
        (one["metric"]["alertname"], one["metric"].get("job"))
        for one in seen.query_range("ALERTS", began, time.time(), 1.0)
    }
    assert ("GoodputRestartStorm", "broken") in told
    assert ("GoodputBelowTarget", "broken") in told
    assert ("GoodputRestartStorm", "clean") not in told
    wait_seen(seen, "team:goodput:ratio_30d")
    assert failed_rules(seen) == {}
    assert unrecorded(seen, began) == set()
    shown = Shown(began, time.time(), 1.0, 1.0, {"namespace": namespace, "job": "broken"})
    assert silent_panels(seen, shown) == []
    assert_the_waterfall_is_what_the_incidents_cost(broken, seen, shown)


def of(job: Job, metric: str, **labels: str) -> str:
    chosen = {"namespace": job.namespace, "job": job.name, **labels}
    return metric + "{" + ", ".join(f'{name}="{value}"' for name, value in chosen.items()) + "}"


def assert_the_counters_are_the_ledger(job: Job, seen: Prometheus) -> None:
    ledger = job.ledger()
    ledger.pop("unsettled")
    counted = {
        one["metric"]["bucket"]: float(one["value"][1])
        for one in seen.query(of(job, "goodput_accelerator_seconds_total"))
    }
    assert {name: value for name, value in counted.items() if value} == ledger


def assert_the_incidents_are_what_was_done(
    job: Job, seen: Prometheus, faults: tuple[str, ...]
) -> None:
    assert seen.value(of(job, "goodput_job_restarts_total")) == len(faults)
    counted = Counter(
        {
            one["metric"]["reason"]: int(one["value"][1])
            for one in seen.query(of(job, "goodput_job_incidents_total"))
        }
    )
    if counted.pop("WorkerSilent", 0):  # the silence was noticed before the node's condition
        counted["NodeLost"] += 1
    assert counted == Counter(REASONS[fault] for fault in faults)


REASONS = {
    "rank killed": "ProcessFailed",
    "pod deleted": "PodDeleted",
    "agent killed": "PodFailed",
    "leader killed": "ProcessFailed",
    "node lost": "NodeLost",
}


def accelerators_of(job: Job) -> int:
    return WORKERS * (ACCELERATORS if job.name == "broken" else 1)


def differences(job: Job, diary: Diary) -> dict[str, float]:
    """Seconds of each worker's time by which the ledger says more than the trainers do."""
    ledger, count = job.ledger(), accelerators_of(job)
    return {
        "productive": round(ledger["productive"] / count - diary.kept_seconds(), 3),
        "lost_work": round(ledger.get("lost_work", 0.0) / count - diary.lost_seconds(), 3),
    }


def assert_the_ledger_is_what_the_trainers_wrote_down(job: Job, diary: Diary) -> None:
    off = differences(job, diary)
    assert all(abs(seconds) <= EXACT_SECONDS for seconds in off.values()), off


def assert_no_scrape_was_further_off_than_a_flush(
    job: Job, diary: Diary, seen: Prometheus, began: float
) -> None:
    """Work counts when a checkpoint covers it and the status was written: soon, never early."""
    productive = of(job, "goodput_accelerator_seconds_total", bucket="productive")
    (series,) = seen.query_range(productive, began, time.time(), SCRAPE_SECONDS)
    late = FLUSH_SECONDS + CHECKPOINT_EVERY * STEP_SECONDS + SCRAPE_SECONDS
    for at, value in series["values"]:
        seconds = float(value) / accelerators_of(job)
        assert seconds <= diary.kept_seconds(at) + EXACT_SECONDS
        assert seconds >= diary.kept_seconds(at - late) - EXACT_SECONDS


def assert_the_waterfall_is_what_the_incidents_cost(
    job: Job, seen: Prometheus, shown: Shown
) -> None:
    (panel,) = [one for one in jobs_dashboard().panels if one.kind is Kind.WATERFALL]
    drawn = {
        (line.labels["incident"], line.labels["bucket"]): line.points[-1][1]
        for line in ask(seen, panel, shown)
    }
    oldest_first = reversed(job.status()["incidents"])
    cost = {
        (str(number), bucket): milliseconds / 1000 / accelerators_of(job)
        for number, incident in enumerate(oldest_first, start=1)
        for bucket, milliseconds in incident["acceleratorMilliseconds"].items()
        if bucket in RECOVERY
    }
    assert drawn == pytest.approx(cost, abs=0.001)


def silent_panels(seen: Prometheus, shown: Shown) -> list[str]:
    return [
        f"{dashboard.title}: {panel.title}"
        for dashboard in dashboards(TIMES)
        for panel in dashboard.panels
        if not ask(seen, panel, shown)
    ]
