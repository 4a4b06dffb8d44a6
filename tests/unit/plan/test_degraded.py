"""What is missing of an elastic gang is accounted for beside what the others do."""

from datetime import UTC, datetime, timedelta

from goodput_operator.api.status import Bucket, LedgerStatus
from goodput_operator.ledger.accounting import Account, Span, total

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def test_missing_workers_time_is_degraded_whatever_the_others_do() -> None:
    account = Account.open(LedgerStatus(), 3, BEGIN, missing=1)
    account.add([Span(after(10), Bucket.STARTUP), Span(after(30), None)])
    account.settle(Bucket.LOST_WORK)
    ledger = account.close(4)
    assert ledger.accelerator_milliseconds == {
        Bucket.STARTUP: 30_000,
        Bucket.DEGRADED: 30_000,
        Bucket.LOST_WORK: 60_000,
    }
    assert total(ledger) == 4 * 30_000
    assert ledger.accelerators == 4


def test_a_span_that_is_already_counted_is_not_degraded_again() -> None:
    account = Account.open(LedgerStatus(accounted_until=after(20)), 3, BEGIN, missing=1)
    account.add([Span(after(10), Bucket.STARTUP), Span(after(20), None)])
    assert total(account.close(4)) == 0
