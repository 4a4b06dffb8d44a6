"""Some hours of four jobs, played by the operator on a virtual clock, as Prometheus has them.

The clusters and agents are simulated (`tests.simulation`); what /metrics shows of a job every
half minute, and what the rules make of it, is not. It is what the pictures are drawn from.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.progress import step
from e2e.support import prometheus
from e2e.support.prometheus import Prometheus
from goodput_operator.metrics import JobLabels, Metrics, Sources
from monitoring.rules import PRICE, Rule, rule_file
from tests.simulation import workers
from tests.simulation.world import KEY, START, World, simulate

GPU, GPUS_PER_NODE, PRICE_PER_HOUR = "nvidia.com/gpu", 8, 2.5
HOUR = 3600.0
HOURS = 3
SCRAPE_SECONDS = 30
STEP_SECONDS, STEPS_PER_COMMIT = 20.0, 30
"""A checkpoint every ten minutes."""
QUEUE, TEAM = "kueue.x-k8s.io/queue-name", "team"
LABELS = JobLabels(QUEUE, TEAM)
Harm = Callable[[World], Any]


@dataclass(frozen=True, slots=True)
class Played:
    """One job, in a cluster of its own.

    Attributes:
        harms: what is done to it, each so many hours after the beginning.
        begins: when it is created, in hours after the beginning.
        spec: merged over the job's own.
    """

    name: str
    team: str
    queue: str
    workers: int
    harms: tuple[tuple[float, Harm], ...] = ()
    begins: float = 0.0
    spec: Mapping[str, Any] = field(default_factory=dict)


def _kill(slot: int) -> Harm:
    return lambda world: world.kill_process(slot)


def _lose_node(slot: int) -> Harm:
    return lambda world: world.cluster.lose_node(world.node_of(slot))


def _mend_nodes(world: World) -> None:
    for name, kubelet in world.cluster.kubelets.items():
        if not kubelet.powered:
            world.cluster.heal(name)


def _suspend(suspend: bool) -> Harm:
    return lambda world: world.edit_spec(suspend=suspend)


JOBS = (
    Played(
        "llm-70b",
        "language",
        "gold",
        3,
        ((0.7, _kill(1)), (1.3, _lose_node(2)), (1.8, _lose_node(0)), (2.2, _mend_nodes)),
    ),
    Played("llm-8b", "language", "silver", 2, ((1.1, _suspend(True)), (1.5, _suspend(False)))),
    Played("speech-xl", "speech", "gold", 2, tuple((at, _kill(0)) for at in (0.5, 0.9, 1.7))),
    Played("vision-b", "vision", "silver", 2, ((2.1, _lose_node(0)),), begins=0.8),
)
"""The one that the Job dashboard shows comes first: one spare node, two lost, so that it waits."""


class Recorder:
    """What has been scraped, as OpenMetrics wants history: by metric, each series in its order."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._samples: dict[str, dict[str, list[str]]] = {}
        self._accelerators: dict[tuple[str, float], int] = {}

    def take(self, page: str, at: float) -> None:
        """Take in the jobs of one scrape at a time, in seconds since the epoch."""
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, self._kinds[name] = line.split()
            elif ",job=" in line:
                series, value = line.rsplit(" ", 1)
                by_series = self._samples.setdefault(series.partition("{")[0], {})
                by_series.setdefault(series, []).append(f"{series} {value} {at:.3f}")
            elif found := re.match(r"(goodput_cluster_\w+)\{accelerator=\S+ (\S+)", line):
                key = found[1], at  # of several clusters, what all have
                self._accelerators[key] = self._accelerators.get(key, 0) + int(float(found[2]))

    def text(self) -> str:
        """Return all of it."""
        for (name, at), count in sorted(self._accelerators.items()):
            series = f'{name}{{accelerator="{GPU}"}}'
            self._samples.setdefault(name, {}).setdefault(series, []).append(
                f"{series} {count} {at:.3f}"
            )
        self._accelerators.clear()
        parts = []
        for name, by_series in self._samples.items():
            kind = self._kinds[name]
            parts.append(f"# TYPE {name.removesuffix('_total')} {kind}")
            parts += [line for lines in by_series.values() for line in lines]
        return "\n".join([*parts, "# EOF"]) + "\n"


def play() -> str:
    """Play them all; return its history."""
    recorder = Recorder()
    workers.STEP_SECONDS, workers.STEPS_PER_COMMIT = STEP_SECONDS, STEPS_PER_COMMIT
    for played in JOBS:
        with step(f"playing {HOURS} hours of {played.name}"):
            simulate(partial(_play, recorder, played), workers=played.workers)
    return recorder.text()


async def _play(recorder: Recorder, played: Played, world: World) -> None:
    for name in world.cluster.kubelets:
        world.server.change("nodes", "", name, _with_gpus)
    await world.start_operator()
    metrics = _metrics(world)
    world.operator.parts.jobs.on_every_change(
        lambda _, job: metrics.follow(KEY, job and _named(job, played.name))
    )
    due: list[tuple[float, Harm]] = [(played.begins, partial(_create, played)), *played.harms]
    due.sort(key=lambda one: one[0])
    for number in range(int(HOURS * HOUR / SCRAPE_SECONDS)):
        at = number * SCRAPE_SECONDS
        while due and due[0][0] * HOUR <= at:
            due.pop(0)[1](world)
        await asyncio.sleep(max(0.0, at - world.clock()))
        recorder.take(metrics.render().decode(), begin() + at)


def _metrics(world: World) -> Metrics:
    book = world.operator.parts.book
    assert book is not None
    metrics = Metrics(
        Sources(
            jobs=lambda: 1,
            queue_depth=lambda: 0,
            watch_ages_seconds=dict,
            api_requests=dict,
            report_results=dict,
            agents=lambda: 0,
            accelerators=book.accelerators,
            now=world.operator.now,
        ),
        LABELS,
    )
    metrics.lead(leading=True)
    return metrics


def _create(played: Played, world: World) -> None:
    amounts = {"cpu": "1", GPU: str(GPUS_PER_NODE)}
    container = {
        "name": "trainer",
        "image": "train",
        "command": ["train"],
        "resources": {"requests": amounts, "limits": amounts},
    }
    world.create_job(template={"spec": {"containers": [container]}}, **played.spec)
    labels = {QUEUE: played.queue, TEAM: played.team}
    world.server.change("trainingjobs", *KEY, lambda job: job["metadata"].update(labels=labels))


def _with_gpus(node: dict[str, Any]) -> None:
    node["status"]["allocatable"][GPU] = str(GPUS_PER_NODE)


def _named(job: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the job under a name of its own, as each world calls its one job the same."""
    return {**job, "metadata": {**job["metadata"], "name": name}}


@contextmanager
def remembered(history: str, where: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that remembers a history, and what the rules have recorded over it."""
    data = where / "data"
    (where / "history").write_text(history)
    with step("giving the history to Prometheus"):
        prometheus.promtool(
            *("tsdb", "create-blocks-from", "openmetrics", str(where / "history"), str(data))
        )
    # A rule that asks for another's records is worked out when those are there.
    for number, group in enumerate(in_turn(_rules())):
        with step(f"working out {len(group['rules'])} rules"):
            file = where / f"rules-{number}.yaml"
            file.write_text(yaml.safe_dump({"groups": [group]}))
            with prometheus.serving(prometheus.configuration([], []), data) as server:
                prometheus.promtool(
                    *("tsdb", "create-blocks-from", "rules", f"--url={server.url}"),
                    *(f"--start={int(begin())}", f"--end={int(end())}"),
                    *(f"--output-dir={where / 'new'}", str(file)),
                )
            for block in (where / "new").iterdir():
                block.rename(data / block.name)
    with prometheus.serving(prometheus.configuration([], []), data) as server:
        yield server


def begin() -> float:
    """Return when the history begins, in seconds since the epoch."""
    return float(START.timestamp())


def end() -> float:
    """Return when its last scrape was."""
    return begin() + HOURS * HOUR - SCRAPE_SECONDS


def in_turn(rules: list[Rule]) -> Iterator[dict[str, Any]]:
    """Yield groups of rules, none of which asks for a record of its own group or a later one."""
    left = {rule["record"] + str(rule.get("labels")): rule for rule in rules}
    while left:
        names = {rule["record"] for rule in left.values()}
        asked = {
            key: set(re.findall(r"[a-z]+:[\w:]+", rule["expr"])) & names
            for key, rule in left.items()
        }
        ready = [left.pop(key) for key, needs in asked.items() if not needs]
        assert ready, "rules that ask for each other"
        yield {"name": f"left-{len(left)}", "interval": "5m", "rules": ready}


def _rules() -> list[Rule]:
    recorded = [rule for group in rule_file()["groups"] for rule in group["rules"]]
    price = f"vector({PRICE_PER_HOUR})"
    return [
        *(rule for rule in recorded if "record" in rule),
        {"record": PRICE, "expr": price, "labels": {"accelerator": GPU}},
    ]
