"""Words that more than one part of the plan knows."""

from goodput_operator.api.status import AttemptState

LIVE = (AttemptState.STARTING, AttemptState.RUNNING)
"""The states of an attempt that is to train."""
PUBLISHED = (*LIVE, AttemptState.STOPPING)
"""The states of an attempt in which processes of it may live."""

SUSPENDED = "Suspended"
NOT_CONFIRMED = "NotConfirmed"
RESIZED = "Resized"
TEMPLATE_ACCEPTED = "Accepted"
UNSCHEDULABLE = "Unschedulable"
DO_NOT_REQUEUE = "DoNotRequeue"
OTHER_REASON = "Other"
"""Under which incidents are counted whose own reason has no place."""
PLANNED = frozenset({SUSPENDED, RESIZED, NOT_CONFIRMED})
"""Ends that are no incident: the user's wish, our own, or a start that is tried again."""


def stop_revision(attempt: int) -> str:
    """Return the revision of the order to stop `attempt`; an agent that shows it has seen it."""
    return f"{attempt}.stop"
