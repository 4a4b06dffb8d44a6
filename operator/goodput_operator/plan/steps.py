"""Steps that more than one group of rules takes. Pure."""

from datetime import datetime

from goodput_operator.api.base import truncate
from goodput_operator.api.status import AttemptState, ConditionType, TrainingJobStatus
from goodput_operator.plan.view import Step, View, with_condition


def fail(view: View, reason: str, message: str) -> Step:
    """Return the step that fails the job for good."""
    status = view.status.model_copy(update={"finished_at": truncate(view.now)})
    if status.attempt is not None and status.attempt.state is not AttemptState.CLOSED:
        attempt = status.attempt.model_copy(
            update={
                "state": AttemptState.CLOSED,
                "ended_at": status.attempt.ended_at or truncate(view.now),
                "reason": reason,
                "message": message[:1500],
            }
        )
        status = status.model_copy(update={"attempt": attempt})
    status = set_condition(view, status, ConditionType.FAILED, True, reason, message)
    status = set_condition(view, status, ConditionType.RECOVERING, False, reason, "")
    return Step(status, "Failed", message)


def earliest(view: View, moment: datetime) -> datetime:
    """Return when to look again: at `moment`, or when a silence would become a finding."""
    recheck = view.diagnosis.recheck_at
    return moment if recheck is None else min(moment, recheck)


def set_condition(  # noqa: PLR0917 – a sentence: in this view, of this status, this condition is so
    view: View,
    status: TrainingJobStatus,
    kind: ConditionType,
    value: bool,
    reason: str,
    message: str,
) -> TrainingJobStatus:
    """Return the status with this condition set, as of the view's moment."""
    return with_condition(
        status,
        kind,
        "True" if value else "False",
        reason,
        message,
        generation=view.snapshot.generation,
        now=view.now,
    )
