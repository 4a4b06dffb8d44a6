"""Pages: lines that align, and that nothing can steer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator.cli.page import Column, Span, bar, clean, line, plain, table, width, wrapped


def test_columns_align_as_kubectl_does() -> None:
    page = table(
        (Column("NAME"), Column("STEP", right=True), Column("WHY")),
        [("a", "7", "so"), ("longer", "1200", "and so on")],
    )
    assert plain(page) == ("NAME     STEP   WHY\na           7   so\nlonger   1200   and so on\n")


def test_a_table_of_nothing_has_its_headings() -> None:
    assert plain(table((Column("A"), Column("B")), [])) == "A   B\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("模型", 4), ("é", 1), ("", 0)],
)
def test_wide_and_combining_characters_are_measured_as_a_terminal_does(
    text: str, columns: int
) -> None:
    assert width(text) == columns


def test_names_of_another_script_do_not_shift_the_columns() -> None:
    page = table((Column("NAME"), Column("X")), [("模型", "1"), ("abcd", "2")])
    assert [one.text for one in page[1:]] == ["模型   1", "abcd   2"]


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param("\x1b[2Jgone", id="an escape sequence"),
        pytest.param("a\r\nb", id="line breaks"),
        pytest.param("\x07\x08\x9b31m", id="bell, backspace, the 8-bit escape"),
        pytest.param("\u202eevil", id="right to left override"),
        pytest.param("a\u2028b", id="a line separator of Unicode"),
        pytest.param("\ud800", id="half a character"),
        pytest.param("\u200b\ufeff", id="invisible ones"),
    ],
)
def test_nothing_from_a_cluster_can_steer_the_terminal(hostile: str) -> None:
    for text in (clean(hostile), line(hostile).text, line(Span(hostile, "bad")).text):
        assert text.isprintable()
    text = plain(table((Column("A"), Column("B")), [(hostile, "x")]))
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()


@given(st.text())
def test_a_line_is_one_line_whatever_is_in_it(text: str) -> None:
    assert "\n" not in line(text).text
    plain((line(text),)).encode()


@pytest.mark.parametrize(
    ("share", "full"), [(0, 0), (1, 10), (0.5, 5), (-3, 0), (7, 10), (0.04, 0), (0.96, 10)]
)
def test_a_bar_is_as_full_as_its_share(share: float, full: int) -> None:
    done, rest = bar(share, size=10)
    assert (len(done.text), len(rest.text)) == (full, 10 - full)


def test_a_text_of_several_lines_stays_so() -> None:
    assert plain(wrapped("one\n\n  two")) == "  one\n    two\n"
