"""Nodes: kubelet, containerd and kube-proxy, each node in namespaces and cgroups of its own.

A node's holder process keeps its mount namespace. All the rest of the node, pods included,
lives in the cgroup `goodput/<node>`, so a power loss is: pull the cable, kill the cgroup,
kill the holder. Ending the holder drops every mount of the node.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, network, packages
from .daemons import Daemon
from .errors import ClusterError, WaitTimeoutError, log_tail
from .pki import Pki
from .preflight import may_raise_limits
from .progress import wait_until
from .run import run

PAUSE_IMAGE = "goodput.local/pause:dev"
_HOLD = """
set -e
here=$1; shift
for target in "$@"; do
  mkdir -p "$here$target" "$target"
  mount --bind "$here$target" "$target"
done
mount --make-rshared /
touch "$here/held"
exec sleep infinity
"""
# Hard-coded in the kubelet, in containerd's shims and in libcni: each node needs its own.
_PRIVATE_DIRECTORIES = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/run/containerd",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `index` counts from 1."""

    index: int
    state: Path

    @property
    def name(self) -> str:
        """The node's name in Kubernetes."""
        return f"node{self.index}"

    @property
    def directory(self) -> Path:
        """Where all files of the node lie."""
        return self.state / "nodes" / self.name

    @property
    def rack(self) -> str:
        """The rack that the node's label names: two nodes share one."""
        return f"rack-{(self.index + 1) // 2}"

    def start_runtime(self) -> None:
        """Start the holder and containerd, and wait until containerd takes images.

        Raises:
            ClusterError: one of them did not come up; with the end of its log.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._file("containerd-state"), ignore_errors=True)  # a reboot empties it
        cgroups.create(f"holders/{self.name}")
        cgroups.create(f"{self.name}/system")
        self._start_holder()
        self._file("containerd.toml").write_text(self._containerd_config())
        self._file("cni").mkdir(exist_ok=True)
        self._file("cni/10-goodput.conflist").write_text(json.dumps(self._cni_config()))
        self._start("containerd", ["containerd", "--config", str(self._file("containerd.toml"))])
        try:
            wait_until(self._runtime_is_ready, "containerd", 30, 0.05)
        except WaitTimeoutError as late:
            tail = log_tail(self._daemon("containerd").log)
            raise ClusterError(f"containerd of {self.name} is not ready; {tail}") from late

    def start_agents(self, binaries: Mapping[str, Path], pki: Pki, api_url: str) -> None:
        """Start the kubelet and kube-proxy; the API server should be ready by now."""
        kubeconfig = pki.kubeconfig(self.name, api_url, self._file("kubelet.kubeconfig"))
        config = self._file("kubelet.json")
        config.write_text(json.dumps(self._kubelet_config(pki, "coredns" in binaries)))
        argv = [str(binaries["kubelet"]), f"--config={config}", f"--kubeconfig={kubeconfig}"]
        argv += ["--root-dir=/var/lib/kubelet", f"--hostname-override={self.name}"]
        self._start("kubelet", [*argv, f"--node-ip={network.node_address(self.index)}"])
        proxy_kubeconfig = pki.kubeconfig("kube-proxy", api_url, self._file("proxy.kubeconfig"))
        config = self._file("proxy.json")
        config.write_text(json.dumps(self._proxy_config(proxy_kubeconfig)))
        self._start("kube-proxy", [str(binaries["kube-proxy"]), f"--config={config}"])

    def kill(self) -> None:
        """End everything that runs on the node at once, as a power loss does."""
        cgroups.kill_all(self.name)
        self._daemon("holder").stop()

    def alive(self) -> bool:
        """Tell whether the node's own three programs live."""
        return all(
            self._daemon(program).pid is not None
            for program in ("containerd", "kubelet", "kube-proxy")
        )

    def ctr(self, *arguments: str, timeout_seconds: float = 300) -> str:
        """Run containerd's client in Kubernetes' namespace and return what it says."""
        program = packages.which("ctr") or "ctr"
        socket = str(self._file("containerd.sock"))
        argv = [program, "-a", socket, "-n", "k8s.io", *arguments]
        return run(argv, timeout_seconds=timeout_seconds).stdout

    def log_of(self, program: str) -> Path:
        """Return the log of `containerd`, `kubelet`, `kube-proxy` or `holder`."""
        return self._daemon(program).log

    def pod_cgroup(self, uid: str) -> Path | None:
        """Return the cgroup of a pod on this node, whatever its quality of service."""
        base = cgroups.tracked(self.name) / "kubepods"
        for quality in (".", "burstable", "besteffort"):
            path = base / quality / f"pod{uid}"
            if path.is_dir():
                return path
        return None

    def _file(self, name: str) -> Path:
        return self.directory / name

    def _daemon(self, program: str) -> Daemon:
        return Daemon(f"{self.name}-{program}", self.state)

    def _start_holder(self) -> None:
        marker = self._file("held")
        marker.unlink(missing_ok=True)
        argv = ["nsenter", f"--net={network.namespace(self.name)}"]
        argv += ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLD, "sh"]
        holder = self._daemon("holder")
        holder.start(
            [*argv, str(self.directory), *_PRIVATE_DIRECTORIES],
            cgroups=cgroups.joinable(f"holders/{self.name}"),
        )
        try:
            wait_until(marker.exists, "the mount namespace", 10, 0.01)
        except WaitTimeoutError as late:
            raise ClusterError(f"{self.name} got no namespace; {log_tail(holder.log)}") from late

    def _start(self, program: str, argv: list[str]) -> None:
        pid = self._daemon("holder").pid
        if pid is None:
            raise ClusterError(f"{self.name} is not running: its holder process is gone")
        enter = ["nsenter", "--target", str(pid), "--mount", "--net", "--"]
        self._daemon(program).start(
            [*enter, *argv], cgroups=cgroups.joinable(f"{self.name}/system")
        )

    def _runtime_is_ready(self) -> bool:
        if self._daemon("containerd").pid is None:
            raise ClusterError(
                f"containerd of {self.name} ended; {log_tail(self._daemon('containerd').log)}"
            )
        try:
            plugins = self.ctr("plugins", "ls", "id==cri", timeout_seconds=10)
        except ClusterError:
            return False
        return any(line.split()[-1] == "ok" for line in plugins.splitlines() if line.strip())

    def _containerd_config(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        # Without CAP_SYS_RESOURCE, lowering a score fails and no sandbox would start.
        restrict = str(not may_raise_limits()).lower()
        return f"""version = 2
root = "{self._file("containerd")}"
state = "{self._file("containerd-state")}"

[grpc]
  address = "{self._file("containerd.sock")}"

[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = {restrict}
  netns_mounts_under_state_dir = true

[{cri}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  SystemdCgroup = false
  BinaryName = "{packages.which("runc")}"

[{cri}.cni]
  bin_dir = "{packages.CNI_DIRECTORY}"
  conf_dir = "{self._file("cni")}"
"""

    def _cni_config(self) -> dict[str, object]:
        subnet = network.pod_range(self.index)
        gateway = str(ipaddress.ip_network(subnet)[1])
        return {
            "cniVersion": "1.0.0",
            "name": "goodput",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": subnet, "gateway": gateway}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(self._file("addresses")),
                    },
                }
            ],
        }

    def _kubelet_config(self, pki: Pki, dns: bool) -> dict[str, object]:
        resolv = self._file("resolv.conf")
        resolv.write_text("")
        config: dict[str, object] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": network.node_address(self.index),
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.path(f"{self.name}.crt"),
            "tlsPrivateKeyFile": pki.path(f"{self.name}.key"),
            "containerRuntimeEndpoint": f"unix://{self._file('containerd.sock')}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.top()}/{self.name}",
            "enforceNodeAllocatable": [],
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "failSwapOn": False,
            "podLogsDir": str(self._file("pod-logs")),
            "resolvConf": str(resolv),
            "clusterDomain": "cluster.local",
            # A dead address would cost each look-up five seconds; a refused one costs nothing.
            "clusterDNS": [network.host_address() if dns else "127.0.0.1"],
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": 110,
            "registerNode": True,
            "makeIPTablesUtilChains": False,
            "serializeImagePulls": False,
        }
        if cgroups.version() == 1:
            config["failCgroupV1"] = False
        return config

    def _proxy_config(self, kubeconfig: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": network.all_pods(),
            "hostnameOverride": self.name,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0},
        }


def release_directories() -> None:
    """Remove the mount points that nodes needed on the host, where they are empty."""
    for directory in _PRIVATE_DIRECTORIES:
        try:
            Path(directory).rmdir()
        except OSError:
            continue  # it was there before us, or is not there
