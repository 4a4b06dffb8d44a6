"""One pass at a time, made by hand: what it does when the world is not as it thought."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from goodput_operator.api.status import ConditionType
from goodput_operator.errors import ConflictError, CorruptStatusError, UnavailableError
from goodput_operator.reconcile import STALE_VIEW_SECONDS, unreadable
from tests.simulation.apiserver import Fault
from tests.simulation.world import KEY, START, World, simulate

A_MOMENT = 0.05


def by_hand(story: Callable[[World], Awaitable[None]]) -> World:
    """Play a story with an operator that makes no pass by itself, and a job."""

    async def play(world: World) -> None:
        await world.start_operator(queue=False)
        world.create_job()
        await asyncio.sleep(A_MOMENT)
        await story(world)

    return simulate(play)


def test_a_pass_that_changes_nothing_writes_nothing() -> None:
    async def story(world: World) -> None:
        await world.visit()
        written = list(world.server.writes)
        await world.visit()
        assert world.server.writes == written

    by_hand(story)


def test_a_conflict_stops_the_pass_and_the_next_one_sees_what_is_new() -> None:
    async def story(world: World) -> None:
        world.server.frozen.add("trainingjobs")
        world.edit_spec(suspend=True)
        with pytest.raises(ConflictError):
            await world.visit()
        assert world.server.writes == ["update trainingjobs job status"]
        await world.visit()
        assert world.is_true(ConditionType.SUSPENDED)
        assert not world.pods

    by_hand(story)


ATTEMPT = {"number": 1, "state": "Running", "openedAt": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"slots": 3}, id="of the wrong type"),
        pytest.param({"slots": [{"slot": 0}] * 2}, id="a slot that stands twice"),
        pytest.param({"attempt": ATTEMPT, "selector": "x"}, id="an attempt of nobody"),
    ],
)
def test_a_status_that_we_cannot_have_written_is_left_alone(status: dict[str, Any]) -> None:
    async def story(world: World) -> None:
        world.server.change("trainingjobs", *KEY, lambda job: job.update(status=status))
        await asyncio.sleep(A_MOMENT)
        for _ in range(2):
            with pytest.raises(CorruptStatusError, match=r"status\.slots"):
                await world.visit()
        assert world.server.writes == ["update trainingjobs job status"]
        assert world.job is not None
        [said] = world.job["status"].pop("conditions")
        assert (said["type"], said["status"], said["reason"]) == (
            "Degraded",
            "True",
            "CannotBeRead",
        )
        assert "nothing is done about this job" in said["message"]
        assert world.job["status"] == status

    by_hand(story)


def test_that_a_job_cannot_be_read_is_said_of_each_generation_once() -> None:
    job: dict[str, Any] = {"metadata": {"generation": 1}, "status": {"conditions": []}}
    first = unreadable(job, "why", START)
    assert first is not None
    said = {"metadata": {"generation": 1}, "status": first}
    assert unreadable(said, "why", START) is None
    edited = unreadable({**said, "metadata": {"generation": 2}}, "why", START)
    assert edited is not None
    assert [one["observedGeneration"] for one in edited["conditions"]] == [2]


def test_the_job_of_another_controller_is_left_alone() -> None:
    async def story(world: World) -> None:
        world.edit_spec(managedBy="kueue.x-k8s.io/multikueue")
        await asyncio.sleep(A_MOMENT)
        assert await world.visit() is None
        assert world.server.writes == []

    by_hand(story)


def test_a_job_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    async def story(world: World) -> None:
        world.server.change(
            "trainingjobs",
            *KEY,
            lambda job: job["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
        )
        await asyncio.sleep(A_MOMENT)
        assert await world.visit() is None
        assert world.server.writes == []

    by_hand(story)


def test_a_pod_that_a_lost_answer_hid_is_ours_all_the_same() -> None:
    async def story(world: World) -> None:
        world.server.frozen.add("pods")
        world.server.faults[2] = Fault.ANSWER_LOST
        with pytest.raises(UnavailableError):
            await world.visit()
        hidden = world.pod(0)["metadata"]["uid"]
        await world.visit()
        assert world.pod(0)["metadata"]["uid"] == hidden
        assert world.server.writes.count("create pods job-0-0") == 2
        world.server.begin()
        await world.visit()
        assert world.server.writes == []

    by_hand(story)


def test_nothing_is_decided_on_a_view_that_is_too_old() -> None:
    async def story(world: World) -> None:
        world.server.frozen.add("nodes")
        await asyncio.sleep(150)
        asked = sum(world.operator.gateway.requests.values())
        assert await world.visit() == STALE_VIEW_SECONDS
        assert sum(world.operator.gateway.requests.values()) == asked

    by_hand(story)


def test_a_refusal_asks_for_the_next_pass_at_once() -> None:
    async def story(world: World) -> None:
        world.max_pods = 1
        assert await world.visit() == 0.0
        assert [pod["metadata"]["name"] for pod in world.pods] == ["job-0-0"]
        assert await world.visit() == 0.0, "the first try again is immediate"
        await world.visit()
        assert world.reason(ConditionType.ADMITTED) == "CreateRefused"

    by_hand(story)


def test_many_wakes_lead_to_the_same_writes_as_one() -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.create_job()
        for _ in range(50):
            world.wake()
            await asyncio.sleep(0.01)
        await world.until_trains(1)

    async def quietly(world: World) -> None:
        await world.start_operator()
        world.create_job()
        await world.until_trains(1)

    assert simulate(story).server.writes == simulate(quietly).server.writes


def test_a_lost_node_is_noticed_also_when_the_clock_was_put_back() -> None:
    async def story(world: World) -> None:
        await world.start_operator()
        world.operator.parts.reconciler.listening_since += timedelta(hours=1)
        world.create_job()
        await world.until_trains(1)
        world.cluster.lose_node(world.node_of(1))
        await world.until_trains(2)

    simulate(story)


def test_a_job_that_cannot_be_read_keeps_no_room_from_others() -> None:
    async def story(world: World) -> None:
        for node in list(world.cluster.kubelets):
            world.cluster.lose_node(node)
        await asyncio.sleep(60)
        await world.visit()
        book = world.operator.parts.book
        assert book is not None
        assert book.waiting() == (KEY,)
        world.server.change("trainingjobs", *KEY, lambda job: job.update(status={"slots": 3}))
        await asyncio.sleep(A_MOMENT)
        with pytest.raises(CorruptStatusError):
            await world.visit()
        assert book.waiting() == ()

    by_hand(story)
