"""A quota refuses a gang when half of it is created."""

from __future__ import annotations

from typing import Any

from e2e.cluster import Cluster
from e2e.cluster.api import MERGE_PATCH
from e2e.support.job import Job, condition_of


def test_the_half_gang_is_released_and_tried_again_until_the_quota_lets_it_in(
    cluster: Cluster, job: Job
) -> None:
    quotas = f"/api/v1/namespaces/{job.namespace}/resourcequotas"
    cluster.api.call("POST", quotas, _quota(2))
    job.apply(workers=3, steps=10, step_seconds=0.05, spec={"recovery": {"backoffSeconds": 2}})
    status = job.wait_reason("Admitted", "CreateRefused")
    message = condition_of(status, "Admitted")["message"]
    assert "exceeded quota: two-thirds" in message
    assert "limited: pods=2" in message
    cluster.wait_until(lambda: not job.pods(), "the half gang to be released", 20, 0.05)
    assert job.status()["attempt"]["number"] == 1, "no process was ever started"

    cluster.api.call("PATCH", f"{quotas}/two-thirds", {"spec": _quota(3)["spec"]}, MERGE_PATCH)
    job.wait_phase("Succeeded")
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()


def _quota(pods: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "two-thirds"},
        "spec": {"hard": {"pods": str(pods)}},
    }
