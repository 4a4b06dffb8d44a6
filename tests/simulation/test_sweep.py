"""The operator dies, or a write fails, at every write of every scenario: it comes to the same."""

import pytest

from tests.simulation.apiserver import Fault
from tests.simulation.conftest import fault_free
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import World, simulate


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_comes_to_rest(name: str) -> None:
    async def rest(world: World) -> None:
        await SCENARIOS[name](world)
        await world.check_rest(120)

    simulate(rest).check()


def test_a_fault_at_any_write_changes_nothing_in_the_end(
    name: str, sdk: bool, faults: dict[int, Fault]
) -> None:
    tries = name != "refused_create"  # how many there were before the quota was raised: chance
    expected = fault_free(name, sdk).outcome(tries=tries)

    async def play(world: World) -> None:
        await SCENARIOS[name](world)
        await world.until(lambda: world.outcome(tries=tries) == expected, seconds=60)
        await world.check_rest()

    world = simulate(play, faults=faults, sdk=sdk)
    assert min(faults) not in world.server.faults, "the fault did not happen"
    world.check()
    assert world.outcome(tries=tries) == expected


@pytest.mark.parametrize("name", sorted({*SCENARIOS} - {"refused_create"}))
def test_no_pod_is_created_or_deleted_twice(name: str) -> None:
    pods = [write for write in fault_free(name).server.writes if " pods " in write]
    assert len(pods) == len(set(pods))


def test_a_lost_worker_costs_at_most_twelve_writes() -> None:
    for name in ("pod_lost", "node_lost"):
        assert len(fault_free(name).server.writes) <= 12
