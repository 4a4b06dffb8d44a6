"""What a worker's agent has said, and who is allowed to say it.

Pure: the values that `reports` keeps and that a pass looks at. Nothing here decides whether
an agent is lost; that is the diagnosis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from goodput.protocol import SyncRequest
from goodput_operator import names

JobKey = tuple[str, str]
"""Namespace and name of a TrainingJob."""

LONGEST_AGE_MS = 10 * 365 * 86_400_000
"""Ten years: an age that no machine's uptime has."""

_TERMINAL_PHASES = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """A living worker pod of ours, as the API server knows it."""

    namespace: str
    name: str
    uid: str
    job: str
    slot: int
    incarnation: int

    @property
    def key(self) -> JobKey:
        """The job that the pod works for."""
        return self.namespace, self.job


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Whom the API server says a bearer token belongs to (TokenReview, KEP-1205).

    `pod_name` and `pod_uid` are empty for a token that is not bound to a pod.
    """

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class AgentView:
    """The newest report of one agent.

    Attributes:
        received_at: when the newest report came in, on the operator's clock.
        first_seen_at: when this operator first heard of the agent.
    """

    request: SyncRequest
    received_at: datetime
    first_seen_at: datetime

    def time_of(self, at_ms: int) -> datetime:
        """Return the operator's time of `at_ms` on the agent's clock, never after the report.

        The age is what counts (`sent_at - at_ms`), so a wrong clock on the node harms nothing.
        """
        age_ms = max(self.request.sent_at - at_ms, 0)
        if age_ms > LONGEST_AGE_MS:
            return self.received_at
        return self.received_at - timedelta(milliseconds=age_ms)


@dataclass(frozen=True, slots=True)
class Vigil:
    """Whose silence is an event of its own: none of these pods' agents may be silent for longer.

    Attributes:
        pods: their UIDs.
        limit_seconds: counted from each agent's last word.
    """

    pods: frozenset[str]
    limit_seconds: float


def pod_identity(pod: Mapping[str, Any]) -> PodIdentity | None:
    """Return who a pod is, None unless it is a worker of ours that has not ended.

    A pod that is being deleted still speaks: its last words say how its processes ended.
    """
    metadata = pod.get("metadata") or {}
    labels = metadata.get("labels") or {}
    phase = (pod.get("status") or {}).get("phase")
    if labels.get(names.LABEL_MANAGED_BY) != names.OPERATOR_NAME or phase in _TERMINAL_PHASES:
        return None
    try:
        return PodIdentity(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            job=labels[names.LABEL_JOB],
            slot=int(labels[names.LABEL_SLOT]),
            incarnation=int(labels[names.LABEL_INCARNATION]),
        )
    except (KeyError, ValueError):
        return None
