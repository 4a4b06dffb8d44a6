"""The conditions and the phase: what a user reads first. They follow from the rest. Pure."""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from goodput_operator.api.status import AttemptState, ConditionType, TrainingJobStatus
from goodput_operator.diagnose.examine import GangProgress, stands_still
from goodput_operator.plan.reasons import PUBLISHED, SUSPENDED
from goodput_operator.plan.view import View, find_condition, is_finished, is_true, with_condition

PATIENCE = timedelta(seconds=60)
"""A gang that stands still for so long is said to; evaluations and checkpoints take a while."""

Sentence = tuple[Literal["True", "False", "Unknown"], str, str]


def phase(status: TrainingJobStatus) -> tuple[str, str]:
    """Return the one word for `kubectl get` and the reason beside it: derived, never read by us."""
    for kind, value, word in (
        (ConditionType.SUCCEEDED, "True", "Succeeded"),
        (ConditionType.FAILED, "True", "Failed"),
        (ConditionType.SUSPENDED, "True", "Suspended"),
        (ConditionType.TEMPLATE_VALID, "False", "Invalid"),
        (ConditionType.RUNNING, "True", "Running"),
        (ConditionType.RECOVERING, "True", "Recovering"),
    ):
        found = find_condition(status, kind)
        if found is not None and found.status == value:
            return word, found.reason
    attempt = status.attempt
    if attempt is not None and attempt.state is AttemptState.STOPPING:
        return "Stopping", attempt.reason
    starting = is_true(status, ConditionType.ADMITTED)
    why = find_condition(
        status, ConditionType.RUNNING if starting else ConditionType.ADMITTED
    )  # what it waits for: its pods to start, or a place for them
    return ("Starting" if starting else "Queued"), why.reason if why is not None else ""


def with_conditions(status: TrainingJobStatus, view: View, message: str) -> TrainingJobStatus:
    """Return the status with every condition set that follows from the rest of it."""
    writers: tuple[tuple[ConditionType, Callable[[], Sentence | None]], ...] = (
        (ConditionType.TEMPLATE_VALID, lambda: _default(status, ConditionType.TEMPLATE_VALID)),
        (ConditionType.ADMITTED, lambda: _default(status, ConditionType.ADMITTED)),
        (ConditionType.GANG_SCHEDULED, lambda: _gang_scheduled(status, view)),
        (ConditionType.RUNNING, lambda: _running(status, view, message)),
        (ConditionType.PROGRESSING, lambda: _progressing(status, view)),
        (ConditionType.DEGRADED, lambda: _degraded(status, view)),
        (ConditionType.RECOVERING, lambda: _recovering(status, view)),
        (ConditionType.CHECKPOINT_FRESH, lambda: _fresh(status, view.diagnosis.progress)),
        (ConditionType.SUSPENDED, lambda: _default(status, ConditionType.SUSPENDED)),
        (ConditionType.SUCCEEDED, lambda: _default(status, ConditionType.SUCCEEDED)),
        (ConditionType.FAILED, lambda: _default(status, ConditionType.FAILED)),
    )
    for kind, write in writers:
        sentence = write()
        if sentence is None:
            continue
        value, reason, text = sentence
        status = with_condition(
            status,
            kind,
            value,
            reason,
            text,
            generation=view.snapshot.generation,
            now=view.now,
        )
    places: dict[str, int] = {kind: place for place, kind in enumerate(ConditionType)}
    # What others have added (the conventions let them) stays, and comes last.
    ordered = sorted(status.conditions, key=lambda one: places.get(one.type, len(places)))
    return status.model_copy(update={"conditions": ordered})


def _default(status: TrainingJobStatus, kind: ConditionType) -> Sentence | None:
    if find_condition(status, kind) is not None:
        return None
    if kind in (ConditionType.TEMPLATE_VALID, ConditionType.ADMITTED):
        return "Unknown", "NotYet", ""
    return "False", f"Not{kind}", ""


def _gang_scheduled(status: TrainingJobStatus, view: View) -> Sentence | None:
    if is_finished(status):
        return _default(status, ConditionType.GANG_SCHEDULED)
    gang = view.gang or view.snapshot.workers
    bound = sum(1 for w in gang if w.pod and w.pod.node and not w.pod.dead)
    wanted = len(gang)
    if wanted and bound == wanted:
        return "True", "AllBound", f"all {wanted} workers are bound to nodes"
    refused = next((w.pod.unschedulable for w in gang if w.pod), "")
    return "False", "NotBound", f"not all of {wanted} workers are bound. {refused}".rstrip()


def _running(status: TrainingJobStatus, view: View, message: str) -> Sentence:
    attempt = status.attempt
    if is_finished(status):
        return "False", "Finished", ""
    if attempt is None:
        return "False", "NotStarted", ""
    if attempt.state is AttemptState.RUNNING:
        return (
            "True",
            "AllProcessesStarted",
            f"attempt {attempt.number} runs on {len(view.gang)} workers",
        )
    if attempt.state is AttemptState.STOPPING:
        waiting = find_condition(status, ConditionType.RUNNING)
        if waiting is not None and waiting.reason == "WaitingForConfirmedDeath":
            return "False", waiting.reason, waiting.message
        return "False", attempt.reason, attempt.message
    trouble = next((w.pod.trouble for w in view.snapshot.workers if w.pod and w.pod.trouble), None)
    if trouble is not None:
        return "False", trouble[0], trouble[1]
    if attempt.state is AttemptState.CLOSED:
        if attempt.reason == SUSPENDED and not view.spec.suspend:
            return "False", "NotStarted", ""
        return "False", attempt.reason, attempt.message
    doing = str(attempt.state).lower()
    return "False", str(attempt.state), message or f"attempt {attempt.number} is {doing}"


def _progressing(status: TrainingJobStatus, view: View) -> Sentence | None:
    attempt, progress = status.attempt, view.diagnosis.progress
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return "False", "NotRunning", ""
    if view.unheard:
        return _default(status, ConditionType.PROGRESSING)
    if progress.step_at is not None and stands_still(progress, view.now - PATIENCE):
        return "False", "StandsStill", "no step has been finished for more than a minute"
    began, saved_at = attempt.published_at, progress.tracker_step_at
    has_saved = saved_at is not None and began is not None and saved_at > began
    if attempt.first_step_at is not None or has_saved:
        return "True", "StepsFinished", "the trainer finishes steps"
    return "Unknown", "NoSignal", "no step or checkpoint has been reported in this attempt yet"


def _degraded(status: TrainingJobStatus, view: View) -> Sentence:
    if is_finished(status):
        return "False", "Finished", ""
    doubt = next((one for one in view.diagnosis.findings if not one.certain), None)
    if doubt is not None:
        return "True", doubt.reason, doubt.message
    attempt, size = status.attempt, len(view.gang)
    if attempt is not None and attempt.state in PUBLISHED and size < view.wanted:
        waiting = sum(1 for one in view.snapshot.workers if one.rank < 0 and one.pod)
        message = f"{size} of {view.wanted} workers train"
        message += f"; {waiting} more are held to join them" if waiting else ""
        return "True", "ShrunkToFit", message
    return "False", "AsWanted", ""


def _recovering(status: TrainingJobStatus, view: View) -> Sentence | None:
    attempt, progress = status.attempt, view.diagnosis.progress
    if attempt is None or attempt.state is not AttemptState.RUNNING or view.unheard:
        return _default(status, ConditionType.RECOVERING)
    if progress.sdk and attempt.first_step_at is None:
        return _default(status, ConditionType.RECOVERING)
    return "False", "Recovered" if status.recovery.total else "NoFault", ""


def _fresh(status: TrainingJobStatus, progress: GangProgress) -> Sentence | None:
    attempt, checkpoint = status.attempt, status.checkpoint
    if progress.restore_problems and progress.committed is None:
        return "False", "FellBack", "; ".join(progress.restore_problems)
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return _default(status, ConditionType.CHECKPOINT_FRESH)
    before = find_condition(status, ConditionType.CHECKPOINT_FRESH)
    if checkpoint.last_durable_step is None:
        return "False", "NoCheckpoint", "no checkpoint has been committed yet"
    if before is not None and before.reason == "FellBack" and not progress.committed:
        return None
    return "True", "Committed", "the newest checkpoint is durable"
