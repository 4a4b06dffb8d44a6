"""On a GPU, over NCCL: what was computed there is saved, and goes on from there.

One GPU is enough, so a gang is one rank here; how ranks share a checkpoint is `test_torch`'s.
"""

import pathlib
import re
import signal

import pytest

from goodput.checkpoint import layout
from goodput.protocol import Ancestor, Commit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

TRAIN = pathlib.Path(__file__).parents[3] / "examples" / "char-gpt" / "train.py"

IN_A_GROUP = """
import sys, torch
import torch.distributed as dist
import goodput.checkpoint.torch as checkpoint
torch.cuda.set_device(0)
dist.init_process_group("nccl")
state = {"weight": torch.zeros(4, device="cuda"), "step": torch.tensor(0)}
print("restored", checkpoint.load_state(state), state["weight"].device, state["weight"].tolist())
for step in map(int, sys.argv[1:]):
    state = {"weight": torch.full((4,), float(step), device="cuda"), "step": torch.tensor(step)}
    checkpoint.save_state(step, state)
dist.destroy_process_group()
"""

FULLY_SHARDED = """
import sys, torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import goodput.checkpoint.torch as checkpoint
torch.cuda.set_device(0)
dist.init_process_group("nccl")
torch.manual_seed(int(sys.argv[1]))
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)).to("cuda")
fully_shard(model, mesh=init_device_mesh("cuda", (1,)))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(4, 64, device="cuda")).sum().backward()
optimizer.step()
weights, moments = get_state_dict(model, optimizer)
state = {"model": weights, "optimizer": moments}
done = checkpoint.load_state(state)
if done is None:
    checkpoint.save_state(1, state)
else:
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
digest = [p.to_local().double().sum().item().hex() for p in model.parameters()]
digest += [s["exp_avg"].to_local().double().sum().item().hex() for s in optimizer.state.values()]
print("restored", done, *digest)
dist.destroy_process_group()
"""


def losses(said: str) -> dict[int, float]:
    found = re.findall(r"^step (\d+) loss ([\d.]+)$", said, re.MULTILINE)
    return {int(step): float(loss) for step, loss in found}


def test_a_group_over_nccl_saves_and_loads(gang) -> None:
    gang(1, 1, "-c", IN_A_GROUP, 3, 7).succeed()
    (said,) = gang(1, 2, "-c", IN_A_GROUP, lineage=[Ancestor(2, 1, 7)]).succeed()
    assert "restored 7 cuda:0 [7.0, 7.0, 7.0, 7.0]" in said


def test_sharded_weights_and_moments_come_back_to_the_bit(gang) -> None:
    (saved,) = gang(1, 1, "-c", FULLY_SHARDED, 1).succeed()
    (loaded,) = gang(1, 2, "-c", FULLY_SHARDED, 2, lineage=[Ancestor(2, 1, 1)]).succeed()
    assert "restored None " in saved
    assert saved.replace("restored None ", "restored 1 ") == loaded


def test_the_loss_goes_on_after_a_kill(gang, checkpoints) -> None:
    train = (TRAIN, "--steps=240", "--checkpoint-every=80")
    whole = losses(gang(1, 1, *train).succeed()[0])
    assert whole[240] < whole[1] - 1
    for place in layout.places(str(checkpoints)):
        (checkpoints / place.name / layout.MANIFEST).unlink()

    first = gang(1, 2, *train)
    while not first.ranks[0].stdout.readline().startswith("step 180 "):
        assert first.ranks[0].poll() is None
    first.ranks[0].send_signal(signal.SIGKILL)
    first.ranks[0].wait(30)
    assert layout.survey(str(checkpoints)).newest == Commit(2, 160)

    second = losses(gang(1, 3, *train, lineage=[Ancestor(3, 2, 160)]).succeed()[0])
    assert list(second) == list(range(161, 241))
    assert second == pytest.approx({step: whole[step] for step in second}, abs=0.05)


def test_what_cpus_have_saved_goes_on_here(gang, monkeypatch: pytest.MonkeyPatch) -> None:
    train = (TRAIN, "--steps=12", "--checkpoint-every=6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    whole = losses(gang(2, 1, *train).succeed()[0])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    here = losses(gang(1, 2, *train, lineage=[Ancestor(2, 1, 6)]).succeed()[0])
    assert list(here) == list(range(7, 13))
    assert here == pytest.approx({step: whole[step] for step in here}, abs=0.02)
