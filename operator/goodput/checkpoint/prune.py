"""Which saves may be deleted. Pure; `store` carries it out.

The rule that everything hangs on: nothing is deleted before the operator has acknowledged a
newer durable checkpoint. An attempt that has been given up gets no acknowledgement, so it
deletes nothing, however long it lives.
"""

from dataclasses import dataclass
from typing import Iterable, List, Optional

from goodput.checkpoint.layout import Place
from goodput.checkpoint.lineage import Lineage
from goodput.protocol import Commit

MINIMUM_KEPT = 2


@dataclass(frozen=True)
class Found:
    """A save on disk; `good` when its manifest can be read and its files have their sizes."""

    place: Place
    good: bool


def doomed(
    found: Iterable[Found],
    *,
    lineage: Lineage,
    attempt: int,
    durable: Commit,
    keep: int,
    in_use: Optional[Commit] = None,
) -> List[Place]:
    """Return what the rank that published may delete now, oldest first.

    Stays: everything newer than `durable`, `durable` itself and the next good ones of the
    lineage behind it, `keep` in all and never fewer than two; the restore point `in_use`; and
    everything, once an attempt newer than ours has written here, while the durable checkpoint
    is not there as expected, or while there are no two good ones. Unfinished, broken and foreign
    saves behind it go as soon as the durable one is our own: only then is their attempt surely of
    no more use.
    """
    newest_first = sorted(found, key=lambda one: one.place, reverse=True)
    kept = [
        one.place
        for one in newest_first
        if one.good and lineage.holds(one.place) and not _newer(one.place, durable)
    ][: max(keep, MINIMUM_KEPT)]
    overtaken = any(one.place.attempt > attempt for one in newest_first)
    if overtaken or len(kept) < MINIMUM_KEPT or kept[0].commit != durable:
        return []
    oldest_kept = kept[-1]
    return [
        one.place
        for one in reversed(newest_first)
        if one.place not in kept
        and _behind(one.place, durable)
        and one.place.commit != in_use
        and (
            durable.attempt == attempt
            if not one.good or not lineage.holds(one.place)
            else one.place < oldest_kept
        )
    ]


def _newer(place: Place, durable: Commit) -> bool:
    return (place.attempt, place.step) > (durable.attempt, durable.step)


def _behind(place: Place, durable: Commit) -> bool:
    return (place.attempt, place.step) < (durable.attempt, durable.step)
