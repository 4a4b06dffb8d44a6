"""What a command has to say, before it is known where it is shown. Pure.

A page is lines, a line is spans of text with a style each. Everything that comes from a cluster
is cleaned on its way in: a pod's last words may hold what would steer a terminal.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["plain", "good", "bad", "warn", "dim", "bold"]

FULL, SLIVER, EMPTY = "█", "▏", "░"
BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Line:
    """One line; it holds no line break."""

    spans: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        """The line without its styles, and without spaces at its end."""
        return "".join(span.text for span in self.spans).rstrip()


Page = tuple[Line, ...]


def line(*parts: str | Span) -> Line:
    """Return a line of these parts, cleaned."""
    spans = (part if isinstance(part, Span) else Span(part) for part in parts)
    return Line(tuple(Span(clean(span.text), span.style) for span in spans))


def heading(text: str) -> Page:
    """Return an empty line and a heading."""
    return Line(), line(Span(text, "bold"))


def plain(page: Page) -> str:
    """Return the page as text; it ends with a line break."""
    return "".join(f"{one.text}\n" for one in page)


def clean(text: str) -> str:
    """Return `text` on one line, with nothing in it that could steer a terminal."""
    return "".join(" " if _steers(one) else one for one in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def width(text: str) -> int:
    """Return how many columns a terminal needs for `text`."""
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    marks = sum(unicodedata.category(one) in ("Mn", "Me") for one in text)
    return len(text) + wide - marks


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and where its numbers are aligned."""

    title: str
    right: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Span]]) -> Page:
    """Return rows below each other, as `kubectl get` does: no rules, three spaces between.

    The last column is as wide as it is.
    """
    cells = [
        tuple(cell if isinstance(cell, Span) else Span(cell) for cell in row)
        for row in (tuple(Span(column.title, "dim") for column in columns), *rows)
    ]
    cleaned = [tuple(Span(clean(cell.text), cell.style) for cell in row) for row in cells]
    widths = [max(width(row[place].text) for row in cleaned) for place in range(len(columns))]
    return tuple(_row(columns, row, widths) for row in cleaned)


def fitting_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Span]], room: int | None
) -> Page:
    """Return a table, without its last column where the lines would not fit.

    Args:
        columns: as of `table`.
        rows: likewise.
        room: how many columns a terminal has; None for whatever is needed.
    """
    whole = table(columns, rows)
    if room is None or max(width(one.text) for one in whole) <= room:
        return whole
    return table(columns[:-1], [row[:-1] for row in rows])


def _row(columns: Sequence[Column], row: Sequence[Span], widths: Sequence[int]) -> Line:
    spans = []
    for place, (column, cell) in enumerate(zip(columns, row, strict=True)):
        padding = " " * (widths[place] - width(cell.text))
        last = place == len(columns) - 1
        text = padding + cell.text if column.right else cell.text + ("" if last else padding)
        spans.append(Span(text + ("" if last else "   "), cell.style))
    return Line(tuple(spans))


def bar(share: float, style: Style = "good", size: int = BAR_WIDTH) -> tuple[Span, Span]:
    """Return a bar of which `share` (0 to 1) is full."""
    full = round(min(max(share, 0.0), 1.0) * size)
    return Span(FULL * full, style), Span(EMPTY * (size - full), "dim")


def wrapped(text: str, indent: str = "  ") -> Page:
    """Return a text of several lines, each indented; a terminal breaks what is too long for it."""
    return tuple(line(indent, one) for one in text.splitlines() if one.strip())
