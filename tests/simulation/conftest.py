"""Finds the points of the sweep: the writes of a run in which nothing goes wrong."""

from functools import cache
from typing import Any

import pytest

from tests.simulation.apiserver import Fault
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import World, simulate

SWEEP = pytest.StashKey[int]()


@cache
def fault_free(name: str) -> World:
    """The world after a scenario in which nothing else goes wrong."""
    return simulate(SCENARIOS[name])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test of the sweep every write of every scenario, and every way for it to fail."""
    if "fault" not in metafunc.fixturenames:
        return
    points = [
        pytest.param(name, position, fault, id=f"{name}-{position}-{fault.name.lower()}")
        for name in SCENARIOS
        for position in range(1, len(fault_free(name).server.writes) + 1)
        for fault in Fault
        if fault is not Fault.CONFLICT
        or fault_free(name).server.writes[position - 1].startswith("update")
    ]
    metafunc.config.stash[SWEEP] = len(points)
    metafunc.parametrize(("name", "position", "fault"), points)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was swept."""
    points = config.stash.get(SWEEP, 0)
    if points:
        counts = {name: len(fault_free(name).server.writes) for name in SCENARIOS}
        terminalreporter.write_line(f"sweep: {points} faults at the API writes of {counts}")
