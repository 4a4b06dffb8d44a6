"""What breaks, and what the operator makes of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import Commit, Disk
from goodput_operator import names
from goodput_operator.api.status import (
    MAX_ATTEMPT,
    AttemptState,
    Bucket,
    Condition,
    ConditionType,
)
from goodput_operator.plan.view import next_incarnation


def test_a_failed_process_is_restarted_at_once_in_the_same_pods(training) -> None:
    world = training(4)
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    world.fail(2, code=137)
    world.settle()
    assert {name: pod["metadata"]["uid"] for name, pod in world.pods.items()} == before
    assert world.attempt.number == 2
    assert world.attempt.state is AttemptState.RUNNING
    assert world.attempt.restore_step == 10
    assert world.status.recovery.total == 1
    assert [one.charged for one in world.status.recovery.restarts] == [True]
    assert world.status.recovery.by_reason == {"ProcessFailed": 1}


def test_only_the_lost_pod_is_replaced(training) -> None:
    world = training(4)
    world.delete_pod("job-1-0")
    world.settle()
    assert sorted(world.pods) == ["job-0-0", "job-1-1", "job-2-0", "job-3-0"]
    assert world.attempt.number == 2
    assert world.status.recovery.restarts == []  # not the user's fault
    assert world.status.recovery.total == 1


def test_a_lost_node_is_noticed_by_silence_while_the_gang_stands_still(training) -> None:
    world = training(4)
    world.lose_node("node-3")
    world.pass_time(20)
    assert world.attempt.number == 2
    assert world.attempt.state is AttemptState.RUNNING
    assert "job-3-1" in world.pods
    assert world.pods["job-3-1"]["spec"]["nodeName"] != "node-3"
    assert [one.node for one in world.status.exclusions] == ["node-3"]


def test_a_silent_worker_of_a_gang_that_advances_is_left_alone(training) -> None:
    world = training(4)
    world.silence(3)
    for step in range(13, 40):
        world.jump(5)
        world.train(step)
        world.settle()
    assert world.attempt.number == 1
    assert world.condition(ConditionType.DEGRADED).reason == "WorkerSilent"


def test_nothing_is_done_when_all_reports_vanish_at_once(training) -> None:
    world = training(4)
    for slot in range(4):
        world.silence(slot)
    for _ in range(60):
        world.jump(10)
        world.settle()
    assert world.attempt.number == 1
    assert world.attempt.state is AttemptState.RUNNING
    assert world.condition(ConditionType.DEGRADED).reason == "ReportsVanished"


def test_reports_that_vanish_one_after_the_other_are_no_standstill(training) -> None:
    world = training(2)
    world.silence(1)
    world.pass_time(4)
    world.silence(0)
    for _ in range(60):
        world.jump(1)
        world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert world.condition(ConditionType.DEGRADED).reason == "ReportsVanished"


def test_a_step_is_not_late_before_a_report_could_have_told_of_it(training) -> None:
    world = training(4)
    world.silence(3)
    for step in range(13, 40):
        world.jump(5.5)
        world.settle()
        world.train(step)
    assert world.attempt.number == 1
    assert world.attempt.state is AttemptState.RUNNING


def test_a_gang_that_is_lost_with_its_only_node_is_placed_elsewhere(training) -> None:
    world = training(2, spare_nodes=2)
    for node in ("node-0", "node-1"):
        world.lose_node(node, noticed=True)
    for _ in range(60):
        world.jump(1)
        world.settle()
    assert world.attempt.number == 2
    assert world.status.recovery.restarts == []
    assert {"job-0-1", "job-1-1"} <= set(world.pods)


def test_without_the_sdk_the_next_attempt_waits_for_confirmed_death(training) -> None:
    world = training(2, sdk=False)
    world.delete_pod("job-1-0", at_once=False)
    world.silence(1)
    world.pass_time(60)
    assert world.attempt.state is AttemptState.STOPPING
    assert world.condition(ConditionType.RUNNING).reason == "WaitingForConfirmedDeath"
    world.delete_pod("job-1-0")
    world.settle()
    assert world.attempt.number == 2


@pytest.mark.parametrize("instead", ["steps are told", "the template has changed since"])
def test_own_checkpoints_are_not_fenced_by_what_else_the_sdk_was_used_for(
    make_world, instead
) -> None:
    world = make_world(2)
    world.settle()
    if instead == "the template has changed since":
        world.train(10, commit=10)
        world.spec["suspend"] = True
        world.settle()
        world.train(world.attempt.save_step, commit=world.attempt.save_step)
        world.pass_time(30)
        world.spec["suspend"] = False
        world.pass_time(30)
    for agent in world.agents.values():
        progress = replace(agent.run.progress, step=12, step_at=agent.run.started_at)
        agent.run = replace(agent.run, progress=progress)
    world.pass_time(5)
    world.silence(1)
    world.pass_time(30)
    assert world.attempt.reason == "WorkerSilent"
    assert world.attempt.state is AttemptState.STOPPING
    assert world.condition(ConditionType.RUNNING).reason == "WaitingForConfirmedDeath"


def test_the_back_off_begins_with_the_second_failure_without_progress(training) -> None:
    world = training(1)
    for _ in range(2):
        world.fail(0)
        world.settle()
        assert world.attempt.state is AttemptState.RUNNING
    world.fail(0)
    world.settle()
    assert world.attempt.state is AttemptState.FORMING
    world.pass_time(5)
    assert world.attempt.state is AttemptState.RUNNING


def test_three_failures_without_a_new_step_fail_the_job_with_the_evidence(training) -> None:
    world = training(1)
    for _ in range(4):
        if world.true(ConditionType.FAILED):
            break
        world.fail(0, exception="RuntimeError: bad batch", last_lines=("batch 7", "is bad"))
        world.pass_time(30)
    failed = world.condition(ConditionType.FAILED)
    assert failed.status == "True"
    assert "RuntimeError: bad batch\nIts last lines:\nbatch 7\nis bad" in failed.message
    assert "maxRestartsWithoutProgress" in failed.message
    assert world.status.recovery.total == 4  # the first attempt had finished new steps
    world.assert_ledger_sums()


def test_the_budget_fails_the_job_exactly_when_it_is_exceeded(training) -> None:
    world = training(1, recovery={"maxRestarts": 2, "backoffSeconds": 0})
    for step in (20, 30, 40):
        assert not world.true(ConditionType.FAILED)
        world.jump(1)
        world.train(step)
        world.settle()
        world.fail(0)
        world.pass_time(1)
    assert world.true(ConditionType.FAILED)
    assert "maxRestarts=2" in world.condition(ConditionType.FAILED).message


def test_exit_code_93_is_never_tried_again(training) -> None:
    world = training(2)
    world.fail(1, code=93)
    world.settle()
    assert world.true(ConditionType.FAILED)
    assert "93" in world.condition(ConditionType.FAILED).message
    assert world.status.recovery.total == 1


def test_the_first_process_to_fail_gets_the_blame_also_when_it_is_heard_of_later(training) -> None:
    world = training(2)
    world.jump(1)
    world.fail(0, exception="ConnectionError: rank 1 is gone")
    world.visit()
    assert "rank 0" in world.attempt.message
    world.fail(1, exception="ValueError: boom", seconds_ago=0.5)
    world.settle()
    recovering = world.condition(ConditionType.RECOVERING)
    assert "rank 1 of worker 1" in recovering.message
    assert "ValueError: boom" in recovering.message
    assert len(world.status.recovery.restarts) == 1
    world.assert_ledger_sums()


def test_a_killed_process_explains_its_peers_failures_though_its_end_is_seen_later(
    training,
) -> None:
    world = training(3)
    world.fail(0, exception="ConnectionError: rank 1 is gone")
    world.visit()
    world.jump(0.2)
    world.fail(1, code=137, exception="")
    world.visit()
    world.fail(2, code=137, exception="")
    world.settle()
    assert "rank 1 of worker 1" in world.condition(ConditionType.RECOVERING).message
    assert len(world.status.recovery.restarts) == 1


def test_the_last_lines_of_a_failed_process_are_whole_lines(training) -> None:
    world = training(1)
    lines = tuple(f"line {number} {'x' * 90}" for number in range(20))
    world.fail(0, last_lines=lines)
    world.settle()
    told = world.condition(ConditionType.RECOVERING).message.splitlines()
    assert told[1] == "Its last lines:"
    assert tuple(told[2:]) == lines[-len(told[2:]) :]


def test_exit_code_93_counts_also_when_a_peer_that_failed_of_it_is_heard_first(training) -> None:
    world = training(2)
    world.fail(0, exception="ConnectionError: rank 1 is gone")
    world.visit()
    world.jump(0.1)
    world.fail(1, code=93)
    world.settle()
    assert world.condition(ConditionType.FAILED).reason == "DoNotRequeue"


def test_a_lost_worker_explains_its_peers_failures(training) -> None:
    world = training(2)
    world.fail(0, exception="RuntimeError: connection reset by peer")
    world.agent(1).silent = True
    world.visit()
    assert world.attempt.state is AttemptState.STOPPING
    assert world.attempt.charged
    world.delete_pod("job-1-0")
    world.settle()
    assert world.status.recovery.restarts == []
    assert world.attempt.number == 2


def test_a_start_that_not_all_confirm_is_formed_again_uncharged(make_world) -> None:
    world = make_world(2)
    world.settle()
    assert world.attempt.number == 1
    world.fail(0)
    world.visit()
    # The stop is obeyed, but the next start never reaches worker 1.
    for agent in world.agents.values():
        agent.seen = "1.stop"
        if agent.run:
            agent.run = replace(agent.run, alive=0)
    world.visit()
    assert world.attempt.state is AttemptState.STARTING
    world.agents["uid-job-0-0"].seen = ""
    for _ in range(8):
        world.jump(5)
        for agent in world.agents.values():
            agent.sequence += 1
            agent.heard_at = world.now
        world.visit()
    assert world.attempt.state is AttemptState.STOPPING
    assert world.attempt.reason == "NotConfirmed"
    world.settle()
    assert world.attempt.number == 3
    assert world.status.recovery.total == 1


def test_detection_and_recovery_are_priced(training) -> None:
    world = training(2, commit=10, step=12)
    world.settle()
    world.lose_node("node-1")
    world.pass_time(20, every=1.0)
    world.train(13)
    world.settle()
    world.assert_ledger_sums()
    assert world.spent(Bucket.DETECTION) >= 2 * 12
    assert world.spent(Bucket.LOST_WORK) > 0


def test_a_worker_has_lived_until_the_newest_step_of_the_gang_though_its_word_is_older(
    training,
) -> None:
    world = training(2, commit=10, step=12)
    world.settle()
    lost = world.spent(Bucket.LOST_WORK)
    world.silence(1)
    world.jump(4)
    world.train(16)
    stepped_at = world.now
    world.jump(1)
    world.delete_pod("job-1-0")
    world.settle()
    (incident,) = world.status.incidents
    assert incident.fault_at == stepped_at
    assert world.spent(Bucket.DETECTION) == 2 * 1
    assert world.spent(Bucket.LOST_WORK) - lost >= 2 * 4


def test_whose_pod_is_being_deleted_trains_until_it_is_stopped(training) -> None:
    world = training(2, commit=10, step=12)
    world.settle()
    world.end_pod(1, seconds=5)
    world.jump(2)
    world.settle()
    (incident,) = world.status.incidents
    assert incident.fault_at == incident.decided_at == world.now
    assert world.spent(Bucket.DETECTION) == 0


def test_the_first_attempt_opens_above_what_lies_on_disk(make_world) -> None:
    world = make_world(2)
    world.disk = Disk(highest_attempt=7, newest=Commit(attempt=6, step=400))
    world.settle()
    assert world.attempt.number == 8
    assert world.attempt.restore_step == 400
    assert world.status.checkpoint.lineage[0].origin == 6


def test_a_zombies_later_commit_is_never_a_restore_point(training) -> None:
    world = training(2, commit=10)
    world.fail(0)
    world.settle()
    assert world.status.checkpoint.lineage[0].step == 10
    # A process of attempt 1 that nobody could reach commits step 99; a new worker sees it.
    world.disk = Disk(highest_attempt=2, newest=Commit(attempt=1, step=99))
    world.delete_pod("job-1-0")
    world.settle()
    assert world.attempt.number == 3
    assert world.attempt.restore_step == 10


@pytest.mark.parametrize("reason", ["Evicted", "Preempting"])
def test_an_evicted_worker_is_not_charged(training, reason) -> None:
    world = training(2)
    pod = world.pods["job-1-0"]
    pod["status"] = {"phase": "Failed", "reason": reason}
    world.agent(1).silent = True
    world.settle()
    assert world.attempt.number == 2
    assert world.status.recovery.restarts == []
    assert "job-1-1" in world.pods


def test_memory_that_runs_out_is_charged_and_named(training) -> None:
    world = training(2)
    world.pods["job-1-0"]["status"] = {
        "phase": "Failed",
        "containerStatuses": [
            {"name": "t", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
        ],
    }
    world.agent(1).silent = True
    world.visit()
    assert world.attempt.reason == "OutOfMemory"
    assert world.attempt.charged


def test_an_image_without_python_fails_the_job_for_good(make_world) -> None:
    world = make_world(1)
    world.agents_connect = False
    world.settle()
    world.pods["job-0-0"]["status"] = {
        "phase": "Failed",
        "containerStatuses": [
            {
                "name": "trainer",
                "state": {
                    "terminated": {
                        "exitCode": 128,
                        "reason": "StartError",
                        "message": 'exec: "python3": executable file not found in $PATH',
                    }
                },
            }
        ],
    }
    world.settle()
    assert world.condition(ConditionType.FAILED).reason == "ImageLacksPython"


def _ends_its_restore(world, restored, *problems) -> None:  # type: ignore[no-untyped-def]
    """Every rank says how the restore of this attempt ended."""
    for agent in world.agents.values():
        progress = replace(
            agent.run.progress,
            restore_ended_at=agent.run.started_at,
            restored=restored,
            restore_problems=problems,
        )
        agent.run = replace(agent.run, progress=progress)
    world.pass_time(5)


def _says_of_its_restore(world, slot, commit, *, apart=False) -> None:  # type: ignore[no-untyped-def]
    agent = world.agent(slot)
    progress = replace(
        agent.run.progress,
        restore_ended_at=agent.run.started_at,
        restored=commit,
        restore_apart=apart,
        restore_problems=("step-20: Input/output error",) if apart else (),
    )
    agent.run = replace(agent.run, progress=progress)


@pytest.mark.parametrize("apart", [True, False], ids=["it gives up", "an SDK of old does not"])
def test_workers_that_cannot_go_on_from_one_checkpoint_are_started_anew(
    training, apart: bool
) -> None:
    world = training(3, commit=10)
    world.train(25, commit=20)
    world.pass_time(20)
    world.fail(1)
    world.settle()
    assert world.attempt.restore_step == 20
    _says_of_its_restore(world, 0, Commit(attempt=1, step=20))
    _says_of_its_restore(world, 1, Commit(attempt=1, step=10), apart=apart)
    if apart:
        world.fail(1)
    world.pass_time(20)
    assert world.attempt.number == 3
    assert world.attempt.restore_step == 10
    decided = [one for plan in world.plans for one in plan.decisions if one[0] == "RestoredApart"]
    assert "worker 1 (pod job-1-0" in decided[0][1]
    assert "step 10 of attempt 1" in decided[0][1]
    assert [one.attempt for one in world.status.recovery.restarts] == [1], "not the user's fault"


def test_workers_whose_processes_restart_within_an_attempt_are_let_alone(training) -> None:
    world = training(3, commit=10)
    world.train(25, commit=20)
    _says_of_its_restore(world, 0, Commit(attempt=1, step=20))
    _says_of_its_restore(world, 1, Commit(attempt=1, step=10))
    world.pass_time(20)
    assert world.attempt.number == 1


def test_a_restore_that_failed_costs_no_checkpoint(training) -> None:
    world = training(3, commit=10)
    world.fail(1)
    world.settle()
    _ends_its_restore(world, None, "cannot be read: Input/output error")
    world.fail(1)
    world.pass_time(20)
    assert world.attempt.number == 3
    assert world.attempt.restore_step == 10


def test_what_was_restored_in_place_of_a_damaged_checkpoint_serves_the_next_attempt_too(
    training,
) -> None:
    world = training(3, commit=10)
    world.train(25, commit=20)
    world.pass_time(20)
    world.fail(1)
    world.settle()
    assert world.attempt.restore_step == 20
    _ends_its_restore(world, Commit(attempt=1, step=10), "step 20: the checksum does not match")
    world.fail(1)
    world.pass_time(20)
    assert world.attempt.number == 3
    assert world.attempt.restore_step == 10


@pytest.mark.parametrize("milliseconds", [-5, 10**15, 2**53 - 1])
def test_no_duration_of_a_step_stops_the_passes(training, milliseconds) -> None:
    world = training(3)
    agent = world.agent(0)
    progress = replace(agent.run.progress, step_milliseconds=milliseconds)
    agent.run = replace(agent.run, progress=progress)
    world.silence(1)
    world.pass_time(100_000, every=10_000)
    assert world.attempt.number == 2


def test_a_step_longer_ago_than_any_machine_runs_is_as_old_as_its_report(training) -> None:
    world = training(3)
    for agent in world.agents.values():
        ages_ago = world.now - timedelta(days=365 * 2000) - world.now
        progress = replace(agent.run.progress, step_at=ages_ago // timedelta(milliseconds=1))
        agent.run = replace(agent.run, progress=progress)
    world.pass_time(120)
    assert world.status.progress.observed_at.year == world.now.year


def test_only_the_commits_of_the_current_attempt_are_believed(training) -> None:
    world = training(3, commit=None)
    agent = world.agent(0)
    lie = replace(agent.run.progress, committed=Commit(10**15, 10**15), committed_step_at=1)
    agent.run = replace(agent.run, progress=lie)
    world.pass_time(120)
    assert world.status.checkpoint.last_durable_step is None


def test_a_commit_of_step_0_is_news_once(training) -> None:
    world = training(3, commit=0, step=1)
    world.pass_time(60)
    seen_at = world.status.checkpoint.time
    world.pass_time(120)
    assert world.status.checkpoint.last_durable_step == 0
    assert world.status.checkpoint.time == seen_at


def test_a_condition_of_somebody_elses_is_kept(training) -> None:
    world = training(3)
    foreign = Condition(type="Audited", status="True", last_transition_time=world.now, reason="Yes")
    world.status = world.status.model_copy(
        update={"conditions": [foreign, *world.status.conditions]}
    )
    world.fail(1)
    world.settle()
    assert world.attempt.number == 2
    assert world.status.conditions[-1] == foreign


def test_a_checkpoint_that_was_passed_over_is_told_until_a_newer_one_is_durable(training) -> None:
    world = training(2)
    world.fail(0)
    world.settle()
    for slot in (0, 1):
        agent = world.agent(slot)
        assert agent.run is not None
        damaged = replace(agent.run.progress, restore_problems=("step-10: not JSON",))
        agent.run = replace(agent.run, progress=damaged)
    world.train(11)
    world.settle()
    fresh = world.condition(ConditionType.CHECKPOINT_FRESH)
    assert (fresh.status, fresh.reason) == ("False", "FellBack")
    assert "step-10: not JSON" in fresh.message
    world.train(20, commit=20)
    world.settle()
    assert world.true(ConditionType.CHECKPOINT_FRESH)


def test_a_commit_that_nobody_reported_is_durable_once_it_has_been_restored(training) -> None:
    world = training(2, commit=10)
    world.fail(0)
    world.settle()
    agent = world.agent(1)
    assert agent.run is not None
    agent.run = replace(
        agent.run, progress=replace(agent.run.progress, restored=Commit(attempt=1, step=12))
    )
    world.train(13)
    world.settle()
    checkpoint = world.status.checkpoint
    assert (checkpoint.last_durable_attempt, checkpoint.last_durable_step) == (1, 12)


def test_a_directory_in_which_no_job_can_have_been_is_unusable_and_said_to_be(make_world) -> None:
    world = make_world(2, checkpoint={"directory": "/checkpoints"})
    world.disk = Disk(highest_attempt=2**53 - 1)
    world.settle()
    fresh = world.condition(ConditionType.CHECKPOINT_FRESH)
    assert (fresh.status, fresh.reason) == ("False", "DirectoryUnusable")
    assert "attempt 9007199254740991" in fresh.message
    assert world.attempt.state == "Forming"


def test_a_port_that_no_machine_has_starts_nothing(make_world) -> None:
    world = make_world(1)
    world.free_port = 2**53 - 1
    world.settle()
    assert world.attempt.state == "Forming"
    world.free_port = 29500
    world.settle()
    assert world.attempt.state == "Running"


def test_a_job_whose_attempts_cannot_be_counted_on_fails_and_says_why(training) -> None:
    world = training(1)
    edited = world.attempt.model_copy(update={"number": MAX_ATTEMPT, "state": AttemptState.CLOSED})
    world.status = world.status.model_copy(update={"attempt": edited})
    world.settle()
    failed = world.condition(ConditionType.FAILED)
    assert (failed.status, failed.reason) == ("True", "NoAttemptLeft")
    assert "create the job anew" in failed.message


def test_after_the_last_incarnation_that_has_a_name_comes_the_first(training) -> None:
    world = training(1)
    [slot] = world.status.slots
    edited = slot.model_copy(update={"incarnation": names.MAX_INCARNATION})
    assert next_incarnation([edited], frozenset({0}))[0].incarnation == 0


def test_a_finished_job_without_a_ledger_is_written_no_more(training) -> None:
    world = training(1)
    world.finish()
    world.settle()
    ledger = world.status.ledger.model_copy(update={"accounted_until": None})
    world.status = world.status.model_copy(update={"ledger": ledger})
    before = world.writes
    world.settle()
    assert world.writes == before


def test_what_failed_before_the_window_is_forgiven(training) -> None:
    world = training(1, recovery={"maxRestarts": 1, "windowSeconds": 600, "backoffSeconds": 0})
    for step in (20, 30, 40):
        world.train(step)
        world.settle()
        world.fail(0)
        world.settle()
        world.pass_time(600, every=100)
        assert not world.true(ConditionType.FAILED)
    assert world.status.recovery.total == 3
    assert len(world.status.recovery.restarts) == 1


def test_the_back_off_counts_from_the_failure_not_from_when_it_was_noticed(training) -> None:
    world = training(1, recovery={"backoffSeconds": 30})
    world.fail(0)
    world.settle()
    world.fail(0)
    world.settle()
    world.jump(20)
    world.fail(0, seconds_ago=12)
    failed_at = world.now - timedelta(seconds=12)
    world.settle()
    assert world.status.recovery.not_before == failed_at + timedelta(seconds=30)


def test_no_pass_during_a_back_off_postpones_it(training) -> None:
    world = training(1, recovery={"backoffSeconds": 30})
    for _ in range(3):
        world.fail(0)
        world.settle()
    world.pass_time(29.5, every=0.5)
    assert world.attempt.state is AttemptState.FORMING
    world.pass_time(0.5)
    assert world.attempt.state is AttemptState.RUNNING


def test_a_new_leader_gives_every_worker_the_time_to_speak(make_world) -> None:
    world = make_world(2)
    world.settle()
    world.pass_time(100)  # a long start: nobody has finished a step yet
    assert world.attempt.state is AttemptState.RUNNING
    world.listening_since = world.now
    world.agent(1).sequence = 0  # the one is heard of at once, the other not yet
    for _ in range(25):
        world.jump(1)
        world.agent(0).heard_at = world.now
        world.visit()
    assert world.attempt.state is AttemptState.RUNNING
    assert world.attempt.number == 1


def test_no_nodes_condition_outweighs_that_the_gang_advances(training) -> None:
    world = training(4)
    world.lose_node("node-3", noticed=True)
    for step in range(13, 40):
        world.jump(5)
        world.train(step)
        world.settle()
    assert world.attempt.number == 1
    assert world.attempt.state is AttemptState.RUNNING
    assert "left alone" in world.condition(ConditionType.DEGRADED).message
