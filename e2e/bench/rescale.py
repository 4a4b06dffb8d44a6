"""How fast a gang of 1,000 comes to another size, forced to and asked to, and what it writes.

On a control plane of its own, with nodes that nobody runs: 125 of them, full with an elastic job
that may have 992 or 1,000 workers, eight of them on a node. The agents are the real core over
real TLS; their processes start at once and die of any signal.

Forced, by a training without checkpoints, in rounds:

- `shrink_p99_seconds`: a Node object is deleted, and its agents say no more. From then until the
  agents of the 992 have each reported that their processes of the next attempt run: the p99 over
  agents and rounds, the last of all beside it, and when the status said so.
- `grow_seconds`: the node is back, and 1,000 are asked for (the rule by itself would wait for
  hours until growth is worth a restart of all). From the request until all 1,000 run, with the
  start of eight pods in it; `gang_of_8_seconds` is from the POST of a job of that size until it
  runs, on the same node, in the same round, beside the same 992. Medians.
- `writes_shrink`, `writes_grow`: the operator's persisted writes (as `api-writes` counts) from the
  change until it runs, the most of any round; `changed_workers` are those that come or go.

Asked for through the scale subresource, 1,000 → 992 → 1,000, by a training that saves by the SDK:

- `lost_steps`: finished before a change and done again after it, both changes together.
- `planned_writes_shrink`, `planned_writes_grow` as above. `planned_shrink_stood_seconds`,
  `planned_grow_stood_seconds`: from the last step before the change until all processes after it
  run; the rest of `planned_shrink_seconds` and `planned_grow_seconds` it trains on, until the step
  that it was asked to save has come.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.progress import say
from goodput_operator.plan.resize import NOTICE_SECONDS

from .harness import fleet, report
from .harness.api_tier import (
    GPUS_PER_NODE,
    JOBS,
    MERGE_PATCH,
    NODES,
    PODS,
    Client,
    Object,
    api_tier,
    client,
    create_nodes,
    node_name,
)
from .harness.operator_process import OperatorProcess, operator
from .harness.training import Training

LARGE, SMALL = 1000, 992
CHANGED = LARGE - SMALL
LOST_NODES = (124, 0, 60)
"""One of them in each round: of the last rank, of the first, and of some in the middle."""
SETTLE_SECONDS = 10
GANG = "gang"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of size that has been carried out.

    Attributes:
        began_at: the moment before it was caused; monotonic seconds.
        seconds: until the status said that all of the new size run.
        operator_cpu_seconds: processor time that the operator spent in it.
        attempt: the number of the new attempt.
        writes: of the operator in between, by "verb resource".
    """

    began_at: float
    seconds: float
    operator_cpu_seconds: float
    attempt: int
    writes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Bench:
    """One job of `LARGE` workers, its operator and its agents."""

    api: Client
    process: OperatorProcess
    crew: fleet.Fleet

    async def launch(self, name: str, workers: int, spec: Object | None = None) -> float:
        """Start a job; return the seconds until all of it runs."""
        job = fleet.training_job(name, workers, 1)
        job["spec"] |= spec or {}
        async with self._until(name, workers) as (pods, running):
            began = time.monotonic()
            await self.api.call("POST", JOBS, job)
            await self._start(pods, workers)
            ended, _ = await running.get()
        return ended - began

    async def change(
        self, cause: Callable[[], Awaitable[object]], size: int, joiners: int
    ) -> Change:
        """Await what changes the job's size, and return when it has; play kubelet to `joiners`."""
        before = self.process.writes()
        async with self._until(GANG, size) as (pods, running):
            spent = self.process.cpu_seconds()
            began = time.monotonic()
            await cause()
            await self._start(pods, joiners)
            ended, job = await running.get()
        spent = self.process.cpu_seconds() - spent
        after = self.process.writes()
        writes = {what: n - before.get(what, 0) for what, n in after.items()}
        return Change(
            began_at=began,
            seconds=ended - began,
            operator_cpu_seconds=spent,
            attempt=job["status"]["attempt"]["number"],
            writes={what: number for what, number in writes.items() if number},
        )

    async def ask_for(self, workers: int) -> None:
        """Ask for another size, as kubectl scale does."""
        wanted = {"spec": {"replicas": workers}}
        await self.api.call("PATCH", f"{JOBS}/{GANG}/scale", wanted, MERGE_PATCH)

    async def remove(self, name: str) -> None:
        """Delete a job and its pods, and end its agents."""
        await self.api.call("DELETE", f"{JOBS}/{name}", {"propagationPolicy": "Background"})
        path = f"{PODS}?labelSelector=goodput.training%2Fjob%3D{name}"
        self.crew.silence(pod["metadata"]["name"] for pod in await self.api.items(path))
        while await self.api.items(path):
            await self.api.call("DELETE", path, {"gracePeriodSeconds": 0})

    async def lose(self, node: int) -> None:
        """Lose a node: its object is deleted, and nothing on it says another word."""
        self.crew.silence(
            pod["metadata"]["name"]
            for pod in await self.api.items(
                f"{PODS}?fieldSelector=spec.nodeName%3D{node_name(node)}"
            )
        )
        await self.api.call("DELETE", f"{NODES}/{node_name(node)}")

    async def _start(self, pods: asyncio.Queue[tuple[float, Object]], count: int) -> None:
        """Run the pods that get bound, as many as are said to."""
        new: list[Object] = []
        while len(new) < count:
            _, pod = await pods.get()
            known = {one["metadata"]["name"] for one in new} | self.crew.agents.keys()
            if pod["metadata"]["name"] not in known and "deletionTimestamp" not in pod["metadata"]:
                new.append(pod)
        await self.crew.start(new)

    @asynccontextmanager
    async def _until(
        self, name: str, size: int
    ) -> AsyncIterator[
        tuple[asyncio.Queue[tuple[float, Object]], asyncio.Queue[tuple[float, Object]]]
    ]:
        """Give queues of bound pods, and of what the job is once `size` of its workers run."""

        def runs(job: Object) -> bool:
            found = job["metadata"]["name"] == name and fleet.is_running(job)
            return found and job["status"]["attempt"]["worldSize"] == size

        async with (
            fleet.bound_pods(self.api) as pods,
            fleet.seen(self.api, JOBS, "", runs) as running,
        ):
            yield pods, running


async def measure_forced(plane: ControlPlane, api: Client) -> dict[str, float]:
    """Return the figures of a gang that loses a node, and gets it back."""
    confirmed: list[float] = []
    shrinks, grows, eights = [], [], []
    with operator(plane) as process:
        bench = Bench(api, process, fleet.Fleet(api, process.agent_port))
        say(f"{LARGE} workers run after {await bench.launch(GANG, LARGE, _elastic()):.2f} s")
        for node in LOST_NODES:
            await asyncio.sleep(SETTLE_SECONDS)
            shrink = await bench.change(partial(bench.lose, node), SMALL, joiners=0)
            shrinks.append(shrink)
            told = [one.confirmed[shrink.attempt] for one in bench.crew.agents.values()]
            assert len(told) == SMALL
            confirmed += [at - shrink.began_at for at in told]
            say(
                f"without {node_name(node)}: the last agent after "
                f"{max(told) - shrink.began_at:.2f} s, Running after {shrink.seconds:.2f} s "
                f"({shrink.operator_cpu_seconds:.2f} s of processor time); {shrink.writes}"
            )
            await bench.ask_for(SMALL)
            await bench.crew.bury()
            await create_nodes(api, [node])
            await asyncio.sleep(SETTLE_SECONDS)
            eights.append(await bench.launch("eight", CHANGED))
            await bench.remove("eight")
            # The rule avoids a node that lost a worker for a while; growth is not due before.
            await asyncio.sleep(shrink.began_at + NOTICE_SECONDS + 5 - time.monotonic())
            grows.append(await bench.change(partial(bench.ask_for, LARGE), LARGE, CHANGED))
            say(
                f"a gang of {CHANGED} runs after {eights[-1]:.2f} s, the growth by as many after "
                f"{grows[-1].seconds:.2f} s; {grows[-1].writes}"
            )
        await bench.crew.stop()
    await fleet.remove(api, GANG)
    return {
        "shrink_p99_seconds": quantiles(confirmed, n=100)[-1],
        "shrink_last_seconds": max(confirmed),
        "shrink_running_seconds": max(one.seconds for one in shrinks),
        "grow_seconds": median(one.seconds for one in grows),
        "gang_of_8_seconds": median(eights),
        "writes_shrink": max(sum(one.writes.values()) for one in shrinks),
        "writes_grow": max(sum(one.writes.values()) for one in grows),
        "changed_workers": CHANGED,
    }


async def measure_asked(plane: ControlPlane, api: Client) -> dict[str, float]:
    """Return the figures of a gang that saves before it changes."""
    figures: dict[str, float] = {"lost_steps": 0}
    training = Training()
    with operator(plane) as process:
        bench = Bench(api, process, fleet.Fleet(api, process.agent_port, training))
        await bench.launch(GANG, LARGE, _elastic())
        for name, size, joiners in (("shrink", SMALL, 0), ("grow", LARGE, CHANGED)):
            await asyncio.sleep(SETTLE_SECONDS)
            change = await bench.change(partial(bench.ask_for, size), size, joiners)
            before, after = change.attempt - 1, change.attempt
            last = training.last_step(before)
            figures["lost_steps"] += last - training.restored[after]
            stood = change.began_at + change.seconds - training.finished[before][last]
            figures[f"planned_{name}_seconds"] = change.seconds
            figures[f"planned_{name}_stood_seconds"] = stood
            figures[f"planned_writes_{name}"] = sum(change.writes.values())
            say(
                f"{size} asked for: run after {change.seconds:.2f} s, of which training stood "
                f"{stood:.2f} s; from step {last} to {training.restored[after]}; {change.writes}"
            )
            await bench.crew.bury()
        await bench.crew.stop()
    await fleet.remove(api, GANG)
    return figures


async def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures."""
    async with client(plane) as api:
        return await measure_forced(plane, api) | await measure_asked(plane, api)


def _elastic() -> Object:
    """Return what makes a job elastic, with two sizes."""
    limits = {"minWorkers": SMALL, "maxWorkers": LARGE, "workerSizes": [SMALL, LARGE]}
    return {"elastic": limits, "parallelism": {"globalBatchSize": SMALL * LARGE}}


def main() -> None:
    report.begin("rescale")
    gc.set_threshold(50_000)  # a thousand agents live here, which the collector need not walk over
    with api_tier(LARGE // GPUS_PER_NODE) as plane:
        report.finish(asyncio.run(measure(plane)))


if __name__ == "__main__":
    main()
