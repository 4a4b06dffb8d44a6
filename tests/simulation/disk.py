"""The checkpoint directory that all workers share, by the SDK's own rules of what counts.

Only the files are left out: which saves a trainer may go on from, and which it may delete, is
decided by `goodput.checkpoint` itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from goodput.checkpoint import prune
from goodput.checkpoint.layout import Manifest, Place
from goodput.checkpoint.lineage import Lineage, links_after
from goodput.protocol import Ancestor, Commit, Disk
from goodput.protocol import World as GangWorld
from tests.simulation.history import Committed, Harm, History, Pruned, clock

KEEP = 2


@dataclass(slots=True)
class Save:
    """A published save; `good` until somebody spoils it."""

    manifest: Manifest
    good: bool = True

    @property
    def place(self) -> Place:
        return Place(self.manifest.attempt, self.manifest.step)


class SharedDisk:
    """What was published and not deleted; reads as its commits, oldest first."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._saves: dict[Commit, Save] = {}

    def __iter__(self) -> Iterator[Commit]:
        return iter(self._saves)

    def __len__(self) -> int:
        return len(self._saves)

    def survey(self) -> Disk:
        """What an agent finds when it starts; see `goodput.checkpoint.layout.survey`."""
        newest = max(self._saves, key=lambda one: (one.attempt, one.step), default=None)
        return Disk(highest_attempt=newest.attempt if newest else 0, newest=newest)

    def restore(self, world: GangWorld) -> tuple[Manifest | None, tuple[str, ...]]:
        """Return what the gang goes on from, and what it had to pass over."""
        lineage, problems = Lineage(world.attempt, world.lineage), []
        for save in sorted(self._saves.values(), key=lambda one: one.place, reverse=True):
            if lineage.holds(save.place):
                lineage.learn(save.manifest.lineage)
                if save.good:
                    return save.manifest, tuple(problems)
                problems.append(f"{save.place.name}: not what was written")
        return None, tuple(problems)

    def publish(self, world: GangWorld, step: int, restored: Manifest | None) -> Commit:
        """Keep a save of this attempt."""
        links: tuple[Ancestor, ...] = ()
        if restored is not None:
            links = links_after(world.attempt, restored)
        commit = Commit(world.attempt, step)
        manifest = Manifest(
            job_uid=world.run_id.rpartition("-")[0],
            attempt=world.attempt,
            step=step,
            world_size=world.world_size,
            lineage=links,
            files=(),
        )
        self._saves[commit] = Save(manifest)
        self._history.add(Committed(clock(), commit))
        return commit

    def prune(self, world: GangWorld, durable: Commit | None, restored: Manifest | None) -> None:
        """Delete what a process of this attempt may, by what the operator has acknowledged."""
        if durable is None:
            return
        lineage = Lineage(world.attempt, world.lineage)
        if restored is not None:
            lineage.learn(links_after(world.attempt, restored))
        for place in prune.doomed(
            [prune.Found(save.place, save.good) for save in self._saves.values()],
            lineage=lineage,
            attempt=world.attempt,
            durable=durable,
            keep=KEEP,
            in_use=Commit(restored.attempt, restored.step) if restored else None,
        ):
            del self._saves[place.commit]
            self._history.add(Pruned(clock(), world.attempt, place.commit))

    def spoil(self) -> Commit:
        """Somebody damages the newest save; return it."""
        newest = max(self._saves.values(), key=lambda one: one.place)
        newest.good = False
        self._history.add(Harm(clock(), "Spoiled", str(newest.place.commit)))
        return newest.place.commit
