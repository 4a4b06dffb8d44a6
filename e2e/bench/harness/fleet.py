"""Play the kubelets of fake nodes: a bound pod runs, has an address, and its agent calls."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator import names

from .agents import Agent, Seat
from .api_tier import JOBS, MERGE_PATCH, PODS, STRATEGIC_PATCH, Client, Object
from .training import Training

_OURS = f"labelSelector=app.kubernetes.io%2Fmanaged-by%3D{names.OPERATOR_NAME}"
_BOUND = "fieldSelector=spec.nodeName%21%3D"


@dataclass(slots=True)
class Fleet:
    """All workers that have started so far.

    Attributes:
        training: what they all take part in; None: each trains by itself.
    """

    api: Client
    operator_port: int
    training: Training | None = None
    agents: dict[str, Agent] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _context: ssl.SSLContext | None = None

    async def start(self, pods: list[Object]) -> None:
        """Run these bound pods, and return when their agents have been answered."""
        await asyncio.gather(*(self._start(pod) for pod in pods))
        agents = [self.agents[pod["metadata"]["name"]] for pod in pods]
        await asyncio.gather(*(agent.connected.wait() for agent in agents))

    @property
    def troubles(self) -> int:
        """How many exchanges of all agents have failed."""
        return sum(agent.troubles for agent in self.agents.values())

    def silence(self, pods: Iterable[str]) -> None:
        """End the agents of these pods, and what they run, without a word."""
        for name in pods:
            self._tasks[name].cancel()
            del self.agents[name]

    async def bury(self) -> None:
        """Do what the kubelets do for pods that are being deleted: end them, and say so."""
        for pod in await self.api.items(PODS):
            if "deletionTimestamp" in pod["metadata"]:
                name = pod["metadata"]["name"]
                if name in self.agents:
                    self.silence([name])
                await self.api.call("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})

    async def stop(self) -> None:
        """End all agents."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _start(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        address = f"10.{'.'.join(str(byte) for byte in _digest(name, 3))}"
        await run_pod(self.api, name, address)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [TOKEN_AUDIENCE],
                "expirationSeconds": 3600,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": name,
                    "uid": pod["metadata"]["uid"],
                },
            },
        }
        path = "/api/v1/namespaces/default/serviceaccounts/default/token"
        token = (await self.api.call("POST", path, request))["status"]["token"]
        _, slot, incarnation = name.rsplit("-", 2)
        seat = Seat(
            slot=int(slot),
            incarnation=int(incarnation),
            address=address,
            source=_address_of(pod["spec"]["nodeName"]),
            token=token,
            operator_port=self.operator_port,
        )
        if self._context is None:
            ca = pod["metadata"]["annotations"][names.ANNOTATION_CA]
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.load_verify_locations(cadata=ca)
        agent = self.agents[name] = Agent(seat, self._context, self.training)
        self._tasks[name] = asyncio.create_task(agent.run())


def running(address: str) -> Object:
    """Return the status that a kubelet writes for a pod whose trainer runs."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
    done = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "startTime": now,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds
        ],
        "initContainerStatuses": [_container(names.AGENT_CONTAINER, {"terminated": done})],
        "containerStatuses": [_container("trainer", {"running": {"startedAt": now}})],
    }


def _container(name: str, state: Object) -> Object:
    return {
        "name": name,
        "state": state,
        "lastState": {},
        "ready": True,
        "started": True,
        "restartCount": 0,
        "image": "trainer.example/trainer:bench",
        "imageID": "sha256:" + "0" * 64,
        "containerID": "containerd://" + hashlib.sha256(name.encode()).hexdigest(),
    }


def _address_of(node: str) -> str:
    """Return an address of this host that stands for a node."""
    return f"127.{'.'.join(str(1 + byte % 250) for byte in _digest(node, 3))}"


def _digest(text: str, length: int) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:length]


def training_job(name: str, workers: int, gpus: int, managed_by: str | None = None) -> Object:
    """Return a TrainingJob of `workers` pods with `gpus` accelerators and one process each."""
    amounts = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
    trainer = {
        "name": "trainer",
        "image": "trainer.example/trainer:bench",
        "command": ["python3", "/app/train.py"],
        "env": [{"name": f"SETTING_{number}", "value": "x" * 20} for number in range(10)],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": "shared", "mountPath": "/checkpoints"}],
    }
    volume = {"name": "shared", "emptyDir": {}}
    spec: Object = {
        "workers": workers,
        "processesPerWorker": 1,
        "launcher": "Processes",
        "template": {"spec": {"containers": [trainer], "volumes": [volume]}},
    }
    if managed_by is not None:
        spec["managedBy"] = managed_by
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


@asynccontextmanager
async def seen(
    api: Client, path: str, query: str, matches: Callable[[Object], bool]
) -> AsyncIterator[asyncio.Queue[tuple[float, Object]]]:
    """Give a queue of (loop time, object) for what matches from now on."""
    found: asyncio.Queue[tuple[float, Object]] = asyncio.Queue()

    version = await api.version(path)

    async def look() -> None:
        loop = asyncio.get_running_loop()
        async for event in api.watch(path, query, version):
            if event["type"] != "DELETED" and matches(event["object"]):
                found.put_nowait((loop.time(), event["object"]))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(look())
        yield found
        task.cancel()


@asynccontextmanager
async def bound_pods(api: Client) -> AsyncIterator[asyncio.Queue[tuple[float, Object]]]:
    """Give a queue of our pods as they get bound."""
    async with seen(api, PODS, f"{_OURS}&{_BOUND}", lambda _: True) as found:
        yield found


async def all_bound(
    found: asyncio.Queue[tuple[float, Object]], count: int
) -> tuple[float, list[Object]]:
    """Return when the last of `count` pods was bound, and the pods."""
    pods: dict[str, Object] = {}
    at = 0.0
    while len(pods) < count:
        at, pod = await found.get()
        pods[pod["metadata"]["name"]] = pod
    return at, list(pods.values())


def is_running(job: Object) -> bool:
    """Tell whether all agents of a job have confirmed its attempt, and that is persisted."""
    attempt: dict[str, Any] = job.get("status", {}).get("attempt") or {}
    return attempt.get("state") == "Running"


async def remove(api: Client, *jobs: str) -> None:
    """Delete these jobs, and all pods at once; return when none is left."""
    for job in jobs:
        await api.call("DELETE", f"{JOBS}/{job}", {"propagationPolicy": "Background"})
    await remove_pods(api)


async def remove_pods(api: Client) -> None:
    """Delete all pods of the namespace, without a kubelet's consent."""
    while True:
        await api.call("DELETE", PODS, {"gracePeriodSeconds": 0})
        left = await api.call("GET", f"{PODS}?limit=1")
        if not left["items"]:
            return
        await asyncio.sleep(0.2)


async def run_pod(api: Client, pod: str, address: str) -> None:
    """Write what a kubelet does once a pod's trainer runs."""
    path = f"{PODS}/{pod}/status"
    await api.call("PATCH", path, {"status": running(address)}, STRATEGIC_PATCH)


async def change(api: Client, pod: str, message: str) -> None:
    """Change a pod in a way that its watchers must look at."""
    path = f"{PODS}/{pod}/status"
    await api.call("PATCH", path, {"status": {"message": message}}, MERGE_PATCH)
