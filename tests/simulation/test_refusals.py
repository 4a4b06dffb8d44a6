"""The API server refuses a worker: no half gang is kept, no survivor is given up."""

import asyncio

import pytest

from goodput_operator.api.status import ConditionType
from tests.simulation.scenarios import training
from tests.simulation.world import World, simulate


def refused(world: World) -> bool:
    return world.reason(ConditionType.ADMITTED) == "CreateRefused"


def test_a_gang_of_which_not_one_pod_is_let_in_says_so_at_once() -> None:
    async def story(world: World) -> None:
        world.max_pods = 0
        await world.start_operator()
        world.create_job()
        await world.until(lambda: refused(world), seconds=2)
        await asyncio.sleep(60)
        assert refused(world)
        world.max_pods = None
        await world.until_trains(1)

    simulate(story).check(created_once=False)


def test_half_a_gang_is_released_within_a_second() -> None:
    async def story(world: World) -> None:
        world.max_pods = 1
        await world.start_operator()
        world.create_job()
        await world.until(lambda: refused(world), seconds=2)
        await world.until(lambda: not world.pods, seconds=1)

    simulate(story).check(created_once=False)


def test_survivors_keep_their_pods_while_a_lost_node_holds_on_to_the_quota() -> None:
    async def story(world: World) -> None:
        await training(world)
        survivor, lost = world.pod(0)["metadata"]["uid"], world.node_of(1)
        world.max_pods = world.workers
        world.cluster.lose_node(lost)
        await world.until(lambda: refused(world), seconds=30)
        await asyncio.sleep(60)
        assert "exceeded quota" in world.message(ConditionType.ADMITTED)
        world.cluster.heal(lost)
        await world.until_trains(2)
        assert world.pod(0)["metadata"]["uid"] == survivor

    simulate(story).check()


def test_survivors_that_wait_in_vain_are_released() -> None:
    async def story(world: World) -> None:
        await training(world, gang={"startTimeoutSeconds": 60})
        world.max_pods = world.workers
        world.cluster.lose_node(world.node_of(1))
        lost = world.pod(1)["metadata"]["name"]
        await world.until(lambda: [p["metadata"]["name"] for p in world.pods] == [lost])

    simulate(story)


def test_a_foreign_pod_of_our_name_is_named_and_left_alone() -> None:
    async def story(world: World) -> None:
        stranger = world.foreign_pod("job-1-0")
        await world.start_operator()
        world.create_job()
        await world.until(lambda: refused(world), seconds=2)
        message = world.message(ConditionType.ADMITTED)
        assert "a pod named job-1-0 exists in namespace lab and is not ours" in message
        await world.until(lambda: world.pods == [stranger])
        await asyncio.sleep(60)
        assert world.pods == [stranger]
        world.server.delete("pods", "lab", "job-1-0")
        await world.until_trains(1)

    simulate(story).check(created_once=False)


def test_a_template_that_the_api_server_refuses_creates_nothing() -> None:
    async def story(world: World) -> None:
        world.template_refusal = 'Pod "job-0-0" is invalid: spec.containers[0].image: Required'
        await world.start_operator()
        world.create_job()
        await world.until(lambda: world.reason(ConditionType.TEMPLATE_VALID) == "Invalid")
        assert "image: Required" in world.message(ConditionType.TEMPLATE_VALID)
        await asyncio.sleep(30)
        assert not world.pods
        assert not world.server.created
        world.template_refusal = ""  # a policy was mended: seen without an edit of the job
        await world.until_trains(1)

    simulate(story).check()


@pytest.mark.parametrize(
    "policy",
    [
        'pods "job-0-0" is forbidden: violates PodSecurity "restricted:latest": seccompProfile',
        'pods "job-0-0" is forbidden: error looking up service account lab/trainer: not found',
        'pods "job-0-0" is forbidden: maximum cpu usage per Container is 1, but limit is 2',
        'pods "job-0-0" is forbidden: failed quota: team: must specify limits.memory',
    ],
)
def test_what_a_policy_forbids_is_said_once_and_never_created(policy: str) -> None:
    async def story(world: World) -> None:
        world.policy = policy
        await world.start_operator()
        world.create_job()
        await world.until(lambda: world.reason(ConditionType.TEMPLATE_VALID) == "Invalid")
        assert policy in world.message(ConditionType.TEMPLATE_VALID)
        await asyncio.sleep(30)
        assert not world.server.created
        world.policy = ""
        await world.until_trains(1)

    simulate(story).check()


@pytest.mark.parametrize(
    "refusal",
    [
        'pods is forbidden: User "goodput" cannot create resource "pods" in the namespace "lab"',
        'pods "job-0-0" is forbidden: exceeded quota: team, used: pods=2, limited: pods=2',
    ],
)
def test_what_will_pass_is_no_fault_of_the_template(refusal: str) -> None:
    async def story(world: World) -> None:
        world.policy = refusal
        await world.start_operator()
        world.create_job()
        await world.until(lambda: refused(world), seconds=2)
        assert refusal in world.message(ConditionType.ADMITTED)
        assert world.is_true(ConditionType.TEMPLATE_VALID)
        world.policy = ""
        await world.until_trains(1)

    simulate(story).check(created_once=False)


def test_a_priority_class_that_is_not_there_is_told_before_anything_starts() -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.create_job(
            elastic={"minWorkers": 1, "maxWorkers": 2, "extraPriorityClassName": "scavenger"}
        )
        await world.until(lambda: world.reason(ConditionType.TEMPLATE_VALID) == "Invalid")
        told = world.message(ConditionType.TEMPLATE_VALID)
        assert "no PriorityClass with name scavenger was found" in told
        assert not world.pods
        world.priority_classes.add("scavenger")
        await world.until_trains(1)
        classes = [pod["spec"].get("priorityClassName") for pod in world.pods]
        assert classes == [None, "scavenger"], "the first minWorkers keep the template's own"

    simulate(story).check()
