"""Finds the points of the sweep: the writes of a run in which nothing goes wrong."""

from functools import cache
from typing import Any

import pytest

from tests.simulation.apiserver import Fault
from tests.simulation.scenarios import NEEDS_SDK, SCENARIOS
from tests.simulation.world import World, simulate

SWEEP = pytest.StashKey[dict[str, int]]()

Faults = dict[int, Fault]


@cache
def fault_free(name: str, sdk: bool = True) -> World:
    """The world after a scenario in which nothing else goes wrong."""
    return simulate(SCENARIOS[name], sdk=sdk)


def points(name: str, sdk: bool) -> dict[str, Faults]:
    """Every way in which one write of a scenario can fail, and two deaths in a row."""
    found: dict[str, Faults] = {}
    for position, write in enumerate(fault_free(name, sdk).server.writes, start=1):
        for fault in Fault:
            if fault is not Fault.CONFLICT or write.startswith("update"):
                found[f"{position}-{fault.name.lower()}"] = {position: fault}
        twice = {position: Fault.CRASH_BEFORE, position + 1: Fault.CRASH_AFTER}
        found[f"{position}-crash_twice"] = twice
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test of the sweep every write of every scenario, and every way for it to fail."""
    if "faults" not in metafunc.fixturenames:
        return
    found, counts = [], {}
    for sdk in (True, False):
        for name in SCENARIOS:
            if not sdk and name in NEEDS_SDK:
                continue
            title = name if sdk else f"{name}-no-sdk"
            here = points(name, sdk)
            counts[title] = len(here)
            found += [
                pytest.param(name, sdk, one, id=f"{title}-{point}") for point, one in here.items()
            ]
    metafunc.config.stash[SWEEP] = counts
    metafunc.parametrize(("name", "sdk", "faults"), found)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was swept."""
    counts = config.stash.get(SWEEP, {})
    if counts:
        terminalreporter.write_line(f"sweep: {sum(counts.values())} points: {counts}")
