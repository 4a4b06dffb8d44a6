"""The provider for machines with a Docker engine and kind.

Written from kind's documentation; it has not been run, for want of an engine.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .api import Api
from .errors import ClusterError
from .packages import which
from .paths import cache_dir, numbered
from .progress import wait_until
from .provider import Process, Shape, container_ids
from .run import run

_NAME = "goodput"
_NETWORK = "kind"
_LIST_PROCESSES = """
for file in $(find /sys/fs/cgroup -path "*$1*" -name cgroup.procs); do
  for pid in $(cat "$file"); do
    inside=$(sed -n 's/^NSpid:.*\\t//p' "/proc/$pid/status") || continue
    echo "$pid $inside $(tr '\\0' ' ' < "/proc/$pid/cmdline")"
  done
done
"""


class Kind:
    """A cluster of kind: one control-plane container, one container per node."""

    def __init__(self, state: Path, shape: Shape) -> None:
        self.state = state
        self.shape = shape
        self.kubeconfig = state / "kubeconfig"

    @staticmethod
    def available() -> bool:
        """Tell whether kind is installed and a Docker engine answers."""
        if which("kind") is None or which("docker") is None:
            return False
        try:
            return run(["docker", "info"], check=False, timeout_seconds=10).returncode == 0
        except ClusterError:
            return False

    @property
    def host_address(self) -> str:
        """The gateway of kind's network, where containers reach this host."""
        form = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        said = run(["docker", "network", "inspect", _NETWORK, "--format", form]).stdout
        return next(address for address in said.split() if "." in address)

    def up(self) -> None:
        """Create the cluster and give its nodes labels and accelerators."""
        shared = self.state / "shared"
        shared.mkdir(parents=True)
        shared.chmod(0o1777)
        cache_dir().mkdir(parents=True, exist_ok=True)
        file = self.state / "kind.json"
        file.write_text(json.dumps(self._config()))
        argv = ["kind", "create", "cluster", "--name", numbered(_NAME), "--config", str(file)]
        run([*argv, "--kubeconfig", str(self.kubeconfig), "--wait", "180s"], timeout_seconds=600)
        for index, node in enumerate(self.node_names()):
            self._wait_ready(node)
            rack = f"rack-{index // 2 + 1}"
            self.api().dress_node(node, rack, self.shape.gpus_per_node)

    def down(self) -> None:
        """Delete the cluster and the state."""
        run(["kind", "delete", "cluster", "--name", numbered(_NAME)], timeout_seconds=300)
        shutil.rmtree(self.state, ignore_errors=True)

    def unhealthy_reason(self) -> str | None:
        """Return what is broken, else None."""
        if not self.kubeconfig.exists() or not self.api().ready():
            return "the API server is not ready"
        for node in self.node_names():
            if not self.api().node_is_ready(node):
                return f"{node} is not Ready"
        return None

    def api(self) -> Api:
        """Return a client with the certificate of kind's kubeconfig."""
        argv = ["kubectl", f"--kubeconfig={self.kubeconfig}", "config", "view", "--raw"]
        config = json.loads(run([*argv, "-o", "json"]).stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        files = []
        for source, key in (
            (cluster, "certificate-authority-data"),
            (user, "client-certificate-data"),
            (user, "client-key-data"),
        ):
            path = self.state / key
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(source[key]))
            files.append(path)
        return Api(cluster["server"], *files)

    def node_names(self) -> tuple[str, ...]:
        """Return the names of the workers, or of the control plane where it is alone."""
        listed = run(["kind", "get", "nodes", "--name", numbered(_NAME)]).stdout.split()
        return tuple(sorted(name for name in listed if "control-plane" not in name))

    def pod_processes(self, pod: dict[str, Any]) -> list[Process]:
        """Return the processes of a pod's containers; the pids are those of the node."""
        found = []
        for identifier, container in container_ids(pod).items():
            argv = ["docker", "exec", pod["spec"]["nodeName"], "sh", "-c", _LIST_PROCESSES, "sh"]
            for line in run([*argv, identifier], check=False).stdout.splitlines():
                pid, inside, command = [*line.split(" ", 2), ""][:3]
                found.append(Process(int(pid), command.strip(), int(inside), container))
        return found

    def signal(self, pod: dict[str, Any], /, pids: Sequence[int], number: int) -> None:
        """Send a signal to pids of the pod's node."""
        kill = shlex.join(["kill", f"-{number}", *map(str, pids)])
        run(["docker", "exec", pod["spec"]["nodeName"], "sh", "-c", kill], check=False)

    def lose_node(self, node: str) -> None:
        """Kill the node's container."""
        run(["docker", "kill", node])

    def restore_node(self, node: str) -> None:
        """Start the node's container again; return when it is Ready."""
        since = self.api().heartbeat(node)
        run(["docker", "start", node])
        self._wait_ready(node, since)

    def partition(self, node: str, addresses: Sequence[str]) -> None:
        """Take the node's container off the network, or drop what goes to `addresses`."""
        if not addresses:
            run(["docker", "network", "disconnect", _NETWORK, node])
        for address in addresses:
            run(["docker", "exec", node, "ip", "route", "replace", "blackhole", address])

    def heal(self, node: str) -> None:
        """Put the node's container back on the network; return when it is Ready."""
        since = self.api().heartbeat(node)
        run(["docker", "exec", node, "ip", "route", "flush", "type", "blackhole"])
        # A node that was cut off from some addresses only is on the network already.
        run(["docker", "network", "connect", _NETWORK, node], check=False)
        self._wait_ready(node, since)

    def load_image(self, archive: Path) -> None:
        """Bring an image to all nodes."""
        argv = ["kind", "load", "image-archive", str(archive), "--name", numbered(_NAME)]
        run(argv, timeout_seconds=300)

    def _wait_ready(self, node: str, since: str = "") -> None:
        api = self.api()
        wait_until(lambda: api.node_is_ready(node, since), f"{node} to be Ready", 120)

    def _config(self) -> dict[str, object]:
        grace = f"{self.shape.node_grace_seconds}s"
        tolerations = {
            "default-not-ready-toleration-seconds": "5",
            "default-unreachable-toleration-seconds": "5",
        }
        patch = {
            "kind": "ClusterConfiguration",
            "apiServer": {"extraArgs": tolerations},
            "controllerManager": {
                "extraArgs": {"node-monitor-grace-period": grace, "node-monitor-period": "1s"}
            },
        }
        kubelet = {"kind": "KubeletConfiguration", "nodeStatusUpdateFrequency": "2s"}
        mounts = [
            {"hostPath": str(path), "containerPath": str(path)}
            for path in (self.state / "shared", cache_dir())
        ]
        return {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "featureGates": {"GenericWorkload": True, "TopologyAwareWorkloadScheduling": True},
            "runtimeConfig": {"scheduling.k8s.io/v1beta1": "true"},
            "kubeadmConfigPatches": [json.dumps(patch), json.dumps(kubelet)],
            "nodes": [
                {"role": "control-plane"},
                *({"role": "worker", "extraMounts": mounts} for _ in range(self.shape.nodes)),
            ],
        }
