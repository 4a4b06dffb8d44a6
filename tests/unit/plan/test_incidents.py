"""Each interruption leaves one record: what it was, what was decided and why, what it cost."""

from datetime import timedelta

import pytest

from goodput_operator.api.status import AttemptState, Bucket, Decision, Incident
from tests.unit.plan.conftest import World


def newest(world: World) -> Incident:
    return world.status.incidents[0]


def test_a_job_without_interruption_has_no_incident(training) -> None:
    world = training(2)
    world.finish()
    world.settle()
    assert world.status.incidents == []


def test_an_incident_names_its_first_cause_and_the_evidence(training) -> None:
    world = training(4)
    world.fail(2, code=137, exception="", last_lines=("loading shard 3",), seconds_ago=1.5)
    world.settle()
    incident = newest(world)
    assert (incident.attempt, incident.reason) == (1, "ProcessFailed")
    assert (incident.slot, incident.rank, incident.pod, incident.node) == (
        2,
        2,
        "job-2-0",
        "node-2",
    )
    assert "signal 9" in incident.message
    assert "loading shard 3" in incident.message
    assert (incident.planned, incident.charged) == (False, True)
    assert incident.fault_at == world.now - timedelta(seconds=1.5)
    assert incident.decided_at == world.now


def test_its_timeline_goes_from_the_fault_until_training_is_as_far_as_before(training) -> None:
    world = training(2, commit=10, step=12)
    world.delete_pod("job-1-0")
    world.jump(1)
    world.settle()
    fault, decided = newest(world).fault_at, newest(world).decided_at
    assert (newest(world).step, newest(world).restore_step, newest(world).steps_lost) == (12, 10, 2)
    assert newest(world).first_step_at is None
    world.jump(3)
    world.train(11)
    world.settle()
    assert newest(world).first_step_at == world.now
    assert newest(world).caught_up_at is None
    world.jump(4)
    world.train(16, seconds_per_step=0.5)
    world.pass_time(90)
    times = newest(world)
    assert times.scheduled_at is not None
    assert times.published_at is not None
    assert fault <= decided <= times.scheduled_at <= times.published_at
    assert times.running_at is not None
    assert times.first_step_at is not None
    assert times.caught_up_at == times.first_step_at + timedelta(seconds=2)  # 4 steps of 0.5 s ago


def test_its_end_and_its_price_are_told_once(training) -> None:
    world = training(2)
    world.fail(0)
    world.settle()
    world.jump(2)
    world.train(20)
    world.pass_time(300)
    told = [
        message
        for plan in world.plans
        if plan.write
        for reason, message in plan.decisions
        if reason == "Recovered"
    ]
    assert len(told) == 1
    assert "attempt 1 ended (ProcessFailed)" in told[0]
    assert "2 steps were trained again" in told[0]
    assert "accelerator-seconds" in told[0]


def test_an_incident_costs_no_write_of_its_own(training) -> None:
    world = training(2)
    world.fail(0)
    world.settle()
    world.jump(2)
    world.train(11)
    world.settle()
    before = world.writes
    world.jump(5)
    world.train(20)  # caught up
    world.settle()
    assert world.writes == before
    assert newest(world).caught_up_at is None
    world.jump(60)
    world.settle()
    assert world.writes == before + 1
    assert newest(world).caught_up_at is not None


def suspend(world) -> None:
    world.spec["suspend"] = True
    world.settle()
    world.train(world.attempt.save_step, commit=world.attempt.save_step)


@pytest.mark.parametrize(
    ("harm", "decision"),
    [
        pytest.param(
            lambda world: world.fail(1), Decision.RESTART_PROCESSES, id="a process: its pod is kept"
        ),
        pytest.param(
            lambda world: world.delete_pod("job-1-0"),
            Decision.REPLACE_WORKERS,
            id="a pod: the others keep theirs",
        ),
        pytest.param(
            lambda world: [world.delete_pod(f"job-{slot}-0") for slot in range(3)],
            Decision.RECREATE,
            id="all pods",
        ),
        pytest.param(suspend, Decision.SUSPEND, id="the user's wish"),
        pytest.param(lambda world: world.fail(1, code=93), Decision.FAIL, id="exit code 93"),
    ],
)
def test_the_decision_and_its_reason_are_said(training, harm, decision: Decision) -> None:
    world = training(3)
    harm(world)
    world.settle()
    assert newest(world).decision is decision
    assert newest(world).why
    assert len(newest(world).why) <= 512


def test_a_gang_that_goes_on_smaller_pays_for_those_who_are_missing(training) -> None:
    world = training(
        3,
        spare_nodes=0,
        elastic={"minWorkers": 1, "maxWorkers": 3, "faultyScaleDownTimeoutSeconds": 5},
    )
    world.lose_node("node-2", noticed=True)
    world.pass_time(60, every=2)
    world.train(20)
    world.pass_time(120)
    incident = newest(world)
    assert incident.decision is Decision.SHRINK
    assert "from 3 to 2 workers" in incident.why
    degraded = world.status.ledger.accelerator_milliseconds[Bucket.DEGRADED]
    assert incident.accelerator_milliseconds[Bucket.DEGRADED] == degraded > 0


def test_a_truer_cause_gets_the_blame_in_the_same_record(training) -> None:
    world = training(3)
    for slot in (0, 1, 2):
        world.agent(slot).seen = "deaf"
    world.fail(0)
    world.visit()
    assert newest(world).slot == 0
    world.jump(1)
    world.fail(2, code=137, seconds_ago=1)
    world.visit()
    world.settle()
    assert len([one for one in world.status.incidents if one.attempt == 1]) == 1
    assert world.status.incidents[-1].slot == 2


def test_prices_sum_to_the_losses_however_many_incidents_there_were(training) -> None:
    world = training(2, recovery={"maxRestarts": 99})
    for number in range(14):
        world.jump(7)
        world.train(100 + number)
        world.settle()
        world.fail(number % 2)
        world.jump(1)
        world.pass_time(30, every=5)
    assert len(world.status.incidents) == 10
    assert [one.attempt for one in world.status.incidents] == list(range(14, 4, -1))
    world.assert_prices_sum()
    earlier = world.status.ledger.earlier_incidents_milliseconds
    assert earlier[Bucket.LOST_WORK] > 0


def test_a_finished_step_tells_that_all_have_started_though_one_is_not_heard(training) -> None:
    world = training(3)
    world.fail(0)
    while world.attempt.number == 1 or world.attempt.published_at is None:
        world.obey()
        world.jump(1)
        world.visit()
    world.silence(1)
    world.settle()
    world.jump(3)
    world.train(6)
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert newest(world).running_at == world.now - timedelta(seconds=3)
    assert newest(world).first_step_at == world.now
    world.jump(4)
    world.agent(1).silent = False
    world.settle()
    assert newest(world).running_at == world.now - timedelta(seconds=7)
    world.assert_prices_sum()
