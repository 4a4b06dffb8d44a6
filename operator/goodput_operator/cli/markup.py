"""HTML in one file and pictures as inline SVG: no script, nothing fetched. Pure.

Everything that comes from outside goes through `escape`. A reader's own choice of light or dark
is followed; every picture says in words what it shows, too.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from goodput_operator.cli.page import clean
from goodput_operator.cli.words import CAUSES

PLOT_WIDTH: Final = 920
ROW_HEIGHT: Final = 22
CHARACTER_WIDTH: Final = 7
"""What a character of a picture's text is wide at most, on average."""
MOST_NOTE: Final = 320

COLORS: Final[Mapping[str, str]] = dict(
    zip(
        CAUSES,
        (
            "#2f9e44",  # productive
            "#adb5bd",
            "#868e96",
            "#4dabf7",
            "#1c7ed6",
            "#22b8cf",
            "#845ef7",
            "#cc5de8",
            "#f783ac",
            "#fcc419",
            "#d0bfff",
            "#e03131",  # lost work
            "#ff922b",
            "#d9480f",
            "#ced4da",
            "#495057",
        ),
        strict=True,
    )
)
"""The one colour of each bucket in every picture: green is productive, red and orange is loss
by faults, blue is starting, grey is waiting."""
OTHER_COLOR: Final = "#0b7285"

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #212529; --soft: #868e96; --paper: #fff; --rule: #dee2e6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9ecef; --soft: #adb5bd; --paper: #1a1b1e; --rule: #373a40 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.lead { font-size: 1.2rem } .soft { color: var(--soft) }
svg { width: 100%; height: auto; display: block; margin: .6rem 0 }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg line { stroke: var(--rule) }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top }
th { color: var(--soft); font-weight: 500 }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.key { white-space: nowrap; margin-right: 1em }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px }
"""


def escape(text: str) -> str:
    """Return text that stands for itself in HTML, between tags and in quoted attributes."""
    return html.escape(clean(text))


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page; `body` is markup."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table; the columns at the places `numbers` are aligned to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = (' class="number"' if place in numbers else "" for place in range(len(row)))
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return (
        f"<table>\n<thead><tr>{cells('th', titles)}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )


def color_of(bucket: str) -> str:
    """Return a bucket's colour."""
    return COLORS.get(bucket, OTHER_COLOR)


def legend(buckets: Iterable[str]) -> str:
    """Return which colour is which bucket."""
    parts = (
        '<span class="key"><span class="swatch" '
        f'style="background:{color_of(one)}"></span> {escape(one)}</span>'
        for one in buckets
    )
    return f'<p class="soft">{" ".join(parts)}</p>'


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a row of a picture.

    Attributes:
        begin: where it begins, of the row's length: 0 to 1.
        size: how long it is, likewise.
        color: its fill.
        tip: what it says when it is pointed at.
    """

    begin: float
    size: float
    color: str
    tip: str


def rows_picture(title: str, rows: Sequence[tuple[str, Sequence[Block], str]]) -> str:
    """Return rows of blocks below each other, with a label to the left and one to the right."""
    left, widest = 150, max((len(note) for _, _, note in rows), default=0)
    right = min(16 + CHARACTER_WIDTH * widest, MOST_NOTE)
    room = PLOT_WIDTH - left - right
    height = len(rows) * ROW_HEIGHT + 4
    parts = [_open(title, height)]
    for place, (label, blocks, note) in enumerate(rows):
        top = place * ROW_HEIGHT + 2
        base = top + 15
        parts.append(
            f'<text x="{left - 8}" y="{base}" text-anchor="end">'
            f"{escape(_cut(label, left - 8))}</text>"
        )
        parts += [
            _rect(left + room * one.begin, top, max(room * one.size, 1.5), ROW_HEIGHT - 5, one)
            for one in blocks
        ]
        parts.append(
            f'<text x="{left + room + 8}" y="{base}">{escape(_cut(note, right - 8))}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def columns_picture(
    title: str, columns: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], unit: str
) -> str:
    """Return columns side by side, each a stack of (colour, value, tip) from the ground up.

    Args:
        title: what the picture shows, in words.
        columns: a label for each, and its stack; values are not negative.
        unit: of the values, for the axis.
    """
    height, ground, top = 260, 228, 18
    highest = max([sum(value for _, value, _ in stack) for _, stack in columns] or [0.0])
    whole = highest or 1.0
    marks = [(share, _amount(whole * share, unit) if highest else "") for share in (0.0, 0.5, 1.0)]
    left = 16 + CHARACTER_WIDTH * max(len(label) for _, label in marks)
    room = (PLOT_WIDTH - left) / max(1, len(columns))
    parts = [_open(title, height)]
    for share, label in marks:
        y = ground - (ground - top) * share
        parts.append(f'<line x1="{left}" x2="{PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    every = max(1, -(-len(columns) // 10))
    for place, (label, stack) in enumerate(columns):
        x, base = left + place * room, float(ground)
        for color, value, tip in stack:
            size = (ground - top) * value / whole
            base -= size
            parts.append(_rect(x + room * 0.1, base, room * 0.8, size, Block(0, 0, color, tip)))
        if place % every == 0:
            parts.append(
                f'<text x="{x + room / 2:.1f}" y="{ground + 18}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )
    return "\n".join([*parts, "</svg>"])


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _cut(label: str, room: int) -> str:
    most = room // CHARACTER_WIDTH
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _open(title: str, height: int) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {PLOT_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
    )


def _rect(x: float, y: float, width: float, height: float, block: Block) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}" '
        f'fill="{block.color}"><title>{escape(block.tip)}</title></rect>'
    )
