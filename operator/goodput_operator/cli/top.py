"""`kubectl goodput top`: the jobs that have lost most accelerator time first. Pure."""

from collections.abc import Iterable

from goodput_operator.cli.job import Job
from goodput_operator.cli.page import Column, Line, Page, Span, line, table
from goodput_operator.cli.words import amount, cause_of, share, style_of_goodput

_COLUMNS = (
    Column("JOB"),
    Column("PHASE"),
    Column("WORKERS", right=True),
    Column("GOODPUT", right=True),
    Column("LOST", right=True),
    Column("OF", right=True),
    Column("RESTARTS", right=True),
    Column("MOST OF IT"),
)
_NAMESPACE = Column("NAMESPACE")


def top_page(jobs: Iterable[Job], namespace: str | None) -> Page:
    """Return a table of the jobs, and what they have lost all together.

    Args:
        jobs: in any order.
        namespace: where they were looked for; None for everywhere, and then each job's is shown.
    """
    ordered = sorted(jobs, key=lambda job: (-job.ledger.lost, job.namespace, job.name))
    if not ordered:
        where = "" if namespace is None else f" in namespace {namespace}"
        return (line(f"There are no TrainingJobs{where}."),)
    everywhere = namespace is None
    columns = (_NAMESPACE, *_COLUMNS) if everywhere else _COLUMNS
    rows = ((*([job.namespace] if everywhere else []), *_cells(job)) for job in ordered)
    return (*table(columns, rows), Line(), _sum(ordered))


def _cells(job: Job) -> tuple[str | Span, ...]:
    ledger = job.ledger
    style = style_of_goodput(ledger.productive, ledger.settled)
    return (
        Span(job.name, "bold"),
        job.phase or "-",
        f"{job.training}/{job.wanted}",
        Span(share(ledger.productive, ledger.settled), style),
        amount(ledger.lost),
        amount(ledger.settled),
        str(job.restarts),
        biggest_cause(job),
    )


def biggest_cause(job: Job) -> str:
    """Return what has cost the job most, and its part of all that was lost."""
    losses = job.ledger.losses
    if not losses:
        return "-"
    name, cost = losses[0]
    return f"{name}, {share(cost, job.ledger.lost)}: {cause_of(name).words}"


def _sum(jobs: list[Job]) -> Line:
    settled = sum(job.ledger.settled for job in jobs)
    productive = sum(job.ledger.productive for job in jobs)
    unsettled = sum(job.ledger.unsettled for job in jobs)
    return line(
        f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}: ",
        Span(share(productive, settled), style_of_goodput(productive, settled)),
        f" of {amount(settled)} of accelerator time was productive, "
        f"{amount(settled - productive)} was lost; {amount(unsettled)} is not settled before the "
        "next checkpoint.",
    )
