"""Somebody, or the cluster, deletes a worker's pod."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.support.events import events
from e2e.support.job import Job

CHECKPOINT_EVERY = 20
STEPS = 120


@pytest.mark.parametrize(
    "how",
    [
        pytest.param((), id="deleted, and its processes are asked to stop"),
        pytest.param(("--grace-period=0", "--force"), id="deleted by force"),
    ],
)
def test_only_that_pod_is_replaced_and_the_user_does_not_pay(
    cluster: Cluster, job: Job, how: tuple[str, ...]
) -> None:
    job.apply(steps=STEPS, step_seconds=0.05, checkpoint_every=CHECKPOINT_EVERY)
    job.wait_step(CHECKPOINT_EVERY + 5)
    survivors = {slot: job.pod(slot)["metadata"]["uid"] for slot in (0, 2)}

    cluster.kubectl("delete", "pod", "-n", job.namespace, "counter-1-0", "--wait=false", *how)
    job.wait_attempt(2)
    assert job.pod(1)["metadata"]["name"] == "counter-1-1"
    job.wait_phase("Succeeded")

    assert {slot: job.pod(slot)["metadata"]["uid"] for slot in (0, 2)} == survivors
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    recovery = job.status()["recovery"]
    assert recovery["total"] == 1
    assert recovery.get("restarts", []) == []
    assert {reason for reason, _ in events(job)} & {"PodDeleted", "PodGone"}
