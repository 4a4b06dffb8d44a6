"""Colours on a terminal, plain text anywhere else, and a live view."""

import io
from collections.abc import Mapping

import pytest

from goodput_operator.cli.page import Page, Span, line, plain
from goodput_operator.cli.terminal import is_rich, show, watch

PAGE = (line(Span("bad", "bad"), " [bold]as it is[/bold] :smile: /path 12 'x'"), line("wide " * 40))
TEXT = "bad [bold]as it is[/bold] :smile: /path 12 'x'\n" + ("wide " * 40).rstrip() + "\n"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(environment: Mapping[str, str]) -> None:
    terminal = Terminal()
    assert not is_rich(terminal, environment)
    show(PAGE, terminal, environment)
    assert terminal.getvalue() == TEXT


def test_a_pipe_gets_plain_text() -> None:
    pipe = io.StringIO()
    show(PAGE, pipe, {"TERM": "xterm"})
    assert pipe.getvalue() == TEXT


def test_a_terminal_gets_colours_and_nothing_else_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    show(PAGE, terminal, {"TERM": "xterm-256color"})
    shown = terminal.getvalue()
    assert "\x1b[31mbad\x1b[0m" in shown
    assert "[bold]as it is[/bold] :smile: /path 12 'x'" in shown
    assert ("wide " * 40).rstrip() in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_watching_ends_with_the_last_page(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    pages = [(line("one"),), (line("one"),), (line("two"),)]

    def look() -> tuple[Page, bool]:
        page = pages.pop(0)
        return page, bool(pages)

    watch(look, 0.0, stream, {"TERM": "xterm"})
    assert pages == []
    assert "two" in stream.getvalue()
    if not stream.isatty():
        assert stream.getvalue() == "one\n\ntwo\n", "an unchanged page is not shown again"


def test_a_watched_page_is_cut_to_the_screen_and_the_last_one_stays_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    long = "a line that does not fit into twenty columns"
    page = tuple(line(f"{number} {long}") for number in range(9))
    terminal = Terminal()
    watch(lambda: (page, False), 0.0, terminal, {"TERM": "xterm"})
    live, _, kept = terminal.getvalue().partition("\x1b[?1049l")
    assert "0 a line that does " in live
    assert long not in live
    assert "5 a line" not in live
    assert kept.endswith(plain(page))


def test_who_breaks_off_keeps_the_last_page_and_the_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, looks = Terminal(), [(line("one"),)]

    def look() -> tuple[Page, bool]:
        if not looks:
            raise KeyboardInterrupt
        return looks.pop(), True

    with pytest.raises(KeyboardInterrupt):
        watch(look, 0.0, terminal, {"TERM": "xterm"})
    _, _, kept = terminal.getvalue().partition("\x1b[?1049l")
    assert "\x1b[?25h" in terminal.getvalue()
    assert kept.endswith("one\n")
