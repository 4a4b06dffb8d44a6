"""A log is read once, and comes out as a second-by-second count of it does."""

import random

import pytest

from goodput_operator.api.status import Bucket
from goodput_operator.ledger.log import Commit, Enter, Fault, Finish, Resize, Step
from tests.unit.ledger import oracle


def test_googles_published_example_comes_out_to_the_digit() -> None:
    assert oracle.googles_percentages() == oracle.GOOGLES_PERCENTAGES


@pytest.mark.parametrize("seed", range(40))
def test_random_logs_come_out_as_by_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        weight, events = chance.randint(1, 9), oracle.random_log(chance)
        log = oracle.read(events, weight)
        assert oracle.counted(log) == oracle.spent(0, weight, events), events


def test_every_moment_is_counted_once_whatever_the_log_says() -> None:
    log = oracle.read(
        [Step(5000, 3), Enter(2000, Bucket.STARTUP), Step(1000, 10**6), Commit(9000, 4)], 4
    )
    assert sum(log.tally.buckets.values()) + log.tally.unsettled == 4 * 9000


def test_a_finished_log_takes_nothing_more_in() -> None:
    log = oracle.read([Step(1000, 1), Finish(2000)])
    before = oracle.counted(log)
    log.feed(Fault(5000))
    assert oracle.counted(log) == before


def test_workers_that_are_missing_count_as_degraded() -> None:
    log = oracle.read([Step(0, 1), Resize(1000, 3, missing=1), Commit(3000, 1), Step(3000, 2)], 4)
    log.feed(Commit(3000, 2))
    assert oracle.counted(log) == {Bucket.PRODUCTIVE: 4 * 1000 + 3 * 2000, Bucket.DEGRADED: 2000}
