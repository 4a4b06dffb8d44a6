"""A job is applied again over the checkpoint directory of its former self."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.support.job import Job


def test_the_new_job_goes_on_from_the_old_one_and_above_its_attempts(
    cluster: Cluster, job: Job
) -> None:
    job.apply(workers=2, steps=60, step_seconds=0.05, checkpoint_every=20)
    job.wait_step(25)
    job.kill_rank(1)
    job.wait_phase("Succeeded")
    assert job.status()["attempt"]["number"] == 2
    old = {step.step: step.loss for step in job.steps(0)}
    job.delete()
    cluster.wait_until(lambda: not job.pods(), "the old pods to go", 30)

    job.apply(workers=2, steps=100, step_seconds=0.05, checkpoint_every=20)
    job.wait_phase("Succeeded")

    status, steps = job.status(), job.steps(0)
    assert status["attempt"]["number"] == 3, "an attempt above all that left something behind"
    assert status["attempt"]["restoreStep"] == 60
    assert [step.step for step in steps] == list(range(61, 101))
    assert steps[0].loss < old[60], "the loss goes on falling"
    assert status["recovery"]["total"] == 0
    job.assert_succeeded(100)
    job.assert_every_second_is_accounted_for()
