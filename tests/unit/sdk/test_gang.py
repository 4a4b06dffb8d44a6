"""Ranks in processes of their own save together, and a gang that was killed goes on."""

import json
import pathlib
import random
import signal
import subprocess

import pytest

from goodput.checkpoint import layout
from goodput.checkpoint.layout import Place
from goodput.protocol import Ancestor

COUNTER = pathlib.Path(__file__).parents[3] / "examples" / "counter" / "counter.py"


def counter(gang, size: int, attempt: int, *arguments: str, lineage=None):
    options = ("--steps=60", "--step-seconds=0.005", "--checkpoint-every=10", *arguments)
    return gang(size, attempt, COUNTER, *options, lineage=lineage)


def losses(said: str) -> dict[int, float]:
    lines = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    return {line["step"]: line["loss"] for line in lines}


def test_the_files_of_all_ranks_make_one_checkpoint(gang, checkpoints) -> None:
    counter(gang, 3, 1, "--steps=20").succeed()
    assert layout.places(str(checkpoints)) == [Place(1, 20), Place(1, 10)]
    manifest = layout.read_manifest(str(checkpoints), Place(1, 20))
    assert manifest.world_size == 3
    assert [file.name for file in manifest.files] == ["learned-0", "learned-1", "learned-2"]


@pytest.mark.parametrize("seed", range(4))
def test_a_gang_that_lost_a_rank_goes_on_as_if_nothing_had_been(gang, checkpoints, seed) -> None:
    dice = random.Random(seed)
    expected = losses(counter(gang, 1, 1, "--checkpoint-every=1000").succeed()[0])
    for place in layout.places(str(checkpoints)):
        subprocess.run(["rm", "-r", checkpoints / place.name], check=True)

    first = counter(gang, 3, 2)
    for _ in range(dice.randint(12, 55)):
        first.ranks[1].stdout.readline()
    first.ranks[dice.randrange(3)].send_signal(signal.SIGKILL)
    first.end()  # the survivors may be waiting for it: the operator stops them

    newest = layout.survey(str(checkpoints)).newest
    link = Ancestor(3, newest.attempt, newest.step)
    second = losses(counter(gang, dice.choice([2, 3, 4]), 3, lineage=[link]).succeed()[0])
    assert min(second) == newest.step + 1
    assert second == {step: expected[step] for step in second}
    assert max(second) == 60


def test_the_others_notice_when_a_rank_is_gone(gang) -> None:
    running = counter(gang, 3, 1, "--checkpoint-every=1000", "--step-seconds=0.05")
    for _ in range(5):
        running.ranks[0].stdout.readline()
    running.ranks[2].kill()
    said = running.wait()
    assert "rank 2 is gone" in said[0]
    assert "rank 0 is gone" in said[1]


def test_a_rank_that_hangs_holds_the_others(gang) -> None:
    running = counter(gang, 3, 1, "--peer-lost=hang")
    for _ in range(5):
        running.ranks[0].stdout.readline()
    running.ranks[2].kill()
    with pytest.raises(subprocess.TimeoutExpired):
        running.ranks[0].communicate(timeout=1.5)


SAVE_WITHOUT = """
import sys
from goodput import checkpoint, session
wanted = int(sys.argv[1])
for step in (1, 2):
    try:
        with checkpoint.saving(step, timeout_seconds=float(sys.argv[2])) as path:
            (path / f"model-{session.rank()}").write_text("x")
            if step == 1 and session.rank() == wanted:
                raise OSError(28, "No space left on device", str(path))
    except checkpoint.CheckpointError as error:
        print(error)
"""


def test_a_rank_that_fails_fails_the_save_for_all_and_training_goes_on(gang, checkpoints) -> None:
    said = gang(3, 1, "-c", SAVE_WITHOUT, 1, 30).succeed()
    assert "rank 1: saving step 1 failed" in said[0]
    assert "No space left on device; free space" in said[1]
    found = layout.places(str(checkpoints))  # perhaps with what a late rank wrote for step 1
    assert [place for place in found if layout.published(str(checkpoints), place)] == [Place(1, 2)]


SAVE_ALONE = """
from goodput import checkpoint, session
if session.rank() == 0:
    try:
        with checkpoint.saving(1, timeout_seconds=0.2) as path:
            (path / "model").write_text("x")
    except checkpoint.CheckpointError as error:
        print(error)
"""


def test_a_rank_that_does_not_come_is_named(gang, checkpoints) -> None:
    said = gang(3, 1, "-c", SAVE_ALONE).succeed()
    assert "step 1 was not saved by rank 1, 2 within 0.2 s" in said[0]
    assert layout.places(str(checkpoints)) == []


SAVE_TWICE = """
from goodput import checkpoint
for _ in range(2):
    try:
        with checkpoint.saving(1, timeout_seconds=30) as path:
            (path / "model").write_text("x")
    except checkpoint.CheckpointError as error:
        print(error)
"""


def test_two_ranks_may_not_write_one_name(gang, checkpoints) -> None:
    said = gang(2, 1, "-c", SAVE_TWICE).succeed()
    assert "ranks 0 and 1 both wrote 'model': put the rank into the name" in said[0]
    assert layout.survey(str(checkpoints)).newest is None


def test_an_attempt_is_not_used_twice(gang, checkpoints) -> None:
    counter(gang, 2, 1, "--steps=10").succeed()
    (checkpoints / Place(1, 10).name / layout.MANIFEST).unlink()
    again = counter(gang, 2, 1, "--steps=10")
    said = again.wait()
    assert all("give each start of the processes an attempt of its own" in one for one in said)


def test_ranks_that_cannot_talk_need_a_number(gang) -> None:
    (said,) = {one.splitlines()[-1].split(": ", 1)[1] for one in gang(2, "", "-c", RESTORE).wait()}
    assert said.startswith("several ranks and nobody to number their runs")


RESTORE = "from goodput import checkpoint; checkpoint.restore()"
