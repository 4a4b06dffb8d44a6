"""What a change of size costs that was asked for, on real nodes: 4 → 3 → 4 by `kubectl scale`.

An elastic job of `examples/counter`, four ranks in four pods, in rounds:

- `shrink_overhead_seconds`, `grow_overhead_seconds`: from the last step before the change until
  the first one after it, less one step and the framework's own start-up, which is from the start
  of the slowest process of the new attempt until that first step, less the step itself. The median
  of the rounds, with the worst. Every time is one that the agents and the trainers had their lines
  in the pods' logs stamped with, by the container runtime: the agents say there when they start an
  attempt.
- `lost_steps`: finished before a change and done again after it, all changes together.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from statistics import median

from e2e.cluster import Cluster
from e2e.cluster.progress import say
from e2e.support.job import Job, steps_of

from .harness import report
from .harness.node_tier import moment, namespace, node_tier

LARGE, SMALL = 4, 3
ROUNDS = 5
STEP_SECONDS = 0.1
STEPS_BETWEEN = 50
_STAMPED = re.compile(r"^(\S{26})\S* (.*)$", re.MULTILINE)
_BEGIN = re.compile(r"attempt (\d+): worker \d+ of \d+, ")


@dataclass(frozen=True, slots=True)
class Life:
    """One attempt, by what the pods of its members have said.

    Attributes:
        started_at: when the last of its agents began to start its processes.
        steps: when each step was finished by the first rank that said so.
    """

    started_at: float
    steps: dict[int, float]


def lives(cluster: Cluster, job: Job) -> dict[int, Life]:
    """Return the attempts that the pods which are there have been part of."""
    started: dict[int, float] = {}
    steps: dict[int, dict[int, float]] = {}
    for pod in job.pods():
        at = ("-n", job.namespace, pod["metadata"]["name"], "-c", "trainer")
        said = cluster.kubectl("logs", *at, "--timestamps", check=False)
        for stamp, line in _STAMPED.findall(said):
            if begun := _BEGIN.search(line):
                attempt, now = int(begun[1]), moment(stamp + "Z")
                started[attempt] = max(now, started.get(attempt, now))
            for step in steps_of(line):
                known = steps.setdefault(step.attempt, {})
                now = moment(stamp + "Z")
                known[step.step] = min(now, known.get(step.step, now))
    return {number: Life(started[number], steps[number]) for number in steps if number in started}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one change has cost."""

    stood_seconds: float
    startup_seconds: float
    lost_steps: int

    @property
    def overhead_seconds(self) -> float:
        """The part of the interruption that the framework's start does not explain."""
        return self.stood_seconds - self.startup_seconds


def cost_of(before: Life, after: Life) -> Cost:
    """Return what the change from one attempt to the next has cost."""
    last, first = max(before.steps), min(after.steps)
    return Cost(
        stood_seconds=after.steps[first] - before.steps[last] - STEP_SECONDS,
        startup_seconds=after.steps[first] - after.started_at - STEP_SECONDS,
        lost_steps=last + 1 - first,
    )


def measure(cluster: Cluster) -> dict[str, float]:
    """Return the figures."""
    costs: dict[int, list[Cost]] = {SMALL: [], LARGE: []}
    with namespace(cluster, "bench-rescale") as name:
        limits = {"minWorkers": SMALL, "maxWorkers": LARGE}
        job = Job(cluster, name).apply(
            workers=LARGE,
            steps=1_000_000,
            step_seconds=STEP_SECONDS,
            checkpoint_every=1000,
            spec={"elastic": limits, "parallelism": {"globalBatchSize": 12}},
        )
        job.wait_attempt(1)
        job.wait_step(STEPS_BETWEEN)
        for number in range(2, 2 + 2 * ROUNDS):
            size = SMALL if number % 2 == 0 else LARGE
            asked_at = time.monotonic()
            cluster.kubectl("scale", "gtj", job.name, "-n", name, f"--replicas={size}")
            status = job.wait_attempt(number)
            after_seconds = time.monotonic() - asked_at
            assert status["attempt"]["worldSize"] == size
            step = status["attempt"]["restoreStep"]
            job.wait_step(step + STEPS_BETWEEN, attempt=number)
            found = lives(cluster, job)
            cost = cost_of(found[number - 1], found[number])
            costs[size].append(cost)
            say(
                f"to {size} workers: asked {after_seconds:.1f} s before they ran; stood for "
                f"{cost.stood_seconds:.2f} s, of which start-up {cost.startup_seconds:.2f} s"
            )
    shrinks = [one.overhead_seconds for one in costs[SMALL]]
    grows = [one.overhead_seconds for one in costs[LARGE]]
    return {
        "shrink_overhead_seconds": median(shrinks),
        "grow_overhead_seconds": median(grows),
        "shrink_overhead_seconds_worst": max(shrinks),
        "grow_overhead_seconds_worst": max(grows),
        "startup_seconds": median(one.startup_seconds for one in costs[SMALL] + costs[LARGE]),
        "lost_steps": sum(one.lost_steps for one in costs[SMALL] + costs[LARGE]),
    }


def main() -> None:
    report.begin("rescale-real")
    with node_tier() as cluster:
        report.finish(measure(cluster))


if __name__ == "__main__":
    main()
