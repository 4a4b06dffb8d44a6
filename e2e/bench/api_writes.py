"""What a gang costs the API server in writes: to start, and at rest.

Counted by the operator's own `goodput_operator_api_requests_total`: answered creates, updates
and deletes, events among them. Not counted: the Lease, TokenReviews and dry runs, and what the
scheduler and the (played) kubelets write.

- `writes_per_worker`: pods created for a gang of 1,000, until all agents have confirmed, divided
  by its size. `writes_per_job`: all other writes until then.
- `idle_writes_per_minute`: of one running job of 10 workers that step along; over three minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.progress import say

from .harness import fleet, report
from .harness.api_tier import JOBS, Client, api_tier, client
from .harness.operator_process import OperatorProcess, operator

NODES = 300
WORKERS, GPUS = 1000, 2
IDLE_JOBS, IDLE_WORKERS = 10, 10
SETTLE_SECONDS, IDLE_SECONDS = 20, 180


async def start(api: Client, process: OperatorProcess, jobs: int, workers: int) -> fleet.Fleet:
    """Start jobs called gang-0, gang-1 …, and return their agents once all of them run."""
    crew = fleet.Fleet(api, process.agent_port)
    async with (
        fleet.bound_pods(api) as found,
        fleet.seen(api, JOBS, "", fleet.is_running) as running,
    ):
        for number in range(jobs):
            await api.call("POST", JOBS, fleet.training_job(f"gang-{number}", workers, GPUS))
        _, pods = await fleet.all_bound(found, jobs * workers)
        await crew.start(pods)
        names: set[str] = set()
        while len(names) < jobs:
            _, job = await running.get()
            names.add(job["metadata"]["name"])
    return crew


async def measure_launch(api: Client, process: OperatorProcess) -> dict[str, float]:
    """Return the writes that one large gang costs."""
    before = process.writes()
    crew = await start(api, process, 1, WORKERS)
    spent = _difference(before, process.writes())
    say(f"a gang of {WORKERS}: {spent}")
    await crew.stop()
    pods = spent.get("create pods", 0)
    return {
        "writes_per_worker": pods / WORKERS,
        "writes_per_job": sum(spent.values()) - pods,
    }


async def measure_idle(api: Client, process: OperatorProcess) -> dict[str, float]:
    """Return the writes of jobs that run."""
    crew = await start(api, process, IDLE_JOBS, IDLE_WORKERS)
    await asyncio.sleep(SETTLE_SECONDS)
    before = process.writes()
    await asyncio.sleep(IDLE_SECONDS)
    spent = _difference(before, process.writes())
    say(f"{IDLE_JOBS} jobs in {IDLE_SECONDS} s: {spent}")
    await crew.stop()
    return {"idle_writes_per_minute": sum(spent.values()) / IDLE_JOBS / (IDLE_SECONDS / 60)}


async def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures."""
    async with client(plane) as api:
        with operator(plane) as process:
            launch = await measure_launch(api, process)
        await fleet.remove(api, "gang-0")
        with operator(plane) as process:
            return launch | await measure_idle(api, process)


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {what: n - before.get(what, 0) for what, n in after.items() if n > before.get(what, 0)}


def main() -> None:
    report.begin("api-writes")
    with api_tier(NODES) as plane:
        report.finish(asyncio.run(measure(plane)))


if __name__ == "__main__":
    main()
