"""What becomes of a job, and of its pods, once it has ended; and that it has not ended before."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import ProcessExit
from goodput_operator.api.status import AttemptState, ConditionType
from goodput_operator.diagnose.examine import BLIND_SILENCE_LIMIT_SECONDS
from tests.unit.plan.conftest import CREATED


def test_a_finished_job_is_deleted_when_its_time_to_live_is_over(training) -> None:
    world = training(2, ttlSecondsAfterFinished=60)
    world.finish()
    world.settle()
    finished_at = world.status.finished_at
    assert finished_at is not None
    world.now = finished_at + timedelta(seconds=59)
    plan = world.visit()
    assert not plan.delete_job
    assert plan.recheck_at == finished_at + timedelta(seconds=60)
    world.jump(1)
    assert world.visit().delete_job


def test_a_job_that_trains_outlives_any_time_to_live(training) -> None:
    world = training(2, ttlSecondsAfterFinished=0)
    world.pass_time(600)
    assert not any(plan.delete_job for plan in world.plans)


def test_a_finished_job_without_a_time_to_live_stays(training) -> None:
    world = training(2)
    world.finish()
    world.settle()
    world.jump(10**8)
    assert not world.visit().delete_job


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        pytest.param("Running", ["job-0-0", "job-0-1"], id="those that go on are deleted"),
        pytest.param("All", [], id="all are deleted"),
        pytest.param("None", ["job-0-0", "job-0-1", "job-1-0"], id="none is deleted"),
    ],
)
def test_a_finished_jobs_pods_are_cleaned_up_as_its_user_says(training, policy, left) -> None:
    world = training(2, cleanPodPolicy=policy)
    world.pods["job-0-0"]["status"] = {"phase": "Failed", "reason": "Evicted"}
    world.agent(0).silent = True
    world.settle()
    assert world.attempt.number == 2
    world.finish()
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)
    world.pods["job-1-0"]["status"]["phase"] = "Running"  # a sidecar goes on
    world.jump(9)
    world.visit()
    assert len(world.pods) == 3, "the agents have ten seconds to leave by themselves"
    world.jump(1)
    world.visit()
    assert sorted(world.pods) == left


def test_a_job_has_succeeded_only_when_its_last_worker_has(training) -> None:
    world = training(3)
    for slot in range(3):
        assert not world.true(ConditionType.SUCCEEDED)
        world.finish_worker(slot)
        world.settle()
        world.jump(1)
    assert world.true(ConditionType.SUCCEEDED)
    assert world.attempt.state is AttemptState.CLOSED


def test_of_a_pod_that_has_left_the_kubelet_says_when_its_work_ended(training) -> None:
    world = training(2)
    world.jump(90)
    for slot in (0, 1):
        world.leave(slot, world.now - timedelta(seconds=30))
    world.forget()
    world.visit()
    assert world.true(ConditionType.SUCCEEDED)
    assert world.attempt.ended_at == world.now - timedelta(seconds=30)
    world.assert_ledger_sums()


def test_who_was_heard_last_in_the_middle_ended_when_the_kubelet_says(training) -> None:
    world = training(2, commit=None, step=5)
    agent = world.agent(1)
    one_of_two = ProcessExit(rank=2, at=0, exit_code=0, reason="Completed")
    agent.run = replace(agent.run, exits=(one_of_two,))
    world.speak(1)
    world.finish_worker(0)
    world.settle()
    world.jump(10)
    world.leave(1, world.now)  # its last word is lost
    world.visit()
    assert world.attempt.ended_at == world.now


def test_a_clock_that_goes_wrong_moves_no_end_out_of_the_attempt(training) -> None:
    world = training(1)
    world.leave(0, CREATED - timedelta(days=10_000))
    world.forget()
    world.visit()
    assert world.attempt.ended_at == world.attempt.running_at
    world.assert_ledger_sums()


def test_a_deadline_that_was_met_while_no_operator_was_there_is_met(training) -> None:
    world = training(2, activeDeadlineSeconds=600)
    world.jump(700)
    world.forget()
    plan = world.visit()
    assert not world.true(ConditionType.FAILED)
    assert plan.recheck_at == world.now + timedelta(seconds=BLIND_SILENCE_LIMIT_SECONDS)
    world.finish(seconds_ago=300)
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)


def test_a_deadline_waits_for_the_unheard_no_longer_than_their_silence_lasts(training) -> None:
    world = training(2, activeDeadlineSeconds=600)
    world.jump(700)
    world.forget()
    world.visit()
    world.jump(BLIND_SILENCE_LIMIT_SECONDS)
    world.visit()
    assert world.condition(ConditionType.FAILED).reason == "DeadlineExceeded"


def test_a_job_that_has_ended_well_is_not_suspended(training) -> None:
    world = training(2, sdk=False)
    world.spec["suspend"] = True
    world.finish()
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)


def test_an_operator_that_has_just_begun_to_listen_gives_the_agents_their_time_to_leave(
    training,
) -> None:
    world = training(2, cleanPodPolicy="Running")
    world.agents_connect = False  # the operator dies before it has told anybody of the end
    world.finish()
    world.visit()
    world.jump(60)
    world.listening_since = world.now
    world.visit()
    assert len(world.pods) == 2
    world.jump(11)
    world.visit()
    assert world.pods == {}
