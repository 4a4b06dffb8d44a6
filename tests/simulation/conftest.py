"""Gives a test of the sweep every plan of it, and says how many there were."""

from collections import Counter
from typing import Any

import pytest

from tests.simulation import sweep

SWEEP = pytest.StashKey[Counter[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each plan of the sweep."""
    if "plan" in metafunc.fixturenames:
        found = sweep.plans()
        metafunc.config.stash[SWEEP] = Counter(plan.scenario for plan in found)
        metafunc.parametrize("plan", found, ids=str)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was swept."""
    counts = config.stash.get(SWEEP, Counter())
    if counts:
        terminalreporter.write_line(f"sweep: {counts.total()} plans: {dict(counts)}")
