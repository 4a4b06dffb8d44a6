"""Ask a Prometheus what a panel asks, with Grafana's variables filled in as Grafana does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.support.prometheus import Prometheus
from monitoring.panels import Panel, Query


@dataclass(frozen=True, slots=True)
class Shown:
    """The time that a dashboard shows, and what its reader has chosen.

    Attributes:
        begin, end: in seconds since the epoch.
        step_seconds: between two points of a line.
        scrape_seconds: how often the operator is scraped.
    """

    begin: float
    end: float
    step_seconds: float
    scrape_seconds: float
    chosen: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a panel: what it is called, and its points."""

    name: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


def ask(prometheus: Prometheus, panel: Panel, shown: Shown) -> list[Line]:
    """Return every series that a panel shows.

    Raises:
        ClusterError: Prometheus refused a query.
    """
    return [line for query in panel.queries for line in _ask(prometheus, panel, query, shown)]


def _ask(prometheus: Prometheus, panel: Panel, query: Query, shown: Shown) -> list[Line]:
    expression = filled(query.expression, shown)
    if panel.instant:
        found = prometheus.query(expression, shown.end)
        return [_line(query, one["metric"], [one["value"]]) for one in found]
    found = prometheus.query_range(expression, shown.begin, shown.end, shown.step_seconds)
    return [_line(query, one["metric"], one["values"]) for one in found]


def filled(expression: str, shown: Shown) -> str:
    """Return the expression without variables."""
    rate_seconds = max(shown.step_seconds + shown.scrape_seconds, 4 * shown.scrape_seconds)
    values = {
        "__range": f"{int(shown.end - shown.begin)}s",
        "__rate_interval": f"{int(rate_seconds)}s",
        "__interval": f"{int(shown.step_seconds)}s",
        **shown.chosen,
    }
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


def _line(query: Query, labels: dict[str, str], points: list[list[Any]]) -> Line:
    named = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend)
    name = named or ", ".join(value for label, value in sorted(labels.items()) if label[0] != "_")
    return Line(name, labels, tuple((float(at), float(value)) for at, value in points))
