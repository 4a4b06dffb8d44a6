"""Real nodes with the operator of this checkout: the cluster that is up, else one for the time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from e2e.cluster import Cluster
from e2e.cluster.images import build_static_images
from e2e.support.installation import Operator
from e2e.support.suite import is_up

from .api_tier import Object


@contextmanager
def node_tier(node_grace_seconds: int = 12) -> Iterator[Cluster]:
    """Give a cluster with the operator installed; the grace is that of one made for the time."""
    made = not is_up()
    cluster = Cluster.up(node_grace_seconds=node_grace_seconds) if made else Cluster.attach()
    try:
        for archive in build_static_images():
            cluster.load_image(archive)
        Operator.install(cluster)
        yield cluster
    finally:
        if made:
            Cluster.down()


@contextmanager
def namespace(cluster: Cluster, name: str) -> Iterator[str]:
    """Give a namespace that is empty, and deleted with its jobs and pods at the end."""
    path = "/api/v1/namespaces"
    _remove(cluster, name)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.api.call("POST", path, body)
    try:
        yield name
    finally:
        _remove(cluster, name)


def moment(text: str) -> float:
    """Return a timestamp of the API in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def pod_start_seconds(pod: Object) -> float:
    """Return how long the cluster took to start a pod: creation until its trainer's start."""
    running = pod["status"]["containerStatuses"][0]["state"]["running"]
    return moment(running["startedAt"]) - moment(pod["metadata"]["creationTimestamp"])


def _remove(cluster: Cluster, name: str) -> None:
    cluster.kubectl("delete", "gtj,pod", "--all", "-n", name, "--ignore-not-found", check=False)
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", timeout_seconds=120)
    shutil.rmtree(cluster.shared_dir / name, ignore_errors=True)
