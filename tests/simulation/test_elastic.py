"""An elastic job in a whole world: it goes on smaller, grows again, and loses no step by choice."""

import asyncio
from typing import Any

import pytest

from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from tests.simulation import oracle
from tests.simulation.scenarios import scale, shrink, training
from tests.simulation.test_chaos import Chaos
from tests.simulation.workers import STEPS_PER_COMMIT
from tests.simulation.world import World, simulate

ELASTIC: dict[str, Any] = {"minWorkers": 2, "maxWorkers": 8}
WORKERS = 4


def size(world: World) -> int:
    return world.gang().world.workers


async def until_trains(world: World, workers: int, seconds: float = 400) -> None:
    """The newest attempt trains on so many workers."""

    def holds() -> bool:
        attempt = world.status.attempt
        return bool(attempt and world.trains(attempt.number) and size(world) == workers)

    await world.until(holds, seconds)


def check(world: World, *, wanted: int | None = WORKERS, created_once: bool = True) -> None:
    """What must hold whatever happened; with a size that never changed, the ledger's sum, too."""
    oracle.check(world.history)
    assert not any(one.results["bug"] + one.results["error"] for one in world.replicas)
    for name, times in world.server.created.items():
        assert times == 1 or not created_once, f"{name} was created {times} times"
    if wanted is not None:
        world.check_ledger()


def test_a_gang_goes_on_smaller_when_a_node_is_lost() -> None:
    async def story(world: World) -> None:
        await shrink(world)
        assert world.reason(ConditionType.DEGRADED) == "ShrunkToFit"
        assert world.status.workers.text == "3/4"
        await world.check_rest(120)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world)
    survivors = [name for name, times in world.server.created.items() if times]
    assert sorted(survivors) == [f"job-{slot}-0" for slot in range(WORKERS)], "in their own pods"
    assert world.status.recovery.total == 1


def test_a_node_that_returns_is_taken_in_without_a_lost_step() -> None:
    async def story(world: World) -> None:
        await shrink(world)
        [node] = [n for n, one in world.cluster.kubelets.items() if not one.powered]
        world.cluster.heal(node)
        await until_trains(world, WORKERS)
        await world.check_rest(120)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world)
    assert [one.world.workers for one in world.gangs.values()] == [4, 3, 4]
    fault, growth = list(world.gangs.values())[:2]
    assert growth.step == (world.gang().world.restore_step or 0), "growth lost steps"
    assert fault.step - (growth.world.restore_step or 0) < STEPS_PER_COMMIT
    assert world.status.recovery.total == 1, "growth is no incident"
    elastic = world.status.elastic
    assert elastic is not None
    assert len(elastic.planned_restart_milliseconds) == 1
    assert world.status.ledger.accelerator_milliseconds[Bucket.DEGRADED] > 0


def test_the_user_scales_without_a_lost_step() -> None:
    async def story(world: World) -> None:
        await scale(world)
        assert len(world.pods) == WORKERS
        assert not world.is_true(ConditionType.DEGRADED)
        await world.check_rest(120)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world, wanted=None)
    assert [one.world.workers for one in world.gangs.values()] == [4, 3, 4]
    assert world.lost_steps() == 0
    assert world.status.recovery.total == 0


def test_a_suspended_elastic_job_has_saved_before() -> None:
    saved: list[bool] = []

    async def story(world: World) -> None:
        await training(world, elastic=ELASTIC)
        gang = world.gang()
        world.edit_spec(suspend=True)
        await world.until(lambda: world.is_true(ConditionType.SUSPENDED) and not world.pods)
        saved.append(gang.resting)
        world.edit_spec(suspend=False)
        await until_trains(world, WORKERS)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world)
    assert saved == [True]
    assert world.lost_steps() == 0


@pytest.mark.parametrize("graceful", [5, 600])
def test_a_trainer_that_ignores_the_question_is_not_waited_for_longer_than_said(
    graceful: int,
) -> None:
    async def story(world: World) -> None:
        await training(world, elastic={**ELASTIC, "gracefulShutdownTimeoutSeconds": graceful})
        world.saves = False
        world.edit_spec(workers=WORKERS - 1)
        await until_trains(world, WORKERS - 1, seconds=graceful + 30)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world, wanted=None)
    assert world.lost_steps() < STEPS_PER_COMMIT, "its own next commit will do"


def test_a_joiner_that_crashes_touches_nobody() -> None:
    async def story(world: World) -> None:
        await shrink(world)
        attempt = world.status.attempt
        [node] = [n for n, one in world.cluster.kubelets.items() if not one.powered]
        world.cluster.heal(node)
        await world.until(lambda: len(world.pods) == WORKERS and bool(world.pod(1)["spec"]))
        await world.until(lambda: len(world.cluster.workers()) == WORKERS)
        world.cluster._left(world.worker(1).uid, 1, "ImportError")
        await asyncio.sleep(60)
        assert attempt is not None
        assert world.status.attempt is not None
        assert world.status.attempt.number == attempt.number
        assert world.status.attempt.state is AttemptState.RUNNING
        elastic = world.status.elastic
        assert elastic is not None
        assert elastic.snoozed_until is not None
        assert world.status.recovery.total == 1
        await until_trains(world, WORKERS, seconds=1200)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world)


def test_without_the_sdk_a_change_of_size_comes_at_once() -> None:
    async def story(world: World) -> None:
        await scale(world)

    world = simulate(story, workers=WORKERS, spare_nodes=0, sdk=False)
    check(world, wanted=None)
    assert world.status.recovery.total == 0


@pytest.mark.parametrize("sdk", [True, False], ids=["sdk", "no-sdk"])
@pytest.mark.parametrize("seed", range(15))
def test_an_elastic_job_survives_a_row_of_harms_and_is_whole_again(seed: int, sdk: bool) -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.create_job(
            recovery={"maxRestarts": 999, "maxRestartsWithoutProgress": 1000},
            elastic={
                "minWorkers": 1,
                "maxWorkers": world.workers,
                "scaleUpSnoozeTimeSeconds": 60,
                "gracefulShutdownTimeoutSeconds": 30,
            },
        )
        chaos = Chaos(world, seed)
        await chaos.rage()
        chaos.heal()
        await until_trains(world, world.workers, seconds=1500)
        await asyncio.sleep(45)
        await world.check_rest()

    world = simulate(story, workers=3, spare_nodes=0, sdk=sdk)
    check(world, created_once=False)


def test_a_quota_that_lets_a_part_in_makes_the_gang_smaller_not_late() -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.max_pods = WORKERS - 1
        world.create_job(elastic={**ELASTIC, "scaleUpSnoozeTimeSeconds": 60})
        await until_trains(world, WORKERS - 1, seconds=60)
        await asyncio.sleep(300)  # growth is refused now and then
        assert len(world.gangs) == 1
        world.max_pods = None
        await until_trains(world, WORKERS)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world)
    assert world.status.recovery.total == 0


def test_an_autoscaler_that_flaps_costs_no_step() -> None:
    async def story(world: World) -> None:
        await training(world, elastic=ELASTIC)
        for turn in range(12):
            world.edit_spec(workers=WORKERS - 1 if turn % 2 == 0 else WORKERS)
            await asyncio.sleep(10)
        await until_trains(world, WORKERS)
        await world.check_rest(60)

    world = simulate(story, workers=WORKERS, spare_nodes=0)
    check(world, wanted=None)
    assert world.lost_steps() == 0
    assert world.status.recovery.total == 0


def test_pods_that_nobody_has_placed_make_a_gang_of_those_that_found_room() -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        gang = {"admission": "Always", "startTimeoutSeconds": 60}
        world.create_job(elastic=ELASTIC, gang=gang, workers=WORKERS)
        await until_trains(world, WORKERS - 1, seconds=200)

    world = simulate(story, workers=WORKERS, spare_nodes=-1)
    check(world)
