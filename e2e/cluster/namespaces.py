"""The provider that needs no container engine: processes of this host in namespaces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import binaries, cgroups, images, network, packages
from .api import Api
from .controlplane import SERVICE_ADDRESS, ControlPlane, Ports
from .daemons import Daemon
from .errors import ClusterError, WaitTimeoutError, log_tail
from .nodes import Node, release_directories
from .paths import cluster_number
from .progress import wait_until
from .provider import Process, Shape, container_ids
from .run import run

_NODE_READY_SECONDS = 90
_WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
_WATCHERS_WANTED = 1024
"""Of the 128 that Linux allows a user, a cluster of three nodes takes 35."""


class Namespaces:
    """A cluster in one state directory; `up` and `down` are to be called under its lock."""

    def __init__(self, state: Path, shape: Shape) -> None:
        self.state = state
        self.shape = shape
        self.control_plane = ControlPlane(state, self.host_address, Ports.of(cluster_number()))
        self.kubeconfig = self.control_plane.kubeconfig
        self.nodes = tuple(Node(index, state) for index in range(1, shape.nodes + 1))

    @property
    def host_address(self) -> str:
        """The bridge's address; the loopback one where there are no nodes."""
        return network.host_address() if self.shape.nodes else "127.0.0.1"

    def up(self) -> None:
        """Start everything and return when all nodes are Ready."""
        programs = dict(packages.API_PROGRAMS)
        if self.nodes:
            programs |= packages.NODE_PROGRAMS
        packages.install(packages.missing(programs, cni=bool(self.nodes)))
        tools = binaries.ensure(binaries.TOOLS if self.nodes else binaries.API_TOOLS)
        archives = images.build_static_images() if self.nodes else []
        shared = self.state / "shared"
        shared.mkdir(parents=True)
        shared.chmod(0o1777)
        if self.nodes:
            _allow_watchers()
            network.create_bridge()
        with ThreadPoolExecutor(max_workers=max(2, len(self.nodes))) as pool:
            for node in self.nodes:
                network.create_node(node.index, len(self.nodes))
            self._create_certificates()
            self.control_plane.start(tools, self.shape.node_grace_seconds)
            runtimes = [pool.submit(self._start_runtime, node, archives) for node in self.nodes]
            self.control_plane.wait_ready()
            for runtime in runtimes:
                runtime.result()
        pki = self.control_plane.pki
        for node in self.nodes:
            node.start_agents(tools, pki, self.control_plane.url)
        if self.nodes:
            self._start_dns(tools["coredns"])
        for node in self.nodes:
            self._wait_ready(node)

    def down(self) -> None:
        """End and remove everything; finds it all by the state directory and fixed names."""
        if os.geteuid() == 0 and cgroups.tracked().is_dir():
            cgroups.kill_all()
        for pid_file in sorted((self.state / "pids").glob("node*")):
            Daemon(pid_file.name, self.state).stop()
        Daemon("coredns", self.state).stop()
        self.control_plane.stop()
        if os.geteuid() == 0:
            cgroups.remove()
            network.remove()
            _unmount_below(self.state)
            if not network.is_used():
                release_directories()
        shutil.rmtree(self.state, ignore_errors=True)
        if self.state.exists():
            shutil.rmtree(self.state)

    def unhealthy_reason(self) -> str | None:
        """Return what is broken, else None."""
        if not self.control_plane.alive():
            return "a process of the control plane is gone"
        if not self.api().ready():
            return "the API server is not ready"
        for node in self.nodes:
            if not node.alive():
                return f"{node.name} is down"
            if not self.api().node_is_ready(node.name):
                return f"{node.name} is not Ready"
        return None

    def api(self) -> Api:
        """Return a client of the administrator."""
        return self.control_plane.api()

    def node_names(self) -> tuple[str, ...]:
        """Return the names of the nodes."""
        return tuple(node.name for node in self.nodes)

    def pod_processes(self, pod: dict[str, Any]) -> list[Process]:
        """Return the living processes of a pod's containers, found through its cgroup."""
        node = self._node(pod["spec"].get("nodeName", ""))
        cgroup = node.pod_cgroup(pod["metadata"]["uid"])
        found: list[Process] = []
        if cgroup is not None:
            for identifier, container in container_ids(pod).items():
                for pid in cgroups.pids(cgroup / identifier):
                    found += _process(pid, container)
        return found

    def signal(self, _: dict[str, Any], /, pids: Sequence[int], number: int) -> None:
        """Send a signal to host pids that `pod_processes` named."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def lose_node(self, node: str) -> None:
        """Pull the cable and kill everything that runs on the node, at once."""
        lost = self._node(node)
        network.set_link(node, up=False)
        lost.kill()

    def restore_node(self, node: str) -> None:
        """Boot a lost node: fresh mounts, the disk as it was. Return when it is Ready."""
        lost = self._node(node)
        if lost.alive():
            raise ClusterError(f"{node} was not lost; `heal` ends a partition")
        tools = binaries.ensure(binaries.TOOLS)
        since = self.api().heartbeat(node)
        lost.kill()
        network.set_link(node, up=True)
        lost.start_runtime()
        lost.start_agents(tools, self.control_plane.pki, self.control_plane.url)
        self._wait_ready(lost, since)

    def partition(self, node: str, addresses: Sequence[str]) -> None:
        """Pull the cable only, or drop what goes to `addresses`; kubelet and pods go on."""
        self._node(node)
        if addresses:
            network.drop(node, addresses)
        else:
            network.set_link(node, up=False)

    def heal(self, node: str) -> None:
        """Plug the cable in again; return when a new heartbeat says Ready."""
        cut_off = self._node(node)
        if not cut_off.alive():
            raise ClusterError(f"{node} was lost; `restore-node` boots it")
        since = self.api().heartbeat(node)
        network.set_link(node, up=True)
        network.drop_nothing(node)
        self._wait_ready(cut_off, since)

    def load_image(self, archive: Path) -> None:
        """Import an image into all nodes at once, where its digest is not there yet."""
        with ThreadPoolExecutor(max_workers=max(1, len(self.nodes))) as pool:
            list(pool.map(lambda node: _import(node, [archive]), self.nodes))

    def _node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"there is no node {name!r}; there are {', '.join(self.node_names())}")

    def _create_certificates(self) -> None:
        pki = self.control_plane.pki
        pki.create([SERVICE_ADDRESS, *([self.host_address] if self.nodes else [])])
        for node in self.nodes:
            address = network.node_address(node.index)
            subject = f"/O=system:nodes/CN=system:node:{node.name}"
            pki.issue(node.name, subject, [f"DNS:{node.name}", f"IP:{address}"])
        pki.kubeconfig("admin", self.control_plane.url, self.kubeconfig)

    @staticmethod
    def _start_runtime(node: Node, archives: Iterable[Path]) -> None:
        node.start_runtime()
        _import(node, archives)

    def _start_dns(self, coredns: Path) -> None:
        corefile = self.state / "Corefile"
        corefile.write_text(
            f"""cluster.local:53 {{
    bind {self.host_address}
    errors
    kubernetes cluster.local {{
        kubeconfig {self.kubeconfig} goodput
        ttl 1
    }}
}}
"""
        )
        Daemon("coredns", self.state).start([str(coredns), "-conf", str(corefile)])

    def _wait_ready(self, node: Node, since: str = "") -> None:
        def ready() -> bool:
            if not node.alive():
                raise WaitTimeoutError("")
            return self.api().node_is_ready(node.name, since)

        try:
            wait_until(ready, "", _NODE_READY_SECONDS)
        except WaitTimeoutError as late:
            tail = log_tail(node.log_of("kubelet"))
            raise ClusterError(f"{node.name} does not get Ready; {tail}") from late
        self.api().dress_node(node.name, node.rack, self.shape.gpus_per_node)


def _allow_watchers() -> None:
    if int(_WATCHERS.read_text()) < _WATCHERS_WANTED:
        with suppress(OSError):  # one cluster does without
            _WATCHERS.write_text(str(_WATCHERS_WANTED))


def _import(node: Node, archives: Iterable[Path]) -> None:
    present = {}
    for line in node.ctr("images", "ls").splitlines()[1:]:
        words = line.split()
        present[words[0]] = words[2]
    # The client of containerd 2 leaves the import to the daemon, which knows less, unless told.
    local = ["--local"] if _containerd_major(node) >= 2 else []
    for archive in archives:
        name, digest = images.image_of(archive)
        if present.get(name) != digest:
            blobs = set(node.ctr("content", "ls", "-q").split())
            with images.without_blobs(archive, blobs) as lean:
                node.ctr("images", "import", *local, str(lean))


def _containerd_major(node: Node) -> int:
    version = node.ctr("--version").split()[-1].lstrip("v")
    return int(version.split(".")[0])


def _process(pid: int, container: str) -> list[Process]:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []  # it ended in the meantime
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields["State"].split()[0] == "Z":
        return []
    text = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return [Process(pid, text, int(fields["NSpid"].split()[-1]), container)]


def _unmount_below(directory: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1] for line in mounts]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
        run(["umount", "-l", point])
