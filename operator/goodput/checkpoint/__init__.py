"""Checkpoints that a restart can trust.

```python
from goodput import checkpoint, session

restored = checkpoint.restore()
if restored is not None:
    model.load_state_dict(torch.load(restored.path / "model.pt"))

for step in range(restored.step + 1 if restored else 1, steps + 1):
    train(step)
    if step % 100 == 0:
        with checkpoint.saving(step) as path:
            if session.rank() == 0:  # no two ranks may write one file
                torch.save(model.state_dict(), path / "model.pt")
```

Every rank calls both, at the same steps; a rank without files of its own writes none. The
files may be of any kind. For sharded state there is `goodput.checkpoint.torch`.

In a cluster the operator's word decides which checkpoint is gone on from, and which may be
deleted. Outside, on a laptop, the same code goes on from the newest and keeps the newest two.
What lies on disk: `goodput.checkpoint.layout`.
"""

import os
import pathlib
from typing import ContextManager, Dict, Optional

from goodput import protocol, session
from goodput.checkpoint.errors import CheckpointError, ReshardError
from goodput.checkpoint.store import Restored, Store

__all__ = ["CheckpointError", "ReshardError", "Restored", "restore", "saving"]

_stores: Dict[str, Store] = {}


def saving(
    step: int, directory: str = "", timeout_seconds: float = 600.0
) -> ContextManager[pathlib.Path]:
    """Save a checkpoint of the state after `step`: write this rank's files into the path given.

    The path is an empty directory of this rank's own. When the block ends, its files are
    checksummed, put on disk and moved beside those of the other ranks, so no two ranks may
    use one name; when all ranks have got so far, rank 0 publishes the checkpoint. With
    torch.distributed initialised all ranks leave the block together, then or with an error;
    without it the other ranks do not wait for rank 0.

    Args:
        step: the last finished step.
        directory: where checkpoints lie when the job does not say it (`GOODPUT_CHECKPOINT_DIR`).
        timeout_seconds: how long rank 0 waits for the files of the others.

    Raises:
        CheckpointError: nothing was published (the disk is full, a rank has failed …). Older
            checkpoints are as they were, and the training may go on and save a later step.
    """
    return _store(directory).saving(step, timeout_seconds)


def restore(directory: str = "") -> Optional[Restored]:
    """Return the newest checkpoint to go on from, or None to begin from nothing.

    Only checkpoints of this attempt's lineage count: what a lost predecessor wrote after it
    had been given up is never read. Each is verified, every file by its size and checksum;
    one that fails is passed over for the next older, and reported with the reason. With
    torch.distributed initialised the ranks share this work and get the same answer. Without it
    several ranks cannot agree, so each restores what the operator named or raises; the operator
    then starts all of them from the newest that every rank can read. What a shared file system
    does not show yet is waited for, a minute and some.

    Args:
        directory: where checkpoints lie when the job does not say it (`GOODPUT_CHECKPOINT_DIR`).

    Raises:
        CheckpointError: checkpoints exist, or the operator named one, but none is whole; or the
            ranks cannot agree on one.
    """
    return _store(directory).restore()


def _store(directory: str) -> Store:
    directory = os.environ.get(protocol.ENV_CHECKPOINT_DIR) or directory
    if not directory:
        raise CheckpointError(
            "where? set spec.checkpoint.directory or {}, or pass a directory".format(
                protocol.ENV_CHECKPOINT_DIR
            )
        )
    if directory not in _stores:
        _stores[directory] = Store(directory, os.environ, session.current())
    return _stores[directory]
