"""What `kubectl goodput` tells of a job is true at every moment of its life."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest

from goodput_operator.api.status import AttemptState, ConditionType
from goodput_operator.cli.explain import Verdict, explain_page, verdict
from goodput_operator.cli.job import Job, read_job, read_pod
from goodput_operator.cli.page import plain
from goodput_operator.cli.status import status_page
from goodput_operator.cli.timeline import Timeline, timeline_json, timeline_of, timeline_page
from goodput_operator.cli.waterfall import timeline_html
from tests.simulation import scenarios
from tests.simulation.apiserver import START
from tests.simulation.world import Scenario, World, simulate

LIVES: tuple[Scenario, ...] = (
    scenarios.process_crash,
    scenarios.pod_lost,
    scenarios.node_lost,
    scenarios.suspend_resume,
    scenarios.finish,
)


def now(world: World) -> datetime:
    return START + timedelta(seconds=world.clock())


def told(world: World) -> tuple[Job, Verdict, Timeline]:
    """What is told at this moment; each page can be made."""
    raw = world.job
    assert raw is not None
    job, pods = read_job(raw), [read_pod(pod) for pod in world.pods]
    timeline = timeline_of(job, now(world))
    for page in (
        status_page(job, now(world), 1000),
        explain_page(job, pods, [], [], now(world)),
        timeline_page(timeline),
    ):
        assert plain(page)
    assert timeline_json(timeline)
    assert timeline_html(timeline)
    return job, verdict(job, pods, now(world)), timeline


def check_order(timeline: Timeline) -> None:
    """Attempts follow each other, and no bar leaves the job's life."""
    ends: datetime | None = None
    for run in timeline.runs:
        begin = run.begin or run.end
        assert timeline.begin <= begin <= run.end <= timeline.end + timedelta(seconds=1)
        assert ends is None or begin >= ends
        ends = run.end
    assert [run.attempt for run in timeline.runs] == sorted({run.attempt for run in timeline.runs})


@pytest.mark.parametrize("live", LIVES, ids=lambda live: live.__name__)
def test_at_every_moment_there_is_something_true_to_say(live: Scenario) -> None:
    async def watched(world: World) -> None:
        life = asyncio.ensure_future(live(world))
        seen = ""
        while not life.done():
            await asyncio.sleep(0.05)
            if world.job is None or world.job["metadata"]["resourceVersion"] == seen:
                continue
            seen = world.job["metadata"]["resourceVersion"]
            job, found, timeline = told(world)
            check_order(timeline)
            assert found.why
            assert "Its phase is" not in found.why[0], "each phase has words of its own"
            if found.productive:
                assert job.holds("Running")
        await life

    simulate(watched)


def reasons(sentences: Iterable[str]) -> str:
    return " ".join(sentences)


def test_a_job_that_trains_is_productive_and_one_that_comes_back_is_not() -> None:
    async def live(world: World) -> None:
        await scenarios.training(world)
        await asyncio.sleep(20)
        assert told(world)[1].productive is True
        world.kill_process(1)
        await world.until(lambda: bool(world.status.attempt and world.status.attempt.number == 2))
        job, found, _ = told(world)
        assert found.productive is False
        assert "ProcessFailed" in reasons(found.why)
        await world.until_trains(2)
        await asyncio.sleep(20)
        job, found, timeline = told(world)
        assert found.productive is True
        assert [run.attempt for run in timeline.runs] == [1, 2]
        [one] = timeline.interruptions
        assert not any(stage.open for stage in one.stages)
        assert one.incident.cost == sum(job.incidents[0].price.values()) > 0

    simulate(live)


def test_a_suspended_job_a_finished_one_and_one_without_room_are_told_apart() -> None:
    async def live(world: World) -> None:
        await scenarios.training(world)
        world.edit_spec(suspend=True)
        await world.until_true(ConditionType.SUSPENDED)
        assert "suspended by its user" in told(world)[1].why[0]
        for node in list(world.cluster.kubelets):
            world.occupy(node)
        world.edit_spec(suspend=False)
        await world.until(lambda: world.reason(ConditionType.ADMITTED) == "DoesNotFit")
        assert "waits for room" in told(world)[1].why[0]
        for node in list(world.cluster.kubelets):
            world.vacate(node)
        await world.until_trains(2)
        world.finish()
        await world.until_true(ConditionType.SUCCEEDED)
        assert told(world)[1].done
        assert world.status.attempt is not None
        assert world.status.attempt.state is AttemptState.CLOSED

    simulate(live)
