"""The life of a job in which nothing breaks."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import Commit
from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from goodput_operator.diagnose.examine import (
    SILENCE_LIMIT_SECONDS,
    STARTING_SILENCE_LIMIT_SECONDS,
    STILL_SECONDS,
    STILL_STEPS,
)
from goodput_operator.observe.agents import Vigil
from goodput_operator.plan.conditions import PATIENCE
from goodput_operator.plan.view import Timing
from tests.unit.plan.conftest import World


def test_a_gang_that_fits_runs_its_first_attempt(make_world) -> None:
    world = make_world(4)
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert world.attempt.number == 1
    assert sorted(world.pods) == ["job-0-0", "job-1-0", "job-2-0", "job-3-0"]
    assert world.status.phase == "Running"


def test_a_gang_that_does_not_fit_creates_nothing_and_says_what_is_missing(make_world) -> None:
    world = make_world(4, spare_nodes=-1)
    world.settle()
    assert world.pods == {}
    assert world.status.phase == "Queued"
    admitted = world.condition(ConditionType.ADMITTED)
    assert (admitted.status, admitted.reason) == ("False", "DoesNotFit")
    assert "needs 4 nodes; 3 fit" in admitted.message


def test_a_waiting_gang_starts_when_there_is_room(make_world) -> None:
    world = make_world(4, spare_nodes=-1)
    world.settle()
    world.free_nodes.append("late")
    world.pass_time(30)
    assert world.attempt.state is AttemptState.RUNNING


def test_no_world_is_published_before_every_agent_is_there(make_world) -> None:
    world = make_world(2)
    world.agents_connect = False
    world.settle()
    assert world.attempt.state is AttemptState.FORMING
    assert all(answer.kind == "hold" for answer in world.plans[-1].answers.values())


def test_no_world_is_published_while_one_agent_is_missing(make_world) -> None:
    world = make_world(3)
    world.visit()
    late = world.agent(2)
    late.silent = True
    world.settle()
    assert world.attempt.state is AttemptState.FORMING
    assert all(answer.kind == "hold" for answer in world.plans[-1].answers.values())
    late.silent = False
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING


def test_the_job_succeeds_when_every_process_does(training) -> None:
    world = training(2)
    world.finish()
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)
    assert world.status.phase == "Succeeded"
    world.assert_ledger_sums()
    assert world.status.ledger.unsettled_milliseconds == 0


def test_all_conditions_are_set_at_the_first_visit(make_world) -> None:
    world = make_world(1)
    world.visit()
    assert [one.type for one in world.status.conditions] == list(ConditionType)


def test_a_healthy_job_costs_one_write_a_minute(training) -> None:
    world = training(2)
    before = world.writes
    for step in range(13, 73):
        world.jump(5)
        world.train(step)
        world.settle()
    assert world.writes - before <= 5  # 300 seconds


def test_planning_again_after_a_plan_was_carried_out_gives_nothing(training) -> None:
    world = training(3)
    plan = world.visit()
    assert plan.decisions == ()
    assert plan.create == ()
    assert plan.delete == ()
    assert not plan.write


def test_work_becomes_productive_with_the_commit_that_covers_it(training) -> None:
    world = training(2, commit=None, step=5)
    world.jump(60)
    world.train(6)
    world.settle()
    assert world.spent(Bucket.PRODUCTIVE) == 0
    assert world.status.ledger.unsettled_milliseconds > 0
    world.jump(60)
    world.train(7, commit=7)
    world.settle()
    assert world.spent(Bucket.PRODUCTIVE) >= 2 * 120
    assert world.status.ledger.unsettled_milliseconds == 0
    world.assert_ledger_sums()


def test_work_is_not_lost_when_its_commit_is_heard_of_after_the_fault(training) -> None:
    world = training(2, commit=None, step=5)
    world.settle()
    settled = world.spent(Bucket.PRODUCTIVE)
    world.jump(95)
    world.train(6)
    world.jump(5)
    survivor = world.agent(0)
    survivor.silent = True
    world.fail(1, seconds_ago=4)
    world.visit()
    assert world.attempt.state is AttemptState.STOPPING
    assert world.spent(Bucket.LOST_WORK) == 0

    survivor.silent = False
    world.train(7, commit=7)
    progress = survivor.run.progress
    at = progress.step_at - 24_000
    survivor.run = replace(survivor.run, progress=replace(progress, committed_step_at=at))
    world.settle()
    assert world.attempt.number == 2
    assert world.spent(Bucket.PRODUCTIVE) - settled == pytest.approx(2 * 76, abs=4)
    assert world.spent(Bucket.LOST_WORK) == 2 * 20
    assert world.spent(Bucket.DETECTION) == 2 * 4
    world.assert_ledger_sums()


def test_time_in_which_training_stands_still_is_told_apart_from_work(training) -> None:
    world = training(2, commit=None, step=5)
    world.jump(60)
    world.train(6, stalled_seconds=(4, 2))
    world.settle()
    world.jump(60)
    world.train(7, commit=7, stalled_seconds=(10, 2.5))
    world.settle()
    assert world.spent(Bucket.CHECKPOINT_STALL) == 2 * 10
    assert world.spent(Bucket.DATA_STALL) == 2 * 2.5
    assert world.status.ledger.unsettled_milliseconds == 0
    world.assert_ledger_sums()


def test_the_next_attempt_stands_still_for_itself(training) -> None:
    world = training(1)
    world.jump(60)
    world.train(20, stalled_seconds=(10, 0))
    world.settle()
    world.fail(0)
    world.settle()
    world.jump(30)
    world.train(21, stalled_seconds=(3, 0))
    world.jump(60)
    world.train(22, stalled_seconds=(4, 0))
    world.settle()
    assert world.spent(Bucket.CHECKPOINT_STALL) == 10 + 4
    world.assert_ledger_sums()
    world.assert_prices_sum()


def test_the_commit_is_acknowledged_to_the_agents_once_it_is_written(training) -> None:
    world = training(1, commit=None, step=5)
    world.jump(20)
    world.train(7, commit=7)
    world.settle()
    [answer] = world.visit().answers.values()
    assert answer.durable is not None
    assert answer.durable.step == 7


def test_no_commit_is_acknowledged_that_a_restarted_operator_would_not_know(training) -> None:
    world = training(1, commit=10)
    world.jump(60)
    world.train(13)
    assert world.visit().write, "the ledger is written each minute"
    world.jump(1)
    world.train(14, commit=14)
    plan = world.visit()
    assert not plan.write
    [answer] = plan.answers.values()
    assert answer.durable is not None
    assert answer.durable.step == world.status.checkpoint.last_durable_step == 10
    world.jump(15)
    plan = world.visit()
    [answer] = plan.answers.values()
    assert (plan.write, answer.durable) == (True, Commit(1, 14))


def test_a_gang_that_finishes_no_step_for_a_minute_is_said_to_stand_still(training) -> None:
    world = training(2)
    assert world.condition(ConditionType.PROGRESSING).status == "True"
    world.pass_time(80)
    progressing = world.condition(ConditionType.PROGRESSING)
    assert (progressing.status, progressing.reason) == ("False", "StandsStill")
    world.train(13)
    world.settle()
    assert world.condition(ConditionType.PROGRESSING).status == "True"


def test_a_checkpoint_of_an_earlier_attempt_is_no_progress_of_this_one(make_world) -> None:
    world = make_world(2)
    world.sdk = False
    world.settle()
    world.track(100, seconds_ago=60)
    world.settle()
    assert world.condition(ConditionType.PROGRESSING).reason == "NoSignal"
    world.jump(1)
    world.track(200)
    world.settle()
    assert world.true(ConditionType.PROGRESSING)
    world.jump(1)
    world.fail(0)
    world.pass_time(10)
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    world.track(200, seconds_ago=11)
    world.settle()
    assert world.condition(ConditionType.PROGRESSING).reason == "NoSignal"


def test_a_worker_that_has_trained_to_its_end_may_lose_its_pod(training) -> None:
    world = training(3)
    world.finish_worker(0)
    world.jump(11)
    world.settle()
    assert [slot.succeeded for slot in world.status.slots] == [True, False, False]
    world.delete_pod("job-0-0")
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    world.finish()
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)
    assert world.status.recovery.total == 0


def test_who_had_finished_an_attempt_that_failed_trains_in_the_next_one(training) -> None:
    world = training(2)
    world.finish_worker(0)
    world.fail(1)
    world.settle()
    assert world.attempt.number == 2
    assert [slot.succeeded for slot in world.status.slots] == [False, False]
    assert not world.true(ConditionType.SUCCEEDED)


def test_a_thousand_ends_do_not_cost_a_thousand_writes(training) -> None:
    world = training(20)
    before = world.writes
    for slot in range(19):
        world.finish_worker(slot)
        world.settle()
    assert world.writes - before <= 1


def test_a_gang_at_rest_is_left_alone_until_its_ledger_is_due(training) -> None:
    world = training(4)
    world.train(20)
    world.settle()
    plan = world.visit()
    assert plan.vigil == Vigil(frozenset(world.agents), SILENCE_LIMIT_SECONDS)
    flushed = world.status.ledger.accounted_until
    rhythm = timedelta(seconds=Timing().flush_seconds)
    assert plan.recheck_at == flushed + rhythm
    world.now = plan.recheck_at
    world.train(30)
    plan = world.visit()
    assert plan.write
    assert plan.recheck_at == world.now + rhythm


def test_a_silence_that_has_lasted_too_long_is_followed_by_the_clock(training) -> None:
    world = training(4)
    world.train(20)
    world.silence(3)
    world.jump(SILENCE_LIMIT_SECONDS - 3)
    for _ in range(4):
        world.jump(1)
        world.train(21)
    plan = world.visit()
    assert plan.vigil is None
    assert plan.recheck_at <= world.now + timedelta(seconds=STILL_STEPS)


def stand_still(world: World) -> None:
    world.jump(STILL_SECONDS + PATIENCE.total_seconds() + 1)
    world.pass_time(5)


def lose_steps(world: World) -> None:
    world.fail(1)
    world.settle()
    world.train(11)
    world.settle()


UNREST = {
    "a gang that has not trained yet": lambda world: world.fail(1),
    "a gang that is not yet where it was": lose_steps,
    "a gang that stands still": stand_still,
    "a worker that is about to go": lambda world: world.end_pod(1),
}


@pytest.mark.parametrize("unrest", UNREST.values(), ids=UNREST)
def test_the_clock_stays_with(training, unrest) -> None:
    world = training(4)
    unrest(world)
    world.settle()
    plan = world.visit()
    assert plan.vigil is None
    assert plan.recheck_at < world.now + timedelta(seconds=STARTING_SILENCE_LIMIT_SECONDS + 1)
