"""`kubectl goodput explain JOB`: why it is not productive now, and what to do. Pure.

As the operator's own rules, these are asked in their order, and the first that has an answer
wins. They read what the operator has written, and judge nothing anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from goodput_operator import names
from goodput_operator.cli.job import Event, Incident, Job, Pod
from goodput_operator.cli.page import Column, Line, Page, Span, heading, line, table, wrapped
from goodput_operator.cli.status import stale
from goodput_operator.cli.words import (
    REMEDIES,
    ago,
    amount,
    cause_of,
    count,
    duration,
    share,
)

MOST_EVENTS = 5
MOST_PODS = 5
_OPERATOR = f"kubectl get pods -A -l app.kubernetes.io/name={names.OPERATOR_NAME}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a job is productive now, and why.

    Attributes:
        productive: it finishes steps; None where nothing shows whether it does.
        why: in sentences, the first of them the answer.
        remedies: what a person can do.
        done: it has come to its end, and nobody needs to ask.
    """

    productive: bool | None
    why: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True, slots=True)
class _View:
    job: Job
    pods: Sequence[Pod]
    now: datetime


def verdict(job: Job, pods: Sequence[Pod], now: datetime) -> Verdict:
    """Return why a job is productive, or not, at this moment.

    Args:
        job: what was read of it.
        pods: its workers' pods; none where they may not be seen.
        now: the present, by the clock of whoever asks.
    """
    view = _View(job, pods, now)
    return next(found for rule in RULES if (found := rule(view)) is not None)


def explain_page(
    job: Job, pods: Sequence[Pod], events: Sequence[Event], notes: Sequence[str], now: datetime
) -> Page:
    """Return why the job is not productive, its last incident, and what a person can do.

    Args:
        job: what was read of it.
        pods: its workers' pods.
        events: what was told of it, or of a former job of its name, in any order.
        notes: what could not be read, and why.
        now: the present, by the clock of whoever asks.
    """
    found = verdict(job, pods, now)
    remedies = found.remedies
    if found.productive and not remedies and job.incidents:
        newest = job.incidents[0].reason
        remedies = tuple(f"About {newest}: {remedy}" for remedy in _remedies(newest))
    return (
        line(Span(f"{job.namespace}/{job.name}", "bold"), " is ", _answer(found)),
        *(part for sentence in found.why for part in wrapped(sentence)),
        *_last_incident(job, now),
        *_losses(job),
        *_what_to_do(remedies),
        *_events([one for one in events if one.about == job.uid], now),
        *(line(Span(f"({note})", "dim")) for note in notes),
    )


def _answer(found: Verdict) -> Span:
    if found.done:
        return Span("done.", "good")
    if found.productive is None:
        return Span("perhaps productive now: nothing shows it.", "warn")
    if found.productive:
        return Span("productive now.", "good")
    return Span("not productive now.", "bad")


# --- why now ----------------------------------------------------------------------------


def _not_ours(view: _View) -> Verdict | None:
    if view.job.ours:
        return None
    why = f"spec.managedBy is {view.job.managed_by}: Goodput leaves this job alone."
    return Verdict(None, (why,))


def _deleting(view: _View) -> Verdict | None:
    if not view.job.deleting:
        return None
    return Verdict(False, ("It is being deleted, and its pods with it.",))


def _unseen(view: _View) -> Verdict | None:
    if view.job.visited:
        return None
    return Verdict(
        False,
        ("No operator has looked at it yet.",),
        (f"See whether the operator runs and watches this namespace: {_OPERATOR}",),
    )


def _unreadable(view: _View) -> Verdict | None:
    condition = view.job.condition("Degraded")
    if condition.reason != "CannotBeRead":
        return None
    return Verdict(
        False, (f"The operator cannot read it: {condition.message}",), _remedies("CannotBeRead")
    )


def _succeeded(view: _View) -> Verdict | None:
    job = view.job
    if not job.holds("Succeeded"):
        return None
    when = "" if job.finished_at is None else f" {ago(job.finished_at, view.now)}"
    why = f"It has succeeded{when}: {job.condition('Succeeded').message}."
    return Verdict(False, (why,), done=True)


def _failed(view: _View) -> Verdict | None:
    job, condition = view.job, view.job.condition("Failed")
    if condition.status != "True":
        return None
    when = "" if job.finished_at is None else f" {ago(job.finished_at, view.now)}"
    again = "Then delete the job and create it anew: "
    again += (
        "it goes on from its newest checkpoint."
        if job.directory
        else "with spec.checkpoint.directory it would go on from its newest checkpoint."
    )
    return Verdict(
        False,
        (f"It has failed for good{when} ({condition.reason}): {condition.message}",),
        (*_remedies(condition.reason), again),
    )


def _suspended(view: _View) -> Verdict | None:
    if view.job.holds("Suspended"):
        since = view.job.condition("Suspended").since
        when = "" if since is None else f", {ago(since, view.now)}"
        return Verdict(
            False,
            (f"It was suspended by its user{when}, and holds nothing.",),
            (f"Resume it: {_patch(view.job)}",),
        )
    if view.job.suspend:
        return Verdict(False, (f"It is about to be suspended. {_saving(view)}".rstrip(),))
    return None


def _patch(job: Job) -> str:
    return (
        f"kubectl -n {job.namespace} patch gtj/{job.name} --type merge "
        """-p '{"spec":{"suspend":false}}'"""
    )


def _saving(view: _View) -> str:
    attempt = view.job.attempt
    if attempt is None or attempt.save_by is None:
        return ""
    seconds = (attempt.save_by - view.now).total_seconds()
    return f"The training is asked to save, and has {duration(max(0.0, seconds))} left for it."


def _invalid(view: _View) -> Verdict | None:
    condition = view.job.condition("TemplateValid")
    if condition.status != "False":
        return None
    why = f"Its template cannot work, so nothing is created: {condition.message}"
    return Verdict(False, (why,), _remedies("TemplateInvalid"))


def _backing_off(view: _View) -> Verdict | None:
    job = view.job
    if job.not_before is None or job.not_before <= view.now or job.holds("Running"):
        return None
    seconds = (job.not_before - view.now).total_seconds()
    cause = job.condition("Recovering" if job.holds("Recovering") else "Admitted")
    why = f"It waits {duration(seconds)} more before it is tried again, because it failed before"
    return Verdict(
        False, (f"{why}: {_words(cause.reason, cause.message)}",), _remedies(cause.reason)
    )


def _stopping(view: _View) -> Verdict | None:
    attempt, running = view.job.attempt, view.job.condition("Running")
    if attempt is None or attempt.state != "Stopping":
        return None
    why = f"Attempt {attempt.number} is being stopped: {_words(attempt.reason, attempt.message)}"
    if running.reason == "WaitingForConfirmedDeath":
        return Verdict(False, (why, f"The next one {running.message}."), _remedies(running.reason))
    return Verdict(False, (why,), _remedies(attempt.reason))


def _queued(view: _View) -> Verdict | None:
    job, admitted = view.job, view.job.condition("Admitted")
    if job.phase != "Queued" and not (job.phase == "Recovering" and admitted.status == "False"):
        return None
    since = "" if job.queued_since is None else f", queued {ago(job.queued_since, view.now)}"
    gang = f"It waits for room for its gang of {count(job.wanted, 'worker')}{since}"
    why = [f"{gang}: {_words(admitted.reason, admitted.message)}"]
    if job.phase == "Recovering":
        why.append(_recovering_from(view))
    if job.excluded:
        why.append(f"It avoids for a while: {', '.join(job.excluded)}.")
    return Verdict(False, tuple(why), _remedies(admitted.reason))


def _recovering(view: _View) -> Verdict | None:
    if view.job.phase != "Recovering":
        return None
    why = (_recovering_from(view), _how_far(view), *_troubles(view))
    return Verdict(False, why, _remedies(view.job.condition("Recovering").reason))


def _recovering_from(view: _View) -> str:
    cause = view.job.condition("Recovering")
    when = "" if cause.since is None else f" since {duration(_seconds(cause.since, view.now))}"
    return f"It recovers{when} from: {_words(cause.reason, cause.message)}"


def _starting(view: _View) -> Verdict | None:
    if view.job.phase not in ("Starting", ""):
        return None
    running = view.job.condition("Running")
    told = (running.message,) if running.message else ()
    return Verdict(False, (_how_far(view), *told, *_troubles(view)), _remedies(running.reason))


def _how_far(view: _View) -> str:
    job, attempt = view.job, view.job.attempt
    if attempt is None:
        return "No attempt has been opened yet."
    if job.bound < job.wanted:
        return f"{job.bound} of {job.wanted} workers have a node; all start together."
    if job.connected < job.wanted and attempt.published_at is None:
        return (
            f"All {job.wanted} workers have a node, the agents of {job.connected} are connected: "
            "images are pulled, or containers start."
        )
    if attempt.running_at is None:
        return f"The processes of attempt {attempt.number} are being started."
    return f"All processes of attempt {attempt.number} run; its first step is not finished yet."


def _troubles(view: _View) -> tuple[str, ...]:
    found = [pod for pod in view.pods if pod.trouble]
    told = [f"Pod {pod.name} {pod.trouble}" for pod in found[:MOST_PODS]]
    if len(found) > MOST_PODS:
        told.append(f"{len(found) - MOST_PODS} more pods are in trouble.")
    return tuple(told)


def _operator_away(view: _View) -> Verdict | None:
    problem = stale(view.job, view.now)
    if not problem:
        return None
    return Verdict(None, (problem,), (f"See why the operator does not write: {_OPERATOR}",))


def _standing_still(view: _View) -> Verdict | None:
    job, progressing = view.job, view.job.condition("Progressing")
    if progressing.status != "False" or job.phase != "Running":
        return None
    when = "" if job.step_at is None else f", finished {ago(job.step_at, view.now)}"
    step = "no step yet" if job.step is None else f"step {job.step:,}{when}"
    message = progressing.message or progressing.reason
    why = f"Its processes run, but {message}; the newest is {step}."
    return Verdict(False, (why, *_troubles(view)), _remedies(progressing.reason))


def _first_step(view: _View) -> Verdict | None:
    job, attempt = view.job, view.job.attempt
    if job.phase != "Running" or attempt is None or attempt.first_step_at is not None:
        return None
    progressing = job.condition("Progressing")
    if progressing.status == "True":
        return None  # a tracker file shows that it saves
    began = attempt.running_at or attempt.opened_at
    since = "" if began is None else f" since {duration(_seconds(began, view.now))}"
    origin = attempt.restore_step
    why = [
        f"The processes of attempt {attempt.number} run{since}, and have not finished a step yet: "
        "they import, compile or read a checkpoint"
        + ("." if job.step is not None else ", or show nothing of what they do.")
    ]
    if job.incidents:
        newest = job.incidents[0]
        why.append(f"It comes back from {newest.reason}, which ended attempt {newest.attempt}.")
    if origin is not None:
        why.append(f"It goes on from step {origin:,}.")
    if job.step is not None:  # so its steps can be seen, and there is none
        return Verdict(False, tuple(why))
    return Verdict(None, tuple(why), _remedies(progressing.reason))


def _smaller(view: _View) -> Verdict | None:
    degraded = view.job.condition("Degraded")
    if view.job.phase != "Running" or degraded.status != "True":
        return None
    why = (_progress(view), f"But not all is well: {_words(degraded.reason, degraded.message)}")
    return Verdict(True, why, _remedies(degraded.reason))


def _training(view: _View) -> Verdict | None:
    if view.job.phase != "Running":
        return None
    saving = _saving(view)
    return Verdict(True, (_progress(view), *([saving] if saving else [])))


def _progress(view: _View) -> str:
    job = view.job
    if job.step is None:
        return f"{job.training} of {job.wanted} workers train, and save."
    when = "" if job.step_at is None else f", finished {ago(job.step_at, view.now)}"
    pace = job.step_milliseconds
    each = "" if pace is None or pace <= 0 else f" A step takes {duration(pace / 1000)}."
    return f"{job.training} of {job.wanted} workers train; step {job.step:,}{when}.{each}"


def _by_phase(view: _View) -> Verdict:
    return Verdict(None, (f"Its phase is {_words(view.job.phase, view.job.reason)}",))


RULES: tuple[Callable[[_View], Verdict | None], ...] = (
    _not_ours,
    _deleting,
    _unseen,
    _unreadable,
    _succeeded,
    _failed,
    _suspended,
    _invalid,
    _backing_off,
    _stopping,
    _queued,
    _recovering,
    _starting,
    _operator_away,
    _standing_still,
    _first_step,
    _smaller,
    _training,
    _by_phase,
)


# --- the rest of the page ---------------------------------------------------------------


def _last_incident(job: Job, now: datetime) -> Page:
    title = heading("The last interruption")
    if not job.incidents:
        return (*title, line("  There was none."))
    return (
        *title,
        *(part for told in incident_words(job.incidents[0], now) for part in wrapped(told)),
    )


def incident_words(incident: Incident, now: datetime) -> tuple[str, ...]:
    """Return what happened, what was decided, and what it has cost, in sentences."""
    when = "" if incident.fault_at is None else f" {ago(incident.fault_at, now)}"
    asked = ", as was asked for" if incident.planned else ""
    charged = " It counts against spec.recovery.maxRestarts." if incident.charged else ""
    told = [f"{incident.reason} ended attempt {incident.attempt}{when}{asked}.{charged}"]
    place = _place(incident)
    if place:
        told.append(f"First cause: {place}.")
    if incident.message:
        told.append(incident.message)
    if incident.decision or incident.why:
        told.append(f"Decision: {_words(incident.decision, incident.why)}")
    told.append(_course(incident))
    told.append(_price(incident))
    return tuple(one for one in told if one)


def _place(incident: Incident) -> str:
    parts = (
        "" if incident.rank is None else f"rank {incident.rank}",
        "" if incident.slot is None else f"worker {incident.slot}",
        f"pod {incident.pod}" if incident.pod else "",
        f"node {incident.node}" if incident.node else "",
    )
    return ", ".join(part for part in parts if part)


def _course(incident: Incident) -> str:
    begin = incident.fault_at
    if begin is None:
        return ""
    stages = (
        ("known and decided", incident.decided_at),
        ("all pods had a node", incident.scheduled_at),
        ("the next world was formed", incident.published_at),
        ("all processes ran", incident.running_at),
        ("first step", incident.first_step_at),
        ("caught up", incident.caught_up_at),
    )
    told = [
        f"{what} after {duration(_seconds(begin, at))}" for what, at in stages if at is not None
    ]
    return f"Its course: {', '.join(told)}." if told else ""


def _price(incident: Incident) -> str:
    lost = incident.steps_lost
    steps = f" and {count(lost, 'step')} to be trained again" if lost else ""
    if not incident.cost and not steps:
        return ""
    parts = sorted(incident.price.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{name} {amount(cost)}" for name, cost in parts)
    return f"Its price: {amount(incident.cost)} of accelerator time{steps}" + (
        f" ({shown})." if shown else "."
    )


def _losses(job: Job) -> Page:
    ledger = job.ledger
    if not ledger.lost:
        return ()
    name, cost = ledger.losses[0]
    return (
        *heading("All in all"),
        line(
            f"  {share(ledger.productive, ledger.settled)} of its {amount(ledger.settled)} of "
            f"accelerator time was productive. Most of the rest is {name} "
            f"({share(cost, ledger.lost)}): {cause_of(name).words}."
        ),
    )


def _what_to_do(remedies: Sequence[str]) -> Page:
    if not remedies:
        return ()
    return (*heading("What you can do"), *(line(f"  {one}") for one in remedies))


def _events(events: Sequence[Event], now: datetime) -> Page:
    told = sorted(
        (event for event in events if event.at is not None),
        key=lambda event: event.at or now,
        reverse=True,
    )[:MOST_EVENTS]
    if not told:
        return ()
    rows = [
        (
            "  " + ago(event.at or now, now),
            Span(event.reason, "warn" if event.warning else "plain"),
            event.note,
        )
        for event in told
    ]
    columns = (Column(""), Column(""), Column(""))
    return (*heading("The newest events"), *table(columns, rows)[1:], Line())


def _remedies(reason: str) -> tuple[str, ...]:
    found = REMEDIES.get(reason)
    return (found,) if found else ()


def _words(reason: str, message: str) -> str:
    both = ": ".join(part for part in (reason, message) if part) or "no reason is given"
    return both if both.endswith((".", "!", "?")) else f"{both}."


def _seconds(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())
