"""What is said beforehand of a worker that will be taken away: by its pod, node or agent. Pure.

A notice is no fault yet. It leaves the training the time to save, and so costs no work.

Sources of the taints: AWS node termination handler (`pkg/node`), Karpenter (`pkg/apis/v1`), cluster
autoscaler (`utils/taints`), GKE's maintenance handler, AKS node auto-drain. Not in the table, for
they announce nothing: `node.kubernetes.io/unschedulable` (a cordon; a drain that follows evicts the
pods, and that is a notice), `aws-node-termination-handler/rebalance-recommendation` and
`DeletionCandidateOfClusterAutoscaler` (they may come to nothing).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from goodput_operator.observe.agents import AgentView

DRAIN_SECONDS: Final = 60
"""What a training gets to save where nobody says how long it has."""
END_SECONDS: Final = 11
"""So long before its kubelet kills a pod, its processes are told to end; see the agent's core."""
LONGEST_SECONDS: Final = 3600
"""No agent is believed to have longer than that."""

NODE_NOTICES: Final[Mapping[str, tuple[str, int]]] = {
    "aws-node-termination-handler/asg-lifecycle-termination": ("NodeDraining", DRAIN_SECONDS),
    "aws-node-termination-handler/scheduled-maintenance": ("NodeMaintenance", DRAIN_SECONDS),
    "aws-node-termination-handler/spot-itn": ("NodeReclaimed", 110),
    "cloud.google.com/impending-node-termination": ("NodeReclaimed", 20),
    "karpenter.sh/disrupted": ("NodeDraining", DRAIN_SECONDS),
    "karpenter.sh/disruption": ("NodeDraining", DRAIN_SECONDS),
    "remediator.aks.microsoft.com/unschedulable": ("NodeMaintenance", 25),
    "remediator.kubernetes.azure.com/unschedulable": ("NodeMaintenance", 25),
    "ToBeDeletedByClusterAutoscaler": ("NodeDraining", DRAIN_SECONDS),
}
"""Taint by which a node says that it will go → reason, and the seconds that are left to save.

A spot instance of AWS has two minutes, a preemptible one of Google's half of one.
"""

POD_NOTICES: Final[Mapping[str, str]] = {
    "PreemptionByScheduler": "Preempted",
    "Preempting": "Preempted",
    "EvictionByEvictionAPI": "NodeDraining",
    "DeletionByTaintManager": "NodeDraining",
    "TerminationByKubelet": "NodeShutdown",
}
"""Reason of a pod's condition DisruptionTarget → ours."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A worker will be taken away.

    Attributes:
        reason: CamelCase, what for.
        why: the evidence, in words.
        by: until when its processes may save; None where only a time from now on is known.
        seconds: that time.
    """

    reason: str
    why: str
    by: datetime | None = None
    seconds: int = DRAIN_SECONDS

    def due_at(self, now: datetime) -> datetime:
        """Return until when the training may save, if it is asked now."""
        return self.by or now + timedelta(seconds=self.seconds)


def pod_notice(gone_by: datetime | None, disruption: str, agent: AgentView | None) -> Notice | None:
    """Return what a pod and its agent say.

    Args:
        gone_by: when the kubelet will kill the pod; None while it is not being deleted.
        disruption: the reason of its condition DisruptionTarget, empty without.
        agent: its newest report.
    """
    ends_at = _told(agent)
    if gone_by is None and ends_at is None and not disruption:
        return None
    times = [ends_at, gone_by - timedelta(seconds=END_SECONDS) if gone_by else None]
    by = min((time for time in times if time is not None), default=None)
    if disruption:
        reason = POD_NOTICES.get(disruption, "PodDeleted")
        return Notice(reason, f"its pod is being taken away ({disruption})", by)
    if gone_by is None:
        return Notice("NodeShutdown", "its kubelet is ending it", by)
    return Notice("PodDeleted", "its pod is being deleted", by)


def _told(agent: AgentView | None) -> datetime | None:
    """Return until when the processes may save, by the agent's own word."""
    if agent is None or agent.request.ends_at is None:
        return None
    left_ms = min(agent.request.ends_at - agent.request.sent_at, LONGEST_SECONDS * 1000)
    return agent.received_at + timedelta(milliseconds=max(0, left_ms))


def node_notice(
    taints: Sequence[Mapping[str, Any]], tolerations: Sequence[Mapping[str, Any]]
) -> Notice | None:
    """Return what a node's taints say; who tolerates such a taint wants to stay.

    Of several the one that leaves the least time counts.
    """
    found = [
        Notice(*_named(taint["key"]))
        for taint in taints
        if taint.get("key") in NODE_NOTICES and not _tolerated(taint, tolerations)
    ]
    return min(found, key=lambda one: (one.seconds, one.why), default=None)


def _named(key: str) -> tuple[str, str, None, int]:
    reason, seconds = NODE_NOTICES[key]
    return reason, f"its node is tainted {key}", None, seconds


def _tolerated(taint: Mapping[str, Any], tolerations: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        (one.get("key") or taint["key"]) == taint["key"]
        and (one.get("effect") or taint.get("effect")) == taint.get("effect")
        and (one.get("operator") == "Exists" or (one.get("value") or "") == taint.get("value", ""))
        for one in tolerations
    )
