"""What an attempt leaves to the next: its lost places, its blame, its nodes, its progress."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import Ancestor, Commit, Disk
from goodput.protocol import World as GangWorld
from goodput_operator.api.spec import RecoverySpec
from goodput_operator.api.status import (
    MAX_REASONS,
    AttemptState,
    CheckpointStatus,
    ConditionType,
    Exclusion,
)
from goodput_operator.plan.attempt import backoff_seconds, is_newer, tally
from goodput_operator.plan.reasons import OTHER_REASON


def links(world) -> list[tuple[int, int, int]]:
    return [(one.attempt, one.origin, one.step) for one in world.status.checkpoint.lineage]


def test_each_agent_gets_the_world_that_was_written_down(make_world) -> None:
    world = make_world(2, processesPerWorker=4, checkpoint={"directory": "/checkpoints"})
    world.settle()
    assert world.status.checkpoint.directory == "/checkpoints"
    first, second = (world.plans[-1].answers[f"uid-job-{slot}-0"].world for slot in (0, 1))
    assert first == GangWorld(
        attempt=1,
        run_id="job-uid-1",
        workers=2,
        worker_rank=0,
        processes=4,
        world_size=8,
        rank_offset=0,
        master_address="10.0.0.1",
        master_port=29500,
        restore_step=None,
        lineage=(Ancestor(1, 0, 0),),
    )
    assert second == replace(first, worker_rank=1, rank_offset=4)


def test_a_job_without_checkpoints_has_no_directory(make_world) -> None:
    world = make_world(1)
    world.settle()
    assert world.status.checkpoint.directory == ""


def test_of_what_a_former_job_left_the_newest_of_its_last_attempt_is_taken(make_world) -> None:
    world = make_world(2)
    world.visit()
    for slot, newest in ((0, Commit(6, 400)), (1, Commit(7, 100))):
        world.agent(slot).disk = Disk(highest_attempt=7, newest=newest)
    world.settle()
    assert (world.attempt.number, world.attempt.restore_step) == (8, 100)
    assert links(world) == [(8, 7, 100)]


def test_the_lineage_tells_every_ancestor(training) -> None:
    world = training(1, commit=10)
    for step in (20, 30):
        world.fail(0)
        world.settle()
        world.train(step, commit=step)
        world.settle()
    world.fail(0)
    world.pass_time(30)
    assert links(world) == [(4, 3, 30), (3, 2, 20), (2, 1, 10), (1, 0, 0)]


def test_processes_that_restore_their_own_attempts_commit_change_no_history(training) -> None:
    world = training(1, commit=10)
    world.fail(0)
    world.settle()
    world.train(20, commit=20)
    agent = world.agent(0)
    agent.run = replace(agent.run, progress=replace(agent.run.progress, restored=Commit(2, 20)))
    world.pass_time(20)
    assert links(world) == [(2, 1, 10), (1, 0, 0)]


def test_the_history_is_as_the_trainers_really_took_it(training) -> None:
    world = training(1, commit=10)
    world.train(20, commit=20)
    world.settle()
    world.fail(0)
    world.settle()
    assert (world.attempt.restore_step, links(world)) == (20, [(2, 1, 20), (1, 0, 0)])
    agent = world.agent(0)
    agent.run = replace(agent.run, progress=replace(agent.run.progress, restored=Commit(1, 10)))
    world.pass_time(20)
    assert (world.attempt.restore_step, links(world)) == (10, [(2, 1, 10), (1, 0, 0)])


def test_any_commit_of_ours_is_newer_than_what_a_tracker_file_names() -> None:
    tracked = CheckpointStatus(last_durable_step=7)
    assert is_newer(Commit(1, 5), tracked)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0), (1, 0), (2, 5), (3, 10), (4, 20), (5, 40), (8, 300), (2000, 300)],
)
def test_the_back_off_doubles_from_the_second_failure_up_to_a_cap(failures, seconds) -> None:
    policy = RecoverySpec(backoff_seconds=5, max_backoff_seconds=300)
    assert backoff_seconds(policy, failures) == seconds


@pytest.mark.parametrize("longest", [0, 300])
def test_what_fails_again_and_again_is_never_tried_without_a_pause(longest) -> None:
    policy = RecoverySpec(backoff_seconds=0, max_backoff_seconds=longest)
    assert [backoff_seconds(policy, failures) for failures in (1, 2, 40)] == [0, 1, 1]


def test_a_gang_that_is_refused_waits_though_the_policy_wants_no_back_off(make_world) -> None:
    world = make_world(1, recovery={"backoffSeconds": 0, "maxBackoffSeconds": 0})
    world.agents_connect = False
    world.settle()
    for _ in range(2):
        world.refusal = "exceeded quota"
        world.settle()
    assert world.pods == {}
    world.pass_time(2)
    assert len(world.pods) == 1


def _fails(world) -> None:
    world.pods["job-1-0"]["status"] = {"phase": "Failed", "reason": "Error"}


def _loses_its_node(world) -> None:
    world.nodes["node-1"] = None


@pytest.mark.parametrize("pod", [_fails, _loses_its_node])
def test_a_death_is_confirmed_when_its_pod(training, pod) -> None:
    world = training(2, sdk=False)
    pod(world)
    world.silence(1)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)


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
    assert [slot.rank for slot in world.status.slots] == [-1], "it is in no world yet"


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
    found = [(one.node, one.reason, one.until == until) for one in world.status.exclusions]
    assert found == [
        ("node-1", "NodeLost", True),
        ("elsewhere", "NodeLost", True),
        ("node-0", "NodeGone", False),
    ]


def test_a_worker_that_had_finished_gets_a_new_pod_for_the_next_attempt(training) -> None:
    world = training(2)
    world.finish_worker(0)
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


def test_incidents_are_counted_by_reason_and_the_reasons_stay_few() -> None:
    counts: dict[str, int] = {}
    for reason in ["ProcessFailed", *(f"Reason{number}" for number in range(20)), "ProcessFailed"]:
        counts = tally(counts, reason)
    assert len(counts) == MAX_REASONS
    assert counts["ProcessFailed"] == 2
    assert counts[OTHER_REASON] == 16
    assert sum(counts.values()) == 22
