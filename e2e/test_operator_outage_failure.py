"""A rank dies while nobody is there to see it."""

from __future__ import annotations

import time

import pytest

from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

CHECKPOINT_EVERY = 20


def test_a_failure_during_an_outage_is_dealt_with_afterwards_and_its_wait_priced_as_detection(
    operator: Operator, job: Job
) -> None:
    workers = 2
    job.apply(workers=workers, steps=200, checkpoint_every=CHECKPOINT_EVERY)
    job.wait_step(50)
    before = job.pods()

    with operator.away():
        job.kill_rank(1)
        died_at = time.monotonic()
    seconds_undetected = time.monotonic() - died_at
    job.wait_attempt(2)

    job.wait_phase("Succeeded")
    status, ledger = job.status(), job.ledger()
    assert status["attempt"]["number"] == 2
    assert status["recovery"]["total"] == 1
    assert [one["attempt"] for one in status["recovery"]["restarts"]] == [1]
    job.assert_pods_untouched(before)
    assert 0 <= job.redone_steps(2) <= CHECKPOINT_EVERY
    assert ledger["detection"] >= (seconds_undetected - 5) * workers
    assert ledger["lost_work"] <= 5 * workers, "waiting for the operator is no lost work"
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
