"""No half gang, no deadlock, no endless hold."""

from datetime import timedelta

import pytest

from goodput.protocol import Disk
from goodput_operator.api.status import AttemptState, Bucket, ConditionType
from goodput_operator.diagnose.examine import SAVE_NOTICE_SECONDS, SILENCE_LIMIT_SECONDS
from goodput_operator.observe.snapshot import TemplateAnswer

UNBOUND = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "no volume is bound to the claim",
}


def test_a_refused_pod_releases_the_whole_gang(make_world) -> None:
    world = make_world(3)
    world.agents_connect = False
    world.settle()
    world.refusal = "exceeded quota: pods=2"
    world.settle()
    admitted = world.condition(ConditionType.ADMITTED)
    assert world.status.recovery.start_failures == 1
    # The first try again is immediate.
    assert sorted(world.pods) == ["job-0-1", "job-1-1", "job-2-1"]
    world.refusal = "exceeded quota: pods=2"
    world.settle()
    assert world.pods == {}
    admitted = world.condition(ConditionType.ADMITTED)
    assert "exceeded quota" in admitted.message
    assert world.status.recovery.not_before is not None


def test_a_gang_that_is_not_connected_in_time_is_released(make_world) -> None:
    world = make_world(2, gang={"startTimeoutSeconds": 60})
    world.agents_connect = False
    world.settle()
    assert len(world.pods) == 2
    world.pass_time(61)
    assert sorted(world.pods) == ["job-0-1", "job-1-1"]
    world.pass_time(61)
    assert world.pods == {}
    assert world.condition(ConditionType.ADMITTED).reason == "StartTimeout"


def test_a_pod_that_the_scheduler_refuses_is_placed_elsewhere(make_world) -> None:
    world = make_world(2)
    world.agents_connect = False
    world.settle()
    pod = world.pods["job-1-0"]
    del pod["spec"]["nodeName"]
    pod["status"]["conditions"] = (
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available",
        },
    )
    world.settle()
    assert "job-1-1" in world.pods
    assert world.pods["job-1-1"]["spec"]["nodeName"] != "node-1"


def test_a_gang_that_the_scheduler_refuses_everywhere_is_tried_ever_more_seldom(make_world) -> None:
    world = make_world(2, spare_nodes=100)
    world.agents_connect = False
    for _ in range(1800):
        world.jump(1)
        for pod in world.pods.values():
            pod["spec"].pop("nodeName", None)
            pod["status"] = {"phase": "Pending", "conditions": (UNBOUND,)}
        world.visit()
    assert max(slot.incarnation for slot in world.status.slots) <= 12
    assert "no volume" in world.condition(ConditionType.ADMITTED).message


def test_survivors_hold_their_pods_while_a_replacement_waits_for_room(training) -> None:
    world = training(3, spare_nodes=0)
    world.lose_node("node-2", noticed=True)
    world.pass_time(30)
    assert sorted(world.pods) == ["job-0-0", "job-1-0"]
    assert world.condition(ConditionType.ADMITTED).reason == "DoesNotFit"
    assert world.status.phase == "Recovering"
    world.free_nodes.append("node-2")
    world.nodes["node-2"] = world.nodes["node-0"]
    world.pass_time(600)
    assert world.attempt.state is AttemptState.RUNNING


def test_survivors_are_released_when_no_replacement_comes_in_time(training) -> None:
    world = training(3, spare_nodes=0, gang={"startTimeoutSeconds": 120})
    world.lose_node("node-2", noticed=True)
    world.pass_time(200)
    assert world.pods == {}


def test_suspend_deletes_the_pods_and_resume_goes_on_from_the_checkpoint(training) -> None:
    world = training(2, commit=10, sdk=False)
    world.spec["suspend"] = True
    world.settle()
    assert world.pods == {}
    assert world.status.phase == "Suspended"
    running = world.condition(ConditionType.RUNNING)
    assert (running.reason, running.message) == ("Suspended", "spec.suspend is true")
    world.jump(100)
    world.settle()
    world.spec["suspend"] = False
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert world.attempt.restore_step == 10
    assert world.status.recovery.total == 0
    assert world.spent(Bucket.SUSPENDED) >= 200
    world.assert_ledger_sums()


def test_a_job_of_fixed_size_is_saved_before_it_is_suspended(training) -> None:
    world = training(2, commit=10)
    world.spec["suspend"] = True
    world.settle()
    asked = world.attempt.save_step
    assert (world.attempt.state, len(world.pods)) == (AttemptState.RUNNING, 2)
    world.jump(5)
    world.train(asked, commit=asked)
    world.settle()
    assert (world.status.phase, world.pods) == ("Suspended", {})
    world.spec["suspend"] = False
    world.settle()
    assert world.attempt.restore_step == asked


def test_a_training_that_stands_still_for_a_while_is_waited_for_and_one_that_hangs_is_not(
    training,
) -> None:
    world = training(2, commit=10)
    world.pass_time(300)  # it evaluates, or saves by itself
    world.spec["suspend"] = True
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    world.spec["suspend"] = False
    world.pass_time(400)
    world.spec["suspend"] = True
    world.settle()
    assert world.status.phase == "Suspended"


def test_a_fault_while_the_job_is_about_to_be_suspended_is_not_charged(training) -> None:
    world = training(2, commit=10, recovery={"maxRestarts": 0})
    world.spec["suspend"] = True
    world.settle()
    world.fail(1)
    world.settle()
    assert (world.status.phase, world.status.recovery.total) == ("Suspended", 0)
    assert "ValueError: boom" in world.attempt.message
    world.assert_ledger_sums()
    world.assert_prices_sum()


@pytest.mark.parametrize("suspend", [False, True], ids=["and goes on", "and is suspended"])
def test_time_in_which_a_dead_gang_was_waited_for_is_detection(training, suspend: bool) -> None:
    world = training(4, commit=10, step=12)
    world.spec["suspend"] = suspend
    world.visit()
    world.lose_node("node-1")
    for _ in range(15):
        world.jump(1)
        for agent in world.agents.values():
            world._heartbeat(agent)
        world.settle()
    assert world.spent(Bucket.DETECTION) == pytest.approx(4 * SILENCE_LIMIT_SECONDS, abs=4 * 2)
    assert world.spent(Bucket.LOST_WORK) == 4 * 2
    world.assert_ledger_sums()
    world.assert_prices_sum()


@pytest.mark.parametrize("pause", [100, 350])
def test_a_training_that_pauses_is_asked_for_a_step_that_it_reaches_soon(training, pause) -> None:
    world = training(2, commit=10)
    world.pass_time(pause)  # an evaluation
    world.spec["suspend"] = True
    world.settle()
    asked = world.attempt.save_step
    assert asked is not None
    assert asked <= 12 + SILENCE_LIMIT_SECONDS + SAVE_NOTICE_SECONDS + 1
    world.pass_time(pause)
    world.train(asked, commit=asked)
    world.settle()
    assert world.status.checkpoint.last_durable_step == asked


def test_a_training_whose_reports_are_lost_is_asked_for_a_step_that_is_yet_to_come(
    training,
) -> None:
    world = training(2, commit=10)
    world.silence(0)
    world.silence(1)
    for _ in range(20):
        world.jump(5)
        world.visit()
    assert world.condition(ConditionType.DEGRADED).reason == "ReportsVanished"
    world.spec["suspend"] = True
    world.visit()
    assert world.attempt.save_step is not None
    assert world.attempt.save_step > 12 + 100, "a step a second, all the time"


def test_a_job_that_is_resumed_is_not_said_to_be_suspended(training) -> None:
    world = training(2, sdk=False)
    world.spec["suspend"] = True
    world.settle()
    world.spec["suspend"] = False
    world.problems = ("the template has no container",)
    world.settle()
    assert world.status.phase == "Invalid"
    assert world.condition(ConditionType.RUNNING).reason == "NotStarted"


def test_no_restart_of_the_operator_gives_a_suspension_more_time(training) -> None:
    world = training(2, commit=10)
    world.spec["suspend"] = True
    world.settle()
    asked, by = world.attempt.save_step, world.attempt.save_by
    world.jump(20)
    world.listening_since = world.now
    world.train(asked + 5)
    world.settle()
    assert world.attempt.save_step > asked
    assert world.attempt.save_by == by


def test_a_suspension_that_is_taken_back_ends_nothing(training) -> None:
    world = training(2, commit=10)
    attempt = world.attempt
    world.spec["suspend"] = True
    world.settle()
    world.spec["suspend"] = False
    world.settle()
    assert world.attempt == attempt


def test_a_job_that_waits_for_room_for_long_is_not_looked_at_all_the_time(make_world) -> None:
    world = make_world(3, spare_nodes=-1)
    world.settle()
    world.jump(10_000)
    plan = world.visit()
    assert plan.recheck_at is not None
    assert plan.recheck_at > world.now + timedelta(seconds=10)


def test_a_start_deadline_is_kept_to_the_second_and_says_what_was_waited_for(make_world) -> None:
    world = make_world(3, spare_nodes=-1, startDeadlineSeconds=7)
    world.settle()
    deadline = world.now + timedelta(seconds=7)
    assert world.visit().recheck_at == deadline
    world.pass_time(7)
    failed = world.condition(ConditionType.FAILED)
    assert failed.reason == "StartDeadlineExceeded"
    assert "startDeadlineSeconds=7: needs 3 nodes; 2 fit" in failed.message
    assert world.visit().recheck_at != deadline


def test_the_active_deadline_fails_the_job(training) -> None:
    world = training(1, activeDeadlineSeconds=60)
    world.pass_time(70)
    assert world.condition(ConditionType.FAILED).reason == "DeadlineExceeded"


def test_finished_pods_stay_for_their_logs_and_sidecars_do_not(training) -> None:
    world = training(2)
    world.finish()
    world.settle()
    world.pods["job-1-0"]["status"]["phase"] = "Running"  # a sidecar goes on
    world.pass_time(15)
    assert sorted(world.pods) == ["job-0-0"]
    world.assert_ledger_sums()


def test_an_invalid_template_starts_nothing_and_is_tried_again_when_edited(make_world) -> None:
    world = make_world(1)
    world.problems = ("spec.template.spec.containers[0].command: required",)
    world.settle()
    assert world.pods == {}
    assert world.status.phase == "Invalid"
    world.problems = ()
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING


def test_the_api_servers_own_words_reach_the_condition(make_world) -> None:
    world = make_world(1)
    said = 'Pod "job-0-0" is invalid: spec.containers[0].image: Required value'
    world.template_answer = TemplateAnswer(said)
    world.settle()
    assert "Required value" in world.condition(ConditionType.TEMPLATE_VALID).message
    assert world.pods == {}


def test_a_gang_whose_directory_cannot_be_used_starts_nothing_and_is_released_in_time(
    make_world,
) -> None:
    world = make_world(
        2, checkpoint={"directory": "/checkpoints"}, gang={"startTimeoutSeconds": 60}
    )
    world.disk = Disk(problem="not writable: Read-only file system")
    world.settle()
    assert world.condition(ConditionType.CHECKPOINT_FRESH).reason == "DirectoryUnusable"
    assert world.attempt.state is AttemptState.FORMING
    world.pass_time(61)
    assert sorted(world.pods) == ["job-0-1", "job-1-1"], "a first new try, at once"
    world.pass_time(61)
    assert world.pods == {}
    released = world.condition(ConditionType.ADMITTED)
    assert released.reason == "StartTimeout"
    assert "not mended within spec.gang.startTimeoutSeconds=60" in released.message
    assert "Read-only file system" in released.message


def test_a_back_off_that_outlasts_the_start_timeout_keeps_the_survivors(training) -> None:
    world = training(
        2,
        gang={"startTimeoutSeconds": 10},
        recovery={
            "backoffSeconds": 60,
            "maxBackoffSeconds": 60,
            "maxRestartsWithoutProgress": 9,
        },
    )
    for _ in range(3):
        world.fail(0)
        world.settle()
    assert world.attempt.state is AttemptState.FORMING
    world.pass_time(50)
    assert world.attempt.state is AttemptState.FORMING
    world.pass_time(20)
    assert world.attempt.state is AttemptState.RUNNING
    assert world.deleted == []


def test_a_gang_that_cannot_start_says_why_beside_its_phase(make_world) -> None:
    world = make_world(2)
    world.agents_connect = False
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Starting", "Forming")
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    world.pods["job-1-0"]["status"]["initContainerStatuses"] = [
        {"name": "goodput-agent", "state": {"waiting": waiting}}
    ]
    world.settle()
    assert (world.status.phase, world.status.reason) == ("Starting", "ErrImagePull")
    assert "no such image" in world.condition(ConditionType.RUNNING).message


def test_news_of_the_room_that_a_queued_gang_lacks_is_told_now_and_then(make_world) -> None:
    world = make_world(4, spare_nodes=-2)
    world.settle()
    writes = world.writes
    for _ in range(120):
        world.jump(0.5)
        world.free_nodes = world.free_nodes[:2] if len(world.free_nodes) > 2 else ["a", "b", "c"]
        world.visit()
    assert world.writes - writes <= 6
    assert world.condition(ConditionType.ADMITTED).message.startswith("needs 4 nodes")


def test_another_directory_is_not_searched_for_the_old_ones_checkpoints(training) -> None:
    world = training(2, commit=10, sdk=False, checkpoint={"directory": "/old"})
    world.spec["suspend"] = True
    world.settle()
    world.spec |= {"suspend": False, "checkpoint": {"directory": "/new"}}
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
    assert world.attempt.restore_step is None
    assert [link.origin for link in world.status.checkpoint.lineage] == [0]


@pytest.mark.parametrize("elastic", [None, {"minWorkers": 2, "maxWorkers": 4}])
def test_a_gang_that_has_its_pods_goes_on_when_its_namespace_allows_no_other(
    training, elastic
) -> None:
    world = training(4, **({"elastic": elastic} if elastic else {}))
    world.template_answer = TemplateAnswer('forbidden: violates PodSecurity "restricted"')
    world.fail(1)
    world.settle()
    assert (world.attempt.number, world.attempt.state) == (2, AttemptState.RUNNING)
    valid = world.condition(ConditionType.TEMPLATE_VALID)
    assert (valid.status, valid.reason) == ("True", "InUse")
    assert "violates PodSecurity" in valid.message
    for name in sorted(world.pods):
        world.delete_pod(name)
    world.settle()
    assert (world.status.phase, world.pods) == ("Invalid", {})


def test_a_gang_asks_for_room_with_the_priority_that_its_pods_have(make_world) -> None:
    world = make_world(2, spare_nodes=-1)
    world.template_answer = TemplateAnswer(priority=1000)
    world.settle()
    assert world.asked_with == {1000}
    world.template_answer = None  # an operator that has just started does not ask again
    world.visit()
    assert world.status.priority == 1000


def test_a_clock_that_is_put_back_prolongs_no_back_off_beyond_its_cap(training) -> None:
    world = training(1, recovery={"backoffSeconds": 60, "maxBackoffSeconds": 100})
    for _ in range(3):
        world.fail(0)
        world.settle()
    until = world.status.recovery.not_before
    assert until is not None
    assert world.attempt.state is AttemptState.FORMING
    world.now = until - timedelta(seconds=30)
    world.settle()
    assert world.attempt.state is AttemptState.FORMING
    world.now = until - timedelta(hours=1)
    world.settle()
    assert world.attempt.state is AttemptState.RUNNING
