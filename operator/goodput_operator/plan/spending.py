"""What the time since the last write was spent on, by what the status said of it. Pure."""

from datetime import datetime

from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    Bucket,
    CheckpointStatus,
    ConditionType,
    LedgerStatus,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import GangProgress
from goodput_operator.ledger.accounting import Account, Span
from goodput_operator.plan.attempt import is_newer
from goodput_operator.plan.incidents import Prices, open_incident, shrinking_incident
from goodput_operator.plan.reasons import PLANNED, PUBLISHED, SUSPENDED
from goodput_operator.plan.view import View, is_finished, is_true


def account_for(
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    ended: AttemptStatus | None,
    progress: GangProgress,
    view: View,
) -> tuple[LedgerStatus, Prices]:
    """Account for the time since the last write by what `before` says of it.

    Returns the ledger, and which incident's fault how much of what was added is. From the fault to
    the first step of the next attempt that is all of it but work; later only the time of workers
    that are missing since a shrink.
    """
    if is_finished(before):
        return before.ledger, {}
    attempt, counted = before.attempt, _counted(before, view)
    training = view.accelerators * sum(1 for slot in before.slots if slot.rank >= 0)
    if attempt is None or attempt.state not in PUBLISHED or not view.flexible:
        training = counted
    others = max(0, counted - training)
    missing = min(others, max(0, view.accelerators * before.workers.wanted - training))
    account = Account.open(
        before.ledger,
        training,
        view.snapshot.created_at,
        missing=missing,
        spare=others - missing,
    )
    if attempt is None or attempt.state not in PUBLISHED:
        bucket = _idle_bucket(before)
        account.charge(_payer_of_idleness(before, bucket))
        account.add([Span(view.now, bucket)])
    elif attempt.state is AttemptState.STOPPING:
        account.charge(attempt.number)
        _account_for_stopping(account, before, after, ended or attempt, progress, view)
    else:
        _account_for_training(account, before, after, ended or attempt, progress, view)
    return account.close(_to_count(view)), account.prices


def _payer_of_idleness(before: TrainingJobStatus, bucket: Bucket) -> int | None:
    """Return whose fault it is that nothing runs: a suspension is that of no earlier fault."""
    incident = open_incident(before)
    if incident is None or (bucket is Bucket.SUSPENDED and incident.reason != SUSPENDED):
        return None
    return incident.attempt


def _to_count(view: View) -> int:
    """Return the accelerators to count from now on: those wanted or held, whichever are more."""
    if not view.flexible:
        return view.accelerators * len(view.snapshot.workers)
    held = sum(1 for one in view.snapshot.workers if one.pod and not one.pod.terminal)
    return view.accelerators * max(view.wanted, held)


def _counted(before: TrainingJobStatus, view: View) -> int:
    """Return the accelerators that the time until now is to be counted for."""
    if not view.flexible or before.ledger.accounted_until is None:
        return _to_count(view)
    return before.ledger.accelerators


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
    succeeded = is_true(after, ConditionType.SUCCEEDED)
    end = min(attempt.ended_at or now, now)
    running_at = attempt.running_at
    recovering = is_true(before, ConditionType.RECOVERING) or _resizing(before)
    start = Bucket.RECOVERY if recovering else Bucket.STARTUP
    interruption, shrinking = open_incident(before), shrinking_incident(before)
    account.charge(interruption.attempt if interruption else None)
    account.add([Span(min(running_at or end, end), start)])
    if running_at is not None:
        sdk = progress.sdk or before.checkpoint.fenced
        *before_work, work = _training_spans(attempt, progress, sdk, end)
        account.add(before_work)
        account.charge(shrinking.attempt if shrinking else None)
        account.add([work])
        account.charge(None)
        if succeeded and not view.flexible:
            account.take_back(end)
        _settle_commits(account, before.checkpoint, progress, attempt.number, None)
    account.charge(None)
    if succeeded:
        account.settle(Bucket.PRODUCTIVE)
        return
    if attempt.ended_at is None:
        return
    account.charge(attempt.number)
    account.reclassify_tail(end, Bucket.DETECTION)
    _settle_loss(account, before, after, attempt, progress)
    account.add([Span(now, Bucket.DETECTION)])


def _account_for_stopping(  # noqa: PLR0917 – as above
    account: Account,
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    attempt: AttemptStatus,
    progress: GangProgress,
    view: View,
) -> None:
    """Account for an attempt that had ended before, with what is heard of it only now.

    Where a truer cause has come to light, what followed it was no work either.
    """
    account.charge(attempt.number)
    known = before.attempt.ended_at if before.attempt else None
    if known is not None and attempt.ended_at is not None and attempt.reason not in PLANNED:
        account.reclassify_tail(attempt.ended_at, Bucket.DETECTION, ended_at=known)
    account.charge(None)
    _settle_commits(account, before.checkpoint, progress, attempt.number, attempt.ended_at)
    account.charge(attempt.number)
    _settle_loss(account, before, after, attempt, progress)
    bucket = Bucket.SUSPENDED if attempt.reason == SUSPENDED else Bucket.RECOVERY
    account.add([Span(view.now, bucket)])


def _settle_loss(
    account: Account,
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    attempt: AttemptStatus,
    progress: GangProgress,
) -> None:
    """Give up the work that no commit covers, once nobody can tell of a further commit."""
    now = after.attempt
    if now is not None and now.number == attempt.number and now.state is AttemptState.STOPPING:
        return
    signal = progress.signal or before.checkpoint.fenced
    account.settle(Bucket.LOST_WORK if signal else Bucket.UNKNOWN)


def _training_spans(
    attempt: AttemptStatus, progress: GangProgress, sdk: bool, end: datetime
) -> list[Span]:
    first_step_at = attempt.first_step_at or progress.first_step_at
    if first_step_at is None and not sdk:
        return [Span(end, None)]
    begin = first_step_at or end
    spans = []
    if progress.restore_began_at is not None:
        spans.append(Span(min(progress.restore_began_at, begin, end), Bucket.STARTUP))
        spans.append(Span(min(progress.restore_ended_at or begin, begin, end), Bucket.RESTORE))
    return [*spans, Span(min(begin, end), Bucket.STARTUP), Span(end, None)]


def _settle_commits(
    account: Account,
    checkpoint: CheckpointStatus,
    progress: GangProgress,
    attempt: int,
    ended_at: datetime | None,
) -> None:
    """Settle the work that commits cover which `checkpoint` does not know of yet.

    Before that the time in which training stood still is taken out of it.

    Args:
        account: what is settled.
        checkpoint: as the last write of the status has it.
        progress: what the gang has said since.
        attempt: of whose work it has.
        ended_at: when the work ended, None while it goes on.
    """
    stalls = {
        Bucket.CHECKPOINT_STALL: progress.checkpoint_stall_milliseconds,
        Bucket.DATA_STALL: progress.data_stall_milliseconds,
    }
    account.stall(attempt, stalls)
    committed = progress.committed
    if committed is not None and progress.committed_step_at is not None:
        if is_newer(committed, checkpoint):
            account.settle(
                Bucket.PRODUCTIVE,
                progress.committed_step_at,
                ended_at,
                progress.stalled_since_commit_milliseconds,
            )
    elif progress.tracker_step is not None and (
        checkpoint.last_durable_step is None or progress.tracker_step > checkpoint.last_durable_step
    ):
        account.settle(Bucket.PRODUCTIVE, progress.tracker_step_at, ended_at)


def _resizing(status: TrainingJobStatus) -> bool:
    return status.elastic is not None and status.elastic.resize_began_at is not None


def _idle_bucket(status: TrainingJobStatus) -> Bucket:
    if is_true(status, ConditionType.SUSPENDED):
        return Bucket.SUSPENDED
    if is_true(status, ConditionType.RECOVERING) or _resizing(status):
        return Bucket.RECOVERY
    if not is_true(status, ConditionType.ADMITTED):
        return Bucket.QUEUED
    if not is_true(status, ConditionType.GANG_SCHEDULED):
        return Bucket.SCHEDULING
    return Bucket.POD_START
