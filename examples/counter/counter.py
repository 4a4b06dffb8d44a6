"""A training job without a framework: it adds up numbers, synchronously, over all ranks.

Its "loss" depends on every sample up to the step and on nothing else, so a run that was
interrupted, restored or resized prints the same losses as one that was not.
"""

import argparse
import json
import time

from star import Star

from goodput import checkpoint, session

GLOBAL_BATCH = 12


def weight(sample: int) -> int:
    """What the job learns from a sample."""
    return 1 + sample * 2654435761 % 1000


def loss_of(total: int) -> float:
    """Falls as the job learns."""
    return round(5 / (1 + total / 100_000), 6)


def main() -> None:
    options = arguments()
    rank, world_size, attempt = session.rank(), session.world_size(), session.attempt()
    first, learned = 1, 0
    restored = checkpoint.restore(options.directory)
    if restored is not None:
        first = restored.step + 1
        shards = list(restored.path.glob("learned-*"))
        if options.same_size and len(shards) != world_size:
            raise checkpoint.ReshardError(
                f"step {restored.step} was saved by {len(shards)} ranks and cannot be loaded by "
                f"{world_size}"
            )
        if rank == 0:  # what all ranks had learned, however many there were
            learned = sum(int(shard.read_text()) for shard in shards)
    ranks = Star(rank, world_size, hang=options.peer_lost == "hang")
    began = time.time()
    for step in range(first, options.steps + 1):
        samples = range((step - 1) * GLOBAL_BATCH + rank, step * GLOBAL_BATCH, world_size)
        learned += sum(weight(sample) for sample in samples)
        time.sleep(options.step_seconds)
        loss = loss_of(ranks.sum(learned))
        session.step(step)
        at = time.time()
        said = {"rank": rank, "attempt": attempt, "step": step, "loss": loss}
        said.update(samples=list(samples), at=at, seconds=at - began)
        print(json.dumps(said), flush=True)
        began = at
        asked = session.should_save()  # the gang is about to change its size, or to be suspended
        if asked or step % options.checkpoint_every == 0 or step == options.steps:
            with checkpoint.saving(step, options.directory) as path:
                (path / f"learned-{rank}").write_text(str(learned))
            began = time.time()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--directory", default="checkpoints", help="outside a cluster")
    parser.add_argument("--peer-lost", choices=("fail", "hang"), default="fail")
    parser.add_argument("--same-size", action="store_true", help="load no other gang's checkpoint")
    return parser.parse_args()


if __name__ == "__main__":
    main()
