"""A whole world in which a spare stands ready when a worker is lost."""

import pytest

from tests.simulation.scenarios import spare, training
from tests.simulation.world import World, simulate

POD_START_SECONDS = 30.0


def names_of(world: World) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in world.living)


def test_a_spare_takes_a_lost_workers_place() -> None:
    world = simulate(spare, workers=2, spare_nodes=1)
    world.check()
    assert [one.world.workers for one in world.gangs.values()] == [2, 2]
    ranks = [(one.slot, one.rank) for one in world.status.slots]
    assert ranks == [(0, 0), (1, -1), (2, 1)]
    assert world.server.created["job-2-0"] == 1
    assert "job-1-1" not in world.server.created, "there is no node for another"


@pytest.mark.parametrize("spares", [0, 1])
def test_a_swap_costs_no_start_of_a_pod(spares: int) -> None:
    stood: list[float] = []

    async def story(world: World) -> None:
        await training(world, spares=spares)
        await world.until(lambda: len(world.cluster.workers()) == 2 + spares)
        world.cluster.start_seconds = POD_START_SECONDS
        began = world.clock()
        world.kill_process(0)  # so that the restart waits for nothing else
        world.delete_pod(1, force=True)
        await world.until_trains(2)
        stood.append(world.clock() - began)
        await world.until(lambda: len(world.cluster.workers()) == 2 + spares)
        await world.check_rest(60)

    world = simulate(story, workers=2, spare_nodes=2)
    world.check()
    assert (stood[0] < POD_START_SECONDS) == bool(spares)


def test_a_gang_whose_spare_crashes_at_its_start_trains_on() -> None:
    async def story(world: World) -> None:
        await training(world, spares=1)
        await world.until(lambda: len(world.cluster.workers()) == 3)
        world.cluster._left(world.worker(2).uid, 1, "ImportError")
        await world.until(lambda: bool(world.status.elastic and world.status.elastic.snoozed_until))
        assert len(world.gangs) == 1
        await world.until(lambda: len(world.cluster.workers()) == 3, seconds=700)
        assert len(world.gangs) == 1

    world = simulate(story, workers=2, spare_nodes=1)
    world.check()
    assert world.status.recovery.total == 0


def test_a_spares_node_that_flaps_leaves_the_gang_alone() -> None:
    async def story(world: World) -> None:
        await training(world, spares=1)
        await world.until(lambda: len(world.cluster.workers()) == 3)
        node = world.node_of(2)
        for _ in range(2):
            world.cluster.lose_node(node)
            await world.until(lambda: world.status.workers.spares == 0, seconds=120)
            world.cluster.heal(node)
            await world.until(lambda: world.status.workers.spares == 1, seconds=1000)
        assert len(world.gangs) == 1
        await world.check_rest(60)

    world = simulate(story, workers=2, spare_nodes=1)
    world.check()
    assert world.status.recovery.total == 0


def test_a_suspended_job_holds_no_spare() -> None:
    async def story(world: World) -> None:
        await training(world, spares=1)
        world.edit_spec(suspend=True)
        await world.until(lambda: not world.pods)
        world.edit_spec(suspend=False)
        await world.until(lambda: world.trains(2) and len(world.living) == 3)

    simulate(story, workers=2, spare_nodes=1).check()


def test_a_finished_job_lets_its_spares_go() -> None:
    async def story(world: World) -> None:
        await training(world, spares=1)
        world.finish()
        await world.until(lambda: world.status.finished_at is not None)
        await world.until(lambda: not world.cluster.workers())
        assert names_of(world) == []

    simulate(story, workers=2, spare_nodes=1).check()
