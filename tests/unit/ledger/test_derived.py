"""The published figures follow from the buckets, each by its own formula."""

from fractions import Fraction

import pytest

from goodput_operator.api.status import Bucket
from goodput_operator.ledger import derived

HOURS = {
    Bucket.PRODUCTIVE: 60,
    Bucket.QUEUED: 8,
    Bucket.SCHEDULING: 2,
    Bucket.POD_START: 1,
    Bucket.STARTUP: 3,
    Bucket.RESTORE: 1,
    Bucket.CHECKPOINT_STALL: 4,
    Bucket.DATA_STALL: 1,
    Bucket.DEGRADED: 5,
    Bucket.LOST_WORK: 6,
    Bucket.DETECTION: 1,
    Bucket.RECOVERY: 3,
    Bucket.SUSPENDED: 5,
}
"""A hundred hours of one accelerator."""


def test_goodput_is_the_productive_share_of_all_time() -> None:
    assert derived.goodput(HOURS) == Fraction(60, 100)


def test_metas_ettr_is_of_the_time_in_which_the_job_ran_or_could_have() -> None:
    assert derived.ettr(HOURS) == Fraction(65, 95)
    assert derived.ettr(HOURS, queue=False) == Fraction(65, 85)


def test_byterobusts_ettr_is_of_the_time_since_the_job_has_its_machines() -> None:
    assert derived.ettr_of_byterobust(HOURS) == Fraction(65, 85)
    last_hour = {Bucket.PRODUCTIVE: 50, Bucket.CHECKPOINT_STALL: 4, Bucket.RECOVERY: 6}
    assert derived.ettr_of_byterobust(last_hour) == Fraction(54, 60)


def test_googles_badput_and_the_goodput_are_all_time() -> None:
    shares = derived.badput(HOURS)
    assert sum(shares.values()) + Fraction(60, 100) == 1
    assert shares["WASTED_PROGRESS_FROM_DISRUPTION"] == Fraction(6, 100)
    assert shares["INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION"] == Fraction(4, 100)
    assert shares["UNPRODUCTIVE_CHECKPOINT_SAVE_TIME"] == Fraction(4, 100)


def test_every_bucket_but_the_productive_one_has_a_badput_type() -> None:
    assert set(derived.BADPUT) == set(Bucket) - {Bucket.PRODUCTIVE}


def test_the_formulas_speak_of_buckets_that_there_are() -> None:
    assert {*derived.TRAINING, *derived.WAITING, *derived.NOT_ALLOCATED} < set(Bucket)


def test_mpg_is_the_product_of_its_factors() -> None:
    scheduling, runtime = derived.scheduling_goodput(HOURS), derived.runtime_goodput(HOURS)
    assert (scheduling, runtime) == (Fraction(80, 95), Fraction(60, 80))
    program = derived.program_goodput(useful_steps=100, ideal_step=45, productive=6000)
    assert program == Fraction(3, 4)
    assert derived.mpg(scheduling, runtime, program) == Fraction(60, 95) * Fraction(3, 4)


def test_model_flops_utilization_is_of_the_peak_of_all_accelerators() -> None:
    assert derived.model_flops_utilization(8 * 10**15, 2, 8, 10**15) == Fraction(1, 2)
    assert derived.throughput(4_000_000, 8) == 500_000


@pytest.mark.parametrize(
    "figure",
    [
        derived.goodput,
        derived.ettr,
        derived.ettr_of_byterobust,
        derived.scheduling_goodput,
        derived.runtime_goodput,
    ],
)
def test_without_any_time_there_is_no_figure(figure) -> None:
    assert figure({}) is None
    assert derived.badput({}) == {}
    assert derived.mpg(None, Fraction(1), Fraction(1)) is None
