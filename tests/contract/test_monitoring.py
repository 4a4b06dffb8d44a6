"""Every panel, rule and alert, asked of a real Prometheus that scrapes a real operator.

The operator is a process on a control plane of its own; its agents are played, each with the
agent's real core. One job trains, one is broken again and again, one waits for room.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from e2e.bench.harness import fleet
from e2e.bench.harness.api_tier import JOBS, Client, api_tier, client
from e2e.bench.harness.operator_process import OperatorProcess, operator
from e2e.cluster.preflight import unavailable_reason
from e2e.support import prometheus
from e2e.support.prometheus import Prometheus
from e2e.support.watching import GPU, TIMES, failed_rules, unrecorded, write_rules
from goodput_operator.cli import prometheus as cli
from goodput_operator.cli.report import gather, slices_of
from monitoring.asking import Shown, ask
from monitoring.dashboards import dashboards
from monitoring.panels import Dashboard, Panel

NODES = 8
KILLS = 3
QUEUE, TEAM = "kueue.x-k8s.io/queue-name", "team"
WAIT_SECONDS = 150
ALERTS = ("GoodputRestartStorm", "GoodputRestartBudgetNearlyUsed", "GoodputBelowTarget")
EARLIER_SECONDS = 15


def job(name: str, workers: int, queue: str, team: str) -> fleet.Object:
    body = fleet.training_job(name, workers, 8)
    body["metadata"]["labels"] = {QUEUE: queue, TEAM: team}
    body["spec"]["checkpoint"] = {"directory": "/checkpoints"}
    body["spec"]["recovery"] = {"backoffSeconds": 0, "maxRestarts": KILLS}
    return body


async def train(api: Client, crew: fleet.Fleet, *jobs: fleet.Object) -> None:
    """Apply jobs that fit, and play their agents until all run."""
    workers = sum(one["spec"]["workers"] for one in jobs)
    async with fleet.bound_pods(api) as found:
        for one in jobs:
            await api.call("POST", JOBS, one)
        _, pods = await fleet.all_bound(found, workers)
        await crew.start(pods)
    for agent in crew.agents.values():
        agent.saves = True


async def play(process: OperatorProcess, api: Client, seen: Prometheus) -> None:
    """Let one job train, break another, let a third wait; return when Prometheus has it all."""
    crew = fleet.Fleet(api, process.agent_port)
    clean, broken = job("clean", 2, "gold", "speech"), job("broken", 2, "gold", "vision")
    waits = job("waits", 6, "silver", "vision")
    await train(api, crew, clean, broken)
    await api.call("POST", JOBS, waits)
    for number in range(1, KILLS + 1):
        attempt = f'goodput_job_attempt{{job="broken"}} == {number}'
        ready = f'{attempt} and on (job) goodput_job_phase{{phase="Running"}}'
        await until(seen, f"{ready} and on (job) goodput_job_step > 0")
        crew.agents["broken-1-0"].kill()
    await until(seen, f"goodput_job_restarts_total == {KILLS}")
    await until(seen, 'job:goodput:ratio_30d{job="clean"} > 0')
    await until(seen, "cluster:goodput_held:ratio_30d > 0")
    for alert in ALERTS:
        await until(seen, f'ALERTS{{alertname="{alert}",job="broken"}}')
    await until(seen, f"goodput_accelerator_seconds_total offset {EARLIER_SECONDS}s")
    await crew.stop()


async def until(seen: Prometheus, expression: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await asyncio.to_thread(seen.query, expression):  # noqa: ASYNC110
            await asyncio.sleep(0.5)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Shown]]:
    """A Prometheus that has seen the three jobs, and the time of it."""
    reason = unavailable_reason("api") or prometheus.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    file = write_rules(tmp_path_factory.mktemp("rules"))
    with ExitStack() as stack:
        plane = stack.enter_context(api_tier(NODES))
        process = stack.enter_context(operator(plane))
        configured = prometheus.configuration([process.metrics_address], [file])
        server = stack.enter_context(prometheus.serving(configured))

        async def run() -> None:
            async with client(plane) as api:
                await play(process, api, server)

        began = time.time()
        asyncio.run(run())
        chosen = {"namespace": "default", "job": "broken"}
        yield server, Shown(began, time.time(), 1.0, 1.0, chosen)


PANELS = [
    pytest.param(panel, id=f"{dashboard.uid}: {panel.title}")
    for dashboard in dashboards(TIMES)
    for panel in dashboard.panels
]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_shows_something(seen: tuple[Prometheus, Shown], panel: Panel) -> None:
    server, shown = seen
    lines = ask(server, panel, shown)
    assert lines
    assert all(line.points for line in lines)
    assert len({line.name for line in lines}) == len(lines), "they can be told apart"


@pytest.mark.parametrize("dashboard", dashboards(TIMES), ids=lambda one: one.uid)
def test_annotations_and_variables_find_something(
    seen: tuple[Prometheus, Shown], dashboard: Dashboard
) -> None:
    server, shown = seen
    for variable in dashboard.variables:
        series, label = variable.query.removeprefix("label_values(").rstrip(")").rsplit(", ", 1)
        found = server.query(series.replace("$namespace", shown.chosen["namespace"]))
        assert shown.chosen[label] in {one["metric"][label] for one in found}
    for _, expression in dashboard.annotations:
        filled = expression.replace("$namespace", "default").replace("$job", "broken")
        assert server.query_range(filled, shown.begin, shown.end, shown.step_seconds)


def test_every_rule_has_recorded_something_and_none_has_failed(
    seen: tuple[Prometheus, Shown],
) -> None:
    server, shown = seen
    assert unrecorded(server, shown.begin) == set()
    assert failed_rules(server) == {}


def test_the_alerts_are_of_the_broken_job_alone(seen: tuple[Prometheus, Shown]) -> None:
    server, shown = seen
    ever = server.query_range("ALERTS", shown.begin, shown.end, shown.step_seconds)
    told = {(one["metric"]["alertname"], one["metric"].get("job")) for one in ever}
    assert {(alert, "broken") for alert in ALERTS} <= told
    assert not {name for name, job in told if job == "clean" and name != "GoodputBelowTarget"}
    assert not {name for name in server.alerts() if name.startswith("GoodputOperator")}


def test_what_is_counted_is_what_was_done(seen: tuple[Prometheus, Shown]) -> None:
    server, _ = seen
    assert server.value('goodput_job_restarts_total{job="broken"}') == KILLS
    assert server.value('sum(goodput_job_incidents_total{job="broken"})') == KILLS
    assert server.value('goodput_job_restarts_total{job="clean"}') == 0
    (info,) = server.query('goodput_job_info{job="broken"}')
    labels = {name: info["metric"][name] for name in ("queue", "team", "accelerator")}
    assert labels == {"queue": "gold", "team": "vision", "accelerator": GPU}
    assert "instance" not in info["metric"], "a job's series are no replica's"
    assert server.value("goodput_cluster_accelerators") == NODES * 8
    assert server.value("goodput_cluster_accelerators_free") == (NODES - 4) * 8
    assert server.value('goodput_job_accelerators{job="waits"}') == 48
    (phase,) = server.query('goodput_job_phase{job="waits"}')
    assert phase["metric"]["phase"] == "Queued"


def test_the_recorded_sums_are_the_counters_own(seen: tuple[Prometheus, Shown]) -> None:
    server, shown = seen
    now = shown.end
    counted = server.query("sum(goodput_accelerator_seconds_total)", now)
    summed = server.query("sum(sum_over_time(cluster:goodput_accelerator_seconds:delta[1h]))", now)
    before = server.query(f"sum(goodput_accelerator_seconds_total offset {EARLIER_SECONDS}s)", now)
    total, recorded = float(counted[0]["value"][1]), float(summed[0]["value"][1])
    assert float(before[0]["value"][1]) <= recorded <= total + 0.001


def test_a_report_is_made_of_it(seen: tuple[Prometheus, Shown]) -> None:
    server, shown = seen
    asked = cli.Prometheus(server.url)
    parts = slices_of(timedelta(minutes=5), datetime.fromtimestamp(shown.end, UTC))
    report = gather(asked.ask, parts)
    assert {job for _, job in report.jobs} == {"clean", "broken", "waits"}
    assert report.restarts["default", "broken"] == KILLS
    known = dict(report.paces)
    assert set(known) <= {("default", "clean"), ("default", "broken")}
    assert all(pace.ideal <= pace.seconds for pace in known.values())
