"""Train char-gpt on any number of ranks, on GPUs over NCCL or on CPUs over gloo.

The global batch stays the same on any number of ranks, so the loss goes on where it was. So does
a checkpoint: torch's distributed format lets each size read what another has written.
With --fully-shard the replicas share weights and moments among them (FSDP2 in place of DDP), with
--tensor-parallel each replica is split over so many ranks, too.
"""

import argparse
import os

import torch
import torch.distributed as dist
from model import CharGPT, corpus, samples
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import goodput.checkpoint.torch as checkpoint
from goodput import session


def main() -> None:
    options = arguments()
    device = start(int(os.environ.get("LOCAL_RANK", "0")), session.world_size())
    train(options, device)
    # Not before the model is gone: it holds the group, and the two may wait for each other.
    if dist.is_initialized():
        dist.destroy_process_group()


def train(options: argparse.Namespace, device: torch.device) -> None:
    rank, world_size = session.rank(), session.world_size()
    replica, replicas = rank // options.tensor_parallel, world_size // options.tensor_parallel
    torch.manual_seed(1)
    model = CharGPT().to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if world_size > 1:
        shape = (replicas, options.tensor_parallel)
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "tensor"))
        model = distribute(model, mesh, options.fully_shard or options.tensor_parallel > 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)

    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    done = checkpoint.load_state(state, options.directory)
    if done is not None:
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
    if rank == 0:
        print(f"{parameters} parameters, {replicas} replicas, from step {done or 0}", flush=True)

    text = corpus()
    for step in range((done or 0) + 1, options.steps + 1):
        batch = samples(text, step, options.batch, replica, replicas).to(device)
        # The mean over the global batch, also where the ranks' shares differ by one.
        loss = model(batch).sum() * replicas / options.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach()
        if world_size > 1:
            dist.all_reduce(mean, group=mesh["data"].get_group())
        session.step(step)
        if rank == 0:
            print(f"step {step} loss {mean.item() / replicas:.3f}", flush=True)
        asked = session.should_save()  # the gang is about to change its size, or to be suspended
        if asked or step % options.checkpoint_every == 0 or step == options.steps:
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optimizer": moments}
            checkpoint.save_state(step, state, options.directory)


def distribute(model: CharGPT, mesh: DeviceMesh, sharded: bool) -> nn.Module:
    """Split each layer's thinking over the tensor ranks, and the batch over the replicas."""
    if not sharded:
        return DistributedDataParallel(model, device_mesh=mesh["data"])
    for block in model.blocks:
        if mesh["tensor"].size() > 1:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, mesh["tensor"], plan)
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return model


def start(local_rank: int, world_size: int) -> torch.device:
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    if world_size > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    return torch.device("cuda", local_rank) if gpu else torch.device("cpu")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint-every", type=int, default=25)
    parser.add_argument("--batch", type=int, default=16, help="samples of all ranks together")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="ranks of one replica")
    parser.add_argument("--fully-shard", action="store_true", help="FSDP2 in place of DDP")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--directory", default="checkpoints", help="outside a cluster")
    return parser.parse_args()


if __name__ == "__main__":
    main()
