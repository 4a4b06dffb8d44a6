"""Install the operator of this checkout, as a user would: with its chart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from e2e.cluster import Cluster, images
from e2e.cluster.api import ApiError
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY, cache_dir, locked

RELEASE = "goodput-operator"
NAMESPACE = "goodput-system"
CHART = REPOSITORY / "charts" / "goodput-operator"
LEASE = "goodput-operator"
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
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={_SELECTOR}"
        listed: dict[str, Any] = self.cluster.api.call("GET", path)
        return [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> str | None:
        """Return the name of the pod that holds the Lease, None while no living pod does."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}"
        try:
            lease = self.cluster.api.call("GET", path)
        except ApiError:
            return None
        holder = str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]
        return holder if holder in {pod["metadata"]["name"] for pod in self.pods()} else None

    def pods_text(self) -> str:
        """Return the replicas' pods as kubectl prints them."""
        return self.cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide", check=False)

    def logs(self, lines: int = -1) -> str:
        """Return the last lines of all replicas, each with its pod's name; -1: all of them."""
        return self.cluster.kubectl(
            *("logs", "-n", NAMESPACE, "-l", _SELECTOR, "--prefix", f"--tail={lines}"), check=False
        )
