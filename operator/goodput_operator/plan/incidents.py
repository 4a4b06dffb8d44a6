"""The record of each interruption: what it was, what was decided and why, how long it took. Pure.

Nothing here is a memory of its own. An incident is told from the status before and after a pass:
from the attempt that has ended, then from the one that follows it, then from the steps. So no
rule has to keep it up, and a blame that moves while the attempt is being stopped moves here, too.
What it costs is told by `plan.spending`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from goodput_operator.api.base import format_time, truncate
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    Bucket,
    ConditionType,
    Decision,
    Incident,
    LedgerStatus,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import Finding, GangProgress, where
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.reasons import PUBLISHED, RESIZED, SUSPENDED
from goodput_operator.plan.view import View, find_condition, is_finished, is_true

MAX_INCIDENTS = 10
MAX_MESSAGE_BYTES = 1024
MAX_WHY_CHARACTERS = 512

Prices = Mapping[int, Mapping[Bucket, int]]
"""Accelerator-milliseconds by the attempt of the incident that has to pay, and by bucket."""


def with_incidents(
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    ended: AttemptStatus | None,
    seen: View,
    decided: View,
) -> tuple[Incident, ...]:
    """Return every incident that is known after this pass, newest first.

    Args:
        before: the status as it was read.
        after: the status to write, with its conditions.
        ended: the last version of the attempt that `before` has.
        seen: the view that the rules began with.
        decided: the view after the last of them.
    """
    if is_finished(before):
        return tuple(before.incidents)
    incidents = list(before.incidents)
    if ended is not None and incidents:
        incidents[0] = _followed(incidents[0], ended, after)
        incidents = [_caught_up(one, ended, seen.diagnosis.progress) for one in incidents]
    if ended is not None and _interrupted(before, ended):
        known = next((one for one in incidents if one.attempt == ended.number), None)
        told = _told(known, before, ended, seen)
        incidents = [told, *(one for one in incidents if one is not known)]
    if not incidents or after.attempt is None:
        return tuple(incidents)
    newest = _answered(incidents[0], before, after, decided)
    return (_followed(newest, after.attempt, after), *incidents[1:])


def with_prices(
    incidents: Sequence[Incident], prices: Prices, before: LedgerStatus, after: LedgerStatus
) -> tuple[list[Incident], LedgerStatus]:
    """Return the incidents that there is room for, with what each has cost, and the ledger.

    The price of the others goes into the ledger's sum of earlier ones.
    """
    priced = [
        one.model_copy(
            update={
                "accelerator_milliseconds": _sum(
                    one.accelerator_milliseconds, prices.get(one.attempt, {})
                )
            }
        )
        if one.attempt in prices
        else one
        for one in incidents
    ]
    kept, left = priced[:MAX_INCIDENTS], priced[MAX_INCIDENTS:]
    earlier = before.earlier_incidents_milliseconds
    for one in left:
        earlier = _sum(earlier, one.accelerator_milliseconds)
    return kept, after.model_copy(update={"earlier_incidents_milliseconds": earlier})


def open_incident(status: TrainingJobStatus) -> Incident | None:
    """Return the incident from which training has not come back yet.

    A step may be told before the last of the processes is heard to have started.
    """
    newest = status.incidents[0] if status.incidents else None
    if newest is None or (newest.running_at is not None and newest.first_step_at is not None):
        return None
    return newest


def shrinking_incident(status: TrainingJobStatus) -> Incident | None:
    """Return the incident since which the gang is smaller than is wanted, where one made it so."""
    for one in status.incidents:
        if one.decision is Decision.SHRINK:
            return one
        if one.decision in (Decision.GROW, Decision.SCALE_DOWN, Decision.SUSPEND):
            return None
    return None


def ends_told(before: TrainingJobStatus, after: TrainingJobStatus) -> tuple[tuple[str, str], ...]:
    """Return (reason, message) for each incident that is over since `before`, oldest first."""
    open_before = {one.attempt for one in before.incidents if one.caught_up_at is None}
    open_before |= {one.attempt for one in after.incidents} - {
        one.attempt for one in before.incidents
    }
    return tuple(
        ("Recovered", in_words(one))
        for one in reversed(after.incidents)
        if one.caught_up_at is not None and one.attempt in open_before
    )


def in_words(incident: Incident) -> str:
    """Return what an incident that is over was and has cost, in one line."""
    begin, step, end = incident.fault_at, incident.first_step_at, incident.caught_up_at
    parts = [f"attempt {incident.attempt} ended ({incident.reason})"]
    if step is not None:
        parts.append(f"the first step came {_seconds(step - begin)} s later")
    if end is not None:
        parts.append(f"all was as before after {_seconds(end - begin)} s")
    if incident.steps_lost:
        parts.append(f"{incident.steps_lost} steps were trained again")
    price = incident.accelerator_milliseconds
    if price:
        most = sorted(price.items(), key=lambda item: (-item[1], item[0]))
        causes = ", ".join(f"{bucket} {amount / 1000:.1f}" for bucket, amount in most)
        parts.append(f"it cost {sum(price.values()) / 1000:.1f} accelerator-seconds: {causes}")
    return "; ".join(parts)


# --- what it was ----------------------------------------------------------------------------------


def _interrupted(before: TrainingJobStatus, ended: AttemptStatus) -> bool:
    """Return whether this attempt had a world, and has lost it otherwise than by success."""
    return (
        before.attempt is not None
        and before.attempt.state in PUBLISHED
        and ended.ended_at is not None
        and ended.state in (AttemptState.STOPPING, AttemptState.CLOSED)
        and ended.reason != "Succeeded"
    )


def _told(
    known: Incident | None,
    before: TrainingJobStatus,
    ended: AttemptStatus,
    seen: View,
) -> Incident:
    """Return the incident as the ended attempt tells it."""
    assert ended.ended_at is not None
    fault_at, progress = ended.ended_at, seen.diagnosis.progress
    message = _cut(ended.message)
    steps = [
        known.step if known else None,
        progress.step,
        progress.tracker_step,
        before.progress.step if ended.first_step_at else None,
    ]
    step = max((one for one in steps if one is not None), default=None)
    best = max((one for one in (step, before.progress.best_step) if one is not None), default=None)
    incident = known or Incident(
        attempt=ended.number,
        reason=ended.reason,
        planned=ended.reason in (SUSPENDED, RESIZED),
        fault_at=fault_at,
        decided_at=ended.stopping_at or fault_at,
    )
    if (incident.reason, incident.message) != (ended.reason, message):
        cause = _cause(seen.diagnosis.findings, ended.message)
        worker = next(
            (
                one
                for one in seen.snapshot.workers
                if (one.slot == cause.slot if cause else _names(ended.message, one))
            ),
            None,
        )
        incident = incident.model_copy(
            update={
                "slot": worker.slot if worker else None,
                "rank": cause.rank if cause else None,
                "pod": worker.pod.name if worker and worker.pod else "",
                "node": worker.pod.node if worker and worker.pod else "",
            }
        )
    return incident.model_copy(
        update={
            "reason": ended.reason,
            "message": message,
            "charged": ended.charged,
            "fault_at": fault_at,
            "step": step,
            "best_step": best,
        }
    )


def _cause(findings: Sequence[Finding], message: str) -> Finding | None:
    """Return the finding that the message of an ended attempt begins with."""
    return next(
        (one for one in findings if one.certain and message.startswith(one.message[:200])), None
    )


def _names(message: str, worker: Worker) -> bool:
    """Return whether a message begins with this worker, as that of a notice does."""
    return worker.pod is not None and message.startswith(where(worker))


# --- what was decided -----------------------------------------------------------------------------


def _answered(
    incident: Incident, before: TrainingJobStatus, after: TrainingJobStatus, view: View
) -> Incident:
    """Return the incident with the decision, as far as it follows from what is left."""
    answer = _answer(incident, before, after, view)
    if answer is None:
        return incident
    decision, why = answer
    return incident.model_copy(update={"decision": decision, "why": why[:MAX_WHY_CHARACTERS]})


def _answer(
    incident: Incident, before: TrainingJobStatus, after: TrainingJobStatus, view: View
) -> tuple[Decision, str] | None:
    old, new = before.attempt, after.attempt
    if old is None or new is None:
        return None
    failed = find_condition(after, ConditionType.FAILED)
    if failed is not None and failed.status == "True":
        same = new.number == incident.attempt
        return (Decision.FAIL, failed.message) if same else None
    of_it = old.number == incident.attempt
    closed = of_it and (new.number > old.number or new.state is AttemptState.CLOSED)
    moved = _moved(before, after)
    answer: tuple[Decision, str] | None = None
    if closed and old.state in PUBLISHED:
        answer = _closed(incident, before, after, moved, view)
    elif moved and incident.decision is Decision.RESTART_PROCESSES:
        answer = _replaced(len(moved), len(after.slots), "could not start the next attempt")
    formed = new.number > incident.attempt and new.published_at is not None
    if formed and incident.published_at is None:
        return _resized(incident, before, after, view) or answer
    return answer


def _moved(before: TrainingJobStatus, after: TrainingJobStatus) -> frozenset[int]:
    """Return the slots that stand for a new pod since `before`."""
    known = {one.slot: one.incarnation for one in before.slots}
    return frozenset(
        one.slot for one in after.slots if known.get(one.slot, one.incarnation) != one.incarnation
    )


def _closed(
    incident: Incident,
    before: TrainingJobStatus,
    after: TrainingJobStatus,
    moved: frozenset[int],
    view: View,
) -> tuple[Decision, str]:
    """Return the answer as it stands when nothing of the attempt is left to do harm."""
    if incident.reason == SUSPENDED:
        return Decision.SUSPEND, "spec.suspend is true: nothing is held until it is false again"
    members = frozenset(one.slot for one in before.slots if one.rank >= 0)
    lost, count = len(members & moved), len(members)
    if not lost:
        decision = Decision.RESTART_PROCESSES
        why = f"all {count} workers have kept their pods, so no pod is made anew"
    elif lost < count:
        decision, why = _replaced(lost, count, "are lost")
    else:
        decision = Decision.RECREATE
        why = f"none of the {count} workers has kept its pod"
    return decision, f"{why}{_alternatives(incident, after, view)}"


def _replaced(lost: int, count: int, what: str) -> tuple[Decision, str]:
    why = f"{lost} of {count} workers {what} and get new pods; the others keep theirs"
    return Decision.REPLACE_WORKERS, why


def _alternatives(incident: Incident, after: TrainingJobStatus, view: View) -> str:
    """Return what else there was: to go on smaller, to wait, to give up."""
    policy, recovery = view.spec.recovery, after.recovery
    said = []
    if view.spec.elastic is not None and not incident.planned:
        least = min(view.sizes, default=view.wanted)
        said.append(f"it may go on with as few as {least}" if least < view.wanted else "")
    elif not incident.planned:
        said.append("the size is fixed, so it does not go on smaller")
    if incident.charged:
        used = len(recovery.restarts)
        said.append(
            f"given up after {policy.max_restarts} such failures within "
            f"{policy.window_seconds} s: this is number {used}"
        )
    elif not incident.planned:
        said.append("not the user's fault, so it does not count against spec.recovery")
    until = recovery.not_before
    if until is not None and until > view.now:
        said.append(f"backing off until {format_time(until)}")
    return "".join(f"; {one}" for one in said if one)


def _resized(
    incident: Incident, before: TrainingJobStatus, after: TrainingJobStatus, view: View
) -> tuple[Decision, str] | None:
    """Return the answer where the next world has another size, or spares; else None."""
    if before.elastic is None or after.elastic is None:
        return None
    old, size, wanted = before.elastic.workers, after.elastic.workers, view.wanted
    if old == size and after.elastic.swaps:
        why = f"{after.elastic.swaps} spares stood ready, so no pod's start is waited for"
        return Decision.SWAP_SPARES, why
    if old in (0, size):
        return None
    if size > old:
        return Decision.GROW, f"from {old} to {size} of {wanted} workers: so many are there to join"
    if size == wanted:
        return Decision.SCALE_DOWN, f"from {old} to {size} workers, as spec.workers has it"
    waited = _seconds(view.now - incident.decided_at)
    why = (
        f"from {old} to {size} workers, the largest legal size that is to be had {waited} s after "
        f"the decision; to wait longer for all {wanted} would have cost more than to go on "
        "without, and the gang grows again when it is worth the restart"
    )
    return Decision.SHRINK, why


# --- how it went on -------------------------------------------------------------------------------


def _followed(incident: Incident, attempt: AttemptStatus, after: TrainingJobStatus) -> Incident:
    """Return the incident with the times of this attempt, if it follows the ended one."""
    if attempt.number <= incident.attempt:
        return incident
    update: dict[str, object] = {
        "published_at": attempt.published_at,
        "running_at": attempt.running_at,
        "first_step_at": attempt.first_step_at,
    }
    if incident.scheduled_at is None:
        update["scheduled_at"] = _scheduled_at(after, attempt)
    if attempt.published_at is not None:
        update["restore_step"] = attempt.restore_step
        # Who restores without the SDK goes on from a step that nobody tells us.
        known = attempt.restore_step is not None or after.checkpoint.fenced
        if incident.step is not None and known:
            update["steps_lost"] = max(0, incident.step - (attempt.restore_step or 0))
    return incident.model_copy(update=update)


def _scheduled_at(after: TrainingJobStatus, attempt: AttemptStatus) -> datetime | None:
    scheduled = find_condition(after, ConditionType.GANG_SCHEDULED)
    if not is_true(after, ConditionType.GANG_SCHEDULED) or scheduled is None:
        return attempt.published_at
    moment = max(attempt.opened_at, scheduled.last_transition_time)
    return moment if attempt.published_at is None else min(moment, attempt.published_at)


def _caught_up(incident: Incident, attempt: AttemptStatus, progress: GangProgress) -> Incident:
    """Return the incident with the moment at which this attempt was as far as before it."""
    if incident.caught_up_at is not None or attempt.number <= incident.attempt:
        return incident
    begin = attempt.first_step_at or attempt.running_at
    if begin is None:
        return incident
    if incident.best_step is None:  # there was nothing to catch up with
        return incident.model_copy(update={"caught_up_at": attempt.first_step_at})
    step, at = progress.step, progress.step_at
    if step is None or at is None:
        step, at = progress.tracker_step, progress.tracker_step_at
    if step is None or at is None or step < incident.best_step:
        return incident
    further = timedelta(
        milliseconds=(step - incident.best_step) * max(0, progress.step_milliseconds or 0)
    )
    moment = max(begin, at - min(further, max(at - begin, timedelta())))
    return incident.model_copy(update={"caught_up_at": truncate(moment)})


def _sum(one: Mapping[Bucket, int], other: Mapping[Bucket, int]) -> dict[Bucket, int]:
    return {
        bucket: amount for bucket in Bucket if (amount := one.get(bucket, 0) + other.get(bucket, 0))
    }


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.1f}"


def _cut(text: str) -> str:
    return text.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")
