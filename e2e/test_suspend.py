"""A user suspends a job that trains, and resumes it."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.support.diary import KEEPS_DIARY, written
from e2e.support.job import Job

CHECKPOINT_EVERY = 20
STEPS = 300


def test_a_suspended_job_holds_nothing_and_goes_on_from_its_checkpoint(
    cluster: Cluster, job: Job
) -> None:
    job.apply(
        workers=2,
        steps=STEPS,
        step_seconds=0.05,
        checkpoint_every=CHECKPOINT_EVERY,
        container=KEEPS_DIARY,
    )
    job.wait_step(CHECKPOINT_EVERY + 5)

    job.patch({"suspend": True})
    suspended = job.wait_phase("Suspended")
    cluster.wait_until(lambda: not job.pods(), "the pods to go", 20)
    saved = suspended["checkpoint"]["lastDurableStep"]
    assert saved == max(line.step for line in written(job)), "it was asked to save: no step is lost"
    assert job.condition("Suspended")["status"] == "True"
    running = job.condition("Running")
    assert (running["status"], running["reason"]) == ("False", "Suspended")

    job.patch({"suspend": False})
    status = job.wait_attempt(2)
    assert status["attempt"]["restoreStep"] == saved
    job.wait_phase("Succeeded")

    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert job.ledger()["suspended"] > 0
    recovery = job.status()["recovery"]
    assert recovery["total"] == 0, "the user's wish is no incident"
    assert job.condition("Suspended")["status"] == "False"


def test_a_job_that_is_created_suspended_waits_for_its_user(job: Job) -> None:
    job.apply(workers=2, steps=10, step_seconds=0.05, spec={"suspend": True})
    job.wait_phase("Suspended")
    assert job.pods() == []
    assert "attempt" not in job.status()

    job.patch({"suspend": False})
    job.wait_phase("Succeeded")
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()


def test_a_gang_that_forms_can_be_suspended(cluster: Cluster, job: Job) -> None:
    job.apply(workers=2, steps=10, step_seconds=0.05)
    cluster.wait_until(lambda: len(job.pods()) == 2, "the gang to be created", 20, 0.05)
    job.patch({"suspend": True})
    job.wait_phase("Suspended")
    cluster.wait_until(lambda: not job.pods(), "the pods to go", 20)

    job.patch({"suspend": False})
    job.wait_phase("Succeeded")
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()
