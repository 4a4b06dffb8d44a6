"""The rule for workers that will be taken away: the gang saves, then goes on without them. Pure.

The time until then is used: the whole gang is asked to save at once, and its attempt ends when it
has, or when the first of those workers must go. So there is nothing to detect, and no work is
lost. A training that cannot be asked trains on until they are really gone.
"""

from datetime import timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import AttemptState
from goodput_operator.diagnose.examine import succeeded, where
from goodput_operator.plan.attempt import stop
from goodput_operator.plan.saving import ask, ask_again, can_save, has_saved, unasked
from goodput_operator.plan.steps import earliest
from goodput_operator.plan.view import Step, View

JITTER = timedelta(seconds=1)
"""By so much what an agent says of its pod's end may differ from one report to the next."""


def heed_notices(view: View) -> Step | None:
    """Have the gang save before the first of its workers is taken away, then end the attempt."""
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return None
    going = [
        (truncate(one.notice.due_at(view.now)), one.slot, one, one.notice)
        for one in view.gang
        if one.notice and not succeeded(one, attempt.number)
    ]
    if not going:
        if attempt.save_by is None or view.spec.elastic is not None or view.spec.suspend:
            return None  # what an elastic gang was asked for, `plan.resize` knows
        return Step(unasked(view), "SaveWithdrawn", "nobody goes after all")
    due_at, _, first, notice = min(going, key=lambda one: one[:2])
    message = f"{where(first)} is about to go: {notice.why}"
    message += f"; {len(going) - 1} others go, too" if len(going) > 1 else ""
    if attempt.save_by is None:
        if view.unheard or not can_save(view):
            return None
        if view.diagnosis.progress.saved_at(view.now) > due_at:
            return None
        return Step(ask(view, due_at), "SaveAsked", f"{message}; the training is asked to save")
    if due_at < attempt.save_by - JITTER:
        sooner = attempt.model_copy(update={"save_by": due_at})
        status = view.status.model_copy(update={"attempt": sooner})
        return Step(status, "SaveAsked", f"{message}; the training has less time to save")
    if not has_saved(view) and view.now < due_at:
        recheck = min(attempt.save_by, due_at) if attempt.save_by > view.now else due_at
        return ask_again(view) or Step(view.status, "Saving", recheck_at=earliest(view, recheck))
    status = stop(view, reason=notice.reason, message=message, charged=False, ended_at=view.now)
    return Step(status, notice.reason, message)
