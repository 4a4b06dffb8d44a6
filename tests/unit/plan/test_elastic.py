"""An elastic gang is always of a legal size: it shrinks when it must and grows when that pays."""

from collections.abc import Callable
from typing import Any

import pytest

from goodput.protocol import HOLD, RUN
from goodput_operator.api.base import format_time
from goodput_operator.api.status import AttemptState, Bucket, ConditionType, ElasticStatus
from tests.unit.plan.conftest import World, node_object

MakeWorld = Callable[..., World]
ELASTIC = {"minWorkers": 2, "maxWorkers": 8}
PRIOR_RESTART_SECONDS = 60


@pytest.fixture
def elastic(training: MakeWorld) -> MakeWorld:
    """Make a world whose elastic gang trains, without a node to spare."""

    def make(workers: int = 4, spare_nodes: int = 0, **spec: Any) -> World:
        spec = {"elastic": ELASTIC, **spec}
        return training(workers, spare_nodes=spare_nodes, **spec)

    return make


def members(world: World) -> list[int]:
    """The slots of the world, in rank order."""
    ranked = sorted((slot.rank, slot.slot) for slot in world.status.slots if slot.rank >= 0)
    assert [rank for rank, _ in ranked] == list(range(len(ranked))), "a gap in the ranks"
    return [slot for _, slot in ranked]


def remembered(world: World) -> ElasticStatus:
    assert world.status.elastic is not None
    return world.status.elastic


def lose(world: World, slot: int) -> str:
    """A node dies, and its worker with it; everybody sees it."""
    node: str = world.agent(slot).pod["spec"]["nodeName"]
    world.lose_node(node, noticed=True)
    hear_nothing_of_it(world)
    world.settle()
    return node


def hear_nothing_of_it(world: World) -> None:
    """Half a minute and some passes; whoever can, says that he lives."""
    world.jump(35)
    for agent in world.agents.values():
        world._heartbeat(agent)


def come_back(world: World, node: str) -> None:
    world.nodes[node] = node_object(node, ready=True)
    world.free_nodes.append(node)


def answers(world: World) -> dict[str, tuple[str, int, int]]:
    """What each pod's agent was last told, with the world's size and its own rank in it."""
    return {
        name: (
            told.kind,
            told.world.workers if told.world else 0,
            told.world.worker_rank if told.world else -1,
        )
        for name, pod in world.pods.items()
        if (told := world.agents[pod["metadata"]["uid"]].answer) is not None
    }


def test_a_gang_starts_at_the_largest_legal_size_that_fits(make_world: MakeWorld) -> None:
    world = make_world(8, spare_nodes=-3, elastic={**ELASTIC, "workerSizes": [2, 4, 8]})
    world.settle()
    assert members(world) == [0, 1, 2, 3]
    assert world.status.workers.text == "4/8"
    assert sorted(world.pods) == [f"job-{slot}-0" for slot in range(4)]
    assert (world.attempt.state, world.attempt.world_size) == (AttemptState.RUNNING, 4)


def test_a_gang_below_the_smallest_size_holds_nothing_and_waits(make_world: MakeWorld) -> None:
    world = make_world(4, spare_nodes=-3, elastic=ELASTIC)
    world.settle()
    assert world.pods == {}
    assert world.condition(ConditionType.ADMITTED).reason == "DoesNotFit"
    assert "needs 2 nodes; 1 fit" in world.condition(ConditionType.ADMITTED).message
    world.free_nodes.append("node-1")
    world.pass_time(30)
    assert members(world) == [0, 1]


def test_a_job_of_fixed_size_remembers_nothing_of_sizes(training: MakeWorld) -> None:
    assert training(4).status.elastic is None


def test_survivors_go_on_in_their_own_pods(elastic: MakeWorld) -> None:
    world = elastic()
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    lose(world, 1)
    assert members(world) == [0, 2, 3]
    assert (world.attempt.state, world.attempt.world_size) == (AttemptState.RUNNING, 3)
    told = answers(world)
    assert [told[f"job-{slot}-0"] for slot in (0, 2, 3)] == [(RUN, 3, 0), (RUN, 3, 1), (RUN, 3, 2)]
    assert all(world.pods[f"job-{slot}-0"]["metadata"]["uid"] in before.values() for slot in (0, 2))
    assert world.status.workers.text == "3/4"
    degraded = world.condition(ConditionType.DEGRADED)
    assert (degraded.status, degraded.reason) == ("True", "ShrunkToFit")
    assert "3 of 4 workers train" in degraded.message


def test_a_lost_rank_0_makes_the_next_one_the_master(elastic: MakeWorld) -> None:
    world = elastic()
    lose(world, 0)
    assert members(world) == [1, 2, 3]
    assert answers(world)["job-1-0"] == (RUN, 3, 0)


def test_a_replacement_at_hand_is_waited_for(elastic: MakeWorld) -> None:
    world = elastic(spare_nodes=1)
    lose(world, 1)
    assert members(world) == [0, 1, 2, 3]
    assert world.status.slots[1].incarnation == 1


def test_a_replacement_that_does_not_come_is_not_waited_for_long(elastic: MakeWorld) -> None:
    world = elastic(spare_nodes=1)
    world.deaf = {"job-1-1"}
    lose(world, 1)
    assert (world.attempt.state, members(world)) == (AttemptState.FORMING, [])
    world.pass_time(10)
    assert (world.attempt.state, members(world)) == (AttemptState.RUNNING, [0, 2, 3])
    world.pass_time(900)
    assert "job-1-1" not in world.pods, "it has never come: it is let go"
    assert members(world) == [0, 2, 3]


def test_those_left_over_at_a_legal_size_wait_as_spares(elastic: MakeWorld) -> None:
    world = elastic(elastic={**ELASTIC, "workerSizes": [2, 4]})
    lose(world, 3)
    assert members(world) == [0, 1]
    assert answers(world)["job-2-0"][0] == HOLD
    assert "1 more are held to join them" in world.condition(ConditionType.DEGRADED).message
    lose(world, 0)
    assert members(world) == [1, 2], "the spare takes the place of the one that is lost"


def test_spares_that_wait_in_vain_are_let_go(elastic: MakeWorld) -> None:
    world = elastic(elastic={**ELASTIC, "workerSizes": [2, 4], "scaleUpSnoozeTimeSeconds": 100})
    lose(world, 3)
    world.pass_time(90)
    assert "job-2-0" in world.pods
    world.pass_time(20)
    assert sorted(world.pods) == ["job-0-0", "job-1-0"]
    assert members(world) == [0, 1]


def test_fewer_than_the_smallest_size_wait_with_their_pods(elastic: MakeWorld) -> None:
    world = elastic(2)
    node = lose(world, 1)
    assert (world.attempt.state, members(world)) == (AttemptState.FORMING, [])
    assert "job-0-0" in world.pods
    come_back(world, node)
    world.pass_time(30)
    assert members(world) == [0, 1]


def test_joiners_are_made_ready_while_the_gang_trains_on(elastic: MakeWorld) -> None:
    world = elastic()
    node = lose(world, 1)
    attempt = world.attempt.number
    come_back(world, node)
    world.pass_time(70)  # the node is not trusted at once
    assert "job-1-1" in world.pods
    assert answers(world)["job-1-1"][0] == HOLD
    assert (world.attempt.number, members(world)) == (attempt, [0, 2, 3])
    assert remembered(world).joinable == 1


def test_a_node_that_was_seen_to_go_and_come_back_is_trusted_at_once(elastic: MakeWorld) -> None:
    world = elastic()
    node = lose(world, 1)
    world.jump(5)
    come_back(world, node)
    returned = world.nodes[node]
    assert returned is not None
    returned["status"]["conditions"][0]["lastTransitionTime"] = format_time(world.now)
    world.pass_time(2)
    assert "job-1-1" in world.pods


def test_the_gang_grows_when_idling_has_cost_what_the_restart_costs(elastic: MakeWorld) -> None:
    world = elastic()
    node = lose(world, 1)
    come_back(world, node)
    world.pass_time(65)
    since = remembered(world).joinable_since
    assert since is not None
    attempt = world.attempt.number
    world.pass_time(3 * PRIOR_RESTART_SECONDS - (world.now - since).total_seconds() - 1, every=1)
    assert world.attempt.number == attempt
    world.sdk = False
    world.pass_time(5, every=1)
    assert (world.attempt.number, members(world)) == (attempt + 1, [0, 1, 2, 3])
    assert world.status.recovery.total == 1, "growth is no incident"
    assert not world.true(ConditionType.DEGRADED)
    assert remembered(world).joinable == 0


@pytest.mark.parametrize("how", ["crash", "gone", "refused"])
def test_a_joiner_that_fails_costs_the_gang_nothing(elastic: MakeWorld, how: str) -> None:
    world = elastic()
    node = lose(world, 1)
    attempt, incidents = world.attempt, world.status.recovery
    come_back(world, node)
    world.pass_time(65)
    if how == "crash":
        ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "ImportError: torch"}}
        statuses = [{"name": "trainer", "state": ended}]
        world.pods["job-1-1"]["status"].update(phase="Failed", containerStatuses=statuses)
    elif how == "gone":
        world.lose_node(node, noticed=True)
        hear_nothing_of_it(world)
    else:
        world.refusal = "exceeded quota"
    world.settle()
    assert (world.attempt, world.status.recovery) == (attempt, incidents)
    assert members(world) == [0, 2, 3]
    snoozed = remembered(world).snoozed_until
    assert (snoozed is None) == (how == "gone")
    if how == "crash":
        said = " ".join(text for plan in world.plans for _, text in plan.decisions)
        assert "ImportError: torch" in said
        world.pass_time(590, every=10)
        assert "job-1-2" not in world.pods
        world.pass_time(20, every=10)
        assert "job-1-2" in world.pods


def test_the_user_scales_down_and_up(elastic: MakeWorld) -> None:
    world = elastic(spare_nodes=1, sdk=False)
    world.spec["workers"] = 3
    world.settle()
    assert members(world) == [0, 1, 2]
    assert sorted(world.pods) == ["job-0-0", "job-1-0", "job-2-0"]
    assert (world.status.workers.text, world.status.recovery.total) == ("3/3", 0)
    assert not world.true(ConditionType.DEGRADED)
    world.spec["workers"] = 5
    world.pass_time(10)
    assert members(world) == [0, 1, 2, 3, 4]
    assert sorted(world.pods)[3:] == ["job-3-1", "job-4-0"], "a pod's name never comes back"


def test_one_who_wants_less_and_then_more_again_has_a_wish(elastic: MakeWorld) -> None:
    world = elastic(sdk=False)
    node = lose(world, 3)
    world.spec["workers"] = 3
    world.settle()
    come_back(world, node)
    world.pass_time(80, every=10)
    assert members(world) == [0, 1, 2]
    world.spec["workers"] = 4
    world.pass_time(10)
    assert members(world) == [0, 1, 2, 3]


def test_a_fault_while_joiners_are_made_ready_does_not_make_the_user_wait(
    elastic: MakeWorld,
) -> None:
    world = elastic(spare_nodes=1, sdk=False)
    world.deaf = {"job-4-0"}
    world.spec["workers"] = 5
    world.settle()
    world.fail(0)
    world.settle()
    assert (world.attempt.number, members(world)) == (2, [0, 1, 2, 3])
    world.deaf.clear()
    world.agent(4).silent = False
    world.pass_time(10)
    assert members(world) == [0, 1, 2, 3, 4], "what was asked for is not left to what it costs"


def test_a_lost_node_ends_no_wish_that_was_answered(elastic: MakeWorld) -> None:
    world = elastic()
    node = lose(world, 3)
    come_back(world, node)
    world.pass_time(80, every=10)
    assert members(world) == [0, 1, 2], "nobody has asked for more than there was"


@pytest.mark.parametrize(
    ("sizes", "now"), [([2, 4], [0, 1]), ([1, 2, 4], [0, 1]), ([4, 6], [0, 1, 2])]
)
def test_a_size_that_is_not_legal_any_more_is_left_for_one_that_is(
    elastic: MakeWorld, sizes: list[int], now: list[int]
) -> None:
    world = elastic(elastic={**ELASTIC, "minWorkers": 1})
    lose(world, 3)
    assert members(world) == [0, 1, 2]
    world.spec["elastic"] = {**ELASTIC, "minWorkers": min(sizes), "workerSizes": sizes}
    world.pass_time(10)
    assert members(world) == now


def test_a_gang_of_a_size_that_is_not_legal_any_more_waits_for_those_who_make_it_so(
    elastic: MakeWorld,
) -> None:
    world = elastic(5, spare_nodes=3, sdk=False)
    world.deaf = {"job-5-0", "job-6-0", "job-7-0"}
    world.spec["elastic"] = {"minWorkers": 4, "maxWorkers": 8, "workerSizes": [4, 8]}
    world.spec["workers"] = 8
    world.pass_time(30)
    assert (world.attempt.number, len(members(world)), len(world.pods)) == (1, 5, 8)
    for slot in (5, 6, 7):
        world.agent(slot).silent = False
    world.pass_time(10)
    assert (world.attempt.number, len(members(world))) == (2, 8)


def test_what_is_legal_is_told_before_there_is_room_and_as_soon_as_it_changes(
    make_world: MakeWorld,
) -> None:
    world = make_world(4, spare_nodes=-4, elastic={**ELASTIC, "workerSizes": [2, 4]})
    world.settle()
    assert remembered(world).legal_sizes == [2, 4]
    world.spec["elastic"] = {**ELASTIC, "workerSizes": [3, 4]}
    world.settle()
    assert remembered(world).legal_sizes == [3, 4]


def test_a_pod_that_finds_no_node_is_not_waited_for(elastic: MakeWorld) -> None:
    world = elastic(sdk=False)
    learn_of_starts(world, seconds=10)
    world.pinned = False
    world.deaf = {"job-1-1"}
    world.delete_pod("job-1-0")
    world.settle()
    assert members(world) == [], "its replacement may come as soon as others did"
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    world.pods["job-1-1"]["status"] = {"phase": "Pending", "conditions": (full,)}
    world.pods["job-1-1"]["spec"] = {}
    world.settle()
    assert members(world) == [0, 2, 3]


def learn_of_starts(world: World, seconds: float) -> None:
    """The job has seen pods start, and each was ready after so long."""
    known = remembered(world).model_copy(update={"pod_start_milliseconds": [int(seconds * 1000)]})
    world.status = world.status.model_copy(update={"elastic": known})


def test_one_who_scales_all_the_time_costs_half_of_it_at_most(elastic: MakeWorld) -> None:
    world = elastic(sdk=False)
    world.status = world.status.model_copy(
        update={
            "elastic": remembered(world).model_copy(
                update={"planned_restart_milliseconds": [20_000] * 5}
            )
        }
    )
    world.spec["workers"] = 3
    world.pass_time(12)
    assert members(world) == [0, 1, 2, 3], "the attempt is younger than a restart takes"
    world.pass_time(10)
    assert members(world) == [0, 1, 2]


def test_a_scaled_job_counts_what_is_wanted_and_calls_the_rest_degraded(
    elastic: MakeWorld,
) -> None:
    world = elastic()
    lose(world, 1)
    before = world.spent(Bucket.DEGRADED)
    world.pass_time(100)
    world.assert_ledger_sums()
    assert world.spent(Bucket.DEGRADED) - before == pytest.approx(100, abs=60)


def test_sizes_that_parallelism_cannot_hold_start_nothing(make_world: MakeWorld) -> None:
    spec = {"parallelism": {"tensor": 8}, "processesPerWorker": 1}
    world = make_world(6, elastic=ELASTIC, **spec)
    world.settle()
    assert world.pods == {}
    invalid = world.condition(ConditionType.TEMPLATE_VALID)
    assert invalid.status == "False"
    assert "spec.workers=6" in invalid.message
    assert "the nearest that can: 8" in invalid.message


def test_a_shrunk_gang_keeps_to_what_parallelism_can_hold(elastic: MakeWorld) -> None:
    world = elastic(6, parallelism={"tensor": 2, "pipeline": 1}, processesPerWorker=1)
    lose(world, 5)
    assert members(world) == [0, 1, 2, 3]
    assert remembered(world).legal_sizes == [2, 4, 6, 8]


def test_the_batch_stays_the_same_at_every_size(elastic: MakeWorld) -> None:
    parallelism = {"tensor": 1, "globalBatchSize": 24, "microBatchSize": 2}
    world = elastic(4, parallelism=parallelism, processesPerWorker=1)
    assert remembered(world).legal_sizes == [2, 3, 4, 6]

    def told() -> set[tuple[int | None, int | None, int | None]]:
        worlds = [one.answer.world for one in world.agents.values() if one.answer]
        return {
            (one.global_batch_size, one.data_parallel_degree, one.accumulation_steps)
            for one in worlds
            if one is not None
        }

    assert told() == {(24, 4, 3)}
    lose(world, 3)
    assert told() >= {(24, 3, 4)}


def test_the_training_is_asked_to_save_after_a_step_that_is_yet_to_come(elastic: MakeWorld) -> None:
    world = elastic(4, step=12)
    world.train(13, seconds_per_step=0.5)
    world.settle()
    world.spec["workers"] = 3
    world.settle()
    asked = world.attempt.save_step
    assert asked is not None
    assert asked >= 13 + 3 / 0.5, "all ranks must have heard of it"
    assert {one.answer.save_step for one in world.agents.values() if one.answer} == {asked}
    assert members(world) == [0, 1, 2, 3]
    world.jump(5)
    world.train(asked, commit=asked)
    world.settle()
    assert members(world) == [0, 1, 2]
    assert (world.attempt.restore_step, world.attempt.save_step) == (asked, None)


def test_what_a_change_of_size_costs_begins_with_the_save(elastic: MakeWorld) -> None:
    world = elastic(4, step=12)
    world.spec["workers"] = 3
    world.settle()
    asked = world.attempt.save_step
    assert asked is not None
    world.train(asked, commit=asked)
    world.jump(7)  # until it is known that all of it is saved
    world.settle()
    world.jump(3)
    world.train(asked + 1)
    world.settle()
    assert remembered(world).planned_restart_milliseconds == [10_000]


def test_one_who_changes_his_mind_in_time_changes_nothing(elastic: MakeWorld) -> None:
    world = elastic()
    attempt = world.attempt
    world.spec["workers"] = 3
    world.settle()
    assert world.attempt.save_by is not None
    world.spec["workers"] = 4
    world.settle()
    assert world.attempt == attempt
    assert {one.answer.save_step for one in world.agents.values() if one.answer} == {None}


def test_a_fault_while_the_training_saves_is_answered_as_ever(elastic: MakeWorld) -> None:
    world = elastic()
    world.spec["workers"] = 3
    world.settle()
    world.fail(0)
    world.settle()
    assert members(world) == [0, 1, 2]
    assert world.status.recovery.total == 1


def test_a_save_that_does_not_come_is_waited_for_as_long_as_said(elastic: MakeWorld) -> None:
    world = elastic(elastic={**ELASTIC, "gracefulShutdownTimeoutSeconds": 30})
    world.spec["workers"] = 3
    world.settle()
    world.pass_time(28, every=2)
    assert members(world) == [0, 1, 2, 3]
    world.pass_time(4, every=2)
    assert members(world) == [0, 1, 2]


def test_an_operator_that_has_heard_nobody_yet_asks_before_it_acts(elastic: MakeWorld) -> None:
    world = elastic()
    said = {uid: agent.sequence for uid, agent in world.agents.items()}
    for agent in world.agents.values():
        agent.sequence = 0
    world.listening_since = world.now
    world.spec["workers"] = 3
    world.visit()
    assert (world.attempt.state, world.attempt.save_by) == (AttemptState.RUNNING, None)
    for uid, agent in world.agents.items():
        agent.sequence = said[uid]
    world.visit()
    assert world.attempt.save_by is not None


def test_a_job_that_is_to_be_suspended_trains_on_until_it_has_saved(elastic: MakeWorld) -> None:
    world = elastic()
    world.spec["suspend"] = True
    world.settle()
    asked = world.attempt.save_step
    assert (world.attempt.state, members(world)) == (AttemptState.RUNNING, [0, 1, 2, 3])
    assert asked is not None
    world.jump(5)
    world.train(asked, commit=asked)
    world.settle()
    assert world.true(ConditionType.SUSPENDED)
    assert not any(pod["status"]["phase"] == "Running" for pod in world.pods.values())
    world.spec["suspend"] = False
    world.settle()
    assert (world.attempt.restore_step, members(world)) == (asked, [0, 1, 2, 3])


def test_a_suspension_in_the_middle_of_a_change_is_no_part_of_what_it_costs(
    elastic: MakeWorld,
) -> None:
    world = elastic(sdk=False)
    world.spec["workers"] = 3
    world.visit()
    assert remembered(world).resize_began_at is not None
    world.spec["suspend"] = True
    world.settle()
    world.jump(36_000)
    world.spec["suspend"] = False
    world.agents_connect = False
    world.settle()
    world.jump(50)
    recovery, queued = world.spent(Bucket.RECOVERY), world.spent(Bucket.POD_START)
    world.agents_connect = True
    world.settle()
    assert (world.spent(Bucket.RECOVERY), world.spent(Bucket.POD_START) - queued) == (recovery, 150)
    world.train(20)
    world.settle()
    assert remembered(world).planned_restart_milliseconds == []


def test_without_the_sdk_the_next_checkpoint_is_waited_for_before_a_change(
    elastic: MakeWorld,
) -> None:
    world = elastic(sdk=False, commit=None, elastic={**ELASTIC, "minWorkers": 1})
    world.track(100)
    world.settle()
    world.spec["workers"] = 3
    world.pass_time(60)
    assert members(world) == [0, 1, 2, 3]
    assert world.plans[-1].status.attempt.save_by is not None  # type: ignore[union-attr]
    world.track(200)
    world.settle()
    assert members(world) == [0, 1, 2]


def test_a_checkpoint_that_came_while_the_operator_was_away_counts(elastic: MakeWorld) -> None:
    world = elastic(sdk=False, commit=None, step=150)
    world.track(100)
    world.spec["workers"] = 3
    world.settle()
    assert world.attempt.save_by is not None
    assert all(agent.answer.save_step is None for agent in world.agents.values() if agent.answer)
    world.jump(20)
    world.listening_since = world.now
    world.train(205)
    world.track(200)
    world.settle()
    assert members(world) == [0, 1, 2]


def test_a_tracker_file_of_an_earlier_run_that_was_further_is_no_matter(elastic: MakeWorld) -> None:
    world = elastic(sdk=False, commit=None)
    world.track(9000)
    world.spec["workers"] = 3
    world.settle()
    assert members(world) == [0, 1, 2, 3]
    world.jump(10)
    world.track(100)
    world.settle()
    assert members(world) == [0, 1, 2]


def test_a_checkpoint_that_does_not_come_is_not_waited_for_without_end(elastic: MakeWorld) -> None:
    world = elastic(
        sdk=False, commit=None, elastic={**ELASTIC, "gracefulShutdownTimeoutSeconds": 30}
    )
    world.track(100)
    world.spec["workers"] = 3
    world.settle()
    assert members(world) == [0, 1, 2, 3]
    world.pass_time(32, every=2)
    assert members(world) == [0, 1, 2]


def test_who_stands_still_is_not_asked_to_save(elastic: MakeWorld) -> None:
    world = elastic()
    world.jump(700)
    for agent in world.agents.values():
        world._heartbeat(agent)
    world.spec["workers"] = 3
    world.settle()
    assert members(world) == [0, 1, 2]


def test_an_operator_that_has_just_begun_to_listen_withdraws_no_question(
    elastic: MakeWorld,
) -> None:
    world = elastic()
    node = lose(world, 1)
    come_back(world, node)
    for step in range(13, 300):
        world.jump(1)
        world.train(step)
        for agent in world.agents.values():
            world._heartbeat(agent)
        world.settle()
        if world.attempt.save_by is not None:
            break
    asked = world.attempt.save_by
    assert asked is not None
    joiner, said = world.agent(1), world.agent(1).sequence
    joiner.sequence = 0
    world.listening_since = world.now
    world.visit()
    assert world.attempt.save_by == asked
    joiner.sequence = said
    world.settle()
    assert (world.attempt.save_by, remembered(world).joinable) == (asked, 1)


RESHARD = (
    "goodput.checkpoint.errors.ReshardError: step 10 was saved by 4 ranks and cannot be loaded"
)


def test_a_checkpoint_that_cannot_be_resharded_brings_the_old_size_back(elastic: MakeWorld) -> None:
    world = elastic(spare_nodes=1, sdk=False)
    world.spec["workers"] = 5
    world.pass_time(10)
    assert members(world) == [0, 1, 2, 3, 4]
    world.fail(0, exception=RESHARD)
    world.settle()
    assert (world.attempt.state, members(world)) == (AttemptState.RUNNING, [0, 1, 2, 3])
    told = {reason: text for plan in world.plans for reason, text in plan.decisions}
    assert "saved by 4 ranks and cannot be loaded" in told["CannotReshard"]
    assert remembered(world).unfit_sizes == [5]
    world.pass_time(900, every=30)
    assert world.attempt.number == 3, "it is not tried again"
    world.spec["suspend"] = True
    world.settle()
    world.spec["suspend"] = False
    world.settle()
    assert members(world) == [0, 1, 2, 3, 4], "the user may have mended it"


def test_a_gang_that_can_load_at_no_other_size_waits_for_its_own(elastic: MakeWorld) -> None:
    world = elastic(elastic={"minWorkers": 3, "maxWorkers": 4})
    node = lose(world, 1)
    assert members(world) == [0, 2, 3]
    world.fail(0, exception=RESHARD)
    world.settle()
    assert (world.attempt.state, members(world)) == (AttemptState.FORMING, [])
    come_back(world, node)
    world.pass_time(90)
    assert (world.attempt.state, members(world)) == (AttemptState.RUNNING, [0, 1, 2, 3])


def test_a_wish_is_followed_once_although_some_stand_ready_already(elastic: MakeWorld) -> None:
    world = elastic(4, spare_nodes=6, sdk=False, spares=2)
    world.settle()
    assert len(world.pods) == 6
    world.deaf = {f"job-{slot}-0" for slot in range(6, 10)}
    world.spec["workers"] = 8
    world.spec["elastic"] = {**ELASTIC, "maxWorkers": 8}
    world.pass_time(30)
    assert (world.attempt.number, len(members(world)), len(world.pods)) == (1, 4, 10)
