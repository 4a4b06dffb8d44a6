"""Break a node for a while, and leave the cluster whole whatever the test does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from e2e.cluster import Cluster


@contextmanager
def lost_node(cluster: Cluster, node: str) -> Iterator[None]:
    """Take a node's power away; it boots again at the end."""
    cluster.lose_node(node)
    try:
        yield
    finally:
        cluster.restore_node(node)


@contextmanager
def partitioned(cluster: Cluster, node: str, addresses: Sequence[str] = ()) -> Iterator[None]:
    """Cut a node off, from `addresses` only where some are given; at the end it is healed."""
    cluster.partition(node, addresses)
    try:
        yield
    finally:
        cluster.heal(node)


@contextmanager
def out_of_service(cluster: Cluster, node: str) -> Iterator[None]:
    """Declare that nothing runs on a node any more, as an administrator does (KEP-2268)."""
    taint = "node.kubernetes.io/out-of-service"
    cluster.kubectl("taint", "node", node, f"{taint}=nodeshutdown:NoExecute")
    try:
        yield
    finally:
        cluster.kubectl("taint", "node", node, f"{taint}-")


def control_plane_addresses(cluster: Cluster) -> list[str]:
    """Return where the API server is, as pods and kubelets reach it."""
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
    listed = cluster.api.call("GET", path)["endpoints"]
    return [address for endpoint in listed for address in endpoint["addresses"]]
