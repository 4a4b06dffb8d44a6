"""Draw a dashboard as Grafana would lay it out: the same panels, queries and colours, as SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from e2e.support.prometheus import Prometheus
from monitoring.asking import Line, Shown, ask
from monitoring.dashboards import RECOVERY
from monitoring.panels import COLOURS, COLUMNS, Dashboard, Kind, Panel, Unit, laid_out

CELL_WIDTH, CELL_HEIGHT = 0.5, 0.34
"""Of one cell of the layout, in inches."""
MOST_LINES = 60
_LEFT = {Kind.BARS: 4.0, Kind.STATES: 2.2, Kind.TIMESERIES: 1.6, Kind.WATERFALL: 1.0}
"""Room for names, in cells."""
PALETTE = ("#3274D9", "#37872D", "#FF780A", "#8F3BB8", "#C4162A", "#B89B00", "#1F8A8A", "#808080")
STYLE = {
    "svg.fonttype": "none",  # letters stay letters, which is small and can be searched
    "svg.hashsalt": "goodput",  # the same picture is the same file
    "font.family": "sans-serif",
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.framealpha": 0.75,
    "legend.edgecolor": "none",
    "legend.fontsize": 6,
}


def draw(dashboard: Dashboard, prometheus: Prometheus, shown: Shown) -> str:
    """Return the dashboard's picture.

    Raises:
        ClusterError: Prometheus refused a query.
    """
    placed = laid_out(dashboard.panels)
    rows = max(place["y"] + place["h"] for _, place in placed)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * CELL_WIDTH, rows * CELL_HEIGHT))
        for panel, place in placed:
            lines = ask(prometheus, panel, shown)[:MOST_LINES]
            axes = figure.add_axes(_inside(panel, place, rows))
            axes.set_title(panel.title)
            if lines:
                _DRAWERS[panel.kind](axes, panel, lines, shown)
            else:
                axes.axis("off")
                axes.text(0.5, 0.5, "nothing in this time", ha="center", color="#606060")
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    # A hundredth of a point and a list of fonts are nothing that anybody sees.
    short = re.sub(r"(\d\.\d\d)\d+", r"\1", picture.getvalue())
    return re.sub(r"font-family: [^;\"]*sans-serif", "font-family: sans-serif", short)


def _inside(panel: Panel, place: dict[str, int], rows: int) -> tuple[float, float, float, float]:
    """Return where a panel's axes are in the figure, with room round them for names and scales."""
    left = _LEFT.get(panel.kind, 0.3)
    above, below = 1.1, 0.2 if panel.kind in (Kind.STAT, Kind.BARS, Kind.TABLE) else 1.2
    width, height = place["w"] - left - 0.5, place["h"] - above - below
    bottom = rows - place["y"] - place["h"] + below
    return (place["x"] + left) / COLUMNS, bottom / rows, width / COLUMNS, height / rows


def _timeseries(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    count = round((shown.end - shown.begin) / shown.step_seconds) + 1
    times = [shown.begin + number * shown.step_seconds for number in range(count)]
    moments = [at - shown.begin for at in times]
    if panel.stacked:
        lines = [line for line in lines if any(value for _, value in line.points)] or lines[:1]
        names, colours = [line.name for line in lines], _colours(lines)
        values = [_resampled(line, times, 0.0) for line in lines]
        axes.stackplot(moments, *values, labels=names, colors=colours, alpha=0.85, step="post")
    else:
        for line, colour in zip(lines, _colours(lines), strict=True):
            values_of_line = _resampled(line, times, math.nan)
            axes.step(
                moments, values_of_line, where="post", label=line.name, color=colour, linewidth=1
            )
    axes.margins(y=0.25)  # the legend has its place above
    axes.set_ylim(bottom=0, top=1.02 if panel.unit is Unit.SHARE else None)
    axes.set_xlim(moments[0], moments[-1])
    _time_axis(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _shown(value, panel.unit)))
    axes.legend(loc="upper left", ncols=2 if len(lines) > 4 else 1, reverse=panel.stacked)


def _states(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    del panel
    for place, line in enumerate(lines):
        spans = [(at - shown.begin, shown.step_seconds) for at, _ in line.points]
        axes.broken_barh(spans, (place - 0.4, 0.8), facecolor=PALETTE[place % len(PALETTE)])
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    _time_axis(axes)
    axes.set_xlim(0, shown.end - shown.begin)


def _time_axis(axes: Axes) -> None:
    """Count from the beginning: the time of day of a run is nothing to compare."""
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at / 60:.0f} min"))


def _bars(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    del shown
    values = [line.points[-1][1] for line in lines]
    places = range(len(lines))
    axes.barh(places, values, color=_colours(lines), height=0.7)
    axes.set_yticks(places, [line.name for line in lines])
    axes.set_ylim(max(len(lines), 4) - 0.5, -0.5)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            _shown(value, panel.unit),
            (value, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
        )
    axes.margins(x=0.25)


def _waterfall(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    del shown
    bar, part = panel.bars_and_parts
    bars = sorted({line.labels[bar] for line in lines}, key=int)
    values = {(line.labels[bar], line.labels[part]): line.points[-1][1] for line in lines}
    left = [0.0] * len(bars)
    for name in RECOVERY:
        widths = [values.get((one, name), 0.0) for one in bars]
        axes.barh(bars, widths, left=left, label=name, color=COLOURS[name], height=0.6)
        left = [sum(pair) for pair in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _shown(value, panel.unit)))
    axes.margins(x=0.12)
    axes.legend(loc="right")


def _stat(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    axes.axis("off")
    for place, line in enumerate(lines):
        value = line.points[-1][1]
        text = line.name if panel.named else _shown(value, panel.unit)
        if panel.unit is Unit.TIME_AGO:
            text = f"{_duration(shown.end - value / 1000)} ago"
        left = (place + 0.5) / len(lines)
        size = 16 if len(lines) < 3 else 11
        axes.text(left, 0.55, text, ha="center", va="center", fontsize=size, color="#37872D")
        axes.text(
            left, 0.08, "" if panel.named else line.name, ha="center", va="center", color="#606060"
        )


def _table(axes: Axes, panel: Panel, lines: list[Line], shown: Shown) -> None:
    del shown
    axes.axis("off")
    ordered = sorted(lines, key=lambda line: -line.points[-1][1])
    rows = [
        [line.labels.get("namespace", ""), line.labels.get("job", ""), _shown(value, panel.unit)]
        for line in ordered
        for _, value in line.points[-1:]
    ]
    table = axes.table(rows, colLabels=["namespace", "job", "value"], loc="upper center", edges="B")
    table.auto_set_font_size(value=False)
    table.set_fontsize(7)


_DRAWERS: dict[Kind, Callable[[Axes, Panel, list[Line], Shown], None]] = {
    Kind.TIMESERIES: _timeseries,
    Kind.STATES: _states,
    Kind.BARS: _bars,
    Kind.STAT: _stat,
    Kind.TABLE: _table,
    Kind.WATERFALL: _waterfall,
}


def _colours(lines: list[Line]) -> list[str]:
    return [
        COLOURS.get(line.labels.get("bucket", ""), PALETTE[place % len(PALETTE)])
        for place, line in enumerate(lines)
    ]


def _resampled(line: Line, times: list[float], missing: float) -> list[float]:
    known = {round(at): value for at, value in line.points}
    return [known.get(round(at), missing) for at in times]


def _shown(value: float, unit: Unit) -> str:
    match unit:
        case Unit.SHARE:
            return f"{100 * value:.0f} %"
        case Unit.SECONDS:
            return _duration(value)
        case Unit.MONEY:
            return f"${value:,.2f}" if value >= 1 else f"${value:.3f}"
        case Unit.BYTES:
            return f"{value / 2**20:.0f} MiB"
        case _:
            return f"{value:,.4g}"


def _duration(seconds: float) -> str:
    for length, letter in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {letter}"
    return f"{seconds:.3g} s"
