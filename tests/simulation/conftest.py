"""Gives a test of the sweep its plans of today, and says how many there were."""

import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.simulation import sweep

SWEEP = pytest.StashKey[Counter[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each plan of today's share of the sweep."""
    if "plan" in metafunc.fixturenames:
        found = sweep.share(today())
        metafunc.config.stash[SWEEP] = Counter(plan.scenario for plan in found)
        metafunc.parametrize("plan", found, ids=str)


def today() -> int:
    """Return GOODPUT_SWEEP_SEED, else the day, counted from the first one."""
    return int(os.environ.get("GOODPUT_SWEEP_SEED") or datetime.now(UTC).toordinal())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how much was swept."""
    counts = config.stash.get(SWEEP, Counter())
    if counts:
        terminalreporter.write_line(f"sweep: {counts.total()} plans: {dict(counts)}")
