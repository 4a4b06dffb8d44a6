"""A training process is killed: its peers fail of it, or hang, and the pods are well."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.support.events import events
from e2e.support.job import Job
from goodput.session import REPORT_SECONDS

STEPS = 120
STEP_SECONDS = 0.05
CHECKPOINT_EVERY = 20


@pytest.mark.parametrize(
    ("slot", "peers"),
    [
        pytest.param(0, "fail", id="rank 0, at whose address the others meet"),
        pytest.param(2, "hang", id="another rank, and its peers wait for it for ever"),
    ],
)
def test_the_gang_goes_on_in_the_same_pods_from_its_newest_checkpoint(
    job: Job, slot: int, peers: str, record_property: Callable[[str, object], None]
) -> None:
    job.apply(
        steps=STEPS,
        step_seconds=STEP_SECONDS,
        checkpoint_every=CHECKPOINT_EVERY,
        arguments=(f"--peer-lost={peers}",),
    )
    job.wait_step(CHECKPOINT_EVERY + 5)
    before = job.pods()

    killed_at = time.monotonic()
    job.kill_rank(slot)
    status = job.wait_attempt(2)
    record_property("seconds from the kill to the next attempt", f"{_since(killed_at):.1f}")
    assert status["attempt"]["restoreStep"] >= CHECKPOINT_EVERY
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert 0 <= job.redone_steps(2) <= CHECKPOINT_EVERY
    assert job.ledger()["recovery"] > 0
    status = job.status()
    assert status["attempt"]["number"] == 2
    (charge,) = status["recovery"]["restarts"]
    assert (charge["attempt"], charge["reason"]) == (1, "ProcessFailed")
    (incident,) = status["incidents"]
    assert (incident["slot"], incident["rank"]) == (slot, slot)
    assert incident["decision"] == "RestartProcesses"
    timeline = ("fault", "decided", "scheduled", "published", "running", "firstStep", "caughtUp")
    times = [incident[f"{moment}At"] for moment in timeline]
    assert times == sorted(times)
    unsaid = round(REPORT_SECONDS / STEP_SECONDS) + 1  # who hangs never says its last steps
    assert abs(job.redone_steps(2) - incident["stepsLost"]) <= unsaid
    told = [message for reason, message in events(job) if reason == "ProcessFailed"]
    assert f"rank {slot} of worker {slot}" in told[-1], "the peers, which failed of it, are not it"
    assert "signal 9" in told[-1]


def test_each_kill_costs_one_charge_and_no_pod(job: Job) -> None:
    job.apply(workers=2, steps=150, step_seconds=0.05, checkpoint_every=10)
    job.wait_step(15)
    before = job.pods()
    job.kill_rank(1)
    job.wait_step(45, attempt=2)
    job.kill_rank(0)
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    job.assert_succeeded(150)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    status = job.status()
    assert status["attempt"]["number"] == 3
    assert [charge["attempt"] for charge in status["recovery"]["restarts"]] == [1, 2]


def _since(moment: float) -> float:
    return time.monotonic() - moment
