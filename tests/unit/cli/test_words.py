"""Amounts, times and causes in words."""

from datetime import timedelta
from pathlib import Path

import pytest

from goodput_operator import cli
from goodput_operator.api.status import Bucket, ConditionType
from goodput_operator.cli.words import (
    CAUSES,
    REMEDIES,
    ago,
    amount,
    cause_of,
    clock,
    count,
    duration,
    share,
    style_of_goodput,
)
from tests.unit.cli.conftest import NOW

ROOT = Path(cli.__file__).parents[1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (31_536_000, "365 d"),
        (-5, "-5.0 s"),
    ],
)
def test_a_length_of_time_has_the_unit_that_people_use(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0.0 s"),
        (119_900, "119.9 s"),
        (120_000, "2.0 min"),
        (7_199_999, "120.0 min"),
        (7_200_000, "2.0 h"),
        (36_000_000_000, "10,000.0 h"),
    ],
)
def test_accelerator_time_is_told_in_one_unit(milliseconds: int, words: str) -> None:
    assert amount(milliseconds) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (1, 1, "100.0%"),
        (999_999, 1_000_000, "99.9%"),
        (0, 5, "0.0%"),
        (0, 0, "-"),
        (2, 3, "66.6%"),
    ],
)
def test_a_share_is_cut_so_that_100_means_all(part: int, whole: int, words: str) -> None:
    assert share(part, whole) == words


def test_a_moment_that_is_to_come_is_just_now() -> None:
    assert ago(NOW + timedelta(seconds=30), NOW) == "just now"
    assert ago(NOW - timedelta(seconds=30), NOW) == "30 s ago"
    assert clock(NOW) == "2026-01-02 12:00:00"


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 steps"), (1, "1 step"), (1200, "1,200 steps")]
)
def test_one_is_singular(number: int, words: str) -> None:
    assert count(number, "step") == words


@pytest.mark.parametrize(
    ("productive", "style"), [(95, "good"), (90, "good"), (89, "warn"), (70, "warn"), (69, "bad")]
)
def test_goodput_is_coloured_by_how_good_it_is(productive: int, style: str) -> None:
    assert style_of_goodput(productive, 100) == style
    assert style_of_goodput(0, 0) == "dim"


def test_every_bucket_of_the_ledger_has_words_in_the_ledgers_order() -> None:
    buckets = [bucket.value for bucket in Bucket]
    assert [name for name in CAUSES if name in buckets] == buckets


def test_a_bucket_of_a_newer_operator_is_called_by_its_name() -> None:
    assert cause_of("cosmic_rays").words == "cosmic_rays"


@pytest.mark.parametrize("reason", REMEDIES)
def test_a_remedy_answers_a_reason_that_the_operator_gives(reason: str) -> None:
    assert REMEDIES[reason].endswith((".", "?"))
    assert reason not in set(ConditionType)
    sources = (ROOT / part for part in ("observe", "plan", "diagnose", "reconcile.py"))
    files = [path for one in sources for path in ([one] if one.is_file() else one.glob("*.py"))]
    assert any(f'"{reason}"' in path.read_text() for path in files)
