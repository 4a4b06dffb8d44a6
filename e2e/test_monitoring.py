"""What was done to three jobs is what Prometheus, its rules and every panel say was done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.support import prometheus
from e2e.support.installation import Operator
from e2e.support.job import Job, Step, steps_of
from e2e.support.prometheus import Prometheus
from e2e.support.watching import TIMES, failed_rules, unrecorded, wait_seen, write_rules
from monitoring.asking import Shown, ask
from monitoring.dashboards import dashboards

pytestmark = pytest.mark.alone  # it kills the leader, and counts what is free

WORKERS, STEPS, STEP_SECONDS, CHECKPOINT_EVERY = 2, 300, 0.1, 25
HTTP_PORT = 8080
WHOLE_NODE = 8


@pytest.fixture
def seen(operator: Operator, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both replicas."""
    reason = prometheus.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    targets = [f"{pod['status']['podIP']}:{HTTP_PORT}" for pod in operator.pods()]
    configured = prometheus.configuration(targets, [write_rules(tmp_path)])
    with prometheus.serving(configured) as server:
        wait_seen(server, "goodput_operator_leader == 1")
        yield server


def test_three_jobs_are_seen_as_they_were(
    cluster: Cluster, operator: Operator, seen: Prometheus, job: Job
) -> None:
    began = time.time()
    clean, broken, waits = (Job(cluster, job.namespace, name) for name in ("clean", "broken", "w"))
    for one in (clean, broken):
        one.apply(
            workers=WORKERS,
            steps=STEPS,
            step_seconds=STEP_SECONDS,
            checkpoint_every=CHECKPOINT_EVERY,
        )
    broken.wait_step(CHECKPOINT_EVERY + 5)
    waits.apply(workers=len(cluster.nodes) + 1, accelerators=WHOLE_NODE, steps=10)
    break_it(cluster, operator, broken)
    for one in (clean, broken):
        one.wait_phase("Succeeded", timeout_seconds=120)
    assert waits.status()["phase"] == "Queued"

    for one in (clean, broken):
        show(one, seen)
        one.assert_every_second_is_accounted_for()
        assert_the_counters_are_the_ledger(one, seen)
        assert_they_agree_with_what_the_trainers_say(one)
    assert seen.value(of(clean, "goodput_job_restarts_total")) == 0
    total = broken.status()["recovery"]["total"]
    assert seen.value(of(broken, "goodput_job_restarts_total")) == total >= 3
    assert seen.value(f"sum({of(broken, 'goodput_job_incidents_total')})") == total
    assert seen.value(of(waits, "goodput_job_phase")) == 1
    went_back = f'resets(goodput_accelerator_seconds_total{{namespace="{job.namespace}"}}[10m]) > 0'
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
    assert silent_panels(seen, broken, began) == []


def break_it(cluster: Cluster, operator: Operator, job: Job) -> None:
    """Break a job, and the operator, each after the job trains again."""
    job.kill_rank(1)
    job.wait_attempt(2)
    job.wait_step(60, attempt=2)
    name = job.pod(0)["metadata"]["name"]
    cluster.kubectl("delete", "pod", "-n", job.namespace, name, "--wait=false")
    job.wait_attempt(3)
    job.wait_step(100, attempt=3)
    former = operator.kill_leader()
    job.kill_rank(0)
    operator.wait_successor(former, timeout_seconds=30)
    job.wait_attempt(4)


def of(job: Job, metric: str) -> str:
    return f'{metric}{{namespace="{job.namespace}", job="{job.name}"}}'


def show(job: Job, seen: Prometheus) -> None:
    """Wait until Prometheus has the job's end."""
    wait_seen(seen, of(job, "goodput_job_phase").replace("}", ', phase="Succeeded"}'))


def assert_the_counters_are_the_ledger(job: Job, seen: Prometheus) -> None:
    ledger = job.ledger()
    ledger.pop("unsettled")
    counted = {
        one["metric"]["bucket"]: float(one["value"][1])
        for one in seen.query(of(job, "goodput_accelerator_seconds_total"))
    }
    assert {name: value for name, value in counted.items() if value} == ledger


def assert_they_agree_with_what_the_trainers_say(job: Job) -> None:
    """Each finished step took its time: as work that counts once, and as work that was lost."""
    lines = [line for pod in job.pods() for line in steps_of(job.logs(pod["metadata"]["name"]))]
    of_rank_0 = [line for line in lines if line.rank == 0]
    redone = len(of_rank_0) - len({line.step for line in of_rank_0})
    ledger = job.ledger()
    assert ledger["productive"] >= STEPS * STEP_SECONDS * WORKERS - WORKERS
    assert ledger.get("lost_work", 0.0) >= redone * STEP_SECONDS * WORKERS - WORKERS * attempts(
        lines
    )
    if attempts(lines) == 1:
        assert "lost_work" not in ledger


def attempts(lines: list[Step]) -> int:
    return len({line.attempt for line in lines})


def silent_panels(seen: Prometheus, job: Job, began: float) -> list[str]:
    chosen = {"namespace": job.namespace, "job": job.name}
    shown = Shown(began, time.time(), 2.0, 1.0, chosen)
    return [
        f"{dashboard.title}: {panel.title}"
        for dashboard in dashboards(TIMES)
        for panel in dashboard.panels
        if not ask(seen, panel, shown)
    ]
