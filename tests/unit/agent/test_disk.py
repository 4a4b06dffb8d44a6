"""What lies in the checkpoint directory, and whether it can be used."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from goodput.agent import disk
from goodput.protocol import Disk

PROBE = ".goodput-probe-3-2"


def test_a_missing_directory_is_made_and_is_empty(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert disk.survey(str(directory), PROBE) == Disk()
    assert list(directory.iterdir()) == []


def test_unfinished_data_counts_for_the_highest_attempt(tmp_path: Path) -> None:
    (tmp_path / "step-00001200.attempt-00007").mkdir()
    assert disk.survey(str(tmp_path), PROBE) == Disk(highest_attempt=7)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert disk.survey(str(tmp_path), PROBE) == Disk()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_place_of_the_directory_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert disk.survey(str(path), PROBE).problem.startswith("not usable: ")


def test_a_directory_in_which_no_file_can_be_made_is_a_problem(tmp_path: Path) -> None:
    found = disk.survey(str(tmp_path), "no/such/" + PROBE)
    assert found.problem.startswith(f"not writable for uid {os.getuid()}: ")
    assert "No such file or directory" in found.problem, "the system's own words"


def test_a_survey_comes_in_from_another_thread(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    found: list[Disk] = []
    disk.survey_in_background(str(tmp_path), PROBE, found.append, threading.Event(), 0.01)
    eventually(lambda: found == [Disk()])


def test_a_directory_that_cannot_be_used_is_looked_at_until_it_can(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    directory = tmp_path / "checkpoints"
    directory.write_text("a file where the directory should be")
    found: list[Disk] = []
    disk.survey_in_background(str(directory), PROBE, found.append, threading.Event(), 0.01)
    eventually(lambda: len(found) > 2)
    directory.unlink()
    eventually(lambda: found[-1] == Disk())
    assert all(one.problem for one in found[:-1])


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("latest_checkpointed_iteration.txt", "1200", 1200),
        ("latest_checkpointed_iteration.txt", "release", None),
        ("latest", "global_step900\n", 900),
        ("latest", "/checkpoints/run2/step_700/", 700),
        ("latest_checkpoint", "ckpt-000040.pt", 40),
        ("latest", "", None),
        ("latest", "9" * 400, 2**53 - 1),
        ("unknown", "1200", None),
    ],
)
def test_the_step_in_a_tracker_file_is_found(
    tmp_path: Path, name: str, content: str, step: int | None
) -> None:
    (tmp_path / name).write_text(content)
    assert disk.tracker_step(str(tmp_path)) == step


def test_a_tracker_may_be_a_link_to_the_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-300").mkdir()
    (tmp_path / "latest").symlink_to("step-300")
    assert disk.tracker_step(str(tmp_path)) == 300


def test_a_directory_without_a_tracker_names_no_step(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    assert disk.tracker_step(str(tmp_path)) is None
    assert disk.tracker_step(str(tmp_path / "missing")) is None


def test_the_watch_tells_each_new_step_once(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    steps: list[int] = []
    stopped = threading.Event()
    tracker = tmp_path / "latest"
    tracker.write_text("step1")
    disk.watch_tracker(str(tmp_path), steps.append, stopped, every_seconds=0.01)
    eventually(lambda: steps == [1])
    tracker.write_text("step20")
    eventually(lambda: steps[-1] == 20)
    stopped.set()
    assert steps.count(20) == 1
