"""Asking the training to save before its attempt is ended. Pure.

The question and its deadline are in the attempt's status, so a restarted operator asks the same.
"""

from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.spec import GRACEFUL_SECONDS
from goodput_operator.api.status import AttemptState, TrainingJobStatus
from goodput_operator.diagnose.examine import stands_still
from goodput_operator.plan.steps import earliest
from goodput_operator.plan.view import Step, View


def can_ask(view: View) -> bool:
    """Return whether a planned end can wait until the training has saved.

    Without the SDK nobody can be asked, but of an elastic job, which says how long that may take,
    the next checkpoint in the tracker file is waited for. Where neither is to be had, or the
    training has stood still for as long as it would be given, a planned end comes at once.
    """
    progress = view.diagnosis.progress
    if progress.step_at is not None and stands_still(progress, view.now - _grace(view)):
        return False
    running = view.attempt.state is AttemptState.RUNNING
    tracked = not view.status.checkpoint.fenced and progress.tracker_step is not None
    return can_save(view) or (running and tracked and view.spec.elastic is not None)


def question(view: View) -> str:
    """Return in words how the training is brought to save."""
    return "the training is asked to save" if can_save(view) else "its next checkpoint is awaited"


def can_save(view: View) -> bool:
    """Return whether the training that runs can be asked to save."""
    running = view.attempt.state is AttemptState.RUNNING
    return running and view.diagnosis.progress.can_save and view.status.checkpoint.fenced


def ask(view: View, by: datetime | None = None) -> TrainingJobStatus:
    """Return the status in which the training is asked to save after a step that is yet to come.

    All ranks save after the same step, so all must have heard of it before they finish it. One that
    only keeps a tracker file is told nothing: whatever step the file names next will do.

    Args:
        view: of a training that can save, or keeps a tracker file.
        by: when its time is over; absent: as spec.elastic says.
    """
    progress = view.diagnosis.progress
    by = by or view.now + _grace(view)
    step = None
    if can_save(view):
        step = (progress.step or 0) + progress.steps_until_told(view.now)
    asked = view.attempt.model_copy(
        update={"save_step": step, "save_by": truncate(by), "save_asked_at": truncate(view.now)}
    )
    return view.status.model_copy(update={"attempt": asked})


def unasked(view: View) -> TrainingJobStatus:
    """Return the status in which nobody is asked to save."""
    nothing = {"save_step": None, "save_by": None, "save_asked_at": None}
    attempt = view.attempt.model_copy(update=nothing)
    return view.status.model_copy(update={"attempt": attempt})


def ask_again(view: View) -> Step | None:
    """Ask for a later step where the training has passed the one that it was asked for.

    An operator may die between the question and telling all agents of it. What the training
    saves by itself after that step is no answer, and it trains on from there.
    """
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING or attempt.save_by is None:
        return None
    if has_saved(view) or not (_overtaken(view) or _missed(view)):
        return None
    if view.unheard:
        recheck = view.patient_until if _missed(view) else attempt.save_by
        return Step(view.status, "Saving", recheck_at=earliest(view, recheck))
    message = "the training passed the step that it was asked to save, and is asked again"
    return Step(ask(view, None if _missed(view) else attempt.save_by), "SaveAsked", message)


def _overtaken(view: View) -> bool:
    """Return whether a former operator asked, and the training has gone on beyond that step."""
    attempt, step = view.attempt, view.diagnosis.progress.step
    if attempt.save_asked_at is None or attempt.save_step is None or step is None:
        return False
    return attempt.save_asked_at < view.snapshot.listening_since and step > attempt.save_step


def _missed(view: View) -> bool:
    """Return whether the time to save ran out before anybody had been told, as far as we know."""
    by = view.attempt.save_by
    if by is None or view.attempt.save_step is None or by >= view.snapshot.listening_since:
        return False
    return view.unheard or (_overtaken(view) and can_ask(view))


def has_saved(view: View) -> bool:
    """Return whether the training has saved as asked, or has had its time to."""
    attempt, progress = view.attempt, view.diagnosis.progress
    committed, asked_at = progress.committed, attempt.save_asked_at
    if attempt.save_by is None or (view.now >= attempt.save_by and not _missed(view)):
        return True
    if attempt.save_step is None:
        seen_at = progress.tracker_step_at
        return asked_at is not None and seen_at is not None and seen_at > asked_at
    return not _overtaken(view) and committed is not None and committed.step >= attempt.save_step


def _grace(view: View) -> timedelta:
    elastic = view.spec.elastic
    seconds = elastic.graceful_shutdown_timeout_seconds if elastic else GRACEFUL_SECONDS
    return timedelta(seconds=seconds)
