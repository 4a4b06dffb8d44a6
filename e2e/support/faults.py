"""Break a node for a while, and leave the cluster whole whatever the test does."""

from __future__ import annotations

from collections.abc import Iterator
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
def partitioned(cluster: Cluster, node: str) -> Iterator[None]:
    """Cut a node off, its processes going on unheard; the partition ends at the end."""
    cluster.partition(node)
    try:
        yield
    finally:
        cluster.heal(node)
