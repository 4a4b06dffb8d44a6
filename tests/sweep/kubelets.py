"""The kubelets of a lane's nodes, on a real API server: real objects, played containers.

What is inside a container is `tests.simulation.workers`: the agent's real core, and processes
that exist in name only.
"""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from e2e.bench.harness.agents import Connection, Seat
from e2e.bench.harness.api_tier import MERGE_PATCH, STRATEGIC_PATCH, Client, Object
from e2e.bench.harness.fleet import running
from e2e.cluster.errors import ClusterError
from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator import names
from tests.simulation.workers import Worker

if TYPE_CHECKING:
    from tests.sweep.world import RealWorld

START_SECONDS = 0.1
GRACE_SECONDS = 30.0
NOTICE_SECONDS = 3.0
"""Until the node controller notices a silent kubelet."""
READY = {"type": "Ready", "status": "True", "reason": "Played", "message": ""}
ANSWER_SECONDS = 10.0


class Kubelets:
    """All nodes of one plan.

    Attributes:
        dark: nodes without power.
    """

    def __init__(self, world: "RealWorld", api: Client, agent_port: int) -> None:
        self.dark: set[str] = set()
        self._world = world
        self._api = api
        self._agent_port = agent_port
        self._workers: dict[str, Worker] = {}
        self._seats: dict[str, Seat] = {}
        self._links: list[Connection] = []
        self._idle: dict[str, list[Connection]] = {}
        self._seen: set[str] = set()
        self._stopping: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: ssl.SSLContext | None = None
        self.problems: list[str] = []

    def workers(self) -> list[Worker]:
        """All containers that have not ended, also those that nobody can reach."""
        return list(self._workers.values())

    def changed(self, kind: str, pod: Object) -> None:
        """Take in an event of the watch of pods."""
        uid = pod["metadata"]["uid"]
        node = pod["spec"].get("nodeName")
        if kind == "DELETED":
            worker = self._workers.pop(uid, None)
            if worker is not None and worker.reachable:
                worker.kill()
        elif not node or node in self.dark:
            return
        elif pod["metadata"].get("deletionTimestamp"):
            if uid not in self._stopping:
                self._stopping.add(uid)
                self._spawn(self._stop(pod))
        elif pod["status"]["phase"] == "Pending" and uid not in self._seen:
            self._seen.add(uid)
            self._spawn(self._start(pod))

    async def lose_node(self, name: str) -> None:
        """Cut the power; the node controller notices a little later."""
        self.dark.add(name)
        for worker in self.workers():
            if worker.pod["spec"]["nodeName"] == name:
                worker.kill()
        self._spawn(self._notice(name))

    async def heal(self) -> None:
        """Give all nodes their power back, without what ran there."""
        for name in sorted(self.dark):
            await set_ready(self._api, name, "True")
        self.dark.clear()

    async def stop(self) -> None:
        """End all containers at once, and with them all that is under way here."""
        for worker in self.workers():
            worker.kill()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links:
            link.close()

    async def exchange(self, worker: Worker, body: bytes, hold_seconds: float) -> bytes:
        """Carry a report to the operator.

        Raises:
            ConnectionError: there was no answer.
        """
        idle = self._idle.setdefault(worker.uid, [])
        if idle:
            link = idle.pop()
        else:
            link = Connection(self._seats[worker.uid], self._context_of(worker.pod))
            self._links.append(link)
        try:
            async with asyncio.timeout(hold_seconds + ANSWER_SECONDS):
                answer = await link.post(body)
        except (OSError, ValueError) as error:
            raise ConnectionError(str(error)) from error
        idle.append(link)
        return answer

    # --- one pod --------------------------------------------------------------------------------

    async def _start(self, pod: Object) -> None:
        await asyncio.sleep(START_SECONDS)
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if pod["spec"]["nodeName"] in self.dark or uid in self._stopping:
            return
        address = _address(f"{pod['metadata']['namespace']}/{name}")
        body = {"metadata": {"uid": uid}, "status": running(address)}
        with contextlib.suppress(ClusterError):
            started = await self._api.call("PATCH", f"{_path(pod)}/status", body, STRATEGIC_PATCH)
            self._seats[uid] = await self._seat(started, address)
            if uid in self._stopping or pod["spec"]["nodeName"] in self.dark:
                return
            self._workers[uid] = Worker(
                self._world, started, lambda code, message: self._left(started, code, message)
            )

    async def _seat(self, pod: Object, address: str) -> Seat:
        metadata = pod["metadata"]
        named = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [TOKEN_AUDIENCE],
                "expirationSeconds": 3600,
                "boundObjectRef": named,
            },
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/default/token"
        token = (await self._api.call("POST", path, request))["status"]["token"]
        _, slot, incarnation = metadata["name"].rsplit("-", 2)
        source = f"127{_address(pod['spec']['nodeName'])[2:]}"
        return Seat(int(slot), int(incarnation), address, source, token, self._agent_port)

    def _context_of(self, pod: Object) -> ssl.SSLContext:
        if self._context is None:
            authority = pod["metadata"]["annotations"][names.ANNOTATION_CA]
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.load_verify_locations(cadata=authority)
        return self._context

    async def _stop(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is None:
            await self._remove(pod)
            return
        worker.terminate()
        await asyncio.sleep(GRACE_SECONDS)
        if self._workers.get(uid) is worker and worker.reachable:
            worker.kill()
            self._left(pod, 137, "")

    def _left(self, pod: Object, code: int, message: str) -> None:
        self._workers.pop(pod["metadata"]["uid"], None)
        self._spawn(self._end(pod, code, message))

    async def _end(self, pod: Object, code: int, message: str) -> None:
        """Say that the containers have ended; take a pod away that is being deleted."""
        uid = pod["metadata"]["uid"]
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "message": message}
        trainer = dict(pod["status"]["containerStatuses"][0])
        trainer |= {"state": {"terminated": ended}, "ready": False, "started": False}
        status = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [trainer],
        }
        body = {"metadata": {"uid": uid}, "status": status}
        with contextlib.suppress(ClusterError):
            now = await self._api.call("PATCH", f"{_path(pod)}/status", body, MERGE_PATCH)
            if now["metadata"].get("deletionTimestamp"):
                await self._remove(pod)

    async def _remove(self, pod: Object) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        with contextlib.suppress(ClusterError):
            await self._api.call("DELETE", _path(pod), body)

    async def _notice(self, name: str) -> None:
        await asyncio.sleep(NOTICE_SECONDS)
        await set_ready(self._api, name, "Unknown")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.problems.append(f"the harness failed: {task.exception()!r}")


async def set_ready(api: Client, node: str, value: str) -> None:
    """Set a node's Ready condition; the real controller manager keeps the taints in step."""
    condition = READY | {"status": value}
    body = {"status": {"conditions": [condition]}}
    await api.call("PATCH", f"/api/v1/nodes/{node}/status", body, STRATEGIC_PATCH)


def _path(pod: Object) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _address(text: str) -> str:
    """Return an address in 10.0.0.0/8 that stands for a pod or a node."""
    digest = hashlib.sha256(text.encode()).digest()[:3]
    return f"10.{'.'.join(str(1 + byte % 250) for byte in digest)}"
