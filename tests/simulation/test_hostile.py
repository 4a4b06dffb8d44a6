"""What else a cluster can do to us: views that lie, clocks that jump, hands that meddle."""

import asyncio
from collections.abc import Callable

import pytest

from goodput_operator.api.status import AttemptState, ConditionType
from tests.simulation.history import Reported, Write
from tests.simulation.scenarios import training
from tests.simulation.world import KEY, PRANKS, World, simulate


def recovers(hostility: Callable[[World], object], *, seconds: float = 240.0) -> World:
    """A job trains, something is hostile, and then a worker is lost: it trains again."""

    async def story(world: World) -> None:
        await training(world)
        hostility(world)
        world.delete_pod(1)
        await world.until(lambda: world.trains(2), seconds=seconds)
        world.server.watch_lag_seconds, world.server.repeats = 0.01, False
        await asyncio.sleep(5)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1
    return world


@pytest.mark.parametrize("plural", ["pods", "nodes", "trainingjobs"])
@pytest.mark.parametrize("expired", [False, True], ids=["cut", "expired"])
def test_a_watch_that_breaks_costs_no_incident(plural: str, expired: bool) -> None:
    def hostility(world: World) -> None:
        asyncio.get_running_loop().call_later(
            0.005, lambda: world.server.break_watches(plural, expired=expired)
        )

    recovers(hostility)


def test_news_that_come_twice_are_news_once() -> None:
    recovers(lambda world: setattr(world.server, "repeats", True))


def test_news_that_come_late_cost_time_alone() -> None:
    recovers(lambda world: setattr(world.server, "watch_lag_seconds", 3.0))


def test_an_event_that_never_comes_is_made_good() -> None:
    def hostility(world: World) -> None:
        loop = asyncio.get_running_loop()
        for moment in (0.001, 0.5, 1.0):
            loop.call_later(moment, lambda: world.server.lose_event("pods"))

    recovers(hostility, seconds=2400)


def test_a_successor_that_sees_the_past_does_no_harm() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.server.stick("pods")
        world.delete_pod(1)
        await asyncio.sleep(1)
        world.crash_operator()
        await asyncio.sleep(10)
        world.server.thaw()
        await world.until(lambda: world.trains(world.gang().world.attempt))
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1


@pytest.mark.parametrize("late_seconds", [0.5, 3.0, 9.0])
@pytest.mark.parametrize("harm", ["process", "pod", "suspend", "nothing"])
def test_an_old_leader_that_still_writes_is_harmless(harm: str, late_seconds: float) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.operator.fall_behind(late_seconds)
        if harm == "process":
            world.kill_process(1)
        elif harm == "pod":
            world.delete_pod(1)
        elif harm == "suspend":
            world.edit_spec(suspend=True)
        await asyncio.sleep(0.1)
        await world.change_leader(late_seconds=late_seconds)
        if harm == "suspend":
            await world.until(lambda: world.is_true(ConditionType.SUSPENDED))
            world.edit_spec(suspend=False)
        await asyncio.sleep(25)
        wanted = 1 if harm == "nothing" else 2
        await world.until_trains(wanted)
        await world.check_rest()

    world = simulate(story)
    world.check(created_once=False)
    assert world.status.recovery.total == (harm in ("process", "pod"))


@pytest.mark.parametrize("seconds", [3600, -3600, 30, -30])
def test_a_clock_that_jumps_ends_no_training(seconds: float) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.skew_clock(seconds)
        await asyncio.sleep(30)
        assert world.trains(1)
        world.kill_process(1)
        await world.until_trains(2)

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_jumps_hides_no_lost_node(seconds: float) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.cluster.lose_node(world.node_of(1))
        world.skew_clock(seconds)
        await world.until_trains(2)

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 1


@pytest.mark.parametrize("prank", sorted({*PRANKS} - {"owner"}))
def test_a_pod_that_somebody_edits_goes_on_training(prank: str) -> None:
    async def story(world: World) -> None:
        await training(world)
        world.monkey(1, prank)
        await asyncio.sleep(60)
        assert world.trains(1)

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 0


def test_a_pod_that_somebody_takes_from_us_is_replaced() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.monkey(1, "owner")
        await world.until_trains(2)

    world = simulate(story)
    assert world.status.recovery.total == 1
    assert world.status.recovery.restarts == []


def test_a_pod_that_a_finalizer_holds_is_replaced_all_the_same() -> None:
    async def story(world: World) -> None:
        await training(world)
        name = world.pod(1)["metadata"]["name"]
        world.monkey(1, "finalizer")
        world.delete_pod(1)
        await world.until_trains(2)
        assert world.server.get("pods", KEY[0], name) is not None
        world.server.change("pods", KEY[0], name, lambda pod: pod["metadata"].pop("finalizers"))
        assert world.server.get("pods", KEY[0], name) is None
        await world.check_rest()

    simulate(story, spare_nodes=2).check()


def test_an_evicted_worker_is_no_fault_of_the_user() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.evict(1)
        await world.until_trains(2)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert (world.status.recovery.total, world.status.recovery.restarts) == (1, [])


def test_nobody_is_restarted_when_all_fall_silent_at_once() -> None:
    async def story(world: World) -> None:
        await training(world)
        await world.silence_all(30)
        await asyncio.sleep(10)
        assert world.trains(1)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.status.recovery.total == 0


def test_a_scheduler_and_kubelets_that_take_their_time_are_waited_for() -> None:
    async def story(world: World) -> None:
        world.cluster.bind_seconds, world.cluster.start_seconds = 45.0, 90.0
        await world.start_operator()
        world.create_job()
        await world.until_trains(1)
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert world.server.created.total() == world.workers


def test_a_node_that_somebody_else_takes_first_is_not_waited_for() -> None:
    async def story(world: World) -> None:
        world.cluster.bind_seconds = 2.0
        await world.start_operator()
        world.create_job()
        await world.until(lambda: len(world.pods) == world.workers)
        world.occupy("node-0")
        await world.until_trains(1)
        assert {world.node_of(slot) for slot in range(world.workers)} == {"node-1", "node-2"}

    simulate(story).check()


def test_old_and_forged_reports_change_nothing() -> None:
    async def story(world: World) -> None:
        await training(world)
        world.kill_process(1)
        await world.until_trains(2)
        await asyncio.sleep(5)
        written = len(world.server.writes)
        world.replay(newest=200)
        await asyncio.sleep(2)
        attempt = world.status.attempt
        assert attempt is not None
        assert (attempt.number, attempt.state) == (2, AttemptState.RUNNING)
        assert len(world.server.writes) - written <= 1, "no more than the ledger's"
        await world.check_rest()

    world = simulate(story)
    world.check()
    assert len(list(world.history.of(Reported))) > 20
    assert world.status.recovery.total == 1


def test_a_write_of_the_old_leader_really_comes_late() -> None:
    """The test above proves something only if the cut-off leader does write."""

    async def story(world: World) -> None:
        await training(world)
        world.operator.fall_behind(3.0)
        world.kill_process(1)
        await asyncio.sleep(0.1)
        await world.change_leader(late_seconds=3.0)
        await asyncio.sleep(25)

    world = simulate(story)
    late = [
        entry
        for entry in world.history.of(Write)
        if entry.actor == "operator-1" and entry.at > 4 and entry.plural == "trainingjobs"
    ]
    assert late
    assert not any(entry.accepted for entry in late if entry.subresource == "status")


def test_jobs_that_nobody_can_help_slow_no_other() -> None:
    def recovery_seconds(sick_jobs: int) -> float:
        async def story(world: World) -> None:
            for number in range(sick_jobs):
                metadata = {"namespace": "others", "name": f"sick-{number}"}
                sick = {"metadata": metadata, "spec": {"template": {}}, "status": {"slots": 3}}
                world.server.store("trainingjobs", sick)
            await training(world)
            begin = world.clock()
            world.kill_process(1)
            await world.until_trains(2)
            took_seconds.append(world.clock() - begin)

        took_seconds: list[float] = []
        simulate(story)
        return took_seconds[0]

    assert recovery_seconds(sick_jobs=50) <= recovery_seconds(sick_jobs=0) + 0.2
