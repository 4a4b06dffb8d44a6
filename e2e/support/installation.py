"""Install the operator of this checkout, as a user would: with its chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from e2e.cluster import Cluster, images
from e2e.cluster.api import ApiError
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY, cache_dir, locked

RELEASE = "goodput-operator"
NAMESPACE = "goodput-system"
CHART = REPOSITORY / "charts" / "goodput-operator"
LEASE = "goodput-operator"
_HTTP_PORT = 8080
_SELECTOR = "app.kubernetes.io/name=goodput-operator"
_READY_SECONDS = 120


class Operator:
    """The operator in a cluster; `install` puts it there."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @staticmethod
    def install(cluster: Cluster, values: Mapping[str, Any] | None = None) -> Operator:
        """Bring the cluster to the operator of this checkout; return when all replicas are Ready.

        Does nothing but look when it is there already. The image keeps its tag, so its digest
        is written on the pods: another image rolls them.

        Raises:
            ClusterError: the image could not be built, or the pods did not become Ready; the
                message ends with what they said.
        """
        operator = Operator(cluster)
        with locked(cache_dir() / "install.lock", "installing the operator", 600):
            archive = images.build_operator_image()
            name, digest = images.image_of(archive)
            cluster.load_image(archive)
            repository, tag = name.rsplit(":", 1)
            settings = {
                "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
                "podAnnotations": {"image-digest": digest},
                "resources": {"requests": {"cpu": "50m"}},
                **(values or {}),
            }
            try:
                cluster.helm(
                    *("upgrade", "--install", RELEASE, str(CHART), "--values", "-"),
                    *("--namespace", NAMESPACE, "--create-namespace", "--take-ownership"),
                    *("--wait", f"--timeout={_READY_SECONDS}s"),
                    input=json.dumps(settings),
                )
            except ClusterError as failed:
                raise ClusterError(f"{failed}\n{operator.pods_text()}\n{operator.logs(15)}") from (
                    failed
                )
        cluster.wait_until(lambda: operator.leader() is not None, "a replica to lead", 60)
        return operator

    def pods(self) -> list[dict[str, Any]]:
        """Return the replicas' pods that are not being deleted."""
        return [pod for pod in self._all_pods() if "deletionTimestamp" not in pod["metadata"]]

    def metrics_targets(self) -> list[str]:
        """Return where each replica serves /metrics, as host and port."""
        return [f"{pod['status']['podIP']}:{_HTTP_PORT}" for pod in self.pods()]

    def holder(self) -> str:
        """Return the process that holds the Lease, as `<pod>_<random>`; empty while none does."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}"
        try:
            lease = self.cluster.api.call("GET", path)
        except ApiError:
            return ""
        return str(lease["spec"].get("holderIdentity") or "")

    def leader(self) -> str | None:
        """Return the name of the pod that holds the Lease, None while no living pod does."""
        pod = self.holder().rpartition("_")[0]
        return pod if pod in {one["metadata"]["name"] for one in self.pods()} else None

    def nodes(self) -> dict[str, str]:
        """Return the node of each replica's pod, by the pod's name."""
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in self.pods()}

    def leader_node(self) -> str:
        """Return the node of the pod that leads.

        Raises:
            KeyError: none does at present.
        """
        return self.nodes()[self.leader() or ""]

    def kill_leader(self) -> str:
        """SIGKILL the process that leads; return its name, as `holder` had it."""
        holder = self.holder()
        self.cluster.kill_pid1(NAMESPACE, holder.rpartition("_")[0])
        return holder

    def wait_successor(self, former: str, timeout_seconds: float = 15) -> None:
        """Return once another process leads than the one that `holder` named before.

        Raises:
            WaitTimeoutError: none does in time; 15 s are promised at the default times.
        """
        self.cluster.wait_until(
            lambda: self.holder() not in ("", former) and self.leader() is not None,
            f"a successor of {former}",
            timeout_seconds,
            interval_seconds=0.1,
        )

    def mend(self) -> None:
        """Return once all replicas are Ready, with new pods for those that wait to restart."""
        for pod in self.pods():
            statuses = pod["status"].get("containerStatuses", [])
            if any(one["restartCount"] and not one["ready"] for one in statuses):
                self.cluster.kubectl("delete", "pod", "-n", NAMESPACE, pod["metadata"]["name"])
        self._wait_rolled_out()

    def restart(self) -> None:
        """Replace all replicas' pods one after the other, as an update does."""
        self.cluster.kubectl("rollout", "restart", "-n", NAMESPACE, f"deployment/{RELEASE}")
        self._wait_rolled_out()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let no replica run; at the end they are back and one leads."""
        replicas = len(self.pods())
        self._scale(0)
        self.cluster.wait_until(lambda: not self._all_pods(), "the operator to be gone", 60)
        try:
            yield
        finally:
            self._scale(replicas)
            self._wait_rolled_out()
            self.cluster.wait_until(lambda: self.leader() is not None, "a replica to lead", 30)

    def _all_pods(self) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={_SELECTOR}"
        listed: dict[str, Any] = self.cluster.api.call("GET", path)
        return list(listed["items"])

    def _scale(self, replicas: int) -> None:
        argv = ["scale", "-n", NAMESPACE, f"deployment/{RELEASE}", f"--replicas={replicas}"]
        self.cluster.kubectl(*argv)

    def _wait_rolled_out(self) -> None:
        argv = ["rollout", "status", "-n", NAMESPACE, f"deployment/{RELEASE}"]
        self.cluster.kubectl(*argv, f"--timeout={_READY_SECONDS}s", timeout_seconds=_READY_SECONDS)

    def pods_text(self) -> str:
        """Return the replicas' pods as kubectl prints them."""
        return self.cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide", check=False)

    def logs(self, lines: int = -1) -> str:
        """Return the last lines of all replicas, each with its pod's name; -1: all of them."""
        return self.cluster.kubectl(
            *("logs", "-n", NAMESPACE, "-l", _SELECTOR, "--prefix", f"--tail={lines}"), check=False
        )
