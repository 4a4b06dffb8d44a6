"""A process killed at any moment of a save or a prune leaves something to go on from."""

import functools
import os
import pathlib
import shutil
import sys
from collections.abc import Callable

import pytest

from goodput.checkpoint import files, layout
from goodput.checkpoint.layout import Place

CHANGES = {"mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open", "write", "close"}
KILLED = 9


def killed_before(number: int, act: Callable[[], None]) -> bool:
    """Act in a child process that dies, unable to tidy up, before its n-th call on a file.

    Returns whether it came to that call.
    """
    child = os.fork()
    if child == 0:
        left = number

        def count(_frame, event: str, called) -> None:
            nonlocal left
            if event == "c_call" and called.__name__ in CHANGES:
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.setprofile(count)
        try:
            act()
        except BaseException:  # noqa: BLE001 - the child must not return into pytest
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, KILLED}
    return status == KILLED


def test_a_kill_during_a_save_leaves_the_old_or_the_new(trainer, agent, checkpoints) -> None:
    first = trainer(1)
    first.save(5, 10, 20)
    agent.acknowledge(1, durable=(1, 20))
    found = set()
    number, attempt = 1, 2
    while True:
        before = max(
            place for place in layout.places(str(checkpoints)) if is_whole(checkpoints, place)
        )
        running = trainer(attempt, (attempt, before.attempt, before.step))
        assert running.restored() == (before.attempt, before.step)
        step = before.step + 1
        if not killed_before(number, functools.partial(running.save, step)):
            break
        agent.heard()
        after = trainer(attempt, (attempt, before.attempt, before.step)).restored()
        assert after in {(before.attempt, before.step), (attempt, step)}
        assert_no_half_is_published(checkpoints)
        found.add(after == (attempt, step))
        number, attempt = number + 1, attempt + 1
    assert found == {False, True}
    assert number > 30


def test_a_kill_during_a_prune_leaves_what_must_stay(trainer, agent, checkpoints) -> None:
    number, left = 1, set()
    while True:
        shutil.rmtree(checkpoints)
        agent.forget()  # else the saves below would prune already
        trainer(1).save(10, 20)
        running = trainer(2, (2, 1, 20))
        running.save(30, 40, 50)
        (checkpoints / Place(2, 45).name / "half").mkdir(parents=True)
        agent.acknowledge(2, durable=(2, 50))
        agent.heard()
        killed = killed_before(number, functools.partial(running.save, 60))
        assert trainer(2, (2, 1, 20)).restored() in {(2, 50), (2, 60)}
        assert is_whole(checkpoints, Place(2, 40))
        assert is_whole(checkpoints, Place(2, 50))
        assert_no_half_is_published(checkpoints)
        left.add(len(layout.places(str(checkpoints))))
        if not killed:
            break
        number += 1
    assert left == {3, 4, 5, 6, 7}, "it was killed before, within and after each deletion"
    assert [place.step for place in layout.places(str(checkpoints))] == [60, 50, 40]


def assert_no_half_is_published(directory: pathlib.Path) -> None:
    for place in layout.places(str(directory)):
        assert is_whole(directory, place) or not layout.published(str(directory), place)


def is_whole(directory: pathlib.Path, place: Place) -> bool:
    return files.is_good(str(directory), place)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_kill_comes_where_it_was_ordered(tmp_path: pathlib.Path, number: int) -> None:
    def act() -> None:
        for name in ("0", "1", "2", "3"):
            (tmp_path / name).mkdir()

    assert killed_before(number, act)
    assert len(list(tmp_path.iterdir())) == number - 1
