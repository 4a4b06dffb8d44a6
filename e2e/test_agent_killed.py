"""Process 1 of a worker, our agent, is killed, and with it the container dies."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.support.job import Job

CHECKPOINT_EVERY = 20
STEPS = 120


def test_only_its_pod_is_replaced_and_the_user_does_not_pay(cluster: Cluster, job: Job) -> None:
    job.apply(steps=STEPS, step_seconds=0.05, checkpoint_every=CHECKPOINT_EVERY)
    job.wait_step(CHECKPOINT_EVERY + 5)
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in job.pods()}

    cluster.kill_pid1(job.namespace, "counter-1-0", container="trainer")
    job.wait_attempt(2)
    assert job.pod(1)["metadata"]["name"] == "counter-1-1"
    job.wait_phase("Succeeded")

    after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in job.pods()}
    for survivor in ("counter-0-0", "counter-2-0"):
        assert after[survivor] == before[survivor]
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert 0 <= job.redone_steps(2) <= CHECKPOINT_EVERY
    recovery = job.status()["recovery"]
    assert recovery["total"] == 1
    assert recovery.get("restarts", []) == []
