"""Install the operator of this checkout, as a user would: with its chart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from e2e.cluster import Cluster, images
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY, cache_dir, locked

RELEASE = "goodput-operator"
NAMESPACE = "goodput-system"
CHART = REPOSITORY / "charts" / "goodput-operator"
SELECTOR = "app.kubernetes.io/name=goodput-operator"
_READY_SECONDS = 120


def install(cluster: Cluster, values: Mapping[str, Any] | None = None) -> None:
    """Bring the cluster to the operator of this checkout and return when all replicas are Ready.

    Does nothing but look when it is installed so already. The image keeps its tag, so its
    digest is written on the pods: another image rolls them.

    Raises:
        ClusterError: the image could not be built, or the pods did not become Ready; the
            message ends with what they said.
    """
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
                *("--namespace", NAMESPACE, "--create-namespace"),
                *("--wait", f"--timeout={_READY_SECONDS}s", "--take-ownership"),
                input=json.dumps(settings),
            )
        except ClusterError as failed:
            raise ClusterError(f"{failed}\n{_last_words(cluster)}") from failed


def logs(cluster: Cluster, lines: int = -1) -> str:
    """Return what all replicas have said, each line with the pod's name before it."""
    return cluster.kubectl(
        *("logs", "-n", NAMESPACE, "-l", SELECTOR, "--prefix", f"--tail={lines}"), check=False
    )


def _last_words(cluster: Cluster) -> str:
    pods = cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide", check=False)
    return f"{pods}\n{logs(cluster, lines=15)}"
