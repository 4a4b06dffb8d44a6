"""Sharded state goes through DCP, on one process or many, and the loss goes on."""

import pathlib
import re
import signal
import time

import pytest

pytest.importorskip("torch")

from goodput.agent.output import Tail
from goodput.checkpoint import CheckpointError, layout
from goodput.checkpoint.layout import Place
from goodput.protocol import Ancestor, Commit

TRAIN = pathlib.Path(__file__).parents[3] / "examples" / "char-gpt" / "train.py"

SAVE_AND_LOAD = """
import sys, torch
import torch.distributed as dist
import goodput.checkpoint.torch as checkpoint
from goodput import session
if session.world_size() > 1:
    dist.init_process_group("gloo")
rank = session.rank()
state = {"weight": torch.zeros(4), "step": torch.tensor(0)}
print("restored", checkpoint.load_state(state), state["weight"].tolist())
for step in map(int, sys.argv[1:]):
    state = {"weight": torch.full((4,), float(step)), "step": torch.tensor(step)}
    checkpoint.save_state(step, state)
if session.world_size() > 1:
    dist.destroy_process_group()
"""

OF_ONE_SIZE = """
import torch
import torch.distributed as dist
import goodput.checkpoint.torch as checkpoint
from goodput import session
dist.init_process_group("gloo")
state = {"weight": torch.ones(12 // session.world_size())}  # a share that DCP knows nothing of
step = checkpoint.load_state(state) or 0
print("restored", step)
checkpoint.save_state(step + 1, state)
dist.destroy_process_group()
"""

FAIL_ON_ONE_RANK = """
import torch.distributed as dist
from goodput import checkpoint
dist.init_process_group("gloo")
for step in (1, 2):
    try:
        with checkpoint.saving(step) as path:
            (path / f"model-{dist.get_rank()}").write_text("x")
            if step == 1 and dist.get_rank() == 1:
                raise OSError(28, "No space left on device", str(path))
    except checkpoint.CheckpointError as error:
        print("caught", error)
dist.destroy_process_group()
"""

RESTORE_TOGETHER = """
import torch.distributed as dist
from goodput import checkpoint
dist.init_process_group("gloo")
try:
    print("restored", checkpoint.restore().step)
except checkpoint.CheckpointError as error:
    print("caught", error)
dist.destroy_process_group()
"""

NUMBERED_TOGETHER = """
import torch.distributed as dist
from goodput import checkpoint
dist.init_process_group("gloo")
checkpoint.restore()
for step in (1, 1):
    with checkpoint.saving(step) as path:
        (path / f"model-{dist.get_rank()}").write_text("x")
dist.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are many here, and GPUs may be fewer."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_one_process_without_a_group_saves_and_loads(gang) -> None:
    gang(1, 1, "-c", SAVE_AND_LOAD, 3, 7).succeed()
    (said,) = gang(1, 2, "-c", SAVE_AND_LOAD, lineage=[Ancestor(2, 1, 7)]).succeed()
    assert "restored 7 [7.0, 7.0, 7.0, 7.0]" in said


def test_another_number_of_ranks_can_load(gang, checkpoints) -> None:
    gang(3, 1, "-c", SAVE_AND_LOAD, 3, 7).succeed()
    assert layout.read_manifest(str(checkpoints), Place(1, 7)).world_size == 3
    said = gang(2, 2, "-c", SAVE_AND_LOAD, lineage=[Ancestor(2, 1, 7)]).succeed()
    assert all("restored 7 [7.0, 7.0, 7.0, 7.0]" in one for one in said)


def test_what_another_number_of_ranks_cannot_load_is_said_and_is_still_good_for_its_own(
    gang,
) -> None:
    gang(3, 1, "-c", OF_ONE_SIZE).succeed()
    saved = Ancestor(2, 1, 1)
    for one in gang(2, 2, "-c", OF_ONE_SIZE, lineage=[saved]).wait():
        heard = Tail()  # as the agent hears it
        for line in one.splitlines():
            heard.feed(line.encode())
        name, _, said = heard.exception.partition(": ")
        assert name == "goodput.checkpoint.errors.ReshardError"
        assert said.startswith("step 1 was saved by 3 ranks and cannot be loaded by 2: ValueError")
    said = gang(3, 3, "-c", OF_ONE_SIZE, lineage=[Ancestor(3, 1, 1)]).succeed()
    assert all("restored 1" in one for one in said)


def test_all_ranks_learn_that_one_has_failed(gang, checkpoints) -> None:
    said = gang(3, 1, "-c", FAIL_ON_ONE_RANK).succeed()
    assert all("No space left on device; free space" in one for one in said)
    assert layout.places(str(checkpoints)) == [Place(1, 2)]


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_all_ranks_pass_over_what_one_finds_damaged(gang, checkpoints, shard: int) -> None:
    gang(3, 1, "-c", FAIL_ON_ONE_RANK.replace("step == 1", "step < 0")).succeed()
    (checkpoints / Place(1, 2).name / f"model-{shard}").write_text("y")
    said = gang(3, 2, "-c", RESTORE_TOGETHER, lineage=[Ancestor(2, 1, 2)]).succeed()
    assert all("restored 1\n" in one for one in said)
    assert sum("the checksum does not match" in one for one in said) == 1  # told once

    (checkpoints / Place(1, 1).name / f"model-{shard}").write_text("y")
    said = gang(3, 2, "-c", RESTORE_TOGETHER, lineage=[Ancestor(2, 1, 2)]).succeed()
    assert all("caught no checkpoint" in one for one in said)


def test_outside_a_cluster_the_group_numbers_its_runs(gang, checkpoints) -> None:
    for _ in range(2):
        gang(2, "", "-c", NUMBERED_TOGETHER).succeed()
    in_use = [Place(1, 1, 1), Place(1, 1)]  # what the second run was restored from
    assert layout.places(str(checkpoints)) == [Place(2, 1, 1), Place(2, 1), *in_use]


def losses(said: str) -> dict[int, float]:
    found = re.findall(r"^step (\d+) loss ([\d.]+)$", said, re.MULTILINE)
    return {int(step): float(loss) for step, loss in found}


def test_the_loss_goes_on_after_a_rank_was_killed(
    gang, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAR_GPT_LAYERS", "2")
    train = (TRAIN, "--steps=24", "--checkpoint-every=8")
    whole = losses(gang(3, 1, *train).succeed()[0])
    assert whole[24] < whole[1] - 1
    for place in layout.places(str(checkpoints)):
        (checkpoints / place.name / layout.MANIFEST).unlink()

    first = gang(3, 2, *train)
    while not first.ranks[0].stdout.readline().startswith("step 18 "):
        assert first.ranks[0].poll() is None
    first.ranks[2].send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert first.ranks[0].wait(30) != 0
    assert time.monotonic() - began < 30
    assert layout.survey(str(checkpoints)).newest == Commit(2, 16)

    second = losses(gang(2, 3, *train, lineage=[Ancestor(3, 2, 16)]).succeed()[0])
    assert list(second) == list(range(17, 25))
    assert second == pytest.approx({step: whole[step] for step in second}, abs=0.005)


def test_torch_is_not_imported_for_those_who_do_not_use_it(gang) -> None:
    code = "import sys; from goodput import checkpoint, session; print('torch' in sys.modules)"
    assert gang(1, 1, "-c", code).succeed() == ["False\n"]


def test_an_error_names_the_rank(gang) -> None:
    said = gang(2, 1, "-c", FAIL_ON_ONE_RANK).succeed()
    assert CheckpointError.__name__ not in said[0]
    assert "caught saving step 1 failed: rank 1: saving step 1 failed: " in said[0]
