"""`kubectl goodput report`: a page for whoever pays for the accelerators. Pure.

The ledger's counter is read at the end of each slice of time. A job's counter never goes back,
so what a slice has cost is the difference to the newest value of before, whatever was missed
between, and the slices sum exactly to the whole. Only where a job was deleted and another of its
name created within one slice, Prometheus' own `increase` is taken, which reckons its edges.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from goodput_operator.cli import markup
from goodput_operator.cli.figures import COLUMNS, badput_rows, figures_of, percent, rows
from goodput_operator.cli.page import Column, Page, Span, bar, heading, line, table
from goodput_operator.cli.words import (
    CAUSES,
    PRODUCTIVE,
    cause_of,
    clock,
    share,
    style_of_goodput,
)

COUNTER = "goodput_accelerator_seconds_total"
RESTARTS = "goodput_job_restarts_total"
STEPS = "goodput_job_durable_step"
LABELS = ("namespace", "job", "bucket")
JOB_LABELS = ("namespace", "job")
MOST_SLICES = 31
MOST_JOBS = 20
LOOK_BACK = timedelta(days=1)
"""So far before the report begins, a job's counter is looked for."""

_STEPS = tuple(
    timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30, 60, 180, 360, 720, 1440)
)
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Key = tuple[str, ...]
Values = Mapping[Key, float]
Ask = Callable[[str, datetime, tuple[str, ...]], Values]
"""Asks Prometheus a query at a moment; returns values by those labels."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the time that a report is about."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> int:
        """Its length."""
        return round((self.end - self.begin).total_seconds())


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a job's steps took, as far as checkpoints show it.

    Attributes:
        steps: that were kept.
        seconds: of productive accelerator time, for them.
        best: of accelerator time for one step, in the job's best hour.
    """

    steps: float
    seconds: float
    best: float

    @property
    def ideal(self) -> float:
        """Accelerator-seconds that the steps would have taken at their best."""
        return self.steps * self.best


@dataclass(frozen=True, slots=True)
class Report:
    """Where the accelerators' time went, in milliseconds.

    Attributes:
        slices: the time, in parts, each with what it has cost by bucket.
        jobs: what each job (namespace, name) has cost by bucket.
        restarts: how often each job was started again.
        paces: how long the steps of those jobs took whose checkpoints tell of steps.
    """

    slices: tuple[tuple[Slice, Mapping[str, int]], ...]
    jobs: Mapping[Key, Mapping[str, int]]
    restarts: Mapping[Key, int]
    paces: Mapping[Key, Pace]

    @property
    def begin(self) -> datetime:
        """When the time of the report begins."""
        return self.slices[0][0].begin

    @property
    def end(self) -> datetime:
        """When it ends."""
        return self.slices[-1][0].end

    @property
    def buckets(self) -> dict[str, int]:
        """What all of it has cost by bucket, in the ledger's order."""
        return _ordered(_sum(cost for _, cost in self.slices))


def parse_since(text: str) -> timedelta:
    """Return a length of time such as 30d, 12h or 90m.

    Raises:
        ValueError: it is none, or shorter than five minutes, or longer than ten years.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise ValueError(f"{text!r} is no length of time; say it like 30d, 12h or 90m")
    length = timedelta(seconds=int(number) * _UNITS[unit])
    if not timedelta(minutes=5) <= length <= timedelta(days=3660):
        raise ValueError(f"{text} is too short or too long: from 5m to 3660d")
    return length


def slices_of(since: timedelta, now: datetime) -> tuple[Slice, ...]:
    """Return the time until now in at most 32 parts; they begin with the hour, or the day (UTC)."""
    end = now.astimezone(UTC).replace(microsecond=0)
    begin = end - since
    step = next((one for one in _STEPS if since / one <= MOST_SLICES), None)
    if step is None:
        step = timedelta(days=-(-since // (timedelta(days=1) * MOST_SLICES)))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    border = epoch + ((begin - epoch) // step + 1) * step
    borders = [begin]
    while border < end:
        borders.append(border)
        border += step
    borders.append(end)
    return tuple(Slice(one, other) for one, other in pairwise(borders))


def last_query(metric: str, labels: Sequence[str], seconds: int) -> str:
    """Return the query for a counter's newest value in so many seconds, of whichever replica."""
    return f"max by ({', '.join(labels)}) (last_over_time({metric}[{seconds}s]))"


def reset_query(metric: str, labels: Sequence[str], seconds: int) -> str:
    """Return the query for what was added to those counters that began anew in that time."""
    by = ", ".join(labels)
    return (
        f"max by ({by}) (increase({metric}[{seconds}s])) "
        f"and max by ({by}) (resets({metric}[{seconds}s])) > 0"
    )


def best_query(seconds: int) -> str:
    """Return the query for the accelerator time of a step in the best hour of so much time.

    Productive time and durable steps grow together, at each checkpoint; so one by the other is
    the same whatever part of the hour was scraped.
    """
    by, hour = ", ".join(JOB_LABELS), "1h"
    spent = f'max by ({by}) (delta({COUNTER}{{bucket="{PRODUCTIVE}"}}[{hour}])) > 0'
    done = f"max by ({by}) (delta({STEPS}[{hour}])) > 0"
    return f"min_over_time((({spent}) / ({done}))[{seconds}s:{min(seconds, 3600)}s])"


class _Paces:
    """Steps and the productive time that they took, from one slice's end to the next."""

    def __init__(self) -> None:
        self._steps: dict[Key, float] = {}
        self._added: dict[Key, tuple[float, float]] = {}
        self._best: dict[Key, float] = {}

    def add(self, steps: Values, spent: Mapping[Key, float], best: Values) -> None:
        """Add a slice: the newest steps at its end, what was productive in it, and its best."""
        for key, step in steps.items():
            before = self._steps.get(key)
            if before is not None and step > before:
                number, seconds = self._added.get(key, (0.0, 0.0))
                productive = spent.get((*key, PRODUCTIVE), 0.0)
                self._added[key] = (number + step - before, seconds + productive)
        self._steps.update(steps)
        for key, seconds in best.items():
            self._best[key] = min(seconds, self._best.get(key, seconds))

    def found(self) -> dict[Key, Pace]:
        """Return the pace of each job that has one. No best is worse than the average."""
        return {
            key: Pace(steps, seconds, min(self._best[key], seconds / steps))
            for key, (steps, seconds) in self._added.items()
            if seconds > 0 and key in self._best
        }


def gather(ask: Ask, slices: Sequence[Slice]) -> Report:
    """Ask what a report is made of."""
    before = max(LOOK_BACK, timedelta(seconds=slices[0].seconds))
    begin = slices[0].begin
    known = dict(ask(last_query(COUNTER, LABELS, round(before.total_seconds())), begin, LABELS))
    jobs: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    parts = []
    paces = _Paces()
    paces.add(
        ask(last_query(STEPS, JOB_LABELS, round(before.total_seconds())), begin, JOB_LABELS), {}, {}
    )
    for one in slices:
        newest = ask(last_query(COUNTER, LABELS, one.seconds), one.end, LABELS)
        resets = ask(reset_query(COUNTER, LABELS, one.seconds), one.end, LABELS)
        spent = added(known, newest, resets)
        known.update(newest)
        buckets: dict[str, float] = defaultdict(float)
        for (namespace, job, bucket), seconds in spent.items():
            buckets[bucket] += seconds
            jobs[namespace, job][bucket] += seconds
        steps = ask(last_query(STEPS, JOB_LABELS, one.seconds), one.end, JOB_LABELS)
        paces.add(steps, spent, ask(best_query(one.seconds), one.end, JOB_LABELS))
        parts.append((one, _milliseconds(buckets)))
    return Report(
        slices=tuple(parts),
        jobs={key: _milliseconds(cost) for key, cost in jobs.items()},
        restarts=_restarts(ask, Slice(begin, slices[-1].end), before),
        paces=paces.found(),
    )


def _restarts(ask: Ask, whole: Slice, before: timedelta) -> dict[Key, int]:
    look_back = round(before.total_seconds())
    known = ask(last_query(RESTARTS, JOB_LABELS, look_back), whole.begin, JOB_LABELS)
    newest = ask(last_query(RESTARTS, JOB_LABELS, whole.seconds), whole.end, JOB_LABELS)
    resets = ask(reset_query(RESTARTS, JOB_LABELS, whole.seconds), whole.end, JOB_LABELS)
    return {key: round(number) for key, number in added(known, newest, resets).items()}


def added(known: Values, newest: Values, resets: Values) -> dict[Key, float]:
    """Return what was added to each counter.

    Args:
        known: the newest value of before, where there is one.
        newest: the newest value in the time in question.
        resets: what was added to those that began anew in it.
    """
    spent = {}
    for key, value in newest.items():
        since = known.get(key, 0.0)
        grown = value - since if value >= since else value
        spent[key] = max(0.0, resets.get(key, grown))
    return spent


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, int]:
    return _ordered({bucket: round(value * 1000) for bucket, value in seconds.items()})


def _sum(costs: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for cost in costs:
        for bucket, milliseconds in cost.items():
            total[bucket] += milliseconds
    return total


def _ordered(buckets: Mapping[str, int]) -> dict[str, int]:
    places = {name: place for place, name in enumerate(CAUSES)}
    names = sorted(buckets, key=lambda name: (places.get(name, len(places)), name))
    return {name: buckets[name] for name in names if buckets[name] > 0}


# --- what it says -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """What an accelerator costs for an hour, and in which currency."""

    hourly: float
    currency: str = "$"

    def of(self, milliseconds: int) -> str:
        """Return what so much accelerator time costs."""
        return f"{self.currency}{self.hourly * milliseconds / 3_600_000:,.0f}"


def hours(milliseconds: int) -> str:
    """Return accelerator time in hours, as exactly as a reader wants it."""
    number = milliseconds / 3_600_000
    return f"{number:,.0f} h" if number >= 100 else f"{number:.3g} h"


def headline(report: Report, price: Price | None) -> str:
    """Return the one sentence that a reader takes away."""
    buckets = report.buckets
    whole, productive = sum(buckets.values()), buckets.get(PRODUCTIVE, 0)
    lost = whole - productive
    money = f", worth {price.of(lost)}," if price else ""
    return (
        f"{share(productive, whole)} of {hours(whole)} of accelerator time was productive; "
        f"{hours(lost)}{money} {'was' if lost < 7_200_000 else 'were'} not."
    )


def _losses(buckets: Mapping[str, int]) -> list[tuple[str, int]]:
    lost = [(name, cost) for name, cost in buckets.items() if name != PRODUCTIVE]
    return sorted(lost, key=lambda one: -one[1])


def _worst_jobs(report: Report) -> list[tuple[Key, Mapping[str, int], int, int]]:
    """Return (job, buckets, all, lost) of the jobs, those that have lost most first."""
    found = []
    for key, buckets in report.jobs.items():
        whole = sum(buckets.values())
        found.append((key, buckets, whole, whole - buckets.get(PRODUCTIVE, 0)))
    return sorted(found, key=lambda one: (-one[3], one[0]))


def figure_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return the published figures of all jobs together: name, value, meaning.

    Program goodput, and MPG with it, is of those jobs whose steps can be seen.
    """
    known = report.paces
    ideal = sum(one.ideal for one in known.values())
    seconds = sum(one.seconds for one in known.values())
    program = Fraction(ideal) / Fraction(seconds) if seconds > 0 else None
    whole = rows(figures_of(report.buckets, program), _yardstick(report))
    if len(known) == len(report.jobs):
        return whole
    seen = figures_of(_sum(report.jobs[key] for key in known), program)
    return [
        *whole[:-1],
        ("MPG", percent(seen.mpg), "of those jobs: scheduling × runtime × program"),
    ]


def _yardstick(report: Report) -> str:
    words = "ideal time, at a job's own best hour ÷ productive"
    if len(report.paces) == len(report.jobs):
        return words
    return f"{words}: of {len(report.paces)} of {len(report.jobs)} jobs"


def report_page(report: Report, price: Price | None) -> Page:
    """Return the report for a terminal."""
    buckets = report.buckets
    whole, productive = sum(buckets.values()), buckets.get(PRODUCTIVE, 0)
    lost = whole - productive
    causes = [
        (name, share(cost, lost), hours(cost), cause_of(name).words)
        for name, cost in _losses(buckets)
    ]
    return (
        line(Span("Where the accelerators' time went", "bold")),
        line(f"{clock(report.begin)} to {clock(report.end)} UTC, {len(report.jobs)} jobs"),
        line(),
        line(*bar(productive / whole if whole else 0.0, style_of_goodput(productive, whole))),
        line(headline(report, price)),
        *heading("What was lost, to what"),
        *table(_CAUSE_COLUMNS, causes),
        *heading("What others call it"),
        *table(COLUMNS, figure_rows(report))[1:],
        *heading("The jobs that have lost most"),
        *table(
            [Column(title, place > 1) for place, title in enumerate(_JOB_TITLES)], _rows(report)
        ),
    )


_CAUSE_COLUMNS = (
    Column("CAUSE"),
    Column("OF LOSS", right=True),
    Column("TIME", right=True),
    Column("WHAT IT IS"),
)
_JOB_TITLES = ("NAMESPACE", "JOB", "GOODPUT", "LOST", "OF", "RESTARTS", "MOST OF IT")


def _rows(report: Report) -> list[tuple[str, ...]]:
    rows = []
    for key, buckets, whole, lost in _worst_jobs(report)[:MOST_JOBS]:
        losses = _losses(buckets)
        rows.append(
            (
                *key,
                share(whole - lost, whole),
                hours(lost),
                hours(whole),
                f"{report.restarts.get(key, 0)}",
                f"{losses[0][0]} {share(losses[0][1], lost)}" if losses else "-",
            )
        )
    return rows


def report_html(report: Report, price: Price | None) -> str:
    """Return the report as one HTML page with pictures."""
    buckets = report.buckets
    whole = sum(buckets.values())
    body = [
        markup.heading("Where the accelerators' time went", 1),
        markup.paragraph(
            f"{clock(report.begin)} to {clock(report.end)} UTC · {len(report.jobs)} training jobs "
            f"· {sum(report.restarts.values())} restarts",
            "soft",
        ),
        markup.paragraph(headline(report, price), "lead"),
        _whole_picture(buckets),
        markup.legend(buckets),
        markup.heading("What was lost, to what, and what helps"),
        _loss_picture(buckets, whole),
        _remedies(buckets, price),
        markup.heading("When"),
        _time_picture(report),
        markup.heading(f"The jobs that have lost most{_of_all(report)}"),
        _jobs_picture(report),
        markup.grid([title.capitalize() for title in _JOB_TITLES], _rows(report), (2, 3, 4, 5)),
        *_by_namespace(report, price),
        markup.heading("What others call it"),
        markup.grid(("Figure", "", "What it is"), figure_rows(report), (1,)),
        markup.paragraph("The badput types of Google's ml-goodput-measurement:"),
        markup.grid(("Badput", "Of all time"), badput_rows(buckets), (1,)),
        markup.paragraph(_FOOTNOTE, "soft"),
    ]
    return markup.document("Where the accelerators' time went", body)


_FOOTNOTE = (
    "Each second × accelerator from a job's creation to its end is in exactly one bucket. "
    "Productive is training that a checkpoint has kept; work that no checkpoint covers yet is not "
    "in this page. Of jobs without accelerators, workers are counted. Source: Prometheus, "
    f"{COUNTER}."
)


def _of_all(report: Report) -> str:
    return f" ({MOST_JOBS} of {len(report.jobs)})" if len(report.jobs) > MOST_JOBS else ""


def _blocks(buckets: Mapping[str, int], whole: int) -> list[markup.Block]:
    blocks, at = [], 0
    for name, cost in buckets.items():
        tip = f"{name}: {hours(cost)}, {share(cost, sum(buckets.values()))}"
        blocks.append(markup.Block(at / whole, cost / whole, markup.color_of(name), tip))
        at += cost
    return blocks


def _whole_picture(buckets: Mapping[str, int]) -> str:
    whole = sum(buckets.values())
    row = ("all of it", _blocks(buckets, whole) if whole else [], hours(whole))
    return markup.rows_picture("All accelerator time by cause", [row])


def _loss_picture(buckets: Mapping[str, int], whole: int) -> str:
    losses = _losses(buckets)
    most = losses[0][1] if losses else 1
    rows = [
        (
            name,
            [markup.Block(0, cost / most, markup.color_of(name), cause_of(name).words)],
            f"{hours(cost)}, {share(cost, whole)} of all",
        )
        for name, cost in losses
    ]
    return markup.rows_picture("Lost accelerator time by cause", rows)


def _remedies(buckets: Mapping[str, int], price: Price | None) -> str:
    titles = ["Cause", "Time", *(["Money"] if price else []), "What it is", "What helps"]
    rows = [
        [
            name,
            hours(cost),
            *([price.of(cost)] if price else []),
            cause_of(name).words,
            cause_of(name).remedy or "–",
        ]
        for name, cost in _losses(buckets)
    ]
    return markup.grid(titles, rows, (1, 2) if price else (1,))


def _time_picture(report: Report) -> str:
    days = all(one.seconds >= 86_400 for one, _ in report.slices[1:-1]) and len(report.slices) > 2
    columns = [
        (
            one.begin.strftime("%b %d" if days else "%d. %H:%M"),
            [
                (
                    markup.color_of(name),
                    cost / 3_600_000,
                    f"{clock(one.begin)}: {name} {hours(cost)}",
                )
                for name, cost in buckets.items()
            ],
        )
        for one, buckets in report.slices
    ]
    return markup.columns_picture("Accelerator-hours over time by cause", columns, "h")


def _jobs_picture(report: Report) -> str:
    worst = _worst_jobs(report)[:MOST_JOBS]
    most = max([whole for _, _, whole, _ in worst] or [1]) or 1
    rows = [
        (
            key[1],
            _blocks(buckets, most),
            f"{share(whole - lost, whole)} of {hours(whole)}",
        )
        for key, buckets, whole, lost in worst
        if whole
    ]
    return markup.rows_picture("Accelerator time of each job by cause", rows)


def _by_namespace(report: Report, price: Price | None) -> list[str]:
    sums: dict[str, list[Mapping[str, int]]] = defaultdict(list)
    for (namespace, _), buckets in report.jobs.items():
        sums[namespace].append(buckets)
    if len(sums) < 2:
        return []
    found = [(name, _sum(costs), len(costs)) for name, costs in sums.items()]
    found.sort(key=lambda one: -(sum(one[1].values()) - one[1].get(PRODUCTIVE, 0)))
    rows = []
    for name, buckets, number in found:
        whole, productive = sum(buckets.values()), buckets.get(PRODUCTIVE, 0)
        money = [price.of(whole - productive)] if price else []
        rows.append(
            [
                name,
                str(number),
                share(productive, whole),
                hours(whole - productive),
                hours(whole),
                *money,
            ]
        )
    titles = ["Namespace", "Jobs", "Goodput", "Lost", "Of", *(["Lost money"] if price else [])]
    return [markup.heading("By namespace"), markup.grid(titles, rows, range(1, len(titles)))]
