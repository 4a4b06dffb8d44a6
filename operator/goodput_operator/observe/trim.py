"""Keep of a raw object what a decision can depend on, so that a large cluster fits in memory.

Pure. `effects.caches` passes every object that comes in through one of these functions. The
result has the shape of the API (absent fields stay absent, so one reader serves both), with
three differences:

- `spec.requests` of a pod is `pod_requests` of it: integers, with 1 of `pods`;
- `spec.pinnedNode` of a pod is the one node that its required affinity names;
- `status.allocatable` of a node is in integers, by the same units.

Lists become tuples, long messages are cut, words that repeat are interned, and equal requests
are one object: nobody may change a trimmed object.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from sys import intern
from typing import Any, Final

from goodput_operator import names
from goodput_operator.observe.agents import PodIdentity
from goodput_operator.observe.resources import Resources, parse_resources, pod_requests


class Trimmed(dict[str, Any]):
    """A trimmed object, and what was read of it: nobody may change it, so it is read once."""

    __slots__ = ("identity", "view")

    identity: PodIdentity | None
    view: object


Trim = Callable[[Mapping[str, Any]], Trimmed]

LONGEST_MESSAGE: Final = 1024
"""Characters; the end is kept, for that is where a program says why it died."""

_POD_CONDITIONS: Final = frozenset(
    {"PodScheduled", "Initialized", "PodReadyToStartContainers", "Ready", "DisruptionTarget"}
)


def trim_own_pod(pod: Mapping[str, Any]) -> Trimmed:
    """Return what diagnosis, planning and the book of capacity read of a worker pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    return Trimmed(
        {
            "metadata": _identity(metadata)
            | _present(
                creationTimestamp=metadata.get("creationTimestamp"),
                deletionTimestamp=metadata.get("deletionTimestamp"),
                labels=_own_labels(metadata.get("labels") or {}),
                ownerReferences=tuple(
                    {
                        key: owner[key]
                        for key in ("uid", "controller", "kind", "name")
                        if key in owner
                    }
                    for owner in metadata.get("ownerReferences") or ()
                ),
            ),
            "spec": _booked(spec) | _present(pinnedNode=_pinned_node(spec)),
            "status": _present(
                phase=_interned(status.get("phase")),
                podIP=status.get("podIP"),
                reason=_interned(status.get("reason")),
                message=_cut(status.get("message")),
                conditions=tuple(
                    _condition(one)
                    for one in status.get("conditions") or ()
                    if one["type"] in _POD_CONDITIONS
                ),
                initContainerStatuses=_containers(status.get("initContainerStatuses")),
                containerStatuses=_containers(status.get("containerStatuses")),
            ),
        }
    )


def trim_foreign_pod(pod: Mapping[str, Any]) -> Trimmed:
    """Return what the book of capacity reads of anybody's pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    return Trimmed(
        {
            "metadata": _identity(metadata)
            | _present(deletionTimestamp=metadata.get("deletionTimestamp")),
            "spec": _booked(pod.get("spec") or {}),
            "status": _present(phase=_interned(status.get("phase"))),
        }
    )


def trim_node(node: Mapping[str, Any]) -> Trimmed:
    """Return what placement and diagnosis read of a node. Heartbeat times are left out."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    return Trimmed(
        {
            "metadata": _identity(metadata)
            | _present(
                deletionTimestamp=metadata.get("deletionTimestamp"),
                labels={
                    intern(key): intern(value)
                    for key, value in (metadata.get("labels") or {}).items()
                },
            ),
            "spec": _present(
                unschedulable=spec.get("unschedulable"),
                taints=tuple(spec.get("taints") or ()),
            ),
            "status": {
                "allocatable": _shared(parse_resources(status.get("allocatable"))),
                "conditions": tuple(_condition(one) for one in status.get("conditions") or ()),
            },
        }
    )


def _identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    identity = {
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
    if "namespace" in metadata:
        identity["namespace"] = intern(metadata["namespace"])
    return identity


def _own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {
        intern(key): intern(value)
        for key, value in labels.items()
        if key.startswith(names.RESERVED_PREFIX) or key == names.LABEL_MANAGED_BY
    }


def _booked(spec: Mapping[str, Any]) -> dict[str, Any]:
    return _present(
        nodeName=_interned(spec.get("nodeName")),
        priority=spec.get("priority"),
        requests=_shared(pod_requests(spec)),
    )


def _pinned_node(spec: Mapping[str, Any]) -> str | None:
    """Return the node of `matchFields: metadata.name In [node]`, as a DaemonSet's pods have it."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name" and field["operator"] == "In":
                return intern(field["values"][0])
    return None


def _condition(condition: Mapping[str, Any]) -> dict[str, Any]:
    return _present(
        type=intern(condition["type"]),
        status=intern(condition["status"]),
        reason=_interned(condition.get("reason")),
        message=_cut(condition.get("message")),
        lastTransitionTime=condition.get("lastTransitionTime"),
    )


def _containers(statuses: Iterable[Mapping[str, Any]] | None) -> tuple[dict[str, Any], ...]:
    return tuple(
        _present(
            name=intern(one["name"]),
            state=_container_state(one.get("state") or {}),
            lastState=_container_state(one.get("lastState") or {}),
            restartCount=one.get("restartCount"),
        )
        for one in statuses or ()
    )


def _container_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of a container has one key: waiting, running or terminated."""
    return {
        intern(kind): _present(
            exitCode=detail.get("exitCode"),
            signal=detail.get("signal"),
            reason=_interned(detail.get("reason")),
            message=_cut(detail.get("message")),
            startedAt=detail.get("startedAt"),
            finishedAt=detail.get("finishedAt"),
        )
        for kind, detail in state.items()
    }


def _present(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value; 0 is one, empty is none."""
    return {key: value for key, value in fields.items() if value or value == 0}


def _interned(text: str | None) -> str | None:
    return None if text is None else intern(text)


def _cut(text: str | None) -> str | None:
    return text[-LONGEST_MESSAGE:] if text else None


def _shared(amounts: Resources) -> Resources:
    return _one_of(tuple(amounts.items()))


@lru_cache(maxsize=4096)
def _one_of(items: tuple[tuple[str, int], ...]) -> Resources:
    return {intern(name): amount for name, amount in items}
