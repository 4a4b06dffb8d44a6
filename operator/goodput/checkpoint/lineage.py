"""Which saves the current attempt may go on from: the fence at the read.

An attempt of which the operator has lost sight may go on writing to a shared file system, and
no lock there can be trusted to stop it. So nothing stops it: what it writes after its
successor had opened simply lies outside the successor's lineage, and is never read.

Pure.
"""

import sys
from typing import Dict, Iterable, Optional, Tuple

from goodput.checkpoint.layout import LINEAGE_LIMIT, Manifest, Place
from goodput.protocol import Ancestor

_ANY_STEP = sys.maxsize


class Lineage:
    """The attempts that an attempt descends from, each up to the step it was left at.

    With None for the attempt it holds every save: outside a cluster nobody numbers the runs,
    and nobody overtakes anybody.
    """

    def __init__(self, attempt: Optional[int], links: Iterable[Ancestor] = ()) -> None:
        self._everything = attempt is None
        self._last_step: Dict[int, int] = {attempt or 0: _ANY_STEP}
        self.learn(links)

    def holds(self, place: Place) -> bool:
        """Whether the save belongs to the lineage."""
        return self._everything or place.step <= self._last_step.get(place.attempt, -1)

    def learn(self, links: Iterable[Ancestor]) -> None:
        """Add the ancestors that a manifest of the lineage tells; what is known stays."""
        for link in links:
            if link.attempt in self._last_step and 0 < link.origin < link.attempt:
                self._last_step.setdefault(link.origin, link.step)


def links_after(attempt: int, restored: Manifest) -> Tuple[Ancestor, ...]:
    """Return the lineage of an attempt that went on from `restored`, as its manifests tell it."""
    if restored.attempt == attempt:  # the attempt's own, after its processes were restarted
        return restored.lineage
    own = Ancestor(attempt=attempt, origin=restored.attempt, step=restored.step)
    return (own, *restored.lineage)[:LINEAGE_LIMIT]
