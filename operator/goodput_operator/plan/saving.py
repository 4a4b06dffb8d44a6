"""Asking the training to save before its attempt is ended. Pure.

The question and its deadline are in the attempt's status, so a restarted operator asks the same.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import AttemptState, TrainingJobStatus
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.view import View


def can_ask(view: View) -> bool:
    """Return whether the training of an elastic job can be asked to save before a planned end.

    Without, a planned end comes at once, as a fault would.
    """
    return view.spec.elastic is not None and can_save(view)


def can_save(view: View) -> bool:
    """Return whether the training that runs can be asked to save."""
    running = view.attempt.state is AttemptState.RUNNING
    return running and view.diagnosis.progress.can_save and view.status.checkpoint.fenced


def knows(workers: Iterable[Worker]) -> bool:
    """Return whether all of them have been heard of, as far as they can be.

    An operator that has just begun to listen does not know yet how far the training is, nor who
    is ready to join it.
    """
    return not any(
        one.agent is None and one.silent_seconds <= SILENCE_LIMIT_SECONDS for one in workers
    )


def ask(view: View, by: datetime | None = None) -> TrainingJobStatus:
    """Return the status in which the training is asked to save after a step that is yet to come.

    All ranks save after the same step, so all must have heard of it before they finish it.

    Args:
        view: of a training that can save.
        by: when its time is over; absent: as spec.elastic says.
    """
    progress = view.diagnosis.progress
    if by is None:
        assert view.spec.elastic is not None
        seconds = view.spec.elastic.graceful_shutdown_timeout_seconds
        by = view.now + timedelta(seconds=seconds)
    step = (progress.step or 0) + progress.steps_until_told(view.now)
    asked = view.attempt.model_copy(update={"save_step": step, "save_by": truncate(by)})
    return view.status.model_copy(update={"attempt": asked})


def unasked(view: View) -> TrainingJobStatus:
    """Return the status in which nobody is asked to save."""
    attempt = view.attempt.model_copy(update={"save_step": None, "save_by": None})
    return view.status.model_copy(update={"attempt": attempt})


def has_saved(view: View) -> bool:
    """Return whether the training has saved as asked, or has had its time to."""
    attempt, committed = view.attempt, view.diagnosis.progress.committed
    if attempt.save_by is None or view.now >= attempt.save_by:
        return True
    return committed is not None and committed.step >= (attempt.save_step or 0)
