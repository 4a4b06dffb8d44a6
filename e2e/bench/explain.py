"""How long a person waits for `kubectl goodput explain`, beside 1,000 jobs with pods and events.

A real API server; nothing is warm but it: each try is a process of its own, as it is typed, of
the sources as pip installs them: compiled.

- `explain_p50_ms`, `explain_max_ms`: of `TRIES` tries, from the start of the process to its end.
- `top_ms`: `kubectl goodput top -A` over all of them, the best of three.
- `jobs`: beside how many, each with a pod and ten events.
"""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.cluster import binaries
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say

from .harness import fleet, report
from .harness.api_tier import JOBS, PODS, Client, api_tier, client
from .harness.load import percentile

COUNT, EVENTS, TRIES = 1000, 10, 21
CONNECTIONS = 8
_EVENTS = "/api/v1/namespaces/default/events"


async def fill(api: Client) -> None:
    """Create the jobs, each with a status, a pod that waits and events that tell of it."""
    await asyncio.gather(*(_create(api, number) for number in range(COUNT)))


async def _create(api: Client, number: int) -> None:
    name = f"job-{number}"
    made = await api.call("POST", JOBS, fleet.training_job(name, 4, 2))
    await api.call("PUT", f"{JOBS}/{name}/status", {**made, "status": _status()})
    labels = {"goodput.training/job": name}
    container = {"name": "trainer", "image": "example.com/none:1"}
    pod = {
        "metadata": {"name": f"{name}-0-0", "labels": labels},
        "spec": {"containers": [container], "nodeSelector": {"no": "where"}},
    }
    await api.call("POST", PODS, pod)
    about = {"kind": "TrainingJob", "name": name, "namespace": "default"}
    about["uid"] = made["metadata"]["uid"]
    for place in range(EVENTS):
        told = {
            "metadata": {"name": f"{name}.{place}"},
            "involvedObject": about,
            "reason": "ProcessFailed",
            "message": "rank 3 of worker 1 ended with exit code 1",
            "type": "Warning",
            "lastTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        await api.call("POST", _EVENTS, told)


def _status() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    incident = {
        "attempt": 1,
        "reason": "ProcessFailed",
        "planned": False,
        "charged": True,
        "message": "x" * 1000,
        "decision": "RestartProcesses",
        "why": "y" * 500,
        "faultAt": now,
        "decidedAt": now,
        "acceleratorMilliseconds": {"lost_work": 1},
    }
    incidents = [{**copy.deepcopy(incident), "attempt": number} for number in range(10, 0, -1)]
    return {
        "phase": "Running",
        "attempt": {"number": 11, "state": "Running", "openedAt": now},
        "slots": [{"slot": slot, "incarnation": 0, "rank": slot} for slot in range(4)],
        "ledger": {"acceleratorMilliseconds": {"productive": 1, "lost_work": 10}},
        "incidents": incidents,
    }


def timed(plane: ControlPlane, compiled: Path, *arguments: str) -> float:
    """Return how many milliseconds a command took."""
    kubectl = binaries.ensure(["kubectl"])["kubectl"]
    environment = os.environ | {
        "PATH": str(kubectl.parent),
        "KUBECONFIG": str(plane.kubeconfig),
        "PYTHONPATH": str(REPOSITORY / "operator"),
        "PYTHONPYCACHEPREFIX": str(compiled),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "goodput_operator.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    took = (time.perf_counter() - began) * 1000
    if done.returncode or "job-" not in done.stdout:
        raise ClusterError(f"kubectl goodput {' '.join(arguments)}: {done.stderr[:300]}")
    return took


def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures."""

    async def filled() -> None:
        async with client(plane, CONNECTIONS) as api:
            await fill(api)

    asyncio.run(filled())
    say(f"{COUNT} jobs are there")
    with tempfile.TemporaryDirectory(prefix="goodput-compiled-") as home:
        compiled = Path(home)
        explain = ("explain", f"job-{COUNT // 2}")
        timed(plane, compiled, *explain)  # compiles
        times = sorted(timed(plane, compiled, *explain) for _ in range(TRIES))
        return {
            "explain_p50_ms": percentile(times, 0.5),
            "explain_max_ms": times[-1],
            "top_ms": min(timed(plane, compiled, "top", "-A") for _ in range(3)),
            "jobs": COUNT,
        }


def main() -> None:
    report.begin("explain")
    with api_tier(1) as plane:
        report.finish(measure(plane), digits=1)


if __name__ == "__main__":
    main()
