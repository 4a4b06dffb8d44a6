"""`kubectl goodput status JOB`: how far a job is, how fast, and where its time went. Pure."""

import json
from datetime import datetime, timedelta

from goodput_operator.cli.job import ANNOTATION_TOTAL_STEPS, Job
from goodput_operator.cli.page import (
    BAR_WIDTH,
    FULL,
    SLIVER,
    Column,
    Line,
    Page,
    Span,
    Style,
    bar,
    fitting_table,
    heading,
    line,
)
from goodput_operator.cli.words import (
    PHASES,
    PRODUCTIVE,
    ago,
    amount,
    cause_of,
    clock,
    count,
    duration,
    share,
    stamp,
    style_of_goodput,
)

OLD = timedelta(minutes=3)
"""The operator writes the ledger of a training job each minute; past this, it does not."""

_PHASE_STYLES: dict[str, Style] = {
    "Running": "good",
    "Succeeded": "good",
    "Failed": "bad",
    "Invalid": "bad",
    "Recovering": "warn",
}
_LABEL = 12


def status_page(
    job: Job, now: datetime, total_steps: int | None = None, room: int | None = None
) -> Page:
    """Return the status of a job.

    Args:
        job: what was read of it.
        now: the present, by the clock of whoever asks.
        total_steps: the number of the last step, where the user says it; else the job's
            annotation does, or nobody.
        room: how many columns there are; None for whatever is needed.
    """
    total = total_steps if total_steps is not None else job.total_steps
    return (
        _headline(job),
        Line(),
        _field("Workers", _workers(job)),
        *_attempt(job, now),
        *_progress(job, total, now),
        _field("Checkpoint", _checkpoint(job, now)),
        _field("Restarts", _restarts(job)),
        *_freshness(job, now),
        *ledger_lines(job, room),
    )


def _headline(job: Job) -> Line:
    style = _PHASE_STYLES.get(job.phase, "plain")
    why = f" ({job.reason})" if job.reason else ""
    words = PHASES.get(job.phase, f"is {job.phase}")
    return line(Span(f"{job.namespace}/{job.name}", "bold"), " ", Span(words, style), why)


def _field(label: str, *parts: str | Span) -> Line:
    return line(Span(f"{label:<{_LABEL}}", "dim"), *parts)


def _workers(job: Job) -> str:
    if job.training or job.finished_at is not None:
        return f"{job.training} of {job.wanted} train"
    return f"{job.bound} of {job.wanted} have a node, {job.connected} are connected"


def _attempt(job: Job, now: datetime) -> Page:
    attempt = job.attempt
    if attempt is None:
        return (_field("Attempt", "none yet"),)
    if attempt.state == "Closed":
        when = "" if attempt.ended_at is None else f" {ago(attempt.ended_at, now)}"
        return (_field("Attempt", f"{attempt.number}, ended{when} ({attempt.reason})"),)
    since = attempt.running_at or attempt.opened_at
    origin = "" if attempt.restore_step is None else f", from step {attempt.restore_step:,}"
    when = "" if since is None else f" since {clock(since)} ({ago(since, now)})"
    return (_field("Attempt", f"{attempt.number}, {attempt.state}{when}{origin}"),)


def _progress(job: Job, total: int | None, now: datetime) -> Page:
    if job.step is None:
        return (_field("Step", "none has been reported"),)
    age = "" if job.step_at is None else f", finished {ago(job.step_at, now)}"
    pace = job.step_milliseconds
    rate = "" if pace is None or pace <= 0 else f", {_pace(pace)}"
    if not total or total <= 0:
        unknown = f"not known: say --steps N, or annotate {ANNOTATION_TOTAL_STEPS}=N"
        return _field("Step", f"{job.step:,}{rate}{age}"), _field("ETA", unknown)
    part = min(max(job.step, 0), total) / total
    return (
        _field("Step", f"{job.step:,} of {total:,}{rate}{age}"),
        _field("", *bar(part, "good" if job.phase == "Running" else "dim"), f" {part:.1%}"),
        _field("ETA", eta(job, total, now)),
    )


def _pace(milliseconds: int) -> str:
    """Return a pace as time per step, and as a rate where that is the better word."""
    each = f"{milliseconds} ms" if milliseconds < 1000 else duration(milliseconds / 1000)
    rate = 1000 / milliseconds
    return f"{each} each ({rate:.1f}/s)" if rate >= 1 else f"{each} each ({rate * 3600:.0f}/h)"


def eta(job: Job, total: int, now: datetime) -> str:
    """Return when the last step will be finished at the present pace; or why nobody can say.

    Nothing is added for faults that are to come: the goodput so far says what those cost.
    """
    if job.finished_at is not None:
        return f"finished {clock(job.finished_at)}"
    if job.step is not None and job.step >= total:
        return "all steps are done"
    if job.phase != "Running" or not job.holds("Progressing"):
        return "not known while no step is finished"
    if job.step is None or (job.step_milliseconds or 0) <= 0:
        return "not known before a step was timed"
    at = eta_at(job, total, now)
    if at is None:
        return "not in this age of the world"
    left = duration(max(0.0, (at - now).total_seconds()))
    return f"{clock(at)}, in {left} at this pace if nothing breaks"


def eta_at(job: Job, total: int, now: datetime) -> datetime | None:
    """Return when the last step will be finished at the present pace; None where none is known."""
    pace = job.step_milliseconds or 0
    if job.step is None or job.phase != "Running" or not job.holds("Progressing") or pace <= 0:
        return None
    try:
        return (job.step_at or now) + timedelta(milliseconds=(total - job.step) * pace)
    except OverflowError:
        return None


def _checkpoint(job: Job, now: datetime) -> str:
    if job.durable_step is None:
        return "none is known to be durable"
    age = "" if job.durable_at is None else f", {ago(job.durable_at, now)}"
    kind = "verified" if job.verified else "seen in a tracker file, not verified"
    newer = ""
    if job.step is not None and job.step > job.durable_step and job.finished_at is None:
        newer = f"; a fault now would cost {count(job.step - job.durable_step, 'step')}"
    return f"step {job.durable_step:,}{age} ({kind}){newer}"


def _restarts(job: Job) -> str:
    if not job.incidents:
        return f"{job.restarts}"
    newest = job.incidents[0]
    return f"{job.restarts}; the last interruption: {newest.reason} in attempt {newest.attempt}"


def _freshness(job: Job, now: datetime) -> Page:
    problem = stale(job, now)
    return (line(Span(problem, "warn")),) if problem else ()


def stale(job: Job, now: datetime) -> str:
    """Return that the operator writes no more of a job that trains; empty while it does."""
    until = job.ledger.accounted_until
    if not job.ours or job.phase != "Running" or until is None or now - until <= OLD:
        return ""
    return (
        f"The operator wrote the last of this {ago(until, now)}: is it running? The training "
        "goes on without it, and nothing is lost of the ledger."
    )


def status_json(job: Job, now: datetime, total_steps: int | None = None) -> str:
    """Return the same, and the published figures, as JSON with stable names; null is unknown."""
    from goodput_operator.cli.figures import as_json  # the page alone does without it

    total = total_steps if total_steps is not None else job.total_steps
    at = None if total is None else eta_at(job, total, now)
    whole = {
        "namespace": job.namespace,
        "name": job.name,
        "phase": job.phase,
        "reason": job.reason,
        "workers": {
            "wanted": job.wanted,
            "bound": job.bound,
            "connected": job.connected,
            "training": job.training,
        },
        "attempt": None if job.attempt is None else job.attempt.number,
        "step": job.step,
        "totalSteps": total,
        "stepMilliseconds": job.step_milliseconds,
        "eta": stamp(at),
        "durableStep": job.durable_step,
        "restarts": job.restarts,
        "ledger": {
            "acceleratorMilliseconds": dict(job.ledger.buckets),
            "unsettledMilliseconds": job.ledger.unsettled,
            "accelerators": job.ledger.accelerators,
            "accountedUntil": stamp(job.ledger.accounted_until),
        },
        "figures": as_json(job),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def ledger_lines(job: Job, room: int | None = None) -> Page:
    """Return the ledger: one bar for all of it, and each cause with its part."""
    ledger = job.ledger
    if not ledger.settled:
        return (*heading("Where the time went"), line("Nothing is accounted for yet."))
    style = style_of_goodput(ledger.productive, ledger.settled)
    rows = [
        (
            *_share_bar(name, cost, ledger.settled),
            amount(cost),
            name,
            cause_of(name).words,
        )
        for name, cost in [(PRODUCTIVE, ledger.productive), *ledger.losses]
    ]
    unit = "accelerator" if ledger.accelerators == 1 else "accelerators"
    return (
        *heading("Where the time went"),
        line(
            Span(share(ledger.productive, ledger.settled), style),
            f" of {amount(ledger.settled)} was productive ({ledger.accelerators:,} {unit} × time "
            "since its creation)",
        ),
        *fitting_table(_LEDGER_COLUMNS, rows, room)[1:],
        line(f"{amount(ledger.unsettled)} more is settled by the next checkpoint."),
    )


_LEDGER_COLUMNS = (
    Column(""),
    Column("", right=True),
    Column("", right=True),
    Column(""),
    Column(""),
)


def _share_bar(name: str, cost: int, whole: int) -> tuple[Span, str]:
    blocks = FULL * round(cost * BAR_WIDTH / whole) or SLIVER
    style: Style = "good" if name == PRODUCTIVE else "bad"
    return Span(f"{blocks:<{BAR_WIDTH}}", style), share(cost, whole)
