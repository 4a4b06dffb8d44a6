"""Train char-gpt as anybody would, under torchrun, with checkpoints of its own.

Nothing here knows of the operator: it is started again after a failure, finds its own newest
checkpoint, and goes on. The file `latest` names it, as DeepSpeed's does.
"""

import argparse
import os
import pathlib

import torch
import torch.distributed as dist
from model import CharGPT, corpus, samples
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    train(options, device)
    dist.destroy_process_group()


def train(options: argparse.Namespace, device: torch.device) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    model = DistributedDataParallel(CharGPT().to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    done = load(options.directory, model, optimizer, device)
    if rank == 0:
        print(f"{world_size} ranks, from step {done}", flush=True)

    text = corpus()
    for step in range(done + 1, options.steps + 1):
        batch = samples(text, step, options.batch, rank, world_size).to(device)
        loss = model(batch).sum() * world_size / options.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach()
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step} loss {mean.item() / world_size:.3f}", flush=True)
            if step % options.checkpoint_every == 0 or step == options.steps:
                save(options.directory, step, model, optimizer)


def save(directory: pathlib.Path, step: int, model, optimizer) -> None:
    name = f"global_step{step}"
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, directory / f"{name}.tmp")
    (directory / f"{name}.tmp").replace(directory / f"{name}.pt")
    (directory / "latest.tmp").write_text(name)
    (directory / "latest.tmp").replace(directory / "latest")
    for old in sorted(directory.glob("global_step*.pt"), key=lambda file: file.stat().st_mtime):
        if old.stem != name:
            old.unlink()


def load(directory: pathlib.Path, model, optimizer, device: torch.device) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "latest").exists():
        return 0
    name = (directory / "latest").read_text()
    state = torch.load(directory / f"{name}.pt", map_location=device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint-every", type=int, default=25)
    parser.add_argument("--batch", type=int, default=16, help="samples of all ranks together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--directory", type=pathlib.Path, default="checkpoints")
    return parser.parse_args()


if __name__ == "__main__":
    main()
