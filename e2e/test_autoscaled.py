"""A HorizontalPodAutoscaler sets the size of an elastic job."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.support.external_metrics import METRIC, external_metric
from e2e.support.job import Job

pytestmark = pytest.mark.alone  # there is one External Metrics API for all

ELASTIC = {
    "elastic": {"minWorkers": 1, "maxWorkers": 4},
    "parallelism": {"globalBatchSize": 12},
}


def test_an_autoscaler_sets_the_size_and_no_step_is_lost(
    cluster: Cluster, job: Job, tmp_path: Path
) -> None:
    with external_metric(cluster, job.namespace, tmp_path, value=2) as wanted:
        job.apply(workers=2, steps=20_000, step_seconds=0.05, spec=ELASTIC)
        autoscale(cluster, job)
        job.wait_step(20)
        for attempt, size in ((2, 4), (3, 1)):
            wanted.value = size
            status = job.wait_attempt(attempt)
            assert status["attempt"]["worldSize"] == size
            job.wait_step(status["attempt"]["restoreStep"] + 20, attempt=attempt)
            assert job.redone_steps(attempt) == 0
        job.assert_losses_agree()


def autoscale(cluster: Cluster, job: Job) -> None:
    """Have the metric be the number of workers, at once."""
    target = {"type": "AverageValue", "averageValue": "1"}
    at_once = {"stabilizationWindowSeconds": 0}
    body = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": job.name},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "goodput.training/v1alpha1",
                "kind": "TrainingJob",
                "name": job.name,
            },
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": {"name": METRIC}, "target": target},
                }
            ],
            "behavior": {"scaleUp": at_once, "scaleDown": at_once},
        },
    }
    path = f"/apis/autoscaling/v2/namespaces/{job.namespace}/horizontalpodautoscalers"
    cluster.api.call("POST", path, body)
