"""What the caches do not show (yet) is neither there nor gone."""

import asyncio

from goodput_operator.api.status import ConditionType
from goodput_operator.effects.gateway import JOBS
from goodput_operator.reconcile import STALE_VIEW_SECONDS
from tests.simulation.replica import Replica
from tests.simulation.scenarios import training
from tests.simulation.world import World, simulate


def test_nothing_is_decided_before_everything_was_listed_once() -> None:
    async def story(world: World) -> None:
        world.create_job()
        world.replicas.append(Replica(world, "operator-1"))
        page = await world.operator.gateway.list_page(JOBS)
        world.operator.parts.jobs.relist({}, page["items"])
        assert await world.visit() == STALE_VIEW_SECONDS
        assert world.server.writes == []

    simulate(story)


def test_a_pod_whose_end_is_not_seen_yet_is_deleted_once() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.server.frozen.add("pods")
        world.edit_spec(suspend=True)
        await world.until_true(ConditionType.SUSPENDED)
        for _ in range(5):
            world.wake()
            await asyncio.sleep(1)
        world.server.thaw()
        await world.until(lambda: not world.pods)
        deleted = [write for write in world.server.writes if write.startswith("delete")]
        assert sorted(deleted) == ["delete pods job-0-0", "delete pods job-1-0"]

    simulate(story).check()
