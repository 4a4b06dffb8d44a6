"""Train char-gpt on any number of ranks, on GPUs over NCCL or on CPUs over gloo.

The global batch stays the same on any number of ranks, so the loss goes on where it was.
"""

import argparse
import os

import torch
import torch.distributed as dist
from model import CharGPT, corpus, samples
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
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
    torch.manual_seed(1)
    model = CharGPT().to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if world_size > 1:
        model = DistributedDataParallel(model)
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
        print(f"{parameters} parameters, {world_size} ranks, from step {done or 0}", flush=True)

    text = corpus()
    for step in range((done or 0) + 1, options.steps + 1):
        batch = samples(text, step, options.batch, rank, world_size).to(device)
        # The mean over the global batch, also where the ranks' shares differ by one.
        loss = model(batch).sum() * world_size / options.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach()
        if world_size > 1:
            dist.all_reduce(mean)
        session.step(step)
        if rank == 0:
            print(f"step {step} loss {mean.item() / world_size:.3f}", flush=True)
        asked = session.should_save()  # the gang is about to change its size, or to be suspended
        if asked or step % options.checkpoint_every == 0 or step == options.steps:
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optimizer": moments}
            checkpoint.save_state(step, state, options.directory)


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
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--directory", default="checkpoints", help="outside a cluster")
    return parser.parse_args()


if __name__ == "__main__":
    main()
