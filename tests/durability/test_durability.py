"""A sample of the sweep, and that the harness does not lie: broken code is caught."""

import logging
import random
from collections.abc import Callable, Iterator

import pytest

from goodput.checkpoint import files, layout, prune, store
from goodput.protocol import Commit
from tests.durability.__main__ import sweep
from tests.durability.plans import FIRST, KILLS, Plan, play


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    log = logging.getLogger("goodput.checkpoint")
    before = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(before)


def test_a_sample_of_the_sweep_loses_nothing() -> None:
    tally = sweep(seed=random.randrange(1000), share=100)
    assert tally.violations == []
    assert tally.kill_points >= 10
    assert tally.corruptions >= 100


def nothing(*_: object, **__: object) -> None:
    pass


def data_first(directory: str, place: layout.Place) -> None:
    files.shutil.rmtree(f"{directory}/{place.name}")


def newest_too(found, **_: object) -> list[layout.Place]:
    return [one.place for one in found]


def not_synced(path: str) -> None:
    files.os.makedirs(path, exist_ok=True)


def any_commit(self: store.Store) -> Commit:
    return Commit(self._attempt or 0, FIRST[0])


BROKEN: dict[str, tuple[object, str, Callable[..., object]]] = {
    "files are not fsynced": (files, "_sync", nothing),
    "names are not fsynced": (files, "sync_directory", nothing),
    "the directory itself is not fsynced": (files, "make_directories", not_synced),
    "data is deleted before the manifest": (files, "delete", data_first),
    "all is pruned": (prune, "doomed", newest_too),
    "nothing needs to be acknowledged": (store.Store, "_durable", any_commit),
    "checksums are not compared": (files, "problem_with", lambda *_: ""),
    "each rank falls back by itself": (store.Store, "_refusal", lambda *_: ("", False)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_code_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead = BROKEN[name]
    monkeypatch.setattr(where, what, instead)
    faults = (*KILLS, "EIO-for-good")
    dice = random.Random(name)
    for _ in range(150):
        plan = Plan(dice.choice([1, 2]), False, 2, dice.choice(faults), dice.randrange(1, 250))
        if play(plan).violations:
            return
    pytest.fail(f"nothing was noticed: {name}")


def test_a_run_is_the_same_each_time() -> None:
    plan = Plan(2, talks=True, fault="torn", number=150)
    assert play(plan).operations == play(plan).operations


def test_a_fault_that_never_comes_is_noticed() -> None:
    assert not play(Plan(1, talks=False, fault="gang", number=10**6)).fired
