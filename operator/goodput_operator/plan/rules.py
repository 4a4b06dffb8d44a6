"""The rules, in their order; the first that has an answer wins.

Each rule looks at a `View` and answers with a `Step` or stays silent. A step that changes the
status is followed by another round of the rules on the changed view, until one answers "wait":
so a pass does all that needs no further look at the world, and planning again after a plan has
been carried out gives nothing. Only one step in a pass can disturb running processes, because
what follows a stop needs the agents' word.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import (
    MAX_ATTEMPT,
    AttemptState,
    ConditionType,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import (
    SILENCE_LIMIT_SECONDS,
    Finding,
    Kind,
    succeeded,
    succeeded_at,
    where,
)
from goodput_operator.names import selector
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.attempt import (
    close,
    open_next,
    sized_slots,
    stop,
    stopped,
    stuck,
    told_to_stop_at,
)
from goodput_operator.plan.elastic import remembering, with_exposure, with_restart_measured
from goodput_operator.plan.forming import (
    admit,
    cannot_start,
    displace,
    forming,
    release_refused,
    replace_dead,
    start_timeout,
)
from goodput_operator.plan.notices import heed_notices
from goodput_operator.plan.reasons import (
    DO_NOT_REQUEUE,
    LIVE,
    NOT_CONFIRMED,
    PLANNED,
    SUSPENDED,
    TEMPLATE_ACCEPTED,
)
from goodput_operator.plan.resize import release_surplus, resize
from goodput_operator.plan.saving import ask, ask_again, can_ask, has_saved, question
from goodput_operator.plan.steps import earliest, fail, set_condition
from goodput_operator.plan.view import (
    Step,
    View,
    is_finished,
    leave_by,
    next_incarnation,
)

Rule = Callable[[View], Step | None]


def first_visit(view: View) -> Step | None:
    """Give a new job its slots and its place in the queue."""
    if view.status.selector:
        return None
    status = view.status.model_copy(
        update={
            "selector": selector(view.snapshot.key[1]),
            "slots": sized_slots(view),
            "queued_since": truncate(view.now),
            "active_since": None if view.spec.suspend else truncate(view.now),
        }
    )
    return Step(status, "Accepted", "the job is taken up")


def finished(view: View) -> Step | None:
    """Leave a finished job alone; its pods are cleaned up by policy."""
    if not is_finished(view.status):
        return None
    return Step(view.status, "Finished", recheck_at=_cleanup_at(view))


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment at which the job fails, and why."""

    at: datetime
    reason: str
    message: str


def next_deadline(view: View) -> Deadline | None:
    """Return the first deadline that the job has to meet, None when it has none."""
    spec, status = view.spec, view.status
    if spec.suspend:
        return None
    since = status.active_since or view.snapshot.created_at
    deadlines = []
    if spec.active_deadline_seconds is not None:
        deadlines.append(
            Deadline(
                since + timedelta(seconds=spec.active_deadline_seconds),
                "DeadlineExceeded",
                f"active for spec.activeDeadlineSeconds={spec.active_deadline_seconds} seconds",
            )
        )
    if spec.start_deadline_seconds is not None and status.started_at is None:
        waits = view.condition(ConditionType.RUNNING)
        deadlines.append(
            Deadline(
                since + timedelta(seconds=spec.start_deadline_seconds),
                "StartDeadlineExceeded",
                f"no attempt ran within spec.startDeadlineSeconds={spec.start_deadline_seconds}"
                + (f": {waits.message}" if waits is not None and waits.message else ""),
            )
        )
    if view.unheard:  # it may have been met while nobody was here
        deadlines = [replace(one, at=max(one.at, view.patient_until)) for one in deadlines]
    return min(deadlines, key=lambda one: one.at, default=None)


def deadline(view: View) -> Step | None:
    """Fail a job that has not started, or not finished, in its time."""
    due = next_deadline(view)
    if due is None or view.now < due.at:
        return None
    return fail(view, due.reason, due.message)


def template_invalid(view: View) -> Step | None:
    """Start nothing from a template that cannot work, and say what is wrong with it.

    What a namespace allows may change while a gang has its pods: those go on.
    """
    attempt = view.status.attempt
    if attempt is not None and attempt.state in (*LIVE, AttemptState.STOPPING):
        return None
    answer = view.snapshot.template_answer
    held = any(worker.pod is not None for worker in view.snapshot.workers)
    refusal = answer.refusal if answer and not held else ""
    problems = list(view.template_problems) + ([refusal] if refusal else [])
    if problems:
        status = set_condition(
            view, view.status, ConditionType.TEMPLATE_VALID, False, "Invalid", "; ".join(problems)
        )
        status = set_condition(
            view,
            status,
            ConditionType.ADMITTED,
            False,
            "TemplateInvalid",
            "nothing is created from an invalid template",
        )
        again = view.now + timedelta(seconds=60) if refusal else None
        return Step(status, "TemplateInvalid", "; ".join(problems), recheck_at=again)
    if answer is None:
        known = view.condition(ConditionType.TEMPLATE_VALID)
        if known is not None and known.status == "False":
            return Step(view.status, "TemplateInvalid", known.message)
        return None
    status = view.status
    if answer.priority is not None:
        status = status.model_copy(update={"priority": answer.priority})
    reason, message = TEMPLATE_ACCEPTED, "the API server accepts the worker pods"
    if answer.refusal:
        reason = "InUse"
        message = f"its pods are there, but another would be refused: {answer.refusal}"
    status = set_condition(view, status, ConditionType.TEMPLATE_VALID, True, reason, message)
    return _if_changed(view, status, "TemplateValid")


def suspend_running(view: View) -> Step | None:
    """Stop a running attempt because the user wants it suspended, saved before if it can be.

    One that fails meanwhile is suspended then, and uncharged: it would be ended anyway.
    """
    attempt, cause = view.status.attempt, view.diagnosis.first_cause
    if not view.spec.suspend or attempt is None or attempt.state not in LIVE:
        return None
    if cause is None:
        if attempt.save_by is None and view.unheard:
            return None
        if attempt.save_by is None and can_ask(view):
            return Step(ask(view), "SaveAsked", f"spec.suspend is true: {question(view)}")
        if not has_saved(view):
            return None
    status = stop(
        view,
        reason=SUSPENDED,
        message="spec.suspend is true" + (f"; before that, {cause.message}" if cause else ""),
        charged=False,
        ended_at=_fault_at(view) or view.now,
    )
    return Step(status, "Suspend", "spec.suspend is true: the attempt is stopped")


def stopping(view: View) -> Step | None:
    """Wait until no process of the attempt can do harm, then close it.

    The first report of a fault need not be that of the first fault: when a truer cause comes to
    light, it gets the blame, before the incident is counted.
    """
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.STOPPING:
        return None
    cause = _truer_cause(view)
    if cause is not None:
        lost = cause.kind is Kind.WORKER_LOST
        blamed = attempt.model_copy(
            update={
                "reason": cause.reason if cause.requeue else DO_NOT_REQUEUE,
                "message": (cause.message + (f"; then: {attempt.message}" if lost else ""))[:1500],
                "charged": cause.charged,
                "ended_at": min(truncate(cause.at), attempt.ended_at or cause.at),
            }
        )
        status = view.status.model_copy(update={"attempt": blamed})
        status = set_condition(
            view, status, ConditionType.RECOVERING, True, cause.reason, blamed.message
        )
        return Step(status, cause.reason, cause.message)
    pending = [worker for worker in view.gang if not _harmless(view, worker)]
    if not pending:
        return Step(close(view), "Closed", f"attempt {attempt.number} is closed: {attempt.reason}")
    status = view.status
    if view.now - told_to_stop_at(view) > timedelta(seconds=SILENCE_LIMIT_SECONDS):
        status = set_condition(
            view,
            status,
            ConditionType.RUNNING,
            False,
            "WaitingForConfirmedDeath",
            f"{where(pending[0])} may still run, and checkpoints written without the goodput SDK "
            f"cannot be fenced: delete its node, or taint it node.kubernetes.io/out-of-service, "
            f"once you know that it is down"
            if not view.status.checkpoint.fenced
            else f"waiting for {where(pending[0])} to stop",
        )
    return Step(status, "Stopping", recheck_at=earliest(view, view.now + timedelta(seconds=2)))


def _truer_cause(view: View) -> Finding | None:
    """Return what explains the end of the attempt better than the failure that was blamed.

    A lost worker or a killed process, of which the others fail; a checkpoint that not all could
    read, of which processes give up; a process that failed earlier; or one that asks not to be
    tried again.
    """
    attempt, findings, cause = view.attempt, view.diagnosis.findings, view.diagnosis.first_cause
    if cause is None or not attempt.charged or attempt.reason == DO_NOT_REQUEUE:
        return None
    blamed = next((one for one in findings if attempt.message.startswith(one.message[:200])), None)
    if blamed == cause:
        return None
    killed = cause.killed and not (blamed is not None and blamed.killed)
    earlier = attempt.ended_at is None or truncate(cause.at) < attempt.ended_at
    lost = cause.kind is Kind.WORKER_LOST
    apart = cause.kind is Kind.RESTORED_APART
    return cause if lost or killed or apart or earlier or not cause.requeue else None


def _harmless(view: View, worker: Worker) -> bool:
    """Return whether this member of the stopping attempt can neither train nor be read from."""
    attempt = view.attempt
    if stopped(worker, attempt.number):
        return True
    if not view.status.checkpoint.fenced:
        return False
    deleting = worker.pod is not None and worker.pod.deleting
    return deleting or worker.slot in view.diagnosis.lost_slots or stuck(view)


def give_up(view: View) -> Step | None:
    """Fail the job when its budget is used up, or trying again is pointless."""
    attempt, policy, recovery = view.status.attempt, view.spec.recovery, view.status.recovery
    if attempt is None or attempt.state is not AttemptState.CLOSED or attempt.reason in PLANNED:
        return None
    why = ""
    if attempt.reason == DO_NOT_REQUEUE:
        why = "the process asked not to be tried again (exit code 93)"
    elif attempt.charged and len(recovery.restarts) > policy.max_restarts:
        why = (
            f"{len(recovery.restarts)} failures within {policy.window_seconds} s exceed "
            f"spec.recovery.maxRestarts={policy.max_restarts}"
        )
    elif (
        attempt.charged
        and _has_signal(view.status)
        and recovery.charged_without_progress >= policy.max_restarts_without_progress
    ):
        why = (
            f"{recovery.charged_without_progress} failures without a new step "
            f"(spec.recovery.maxRestartsWithoutProgress={policy.max_restarts_without_progress})"
        )
    if not why:
        return None
    return fail(view, attempt.reason, f"{why}; the last: {attempt.message}")


def _has_signal(status: TrainingJobStatus) -> bool:
    return status.progress.best_step is not None or status.checkpoint.fenced


def suspended(view: View) -> Step | None:
    """Hold nothing while suspended; one that is being saved is not yet."""
    attempt = view.status.attempt
    if not view.spec.suspend or (attempt is not None and attempt.state in LIVE):
        return None
    if view.holds(ConditionType.SUSPENDED):
        return Step(view.status, "Suspended")
    status = view.status
    if status.elastic is not None:  # what follows is no restart, and must not be measured as one
        status = remembering(status, resize_began_at=None, interrupted_at=None)
    holding = frozenset(w.slot for w in view.snapshot.workers if w.pod is not None)
    status = status.model_copy(
        update={
            "slots": next_incarnation(status.slots, holding),
            "active_since": None,
            "queued_since": None,
        }
    )
    if status.attempt is not None and status.attempt.state is AttemptState.FORMING:
        closed = status.attempt.model_copy(
            update={"state": AttemptState.CLOSED, "reason": SUSPENDED}
        )
        status = status.model_copy(update={"attempt": closed})
    status = set_condition(
        view, status, ConditionType.SUSPENDED, True, "SpecSuspend", "spec.suspend is true"
    )
    status = set_condition(
        view, status, ConditionType.ADMITTED, False, "Suspended", "spec.suspend is true"
    )
    status = set_condition(view, status, ConditionType.RECOVERING, False, "Suspended", "")
    return Step(status, "Suspended", "spec.suspend is true: the workers are deleted")


def resume(view: View) -> Step | None:
    """Queue a job again that is not suspended any more."""
    if not view.holds(ConditionType.SUSPENDED):
        return None
    status = view.status.model_copy(
        update={
            "queued_since": truncate(view.now),
            "active_since": truncate(view.now),
            "slots": sized_slots(view),
            # The template may be another one now, whose checkpoints nobody fences.
            "checkpoint": view.status.checkpoint.model_copy(update={"fenced": False}),
        }
    )
    if status.elastic is not None:
        status = remembering(status, unfit_sizes=[])
    status = set_condition(
        view, status, ConditionType.SUSPENDED, False, "Resumed", "spec.suspend is false"
    )
    return Step(status, "Resumed", "spec.suspend is false: the job is queued again")


def open_attempt(view: View) -> Step | None:
    """Open the next attempt when there is none that lives."""
    attempt = view.status.attempt
    if attempt is not None and attempt.state is not AttemptState.CLOSED:
        return None
    if attempt is not None and attempt.number >= MAX_ATTEMPT:
        message = (
            f"status.attempt.number={attempt.number} leaves no number for another attempt: it was "
            "edited by hand, or counts on from one that was; create the job anew"
        )
        return fail(view, "NoAttemptLeft", message)
    status = open_next(view)
    assert status.attempt is not None
    return Step(status, "Forming", f"attempt {status.attempt.number} is forming")


def all_succeeded(view: View) -> Step | None:
    """Finish the job when every process has succeeded, and with the last of them its time."""
    attempt = view.status.attempt
    if attempt is None or attempt.state not in LIVE:
        return None
    if not all(succeeded(worker, attempt.number) for worker in view.gang):
        return None
    times = [at for worker in view.gang if (at := succeeded_at(worker, attempt.number))]
    begin = attempt.running_at or attempt.published_at or attempt.opened_at
    ended_at = min(max([begin, *times]), view.now) if times else view.now
    attempt = attempt.model_copy(
        update={
            "state": AttemptState.CLOSED,
            "ended_at": truncate(ended_at),
            "reason": "Succeeded",
        }
    )
    status = view.status.model_copy(update={"attempt": attempt, "finished_at": truncate(view.now)})
    message = f"all processes of attempt {attempt.number} ended with exit code 0"
    status = set_condition(view, status, ConditionType.SUCCEEDED, True, "Completed", message)
    status = set_condition(view, status, ConditionType.RECOVERING, False, "Completed", "")
    return Step(status, "Succeeded", message)


def attempt_failed(view: View) -> Step | None:
    """Stop the attempt when one of its processes or workers has failed."""
    attempt = view.status.attempt
    if attempt is None or attempt.state not in LIVE:
        return None
    cause = view.diagnosis.first_cause
    if cause is not None:
        status = stop(
            view,
            reason=cause.reason if cause.requeue else DO_NOT_REQUEUE,
            message=cause.message,
            charged=cause.charged,
            ended_at=_fault_at(view) or view.now,
        )
        return Step(status, cause.reason, cause.message)
    return None


def _fault_at(view: View) -> datetime | None:
    """Return when the first fault was, None when there is none."""
    return min((one.at for one in view.diagnosis.findings if one.certain), default=None)


def started(view: View) -> Step | None:
    """Take a started attempt as running once all have confirmed, whatever has come of it since.

    A finished step confirms it, too, for it needs all of them.
    """
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.STARTING:
        return None
    if _unconfirmed(view):
        trains = view.diagnosis.progress.first_step_at is not None
        if not trains or (view.unheard and view.diagnosis.first_cause is None):
            return None
    running_at = _running_at(view)
    status = view.status.model_copy(
        update={
            "attempt": attempt.model_copy(
                update={"state": AttemptState.RUNNING, "running_at": truncate(running_at)}
            ),
            "started_at": view.status.started_at or truncate(running_at),
            "recovery": view.status.recovery.model_copy(update={"start_failures": 0}),
        }
    )
    status = with_exposure(status, 0, running_at)
    if not status.checkpoint.fenced:  # else the first step ends it
        status = with_restart_measured(status, running_at)
    return Step(status, "Running", f"all processes of attempt {attempt.number} are started")


def starting(view: View) -> Step | None:
    """Form a started attempt again when some do not confirm."""
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.STARTING:
        return None
    waiting = _unconfirmed(view)
    told_since = max(attempt.published_at or view.now, view.snapshot.listening_since)
    limit = told_since + timedelta(seconds=view.timing.confirm_seconds)
    if view.unheard:
        limit = max(limit, view.patient_until)
    vanished = any(one.kind is Kind.REPORTS_VANISHED for one in view.diagnosis.findings)
    if view.now >= limit and not vanished:
        message = f"{where(waiting[0])} did not confirm its start in time"
        if len(waiting) > 1:
            message += f", nor did {len(waiting) - 1} others"
        status = stop(view, reason=NOT_CONFIRMED, message=message, charged=False, ended_at=view.now)
        return Step(status, NOT_CONFIRMED, message)
    recheck = limit if view.now < limit else view.now + timedelta(seconds=5)
    return Step(view.status, "Starting", recheck_at=earliest(view, recheck))


def _unconfirmed(view: View) -> list[Worker]:
    return [worker for worker in view.gang if not _confirmed(view, worker)]


def _confirmed(view: View, worker: Worker) -> bool:
    run = worker.run_of(view.attempt.number)
    return (run is not None and run.started_at is not None) or succeeded(
        worker, view.attempt.number
    )


def _running_at(view: View) -> datetime:
    times = [
        worker.agent.time_of(run.started_at)
        for worker in view.gang
        if worker.agent
        and (run := worker.run_of(view.attempt.number)) is not None
        and run.started_at is not None
    ]
    begin = view.attempt.published_at or view.now
    return min(max([begin, *times]), view.now)


def running(view: View) -> Step | None:
    """Let a healthy attempt train."""
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        return None
    return Step(view.status, "Training", recheck_at=view.diagnosis.recheck_at)


def _cleanup_at(view: View) -> datetime | None:
    times = []
    finished_at = view.status.finished_at or view.now
    cleanup = leave_by(finished_at, view.snapshot, view.timing)
    if cleanup > view.now:
        times.append(cleanup)
    if view.spec.ttl_seconds_after_finished is not None:
        times.append(finished_at + timedelta(seconds=view.spec.ttl_seconds_after_finished))
    return min((time for time in times if time > view.now), default=None)


def _if_changed(view: View, status: TrainingJobStatus, reason: str) -> Step | None:
    return Step(status, reason) if status != view.status else None


RULES: tuple[Rule, ...] = (
    first_visit,
    finished,
    started,
    all_succeeded,
    deadline,
    suspend_running,
    stopping,
    give_up,
    suspended,
    resume,
    template_invalid,
    open_attempt,
    attempt_failed,
    heed_notices,
    ask_again,
    release_surplus,
    starting,
    resize,
    running,
    # From here on the attempt is forming.
    cannot_start,
    release_refused,
    replace_dead,
    displace,
    start_timeout,
    admit,
    forming,
)
