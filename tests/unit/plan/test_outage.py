"""What an operator makes of what has happened while none was there, as it hears of it bit by bit.

In each test `World.forget` takes the old operator away: the new one has heard of no agent yet.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput_operator.api.base import format_time
from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS
from goodput_operator.ledger.accounting import total
from tests.unit.plan.conftest import CREATED, World, node_object

AT_ONCE: tuple[int, ...] = ()
ORDERS = [
    pytest.param((0, 1), id="one before the other"),
    pytest.param((1, 0), id="the other before the one"),
    pytest.param(AT_ONCE, id="at once"),
]


def hear(world: World, order: tuple[int, ...]) -> None:
    """Let a new operator look, then hear of its workers in this order, then of all."""
    world.forget()
    world.visit()
    for slot in order:
        hear_on(world, slot)
    world.settle()


def hear_on(world: World, slot: int) -> None:
    """Let the operator hear of one more, a moment later."""
    world.jump(0.1)
    world.speak(slot)
    world.visit()


def published(world: World, *, told: bool = True) -> None:
    """Let a gang start, and its operator go before it has heard of that, or told anybody to."""
    while world.status.attempt is None or world.attempt.state is not AttemptState.STARTING:
        world.visit()
        if world.attempt.state is not AttemptState.STARTING:
            world.obey()
    if told:
        world.obey()
    else:
        for agent in world.agents.values():
            agent.answer = None


def first_step(world: World) -> None:
    """Let a gang start and finish its first step, with nobody there to hear of it."""
    published(world)
    world.jump(1)
    world.train(1)


@pytest.mark.parametrize("order", ORDERS)
def test_work_that_was_saved_meanwhile_is_productive(training, order) -> None:
    world = training(2, commit=None, step=5)
    world.jump(100)
    world.train(105, commit=105)
    world.jump(1)
    hear(world, order)
    world.jump(5)
    world.fail(1)
    world.settle()
    assert world.attempt.restore_step == 105
    assert world.spent(Bucket.PRODUCTIVE) == pytest.approx(2 * 102, abs=4)
    assert world.spent(Bucket.LOST_WORK) < 2 * 10
    world.assert_ledger_sums()


@pytest.mark.parametrize("order", ORDERS)
def test_so_is_what_a_tracker_file_tells_of(training, order) -> None:
    world = training(2, sdk=False, commit=None, step=5)
    world.jump(100)
    world.track(100)
    world.jump(1)
    hear(world, order)
    world.jump(5)
    world.fail(1)
    world.settle()
    assert world.spent(Bucket.PRODUCTIVE) == pytest.approx(2 * 102, abs=4)
    world.assert_ledger_sums()


@pytest.mark.parametrize("order", ORDERS)
def test_a_start_that_came_to_its_first_step_meanwhile_is_the_faults_price(training, order) -> None:
    world = training(2, commit=10)
    world.fail(1)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    world.jump(100)  # imports
    world.train(13)
    world.jump(1)
    hear(world, order)
    assert not world.true(ConditionType.RECOVERING)
    world.pass_time(60)
    assert world.spent(Bucket.STARTUP) == pytest.approx(2 * 101, abs=4)
    assert world.status.incidents[0].accelerator_milliseconds[Bucket.STARTUP] == 2 * 100_000
    world.assert_ledger_sums()
    world.assert_prices_sum()


def test_what_is_decided_before_all_are_heard_takes_a_start_for_no_work(training) -> None:
    world = training(4, commit=10, elastic={"minWorkers": 2, "maxWorkers": 8})
    world.fail(1)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    world.jump(100)
    world.spec["workers"] = 2
    world.forget()
    world.visit()
    assert world.plans[-1].decisions
    assert world.true(ConditionType.RECOVERING)
    assert world.spent(Bucket.STARTUP) >= 4 * 100
    assert world.status.ledger.unsettled_milliseconds == 0


def test_what_is_decided_before_all_are_heard_doubts_no_progress(make_world) -> None:
    world = make_world(4, elastic={"minWorkers": 2, "maxWorkers": 8})
    world.sdk = False
    world.settle()
    world.jump(1)
    world.track(100)
    world.settle()
    world.pass_time(60)
    assert world.true(ConditionType.PROGRESSING)
    world.spec["workers"] = 2
    world.forget()
    world.visit()
    assert world.plans[-1].decisions
    assert world.true(ConditionType.PROGRESSING)


@pytest.mark.parametrize("order", ORDERS)
def test_a_training_whose_start_nobody_had_heard_of_trains_on(make_world, order) -> None:
    world = make_world(2)
    first_step(world)
    world.jump(5000)
    world.train(5001, commit=5001)
    hear(world, order)
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)
    assert world.spent(Bucket.PRODUCTIVE) == 2 * 5000
    world.assert_ledger_sums()


def test_a_start_that_nobody_was_told_of_is_told_then(make_world) -> None:
    world = make_world(2)
    published(world, told=False)
    world.jump(1000)
    hear(world, (0, 1))
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)


@pytest.mark.parametrize("order", ORDERS)
def test_a_fault_after_such_a_start_loses_what_was_not_saved(make_world, order) -> None:
    world = make_world(2)
    first_step(world)
    world.jump(400)
    world.train(401, commit=401)
    world.jump(100)
    world.fail(1, seconds_ago=60)
    hear(world, order)
    assert world.attempt.number == 2
    assert world.spent(Bucket.PRODUCTIVE) == 2 * 400
    assert world.spent(Bucket.LOST_WORK) == pytest.approx(2 * 40, abs=2)
    world.assert_ledger_sums()
    world.assert_prices_sum()


def test_a_job_that_started_and_ended_meanwhile_has_worked(make_world) -> None:
    world = make_world(2, startDeadlineSeconds=600)
    first_step(world)
    world.jump(1000)
    world.finish(seconds_ago=300)
    hear(world, AT_ONCE)
    assert world.true(ConditionType.SUCCEEDED)
    assert world.status.started_at == world.attempt.running_at
    assert world.spent(Bucket.PRODUCTIVE) == 2 * 700
    world.assert_ledger_sums()


def test_what_a_gang_lived_before_its_start_was_heard_of_is_known_to_its_failure_rate(
    make_world,
) -> None:
    world = make_world(4, elastic={"minWorkers": 2, "maxWorkers": 8})
    first_step(world)
    world.jump(2000)
    world.train(2000)
    world.fail(1)
    world.visit()
    assert world.status.elastic.interruptions == 1
    assert world.status.elastic.exposed_worker_seconds_micro > 4 * 1900 * 1_000_000


def test_those_who_were_to_stop_are_told_once_more_before_their_pods_are_replaced(
    training,
) -> None:
    world = training(3)
    world.fail(1)
    world.visit()  # the operator goes before anybody was told
    assert world.attempt.state is AttemptState.STOPPING
    for agent in world.agents.values():
        agent.answer = None
    world.jump(1000)
    before = sorted(world.pods)
    hear(world, AT_ONCE)
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    assert sorted(world.pods) == before


def test_a_gang_that_was_connected_in_time_is_not_released(make_world) -> None:
    world = make_world(3, gang={"startTimeoutSeconds": 60})
    world.visit()
    world.obey()
    assert world.attempt.state is AttemptState.FORMING
    world.jump(1000)
    before = sorted(world.pods)
    hear(world, AT_ONCE)
    assert world.attempt.state is AttemptState.RUNNING
    assert sorted(world.pods) == before


def test_a_size_that_was_given_up_meanwhile_leaves_the_past_as_it_was(training) -> None:
    world = training(4, spare_nodes=0, elastic={"minWorkers": 2, "maxWorkers": 8})
    for slot in (2, 3):
        world.lose_node(world.agent(slot).pod["spec"]["nodeName"], noticed=True)
    world.pass_time(335)
    assert world.status.workers.text == "2/4"
    degraded = world.spent(Bucket.DEGRADED)
    world.jump(1000)
    world.spec["workers"] = 2
    hear(world, AT_ONCE)
    world.pass_time(70)
    assert world.spent(Bucket.SPARE) == 0
    assert world.spent(Bucket.DEGRADED) >= degraded + 2 * 1000


def test_nobody_waits_for_the_word_of_a_worker_that_has_left(training) -> None:
    world = training(2)
    world.finish_worker(1)
    world.settle()
    world.leave(1, world.now)
    world.spec["suspend"] = True
    hear(world, (0,))
    assert world.attempt.save_by is not None


def test_a_jobs_time_ends_with_its_last_process_not_when_the_operator_hears_of_it(
    training,
) -> None:
    world = training(3, commit=None, step=5)
    world.settle()
    began = world.now
    world.jump(100)
    world.finish(seconds_ago=40)
    hear(world, AT_ONCE)
    assert world.true(ConditionType.SUCCEEDED)
    assert world.attempt.ended_at == world.status.ledger.accounted_until
    assert world.attempt.ended_at == began + timedelta(seconds=60)
    assert world.status.finished_at == world.now
    assert world.status.ledger.unsettled_milliseconds == 0
    world.assert_ledger_sums()


def test_so_it_does_when_an_operator_was_there_and_could_not_hear_of_it(training) -> None:
    world = training(2, commit=None, step=5)
    world.settle()
    began = world.now
    world.silence(0)
    world.silence(1)
    for _ in range(10):
        world.jump(10)
        world.visit()
    assert world.status.ledger.accounted_until > began + timedelta(seconds=50)
    world.speak(0)
    world.speak(1)
    world.finish(seconds_ago=90)
    world.settle()
    assert world.attempt.ended_at == began + timedelta(seconds=10)
    assert world.status.ledger.accounted_until == world.attempt.ended_at
    world.assert_ledger_sums()


def test_work_after_the_end_stays_where_other_time_was_counted_with_it(make_world) -> None:
    world = make_world(2, spare_nodes=2, spares=1)
    world.settle()
    world.jump(1)
    world.train(10)
    world.settle()
    for slot in (0, 1, 2):
        world.silence(slot)
    node = world.agent(2).pod["spec"]["nodeName"]
    world.nodes[node] = node_object(node, ready=False)
    world.free_nodes.clear()
    for _ in range(14):
        world.jump(10)
        world.visit()
    world.speak(0)
    world.speak(1)
    world.finish(seconds_ago=130)
    world.settle()
    assert world.true(ConditionType.SUCCEEDED)
    until = world.status.ledger.accounted_until
    assert until is not None
    assert world.spent(Bucket.SPARE) <= (until - CREATED).total_seconds()
    assert total(world.status.ledger) <= 3 * ((until - CREATED) // timedelta(milliseconds=1))


def test_a_tracker_file_that_is_seen_after_the_end_moves_it_nowhere(training) -> None:
    world = training(2, sdk=False, commit=None, step=5)
    world.settle()
    began = world.now
    world.silence(0)
    world.silence(1)
    for _ in range(10):
        world.jump(10)
        world.visit()
    world.speak(0)
    world.speak(1)
    world.finish(seconds_ago=90)
    world.track(100, seconds_ago=88)
    world.settle()
    assert world.status.ledger.accounted_until == began + timedelta(seconds=10)
    world.assert_ledger_sums()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("heard_of", [False, True], ids=["a start unheard of", "a known start"])
def test_what_the_slower_rank_says_of_its_stalls_counts(make_world, order, heard_of: bool) -> None:
    world = make_world(2)
    published(world)
    if heard_of:
        world.settle()
    world.jump(1)
    world.train(1)
    world.jump(5000)
    world.train(5001, commit=5001)
    slow = world.agent(1)
    assert slow.run is not None
    stood = {"data_stall_milliseconds": 500_000, "committed_stall_milliseconds": 500_000}
    slow.run = replace(slow.run, progress=replace(slow.run.progress, **stood))
    hear(world, order)
    world.pass_time(70)
    assert world.spent(Bucket.DATA_STALL) == 2 * 500
    assert world.spent(Bucket.PRODUCTIVE) == 2 * 4500


def test_a_start_is_not_given_up_while_nobody_at_all_is_heard(make_world) -> None:
    world = make_world(2, startDeadlineSeconds=600)
    first_step(world)
    world.jump(5000)
    world.forget()
    for slot in (0, 1):
        world.silence(slot)
    for _ in range(50):
        world.visit()
        world.jump(1)
    for slot in (0, 1):
        world.speak(slot)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)


@pytest.mark.parametrize("seconds", [1, 300, 10_800])
def test_spares_stay_whoever_leads(make_world, seconds: float) -> None:
    world = make_world(2, spare_nodes=2, spares=1, gang={"startTimeoutSeconds": 60})
    world.settle()
    world.jump(1)
    world.train(10, commit=10)
    world.settle()
    world.pass_time(70)
    before = sorted(world.pods)
    world.jump(seconds)
    hear(world, (0, 1))
    assert sorted(world.pods) == before


def test_a_gang_is_not_resized_for_a_joiner_that_is_not_heard_of(training) -> None:
    elastic, gang = {"minWorkers": 2, "maxWorkers": 8}, {"startTimeoutSeconds": 86_400}
    world = training(4, spare_nodes=0, sdk=False, elastic=elastic, gang=gang)
    world.lose_node(world.agent(3).pod["spec"]["nodeName"], noticed=True)
    world.pass_time(335)
    world.free_nodes.append("new")
    world.nodes["new"] = node_object("new", ready=True)
    while not world.status.elastic.joinable:
        world.pass_time(5)
    attempt = world.attempt
    world.silence(3)
    world.jump(10_800)
    world.forget()
    world.visit()
    for slot in (0, 1, 2):
        world.speak(slot)
    plan = world.visit()
    assert (world.attempt.number, world.attempt.state) == (attempt.number, AttemptState.RUNNING)
    assert plan.recheck_at is not None
    assert plan.recheck_at <= world.now + timedelta(seconds=SILENCE_LIMIT_SECONDS)


@pytest.mark.parametrize("seconds", [1, 10, 300])
def test_survivors_that_are_not_heard_yet_are_not_done_without(training, seconds: float) -> None:
    world = training(4, elastic={"minWorkers": 2, "maxWorkers": 8})
    world.pass_time(20)
    world.lose_node(world.agent(3).pod["spec"]["nodeName"], noticed=True)
    while (world.attempt.number, world.attempt.state) != (2, AttemptState.FORMING):
        for slot in (0, 1, 2):
            world.obey_of(slot)
        world.jump(1)
        for slot in (0, 1, 2):
            world.speak(slot)
        world.visit()
    world.jump(seconds)
    hear(world, (0, 1, 2))
    assert world.status.workers.text == "4/4"


def test_a_spare_that_speaks_first_takes_nobodys_place(make_world) -> None:
    world = make_world(2, spare_nodes=2, spares=1)
    world.settle()
    world.jump(1)
    world.train(10, commit=10)
    world.settle()
    while world.attempt.state is not AttemptState.FORMING:  # the second failure waits a while
        world.fail(1)
        world.settle()
        world.jump(0.1)
    world.jump(300)
    hear(world, (2, 1))
    assert [slot.rank for slot in world.status.slots] == [0, 1, -1]


@pytest.mark.parametrize("wish", [{"suspend": True}, {"workers": 2}])
def test_a_question_that_nobody_was_told_in_time_is_asked_again(training, wish) -> None:
    world = training(4, spare_nodes=0, elastic={"minWorkers": 2, "maxWorkers": 8})
    world.pass_time(100)
    world.train(100, commit=100)
    world.settle()
    world.spec.update(wish)
    while world.attempt.save_by is None:
        world.jump(1)
        world.train(101)
        world.visit()
    for agent in world.agents.values():
        agent.answer = None
    world.jump(3000)
    world.train(3000)
    hear(world, (0, 1, 2, 3))
    assert world.attempt.state is AttemptState.RUNNING
    asked = world.attempt.save_step
    assert asked is not None
    world.train(asked, commit=asked)
    world.settle()
    assert world.spent(Bucket.LOST_WORK) == 0
    assert world.attempt.number == (1 if "suspend" in wish else 2)


def test_what_was_saved_as_asked_meanwhile_ends_the_wait(training) -> None:
    world = training(2)
    world.spec["suspend"] = True
    world.settle()
    asked = world.attempt.save_step
    assert asked is not None
    world.jump(100)
    world.train(asked, commit=asked)
    world.jump(3000)
    hear(world, (0, 1))
    assert world.status.phase == "Suspended"


def test_nobody_is_told_to_confirm_a_death_before_the_workers_were_told_to_stop(training) -> None:
    world = training(3, sdk=False, commit=None)
    world.fail(1)
    world.visit()
    for agent in world.agents.values():
        agent.answer = None
    world.jump(1000)
    world.forget()
    world.visit()
    assert world.condition(ConditionType.RUNNING).reason != "WaitingForConfirmedDeath"


def test_an_operator_whose_clock_is_late_waits_for_nobody_in_a_loop(training) -> None:
    world = training(2)
    for pod in world.pods.values():
        pod["metadata"]["creationTimestamp"] = format_time(world.now + timedelta(seconds=120))
    world.silence(1)
    world.forget()
    for _ in range(30):
        world.speak(0)
        plan = world.visit()
        assert plan.recheck_at is None or plan.recheck_at > world.now
        world.jump(1)


@pytest.mark.parametrize("seconds", [20, 35])
def test_the_others_have_their_time_from_the_first_word_on(make_world, seconds: int) -> None:
    world = make_world(2, startDeadlineSeconds=600)
    world.sdk = False
    published(world)
    world.jump(1000)
    world.forget()
    for slot in (0, 1):
        world.silence(slot)
    for _ in range(seconds):
        world.visit()
        world.jump(1)
    hear_on(world, 0)
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.STARTING)
    hear_on(world, 1)
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)


def test_a_change_of_leaders_gives_no_second_time_to_who_was_told(training) -> None:
    elastic = {"minWorkers": 2, "maxWorkers": 8, "gracefulShutdownTimeoutSeconds": 30}
    world = training(2, elastic=elastic)
    world.pass_time(100)
    world.train(100, commit=100)
    world.spec["suspend"] = True
    world.settle()
    asked, by = world.attempt.save_step, world.attempt.save_by
    assert asked is not None
    assert by is not None
    while world.now < by - timedelta(seconds=0.5):
        world.jump(0.5)
        world.train(min(asked, int((world.now - CREATED).total_seconds())))
        world.settle()
    world.jump(1)
    hear(world, (0, 1))
    assert world.status.phase == "Suspended"


def test_nor_more_time_while_somebody_is_not_heard_yet(training) -> None:
    world = training(2)
    world.spec["suspend"] = True
    world.settle()
    asked, by = world.attempt.save_step, world.attempt.save_by
    assert asked is not None
    assert by is not None
    world.now = by - timedelta(seconds=3)
    world.train(asked + 100)
    world.forget()
    world.speak(0)
    plan = world.visit()
    assert world.attempt.state is AttemptState.RUNNING
    assert plan.recheck_at is not None
    assert plan.recheck_at <= by


def test_a_gang_that_is_whole_waits_for_no_spare(make_world) -> None:
    world = make_world(2, spare_nodes=3, spares=1)
    world.settle()
    world.jump(1)
    world.train(10, commit=10)
    world.deaf.add("job-2-1")
    world.lose_node(world.agent(2).pod["spec"]["nodeName"], noticed=True)
    world.pass_time(15)
    assert "job-2-1" in world.pods
    while world.attempt.state is not AttemptState.FORMING:  # the second failure waits a while
        world.fail(1)
        world.settle()
        world.jump(0.1)
    world.jump(5)
    world.forget()
    for slot in (0, 1):
        world.speak(slot)
    world.visit()
    assert world.attempt.state is AttemptState.STARTING


def test_a_gang_that_rests_for_a_smaller_size_waits_for_no_spare(training) -> None:
    world = training(4, spare_nodes=1, spares=1, elastic={"minWorkers": 2, "maxWorkers": 8})
    world.pass_time(100)
    world.train(100, commit=100)
    world.settle()
    world.spec.update(workers=2, spares=3)
    while world.attempt.save_by is None:
        world.jump(1)
        world.train(101)
        world.visit()
    world.obey()
    asked = world.attempt.save_step
    assert asked is not None
    world.jump(3)
    world.train(asked, commit=asked)
    world.forget()
    world.silence(4)
    for slot in range(4):
        world.speak(slot)
    world.visit()
    assert world.attempt.state is AttemptState.STOPPING


def test_a_spare_that_is_made_meanwhile_is_counted_from_then_on(make_world) -> None:
    world = make_world(2, spare_nodes=0, spares=1)
    world.settle()
    world.jump(1)
    world.train(10, commit=10)
    world.settle()
    world.pass_time(70)
    assert world.spent(Bucket.SPARE) == 0
    world.forget()
    world.silence(1)
    world.free_nodes.append("new")
    world.nodes["new"] = node_object("new", ready=True)
    began = world.now
    for _ in range(11):
        world.speak(0)
        world.visit()
        world.obey()
        world.jump(1)
    world.speak(1)
    world.pass_time(70)
    until = world.status.ledger.accounted_until
    assert until is not None
    assert world.spent(Bucket.SPARE) == pytest.approx((until - began).total_seconds(), abs=2)
