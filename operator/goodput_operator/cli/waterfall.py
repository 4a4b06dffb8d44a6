"""The timeline as one HTML page. Pure."""

from goodput_operator.cli import markup
from goodput_operator.cli.explain import incident_words
from goodput_operator.cli.timeline import STAGES, Interruption, Run, Timeline
from goodput_operator.cli.words import PRODUCTIVE, amount, cause_of, clock, count, duration, share

STAGE_COLORS = ("#ff922b", "#adb5bd", "#4dabf7", "#1c7ed6", "#845ef7", "#e03131")


def timeline_html(timeline: Timeline) -> str:
    """Return a job's attempts, interruptions and ledger as a page with pictures."""
    job = timeline.job
    whole = (timeline.end - timeline.begin).total_seconds()
    body = [
        markup.heading(f"{job.namespace}/{job.name}", 1),
        markup.paragraph(
            f"{clock(timeline.begin)} to {clock(timeline.end)} UTC · {duration(whole)} · "
            f"{count(len(timeline.interruptions), 'interruption')} · goodput "
            f"{share(job.ledger.productive, job.ledger.settled)}",
            "soft",
        ),
        markup.heading("Where the accelerators' time went"),
        *_ledger(timeline),
        markup.heading("Attempts"),
        markup.rows_picture(
            "Attempts over time", [_run(timeline, run, whole) for run in timeline.runs]
        ),
        *(part for one in reversed(timeline.interruptions) for part in _interruption(one)),
    ]
    if not timeline.runs:
        body.append(markup.paragraph("No attempt has run yet."))
    return markup.document(f"{job.namespace}/{job.name}: timeline", body)


def _ledger(timeline: Timeline) -> list[str]:
    ledger = timeline.job.ledger
    if not ledger.settled:
        return [markup.paragraph("Nothing is accounted for yet.")]
    blocks, at = [], 0
    for name, cost in ledger.buckets.items():
        tip = f"{name}: {amount(cost)}, {share(cost, ledger.settled)}"
        size = cost / ledger.settled
        blocks.append(markup.Block(at / ledger.settled, size, markup.color_of(name), tip))
        at += cost
    rows = [
        (name, amount(cost), share(cost, ledger.settled), cause_of(name).words)
        for name, cost in [(PRODUCTIVE, ledger.productive), *ledger.losses]
    ]
    return [
        markup.rows_picture(
            "All accelerator time by cause", [("all of it", blocks, amount(ledger.settled))]
        ),
        markup.legend(ledger.buckets),
        markup.grid(("Bucket", "Time", "Part", "What it is"), rows, (1, 2)),
        markup.paragraph(
            f"{amount(ledger.unsettled)} more is settled by the next checkpoint.", "soft"
        ),
    ]


def _run(timeline: Timeline, run: Run, whole: float) -> tuple[str, list[markup.Block], str]:
    begin = run.begin or run.end
    lasted = (run.end - begin).total_seconds()
    tip = f"attempt {run.attempt}, {clock(begin)} to {clock(run.end)}: {run.outcome}"
    block = markup.Block(
        (begin - timeline.begin).total_seconds() / whole if whole > 0 else 0.0,
        lasted / whole if whole > 0 else 1.0,
        markup.color_of(PRODUCTIVE),
        tip,
    )
    told = duration(lasted) if run.begin else "?"
    return f"attempt {run.attempt}", [block], f"{told}, {run.outcome}"


def _interruption(one: Interruption) -> list[str]:
    incident = one.incident
    title = f"Interruption of attempt {incident.attempt}: {incident.reason}"
    told = incident_words(incident, incident.fault_at)[1:] if incident.fault_at else ()
    when = [] if incident.fault_at is None else [markup.paragraph(clock(incident.fault_at), "soft")]
    parts = [markup.heading(title), *when]
    if one.begin is not None and one.end is not None and one.stages:
        whole = (one.end - one.begin).total_seconds() or 1.0
        begin = one.begin
        colors = {name: color for (name, _, _), color in zip(STAGES, STAGE_COLORS, strict=True)}
        meanings = {name: meaning for name, _, meaning in STAGES}
        rows = [
            (
                stage.name,
                [
                    markup.Block(
                        (stage.begin - begin).total_seconds() / whole,
                        stage.seconds / whole,
                        colors[stage.name],
                        f"{meanings[stage.name]}: {duration(stage.seconds)}",
                    )
                ],
                duration(stage.seconds) + (" so far" if stage.open else ""),
            )
            for stage in one.stages
        ]
        parts.append(markup.rows_picture(f"The stages of the {title.lower()}", rows))
    parts += [markup.paragraph(text) for sentence in told for text in sentence.splitlines() if text]
    return parts
