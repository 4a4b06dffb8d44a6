"""Where a page is shown: in colours on a terminal, as plain text anywhere else.

rich is looked for only when there is a terminal to draw on. Without it, and for `NO_COLOR`,
`TERM=dumb` and pipes, the text is the same and plain.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from goodput_operator.cli.page import Page, plain

if TYPE_CHECKING:
    from rich.text import Text

_RICH_STYLES = {
    "plain": "",
    "good": "green",
    "bad": "red",
    "warn": "yellow",
    "dim": "dim",
    "bold": "bold",
}


def is_rich(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether colours are wanted, and can be had (https://no-color.org)."""
    return (
        stream.isatty()
        and not environment.get("NO_COLOR")
        and environment.get("TERM") != "dumb"
        and importlib.util.find_spec("rich") is not None
    )


def room_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; None for what is none, and takes any line."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return None


def show(page: Page, stream: TextIO, environment: Mapping[str, str]) -> None:
    """Write a page."""
    if not is_rich(stream, environment):
        stream.write(plain(page))
        return
    from rich.console import Console

    Console(file=stream, highlight=False, emoji=False).print(_text(page), soft_wrap=True, end="")


def watch(
    look: Callable[[], tuple[Page, bool]],
    every_seconds: float,
    stream: TextIO,
    environment: Mapping[str, str],
) -> None:
    """Show a page anew until it is the last, or for as long as somebody looks.

    A terminal shows it on its other screen, cut to its size, and keeps the last page.

    Args:
        look: returns the newest page, and whether there will be another.
        every_seconds: how long to wait between two looks.
        stream: where it is shown; one that is no terminal gets a page only when it has changed.
        environment: see `is_rich`.
    """
    if not is_rich(stream, environment):
        _watch_plain(look, every_seconds, stream)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, emoji=False)
    page: Page = ()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                page, goes_on = look()
                live.update(_text(page, cut=True), refresh=True)
                if not goes_on:
                    return
                time.sleep(every_seconds)
    finally:
        show(page, stream, environment)


def _watch_plain(
    look: Callable[[], tuple[Page, bool]], every_seconds: float, stream: TextIO
) -> None:
    shown: Page = ()
    while True:
        page, goes_on = look()
        if page != shown:
            stream.write(("\n" if shown else "") + plain(page))
            stream.flush()
            shown = page
        if not goes_on:
            return
        time.sleep(every_seconds)


def _text(page: Page, *, cut: bool = False) -> "Text":
    from rich.text import Text

    text = Text(overflow="ellipsis" if cut else "fold", no_wrap=cut)
    for one in page:
        for span in one.spans:
            text.append(span.text, style=_RICH_STYLES[span.style])
        text.append("\n")
    return text
