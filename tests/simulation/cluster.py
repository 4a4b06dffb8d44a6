"""The rest of a cluster: a scheduler, kubelets, the node controller, the garbage collector."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from goodput.protocol import ENV_SLOT
from goodput_operator import names
from goodput_operator.api.base import format_time
from tests.simulation.apiserver import DEFAULT_GRACE_SECONDS, ApiServer, Json, now
from tests.simulation.history import Harm, clock
from tests.simulation.workers import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

BIND_SECONDS = 0.02
START_SECONDS = 0.3
NOTICE_SECONDS = 0.02
"""Until a kubelet sees that a pod is to be ended."""
COLLECT_SECONDS = 0.05
"""Until the garbage collector notices that an owner is gone."""
NOT_READY_SECONDS = 40.0
"""Until the node controller notices a silent kubelet."""

KUBELET = "kubelet"
SCHEDULER = "scheduler"
NODE_CONTROLLER = "node-controller"
COLLECTOR = "garbage-collector"


@dataclass
class Kubelet:
    """One node: whether it has power and network, and the containers on it."""

    name: str
    powered: bool = True
    connected: bool = True
    workers: dict[str, Worker] = field(default_factory=dict)
    silent_since: float = 0.0

    @property
    def reachable(self) -> bool:
        return self.powered and self.connected


class Cluster:
    """Nodes on which one worker each finds room.

    Attributes:
        bind_seconds: how long the scheduler takes.
        start_seconds: how long a kubelet takes to start a container.
    """

    def __init__(self, world: "World", nodes: int) -> None:
        self.bind_seconds = BIND_SECONDS
        self.start_seconds = START_SECONDS
        self._world = world
        self._server: ApiServer = world.server
        self._server.listeners.append(self._changed)
        self.kubelets = {f"node-{number}": Kubelet(f"node-{number}") for number in range(nodes)}
        for name in self.kubelets:
            self._server.store("nodes", _node(name), KUBELET)

    def workers(self) -> list[Worker]:
        """All containers that have not ended, also those that nobody can reach."""
        return [one for kubelet in self.kubelets.values() for one in kubelet.workers.values()]

    def lose_node(self, name: str) -> None:
        """Cut the power."""
        kubelet = self.kubelets[name]
        self._harm("NodeLost", name, hurts=True)
        kubelet.powered = False
        for worker in kubelet.workers.values():
            worker.kill()
        self._go_silent(kubelet)

    def cut_off(self, name: str, *, hurts: bool = True) -> None:
        """Cut the network: what runs there goes on."""
        kubelet = self.kubelets[name]
        self._harm("NodeCutOff", name, hurts=hurts)
        kubelet.connected = False
        for worker in kubelet.workers.values():
            worker.reachable = False
        self._go_silent(kubelet)

    def heal(self, name: str) -> None:
        """Bring a node back: after a cut as it was, after a loss of power with dead containers."""
        kubelet = self.kubelets[name]
        self._harm("NodeHealed", name)
        rebooted, kubelet.powered, kubelet.connected = not kubelet.powered, True, True
        self._set_ready(name, "True")
        for uid, worker in list(kubelet.workers.items()):
            worker.reachable = not rebooted
            if rebooted:
                del kubelet.workers[uid]
                self._end(worker.pod, 137, "ContainerStatusUnknown", "the node was rebooted")
        for pod in self._server.all("pods"):
            if pod["spec"].get("nodeName") == name:
                self._kubelet_sees(pod)
        known = {pod["metadata"]["uid"] for pod in self._server.all("pods")}
        for uid, worker in list(kubelet.workers.items()):
            if uid not in known:
                self._destroy(kubelet, worker)

    def remove_node(self, name: str) -> None:
        """Delete the node object; its pods are collected."""
        self._harm("NodeRemoved", name, hurts=True)
        self._server.remove("nodes", "", name)
        for pod in self._server.all("pods"):
            if pod["spec"].get("nodeName") == name:
                self._remove(pod, COLLECTOR)

    # --- what the parts of the control plane do -------------------------------------------------

    def _changed(self, plural: str, old: Json | None, new: Json | None) -> None:
        if plural == "trainingjobs" and new is None and old is not None:
            self._later(COLLECT_SECONDS, self._collect)
        if plural == "pods" and old is None:
            self._later(COLLECT_SECONDS, self._collect)  # its owner may be gone already
        if plural != "pods":
            return
        if new is None:
            assert old is not None
            self._pod_gone(old)
        elif not new["spec"].get("nodeName"):
            if old is None and not new["spec"].get("schedulingGates"):
                self._later(self.bind_seconds, self._schedule, new["metadata"]["uid"])
        else:
            self._kubelet_sees(new)

    def _collect(self) -> None:
        """Delete the pods all of whose owners are gone."""
        jobs = {job["metadata"]["uid"] for job in self._server.all("trainingjobs")}
        for pod in self._server.all("pods"):
            metadata = pod["metadata"]
            owners = {owner["uid"] for owner in metadata.get("ownerReferences") or ()}
            if owners and not owners & jobs and not metadata.get("deletionTimestamp"):
                self._server.delete("pods", metadata["namespace"], metadata["name"], by=COLLECTOR)

    def _schedule(self, uid: str) -> None:
        pod = self._pod(uid)
        if pod is None or pod["spec"].get("nodeName"):
            return
        wanted = _pinned(pod)
        fitting = [
            name
            for name in ([wanted] if wanted else sorted(self.kubelets))
            if self._is_ready(name) and self._has_room(name)
        ]

        def bind(obj: Json) -> None:
            obj["spec"]["nodeName"] = fitting[0]
            _set_condition(obj, "PodScheduled", "True", "")

        def refuse(obj: Json) -> None:
            _set_condition(obj, "PodScheduled", "False", "Unschedulable", "0 nodes are available")

        self._edit(pod, bind if fitting else refuse, SCHEDULER)
        if not fitting:
            self._later(1.0, self._schedule, uid)

    def _has_room(self, node: str) -> bool:
        return not any(
            pod["spec"].get("nodeName") == node
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
            for pod in self._server.all("pods")
        )

    def _is_ready(self, name: str) -> bool:
        node = self._server.get("nodes", "", name)
        return node is not None and node["status"]["conditions"][0]["status"] == "True"

    def _go_silent(self, kubelet: Kubelet) -> None:
        kubelet.silent_since = asyncio.get_running_loop().time()
        self._later(NOT_READY_SECONDS, self._notice, kubelet.name, kubelet.silent_since)

    def _notice(self, name: str, since: float) -> None:
        kubelet = self.kubelets[name]
        if not kubelet.reachable and kubelet.silent_since == since:
            self._set_ready(name, "Unknown")

    def _set_ready(self, name: str, value: str) -> None:
        if self._server.get("nodes", "", name) is None:
            self._server.store("nodes", _node(name), KUBELET)
        taint = {"key": names.TAINT_UNREACHABLE, "effect": "NoExecute"}

        def change(node: Json) -> None:
            [ready] = node["status"]["conditions"]
            if ready["status"] != value:
                ready |= {"status": value, "lastTransitionTime": format_time(now())}
            node["spec"] = {} if value == "True" else {"taints": [taint]}

        self._server.change("nodes", "", name, change, NODE_CONTROLLER)

    # --- kubelets -----------------------------------------------------------------------------

    def _kubelet_sees(self, pod: Json) -> None:
        kubelet = self.kubelets.get(pod["spec"]["nodeName"])
        if kubelet is None or not kubelet.reachable:
            return
        uid = pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp"):
            self._later(NOTICE_SECONDS, self._stop, uid)
        elif uid not in kubelet.workers and pod["status"]["phase"] == "Pending" and is_worker(pod):
            self._later(self.start_seconds, self._start, uid)

    def _start(self, uid: str) -> None:
        pod = self._pod(uid)
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            return
        kubelet = self.kubelets[pod["spec"]["nodeName"]]
        if not kubelet.reachable or uid in kubelet.workers or pod["status"]["phase"] != "Pending":
            return
        address = f"10.0.{list(self.kubelets).index(kubelet.name)}.{len(uid)}"

        def run(obj: Json) -> None:
            running = {"name": "trainer", "state": {"running": {}}}
            obj["status"].update(phase="Running", podIP=address, containerStatuses=[running])

        self._edit(pod, run)
        pod = self._pod(uid)
        assert pod is not None
        kubelet.workers[uid] = Worker(
            self._world, pod, lambda code, message: self._left(uid, code, message)
        )

    def _stop(self, uid: str) -> None:
        pod = self._pod(uid)
        if pod is None:
            return
        kubelet = self.kubelets[pod["spec"]["nodeName"]]
        worker = kubelet.workers.get(uid)
        if not kubelet.reachable:
            return
        if worker is None:
            self._remove(pod, KUBELET)
            return
        worker.terminate()
        self._later(DEFAULT_GRACE_SECONDS, self._kill, uid)

    def _kill(self, uid: str) -> None:
        for kubelet in self.kubelets.values():
            worker = kubelet.workers.get(uid)
            if worker is not None and kubelet.reachable:
                worker.kill()
                self._left(uid, 137, "")

    def _left(self, uid: str, code: int, message: str) -> None:
        """The agent has ended, and the container with it."""
        for kubelet in self.kubelets.values():
            kubelet.workers.pop(uid, None)
        pod = self._pod(uid)
        if pod is None:
            return
        self._end(pod, code, "Completed" if code == 0 else "Error", message)
        if pod["metadata"].get("deletionTimestamp"):
            self._remove(pod, KUBELET)

    def _end(self, pod: Json, code: int, reason: str, message: str) -> None:
        ended = {"exitCode": code, "reason": reason, "message": message}

        def end(obj: Json) -> None:
            obj["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
            obj["status"]["containerStatuses"] = [
                {"name": "trainer", "state": {"terminated": ended}}
            ]

        if self._pod(pod["metadata"]["uid"]) is not None:
            self._edit(pod, end)

    def _pod_gone(self, pod: Json) -> None:
        node = pod["spec"].get("nodeName")
        if node in self.kubelets:
            kubelet = self.kubelets[node]
            worker = kubelet.workers.get(pod["metadata"]["uid"])
            if worker is not None and kubelet.reachable:
                self._destroy(kubelet, worker)

    def _destroy(self, kubelet: Kubelet, worker: Worker) -> None:
        worker.kill()
        kubelet.workers.pop(worker.uid, None)

    # --- inside -------------------------------------------------------------------------------

    def _pod(self, uid: str) -> Json | None:
        return next(
            (pod for pod in self._server.all("pods") if pod["metadata"]["uid"] == uid), None
        )

    def _edit(self, pod: Json, change: Callable[[Json], Any], by: str = KUBELET) -> None:
        metadata = pod["metadata"]
        self._server.change("pods", metadata["namespace"], metadata["name"], change, by)

    def _remove(self, pod: Json, by: str) -> None:
        metadata = pod["metadata"]
        self._server.remove("pods", metadata["namespace"], metadata["name"], by)

    def _harm(self, kind: str, what: str, *, hurts: bool = False) -> None:
        self._server.history.add(Harm(clock(), kind, what, hurts))

    def _later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, call, *arguments)


def is_worker(pod: Json) -> bool:
    """Whether our agent is in it; others' containers are nobody's concern here."""
    containers = pod["spec"]["containers"]
    return any(one.get("name") == ENV_SLOT for each in containers for one in each.get("env", ()))


def _node(name: str) -> Json:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "1", "memory": "4Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _pinned(pod: Json) -> str:
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    for term in required.get("nodeSelectorTerms", ()):
        for one in term.get("matchFields", ()):
            name: str = one["values"][0]
            return name
    return ""


def _set_condition(pod: Json, kind: str, value: str, reason: str, message: str = "") -> None:
    others = [one for one in pod["status"].get("conditions", ()) if one["type"] != kind]
    condition = {"type": kind, "status": value, "reason": reason, "message": message}
    pod["status"]["conditions"] = [*others, condition]
