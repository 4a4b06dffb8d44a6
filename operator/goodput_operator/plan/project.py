"""The status to write: the intent that was decided, what is observed, and the ledger.

Pure. One function writes the status, so its three kinds of fields cannot contradict each
other. Whether a change is worth a write now is decided here, too.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    CheckpointStatus,
    ConditionType,
    TrainingJobStatus,
    WorkersStatus,
)
from goodput_operator.diagnose.examine import Diagnosis, GangProgress, succeeded
from goodput_operator.ledger.accounting import goodput_text
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.attempt import is_newer, with_restored
from goodput_operator.plan.conditions import phase, with_conditions
from goodput_operator.plan.elastic import with_economy, with_legal_sizes, with_restart_measured
from goodput_operator.plan.incidents import with_incidents, with_prices
from goodput_operator.plan.members import is_ready, ranked
from goodput_operator.plan.reasons import PUBLISHED
from goodput_operator.plan.spending import account_for
from goodput_operator.plan.view import Timing, View, find_condition, is_finished


def next_status(
    before: TrainingJobStatus,
    seen: View,
    decided: View,
    ended: AttemptStatus | None,
    message: str,
) -> TrainingJobStatus:
    """Return the status that says what was decided and all that is known.

    Args:
        before: the status as it was read, true until now.
        seen: the view that the rules began with: the world as `before` has it.
        decided: the view after the last of them.
        ended: the last version of the attempt that `before` has, with how it ended in this pass.
        message: why the gang waits, for the conditions.
    """
    now, snapshot, progress = decided.now, decided.snapshot, seen.diagnosis.progress
    status = _observed(before, decided.status, progress, decided)
    status = with_conditions(status, decided, message)
    word, reason = phase(status)
    status = with_legal_sizes(status, decided)
    if status.attempt is not None and status.attempt.state is AttemptState.RUNNING:
        status = with_economy(status, decided)
    incidents = with_incidents(before, status, ended, seen, decided)
    ledger, prices = account_for(before, status, ended, progress, decided)
    kept, ledger = with_prices(incidents, prices, before.ledger, ledger)
    return status.model_copy(
        update={
            "observed_generation": snapshot.generation,
            "phase": word,
            "reason": reason,
            "ledger": ledger,
            "incidents": kept,
            "goodput": goodput_text(ledger),
            "exclusions": [one for one in status.exclusions if one.until > now],
        }
    )


def observe_reports(
    status: TrainingJobStatus, workers: Sequence[Worker], diagnosis: Diagnosis, now: datetime
) -> TrainingJobStatus:
    """Return the status with what the trainers of the current attempt have said.

    Called before the rules, because the restore point of the next attempt follows from it. What
    a worker has trained to its end stays done when its pod goes while the others finish.
    """
    attempt, progress = status.attempt, diagnosis.progress
    if attempt is None or attempt.state not in PUBLISHED:
        return status
    members = ranked(workers) or workers
    done = frozenset(one.slot for one in members if succeeded(one, attempt.number))
    status = _with_succeeded(with_restored(status, progress), done)
    assert status.attempt is not None
    if attempt.first_step_at is None and progress.first_step_at is not None:
        status = with_restart_measured(status, progress.first_step_at)
        assert status.attempt is not None
        status = status.model_copy(
            update={
                "attempt": status.attempt.model_copy(
                    update={"first_step_at": truncate(progress.first_step_at)}
                )
            }
        )
    return status.model_copy(update={"checkpoint": _checkpoint(status.checkpoint, progress, now)})


def _with_succeeded(status: TrainingJobStatus, done: frozenset[int]) -> TrainingJobStatus:
    slots = [
        slot.model_copy(update={"succeeded": True}) if slot.slot in done else slot
        for slot in status.slots
    ]
    return status.model_copy(update={"slots": slots}) if done else status


def _checkpoint(
    checkpoint: CheckpointStatus, progress: GangProgress, now: datetime
) -> CheckpointStatus:
    # One who only says its steps through the SDK writes checkpoints of its own, without a fence.
    if progress.checkpoints and not checkpoint.fenced:
        checkpoint = checkpoint.model_copy(update={"fenced": True})
    # A worker may die before it reports its commit; what was restored was durable all the same.
    known = [commit for commit in (progress.restored, progress.committed) if commit is not None]
    newest = max(known, key=lambda one: (one.attempt, one.step), default=None)
    if newest is not None:
        if is_newer(newest, checkpoint):
            return checkpoint.model_copy(
                update={
                    "last_durable_step": newest.step,
                    "last_durable_attempt": newest.attempt,
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
    """Return whether to write `after` now, and when the next write will be due.

    A decision is written at once. Numbers that only move are written in the rhythm of the
    ledger: no report costs a write. So are words alone: what is missing for a gang that waits
    changes with every pod of the cluster that ends.
    """
    decided = _essence(before) != _essence(after)
    if is_finished(after):
        return decided, None
    suspended = find_condition(after, ConditionType.SUSPENDED)
    at_rest = suspended is not None and suspended.status == "True"
    rhythm = timing.flush_suspended_seconds if at_rest else timing.flush_seconds
    again = now + timedelta(seconds=rhythm)
    since = before.ledger.accounted_until
    if decided or since is None:
        return True, again
    if not at_rest and before.checkpoint != after.checkpoint:
        rhythm = timing.flush_durable_seconds
    elif not at_rest and (before.workers, before.conditions, before.slots) != (
        after.workers,
        after.conditions,
        after.slots,
    ):
        rhythm = timing.flush_visible_seconds
    due = since + timedelta(seconds=rhythm)
    return (True, again) if now >= due else (False, due)


_NO_NUMBERS = {"workers": WorkersStatus(), "goodput": "", "incidents": []}


def _essence(status: TrainingJobStatus) -> TrainingJobStatus:
    return status.model_copy(
        update={
            **_NO_NUMBERS,
            "ledger": status.ledger.accelerators if status.elastic else 0,
            "slots": [(one.slot, one.incarnation, one.rank) for one in status.slots],
            "conditions": [(one.type, one.status, one.reason) for one in status.conditions],
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
            for worker in view.gang
            if (run := worker.run_of(attempt.number)) is not None
            and run.started_at is not None
            and not run.failed
        )
    bound = sum(1 for w in snapshot.workers if w.pod and w.pod.node and not w.pod.dead)
    connected = sum(1 for w in snapshot.workers if w.agent and w.pod and not w.pod.dead)
    size = sum(1 for w in snapshot.workers if w.rank >= 0)
    ready = sum(1 for w in snapshot.workers if w.rank < 0 and is_ready(w))
    workers = WorkersStatus(
        wanted=view.wanted,
        bound=min(bound, view.wanted) if view.spares else bound,
        connected=min(connected, view.wanted) if view.spares else connected,
        training=training,
        spares=min(max(0, size + ready - view.wanted), view.spares) if size else 0,
        text=f"{training}/{view.wanted}",
    )
    if is_finished(status):
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
    if is_finished(status) and step is not None:
        seen = seen.model_copy(update={"best_step": max(step, seen.best_step or 0)})
    return status.model_copy(update={"workers": workers, "progress": seen})
