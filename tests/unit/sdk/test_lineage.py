"""What a lost attempt goes on writing is never read; what the operator knows of is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput.checkpoint.layout import LINEAGE_LIMIT, Manifest, Place
from goodput.checkpoint.lineage import Lineage, links_after
from goodput.protocol import Ancestor

LINEAGE = Lineage(5, (Ancestor(5, 3, 1200), Ancestor(3, 2, 800)))


@pytest.mark.parametrize(
    ("attempt", "step", "held"),
    [
        pytest.param(5, 9999, True, id="the attempt's own, at any step"),
        pytest.param(3, 1200, True, id="the restore point"),
        pytest.param(3, 1100, True, id="what lies before it"),
        pytest.param(3, 1201, False, id="what its attempt wrote after its successor opened"),
        pytest.param(4, 1150, False, id="an attempt that nothing was restored from"),
        pytest.param(2, 800, True, id="an older ancestor"),
        pytest.param(2, 801, False, id="an older ancestor beyond the fork"),
        pytest.param(1, 100, False, id="an ancestor that nobody has told of"),
        pytest.param(6, 1300, False, id="an attempt of the future"),
    ],
)
def test_a_save_belongs_to_the_lineage(attempt: int, step: int, held: bool) -> None:
    assert LINEAGE.holds(Place(attempt, step)) is held


def test_a_manifest_tells_older_ancestors() -> None:
    lineage = Lineage(9, (Ancestor(9, 5, 1200),))
    assert not lineage.holds(Place(2, 500))
    lineage.learn((Ancestor(5, 4, 1000), Ancestor(4, 2, 500)))
    assert lineage.holds(Place(4, 1000))
    assert lineage.holds(Place(2, 500))
    assert not lineage.holds(Place(2, 501))


def test_a_manifest_does_not_widen_what_the_operator_said() -> None:
    lineage = Lineage(5, (Ancestor(5, 3, 1200),))
    lineage.learn((Ancestor(5, 3, 1300),))
    assert not lineage.holds(Place(3, 1300))


@pytest.mark.parametrize("link", [Ancestor(7, 6, 100), Ancestor(5, 6, 100), Ancestor(5, 0, 100)])
def test_links_that_do_not_connect_are_ignored(link: Ancestor) -> None:
    lineage = Lineage(5, (link,))
    assert not lineage.holds(Place(link.origin, 1))


@given(st.lists(st.builds(Ancestor, st.integers(1, 9), st.integers(0, 9), st.integers(0, 99))))
def test_no_lineage_reaches_beyond_its_own_attempt(links: list[Ancestor]) -> None:
    lineage = Lineage(5, links)
    assert not any(lineage.holds(Place(attempt, step)) for attempt in (6, 7) for step in (0, 99))


def test_outside_a_cluster_every_run_may_be_gone_on_from() -> None:
    assert Lineage(None).holds(Place(7, 1))


def test_the_lineage_grows_by_the_point_that_was_restored() -> None:
    restored = Manifest(attempt=3, step=1200, world_size=1, lineage=(Ancestor(3, 1, 10),))
    assert links_after(5, restored) == (Ancestor(5, 3, 1200), Ancestor(3, 1, 10))


def test_an_attempt_that_restores_its_own_save_keeps_its_lineage() -> None:
    restored = Manifest(attempt=5, step=1200, world_size=1, lineage=(Ancestor(5, 1, 10),))
    assert links_after(5, restored) == (Ancestor(5, 1, 10),)


def test_the_lineage_is_bounded() -> None:
    links = tuple(Ancestor(n + 1, n, n) for n in range(LINEAGE_LIMIT, 0, -1))
    restored = Manifest(attempt=LINEAGE_LIMIT + 1, step=99, world_size=1, lineage=links)
    grown = links_after(LINEAGE_LIMIT + 2, restored)
    assert len(grown) == LINEAGE_LIMIT
    assert grown[0].attempt == LINEAGE_LIMIT + 2
