"""What a user sees happen to a job, each from before the trouble to the rest after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from goodput_operator.api.status import ConditionType
from tests.simulation.world import Scenario, World


async def training(world: World, **spec: Any) -> None:
    """A job trains; faults have not begun."""
    async with before(world):
        await world.start_operator()
        world.create_job(**spec)
        await world.until_trains(1)


@asynccontextmanager
async def before(world: World) -> AsyncIterator[None]:
    """What happens before writes are counted, and fail."""
    faults, world.server.faults = world.server.faults, {}
    yield
    world.server.faults = faults
    world.server.begin()


async def create(world: World) -> None:
    """A job is created, forms its gang and trains."""
    await world.start_operator()
    world.server.begin()
    world.create_job()
    await world.until_trains(1)


async def process_crash(world: World) -> None:
    """A training process dies."""
    await training(world)
    world.kill_process(1)
    await world.until_trains(2)


async def pod_lost(world: World) -> None:
    """A worker's pod is deleted."""
    await training(world)
    world.delete_pod(1)
    await world.until_trains(2)


async def node_lost(world: World) -> None:
    """A worker's node loses its power."""
    await training(world)
    world.cluster.lose_node(world.node_of(1))
    await world.until_trains(2)


async def suspend_resume(world: World) -> None:
    """The user suspends the job, and resumes it."""
    await training(world)
    world.edit_spec(suspend=True)
    await world.until(lambda: world.is_true(ConditionType.SUSPENDED) and not world.pods)
    world.edit_spec(suspend=False)
    await world.until_trains(2)


async def finish(world: World) -> None:
    """The training ends well."""
    await training(world)
    world.finish()
    await world.until_true(ConditionType.SUCCEEDED)
    await world.until(lambda: all(p["status"]["phase"] == "Succeeded" for p in world.pods))


async def delete(world: World) -> None:
    """The user deletes a job that has just begun to train."""
    await create(world)
    world.delete_job()
    await world.until(lambda: not world.pods)


async def refused_create(world: World) -> None:
    """A quota lets only a part of the gang in, and is raised later."""
    await world.start_operator()
    world.server.begin()
    world.max_pods = 1
    world.create_job()
    await world.until(lambda: world.reason(ConditionType.ADMITTED) == "CreateRefused")
    await world.until(lambda: not world.living)
    world.max_pods = None
    await world.until_trains(1)


async def zombie_returns(world: World) -> None:
    """The worker that saves is cut off, its last save lands late, and then it comes back."""
    await training(world)
    await world.until(lambda: len(world.disk) > 0)
    zombie, node = world.gang(), world.partition(0)
    await world.until_trains(2)
    zombie.step += 1
    zombie.commit()
    world.heal(node)
    await asyncio.sleep(1)
    world.kill_process(1)
    await world.until_trains(3)


async def two_nodes_lost(world: World) -> None:
    """A rack loses its power, and with it two workers."""
    await training(world)
    for node in [world.node_of(slot) for slot in (1, 2)]:
        world.cluster.lose_node(node)
    await world.until_trains(2)


async def crash_loop(world: World) -> None:
    """The user's process fails again and again, until the budget is used up."""
    await training(world, recovery={"maxRestarts": 2})
    for attempt in (1, 2, 3):
        await world.until_trains(attempt)
        world.kill_process(1)
    await world.until_true(ConditionType.FAILED)
    await world.until(lambda: not world.cluster.workers())


async def spec_edit(world: World) -> None:
    """The user edits the running job, suspends it, and resumes it with another image."""
    await training(world)
    world.edit_spec(recovery={"maxRestarts": 1})
    world.edit_spec(suspend=True)
    await world.until(lambda: world.is_true(ConditionType.SUSPENDED) and not world.pods)
    world.edit_image("train:2")
    world.edit_spec(suspend=False)
    await world.until_trains(2)


async def gang_waits(world: World) -> None:
    """There is room for a part of the gang only, until somebody else leaves."""
    taken = list(world.cluster.kubelets)[1:]
    for node in taken:
        world.occupy(node)
    await world.start_operator()
    world.server.begin()
    world.create_job()
    await world.until(lambda: world.reason(ConditionType.ADMITTED) == "DoesNotFit")
    assert not world.pods
    for node in taken:
        world.vacate(node)
    await world.until_trains(1)


async def checkpoint_spoiled(world: World) -> None:
    """The newest checkpoint is damaged before it is needed: the trainers go on from an older."""
    await training(world)
    await world.until(lambda: len(world.disk) >= 2)
    spoiled = world.disk.spoil()
    world.kill_process(1)
    await world.until_trains(2)
    restored = world.gang().restored
    assert restored is not None
    assert 0 < restored.step < spoiled.step


ELASTIC = {"minWorkers": 2, "maxWorkers": 4}


async def shrink(world: World) -> None:
    """A worker's node is lost, there is no other, and the gang may be smaller."""
    await training(world, elastic=ELASTIC)
    world.cluster.lose_node(world.node_of(1))
    await until_trains(world, 2, workers=3)


async def grow(world: World) -> None:
    """There is room again for a gang that went on without a worker."""
    async with before(world):
        await world.start_operator()
        world.create_job(workers=3, elastic=ELASTIC)
        await world.until_trains(1)
        world.edit_spec(workers=4)  # so the operator learns what a change of size costs
        await until_trains(world, 2, workers=4)
        node = world.node_of(1)
        world.cordon(node)
        world.delete_pod(1)
        await until_trains(world, 3, workers=3)
    world.cordon(node, off=True)
    await until_trains(world, 4, workers=4)
    assert world.lost_steps() == 0, "the growth lost steps"


async def scale(world: World) -> None:
    """The user wants fewer workers, and then more again."""
    await training(world, elastic=ELASTIC)
    for attempt, workers in ((2, 3), (3, 4)):
        world.edit_spec(workers=workers)
        await until_trains(world, attempt, workers=workers)
    assert not world.sdk or world.lost_steps() == 0, "a change of size by choice lost steps"


async def reclaimed(world: World) -> None:
    """A worker's node says that it is about to go, and the gang saves before."""
    await training(world)
    world.announce(world.node_of(1), "aws-node-termination-handler/spot-itn")
    await world.until_trains(2)
    assert world.lost_steps() == 0, "there was time to save"


async def drained(world: World) -> None:
    """A worker's node is drained, and an elastic gang saves and goes on smaller."""
    await training(world, elastic=ELASTIC)
    world.drain(1)
    await until_trains(world, 2, workers=3)
    assert world.lost_steps() == 0, "there was time to save"


async def spare(world: World) -> None:
    """A worker's node is lost, and a spare takes its place; no other spare can be had."""
    await training(world, spares=1)
    world.cluster.lose_node(world.node_of(1))
    await world.until_trains(2)


async def until_trains(world: World, attempt: int, *, workers: int) -> None:
    """The attempt trains, with so many workers."""
    await world.until(lambda: world.trains(attempt))
    assert world.gang().world.workers == workers


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        create,
        process_crash,
        pod_lost,
        node_lost,
        suspend_resume,
        finish,
        delete,
        refused_create,
        zombie_returns,
        two_nodes_lost,
        crash_loop,
        spec_edit,
        gang_waits,
        checkpoint_spoiled,
        shrink,
        grow,
        scale,
        reclaimed,
        drained,
        spare,
    )
}

WORLDS: dict[str, dict[str, int]] = {
    "two_nodes_lost": {"workers": 3, "spare_nodes": 2},
    "shrink": {"workers": 4, "spare_nodes": 0},
    "grow": {"workers": 4, "spare_nodes": 0},
    "scale": {"workers": 4, "spare_nodes": 0},
    "spare": {"workers": 2, "spare_nodes": 1},
    "drained": {"workers": 4, "spare_nodes": 0},
}
"""The worlds that some of them need."""

WITHOUT_SDK = ("process_crash", "pod_lost", "suspend_resume")
"""Without the SDK a lost node needs a person; to the others it makes no difference."""

CHANCE = frozenset({"refused_create"})
"""How many pods a slot had before the quota was raised is chance."""
