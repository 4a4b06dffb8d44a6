"""Nodes and pods as the book of capacity sees them, read from trimmed objects. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from goodput_operator import names
from goodput_operator.observe.resources import Resources, mapping, mappings

PodKey = tuple[str, str]
"""(namespace, name)."""

SCHEDULING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})

_CLOSING_TAINTS = {
    names.TAINT_OUT_OF_SERVICE: "out of service",
    names.TAINT_UNREACHABLE: "not ready",
    names.TAINT_NOT_READY: "not ready",
    names.TAINT_UNSCHEDULABLE: "cordoned",
}


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps pods off a node unless they tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """What a node offers, and to whom.

    Attributes:
        closed: why it takes no new worker, whatever that tolerates; empty when it may.
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    allocatable: Resources
    closed: str


def read_node(node: Mapping[str, Any]) -> Node:
    """Return the facts of a node (`observe.trim.trim_node`).

    A worker tolerates not-ready and unreachable so that we, not the control plane, decide when
    it leaves; that must never bring a new worker to such a node, hence `Node.closed`.
    """
    metadata, spec, status = (
        node["metadata"],
        mapping(node.get("spec")),
        mapping(node.get("status")),
    )
    taints = tuple(
        Taint(taint.get("key", ""), taint.get("value") or "", taint.get("effect", ""))
        for taint in mappings(spec.get("taints"))
    )
    return Node(
        name=metadata["name"],
        labels=mapping(metadata.get("labels")),
        taints=tuple(taint for taint in taints if taint.effect in SCHEDULING_EFFECTS),
        allocatable=mapping(status.get("allocatable")),
        closed=_closed(metadata, spec, status, taints),
    )


def _closed(
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
    status: Mapping[str, Any],
    taints: tuple[Taint, ...],
) -> str:
    if metadata.get("deletionTimestamp"):
        return "being deleted"
    closing = {_CLOSING_TAINTS[taint.key] for taint in taints if taint.key in _CLOSING_TAINTS}
    if "out of service" in closing:
        return "out of service"
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in mappings(status.get("conditions"))
    )
    if not ready or "not ready" in closing:
        return "not ready"
    return "cordoned" if spec.get("unschedulable") or closing else ""


_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pod holds of a node, or is promised; `uid` is empty for a promise."""

    node: str
    requests: Resources
    ours: bool
    uid: str = ""


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod has ended, and so holds nothing."""
    return mapping(pod.get("status")).get("phase") in _ENDED


def read_claim(pod: Mapping[str, Any]) -> Claim | None:
    """Return what a pod (`observe.trim`) holds of the node that it is bound or pinned to.

    None when it has ended, or when nobody has chosen its node yet.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    node = spec.get("nodeName") or spec.get("pinnedNode")
    if not node or has_ended(pod):
        return None
    ours = names.LABEL_JOB in mapping(metadata.get("labels"))
    return Claim(node, spec["requests"], ours, metadata["uid"])


@dataclass(slots=True)
class Account:
    """One node's line in the book; `node` is None while only its pods are known.

    Attributes:
        used: what is held or promised.
        ours: the part of it that workers of ours hold or are promised.
    """

    node: Node | None = None
    used: dict[str, int] = field(default_factory=dict)
    ours: dict[str, int] = field(default_factory=dict)

    def charge(self, claim: Claim, sign: int) -> None:
        """Add (1) or take away (-1) what a pod holds."""
        for amounts in (self.used, self.ours) if claim.ours else (self.used,):
            for name, amount in claim.requests.items():
                amounts[name] = amounts.get(name, 0) + sign * amount
                if not amounts[name]:
                    del amounts[name]

    def free(self, name: str, *, without_ours: bool = False) -> int:
        """Return what is left of a resource, or would be if all workers of ours left."""
        offered = self.node.allocatable.get(name, 0) if self.node else 0
        left = offered - self.used.get(name, 0)
        return left + self.ours.get(name, 0) if without_ours else left

    def holds(self, requests: Resources, *, without_ours: bool = False) -> int:
        """Return how many such pods find room (by resources alone)."""
        room = (
            self.free(name, without_ours=without_ours) // amount
            for name, amount in requests.items()
        )
        return max(0, min(room))


@dataclass(frozen=True, slots=True)
class Eligible:
    """The nodes that a set of constraints allows, and how many it refuses for which reason."""

    accounts: tuple[tuple[Node, Account], ...]
    names: frozenset[str]
    refusals: Mapping[str, int]
