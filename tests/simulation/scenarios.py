"""What a user sees happen to a job, each from before the trouble to the rest after it."""

from typing import Any

from goodput_operator.api.status import ConditionType
from tests.simulation.world import Scenario, World


async def training(world: World, **spec: Any) -> None:
    """A job trains; faults have not begun."""
    faults, world.server.faults = world.server.faults, {}
    await world.start_operator()
    world.create_job(**spec)
    await world.until_trains(1)
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
    """The user deletes the job."""
    await training(world)
    world.delete_job()
    await world.until(lambda: not world.pods)


async def refused_create(world: World) -> None:
    """A quota lets only a part of the gang in, and is raised later."""
    await world.start_operator()
    world.server.begin()
    world.max_pods = 1
    world.create_job()
    await world.until(lambda: world.reason(ConditionType.ADMITTED) == "CreateRefused")
    await world.until(lambda: not world.pods)
    world.max_pods = None
    await world.until_trains(1)


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
    )
}

NEEDS_SDK = frozenset({"create", "node_lost", "finish", "delete", "refused_create"})
"""Without the SDK a lost node needs a person; to the others it makes no difference."""
