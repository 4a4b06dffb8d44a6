"""What an attempt leaves to the next: its lost places, its blame, its nodes, its progress."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput_operator.api.status import AttemptState, ConditionType, Exclusion


def test_steps_that_were_made_before_are_no_progress(training) -> None:
    world = training(1, recovery={"maxRestartsWithoutProgress": 9})
    for step, without_progress, best in ((12, 0, 12), (12, 1, 12), (7, 2, 12), (13, 0, 13)):
        world.train(step)
        world.settle()
        world.fail(0)
        world.pass_time(60)
        assert world.status.recovery.without_progress == without_progress
        assert world.status.recovery.charged_without_progress == without_progress
        assert world.status.progress.best_step == best


def test_a_failure_of_the_running_gang_forgives_those_of_its_start(training) -> None:
    world = training(1)
    for _ in range(3):
        world.fail(0)
        world.settle()
    assert world.attempt.state is AttemptState.FORMING
    assert world.status.recovery.start_failures == 0


def _lost(world) -> None:
    world.lose_node("node-1", noticed=True)
    world.pass_time(20)


def _gone(world) -> None:
    world.lose_node("node-1")
    world.nodes["node-1"] = None
    world.settle()


def _evicted(world) -> None:
    world.pods["job-1-0"]["status"] = {"phase": "Failed", "reason": "Evicted"}
    world.silence(1)
    world.settle()


def _silent(world) -> None:
    world.silence(1)
    world.pass_time(20)


def _deleted(world) -> None:
    world.delete_pod("job-1-0")
    world.settle()


def _ended(world) -> None:
    world.pods["job-1-0"]["status"] = {"phase": "Failed", "reason": "Error"}
    world.silence(1)
    world.settle()


@pytest.mark.parametrize(
    ("harm", "reasons"),
    [
        pytest.param(_lost, ["NodeLost"], id="lost"),
        pytest.param(_gone, ["NodeGone"], id="gone"),
        pytest.param(_evicted, ["Evicted"], id="that evicted its pod"),
        pytest.param(_silent, ["WorkerSilent"], id="on which a worker fell silent"),
        pytest.param(_deleted, [], id="whose pod somebody deleted"),
        pytest.param(_ended, [], id="whose pod failed by itself"),
    ],
)
def test_is_avoided_for_a_while_a_node(training, harm, reasons) -> None:
    world = training(2)
    harm(world)
    assert world.attempt.number == 2
    assert "job-1-1" in world.pods
    closed_at = world.status.exclusions[0].until - timedelta(seconds=600) if reasons else None
    assert [(one.node, one.reason) for one in world.status.exclusions] == [
        ("node-1", reason) for reason in reasons
    ]
    assert closed_at is None or closed_at <= world.now
    world.pass_time(601, every=50)
    assert world.status.exclusions == []


def test_every_node_that_is_lost_is_avoided_and_none_twice(training) -> None:
    world = training(2)
    until = world.now + timedelta(seconds=500)
    world.status = world.status.model_copy(
        update={
            "exclusions": [
                Exclusion(node="node-1", until=until, reason="NodeLost"),
                Exclusion(node="elsewhere", until=until, reason="NodeLost"),
            ]
        }
    )
    for node in ("node-0", "node-1"):
        world.nodes[node] = None
    world.free_nodes += ["node-8", "node-9"]
    world.settle()
    assert world.attempt.number == 2
    found = [(one.node, one.until == until) for one in world.status.exclusions]
    assert found == [("node-1", True), ("elsewhere", True), ("node-0", False)]


def test_a_worker_that_had_finished_gets_a_new_pod_for_the_next_attempt(training) -> None:
    world = training(2)
    world.finish_one(world.agent(0))
    world.pods["job-0-0"]["status"] = {
        "phase": "Succeeded",
        "containerStatuses": [
            {"name": "trainer", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
        ],
    }
    world.settle()
    assert world.attempt.number == 1
    world.fail(1)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    assert {"job-0-1", "job-1-0"} <= set(world.pods)
    assert not any(
        reason == "ReplaceWorker" for plan in world.plans for reason, _ in plan.decisions
    )


def test_a_process_that_the_kernel_cannot_end_costs_its_pod(training) -> None:
    world = training(2)
    world.fail(0)
    world.visit()
    assert world.attempt.state is AttemptState.STOPPING
    for _ in range(7):
        world.jump(5)
        for slot, alive in ((0, 0), (1, 1)):
            agent = world.agent(slot)
            agent.seen = "1.stop"
            agent.run = replace(agent.run, alive=alive)
            agent.sequence += 1
            agent.heard_at = world.now
        world.visit()
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    assert sorted(world.pods) == ["job-0-0", "job-1-1"]


def test_what_is_stopped_is_dated_within_its_life(training) -> None:
    world = training(1)
    published_at = world.attempt.published_at
    world.jump(3)
    world.fail(0, seconds_ago=10**6)
    world.visit()
    assert world.attempt.ended_at == published_at
    assert world.attempt.stopping_at == world.now
    recovering = world.condition(ConditionType.RECOVERING)
    assert (recovering.status, recovering.reason) == ("True", "ProcessFailed")
    assert recovering.message == world.attempt.message
