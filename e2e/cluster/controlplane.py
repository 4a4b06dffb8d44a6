"""etcd, the API server, the controller manager and the scheduler, as processes of this host."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from .api import Api
from .daemons import Daemon
from .errors import ClusterError, WaitTimeoutError, log_tail
from .pki import Pki
from .progress import wait_until

SERVICE_ADDRESS = "10.96.0.1"
SERVICE_RANGE = "10.96.0.0/16"
# Gang scheduling by the stock scheduler, for the back end that uses it.
_GATES = "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true"
_START_ORDER = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the four listen; by default at the ports that they have everywhere."""

    api: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380
    controller_manager: int = 10257
    scheduler: int = 10259

    @staticmethod
    def of(number: int) -> Ports:
        """Return the ports of the cluster with this number, the usual ones for the first."""
        usual = Ports()
        return Ports(*(port + 100 * (number - 1) for port in astuple(usual)))

    @staticmethod
    def free() -> Ports:
        """Return ports that nobody uses now, for a control plane beside another one."""
        probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        try:
            return Ports(*(probe.getsockname()[1] for probe in probes))
        finally:
            for probe in probes:
                probe.close()


class ControlPlane:
    """The processes of the API tier, all below one state directory."""

    def __init__(self, state: Path, address: str, ports: Ports = Ports()) -> None:
        self.state = state
        self.address = address
        self.ports = ports
        self.url = f"https://{address}:{ports.api}"
        self.pki = Pki(state / "pki")
        self.kubeconfig = state / "kubeconfig"
        self._clients: dict[str, list[str]] = {}

    def start(self, binaries: Mapping[str, Path], node_grace_seconds: int) -> None:
        """Start all four; the certificates must exist. `wait_ready` says when they serve.

        Raises:
            ClusterError: a port is taken, or a process did not start.
        """
        ports = self.ports
        local = (ports.etcd, ports.etcd_peer, ports.controller_manager, ports.scheduler)
        _check_ports({"127.0.0.1": local, self.address: (ports.api,)})
        self.daemon("etcd").start([str(binaries["etcd"]), *self._etcd()])
        self.daemon("kube-apiserver").start([str(binaries["kube-apiserver"]), *self._apiserver()])
        manager = self._controller_manager(node_grace_seconds)
        self._clients = {
            "kube-controller-manager": [str(binaries["kube-controller-manager"]), *manager],
            "kube-scheduler": [str(binaries["kube-scheduler"]), *self._scheduler()],
        }
        for name, argv in self._clients.items():
            self.daemon(name).start(argv)

    def wait_ready(self, timeout_seconds: float = 90) -> None:
        """Wait until pods can be created: the API is ready, the default account exists.

        Raises:
            ClusterError: a process ended, or the time ran out; with the end of its log.
        """
        api = self.api()
        try:
            wait_until(lambda: self._check_alive(again=True) and api.ready(), "", timeout_seconds)
        except WaitTimeoutError as late:
            tail = log_tail(self.daemon("kube-apiserver").log)
            raise ClusterError(f"the API server is not ready; {tail}") from late
        try:
            wait_until(
                lambda: self._check_alive() and self._has_default_account(api), "", timeout_seconds
            )
        except WaitTimeoutError as late:
            tail = log_tail(self.daemon("kube-controller-manager").log)
            raise ClusterError(f"the controller manager makes no accounts; {tail}") from late

    def stop(self) -> None:
        """Kill all four; their data is removed next, so there is nothing to save."""
        for name in reversed(_START_ORDER):
            self.daemon(name).stop()

    def alive(self) -> bool:
        """Tell whether all four processes live."""
        return all(self.daemon(name).pid is not None for name in _START_ORDER)

    def api(self) -> Api:
        """Return a client with the administrator's certificate."""
        directory = self.pki.directory
        return Api(self.url, directory / "ca.crt", directory / "admin.crt", directory / "admin.key")

    def daemon(self, name: str) -> Daemon:
        """Return the handle of a process by its program's name."""
        return Daemon(name, self.state)

    def _check_alive(self, *, again: bool = False) -> bool:
        """Raise when a process has ended.

        `again`: not when it only gave up on an API server that a busy machine is slow to start.
        """
        for name in _START_ORDER:
            if self.daemon(name).pid is None:
                if again and name in self._clients:
                    self.daemon(name).start(self._clients[name])
                    continue
                raise ClusterError(f"{name} ended; {log_tail(self.daemon(name).log)}")
        return True

    @staticmethod
    def _has_default_account(api: Api) -> bool:
        try:
            api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except (OSError, ClusterError):
            return False
        return True

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.etcd}"

    def _etcd(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.ports.etcd_peer}"
        return [
            "--name=goodput",
            f"--data-dir={self.state / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=goodput={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _apiserver(self) -> list[str]:
        file = self.pki.path
        # No pod can reach a loopback address, and the API server refuses to announce one.
        announced = (
            ["--endpoint-reconciler-type=none"]
            if self.address == "127.0.0.1"
            else [f"--advertise-address={self.address}"]
        )
        return [
            *announced,
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self.address}",
            f"--secure-port={self.ports.api}",
            f"--tls-cert-file={file('apiserver.crt')}",
            f"--tls-private-key-file={file('apiserver.key')}",
            f"--client-ca-file={file('ca.crt')}",
            f"--kubelet-client-certificate={file('kubelet-client.crt')}",
            f"--kubelet-client-key={file('kubelet-client.key')}",
            f"--kubelet-certificate-authority={file('ca.crt')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={file('sa.pub')}",
            f"--service-account-signing-key-file={file('sa.key')}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--requestheader-client-ca-file={file('ca.crt')}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={file('front-proxy.crt')}",
            f"--proxy-client-key-file={file('front-proxy.key')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            "--default-not-ready-toleration-seconds=5",
            "--default-unreachable-toleration-seconds=5",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
            "--runtime-config=scheduling.k8s.io/v1beta1=true",
            "--enable-aggregator-routing",  # this host has no route to the addresses of Services
            _GATES,
        ]

    def _controller_manager(self, node_grace_seconds: int) -> list[str]:
        name = "kube-controller-manager"
        config = self.pki.kubeconfig(name, self.url, self.state / f"{name}.kubeconfig")
        return [
            f"--kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports.controller_manager}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.pki.path('sa.key')}",
            f"--root-ca-file={self.pki.path('ca.crt')}",
            f"--cluster-signing-cert-file={self.pki.path('ca.crt')}",
            f"--cluster-signing-key-file={self.pki.path('ca.key')}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--node-monitor-period=1s",
            "--horizontal-pod-autoscaler-sync-period=2s",
            f"--node-monitor-grace-period={node_grace_seconds}s",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            _GATES,
        ]

    def _scheduler(self) -> list[str]:
        name = "kube-scheduler"
        config = self.pki.kubeconfig(name, self.url, self.state / f"{name}.kubeconfig")
        settings = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(config), "qps": 2000, "burst": 4000},
            # With the stock 10 s a waiting gang would come up to 17 s late.
            "podInitialBackoffSeconds": 1,
            "podMaxBackoffSeconds": 1,
        }
        file = self.state / f"{name}.json"
        file.write_text(json.dumps(settings))
        return [
            f"--config={file}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports.scheduler}",
            _GATES,
        ]


def _check_ports(wanted: Mapping[str, Iterable[int]]) -> None:
    for address, ports in wanted.items():
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as taken:
                    raise ClusterError(
                        f"the control plane needs {address}:{port}: {taken.strerror}"
                    ) from taken
