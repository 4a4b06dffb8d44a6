"""Spares stand ready beside the gang, and take the place of a lost worker without a pod's start."""

from collections.abc import Callable

import pytest

from goodput.protocol import HOLD
from goodput_operator import names
from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from tests.unit.plan.conftest import World
from tests.unit.plan.test_elastic import (
    ELASTIC,
    answers,
    come_back,
    lose,
    members,
    remembered,
)

MakeWorld = Callable[..., World]


def test_a_spare_is_bound_and_connected_and_trains_nothing(training: MakeWorld) -> None:
    world = training(4, spares=1)
    assert members(world) == [0, 1, 2, 3]
    assert sorted(world.pods) == [f"job-{slot}-0" for slot in range(5)]
    assert answers(world)["job-4-0"][0] == HOLD
    assert world.attempt.world_size == 4
    workers = world.status.workers
    assert (workers.wanted, workers.bound, workers.connected, workers.spares) == (4, 4, 4, 1)
    assert workers.text == "4/4"
    assert not world.true(ConditionType.DEGRADED)


def test_a_gang_does_not_wait_for_its_spares(make_world: MakeWorld) -> None:
    world = make_world(4, spare_nodes=0, spares=2)
    world.settle()
    assert (world.attempt.state, members(world)) == (AttemptState.RUNNING, [0, 1, 2, 3])
    world.free_nodes.append("late-1")
    world.nodes["late-1"] = world.nodes["node-0"]
    world.pass_time(60)
    assert (world.attempt.number, world.status.workers.spares) == (1, 1)
    world.free_nodes.append("late-2")
    world.nodes["late-2"] = world.nodes["node-0"]
    world.pass_time(60)
    assert (world.attempt.number, world.status.workers.spares) == (1, 2)


def test_a_spare_that_does_not_connect_holds_nobody_up(make_world: MakeWorld) -> None:
    world = make_world(4, spare_nodes=1, spares=1)
    world.deaf = {"job-4-0"}
    world.settle()
    assert members(world) == [0, 1, 2, 3]


def test_a_spare_takes_the_place_of_a_lost_worker_at_once(training: MakeWorld) -> None:
    world = training(4, spares=1)
    lose(world, 1)
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    assert members(world) == [0, 2, 3, 4]
    assert world.pods["job-4-0"], "in its own pod"
    told = [one for plan in world.plans for one in plan.decisions]
    assert "SpareSwappedIn" in {reason for reason, _ in told}
    assert world.status.workers.spares == 0
    assert world.status.incidents[0].decision == "SwapSpares"
    assert "job-1-1" not in world.pods, "there is no node for another spare"


def test_a_used_spare_is_made_anew_when_there_is_room(training: MakeWorld) -> None:
    world = training(4, spares=1)
    node = lose(world, 1)
    come_back(world, node)
    world.pass_time(70)
    assert (world.attempt.number, members(world)) == (2, [0, 2, 3, 4])
    assert answers(world)["job-1-1"][0] == HOLD
    assert world.status.workers.spares == 1


def test_a_failed_process_does_not_bring_a_spare_in(training: MakeWorld) -> None:
    world = training(4, spares=2, spare_nodes=2)
    world.fail(2)
    world.settle()
    assert (world.attempt.number, members(world)) == (2, [0, 1, 2, 3])
    lose(world, 0)
    assert members(world) == [1, 2, 3, 4]
    world.train(30)
    world.fail(2)
    world.settle()
    assert members(world) == [1, 2, 3, 4], "who trains goes on, whoever has been there longer"


def test_a_spare_of_the_lost_workers_rack_comes_first(make_world: MakeWorld) -> None:
    world = make_world(4, spare_nodes=2, spares=2)
    racks = {"node-0": "a", "node-1": "b", "node-2": "a", "node-3": "b", "node-4": "a"}
    for name, node in world.nodes.items():
        assert node is not None
        node["metadata"]["labels"] = {names.LABEL_RACK: racks.get(name, "b")}
    world.settle()
    world.end_pod(1, seconds=0)
    world.settle()
    assert members(world) == [0, 2, 3, 5]


def test_a_spare_that_fails_costs_the_gang_nothing(training: MakeWorld) -> None:
    world = training(4, spares=1)
    attempt = world.attempt
    lose(world, 4)
    assert world.attempt == attempt
    assert world.status.workers.spares == 0
    assert world.status.recovery.total == 0
    assert "SpareLost" in {reason for plan in world.plans for reason, _ in plan.decisions}


def test_fewer_spares_are_let_go(training: MakeWorld) -> None:
    world = training(4, spares=2, spare_nodes=2)
    world.spec["spares"] = 0
    world.settle()
    assert sorted(world.pods) == [f"job-{slot}-0" for slot in range(4)]
    assert world.attempt.number == 1
    lose(world, 1)
    assert members(world) == [0, 1, 2, 3], "it is a gang like others"
    world.spec["spares"] = 1
    world.settle()
    assert world.status.workers.spares == 1


def test_spares_are_paid_for_and_are_no_loss_of_the_gang(training: MakeWorld) -> None:
    world = training(4, spares=1)
    degraded, held = world.spent(Bucket.DEGRADED), world.spent(Bucket.SPARE)
    world.pass_time(100)
    assert world.spent(Bucket.DEGRADED) == degraded == 0
    assert world.spent(Bucket.SPARE) - held == pytest.approx(100, abs=61)
    assert world.status.ledger.accelerators == 5


def test_a_quota_for_the_gang_alone_lets_it_train_without_a_spare(make_world: MakeWorld) -> None:
    world = make_world(2, spare_nodes=1, spares=1)
    world.visit()
    world.delete_pod("job-2-0")
    world.refusal = "exceeded quota"
    world.visit()
    world.refusal = "exceeded quota"
    world.delete_pod("job-2-0") if "job-2-0" in world.pods else None
    world.settle()
    assert members(world) == [0, 1]


def test_an_elastic_gang_keeps_its_size_with_a_spare_and_shrinks_without(
    training: MakeWorld,
) -> None:
    world = training(4, spares=1, elastic=ELASTIC)
    lose(world, 1)
    assert members(world) == [0, 2, 3, 4]
    lose(world, 2)
    assert members(world) == [0, 3, 4]


def test_a_larger_gang_takes_its_spares_first(training: MakeWorld) -> None:
    world = training(4, spares=1, elastic=ELASTIC, sdk=False)
    world.spec["workers"] = 5
    world.pass_time(10)
    assert members(world) == [0, 1, 2, 3, 4]


def test_two_lost_and_one_spare(training: MakeWorld) -> None:
    world = training(4, spares=1, spare_nodes=2)
    for slot in (1, 2):
        world.lose_node(world.agent(slot).pod["spec"]["nodeName"], noticed=True)
    world.jump(35)
    for agent in world.agents.values():
        world._heartbeat(agent)
    world.settle()
    assert len(members(world)) == 4
    assert {0, 3, 4} < set(members(world))


# --- auto ---------------------------------------------------------------------------------------


def test_auto_keeps_none_before_anything_is_known(training: MakeWorld) -> None:
    world = training(4, spares="auto")
    assert sorted(world.pods) == [f"job-{slot}-0" for slot in range(4)]
    assert remembered(world).economic_spares == 0


def measured(world: World, *, other: float, prompt: float, worker_seconds: float) -> None:
    """The job has been interrupted forty times, and this is what it has learned of that."""
    known = remembered(world).model_copy(
        update={
            "interruptions": 40,
            "episodes_micro": 6_000_000,
            "exposed_worker_seconds_micro": int(worker_seconds * 1e6),
            "other_restart_milliseconds": [int(other * 1000)] * 3,
            "prompt_restart_milliseconds": [int(prompt * 1000)] * 3 if prompt else [],
            "pod_start_milliseconds": [30_000],
        }
    )
    world.status = world.status.model_copy(update={"elastic": known})


@pytest.mark.parametrize(
    ("other", "prompt", "worker_seconds", "spares"),
    [
        pytest.param(90, 20, 1200, 3, id="2 ln(4 x 70 s / 50 s)"),
        pytest.param(90, 20, 12_000, 0, id="interrupted seldom"),
        pytest.param(90, 90, 1200, 0, id="a spare saves nothing"),
        pytest.param(90, 0, 1200, 1, id="a pod's start is what it would save"),
    ],
)
def test_auto_keeps_as_many_as_pay_for_themselves(
    training: MakeWorld, other: float, prompt: float, worker_seconds: float, spares: int
) -> None:
    world = training(4, spares="auto", spare_nodes=4)
    measured(world, other=other, prompt=prompt, worker_seconds=worker_seconds)
    world.settle()
    assert remembered(world).economic_spares == spares
    assert world.status.workers.spares == spares


@pytest.mark.parametrize(("label", "spares"), [("spot", 2), ("on-demand", 0)])
def test_auto_expects_more_of_nodes_that_may_be_taken_away(
    training: MakeWorld, label: str, spares: int
) -> None:
    world = training(4, spares="auto", spare_nodes=4)
    measured(world, other=20_000, prompt=20, worker_seconds=0)
    known = remembered(world).model_copy(update={"interruptions": 0, "episodes_micro": 0})
    world.status = world.status.model_copy(update={"elastic": known})
    for node in world.nodes.values():
        assert node is not None
        node["metadata"]["labels"] = {"karpenter.sh/capacity-type": label}
    world.settle()
    assert remembered(world).economic_spares == spares


def test_auto_keeps_fewer_when_nothing_has_happened_for_long(training: MakeWorld) -> None:
    world = training(4, spares="auto", spare_nodes=4)
    measured(world, other=90, prompt=20, worker_seconds=1200)
    world.settle()
    assert remembered(world).economic_spares == 3
    world.pass_time(3600, every=60)
    assert (remembered(world).economic_spares, world.status.workers.spares) == (0, 0)


def test_auto_keeps_spares_for_a_gang_that_cannot_shrink(training: MakeWorld) -> None:
    elastic = {**ELASTIC, "minWorkers": 4}
    world = training(4, spares="auto", spare_nodes=4, elastic=elastic)
    measured(world, other=90, prompt=20, worker_seconds=1200)
    world.settle()
    assert remembered(world).economic_spares == 3


def test_the_economic_size_is_told_where_another_is_asked_for(training: MakeWorld) -> None:
    world = training(4, spares=1)
    measured(world, other=90, prompt=20, worker_seconds=1200)
    world.settle()
    assert (remembered(world).economic_spares, world.status.workers.spares) == (3, 1)


def test_sizes_that_go_by_more_than_one_leave_spares_over_for_nothing(training: MakeWorld) -> None:
    elastic = {**ELASTIC, "workerSizes": [2, 4]}
    world = training(4, spares="auto", spare_nodes=4, elastic=elastic)
    measured(world, other=90, prompt=20, worker_seconds=1200)
    world.settle()
    assert remembered(world).economic_spares == 0


def test_faults_are_measured_by_whether_all_workers_were_at_hand(training: MakeWorld) -> None:
    world = training(4, spares=1)
    lose(world, 1)
    world.train(30, commit=30)
    world.settle()
    assert len(remembered(world).prompt_restart_milliseconds) == 1
    node = lose(world, 2)
    come_back(world, node)
    world.pass_time(30)
    world.train(40, commit=40)
    world.settle()
    assert len(remembered(world).prompt_restart_milliseconds) == 1
    [slow] = remembered(world).other_restart_milliseconds
    assert slow >= 30_000


def test_a_memory_that_was_edited_by_hand_breaks_no_pass(training: MakeWorld) -> None:
    world = training(4, spares="auto")
    for interruptions, exposed in ((-3000, 0), (3000, 0), (40, -5)):
        measured(world, other=90, prompt=20, worker_seconds=exposed)
        known = remembered(world).model_copy(
            update={"interruptions": interruptions, "episodes_micro": 1_000_000, "benched": [-1]}
        )
        world.status = world.status.model_copy(update={"elastic": known})
        world.settle()
        assert (world.attempt.number, world.true(ConditionType.RUNNING)) == (1, True)
