"""What a cluster is made of, whoever provides it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from .api import Api

ProviderName = Literal["namespaces", "kind"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked of `up`; a running cluster is used again only when it is of the same shape.

    `nodes` = 0 is the control plane alone. `node_grace_seconds` is how long a node may be
    silent before Kubernetes calls it not ready.
    """

    provider: ProviderName
    nodes: int = 3
    node_grace_seconds: int = 12
    gpus_per_node: int = 8

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Shape:
        """Read what `to_json` wrote."""
        return Shape(**json.loads(text))

    def __str__(self) -> str:
        return (
            f"{self.nodes} nodes by {self.provider}, {self.node_grace_seconds} s of grace, "
            f"{self.gpus_per_node} accelerators each"
        )


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a pod; `pid` is the host's (kind: the node's), `pid_in_pod` the pod's own."""

    pid: int
    command: str
    pid_in_pod: int
    container: str


class Provider(Protocol):
    """One way to make a cluster and to break its nodes."""

    shape: Shape
    kubeconfig: Path

    @property
    def host_address(self) -> str:
        """The address at which pods reach servers of this host."""

    def up(self) -> None:
        """Make the cluster; nothing of a former one is left when this is called."""

    def down(self) -> None:
        """Remove all of it, also after a crash in the middle of `up`."""

    def unhealthy_reason(self) -> str | None:
        """Return what is broken, else None."""

    def api(self) -> Api:
        """Return a client of the administrator."""

    def node_names(self) -> tuple[str, ...]:
        """Return the names of the nodes."""

    def pod_processes(self, pod: dict[str, Any]) -> list[Process]:
        """Return the living processes of a pod's containers; `pod` is its API object."""

    def signal(self, pod: dict[str, Any], /, pids: Sequence[int], number: int) -> None:
        """Send a signal to processes that `pod_processes` named."""

    def lose_node(self, node: str) -> None:
        """Take a node's power away."""

    def restore_node(self, node: str) -> None:
        """Boot a lost node; return when it is Ready."""

    def partition(self, node: str, addresses: Sequence[str]) -> None:
        """Cut a node off the network, or off these addresses only; its processes go on."""

    def heal(self, node: str) -> None:
        """Join a partitioned node again; return when it is Ready."""

    def load_image(self, archive: Path) -> None:
        """Bring an image from a tar file to all nodes."""


def container_ids(pod: dict[str, Any]) -> dict[str, str]:
    """Return container id → container name of all containers that a pod has started."""
    status = pod.get("status", {})
    found: dict[str, str] = {}
    for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for container in status.get(kind) or []:
            identifier = re.sub(r"^\w+://", "", container.get("containerID", ""))
            if identifier:
                found[identifier] = container["name"]
    return found
