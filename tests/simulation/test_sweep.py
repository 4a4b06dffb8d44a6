"""The operator dies, or a write fails, at every write of every scenario: it comes to the same."""

import pytest

from tests.simulation.scenarios import SCENARIOS, WORLDS
from tests.simulation.sweep import (
    CRASHES,
    SHARES,
    Plan,
    fault_free,
    plans,
    play,
    share,
    single_faults,
    titles,
)
from tests.simulation.world import World, simulate


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_comes_to_rest(name: str) -> None:
    async def rest(world: World) -> None:
        await SCENARIOS[name](world)
        await world.check_rest(120)

    simulate(rest, **WORLDS.get(name, {})).check()


def test_a_fault_at_any_write_changes_nothing_in_the_end(plan: Plan) -> None:
    result = play(plan)
    assert not result.wrong, result.wrong
    assert result.fired, "the fault did not happen"


def test_a_plan_can_be_named_and_played_again() -> None:
    for plan in plans():
        assert Plan.parse(str(plan)) == plan


def test_some_days_in_a_row_leave_no_plan_out() -> None:
    played = [plan for day in range(40, 40 + SHARES) for plan in share(day)]
    assert sorted(map(str, played)) == sorted(map(str, plans()))


def test_no_write_is_left_out() -> None:
    for name, sdk in titles():
        writes = len(fault_free(name, sdk).server.writes)
        swept = [
            plan.faults[0] for plan in single_faults() if (plan.scenario, plan.sdk) == (name, sdk)
        ]
        for fault in CRASHES:
            assert [at for at, how in swept if how is fault] == list(range(1, writes + 1))


@pytest.mark.parametrize("name", sorted({*SCENARIOS} - {"refused_create"}))
def test_no_pod_is_created_or_deleted_twice(name: str) -> None:
    pods = [write for write in fault_free(name).server.writes if " pods " in write]
    assert len(pods) == len(set(pods))


def test_a_lost_worker_costs_at_most_twelve_writes() -> None:
    for name in ("pod_lost", "node_lost"):
        assert len(fault_free(name).server.writes) <= 12
