"""What becomes of a job, and of its pods, once it has ended; and that it has not ended before."""

from datetime import timedelta

import pytest

from goodput_operator.api.status import AttemptState, ConditionType


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
