"""What a user sees happen to a job: each begins to count where the harm is done."""

from collections.abc import Awaitable, Callable
from typing import Any

from goodput_operator.api.status import ConditionType
from tests.sweep.world import NODES, RealWorld

Scenario = Callable[[RealWorld], Awaitable[None]]

EDITED = {"name": "EDITED", "value": "1"}
ELASTIC = {"minWorkers": 1, "maxWorkers": 2}


async def training(world: RealWorld, *, full: bool = False, spares: int = 0, **spec: Any) -> None:
    """A job trains; harm begins now. `full`: and there is room for nobody else.

    Spares are asked for once the gang trains, for else they may be any of the first workers.
    """
    await world.start_operator()
    await world.submit(**spec)
    await world.until_trains(1)
    if spares:
        await world.edit(spares=spares)
        await world.until(lambda: world.status.workers.spares == spares)
    if full:
        await world.fill()
    await world.begin()


async def create(world: RealWorld) -> None:
    """An operator starts for the first time, and a job is created and trains."""
    await world.begin()
    await world.start_operator()
    await world.submit()
    await world.until_trains(1)


async def steady(world: RealWorld) -> None:
    """Nothing happens but training, until the ledger is written."""
    await training(world)
    await world.until(lambda: any(one.point == "flush@1" for one in world.proxy.writes))


async def finish(world: RealWorld) -> None:
    """The training ends well."""
    await training(world)
    world.finish()
    await world.until_true(ConditionType.SUCCEEDED)
    await world.until(lambda: all(p["status"]["phase"] == "Succeeded" for p in world.pods))


async def process_crash(world: RealWorld) -> None:
    """A training process dies."""
    await training(world)
    world.kill_process(1)
    await world.until_trains(2)


async def pod_lost(world: RealWorld) -> None:
    """A worker's pod is deleted."""
    await training(world)
    await world.remove_pod(1)
    await world.until_trains(2)


async def node_lost(world: RealWorld) -> None:
    """A worker's node loses its power."""
    await training(world)
    await world.lose_nodes(1)
    await world.until_trains(2)


async def two_nodes_lost(world: RealWorld) -> None:
    """All nodes of the gang lose their power at once."""
    await training(world)
    await world.lose_nodes(0, 1)
    await world.until_trains(2)


async def crash_loop(world: RealWorld) -> None:
    """The user's program dies again and again, until the budget is used up."""
    await training(world, recovery={"maxRestarts": 1, "backoffSeconds": 0})
    world.kill_process(1)
    await world.until_trains(2)
    world.kill_process(0)
    await world.until_true(ConditionType.FAILED)
    await world.until(
        lambda: all(p["status"]["phase"] in ("Succeeded", "Failed") for p in world.pods)
    )


async def suspend_resume(world: RealWorld) -> None:
    """The user suspends the job, and resumes it."""
    await training(world)
    await world.edit(suspend=True)
    await world.until(lambda: world.is_true(ConditionType.SUSPENDED) and not world.pods)
    await world.edit(suspend=False)
    await world.until_trains(2)


async def edit_suspended(world: RealWorld) -> None:
    """The user suspends the job, gives it another template, and resumes it."""
    await training(world)
    await world.edit(suspend=True)
    await world.until(lambda: world.is_true(ConditionType.SUSPENDED) and not world.pods)
    job = world.job
    assert job is not None
    template = job["spec"]["template"]
    template["spec"]["containers"][0]["env"] = [EDITED]
    await world.edit(template=template, suspend=False)
    await world.until_trains(2)
    old = [p for p in world.pods if EDITED not in p["spec"]["containers"][0]["env"]]
    assert not old, "started from the old template"


async def delete(world: RealWorld) -> None:
    """The user deletes the job."""
    await training(world)
    await world.remove_job()
    await world.until(lambda: world.job is None and not world.pods)


async def gang_waits(world: RealWorld) -> None:
    """There is room for a part of the gang only, and later for all."""
    await world.fill(NODES - 1)
    await world.start_operator()
    await world.begin()
    await world.submit()
    await world.until(lambda: world.reason(ConditionType.ADMITTED) == "DoesNotFit")
    assert not world.pods, "a part of a gang was started"
    await world.clear()
    await world.until_trains(1)


async def shrink(world: RealWorld) -> None:
    """A worker's node loses its power, there is no other, and the gang may be smaller."""
    await training(world, full=True, elastic=ELASTIC)
    await world.lose_nodes(1)
    await until_trains(world, 2, workers=1)


async def grow(world: RealWorld) -> None:
    """There is room again for a gang that went on without a worker."""
    await world.start_operator()
    await world.submit(workers=1, elastic=ELASTIC)
    await world.until_trains(1)
    await world.scale(2)  # so the operator learns what a change of size costs
    await until_trains(world, 2, workers=2)
    await world.fill()
    node = world.node_of(1)
    await world.cordon(node)
    await world.remove_pod(1)
    await until_trains(world, 3, workers=1)
    await world.begin()
    await world.uncordon(node)
    await until_trains(world, 4, workers=2)
    assert world.lost_steps() == 0, "the growth lost steps"


async def scale(world: RealWorld) -> None:
    """The user wants fewer workers, and then more again."""
    await training(world, elastic=ELASTIC)
    await world.scale(1)
    await until_trains(world, 2, workers=1)
    await world.scale(2)
    await until_trains(world, 3, workers=2)
    assert world.lost_steps() == 0, "a change of size by choice lost steps"


async def reclaimed(world: RealWorld) -> None:
    """A worker's node says that it is about to go, and the gang saves before."""
    await training(world)
    await world.announce(world.node_of(1), "aws-node-termination-handler/spot-itn")
    await world.until_trains(2)
    assert world.lost_steps() == 0, "there was time to save"


async def drained(world: RealWorld) -> None:
    """A worker's node is drained, and an elastic gang saves and goes on smaller."""
    await training(world, full=True, elastic=ELASTIC)
    await world.cordon(world.node_of(1))
    await world.evict(1)
    await until_trains(world, 2, workers=1)
    # An agent that is being ended waits for the question for some seconds only.
    assert world.restarts or world.lost_steps() == 0, "there was time to save"


async def spare(world: RealWorld) -> None:
    """A worker's node loses its power, and a spare takes its place; no other can be had."""
    await training(world, full=True, spares=1)
    pods = set(world.server.created)
    await world.lose_nodes(1)
    await world.until_trains(2)
    started = {process.worker.name for process in world.gang().members.values()}
    assert started <= pods, "a pod was started for it"


async def until_trains(world: RealWorld, attempt: int, *, workers: int) -> None:
    """The attempt trains, with so many workers."""
    await world.until(lambda: world.trains(attempt))
    assert world.gang().world.workers == workers


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        create,
        steady,
        finish,
        process_crash,
        pod_lost,
        node_lost,
        two_nodes_lost,
        crash_loop,
        suspend_resume,
        edit_suspended,
        delete,
        gang_waits,
        shrink,
        grow,
        scale,
        reclaimed,
        drained,
        spare,
    )
}
