"""Sharded checkpoints of PyTorch state, through torch.distributed.checkpoint (DCP).

```python
import goodput.checkpoint.torch as checkpoint

state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
step = checkpoint.load_state(state) or 0
...
checkpoint.save_state(step, state)
```

Each rank writes its shards, and a checkpoint can be loaded by another number of ranks. Works
with any process group, and in a single process without one. PyTorch 2.2 or newer.
"""

import importlib
import warnings
from typing import Any, Dict, Optional

from goodput import checkpoint, session

__all__ = ["load_state", "save_state"]


def save_state(
    step: int, state: Dict[str, Any], directory: str = "", timeout_seconds: float = 600.0
) -> None:
    """Save `state`, as it is after `step`; on all ranks. Errors: see `checkpoint.saving`.

    Args:
        step: the last finished step.
        state: tensors, DTensors and other values by name, nested as DCP allows.
        directory: see `checkpoint.saving`.
        timeout_seconds: see `checkpoint.saving`.
    """
    dcp = _dcp()
    with checkpoint.saving(step, directory, timeout_seconds) as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group: we know
        # A path for each rank: DCP's own names are relative, and distinct. What it would
        # fsync is fsynced when the block ends.
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path, sync_files=False))


def load_state(state: Dict[str, Any], directory: str = "") -> Optional[int]:
    """Load the newest good checkpoint into `state`, in place; on all ranks.

    Returns:
        its step, or None when there is none and `state` is untouched.

    Raises:
        CheckpointError: see `checkpoint.restore`.
        ReshardError: another number of ranks has saved it, and DCP cannot load it with this one.
    """
    dcp = _dcp()
    restored = checkpoint.restore(directory)
    if restored is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcp.load(state, storage_reader=dcp.FileSystemReader(restored.path))
        except (Exception, dcp.CheckpointException) as error:  # the latter is a BaseException
            ranks = session.world_size()
            if restored.world_size == ranks:
                raise
            raise checkpoint.ReshardError(
                "step {} was saved by {} ranks and cannot be loaded by {}: {}".format(
                    restored.step, restored.world_size, ranks, _first_cause(error)
                ),
                str(restored.path),
            ) from error
    return restored.step


def _first_cause(error: BaseException) -> str:
    """Return in one line what went wrong: DCP's own words hold a traceback of every rank."""
    failures = getattr(error, "failures", None) or {0: (error, None)}
    _, (cause, _) = min(failures.items())
    return "{}: {}".format(type(cause).__name__, " ".join(str(cause).split()))


def _dcp() -> Any:
    return importlib.import_module("torch.distributed.checkpoint")
