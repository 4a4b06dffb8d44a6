"""Each accelerator-millisecond is accounted for exactly once."""

from datetime import UTC, datetime, timedelta

import pytest

from goodput_operator.api.status import Bucket, LedgerStatus
from goodput_operator.ledger.accounting import Account, Span, goodput_text, total

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return CREATED + timedelta(seconds=seconds)


def fresh(weight: int = 2) -> Account:
    return Account.open(LedgerStatus(), weight, CREATED)


def working(seconds: float) -> Account:
    """An account of two accelerators that have worked for so long."""
    account = fresh()
    account.add([Span(at(seconds), None)])
    return account


def test_a_new_ledger_begins_with_the_job() -> None:
    account = fresh(3)
    account.add([Span(at(1.5), Bucket.QUEUED)])
    assert account.close(3) == LedgerStatus(
        accelerator_milliseconds={Bucket.QUEUED: 4500},
        unsettled_milliseconds=0,
        accelerators=3,
        accounted_until=at(1.5),
    )


def test_a_ledger_goes_on_where_it_was_written() -> None:
    written = LedgerStatus(
        accelerator_milliseconds={Bucket.QUEUED: 700},
        unsettled_milliseconds=50,
        accelerators=2,
        accounted_until=at(10),
    )
    account = Account.open(written, 2, CREATED)
    account.add([Span(at(11), Bucket.QUEUED), Span(at(12), None)])
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {Bucket.QUEUED: 2700}
    assert ledger.unsettled_milliseconds == 2050
    assert ledger.accounted_until == at(12)
    assert total(ledger) == 4750


def test_spans_follow_one_another_and_none_counts_twice() -> None:
    account = fresh(1)
    account.add([Span(at(3), Bucket.QUEUED), Span(at(2), Bucket.STARTUP), Span(at(5), None)])
    account.add([Span(at(4), Bucket.RESTORE)])
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {Bucket.QUEUED: 3000}
    assert ledger.unsettled_milliseconds == 2000
    assert ledger.accounted_until == at(5)


def test_what_is_shorter_than_a_millisecond_is_kept_for_later() -> None:
    account = Account.open(LedgerStatus(), 1, CREATED + timedelta(microseconds=900))
    for microseconds in range(0, 10_001, 7):
        account.add([Span(CREATED + timedelta(microseconds=microseconds), Bucket.QUEUED)])
    assert account.close(2).accelerator_milliseconds == {Bucket.QUEUED: 9}
    assert account.close(2).accounted_until == CREATED + timedelta(milliseconds=9)


def test_work_is_settled_as_a_whole() -> None:
    account = working(10)
    account.settle(Bucket.LOST_WORK)
    assert account.close(2).accelerator_milliseconds == {Bucket.LOST_WORK: 20_000}
    assert account.close(2).unsettled_milliseconds == 0


def test_a_commit_settles_the_work_before_it() -> None:
    account = working(10)
    account.settle(Bucket.PRODUCTIVE, at(7))
    account.settle(Bucket.PRODUCTIVE, at(8))
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {Bucket.PRODUCTIVE: 16_000}
    assert ledger.unsettled_milliseconds == 4_000


@pytest.mark.parametrize(
    ("worked_until", "settled"),
    [
        pytest.param(-100, 0, id="of before all of it settles nothing"),
        pytest.param(100, 20_000, id="of after all of it settles everything, and no more"),
    ],
)
def test_a_commit(worked_until: float, settled: int) -> None:
    account = working(10)
    account.settle(Bucket.PRODUCTIVE, at(worked_until))
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds.get(Bucket.PRODUCTIVE, 0) == settled
    assert total(ledger) == 20_000


def test_time_after_a_fault_was_no_work() -> None:
    account = working(10)
    account.add([Span(at(10), Bucket.DETECTION)])
    account.reclassify_tail(at(7), Bucket.DETECTION)
    account.reclassify_tail(at(10), Bucket.DETECTION)
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {Bucket.DETECTION: 6_000}
    assert ledger.unsettled_milliseconds == 14_000


def test_no_more_is_taken_back_than_was_work() -> None:
    account = working(10)
    account.settle(Bucket.PRODUCTIVE, at(9))
    account.reclassify_tail(at(2), Bucket.DETECTION)
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {
        Bucket.PRODUCTIVE: 18_000,
        Bucket.DETECTION: 2_000,
    }
    assert ledger.unsettled_milliseconds == 0


@pytest.mark.parametrize(
    ("since", "until", "unsettled"),
    [
        pytest.param(7, 7, 8_000, id="is taken back"),
        pytest.param(2, 10, 14_000, id="stays where a part of it is settled"),
        pytest.param(11, 10, 14_000, id="is none"),
    ],
)
def test_work_after_the_end(since: float, until: float, unsettled: int) -> None:
    account = working(10)
    account.settle(Bucket.PRODUCTIVE, at(3))
    account.take_back(at(since))
    ledger = account.close(2)
    assert (ledger.accounted_until, ledger.unsettled_milliseconds) == (at(until), unsettled)
    assert total(ledger) == 2_000 * until


def test_buckets_are_written_in_their_one_order_and_empty_ones_not_at_all() -> None:
    account = fresh(1)
    account.add(Span(at(number + 1), bucket) for number, bucket in enumerate(reversed(Bucket)))
    account.add([Span(at(0), Bucket.PRODUCTIVE)])
    assert list(account.close(2).accelerator_milliseconds) == list(Bucket)
    assert list(working(1).close(2).accelerator_milliseconds) == []


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        pytest.param({}, "", id="before there is time"),
        pytest.param({Bucket.QUEUED: 1}, "0.0%", id="nothing yet"),
        pytest.param({Bucket.PRODUCTIVE: 1}, "100.0%", id="all"),
        pytest.param({Bucket.PRODUCTIVE: 2, Bucket.LOST_WORK: 1}, "66.6%", id="never rounded up"),
    ],
)
def test_people_read_the_productive_share(milliseconds: dict[Bucket, int], text: str) -> None:
    ledger = LedgerStatus(accelerator_milliseconds=milliseconds, unsettled_milliseconds=10**9)
    assert goodput_text(ledger) == text


def test_time_in_which_training_stood_still_was_no_work() -> None:
    account = working(10)
    account.stall(1, {Bucket.CHECKPOINT_STALL: 2_000, Bucket.DATA_STALL: 500})
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {
        Bucket.CHECKPOINT_STALL: 4_000,
        Bucket.DATA_STALL: 1_000,
    }
    assert ledger.unsettled_milliseconds == 15_000


def test_a_stall_is_counted_once_however_often_it_is_told() -> None:
    account = working(10)
    account.stall(1, {Bucket.DATA_STALL: 1_000})
    again = Account.open(account.close(2), 2, CREATED)
    again.stall(1, {Bucket.DATA_STALL: 1_500})
    again.stall(2, {Bucket.DATA_STALL: 250})  # the next attempt counts from nothing
    assert again.close(2).accelerator_milliseconds == {Bucket.DATA_STALL: 3_500}


def test_no_more_stands_still_than_there_was_time() -> None:
    account = working(10)
    account.stall(1, {Bucket.DATA_STALL: 10**9})
    assert account.close(2).accelerator_milliseconds == {Bucket.DATA_STALL: 20_000}
    assert account.close(2).unsettled_milliseconds == 0


def test_a_commit_settles_all_work_before_it_though_its_saving_stood_still() -> None:
    account = working(15)  # ten seconds of work, then five of saving it
    account.stall(1, {Bucket.CHECKPOINT_STALL: 5_000})
    account.settle(Bucket.PRODUCTIVE, at(10), stalled_since=5_000)
    ledger = account.close(2)
    assert ledger.accelerator_milliseconds == {
        Bucket.PRODUCTIVE: 20_000,
        Bucket.CHECKPOINT_STALL: 10_000,
    }
    assert ledger.unsettled_milliseconds == 0


def test_who_pays_is_told_apart_from_what_nobody_pays() -> None:
    account = fresh(1)
    account.add([Span(at(1), Bucket.STARTUP)])
    account.charge(3)
    account.add([Span(at(3), Bucket.DETECTION), Span(at(4), None)])
    account.settle(Bucket.LOST_WORK)
    account.add([Span(at(5), Bucket.PRODUCTIVE)])
    assert account.prices == {3: {Bucket.DETECTION: 2_000, Bucket.LOST_WORK: 1_000}}
