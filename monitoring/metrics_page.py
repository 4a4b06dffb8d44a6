"""docs/metrics.md: every metric, from the code that shows it, and how to have it scraped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.core import Metric

from goodput_operator.api.status import Bucket
from goodput_operator.cli.words import PHASES
from goodput_operator.metrics import JobLabels, Metrics, Sources
from goodput_operator.metrics.jobs import CONDITIONS, FAMILIES, MAX_SERIES, WORKER_STATES
from monitoring.rules import LEVELS, NOT_HELD, Times, rule_file

_TEXT = Path(__file__).with_name("metrics.md")


def text() -> str:
    """Return the page."""
    times = Times()
    parts = {
        "most": str(MAX_SERIES),
        "jobs": _table(
            ("metric", "type", "further labels", "meaning"),
            ((f"`{one.name}`", one.kind, _coded(one.labels), one.help) for one in FAMILIES),
        ),
        "buckets": _coded(bucket.value for bucket in Bucket),
        "phases": _coded(filter(None, PHASES)),
        "types": _coded(CONDITIONS),
        "states": _coded((*WORKER_STATES, "spare")),
        "cluster": _families("goodput_cluster_"),
        "operator": _families("goodput_operator_"),
        "slice": times.slice.replace("m", " minutes"),
        "recorded": _recorded(times),
        "not_held": " and ".join(_coded(NOT_HELD.split("|")).split(", ")),
        "alerts": _alerts(times),
    }
    page = _TEXT.read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace(f"<<{name}>>", part)
    return page


def _families(prefix: str) -> str:
    rows = (
        (f"`{_name(one)}`", one.type, _coded(_labels(one)), one.documentation)
        for one in _collected()
        if one.name.startswith(prefix)
    )
    return _table(("metric", "type", "labels", "meaning"), sorted(rows))


def _collected() -> Iterator[Metric]:
    """Yield the families of a leader that has seen one of everything."""
    sources = Sources(
        jobs=lambda: 1,
        queue_depth=lambda: 0,
        watch_ages_seconds=lambda: {"pods": 0.0},
        api_requests=lambda: {("get", "pods", 200): 1},
        report_results=lambda: {"Accepted": 1},
        agents=lambda: 1,
        accelerators=lambda: {"nvidia.com/gpu": (1, 1)},
        now=lambda: datetime.now(UTC),
    )
    metrics = Metrics(sources, JobLabels())
    metrics.lead(leading=True)
    metrics.count_pass("ok", 0.0)
    yield from metrics.collect()


def _name(family: Metric) -> str:
    endings = {"counter": "_total", "info": "_info"}
    return family.name + endings.get(family.type, "")


def _labels(family: Metric) -> list[str]:
    return sorted({name for one in family.samples for name in one.labels} - {"le"})


def _recorded(times: Times) -> str:
    windows = ", ".join(times.windows)
    delta = "goodput_accelerator_seconds:delta"
    rows = [
        ("`goodput:target:ratio`", "", "The target of the chart's values."),
        ("`goodput:accelerator_hour:price`", "`accelerator`", "The prices of the chart's values."),
        (
            f"`job:{delta}`",
            "`namespace`, `job`, `queue`, `team`, `accelerator`, `bucket`",
            "Seconds that a slice has added.",
        ),
        *(
            (f"`{level}:{delta}`", _coded([label, "bucket"] if label else ["bucket"]), "The same.")
            for level, label in LEVELS.items()
        ),
        ("`team:goodput_cost:delta`", "`team`, `bucket`", "What they have cost."),
    ]
    for level, label in {"job": "namespace, job", **LEVELS}.items():
        labels = _coded(label.split(", ") if label else [])
        rows.append(
            (
                f"`{level}:goodput:ratio_W`, `{level}:goodput_held:ratio_W`",
                labels,
                f"Goodput over the window W: {windows}.",
            )
        )
    return _table(("series", "labels", "meaning"), rows)


def _alerts(times: Times) -> str:
    rules = [rule for group in rule_file(times)["groups"] for rule in group["rules"]]
    rows = (
        (
            f"[{rule['alert']}](runbook.md#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            rule.get("for", ""),
        )
        for rule in rules
        if "alert" in rule
    )
    return _table(("alert", "severity", "after"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _coded(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
