"""Tell a gang at rest, which needs no pass until something happens. Pure.

While all members train, step by step, and say so, a pass finds nothing new: what could be new
wakes the job by itself. A silence does not, and so a pass would have to come back before each
could have lasted too long, every few seconds for every job. Instead `reports.store` keeps watch
over a gang at rest, and its silence wakes the job like any other event.
"""

from datetime import datetime

from goodput_operator.api.status import AttemptState, ConditionType
from goodput_operator.diagnose.examine import still_at
from goodput_operator.observe.agents import Vigil
from goodput_operator.plan.conditions import PATIENCE
from goodput_operator.plan.view import View, is_true


def vigil_of(view: View) -> Vigil | None:
    """Return whose silence is to wake the job; None where the gang is not at rest.

    It is not while something is awaited that no event tells of: that the gang trains where it
    was before an incident, saves, grows, or that a spare is lost.
    """
    status, workers, limit = (
        view.status,
        view.snapshot.workers,
        view.diagnosis.silence_limit_seconds,
    )
    attempt = status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING or attempt.save_by is not None:
        return None
    if view.diagnosis.findings or any(one.caught_up_at is None for one in status.incidents):
        return None
    if not is_true(status, ConditionType.PROGRESSING) or (at := impatient_at(view)) is None:
        return None
    whole = status.workers.training == status.workers.wanted == len(workers)
    if at <= view.now or not whole or view.spares:
        return None
    heard = frozenset(
        one.pod.uid
        for one in workers
        if one.pod and one.agent and not one.notice and one.silent_seconds <= limit
    )
    return Vigil(heard, limit) if len(heard) == len(workers) else None


def impatient_at(view: View) -> datetime | None:
    """Return when a gang that finishes no further step is said to stand still."""
    progress = view.diagnosis.progress
    return progress.step_at and still_at(progress, progress.step_at) + PATIENCE
