"""The simulation's world, but real: an API server, a scheduler, an operator process, a clock.

What is so is judged by the simulation's own words (`World.outcome`, `trains`, `check_ledger` …),
read from a mirror that watches keep. The verbs are calls to the API server.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.bench.harness.api_tier import MERGE_PATCH, Client, Object
from e2e.cluster.errors import ClusterError
from goodput_operator import names
from tests.faultproxy.operators import Nursery, Operator
from tests.faultproxy.proxy import LANE_LABEL, FaultProxy, Harm
from tests.simulation import oracle
from tests.simulation.history import History, Write
from tests.simulation.workers import Worker
from tests.simulation.world import KEY, World
from tests.sweep.kubelets import Kubelets, set_ready

WORKERS = 2
NODES = 4
WAIT_SECONDS = 120.0
REST_SECONDS = 3.0
LOOK_SECONDS = 0.5
MOST_LOOKS = 6
LEASE_SECONDS, RENEW_SECONDS = 10, 1
"""Short, so that a take-over does not take long; a busy machine must not lose it, though."""
JOBS = "/apis/goodput.training/v1alpha1/namespaces/{}/trainingjobs"


JUDGED = ("I1", "I2", "I3", "I4", "I8", "I15")
"""The promises that can be judged by what watches and workers tell; the proxy judges others."""


class Mirror:
    """The objects of one plan's namespace, as the harness's watches tell them.

    Args:
        history: takes every change down; who made it is told by what has changed.
    """

    def __init__(self, history: History) -> None:
        self.created: Counter[str] = Counter()
        self._history = history
        self._objects: dict[tuple[str, str], Object] = {}
        self._pulse = asyncio.Event()

    def take(self, plural: str, kind: str, obj: Object) -> None:
        """Take in an event."""
        key = plural, obj["metadata"]["name"]
        self._history.add(_write(plural, kind, self._objects.get(key), obj))
        if kind == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = obj
        if kind == "ADDED" and plural == "pods":
            self.created[key[1]] += 1
        self.pulse()

    def pulse(self) -> None:
        """Let those who wait look again."""
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def news(self, seconds: float) -> None:
        """Wait for the next change, but not for longer than this."""
        try:
            async with asyncio.timeout(seconds):
                await self._pulse.wait()
        except TimeoutError:
            pass

    def get(self, plural: str, _namespace: str, name: str) -> Object | None:
        """Return an object; there is one namespace only."""
        return self._objects.get((plural, name))

    def all(self, plural: str) -> list[Object]:
        """Return all objects of a kind by name."""
        return [obj for (kind, _), obj in sorted(self._objects.items()) if kind == plural]


def _write(plural: str, kind: str, before: Object | None, obj: Object) -> Write:
    old, new = (before or {}).get("status"), obj.get("status")
    decided = plural == names.PLURAL and before is not None and old != new
    ours = decided or (plural == "pods" and kind == "ADDED")
    return Write(
        at=asyncio.get_running_loop().time(),
        actor="operator-1" if ours else "somebody",
        verb={"ADDED": "create", "DELETED": "delete"}.get(kind, "update"),
        plural=plural,
        namespace=obj["metadata"]["namespace"],
        name=obj["metadata"]["name"],
        subresource="status" if decided and kind == "MODIFIED" else "",
        before=before,
        after=None if kind == "DELETED" else obj,
    )


class Lane:
    """What plans share one after the other: nodes, ports, a proxy.

    Attributes:
        name: also the value of the nodes' label.
    """

    def __init__(
        self, name: str, api: Client, proxy: FaultProxy, nursery: Nursery, directory: Path
    ) -> None:
        self.name = name
        self.api = api
        self.proxy = proxy
        self.nursery = nursery
        self.directory = directory
        self.nodes = [f"{name}-{number}" for number in range(NODES)]
        self.agent_port = 0
        self.http_port = 0
        self.kubeconfig = directory / f"{name}.kubeconfig"

    async def create_nodes(self) -> None:
        """Create the lane's nodes, with room for one worker each."""
        amounts = {"cpu": "64", "memory": "1Ti", "pods": "100", "nvidia.com/gpu": "1"}
        for node in self.nodes:
            labels = {"kubernetes.io/hostname": node, LANE_LABEL: self.name}
            body = {"metadata": {"name": node, "labels": labels}}
            await self.api.call("POST", "/api/v1/nodes", body)
            status = {"capacity": amounts, "allocatable": amounts}
            path = f"/api/v1/nodes/{node}/status"
            await self.api.call("PATCH", path, {"status": status}, MERGE_PATCH)
            await set_ready(self.api, node, "True")
        await self.until_clean()

    async def until_clean(self) -> None:
        """Wait until no node is tainted."""
        async with asyncio.timeout(60):
            while True:
                path = f"/api/v1/nodes?labelSelector={LANE_LABEL}%3D{self.name}"
                nodes = await self.api.items(path)
                if not any(node["spec"].get("taints") for node in nodes):
                    return
                await asyncio.sleep(0.2)


class RealWorld(World):
    """One job in a namespace of its own, all round it, and an operator to be harmed.

    Attributes:
        restarts: how often an operator was started after the first.
        own_ends: how often one ended that nobody had killed.
    """

    def __init__(self, lane: Lane, namespace: str) -> None:
        super().__init__(workers=WORKERS)
        self.server: Any = Mirror(self.history)
        self.namespace = namespace
        self.log = lane.directory / f"{namespace}.log"
        self.restarts = -1
        self.own_ends = 0
        self._lane = lane
        self.cluster: Any = Kubelets(self, lane.api, lane.agent_port)
        self._operator: Operator | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._killed = False
        self._marked: set[str] = set()

    @property
    def proxy(self) -> FaultProxy:
        """What stands between the operator and the API server."""
        return self._lane.proxy

    @property
    def pods(self) -> list[Object]:
        """The pods of this world's namespace; the mirror holds no others."""
        return self.server.all("pods")  # type: ignore[no-any-return]

    # --- the operator ---------------------------------------------------------------------------

    async def open(self, harm: Harm) -> None:
        """Make the namespace, and let the proxy serve it."""
        api = self._lane.api
        await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        account = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        with contextlib.suppress(ClusterError):  # the controller manager may be faster
            await api.call("POST", account, {"metadata": {"name": "default"}})
        self.proxy.attach(self.namespace, harm, self._kill_operator, self.server.pulse)

    async def start_operator(self, *, queue: bool = True) -> None:
        """Start an operator, and another whenever one has died, as a kubelet does."""
        self._keeper = asyncio.create_task(self._keep_operator())

    async def _keep_operator(self) -> None:
        lane = self._lane
        arguments = [
            *("--kubeconfig", str(lane.kubeconfig), "--namespace", self.namespace),
            *("--agent-image", "agent.example/agent:sweep", "--bind-address", "127.0.0.1"),
            *("--agent-port", str(lane.agent_port), "--http-port", str(lane.http_port)),
            *("--agent-url", f"https://127.0.0.1:{lane.agent_port}", "--pod-name", lane.name),
            *("--lease-duration-seconds", str(LEASE_SECONDS)),
            *("--lease-renew-seconds", str(RENEW_SECONDS)),
        ]
        while True:
            self._killed = self.proxy.led = False
            self._operator = lane.nursery.start(arguments, self.log)
            self.restarts += 1
            await self._operator.ended.wait()
            self.own_ends += not self._killed

    async def _kill_operator(self) -> None:
        if self._operator is not None:
            self._killed = True
            await self._operator.kill()

    # --- verbs ----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """From here on writes are counted, and harmed."""
        await self.proxy.begin()

    async def submit(self, **spec: Any) -> None:
        """The user creates the job."""
        amounts = {"cpu": "1", "nvidia.com/gpu": "1"}
        container = {
            "name": "trainer",
            "image": "trainer.example/trainer:sweep",
            "command": ["train"],
            "resources": {"requests": amounts, "limits": amounts},
        }
        whole = {
            "workers": self.workers,
            "template": {"spec": {"containers": [container]}},
            "checkpoint": {"directory": "/checkpoints"},
            **spec,
        }
        body = {
            "apiVersion": "goodput.training/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": KEY[1]},
            "spec": whole,
        }
        await self._lane.api.call("POST", JOBS.format(self.namespace), body)

    async def edit(self, **spec: Any) -> None:
        """The user edits the job."""
        path = f"{JOBS.format(self.namespace)}/{KEY[1]}"
        await self._lane.api.call("PATCH", path, {"spec": spec}, MERGE_PATCH)

    async def scale(self, workers: int) -> None:
        """The user asks for another size, as `kubectl scale` does."""
        path = f"{JOBS.format(self.namespace)}/{KEY[1]}/scale"
        await self._lane.api.call("PATCH", path, {"spec": {"replicas": workers}}, MERGE_PATCH)

    async def remove_job(self) -> None:
        """The user deletes the job, as kubectl does."""
        path = f"{JOBS.format(self.namespace)}/{KEY[1]}"
        await self._lane.api.call("DELETE", path, {"propagationPolicy": "Background"})

    async def remove_pod(self, slot: int) -> None:
        """Somebody deletes a worker's pod."""
        name = self.pod(slot)["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        await self._lane.api.call("DELETE", path)

    async def evict(self, slot: int) -> None:
        """A worker's pod is evicted, as a drain does it."""
        name = self.pod(slot)["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        await self._lane.api.call("POST", path, body)

    async def cordon(self, node: str) -> None:
        """Somebody keeps new pods off a node."""
        await self._mark(node, {"unschedulable": True})

    async def uncordon(self, node: str) -> None:
        """It may have pods again."""
        await self._mark(node, {"unschedulable": None})

    async def announce(self, node: str, taint: str) -> None:
        """A node says by a taint that it is about to go."""
        await self._mark(node, {"taints": [{"key": taint, "effect": "NoSchedule"}]})

    async def _mark(self, node: str, spec: Object) -> None:
        self._marked.add(node)
        await self._lane.api.call("PATCH", f"/api/v1/nodes/{node}", {"spec": spec}, MERGE_PATCH)

    async def lose_nodes(self, *slots: int) -> None:
        """The nodes of these workers lose their power."""
        for node in [self.node_of(slot) for slot in slots]:
            await self.cluster.lose_node(node)

    async def fill(self, nodes: int | None = None) -> None:
        """Pods of somebody else take the whole room of so many nodes; None: of all that is left."""
        taken = {pod["spec"].get("nodeName") for pod in self.pods}
        free = [node for node in self._lane.nodes if node not in taken]
        for node in free[:nodes]:
            container = {
                "name": "other",
                "image": "other.example/other",
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
            body = {
                "metadata": {"name": f"other-{node}"},
                "spec": {"nodeName": node, "containers": [container]},
            }
            await self._lane.api.call("POST", f"/api/v1/namespaces/{self.namespace}/pods", body)

    async def clear(self) -> None:
        """Those pods go."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        for pod in await self._lane.api.items(path):
            if pod["metadata"]["name"].startswith("other-"):
                body = {"gracePeriodSeconds": 0}
                await self._lane.api.call("DELETE", f"{path}/{pod['metadata']['name']}", body)

    # --- waiting --------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Wait until something holds; it is looked at whenever anything changes.

        Time in which the whole machine stood still, or had no processor for us, does not count.
        """
        left = seconds
        while not holds():
            assert left > 0, f"in vain after {seconds:g} s: {self.describe()}"
            before = self.clock()
            await self.server.news(LOOK_SECONDS)
            left -= min(self.clock() - before, LOOK_SECONDS)

    async def check_rest(self, seconds: float = REST_SECONDS) -> None:
        """Wait for a while in which nothing is written but the ledger, once; it must come."""
        written: list[str] = []
        for _ in range(MOST_LOOKS):
            before = len(self.proxy.writes)
            await asyncio.sleep(seconds)
            written = [write.point for write in self.proxy.writes[before:]]
            if not written or (len(written) == 1 and written[0].startswith("flush")):
                return
        raise AssertionError(f"no rest after {MOST_LOOKS * seconds:g} s, written last: {written}")

    def decisions(self) -> list[str]:
        """Return the points of all writes since `begin` that were done, but flushes."""
        done = [write.point for write in self.proxy.writes if write.status < 300]
        return [point for point in done if not point.startswith("flush")]

    def described_outcome(self) -> dict[str, Any]:
        """Return the outcome without what differs from lane to lane."""
        outcome = self.outcome()
        outcome["created"] = sorted(self.server.created)
        prefix = re.compile(rf"^{self._lane.name}-")
        outcome["excluded"] = [prefix.sub("node-", node) for node in outcome["excluded"]]
        return outcome

    # --- what must hold -------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Return all that must not be, whatever has happened."""
        found = [*self.proxy.violations, *self.cluster.problems]
        for name in JUDGED:
            for entry, message in oracle.PROMISES[name](self.history):
                found += [f"{name}: {message}", self.history.told(entry)]
        twice = [name for name, times in self.server.created.items() if times > 1]
        if twice:
            found.append(f"pods made twice: {twice}")
        try:
            self.check_ledger()
        except AssertionError as wrong:
            found.append(f"the ledger does not add up: {wrong}")
        log = self.log.read_text() if self.log.exists() else ""
        at = log.find("Traceback (most recent call last)")
        if at >= 0:
            found.append(f"a traceback in the operator's log: {log[max(0, at - 300) : at + 3000]}")
        for pod in self.pods:
            owners = pod["metadata"].get("ownerReferences") or ()
            job = self.job
            if job is None or all(o["uid"] != job["metadata"]["uid"] for o in owners):
                found.append(f"an orphan: {pod['metadata']['name']}")
        return found

    def log_tail(self, lines: int = 40) -> list[str]:
        """Return the last lines of the operators' log."""
        return self.log.read_text().splitlines()[-lines:] if self.log.exists() else []

    def describe(self) -> str:
        """Say how things stand."""
        status = self.status
        said = {one.type: f"{one.status} {one.reason}" for one in status.conditions}
        pods = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in self.pods}
        fired = f"fired {self.proxy.fired} times, {self.restarts} restarts"
        return f"{fired}; {status.phase} {status.attempt} {said} {pods}"

    # --- what the workers ask -------------------------------------------------------------------

    async def sync(self, worker: Worker, body: bytes, hold_seconds: float) -> bytes:
        """Carry a report to the operator; raises ConnectionError when no answer comes."""
        if not worker.reachable:
            raise ConnectionError
        answer: bytes = await self.cluster.exchange(worker, body, hold_seconds)
        if not worker.reachable:
            raise ConnectionError
        return answer

    # --- the end --------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the operator and the workers; leave the lane as it was."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self._kill_operator()
        await self.cluster.stop()
        api = self._lane.api
        root = f"/api/v1/namespaces/{self.namespace}/pods"
        with contextlib.suppress(ClusterError):  # it may be gone
            await self.remove_job()
        await api.call("DELETE", root, {"gracePeriodSeconds": 0})
        async with asyncio.timeout(60):
            while await api.items(f"{root}?limit=1"):
                await asyncio.sleep(0.2)
                await api.call("DELETE", root, {"gracePeriodSeconds": 0})
        for node in sorted(self._marked):
            await self._mark(node, {"taints": None, "unschedulable": None})
        await self.cluster.heal()
        await self._lane.until_clean()
