"""Who is told that a worker will go has the gang save, and loses neither time nor work."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import Progress
from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from goodput_operator.observe.notices import NODE_NOTICES
from tests.unit.plan.conftest import World

MakeWorld = Callable[..., World]
SPOT = "aws-node-termination-handler/spot-itn"


def save(world: World, seconds: float = 5) -> int:
    """The gang trains on to the step that it was asked to save, and saves it."""
    asked = world.attempt.save_step
    assert asked is not None, world.status.attempt
    world.jump(seconds)
    world.train(asked, commit=asked)
    world.settle()
    return asked


def node_of(world: World, slot: int) -> str:
    node: str = world.agent(slot).pod["spec"]["nodeName"]
    return node


@pytest.mark.parametrize("taint", sorted(NODE_NOTICES))
def test_a_node_that_is_about_to_go_is_left_with_all_work_saved(
    training: MakeWorld, taint: str
) -> None:
    world = training(4)
    left = node_of(world, 1)
    world.taint(left, taint)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)
    asked = save(world)
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    assert world.attempt.restore_step == asked
    assert world.status.slots[1].incarnation == 1, "the worker is replaced"
    assert node_of(world, 1) == "node-4"
    assert [world.status.slots[slot].incarnation for slot in (0, 2, 3)] == [0, 0, 0]
    assert (world.status.recovery.total, world.status.recovery.restarts) == (1, [])
    assert world.spent(Bucket.DETECTION) == 0
    assert world.spent(Bucket.LOST_WORK) == 0
    [incident] = world.status.incidents
    assert (incident.slot, incident.pod, incident.node) == (1, "job-1-0", left)
    world.assert_ledger_sums()


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("PreemptionByScheduler", "Preempted"),
        ("EvictionByEvictionAPI", "NodeDraining"),
        ("DeletionByTaintManager", "NodeDraining"),
        ("TerminationByKubelet", "NodeShutdown"),
        ("", "PodDeleted"),
    ],
)
def test_a_worker_whose_pod_is_being_deleted_trains_until_all_have_saved(
    training: MakeWorld, why: str, reason: str
) -> None:
    world = training(4)
    world.end_pod(1, why=why)
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    asked = save(world)
    assert world.attempt.restore_step == asked
    assert world.condition(ConditionType.RECOVERING).reason == reason
    assert world.status.recovery.restarts == [], "nobody is charged for it"
    assert any(reason == one for plan in world.plans for one, _ in plan.decisions)


def test_the_word_of_an_agent_that_its_kubelet_ends_it_is_enough(training: MakeWorld) -> None:
    world = training(4)
    world.agent(2).ends_at = world._clock() + 20_000
    world._heartbeat(world.agent(2))
    world.settle()
    asked = save(world)
    assert world.attempt.restore_step == asked
    assert world.status.slots[2].incarnation == 1
    assert world.condition(ConditionType.RECOVERING).reason == "NodeShutdown"


def test_a_deletion_that_is_known_before_the_agents_word_of_it_ends_nothing(
    training: MakeWorld,
) -> None:
    world = training(4, commit=None)
    for agent in world.agents.values():  # a step has been made, and nobody has told of it
        assert agent.run is not None
        agent.run = replace(agent.run, progress=Progress(sdk=True, restore_began_at=1))
    world.end_pod(1)
    ends_at, world.agent(1).ends_at = world.agent(1).ends_at, None
    world.settle()
    assert (world.attempt.number, world.attempt.save_by) == (1, None)
    world.agent(1).ends_at = ends_at
    world.train(13)
    world.settle()
    assert save(world) == world.attempt.restore_step


def test_who_does_not_save_in_time_is_left_all_the_same(training: MakeWorld) -> None:
    world = training(4)
    world.taint(node_of(world, 1), SPOT)
    world.settle()
    world.pass_time(105)
    assert world.attempt.number == 1
    world.pass_time(10)
    assert (world.attempt.number, world.attempt.restore_step) == (2, 10)


def test_a_question_that_died_with_its_operator_is_asked_again(training: MakeWorld) -> None:
    world = training(4)
    world.taint(node_of(world, 1), SPOT)
    world.visit()
    asked = world.attempt.save_step
    assert asked is not None
    world.jump(12)  # nobody was told of it
    world.listening_since = world.now
    world.train(asked + 2, commit=asked + 1)
    world.settle()
    assert world.attempt.number == 1, "what the training has saved by itself is no answer"
    assert (world.attempt.save_step or 0) > asked + 2
    assert save(world) == world.attempt.restore_step


def test_a_pod_that_ends_too_soon_to_save_is_lost_at_once(training: MakeWorld) -> None:
    world = training(4)
    world.end_pod(1, seconds=12)
    world.settle()
    assert (world.attempt.number, world.attempt.restore_step) == (2, 10)


def test_a_worker_that_goes_before_all_have_saved_is_lost(training: MakeWorld) -> None:
    world = training(4)
    world.end_pod(1)
    world.settle()
    world.delete_pod("job-1-0")
    world.settle()
    assert (world.attempt.number, world.attempt.restore_step) == (2, 10)


def test_a_shorter_notice_shortens_the_time_to_save(training: MakeWorld) -> None:
    world = training(4)
    world.taint(node_of(world, 1), SPOT)
    world.settle()
    asked, by = world.attempt.save_step, world.attempt.save_by
    assert by is not None
    world.end_pod(1)
    world.settle()
    assert world.attempt.save_step == asked
    assert world.attempt.save_by is not None
    assert world.attempt.save_by < by - timedelta(seconds=60)


@pytest.mark.parametrize("resized", [False, True], ids=["of a notice", "of a new size"])
def test_the_shortest_notice_counts_whatever_the_training_saves_for(
    training: MakeWorld, resized: bool
) -> None:
    elastic = {"minWorkers": 2, "maxWorkers": 8}
    world = training(4, spare_nodes=2, **({"elastic": elastic} if resized else {}))
    if resized:
        world.spec["workers"] = 3
        world.pass_time(100)
    else:
        world.taint(node_of(world, 0), "karpenter.sh/disrupted")  # sixty seconds
        world.settle()
    assert world.attempt.save_by is not None
    world.taint(node_of(world, 1), "cloud.google.com/impending-node-termination")  # twenty
    world.settle()
    world.pass_time(25)
    assert (world.attempt.number, world.attempt.restore_step) == (2, 10)


def test_the_hurry_of_a_report_is_no_news(training: MakeWorld) -> None:
    world = training(2)
    agent = world.agent(0)
    agent.ends_at = world._clock() + 60_000
    world.speak(0)
    world.settle()
    assert world.attempt.save_by is not None
    before = world.writes
    for _ in range(10):
        world.jump(1)
        agent.ends_at -= 1  # the network was a millisecond faster than the last time
        world.speak(0)
        world.visit()
        assert world.plans[-1].decisions == ()
    assert world.writes == before


def test_long_steps_after_a_pause_are_not_hoped_for_in_a_short_notice(training: MakeWorld) -> None:
    world = training(4)
    world.train(13, seconds_per_step=30)
    world.settle()
    world.pass_time(300)  # an evaluation
    world.taint(node_of(world, 1), "cloud.google.com/impending-node-termination")  # twenty seconds
    world.settle()
    assert world.attempt.save_by is None


def test_nobody_is_kept_beyond_what_his_agent_said_last(training: MakeWorld) -> None:
    world = training(2)
    agent = world.agent(0)
    agent.ends_at = world._clock() + 60_000
    world.speak(0)
    world.settle()
    by = world.attempt.save_by
    assert by is not None
    agent.ends_at -= 900
    world.now = by - timedelta(seconds=0.5)
    world.speak(0)
    world.speak(1)
    world.train(40)
    world.visit()
    assert world.attempt.state is not AttemptState.RUNNING


def test_a_suspension_stays_one_whoever_goes_meanwhile(training: MakeWorld) -> None:
    world = training(4)
    world.spec["suspend"] = True
    world.settle()
    world.agent(1).ends_at = world._clock() + 20_000  # its kubelet shuts down
    world.pass_time(25)
    (incident,) = world.status.incidents
    assert incident.planned
    assert (world.status.phase, world.status.recovery.total) == ("Suspended", 0)


def test_a_notice_that_is_taken_back_changes_nothing(training: MakeWorld) -> None:
    world = training(4)
    world.taint(node_of(world, 1), SPOT)
    world.settle()
    assert world.attempt.save_by is not None
    world.taint(node_of(world, 1))
    world.settle()
    assert (world.attempt.number, world.attempt.save_by) == (1, None)


@pytest.mark.parametrize(
    "key",
    ["node.kubernetes.io/unschedulable", "aws-node-termination-handler/rebalance-recommendation"],
)
def test_a_cordon_or_a_mere_advice_announces_nothing(training: MakeWorld, key: str) -> None:
    world = training(4)
    world.taint(node_of(world, 1), key)
    world.settle()
    assert world.attempt.save_by is None


def test_who_tolerates_a_notice_stays(training: MakeWorld) -> None:
    toleration = {"key": SPOT, "operator": "Exists"}
    world = training(4, template={"spec": {"tolerations": [toleration]}})
    world.taint(node_of(world, 1), SPOT)
    world.settle()
    assert world.attempt.save_by is None


def test_a_training_that_cannot_be_asked_trains_until_its_worker_is_gone(
    training: MakeWorld,
) -> None:
    world = training(4, sdk=False, commit=None)
    world.taint(node_of(world, 1), SPOT)
    world.settle()
    assert (world.attempt.number, world.attempt.save_by) == (1, None)
    world.end_pod(1)
    world.settle()
    assert world.attempt.number == 2


def test_an_elastic_gang_goes_on_smaller_when_there_is_no_other_node(training: MakeWorld) -> None:
    world = training(4, spare_nodes=0, elastic={"minWorkers": 2, "maxWorkers": 4})
    world.taint(node_of(world, 3), SPOT)
    world.settle()
    asked = save(world)
    assert (world.attempt.restore_step, world.attempt.world_size) == (asked, 3)
    assert "job-3-0" in world.deleted


def test_a_gang_that_forms_takes_nobody_who_is_about_to_go(make_world: MakeWorld) -> None:
    world = make_world(3)
    world.agents_connect = False
    world.settle()
    world.taint("node-1", SPOT)
    world.agents_connect = True
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert sorted(node_of(world, slot) for slot in range(3)) == ["node-0", "node-2", "node-3"]


def test_an_operator_that_has_just_begun_to_listen_gives_up_nobody_who_saves(
    training: MakeWorld,
) -> None:
    world = training(4)
    world.end_pod(1)
    world.settle()
    attempt = world.attempt
    said = {uid: agent.sequence for uid, agent in world.agents.items()}
    for agent in world.agents.values():
        agent.sequence = 0
    world.listening_since = world.now
    world.visit()
    assert world.attempt == attempt
    for uid, agent in world.agents.items():
        agent.sequence = said[uid]
    assert save(world) == world.attempt.restore_step


def test_a_spoken_deadline_that_no_kubelet_grants_is_not_believed(training: MakeWorld) -> None:
    world = training(4)
    world.agent(2).ends_at = 2**53 - 1
    world._heartbeat(world.agent(2))
    world.settle()
    assert world.attempt.save_by is not None
    assert world.attempt.save_by <= world.now + timedelta(hours=1)
