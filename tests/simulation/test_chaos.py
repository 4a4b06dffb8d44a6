"""A row of random harms, one upon the other; once all is healed the job trains again."""

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.simulation.apiserver import Fault
from tests.simulation.world import World, simulate

PAUSES_SECONDS = (0.01, 0.1, 0.5, 1, 3, 12, 20, 45)
FAULTS = tuple(Fault)


class Chaos:
    """Does harm by chance, the same for the same seed, and knows how to heal it."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._chance = random.Random(seed)
        self._down: set[str] = set()
        self._harms: tuple[Callable[[int], None], ...] = (
            self._kill,
            world.delete_pod,
            lambda slot: world.delete_pod(slot, force=True),
            lambda slot: self._take_down(slot, world.cluster.lose_node),
            lambda slot: self._take_down(slot, world.cluster.cut_off),
            lambda _: self.bring_back(),
            lambda _: self._crash(1.5),
            lambda _: self._crash(25),
            lambda _: world.edit_spec(suspend=True),
            lambda _: world.edit_spec(suspend=False),
            lambda _: world.server.frozen.add(self._chance.choice(["pods", "nodes"])),
            lambda _: world.server.thaw(),
            lambda slot: setattr(world, "max_pods", slot + 1),
            lambda _: setattr(world, "max_pods", None),
            lambda _: self._break_a_write(),
        )

    async def rage(self) -> None:
        for _ in range(self._chance.randint(3, 14)):
            await asyncio.sleep(self._chance.choice(PAUSES_SECONDS))
            slot = self._chance.randrange(self._world.workers)
            harm = self._chance.choice(self._harms)
            try:
                harm(slot)
            except (ValueError, KeyError):
                continue  # there is no such pod, or it has no node yet

    def heal(self) -> None:
        world = self._world
        world.server.faults.clear()
        world.server.thaw()
        world.max_pods = None
        self.bring_back()
        world.edit_spec(suspend=False)

    def bring_back(self) -> None:
        for node in sorted(self._down):
            self._world.cluster.heal(node)
        self._down.clear()

    def _kill(self, slot: int) -> None:
        for process in self._world.worker(slot).living():
            process.end(1)

    def _take_down(self, slot: int, how: Callable[[str], None]) -> None:
        node = self._world.node_of(slot)
        if node not in self._down:
            self._down.add(node)
            how(node)

    def _crash(self, away_seconds: float) -> None:
        if not self._world.operator.ended.is_set():
            self._world.crash_operator(away_seconds=away_seconds)

    def _break_a_write(self) -> None:
        position = len(self._world.server.writes) + self._chance.randint(1, 6)
        self._world.server.faults[position] = self._chance.choice(FAULTS)


@pytest.mark.parametrize("sdk", [True, False], ids=["sdk", "no-sdk"])
@pytest.mark.parametrize("seed", range(30))
def test_a_job_survives_a_row_of_harms(seed: int, sdk: bool) -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.create_job(recovery={"maxRestarts": 999, "maxRestartsWithoutProgress": 1000})
        chaos = Chaos(world, seed)
        await chaos.rage()
        chaos.heal()
        await world.until(
            lambda: bool(world.status.attempt and world.trains(world.status.attempt.number)),
            seconds=420,
        )
        await asyncio.sleep(45)
        await world.check_rest()

    simulate(story, sdk=sdk, workers=3).check(created_once=False)
