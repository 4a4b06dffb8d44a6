"""Choose nodes for the missing workers of one gang, all of them or none. Pure.

In this order: racks that already hold workers of the gang; as few further racks as possible;
as few nodes as possible; the tightest fit, so that whole nodes stay free for others. Filling
the largest first and the last remainder into the smallest that holds it needs the fewest racks.
The result depends on nothing but the arguments' values: not on the order of the nodes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from goodput_operator import names
from goodput_operator.gang.constraints import Constraints
from goodput_operator.observe.resources import Resources

JobKey = tuple[str, str]
"""(namespace, name)."""

LEFT_OVER = -(2**31) - 1
"""The priority, below that of any pod, of one who takes only what nobody waits for."""


@dataclass(frozen=True, slots=True)
class GangRequest:
    """What a gang needs now.

    Attributes:
        slots: the slots that need a node; consecutive ones end up close to each other.
        requests: what one worker pod asks for (`resources.pod_requests`), at least 1 of `pods`.
        constraints: which nodes its template may use.
        bound: the nodes of the slots whose pods stay where they are.
        excluded: nodes to avoid, each until a moment.
        topology_key: the node label that names a rack.
        priority: a higher one is served first.
    """

    slots: tuple[int, ...]
    requests: Resources
    constraints: Constraints = field(default_factory=Constraints)
    bound: Mapping[int, str] = field(default_factory=dict)
    excluded: Mapping[str, datetime] = field(default_factory=dict)
    topology_key: str = names.LABEL_RACK
    priority: int = 0

    def avoids(self, node: str, now: datetime) -> bool:
        """Return whether `node` is excluded at this moment."""
        until = self.excluded.get(node)
        return until is not None and until > now


@dataclass(frozen=True, slots=True)
class Placement:
    """A node for each of the request's slots."""

    nodes: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Not all workers fit.

    Attributes:
        message: what is needed, how much of it fits, and what is in the way.
        fits: how many of the missing workers would find a node.
        waiting_behind: the gang for which the room is kept, when it is that alone.
    """

    message: str
    fits: int = 0
    waiting_behind: JobKey | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many workers of the gang a node can take, and the accelerators that it has free."""

    name: str
    rack: str
    workers: int
    accelerators: int


@dataclass(frozen=True, slots=True)
class _Rack:
    name: str
    rooms: Sequence[Room]
    workers: int
    accelerators: int


class _Place(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def accelerators(self) -> int: ...


P = TypeVar("P", bound=_Place)


def choose(slots: Sequence[int], rooms: Iterable[Room], racks_in_use: Iterable[str]) -> Placement:
    """Return a node for each slot; the rooms must hold them all.

    Args:
        slots: those without a node.
        rooms: the nodes that can take at least one worker.
        racks_in_use: the rack of each worker that stays where it is.
    """
    racks = _racks(rooms)
    missing = len(slots)
    shares: list[tuple[_Rack, int]] = []
    for name, _ in sorted(Counter(racks_in_use).items(), key=lambda item: (-item[1], item[0])):
        if name in racks and missing:
            rack = racks.pop(name)
            shares.append((rack, min(rack.workers, missing)))
            missing -= shares[-1][1]
    shares += _fewest(racks.values(), missing)
    nodes = [
        room.name
        for rack, share in shares
        for room, workers in sorted(_fewest(rack.rooms, share), key=lambda item: item[0].name)
        for _ in range(workers)
    ]
    return Placement(dict(zip(sorted(slots), nodes, strict=True)))


def _racks(rooms: Iterable[Room]) -> dict[str, _Rack]:
    by_name: dict[str, list[Room]] = {}
    for room in rooms:
        by_name.setdefault(room.rack, []).append(room)
    return {
        name: _Rack(
            name,
            inside,
            sum(one.workers for one in inside),
            sum(one.accelerators for one in inside),
        )
        for name, inside in by_name.items()
    }


def _fewest(places: Iterable[P], workers: int) -> list[tuple[P, int]]:
    """Return the fewest places that hold so many workers, each with its share."""
    ordered = sorted(places, key=lambda place: (-place.workers, place.accelerators, place.name))
    taken: list[tuple[P, int]] = []
    for index, place in enumerate(ordered):
        if not workers:
            break
        if place.workers < workers:
            taken.append((place, place.workers))
            workers -= place.workers
            continue
        fitting = (other for other in ordered[index:] if other.workers >= workers)
        tightest = min(fitting, key=lambda one: (one.accelerators, one.workers, one.name))
        taken.append((tightest, workers))
        workers = 0
    return taken
