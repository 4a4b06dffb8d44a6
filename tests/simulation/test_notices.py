"""A whole world in which workers are announced to go: the gang saves, and loses no step."""

import asyncio

import pytest

from goodput_operator.api.status import AttemptState
from tests.simulation.scenarios import drained, reclaimed, training
from tests.simulation.world import World, simulate

TAINT = "karpenter.sh/disrupted"


def test_a_reclaimed_node_costs_no_step() -> None:
    world = simulate(reclaimed)
    world.check()
    assert world.lost_steps() == 0
    assert (world.status.recovery.total, world.status.recovery.restarts) == (1, [])


def test_a_drained_worker_costs_no_step() -> None:
    world = simulate(drained, workers=4, spare_nodes=0)
    world.check()
    assert world.lost_steps() == 0
    assert world.status.recovery.restarts == []


def test_a_pod_that_somebody_deletes_costs_no_step() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.delete_pod(1)
        await world.until_trains(2)

    world = simulate(story)
    world.check()
    assert world.lost_steps() == 0


def test_a_trainer_that_does_not_save_holds_no_drain_up() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.saves = False
        world.evict(1)
        await world.until(lambda: len(world.gangs) == 2, seconds=25)
        await world.until_trains(2)

    simulate(story).check()


@pytest.mark.parametrize("away_seconds", [2.0, 60.0])
def test_without_an_operator_a_worker_that_is_to_go_goes(away_seconds: float) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.crash_operator(away_seconds=away_seconds)
        world.delete_pod(1)
        await world.until_trains(2)

    simulate(story).check()


def test_nodes_that_flap_between_going_and_staying_cost_no_step() -> None:
    async def story(world: World) -> None:
        await training(world)
        node = world.node_of(1)
        for _ in range(10):
            world.announce(node, TAINT)
            await asyncio.sleep(1)
            world.server.change("nodes", "", node, lambda one: one.update(spec={}))
            await asyncio.sleep(7)
        assert world.status.attempt is not None
        assert world.status.attempt.state is AttemptState.RUNNING
        await world.check_rest(60)

    world = simulate(story)
    world.check()
    assert world.lost_steps() == 0
