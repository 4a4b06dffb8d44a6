"""What a status may say that somebody has edited by hand."""

from typing import Any

import pytest
from pydantic import ValidationError

from goodput_operator.api.status import LARGEST, TrainingJobStatus

NOW = "2026-01-02T03:04:05.678Z"


def read(**status: Any) -> TrainingJobStatus:
    return TrainingJobStatus.model_validate(status)


@pytest.mark.parametrize(
    ("number", "read_as"),
    [
        pytest.param(7, 7, id="what can be"),
        pytest.param(-7, 0, id="below 0"),
        pytest.param(2**63 - 1, LARGEST, id="what one more would carry beyond JSON"),
    ],
)
def test_a_count_is_read_as_one_that_can_be_counted_on(number: int, read_as: int) -> None:
    assert read(recovery={"total": number}).recovery.total == read_as
    ledger = read(ledger={"acceleratorMilliseconds": {"queued": number}}).ledger
    assert list(ledger.accelerator_milliseconds.values()) == [read_as]


@pytest.mark.parametrize(
    ("time", "word"),
    [
        pytest.param("0001-01-01T00:00:00+12:00", "between 1970", id="before the calendar"),
        pytest.param("9999-12-31T23:59:59Z", "between 1970", id="at its end"),
        pytest.param("2026-01-02T03:04:05", "zone", id="of no zone"),
    ],
)
def test_a_time_with_which_nobody_can_reckon_is_refused(time: str, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        read(finishedAt=time)
    assert read(finishedAt=NOW).finished_at is not None


def test_a_slot_beyond_the_largest_gang_is_refused() -> None:
    with pytest.raises(ValidationError):
        read(slots=[{"slot": 10_000}])
