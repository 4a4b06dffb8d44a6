"""Whatever breaks, whenever it breaks: the job trains again, and no attempt meets another."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from goodput.protocol import Commit
from goodput_operator.api.status import AttemptState, ConditionType
from tests.simulation.scenarios import training
from tests.simulation.world import KEY, World, simulate

Harm = Callable[[World], Awaitable[None]]
Moment = Callable[[World], bool]


async def the_process_dies(world: World) -> None:
    for process in world.worker(1).living() if world.cluster.workers() else []:
        process.end(1)


async def the_pod_is_deleted(world: World) -> None:
    world.delete_pod(1)


async def all_pods_are_torn_out(world: World) -> None:
    for slot in range(world.workers):
        world.delete_pod(slot, force=True)


async def the_node_is_lost(world: World) -> None:
    world.cluster.lose_node(world.node_of(1))


async def the_node_of_rank_0_is_lost(world: World) -> None:
    world.cluster.lose_node(world.node_of(0))


async def the_node_reboots(world: World) -> None:
    node = world.node_of(1)
    world.cluster.lose_node(node)
    await asyncio.sleep(10)
    world.cluster.heal(node)


async def the_node_is_removed(world: World) -> None:
    node = world.node_of(1)
    world.cluster.lose_node(node)
    world.cluster.remove_node(node)


async def the_node_is_cut_off_for_a_moment(world: World) -> None:
    node = world.node_of(1)
    world.cluster.cut_off(node)
    await asyncio.sleep(5)
    world.cluster.heal(node)


async def the_node_is_cut_off_for_a_minute(world: World) -> None:
    node = world.node_of(1)
    world.cluster.cut_off(node)
    await asyncio.sleep(60)
    world.cluster.heal(node)


async def the_user_suspends_and_resumes(world: World) -> None:
    world.edit_spec(suspend=True)
    await world.until_true(ConditionType.SUSPENDED)
    world.edit_spec(suspend=False)


async def the_user_suspends_and_thinks_again(world: World) -> None:
    world.edit_spec(suspend=True)
    await asyncio.sleep(0.03)
    world.edit_spec(suspend=False)


async def the_operator_dies(world: World) -> None:
    world.crash_operator()


async def the_labels_are_taken_off(world: World) -> None:
    name = world.pod(1)["metadata"]["name"]
    world.server.change("pods", KEY[0], name, lambda pod: pod["metadata"].update(labels={}))


HARMS: tuple[Harm, ...] = (
    the_process_dies,
    the_pod_is_deleted,
    all_pods_are_torn_out,
    the_node_is_lost,
    the_node_of_rank_0_is_lost,
    the_node_reboots,
    the_node_is_removed,
    the_node_is_cut_off_for_a_moment,
    the_node_is_cut_off_for_a_minute,
    the_user_suspends_and_resumes,
    the_user_suspends_and_thinks_again,
    the_operator_dies,
    the_labels_are_taken_off,
)
NEEDS_A_PERSON: tuple[Harm, ...] = (the_node_is_lost, the_node_of_rank_0_is_lost)
"""Without the SDK nobody can fence a worker that may still live: such a node must be removed."""


def _bound(world: World) -> bool:
    pods = world.pods
    return len(pods) == world.workers and all(pod["spec"].get("nodeName") for pod in pods)


def _in_state(state: AttemptState) -> Moment:
    return lambda world: bool(world.status.attempt and world.status.attempt.state is state)


MOMENTS: dict[str, Moment] = {
    "bound": _bound,
    "started": lambda world: bool(world.cluster.workers()),
    "starting": _in_state(AttemptState.STARTING),
    "running": _in_state(AttemptState.RUNNING),
    "training": lambda world: world.trains(1),
}


def _trains_again(world: World) -> bool:
    attempt = world.status.attempt
    return attempt is not None and world.trains(attempt.number)


@pytest.mark.parametrize("sdk", [True, False], ids=["sdk", "no-sdk"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("harm", HARMS, ids=[harm.__name__ for harm in HARMS])
def test_a_job_trains_again_whatever_happens_and_when(harm: Harm, moment: str, sdk: bool) -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.create_job()
        await world.until(lambda: MOMENTS[moment](world))
        await harm(world)
        await asyncio.sleep(20)  # until a silence is noticed
        if not sdk and harm in NEEDS_A_PERSON:
            await asyncio.sleep(60)
            await _somebody_removes_lost_nodes(world)
        await world.until(lambda: _trains_again(world))
        await world.check_rest()

    world = simulate(story, sdk=sdk)
    world.check(created_once=False)
    assert world.status.recovery.total <= 1


async def _somebody_removes_lost_nodes(world: World) -> None:
    for name, kubelet in world.cluster.kubelets.items():
        if not kubelet.powered:
            world.cluster.remove_node(name)


@pytest.mark.parametrize("away_seconds", [1.5, 8, 30, 100])
@pytest.mark.parametrize("harm", HARMS[:7], ids=[harm.__name__ for harm in HARMS[:7]])
def test_what_breaks_while_the_operator_is_away_is_mended_on_its_return(
    harm: Harm, away_seconds: float
) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.crash_operator(away_seconds=away_seconds)
        await asyncio.sleep(0.5)
        await harm(world)
        await world.until_trains(2)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1


@pytest.mark.parametrize("away_seconds", [30, 100])
def test_an_operator_that_is_away_disturbs_nothing(away_seconds: float) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.crash_operator(away_seconds=away_seconds)
        await asyncio.sleep(away_seconds + 30)
        assert world.trains(1)
        assert world.gang().step > away_seconds
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 0


@pytest.mark.parametrize("away_seconds", [30, 700])
def test_a_success_is_not_lost_while_the_operator_is_away(away_seconds: float) -> None:
    """After ten minutes of silence the agents leave, and their exit codes tell."""

    async def story(world: World) -> None:
        await training(world)
        world.crash_operator(away_seconds=away_seconds)
        world.finish()
        await world.until(lambda: world.is_true(ConditionType.SUCCEEDED), seconds=900)
        await world.check_rest()

    simulate(story).check()


@pytest.mark.parametrize("plural", ["pods", "nodes", "trainingjobs"])
@pytest.mark.parametrize("harm", HARMS[:4], ids=[harm.__name__ for harm in HARMS[:4]])
def test_a_view_that_is_old_costs_time_and_nothing_else(harm: Harm, plural: str) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.server.frozen.add(plural)
        await harm(world)
        await asyncio.sleep(20)
        world.server.thaw()
        await world.until_trains(2)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1


def test_faults_of_the_same_moment_are_one_incident() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.kill_process(1)
        world.delete_pod(2)
        await asyncio.sleep(0.05)
        world.delete_pod(0, force=True)
        await world.until_trains(2)
        await world.check_rest()

    world = simulate(story, workers=3, spare_nodes=3)
    world.check()
    assert world.status.recovery.total == 1
    assert world.status.recovery.restarts == [], "a deleted pod is not the user's fault"


def test_when_nobody_can_be_heard_and_the_nodes_are_well_nothing_is_done() -> None:
    async def story(world: World) -> None:
        await training(world)
        nodes = [world.node_of(slot) for slot in range(world.workers)]
        for node in nodes:
            world.cluster.cut_off(node)
        await asyncio.sleep(30)
        assert world.is_true(ConditionType.DEGRADED)
        for node in nodes:
            world.cluster.heal(node)
        await asyncio.sleep(10)
        assert world.trains(1)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 0


def test_a_job_of_the_same_name_goes_on_from_what_the_former_one_left() -> None:
    async def story(world: World) -> None:
        await training(world)
        await world.until(lambda: bool(world.disk))
        world.delete_job()
        world.create_job()
        await world.until_trains(2)
        assert world.gang().world.restore_step == 3

    simulate(story).check(created_once=False)


def test_a_checkpoint_that_one_worker_cannot_read_is_restored_by_none() -> None:
    async def story(world: World) -> None:
        await training(world)
        await world.until(lambda: Commit(1, 9) in world.disk)
        await asyncio.sleep(1)
        oldest, hidden = world.hide_newer_commits(1)
        world.kill_process(0)
        await world.until(lambda: world.reason(ConditionType.CHECKPOINT_FRESH) == "FellBack")
        assert "Input/output error" in world.message(ConditionType.CHECKPOINT_FRESH)
        await world.until_trains(2 + hidden)
        assert world.gang().world.restore_step == oldest.step
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert [one.charged for one in world.status.recovery.restarts] == [True], "the kill alone"


def test_a_process_that_keeps_dying_fails_the_job_in_the_end() -> None:
    async def story(world: World) -> None:
        await training(world)
        for _ in range(4):
            await world.until(lambda: bool(world.worker(1).living()))
            world.kill_process(1)
        await world.until_true(ConditionType.FAILED)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert len(world.status.recovery.restarts) == 4


def test_nodes_that_come_back_are_used_where_there_are_no_others() -> None:
    async def story(world: World) -> None:
        await training(world)
        nodes = [world.node_of(slot) for slot in range(world.workers)]
        for node in nodes:
            world.cluster.lose_node(node)
        await asyncio.sleep(100)
        for node in nodes:
            world.cluster.heal(node)
        await world.until(lambda: world.trains(2), seconds=60)
        await world.check_rest()

    world = simulate(story, spare_nodes=0)
    world.check()
    assert world.status.recovery.total == 1


def test_a_lost_node_is_left_alone_while_there_is_another() -> None:
    async def story(world: World) -> None:
        await training(world)
        lost = world.node_of(1)
        world.cluster.lose_node(lost)
        await asyncio.sleep(5)
        world.cluster.heal(lost)
        await world.until_trains(2)
        world.cluster.cut_off(world.node_of(1))
        await world.until_trains(3)
        assert world.node_of(1) != lost

    simulate(story, spare_nodes=2).check()


def test_a_deletion_needs_no_operator() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.crash_operator(away_seconds=100)
        world.delete_job()
        await world.until(lambda: not world.pods, seconds=10)
        await asyncio.sleep(100)
        assert world.server.writes == []

    simulate(story).check()
