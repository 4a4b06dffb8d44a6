"""The dashboards are what Grafana reads: its own schema knows every field of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as Schema

from goodput_operator.api.status import Bucket
from goodput_operator.metrics.jobs import FAMILIES
from monitoring.__main__ import CHART
from monitoring.dashboards import dashboards
from monitoring.panels import COLOURS, COLUMNS, Dashboard, Kind, Panel, Query, laid_out
from monitoring.rules import rule_file

FILES = sorted((CHART / "dashboards").glob("*.json"))
OF_THE_PROMETHEUS_SOURCE = {"titleFormat", "textFormat", "step"}
"""Fields of an annotation's query, which are not the dashboard's own."""


def lost(there: Any, back: Any, path: str = "") -> list[str]:
    """Return what of a value did not come back."""
    if isinstance(there, dict) and isinstance(back, dict):
        return [
            word
            for name, value in there.items()
            for word in (
                lost(value, back[name], f"{path}.{name}") if name in back else [f"{path}.{name}"]
            )
        ]
    if isinstance(there, list) and isinstance(back, list) and len(there) == len(back):
        pairs = enumerate(zip(there, back, strict=True))
        return [word for place, pair in pairs for word in lost(*pair, f"{path}[{place}]")]
    return [] if there == back else [f"{path}: {there!r} != {back!r}"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_grafanas_schema_knows_every_field(file: Path) -> None:
    plugins.register_default_plugins()
    there = json.loads(file.read_text())
    back = json.loads(json.dumps(Schema.from_json(there), cls=JSONEncoder))
    unknown = [one for one in lost(there, back) if not one.startswith(".annotations.list")]
    assert not unknown
    foreign = {one.rpartition(".")[2] for one in lost(there, back)}
    assert foreign <= OF_THE_PROMETHEUS_SOURCE


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda one: one.uid)
def test_no_panel_lies_on_another_and_all_are_explained(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel, place in laid_out(dashboard.panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells
        assert panel.about.endswith(".")
        assert panel.queries
    titles = [panel.title for panel in dashboard.panels]
    assert len(titles) == len(set(titles))


def test_every_query_asks_for_what_the_operator_shows_or_a_rule_records() -> None:
    recorded = {
        rule["record"]
        for group in rule_file()["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    shown = {family.name for family in FAMILIES}
    own = re.compile("goodput_(operator|cluster)_")
    for dashboard in dashboards():
        for panel in dashboard.panels:
            for query in panel.queries:
                asked = set(re.findall(r"[a-z]*:?goodput[\w:]*", query.expression))
                known = recorded | shown
                assert {one for one in asked if not own.match(one)} <= known, panel.title


def test_a_panel_that_does_not_fit_begins_a_row_below_the_highest() -> None:
    def panel(width: int, height: int) -> Panel:
        return Panel("x", Kind.STAT, (Query("up"),), "X.", width=width, height=height)

    places = [place for _, place in laid_out((panel(10, 4), panel(10, 9), panel(8, 2)))]
    assert [(one["x"], one["y"]) for one in places] == [(0, 0), (10, 0), (0, 9)]


def test_every_bucket_has_its_colour() -> None:
    assert {bucket.value for bucket in Bucket} <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)
