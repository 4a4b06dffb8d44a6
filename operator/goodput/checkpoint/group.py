"""How the ranks of a gang come to the same answer.

Where torch.distributed is initialised they talk through it. Without it each rank answers for
itself (rank 0 reads on disk what the others have done), and restores exactly what the operator
named or gives up: no two ranks ever go on from different checkpoints. `torch` is never imported
here: if the trainer uses it, it is there.
"""

import sys
from typing import Any, Callable, List, TypeVar

from goodput.checkpoint.errors import CheckpointError
from goodput.session import Session

T = TypeVar("T")


class Group:
    """The ranks that save and restore together."""

    talks = False
    """Whether the ranks can exchange values."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def gather(self, value: T) -> List[T]:
        """Return the values of all ranks that can be heard, in rank order."""
        return [value]

    def share(self, produce: Callable[[], T]) -> T:
        """Return what `produce` returns on rank 0, or raise there and here what it raises.

        Ranks that cannot talk each produce for themselves.
        """
        return produce()


class TorchGroup(Group):
    """The default process group of torch.distributed."""

    talks = True

    def __init__(self, distributed: Any) -> None:
        super().__init__(distributed.get_rank(), distributed.get_world_size())
        self._distributed = distributed

    def gather(self, value: T) -> List[T]:
        """Return the values of all ranks, in rank order."""
        values: List[Any] = [None] * self.size
        self._distributed.all_gather_object(values, value)
        return values

    def share(self, produce: Callable[[], T]) -> T:
        """Return what `produce` returns on rank 0, or raise there and here what it raises."""
        value: Any = None
        if self.rank == 0:
            try:
                value = produce()
            except CheckpointError as error:
                value = error
        values = [value]
        self._distributed.broadcast_object_list(values, src=0)
        if isinstance(values[0], CheckpointError):
            raise values[0]
        result: T = values[0]
        return result


def current(alone: Session) -> Group:
    """Return the group of this moment: a process group may have come or gone."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return TorchGroup(distributed)
    return Group(alone.rank, alone.world_size)
