"""Nodes, pods and gangs of a small imaginary cluster, as the caches hand them over."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from goodput_operator import names
from goodput_operator.gang import Book, Constraints, GangRequest
from goodput_operator.names import LABEL_RACK
from goodput_operator.observe.trim import trim_foreign_pod, trim_node, trim_own_pod

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GPU = "nvidia.com/gpu"
JOB = ("default", "train")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def node(
    name: str,
    *,
    gpus: int = 8,
    rack: str | None = None,
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Mapping[str, str]] = (),
    ready: bool = True,
    cordoned: bool = False,
    deleting: bool = False,
    pods: int = 110,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "labels": {
            "kubernetes.io/hostname": name,
            **({LABEL_RACK: rack} if rack else {}),
            **(labels or {}),
        },
    }
    if deleting:
        metadata["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    return trim_node(
        {
            "metadata": metadata,
            "spec": {"unschedulable": cordoned, "taints": list(taints)},
            "status": {
                "allocatable": {
                    "cpu": "64",
                    "memory": "512Gi",
                    "pods": str(pods),
                    **({GPU: str(gpus)} if gpus else {}),
                },
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            },
        }
    )


def foreign(
    name: str, on: str | None, gpus: int = 8, phase: str = "Running", uid: str = ""
) -> dict[str, Any]:
    return trim_foreign_pod(_pod(name, on, gpus, phase, uid))


def worker(
    name: str,
    on: str | None,
    gpus: int = 8,
    phase: str = "Running",
    uid: str = "",
    pinned: str | None = None,
) -> dict[str, Any]:
    pod = _pod(name, on, gpus, phase, uid)
    pod["metadata"]["labels"] = {names.LABEL_JOB: "train"}
    if pinned:
        pin = {"key": "metadata.name", "operator": "In", "values": [pinned]}
        required = {"nodeSelectorTerms": [{"matchFields": [pin]}]}
        pod["spec"]["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    return trim_own_pod(pod)


def _pod(name: str, on: str | None, gpus: int, phase: str, uid: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2030-01-01T00:00:00Z",
        },
        "spec": {
            **({"nodeName": on} if on else {}),
            "containers": [{"name": "main", "resources": {"limits": {GPU: gpus}}}],
        },
        "status": {"phase": phase},
    }


def gang(workers: int, *, gpus: int = 8, **fields: Any) -> GangRequest:
    fields.setdefault("constraints", Constraints())
    requests = {"pods": 1, **({GPU: gpus} if gpus else {})}
    return GangRequest(slots=tuple(range(workers)), requests=requests, **fields)


def book(*nodes: Mapping[str, Any], **settings: Any) -> Book:
    made = Book(**settings)
    for one in nodes:
        made.node_changed(None, one)
    return made
