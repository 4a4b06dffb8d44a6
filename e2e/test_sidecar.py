"""The template has containers beside the trainer that never end."""

from __future__ import annotations

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE
from e2e.support.job import Job

FOR_EVER = {
    "name": "for-ever",
    "image": WORKER_IMAGE,
    "imagePullPolicy": "Never",
    "command": ["sleep", "infinity"],
    "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
}


def test_the_job_succeeds_and_the_policy_says_which_pods_stay(job: Job, cluster: Cluster) -> None:
    running, none, every = (
        Job(cluster, job.namespace, policy.lower()).apply(
            workers=1,
            steps=10,
            step_seconds=0.05,
            spec={"cleanPodPolicy": policy},
            beside=(FOR_EVER,),
        )
        for policy in ("Running", "None", "All")
    )
    for one in (running, none, every):
        one.wait_phase("Succeeded")
        one.assert_succeeded(10)
        one.assert_every_second_is_accounted_for()

    cluster.wait_until(lambda: not running.pods() + every.pods(), "their pods to go", 40)
    (standing,) = none.pods()
    assert standing["status"]["phase"] == "Running"
    assert "deletionTimestamp" not in standing["metadata"]


def test_without_one_only_the_policy_all_takes_the_logs_away(job: Job, cluster: Cluster) -> None:
    running, every = (
        Job(cluster, job.namespace, policy.lower()).apply(
            workers=1, steps=10, step_seconds=0.05, spec={"cleanPodPolicy": policy}
        )
        for policy in ("Running", "All")
    )
    for one in (running, every):
        one.wait_phase("Succeeded")

    cluster.wait_until(lambda: not every.pods(), "all pods to be deleted", 30)
    assert [step.step for step in running.steps(0)] == list(range(1, 11))
