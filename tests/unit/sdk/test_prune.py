"""Nothing is deleted that a restart could need, and nothing that is not ours."""

import pathlib

import pytest

from goodput.checkpoint import layout
from goodput.checkpoint.layout import Place
from goodput.checkpoint.lineage import Lineage
from goodput.checkpoint.prune import Found, doomed
from goodput.protocol import Ancestor, Commit

LINKS = (Ancestor(3, 1, 30),)


def good(attempt: int, *steps: int) -> list[Found]:
    return [Found(Place(attempt, step), good=True) for step in steps]


def broken(attempt: int, *steps: int) -> list[Found]:
    return [Found(Place(attempt, step), good=False) for step in steps]


@pytest.mark.parametrize(
    ("found", "durable", "gone"),
    [
        pytest.param(
            good(1, 10, 20, 30) + good(3, 40, 50, 60),
            (3, 50),
            [(1, 10), (1, 20), (1, 30)],
            id="behind the durable one and its predecessor all goes, newer ones stay",
        ),
        pytest.param(
            good(1, 10, 20, 30) + good(3, 40),
            (1, 30),
            [(1, 10)],
            id="the durable one may be an ancestor's",
        ),
        pytest.param(good(3, 40), (3, 40), [], id="the only one stays"),
        pytest.param(
            good(3, 40) + broken(3, 20, 30),
            (3, 40),
            [],
            id="while no second one is known to be good all stay",
        ),
        pytest.param(
            good(3, 30, 40, 50) + broken(3, 60),
            (3, 60),
            [],
            id="while the durable one is broken all stay",
        ),
        pytest.param(good(3, 30, 40, 50, 70), (3, 60), [], id="while it is missing all stay"),
        pytest.param(broken(3, 40, 50), (3, 60), [], id="where nothing is good all stay"),
        pytest.param(
            good(3, 40) + broken(3, 50) + [Found(Place(3, 50, retry=1), good=True)],
            (3, 50),
            [],
            id="a failed save of the durable step goes with the next",
        ),
        pytest.param(
            good(3, 35, 40) + broken(3, 50) + good(3, 60),
            (3, 60),
            [(3, 35), (3, 50)],
            id="a broken one does not count among the kept",
        ),
        pytest.param(
            good(1, 10, 20, 30, 31, 32) + broken(1, 33) + good(2, 35) + good(3, 40, 50),
            (3, 50),
            [(1, 10), (1, 20), (1, 30), (1, 31), (1, 32), (1, 33), (2, 35)],
            id="what lies outside the lineage goes once the durable one is our own",
        ),
        pytest.param(
            good(1, 29, 30, 31) + broken(1, 33) + good(2, 10) + broken(2, 35) + good(3, 40),
            (1, 30),
            [],
            id="and stays before",
        ),
        pytest.param(
            good(3, 40, 50) + broken(3, 45, 60), (3, 50), [(3, 45)], id="unfinished ones go late"
        ),
        pytest.param(
            good(1, 10, 20, 30) + good(3, 40, 50) + broken(4, 51),
            (3, 50),
            [],
            id="once a newer attempt writes here, nothing is ours to delete",
        ),
    ],
)
def test_what_goes(
    found: list[Found], durable: tuple[int, int], gone: list[tuple[int, int]]
) -> None:
    places = doomed(found, lineage=Lineage(3, LINKS), attempt=3, durable=Commit(*durable), keep=1)
    assert [(place.attempt, place.step) for place in places] == gone


def test_the_restore_point_in_use_stays() -> None:
    places = doomed(
        good(1, 20, 30) + good(3, 40, 50, 60),
        lineage=Lineage(3, LINKS),
        attempt=3,
        durable=Commit(3, 60),
        keep=2,
        in_use=Commit(1, 30),
    )
    assert [(place.attempt, place.step) for place in places] == [(1, 20), (3, 40)]


def steps_in(directory: pathlib.Path) -> list[int]:
    return sorted(place.step for place in layout.places(str(directory)))


def test_without_an_acknowledgement_everything_stays(trainer, agent, checkpoints) -> None:
    trainer(1).save(10, 20, 30, 40)
    assert steps_in(checkpoints) == [10, 20, 30, 40]


def test_without_an_agent_everything_stays(trainer, checkpoints) -> None:
    trainer(1).save(10, 20, 30, 40)
    assert steps_in(checkpoints) == [10, 20, 30, 40]


def test_a_zombie_deletes_nothing_by_its_successors_acknowledgement(
    trainer, agent, checkpoints
) -> None:
    zombie = trainer(1)
    zombie.save(10, 20, 30)
    agent.acknowledge(2, durable=(2, 40))
    zombie.save(50)
    assert steps_in(checkpoints) == [10, 20, 30, 50]


def test_not_even_its_own_commit_frees_a_zombie_when_its_successor_was_told(
    trainer, agent, checkpoints
) -> None:
    zombie = trainer(1)
    zombie.save(10, 20, 30)
    agent.acknowledge(2, durable=(1, 30))  # what the successor went on from
    zombie.save(40)
    assert steps_in(checkpoints) == [10, 20, 30, 40]


def test_an_acknowledgement_frees_what_lies_behind(trainer, agent, checkpoints) -> None:
    running = trainer(1)
    running.save(10, 20, 30)
    agent.acknowledge(1, durable=(1, 30))
    running.save(40)
    assert steps_in(checkpoints) == [20, 30, 40]


def test_as_many_are_kept_as_the_job_says(trainer, agent, checkpoints) -> None:
    running = trainer(1, keep=3)
    running.save(10, 20, 30, 40)
    agent.acknowledge(1, durable=(1, 40))
    running.save(50)
    assert steps_in(checkpoints) == [20, 30, 40, 50]


def test_the_successors_first_durable_checkpoint_ends_the_zombies_work(
    trainer, agent, checkpoints
) -> None:
    zombie = trainer(1)
    zombie.save(10, 20)
    successor = trainer(2, (2, 1, 20))
    assert successor.restored() == (1, 20)
    zombie.save(30)
    (checkpoints / Place(1, 35).name).mkdir()
    successor.save(40)
    agent.acknowledge(2, durable=(2, 40))
    successor.save(50)
    assert steps_in(checkpoints) == [20, 40, 50]


def test_foreign_files_are_never_deleted(trainer, checkpoints) -> None:
    foreign = ["model.pt", "step-1.attempt-1", "step-00000001.attempt-00001.bak"]
    for name in foreign:
        (checkpoints / name).mkdir()
    trainer().save(10, 20, 30, 40)
    assert [name for name in foreign if not (checkpoints / name).is_dir()] == []


def test_on_a_laptop_the_newest_two_stay(trainer, checkpoints) -> None:
    trainer().save(10, 20, 30)
    assert steps_in(checkpoints) == [20, 30]


def test_nothing_goes_while_a_save_cannot_be_read(
    trainer, agent, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be good: the next who reads may have more luck."""
    running = trainer(1)
    running.save(10, 20, 30)
    agent.acknowledge(1, durable=(1, 30))
    read = layout.read_manifest

    def fail(directory: str, place: Place) -> layout.Manifest:
        if place.step == 20:
            raise OSError(5, "Input/output error", place.name)
        return read(directory, place)

    monkeypatch.setattr(layout, "read_manifest", fail)
    running.save(40)
    assert steps_in(checkpoints) == [10, 20, 30, 40]
