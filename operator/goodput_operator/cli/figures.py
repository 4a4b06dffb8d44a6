"""The published figures of a job, from what its status says. Pure.

The formulas are those of `ledger.derived`. What cannot be known is None, and shown as unknown:
no figure here is a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from goodput_operator.cli.job import Job, Work
from goodput_operator.cli.page import Column, Page, Span, fitting_table, heading
from goodput_operator.ledger import derived
from goodput_operator.observe.resources import QuantityError, accelerators, pod_requests

UNKNOWN: Final = "unknown"
TERA: Final = 10**12


@dataclass(frozen=True, slots=True)
class Figures:
    """What others call it. Shares are of 1.

    Attributes:
        goodput: productive ÷ all settled time.
        ettr: Meta's.
        ettr_without_queue: Meta's since the job was placed, which is ByteRobust's cumulative one.
        scheduling: MPG's first factor.
        runtime: MPG's second factor.
        program: MPG's third factor.
        badput: the shares of Google's badput types.
    """

    goodput: Fraction | None
    ettr: Fraction | None
    ettr_without_queue: Fraction | None
    scheduling: Fraction | None
    runtime: Fraction | None
    program: Fraction | None
    badput: Mapping[str, Fraction]

    @property
    def mpg(self) -> Fraction | None:
        """Google's ML Productivity Goodput."""
        return derived.mpg(self.scheduling, self.runtime, self.program)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How much a job gets done.

    Attributes:
        unit: what is counted: tokens or samples.
        now: by the second, at the present pace.
        kept: by the second and accelerator, of what checkpoints keep, in the productive time.
        utilization: the share of the accelerators' peak at the present pace (MFU).
    """

    unit: str
    now: Fraction | None
    kept: Fraction | None
    utilization: Fraction | None


def figures_of(buckets: Mapping[str, int], program: Fraction | None) -> Figures:
    """Return the figures of a ledger's buckets.

    Args:
        buckets: accelerator time by where it went.
        program: MPG's third factor, for which a ledger is not enough.
    """
    return Figures(
        goodput=derived.goodput(buckets),
        ettr=derived.ettr(buckets),
        ettr_without_queue=derived.ettr(buckets, queue=False),
        scheduling=derived.scheduling_goodput(buckets),
        runtime=derived.runtime_goodput(buckets),
        program=program,
        badput=derived.badput(buckets),
    )


def figures_of_job(job: Job) -> Figures:
    """Return a job's figures; its program goodput is of the accelerators' peak."""
    return figures_of(job.ledger.buckets, _program(job))


def useful_steps(job: Job) -> int | None:
    """Return how many steps the productive time was for: those beyond where the job began.

    Of a tracker file alone nobody knows where that was.
    """
    if not job.verified:
        return None
    done = job.step if job.holds("Succeeded") else job.durable_step
    if done is None or job.origin_step is None or done < job.origin_step:
        return None
    return done - job.origin_step


def _program(job: Job) -> Fraction | None:
    steps, flops, peak = useful_steps(job), _step_flops(job.work), _peak_flops(job.work)
    if not steps or flops is None or peak is None:
        return None
    # An ideal step takes flops ÷ peak accelerator-seconds; the ledger counts milliseconds.
    return derived.program_goodput(steps, flops * 1000, job.ledger.productive * peak)


def _step_flops(work: Work) -> int | None:
    if work.tokens is None or work.flops_per_token is None:
        return None
    return work.tokens * work.flops_per_token


def _peak_flops(work: Work) -> int | None:
    return None if work.peak_teraflops is None else work.peak_teraflops * TERA


def throughput_of(job: Job) -> Throughput | None:
    """Return a job's throughput; None where nobody says what is in a step."""
    work = job.work
    amount = work.tokens or work.samples
    if amount is None:
        return None
    pace = (job.step_milliseconds or 0) if job.phase == "Running" else 0
    steps = useful_steps(job)
    return Throughput(
        unit="samples" if work.tokens is None else "tokens",
        now=derived.throughput(amount * 1000, pace),
        kept=derived.throughput(amount * 1000 * steps, job.ledger.productive) if steps else None,
        utilization=_utilization(job, pace),
    )


def _utilization(job: Job, pace: int) -> Fraction | None:
    flops, peak = _step_flops(job.work), _peak_flops(job.work)
    accelerators = _accelerators_of_worker(job)
    if flops is None or peak is None or accelerators is None:
        return None
    return derived.model_flops_utilization(flops * 1000, pace, job.training * accelerators, peak)


def _accelerators_of_worker(job: Job) -> int | None:
    """Return how many the ledger counts for a worker; None where its template cannot be read."""
    try:
        return accelerators(pod_requests(job.pod_spec)) or 1
    except QuantityError:
        return None


# --- text and JSON ----------------------------------------------------------------------


def percent(figure: Fraction | None) -> str:
    """Return a share in per cent, cut and not rounded."""
    if figure is None:
        return UNKNOWN
    return f"{figure.numerator * 1000 // figure.denominator / 10:.1f}%"


def rows(figures: Figures, ideal: str) -> list[tuple[str, str, str]]:
    """Return (figure, its value, what it is) of each.

    Args:
        figures: what to tell of.
        ideal: by which yardstick the program goodput is, or why it is unknown.
    """
    return [
        ("ETTR", percent(figures.ettr), "training ÷ time that was not suspended (Meta)"),
        (
            "ETTR without queue",
            percent(figures.ettr_without_queue),
            "the same since it had its machines (ByteRobust)",
        ),
        ("scheduling goodput", percent(figures.scheduling), "time allocated ÷ time wanted"),
        ("runtime goodput", percent(figures.runtime), "productive ÷ time allocated"),
        ("program goodput", percent(figures.program), ideal),
        ("MPG", percent(figures.mpg), "the product of these three (Google)"),
    ]


COLUMNS: Final = (Column("FIGURE"), Column("", right=True), Column("WHAT IT IS"))


def figure_lines(job: Job, room: int | None = None) -> Page:
    """Return a job's figures for a terminal with so much room; none of no time."""
    if not job.ledger.settled:
        return ()
    figures = figures_of_job(job)
    told = rows(figures, _yardstick(job))
    shown = [(name, _value(value), what) for name, value, what in told]
    return (
        *heading("What others call it"),
        *fitting_table(COLUMNS, [*shown, *_throughput_rows(job)], room)[1:],
    )


def _value(text: str) -> Span:
    return Span(text, "dim" if text == UNKNOWN else "plain")


def _yardstick(job: Job) -> str:
    if _step_flops(job.work) is not None:
        return "ideal time at the peak of FLOPs ÷ productive"
    return "needs spec.work.flopsPerToken"


def _throughput_rows(job: Job) -> list[tuple[str | Span, ...]]:
    found = throughput_of(job)
    if found is None:
        return [("throughput", _value(UNKNOWN), "needs spec.work.tokensPerStep"), _mfu(None)]
    return [
        ("throughput", _value(_amount(found.now)), f"{found.unit}/s at this pace"),
        (
            "kept throughput",
            _value(_amount(found.kept)),
            f"{found.unit}/s of an accelerator, while productive",
        ),
        _mfu(found),
    ]


def _mfu(found: Throughput | None) -> tuple[str | Span, ...]:
    utilization = None if found is None else found.utilization
    what = "part of the peak of FLOPs at this pace (PaLM)"
    return ("MFU", _value(percent(utilization)), what)


def _amount(figure: Fraction | None) -> str:
    if figure is None:
        return UNKNOWN
    return f"{float(figure):,.1f}" if figure < 100 else f"{round(figure):,}"


def as_json(job: Job) -> dict[str, Any]:
    """Return a job's figures under stable names; null is unknown, shares are of 1."""
    figures, found = figures_of_job(job), throughput_of(job)
    return {
        "goodput": _number(figures.goodput),
        "ettr": _number(figures.ettr),
        "ettrWithoutQueue": _number(figures.ettr_without_queue),
        "schedulingGoodput": _number(figures.scheduling),
        "runtimeGoodput": _number(figures.runtime),
        "programGoodput": _number(figures.program),
        "mpg": _number(figures.mpg),
        "badput": {kind: _number(share) for kind, share in figures.badput.items()},
        "throughput": None
        if found is None
        else {
            "unit": found.unit,
            "perSecond": _number(found.now),
            "keptPerAcceleratorSecond": _number(found.kept),
        },
        "modelFlopsUtilization": None if found is None else _number(found.utilization),
    }


def _number(figure: Fraction | None) -> float | None:
    return None if figure is None else round(float(figure), 6)


def badput_rows(buckets: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return Google's badput types with their shares of all time, the greatest first."""
    shares = derived.badput(buckets).items()
    return [(kind, percent(share)) for kind, share in sorted(shares, key=lambda one: -one[1])]
