"""How fast a gang starts: against a raw loop that creates the same pods, and to the first world.

On a control plane of its own (real etcd, API server, scheduler), with nodes that nobody runs:

- `ratio`: seconds from the POST of the TrainingJob until all of its pods are bound, divided by
  the seconds that a bare loop of 64 concurrent creations of identical pinned pods takes with the
  same scheduler and without the operator; medians of alternating rounds, the worse of 500 and
  1,000 workers. Either side has started a gang of 100 before: connections and caches are warm.
- `form_seconds`: from the moment when all 1,000 agents (the real core over real TLS, each with a
  token of its pod) are connected, until all have confirmed that their processes run and the
  status says so. `bound_to_running_seconds` is the same from the last binding on, with the start
  of the pods and of the agents, which is the harness's work on the same machine.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.progress import say
from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.render.pod import JobIdentity, RenderSettings, render_pod

from .harness import fleet, report
from .harness.api_tier import GPUS_PER_NODE, JOBS, PODS, Client, api_tier, client, node_name
from .harness.operator_process import operator

NODES = 250
SIZES = (500, 1000)
GPUS = 2
ROUNDS = 3
WARM_UP = 100
_PER_NODE = GPUS_PER_NODE // GPUS
_OTHER = "bench.example/nobody"


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a gang, in seconds."""

    bound: float
    form: float
    bound_to_running: float


async def raw_loop(api: Client, workers: int) -> float:
    """Return the seconds in which a bare loop gets the same pods bound."""
    job = fleet.training_job("raw", workers, GPUS, managed_by=_OTHER)
    owner = (await api.call("POST", JOBS, job))["metadata"]["uid"]
    identity = JobIdentity("default", "raw", owner)
    spec = TrainingJobSpec.model_validate(job["spec"])
    settings = RenderSettings("agent.example/agent:bench", "https://127.0.0.1:8443", "x" * 700)
    bodies = [
        render_pod(identity, spec, slot, 0, node_name(slot // _PER_NODE), settings)
        for slot in range(workers)
    ]
    async with fleet.bound_pods(api) as found:
        began = time.monotonic()
        await asyncio.gather(*(api.call("POST", PODS, body) for body in bodies))
        ended, _ = await fleet.all_bound(found, workers)
    await fleet.remove(api, "raw")
    return ended - began


async def our_launch(plane: ControlPlane, api: Client, workers: int) -> Launch:
    """Return how long our own start of the same gang takes."""
    with operator(plane) as process:
        async with fleet.bound_pods(api) as found:
            await api.call("POST", JOBS, fleet.training_job("warm", WARM_UP, GPUS))
            await fleet.all_bound(found, WARM_UP)
        await fleet.remove(api, "warm")
        job = fleet.training_job("gang", workers, GPUS)
        async with (
            fleet.bound_pods(api) as found,
            fleet.seen(api, JOBS, "", fleet.is_running) as running,
        ):
            began = time.monotonic()
            await api.call("POST", JOBS, job)
            bound_at, pods = await fleet.all_bound(found, workers)
            crew = fleet.Fleet(api, process.agent_port)
            await crew.start(pods)
            connected_at = time.monotonic()
            running_at, _ = await running.get()
        if crew.troubles:
            say(f"{crew.troubles} exchanges of agents failed and were repeated")
        await crew.stop()
    await fleet.remove(api, "gang")
    return Launch(bound_at - began, running_at - connected_at, running_at - bound_at)


async def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures."""
    figures: dict[str, float] = {}
    ratios = []
    async with client(plane) as api:
        say("warming up")
        await raw_loop(api, WARM_UP)
        for workers in SIZES:
            raw, ours = [], []
            for number in range(ROUNDS):
                raw.append(await raw_loop(api, workers))
                ours.append(await our_launch(plane, api, workers))
                say(
                    f"{workers} workers, round {number + 1}: raw loop {raw[-1]:.2f} s, "
                    f"ours {ours[-1].bound:.2f} s to all bound; connected to running "
                    f"{ours[-1].form:.2f} s, bound to running {ours[-1].bound_to_running:.2f} s"
                )
            bound = median(launch.bound for launch in ours)
            ratios.append(bound / median(raw))
            figures[f"raw_seconds_{workers}"] = median(raw)
            figures[f"bound_seconds_{workers}"] = bound
            figures["form_seconds"] = median(launch.form for launch in ours)
            figures["bound_to_running_seconds"] = median(one.bound_to_running for one in ours)
    return {"ratio": max(ratios), **figures}


def main() -> None:
    report.begin("gang-launch")
    with api_tier(NODES) as plane:
        report.finish(asyncio.run(measure(plane)))


if __name__ == "__main__":
    main()
