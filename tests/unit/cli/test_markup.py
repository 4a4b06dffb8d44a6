"""Pages in one file that fetch nothing, run nothing, and are well formed."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from goodput_operator.cli import markup
from goodput_operator.cli.timeline import timeline_of
from goodput_operator.cli.waterfall import timeline_html
from tests.unit.cli.conftest import NOW, attempt, incident, job

VOID = {"meta", "link", "br"}
HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J"


class Reader(HTMLParser):
    """Holds a page to what each page promises."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Reader:
    """Fail unless a page is well formed, runs nothing and fetches nothing."""
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert not {"script", "iframe", "img", "object", "embed", "form"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("href", "src"):
            assert value.startswith(("data:", "#"))
    assert "url(" not in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        for rect in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect"):
            assert all(float(rect.attrib[size]) >= 0 for size in ("width", "height"))
    return reader


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(job(), id="trains"),
        pytest.param(job(incidents=[], attempt=None, ledger={}), id="is new"),
        pytest.param(job(incidents=[incident(faultAt=None)]), id="knows no times"),
        pytest.param(job(incidents=[incident(attempt=n) for n in range(10)]), id="broke ten times"),
        pytest.param(job(attempt=attempt(runningAt=None)), id="does not run"),
    ],
)
def test_a_timeline_is_one_sound_page(one: object) -> None:
    page = timeline_html(timeline_of(one, NOW))  # type: ignore[arg-type]
    reader = check(page)
    assert reader.tags.count("html") == 1


def test_nothing_that_a_cluster_says_becomes_markup() -> None:
    hostile = job(incidents=[incident(message=HOSTILE, reason=HOSTILE, why=HOSTILE, pod=HOSTILE)])
    page = timeline_html(timeline_of(hostile, NOW))
    check(page)
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


def test_every_bucket_has_a_colour_of_its_own() -> None:
    colors = list(markup.COLORS.values())
    assert len(set(colors)) == len(colors)
    assert markup.color_of("cosmic_rays") == markup.OTHER_COLOR
    assert markup.OTHER_COLOR not in colors


def test_a_table_keeps_text_as_text() -> None:
    page = markup.grid(("A", "B"), [("<b>", "1")], (1,))
    assert "&lt;b&gt;" in page
    assert '<td class="number">1</td>' in page


def test_columns_of_nothing_are_a_picture_too() -> None:
    for columns in ([], [("a", [])], [("a", [("#000", 0.0, "none")])]):
        ElementTree.fromstring(markup.columns_picture("empty", columns, "h"))


def test_a_stack_stands_on_the_ground_and_reaches_its_sum() -> None:
    picture = markup.columns_picture("two", [("a", [("#000", 1, "x"), ("#111", 3, "y")])], "h")
    rects = list(ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}rect"))
    tops = [float(rect.attrib["y"]) for rect in rects]
    heights = [float(rect.attrib["height"]) for rect in rects]
    assert tops[0] + heights[0] == pytest.approx(228)
    assert tops[1] + heights[1] == pytest.approx(tops[0])
    assert tops[1] == pytest.approx(18)
