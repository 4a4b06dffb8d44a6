"""Dashboards as values: what a panel asks, and how Grafana and our own pictures show it.

`grafana` writes the JSON that Grafana imports (its classic schema, which every Grafana since 9
reads); `monitoring.draw` makes a picture of the same values. A builder library would be ten times
what is needed here, so there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 39
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

COLOURS = {
    "productive": "#37872D",
    "queued": "#8AB8FF",
    "scheduling": "#5794F2",
    "pod_start": "#3274D9",
    "startup": "#1F60C4",
    "restore": "#B877D9",
    "checkpoint_stall": "#8F3BB8",
    "data_stall": "#CA95E5",
    "straggler": "#FADE2A",
    "degraded": "#F2CC0C",
    "spare": "#C0D8FF",
    "lost_work": "#C4162A",
    "detection": "#FFB357",
    "recovery": "#FA6400",
    "suspended": "#CCCCDC",
    "unknown": "#808080",
}
"""Of each bucket, the same everywhere: green is good, blue waits, red is lost."""


class Kind(StrEnum):
    """The panels that we use, by Grafana's names."""

    TIMESERIES = "timeseries"
    STAT = "stat"
    BARS = "bargauge"
    TABLE = "table"
    WATERFALL = "barchart"
    """A bar for each value of the first label of the legend, in parts by the second's."""
    STATES = "state-timeline"


class Unit(StrEnum):
    """The units that we use, by Grafana's names."""

    NUMBER = "short"
    SECONDS = "s"
    SHARE = "percentunit"
    PER_SECOND = "ops"
    BYTES = "bytes"
    TIME_AGO = "dateTimeFromNow"
    MONEY = "currencyUSD"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and how each of its series is called: `{{label}}` stands for a label."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        about: what it shows and how to read it, a sentence or two.
        width: in 24ths of the page.
        stacked: the series are parts of a whole.
        named: the name is what is shown, not the value.
    """

    title: str
    kind: Kind
    queries: tuple[Query, ...]
    about: str
    unit: Unit = Unit.NUMBER
    width: int = 12
    height: int = 8
    stacked: bool = False
    named: bool = False

    @property
    def instant(self) -> bool:
        """Whether its queries are asked once, at the end of the time shown."""
        return self.kind in (Kind.STAT, Kind.BARS, Kind.TABLE, Kind.WATERFALL)

    @property
    def bars_and_parts(self) -> tuple[str, str]:
        """The labels that say to which bar of a waterfall a series belongs, and which part it is.

        Raises:
            ValueError: the legend does not name two.
        """
        bar, part = re.findall(r"\{\{(\w+)\}\}", self.queries[0].legend)
        return bar, part


@dataclass(frozen=True, slots=True)
class Variable:
    """What the reader chooses: a label's values, of the series that match."""

    name: str
    query: str
    multi: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `uid` is its address, and never changes."""

    uid: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    span: str = "now-24h"
    tags: tuple[str, ...] = field(default=("goodput",))


def grafana(dashboard: Dashboard) -> Json:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "timezone": "browser",
        "time": {"from": dashboard.span, "to": "now"},
        "templating": {
            "list": [_source_variable(), *(_variable(one) for one in dashboard.variables)]
        },
        "annotations": {"list": [_annotation(*one) for one in dashboard.annotations]},
        "links": [
            {
                "type": "dashboards",
                "title": "Goodput",
                "tags": list(dashboard.tags),
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": [
            _panel(number, panel, place)
            for number, (panel, place) in enumerate(laid_out(dashboard.panels), start=1)
        ],
    }


def laid_out(panels: tuple[Panel, ...]) -> list[tuple[Panel, Json]]:
    """Return each panel with its place: from left to right, and a new row when one is full."""
    placed, x, y, row = [], 0, 0, 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, row = 0, y + row, 0
        placed.append((panel, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
        x, row = x + panel.width, max(row, panel.height)
    return placed


def _panel(number: int, panel: Panel, place: Json) -> Json:
    custom: Json = {}
    if panel.kind is Kind.TIMESERIES:
        custom = {
            "lineWidth": 1,
            "fillOpacity": 70 if panel.stacked else 10,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    elif panel.kind in (Kind.STATES, Kind.WATERFALL):
        custom = {"fillOpacity": 80, "lineWidth": 0}
    return {
        "id": number,
        "type": str(panel.kind),
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(panel, place, query) for place, query in enumerate(panel.queries)],
        "fieldConfig": {
            "defaults": {"unit": str(panel.unit), "min": 0, "custom": custom}
            | ({"max": 1} if panel.unit is Unit.SHARE else {}),
            "overrides": [_coloured(*one) for one in COLOURS.items()] if _by_bucket(panel) else [],
        },
        "options": _options(panel),
        **({"transformations": [_matrix(panel)]} if panel.kind is Kind.WATERFALL else {}),
    }


def _target(panel: Panel, place: int, query: Query) -> Json:
    return {
        "refId": chr(ord("A") + place),
        "datasource": SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "instant": panel.instant,
        "range": not panel.instant,
        "format": "table" if panel.kind in (Kind.TABLE, Kind.WATERFALL) else "time_series",
    }


def _matrix(panel: Panel) -> Json:
    bar, part = panel.bars_and_parts
    options = {"rowField": bar, "columnField": part, "valueField": "Value"}
    return {"id": "groupingToMatrix", "options": options}


def _options(panel: Panel) -> Json:
    legend = {"displayMode": "list", "placement": "right", "showLegend": True, "calcs": []}
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case Kind.TIMESERIES:
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case Kind.STATES:
            return {"legend": legend, "mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
        case Kind.STAT:
            mode = {"textMode": "name" if panel.named else "auto"}
            return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "none", **mode}
        case Kind.BARS:
            return {"reduceOptions": reduced, "orientation": "horizontal", "displayMode": "basic"}
        case Kind.WATERFALL:
            bars = {"xField": "\\".join(panel.bars_and_parts), "orientation": "horizontal"}
            return {"legend": legend, "stacking": "normal", "showValue": "never", **bars}
        case Kind.TABLE:
            return {"showHeader": True, "sortBy": [{"displayName": "Value", "desc": True}]}


def _by_bucket(panel: Panel) -> bool:
    return any("{{bucket}}" in query.legend for query in panel.queries)


def _coloured(bucket: str, colour: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": bucket},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _source_variable() -> Json:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
    }


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": variable.multi,
        "includeAll": variable.multi,
        **({"allValue": ".*"} if variable.multi else {}),
    }


def _annotation(name: str, expression: str) -> Json:
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": expression,
        "titleFormat": name,
        "textFormat": "{{namespace}}/{{job}}",
        "step": "30s",
    }
