"""`kubectl goodput timeline JOB`: attempts and interruptions, stage by stage. Pure."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from goodput_operator.cli.explain import incident_words
from goodput_operator.cli.job import Incident, Job
from goodput_operator.cli.page import Line, Page, Span, Style, heading, line, wrapped
from goodput_operator.cli.words import clock, count, duration, share, stamp

REMEMBERED = 10
"""So many incidents a status has room for; with fewer, it has them all."""
WIDTH = 48
STAGES = (
    ("detection", "decided_at", "until it was known and decided"),
    ("placement", "scheduled_at", "until all pods had a node"),
    ("forming", "published_at", "until the next world was formed"),
    ("start", "running_at", "until all processes ran"),
    ("first step", "first_step_at", "until the first step was finished"),
    ("catching up", "caught_up_at", "until the lost steps were done again"),
)
"""The stages of an interruption: name, the time in the incident that ends it, and its meaning."""

_STYLES: tuple[Style, ...] = ("bad", "warn", "warn", "warn", "warn", "plain")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of an interruption.

    Attributes:
        name: as in `STAGES`.
        begin: when the one before ended.
        end: when it ended; for an open one the present.
        open: it has not ended.
    """

    name: str
    begin: datetime
    end: datetime
    open: bool = False

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.begin).total_seconds()


@dataclass(frozen=True, slots=True)
class Interruption:
    """An incident and the stages of it that are known."""

    incident: Incident
    stages: tuple[Stage, ...]

    @property
    def begin(self) -> datetime | None:
        """The fault."""
        return self.stages[0].begin if self.stages else self.incident.fault_at

    @property
    def end(self) -> datetime | None:
        """The end of its last known stage."""
        return self.stages[-1].end if self.stages else self.incident.fault_at


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt whose processes ran.

    Attributes:
        attempt: its number.
        begin: when all of its processes ran; None where that is not remembered.
        end: when it ended; for the one that runs the present.
        outcome: what ended it; "Running" while nothing has.
    """

    attempt: int
    begin: datetime | None
    end: datetime
    outcome: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A job's life as far as its status remembers it, oldest first."""

    job: Job
    begin: datetime
    end: datetime
    runs: tuple[Run, ...]
    interruptions: tuple[Interruption, ...]


def timeline_of(job: Job, now: datetime) -> Timeline:
    """Return the attempts and interruptions that a job's status remembers."""
    incidents = sorted(job.incidents, key=lambda one: one.attempt)
    end = max(job.finished_at or now, job.created_at or now)
    interruptions = tuple(
        Interruption(one, _stages(one, end, open_=one is incidents[-1] and _goes_on(job)))
        for one in incidents
    )
    runs = tuple(_runs(job, incidents, end))
    known = [run.begin or run.end for run in runs]
    begin = min([job.created_at or end, *known])
    return Timeline(job, begin, end, runs, interruptions)


def _goes_on(job: Job) -> bool:
    return job.finished_at is None and not job.holds("Suspended")


def _stages(incident: Incident, end: datetime, *, open_: bool) -> tuple[Stage, ...]:
    if incident.fault_at is None:
        return ()
    stages: list[Stage] = []
    at = incident.fault_at
    for name, field, _ in STAGES:
        until: datetime | None = getattr(incident, field)
        if until is None:
            continue
        stages.append(Stage(name, at, max(at, until)))
        at = stages[-1].end
    following = _next_stage(incident)
    if open_ and following and end > at:
        stages.append(Stage(following, at, end, open=True))
    return tuple(stages)


def _next_stage(incident: Incident) -> str:
    """Return the stage that has not ended: the one after the last that has; empty for none."""
    ended = [place for place, stage in enumerate(STAGES) if getattr(incident, stage[1])]
    following = ended[-1] + 1 if ended else 0
    return STAGES[following][0] if following < len(STAGES) else ""


def _runs(job: Job, incidents: list[Incident], end: datetime) -> Iterator[Run]:
    before: Incident | None = None
    for incident in incidents:
        if incident.fault_at is not None:
            began = before.running_at if before is not None else job.started_at
            whole = before is not None or len(incidents) < REMEMBERED
            begin = min(began, incident.fault_at) if began is not None and whole else None
            yield Run(incident.attempt, begin, incident.fault_at, incident.reason)
        before = incident
    attempt = job.attempt
    if attempt is None or attempt.running_at is None:
        return
    if any(incident.attempt == attempt.number for incident in incidents):
        return
    ended = attempt.ended_at or end
    outcome = attempt.reason or (attempt.state if job.finished_at is None else job.phase)
    yield Run(attempt.number, min(attempt.running_at, ended), ended, outcome)


# --- text -------------------------------------------------------------------------------


def timeline_page(timeline: Timeline) -> Page:
    """Return the waterfall for a terminal: attempts on one scale, each interruption on its own."""
    job = timeline.job
    if not timeline.runs:
        told = f"{job.namespace}/{job.name} has not run yet: kubectl goodput explain {job.name}"
        return (line(told),)
    shown = len(timeline.interruptions)
    return (
        line(
            Span(f"{job.namespace}/{job.name}", "bold"),
            f"  {clock(timeline.begin)} to {clock(timeline.end)} UTC "
            f"({duration((timeline.end - timeline.begin).total_seconds())}), "
            f"{count(shown, 'interruption')}, goodput "
            f"{share(job.ledger.productive, job.ledger.settled)}",
        ),
        *([line(Span(_FORGOTTEN, "dim"))] if shown >= REMEMBERED else []),
        *heading("Attempts"),
        *(_run_line(timeline, run) for run in timeline.runs),
        *(part for one in reversed(timeline.interruptions) for part in _waterfall(one)),
    )


_FORGOTTEN = f"Older interruptions than the last {REMEMBERED} are in the ledger only."


def _run_line(timeline: Timeline, run: Run) -> Line:
    begin = run.begin or run.end
    whole = (timeline.end - timeline.begin).total_seconds()
    place, size = _scaled(timeline.begin, begin, run.end, whole)
    lasted = "" if run.begin is None else duration((run.end - run.begin).total_seconds())
    style: Style = "good" if run.outcome in ("Running", "Succeeded") else "bad"
    return line(
        f"{run.attempt:>5}  ",
        Span("·" * place, "dim"),
        Span("█" * size, "good"),
        Span("·" * (WIDTH - place - size), "dim"),
        f"  {lasted:>12}  ",
        Span(run.outcome, style),
    )


def _waterfall(one: Interruption) -> Page:
    incident = one.incident
    title = f"Interruption of attempt {incident.attempt}: {incident.reason}"
    when = "" if incident.fault_at is None else f", {clock(incident.fault_at)}"
    told = incident_words(incident, incident.fault_at)[1:] if incident.fault_at else ()
    if one.begin is None or one.end is None:
        return heading(f"{title}{when}")
    whole = (one.end - one.begin).total_seconds()
    return (
        *heading(f"{title}{when}, {duration(whole)}"),
        *(_stage_line(one.begin, stage, whole) for stage in one.stages),
        *(
            part
            for sentence in told
            if not sentence.startswith("Its course")
            for part in wrapped(sentence)
        ),
    )


def _stage_line(begin: datetime, stage: Stage, whole: float) -> Line:
    place, size = _scaled(begin, stage.begin, stage.end, whole)
    names = [name for name, _, _ in STAGES]
    goes_on = " so far" if stage.open else ""
    return line(
        f"  {stage.name:<12}",
        Span("·" * place, "dim"),
        Span("█" * size, _STYLES[names.index(stage.name)]),
        Span("·" * (WIDTH - place - size), "dim"),
        f"  {duration(stage.seconds)}{goes_on}",
    )


def _scaled(origin: datetime, begin: datetime, end: datetime, whole: float) -> tuple[int, int]:
    """Return where a bar begins and how long it is, in columns; at least one."""
    if whole <= 0:
        return 0, 1
    first = (begin - origin).total_seconds() / whole * WIDTH
    last = (end - origin).total_seconds() / whole * WIDTH
    place = min(max(int(first), 0), WIDTH - 1)
    return place, min(max(round(last) - place, 1), WIDTH - place)


# --- for programs -----------------------------------------------------------------------


def timeline_json(timeline: Timeline) -> str:
    """Return the timeline as JSON; its times are RFC 3339, lengths are in seconds."""
    job = timeline.job
    whole = {
        "namespace": job.namespace,
        "job": job.name,
        "uid": job.uid,
        "begin": stamp(timeline.begin),
        "end": stamp(timeline.end),
        "attempts": [
            {
                "attempt": run.attempt,
                "begin": stamp(run.begin),
                "end": stamp(run.end),
                "outcome": run.outcome,
            }
            for run in timeline.runs
        ],
        "interruptions": [_as_json(one) for one in timeline.interruptions],
        "ledger": {
            "acceleratorMilliseconds": dict(job.ledger.buckets),
            "unsettledMilliseconds": job.ledger.unsettled,
            "accountedUntil": stamp(job.ledger.accounted_until),
        },
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _as_json(one: Interruption) -> dict[str, Any]:
    incident = one.incident
    return {
        "attempt": incident.attempt,
        "reason": incident.reason,
        "planned": incident.planned,
        "charged": incident.charged,
        "slot": incident.slot,
        "rank": incident.rank,
        "pod": incident.pod,
        "node": incident.node,
        "message": incident.message,
        "decision": incident.decision,
        "why": incident.why,
        "step": incident.step,
        "restoreStep": incident.restore_step,
        "stepsLost": incident.steps_lost,
        "acceleratorMilliseconds": dict(incident.price),
        "stages": [
            {
                "stage": stage.name,
                "begin": stamp(stage.begin),
                "end": None if stage.open else stamp(stage.end),
                "seconds": round(stage.seconds, 3),
            }
            for stage in one.stages
        ],
    }


CSV_COLUMNS = ("attempt", "kind", "name", "begin", "end", "seconds", "accelerator_seconds")


def timeline_csv(timeline: Timeline) -> str:
    """Return the timeline as CSV: a row for each attempt, interruption and stage of one.

    An interruption's row has its price in accelerator-seconds. A cell that a spreadsheet would
    take for a formula is quoted by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for run in timeline.runs:
        named = {"attempt": run.attempt, "kind": "attempt", "name": _cell(run.outcome)}
        writer.writerow(named | _span(run.begin, run.end))
    for one in timeline.interruptions:
        incident = one.incident
        numbered = {"attempt": incident.attempt}
        named = {"kind": "interruption", "name": _cell(incident.reason)}
        cost = {"accelerator_seconds": f"{incident.cost / 1000:.3f}"}
        writer.writerow(numbered | named | _span(one.begin, one.end) | cost)
        for stage in one.stages:
            lasted = {"begin": stamp(stage.begin), "seconds": f"{stage.seconds:.3f}"}
            ended = {} if stage.open else {"end": stamp(stage.end)}
            writer.writerow(numbered | {"kind": "stage", "name": stage.name} | lasted | ended)
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _span(begin: datetime | None, end: datetime | None) -> dict[str, str]:
    times = {"begin": stamp(begin) or "", "end": stamp(end) or ""}
    if begin is None or end is None:
        return times
    return times | {"seconds": f"{(end - begin).total_seconds():.3f}"}
