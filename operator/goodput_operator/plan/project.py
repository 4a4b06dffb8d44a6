"""The status to write: the intent that was decided, what is observed, and the ledger.

Pure. One function writes the status, so its three kinds of fields cannot contradict each
other. Whether a change is worth a write now is decided here, too.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from goodput_operator.api.base import truncate
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    Bucket,
    CheckpointStatus,
    ConditionType,
    LedgerStatus,
    TrainingJobStatus,
    WorkersStatus,
)
from goodput_operator.diagnose.examine import Diagnosis, GangProgress
from goodput_operator.ledger.accounting import Account, Span, goodput_text
from goodput_operator.observe.snapshot import JobSnapshot
from goodput_operator.plan.attempt import with_restored
from goodput_operator.plan.reasons import PLANNED, SUSPENDED
from goodput_operator.plan.view import Timing, View, find_condition, with_condition

PUBLISHED = (AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STOPPING)


def next_status(
    before: TrainingJobStatus,
    diagnosis: Diagnosis,
    decided: View,
    ended: AttemptStatus | None,
    message: str,
) -> TrainingJobStatus:
    """Return the status that says what was decided and all that is known.

    Args:
        before: the status as it was read, true until now.
        diagnosis: of the world as `before` has it.
        decided: the view after the last rule.
        ended: the last version of the attempt that `before` has, with how it ended in this pass.
        message: why the gang waits, for the conditions.
    """
    now, snapshot = decided.now, decided.snapshot
    status = _observed(before, decided.status, diagnosis.progress, decided)
    status = _conditions(status, decided, message)
    ledger = _ledger(before, status, ended, diagnosis.progress, decided)
    return status.model_copy(
        update={
            "observed_generation": snapshot.generation,
            "phase": phase(status),
            "ledger": ledger,
            "goodput": goodput_text(ledger),
            "exclusions": [one for one in status.exclusions if one.until > now],
        }
    )


def observe_reports(
    status: TrainingJobStatus, diagnosis: Diagnosis, now: datetime
) -> TrainingJobStatus:
    """Return the status with what the trainers of the current attempt have said.

    Called before the rules, because the restore point of the next attempt follows from it.
    """
    attempt, progress = status.attempt, diagnosis.progress
    if attempt is None or attempt.state not in PUBLISHED:
        return status
    status = with_restored(status, progress)
    assert status.attempt is not None
    if attempt.first_step_at is None and progress.first_step_at is not None:
        status = status.model_copy(
            update={
                "attempt": status.attempt.model_copy(
                    update={"first_step_at": truncate(progress.first_step_at)}
                )
            }
        )
    return status.model_copy(update={"checkpoint": _checkpoint(status.checkpoint, progress, now)})


def _checkpoint(
    checkpoint: CheckpointStatus, progress: GangProgress, now: datetime
) -> CheckpointStatus:
    if progress.sdk and not checkpoint.fenced:
        checkpoint = checkpoint.model_copy(update={"fenced": True})
    committed = progress.committed
    if committed is not None:
        known = (checkpoint.last_durable_attempt or 0, checkpoint.last_durable_step or -1)
        if (committed.attempt, committed.step) > known:
            return checkpoint.model_copy(
                update={
                    "last_durable_step": committed.step,
                    "last_durable_attempt": committed.attempt,
                    "time": truncate(now),
                    "verified": True,
                }
            )
    elif (
        progress.tracker_step is not None
        and not checkpoint.verified
        and progress.tracker_step != checkpoint.last_durable_step
    ):
        return checkpoint.model_copy(
            update={"last_durable_step": progress.tracker_step, "time": truncate(now)}
        )
    return checkpoint


def worth_writing(
    before: TrainingJobStatus, after: TrainingJobStatus, now: datetime, timing: Timing
) -> tuple[bool, datetime | None]:
    """Return whether to write `after` now, and else when it will be time.

    A decision is written at once. Numbers that only move are written in the rhythm of the
    ledger: no report costs a write.
    """
    if _essence(before) != _essence(after):
        return True, None
    since = before.ledger.accounted_until
    if since is None:
        return True, None
    if _is_finished(after):
        return False, None
    rhythm = timing.flush_seconds
    suspended = find_condition(after, ConditionType.SUSPENDED)
    if suspended is not None and suspended.status == "True":
        rhythm = timing.flush_suspended_seconds
    elif before.checkpoint != after.checkpoint:
        rhythm = timing.flush_durable_seconds
    elif before.workers != after.workers:
        rhythm = timing.flush_visible_seconds
    due = since + timedelta(seconds=rhythm)
    return now >= due, due


def _essence(status: TrainingJobStatus) -> TrainingJobStatus:
    return status.model_copy(
        update={
            "workers": WorkersStatus(),
            "progress": status.progress.model_copy(
                update={"step": None, "step_milliseconds": None, "observed_at": None}
            ),
            "checkpoint": status.checkpoint.model_copy(
                update={
                    "last_durable_step": None,
                    "last_durable_attempt": None,
                    "time": None,
                    "verified": False,
                }
            ),
            "ledger": TrainingJobStatus().ledger,
            "goodput": "",
        }
    )


def _observed(
    before: TrainingJobStatus, status: TrainingJobStatus, progress: GangProgress, view: View
) -> TrainingJobStatus:
    snapshot, attempt = view.snapshot, status.attempt
    training = 0
    if attempt is not None and attempt.state in (AttemptState.STARTING, AttemptState.RUNNING):
        training = sum(
            1
            for worker in snapshot.workers
            if (run := worker.run_of(attempt.number)) is not None
            and run.started_at is not None
            and not run.failed
        )
    workers = WorkersStatus(
        wanted=len(snapshot.workers),
        bound=sum(1 for w in snapshot.workers if w.pod and w.pod.node and not w.pod.dead),
        connected=sum(1 for w in snapshot.workers if w.agent and w.pod and not w.pod.dead),
        training=training,
        text=f"{training}/{len(snapshot.workers)}",
    )
    if _is_finished(status):
        workers = before.workers
    step = progress.step if progress.step is not None else progress.tracker_step
    seen = status.progress
    if step is not None:
        seen = seen.model_copy(
            update={
                "step": step,
                "step_milliseconds": progress.step_milliseconds,
                "observed_at": truncate(progress.step_at or view.now),
            }
        )
    if _is_finished(status) and step is not None:
        seen = seen.model_copy(update={"best_step": max(step, seen.best_step or 0)})
    return status.model_copy(update={"workers": workers, "progress": seen})


def _ledger(
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    ended: AttemptStatus | None,
    progress: GangProgress,
    view: View,
) -> LedgerStatus:
    """Account for the time since the last write by what `before` says of it."""
    if _is_finished(before):
        return before.ledger
    weight = view.accelerators * len(view.snapshot.workers)
    account = Account.open(before.ledger, weight, view.snapshot.created_at)
    attempt = before.attempt
    if attempt is None or attempt.state not in PUBLISHED:
        account.add([Span(view.now, _idle_bucket(before))])
        return account.close()
    if attempt.state is AttemptState.STOPPING:
        bucket = Bucket.SUSPENDED if attempt.reason == SUSPENDED else Bucket.RECOVERY
        account.add([Span(view.now, bucket)])
        return account.close()
    _account_for_training(account, before, after, ended or attempt, progress, view)
    return account.close()


def _account_for_training(  # noqa: PLR0917 – what was, what is, and what was said between
    account: Account,
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    attempt: AttemptStatus,
    progress: GangProgress,
    view: View,
) -> None:
    """Account for an attempt that was starting or running until now.

    `attempt` is its last version: where it ended in this pass, it says when and why.
    """
    now = view.now
    succeeded = _true(after, ConditionType.SUCCEEDED)
    end = min(attempt.ended_at or now, now)
    running_at = attempt.running_at
    recovering = _true(before, ConditionType.RECOVERING)
    start = Bucket.RECOVERY if recovering else Bucket.STARTUP
    account.add([Span(min(running_at or end, end), start)])
    if running_at is not None:
        account.add(_training_spans(attempt, progress, end))
        _settle_commits(account, before.checkpoint, progress)
    if succeeded:
        account.settle(Bucket.PRODUCTIVE)
        account.add([Span(now, Bucket.PRODUCTIVE)])
        return
    if attempt.ended_at is None:
        return
    planned = attempt.reason in PLANNED
    if not planned:
        account.reclassify_tail(end, Bucket.DETECTION)
    signal = progress.signal or before.checkpoint.fenced
    account.settle(Bucket.LOST_WORK if signal else Bucket.UNKNOWN)
    account.add([Span(now, Bucket.RECOVERY if planned else Bucket.DETECTION)])


def _training_spans(attempt: AttemptStatus, progress: GangProgress, end: datetime) -> list[Span]:
    first_step_at = attempt.first_step_at or progress.first_step_at
    if first_step_at is None and not progress.sdk:
        return [Span(end, None)]
    begin = first_step_at or end
    spans = []
    if progress.restore_began_at is not None:
        spans.append(Span(min(progress.restore_began_at, begin, end), Bucket.STARTUP))
        spans.append(Span(min(progress.restore_ended_at or begin, begin, end), Bucket.RESTORE))
    return [*spans, Span(min(begin, end), Bucket.STARTUP), Span(end, None)]


def _settle_commits(account: Account, checkpoint: CheckpointStatus, progress: GangProgress) -> None:
    committed = progress.committed
    if committed is not None and progress.committed_step_at is not None:
        known = (checkpoint.last_durable_attempt or 0, checkpoint.last_durable_step or -1)
        if (committed.attempt, committed.step) > known:
            account.settle(Bucket.PRODUCTIVE, progress.committed_step_at)
    elif progress.tracker_step is not None and (
        progress.tracker_step > (checkpoint.last_durable_step or -1)
    ):
        account.settle(Bucket.PRODUCTIVE, progress.tracker_step_at)


def _idle_bucket(status: TrainingJobStatus) -> Bucket:
    if _true(status, ConditionType.SUSPENDED):
        return Bucket.SUSPENDED
    if _true(status, ConditionType.RECOVERING):
        return Bucket.RECOVERY
    if not _true(status, ConditionType.ADMITTED):
        return Bucket.QUEUED
    if not _true(status, ConditionType.GANG_SCHEDULED):
        return Bucket.SCHEDULING
    return Bucket.POD_START


def _true(status: TrainingJobStatus, kind: ConditionType) -> bool:
    found = find_condition(status, kind)
    return found is not None and found.status == "True"


def _is_finished(status: TrainingJobStatus) -> bool:
    return _true(status, ConditionType.SUCCEEDED) or _true(status, ConditionType.FAILED)


def phase(status: TrainingJobStatus) -> str:
    """Return the one word for `kubectl get`: derived, never read by us."""
    for kind, word in (
        (ConditionType.SUCCEEDED, "Succeeded"),
        (ConditionType.FAILED, "Failed"),
        (ConditionType.SUSPENDED, "Suspended"),
    ):
        if _true(status, kind):
            return word
    template = find_condition(status, ConditionType.TEMPLATE_VALID)
    if template is not None and template.status == "False":
        return "Invalid"
    if _true(status, ConditionType.RUNNING):
        return "Running"
    if _true(status, ConditionType.RECOVERING):
        return "Recovering"
    attempt = status.attempt
    if attempt is not None and attempt.state is AttemptState.STOPPING:
        return "Stopping"
    return "Starting" if _true(status, ConditionType.ADMITTED) else "Queued"


Sentence = tuple[Literal["True", "False", "Unknown"], str, str]


def _conditions(status: TrainingJobStatus, view: View, message: str) -> TrainingJobStatus:
    """Return the status with every condition set that follows from the rest of it."""
    writers: tuple[tuple[ConditionType, Callable[[], Sentence | None]], ...] = (
        (ConditionType.TEMPLATE_VALID, lambda: _default(status, ConditionType.TEMPLATE_VALID)),
        (ConditionType.ADMITTED, lambda: _default(status, ConditionType.ADMITTED)),
        (ConditionType.GANG_SCHEDULED, lambda: _gang_scheduled(status, view.snapshot)),
        (ConditionType.RUNNING, lambda: _running(status, view, message)),
        (ConditionType.PROGRESSING, lambda: _progressing(status, view.diagnosis.progress)),
        (ConditionType.DEGRADED, lambda: _degraded(status, view.diagnosis)),
        (ConditionType.RECOVERING, lambda: _recovering(status, view.diagnosis.progress)),
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
    order = list(ConditionType)
    return status.model_copy(
        update={
            "conditions": sorted(
                status.conditions, key=lambda one: order.index(ConditionType(one.type))
            )
        }
    )


def _default(status: TrainingJobStatus, kind: ConditionType) -> Sentence | None:
    if find_condition(status, kind) is not None:
        return None
    if kind in (ConditionType.TEMPLATE_VALID, ConditionType.ADMITTED):
        return "Unknown", "NotYet", ""
    return "False", f"Not{kind}", ""


def _gang_scheduled(status: TrainingJobStatus, snapshot: JobSnapshot) -> Sentence | None:
    if _is_finished(status):
        return None
    bound = sum(1 for w in snapshot.workers if w.pod and w.pod.node and not w.pod.dead)
    wanted = len(snapshot.workers)
    if wanted and bound == wanted:
        return "True", "AllBound", f"all {wanted} workers are bound to nodes"
    refused = next((w.pod.unschedulable for w in snapshot.workers if w.pod), "")
    return "False", "NotBound", f"not all of {wanted} workers are bound. {refused}".rstrip()


def _running(status: TrainingJobStatus, view: View, message: str) -> Sentence:
    attempt = status.attempt
    if _is_finished(status):
        return "False", "Finished", ""
    if attempt is None:
        return "False", "NotStarted", ""
    if attempt.state is AttemptState.RUNNING:
        return (
            "True",
            "AllProcessesStarted",
            f"attempt {attempt.number} runs on {len(view.snapshot.workers)} workers",
        )
    if attempt.state is AttemptState.STOPPING:
        waiting = find_condition(status, ConditionType.RUNNING)
        if waiting is not None and waiting.reason == "WaitingForConfirmedDeath":
            return "False", waiting.reason, waiting.message
        return "False", attempt.reason, attempt.message
    trouble = next((w.pod.trouble for w in view.snapshot.workers if w.pod and w.pod.trouble), None)
    if trouble is not None:
        return "False", trouble[0], trouble[1]
    return "False", str(attempt.state), message or f"attempt {attempt.number} is forming"


def _progressing(status: TrainingJobStatus, progress: GangProgress) -> Sentence:
    attempt = status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return "False", "NotRunning", ""
    if attempt.first_step_at is not None or progress.tracker_step is not None:
        return "True", "StepsFinished", "the trainer finishes steps"
    return "Unknown", "NoSignal", "no step or checkpoint has been reported in this attempt yet"


def _degraded(status: TrainingJobStatus, diagnosis: Diagnosis) -> Sentence:
    if _is_finished(status):
        return "False", "Finished", ""
    doubt = next((one for one in diagnosis.findings if not one.certain), None)
    if doubt is None:
        return "False", "AsWanted", ""
    return "True", doubt.reason, doubt.message


def _recovering(status: TrainingJobStatus, progress: GangProgress) -> Sentence | None:
    attempt = status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return _default(status, ConditionType.RECOVERING)
    if progress.sdk and attempt.first_step_at is None:
        return _default(status, ConditionType.RECOVERING)
    return "False", "Recovered" if status.recovery.total else "NoFault", ""


def _fresh(status: TrainingJobStatus, progress: GangProgress) -> Sentence | None:
    attempt, checkpoint = status.attempt, status.checkpoint
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return _default(status, ConditionType.CHECKPOINT_FRESH)
    if progress.restore_problems:
        return "False", "FellBack", "; ".join(progress.restore_problems)
    before = find_condition(status, ConditionType.CHECKPOINT_FRESH)
    if checkpoint.last_durable_step is None:
        return "False", "NoCheckpoint", "no checkpoint has been committed yet"
    if before is not None and before.reason == "FellBack" and not progress.committed:
        return None
    return "True", "Committed", "the newest checkpoint is durable"
