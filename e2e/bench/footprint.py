"""What the operator costs: memory and processor time with 100 jobs of 10 workers each.

All 1,000 agents (the real core over real TLS) hold their polls, and their trainers step along.

- `rss_mb`: resident memory then, in MiB; `rss_at_rest_mb`: before the first job.
- `idle_core_percent`: of one core, over a minute in which nothing happens.
- `busy_core_percent`: the same while 100 pods change per second, each waking its job.
- `kb_per_pod`: further resident KiB per pod: the worse of 2,000 pods of ours without an agent,
  and 4,000 of somebody else.
"""

from __future__ import annotations

import asyncio
import random
import time

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.progress import say
from goodput_operator import names

from .api_writes import start
from .harness import fleet, report
from .harness.api_tier import PODS, Client, Object, api_tier, client, node_name
from .harness.operator_process import OperatorProcess, operator

NODES = 300
JOBS, WORKERS = 100, 10
MEASURE_SECONDS, SETTLE_SECONDS = 60, 15
CHANGES_PER_SECOND = 100
OWN_PODS, FOREIGN_PODS = 2000, 4000


async def core_percent(process: OperatorProcess, seconds: float) -> float:
    """Return the share of one core that the operator uses during the next `seconds`."""
    began, used = time.monotonic(), process.cpu_seconds()
    await asyncio.sleep(seconds)
    return 100 * (process.cpu_seconds() - used) / (time.monotonic() - began)


async def change_pods(api: Client, pods: list[str], per_second: int) -> None:
    """Change pods for ever, in a way that their jobs must look at."""
    loop = asyncio.get_running_loop()
    due, number = loop.time(), 0
    async with asyncio.TaskGroup() as group:
        while True:
            number += 1
            pod = random.choice(pods)
            group.create_task(fleet.change(api, pod, f"change {number}"))
            due += 1 / per_second
            await asyncio.sleep(due - loop.time())


async def add_pods(api: Client, process: OperatorProcess, prefix: str, pods: int) -> float:
    """Return the KiB by which the operator grows for each of `pods` bound and running pods."""
    before = process.rss_kib()
    bodies = [_pod(f"{prefix}-{number}-0", number) for number in range(pods)]
    for begin in range(0, pods, 500):
        await asyncio.gather(*(_create(api, body) for body in bodies[begin : begin + 500]))
    await asyncio.sleep(SETTLE_SECONDS)
    return (process.rss_kib() - before) / pods


async def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures."""
    async with client(plane) as api:
        with operator(plane) as process:
            rest = process.rss_kib() / 1024
            say(f"{rest:.0f} MiB without a job")
            crew = await start(api, process, JOBS, WORKERS)
            await asyncio.sleep(SETTLE_SECONDS)
            idle = await core_percent(process, MEASURE_SECONDS)
            rss = process.rss_kib() / 1024
            connected = process.gauge("goodput_operator_agents")
            say(f"{rss:.0f} MiB with {connected:.0f} agents, {idle:.1f} % of a core at rest")
            changes = asyncio.create_task(change_pods(api, list(crew.agents), CHANGES_PER_SECOND))
            await asyncio.sleep(5)
            busy = await core_percent(process, MEASURE_SECONDS / 2)
            busy_rss = process.rss_kib() / 1024
            changes.cancel()
            await asyncio.gather(changes, return_exceptions=True)
            say(f"{busy:.1f} % of a core while {CHANGES_PER_SECOND} pods change per second")
            ours = await add_pods(api, process, "own", OWN_PODS)
            foreign = await add_pods(api, process, "foreign", FOREIGN_PODS)
            say(f"{ours:.1f} KiB per further pod of ours, {foreign:.1f} per foreign one")
            await crew.stop()
    return {
        "rss_mb": rss,
        "kb_per_pod": max(ours, foreign),
        "idle_core_percent": idle,
        "busy_core_percent": busy,
        "busy_rss_mb": busy_rss,
        "rss_at_rest_mb": rest,
    }


def _pod(name: str, number: int) -> Object:
    template = fleet.training_job("own", 1, 0)["spec"]["template"]["spec"]
    own = {names.LABEL_MANAGED_BY: names.OPERATOR_NAME, names.LABEL_JOB: "own"}
    metadata: Object = {"name": name, "labels": {"app": name}}
    if name.startswith("own-"):
        metadata["labels"] = {**own, names.LABEL_SLOT: str(number), names.LABEL_INCARNATION: "0"}
    return {"metadata": metadata, "spec": {**template, "nodeName": node_name(number % NODES)}}


async def _create(api: Client, body: Object) -> None:
    name = body["metadata"]["name"]
    await api.call("POST", PODS, body)
    await fleet.run_pod(api, name, "10.0.0.1")


def main() -> None:
    report.begin("footprint")
    with api_tier(NODES) as plane:
        report.finish(asyncio.run(measure(plane)))


if __name__ == "__main__":
    main()
