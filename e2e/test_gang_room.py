"""A gang does not fit at present."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE
from e2e.support.job import GPU, Job, condition_of

pytestmark = pytest.mark.alone

WHOLE_NODE = 8


def test_nothing_is_created_until_all_of_it_fits(cluster: Cluster, job: Job) -> None:
    nodes = len(cluster.nodes)
    with occupied(cluster, job.namespace, cluster.nodes[-1]):
        job.apply(workers=nodes, accelerators=WHOLE_NODE, steps=10, step_seconds=0.05)
        status = job.wait_reason("Admitted", "DoesNotFit", 20)
        message = condition_of(status, "Admitted")["message"]
        assert f"needs {nodes} workers × {WHOLE_NODE} {GPU}; {nodes - 1} fit" in message
        assert f"{cluster.nodes[-1]} has 4 free" in message
        assert job.status()["phase"] == "Queued"
        assert job.pods() == []
    job.wait_phase("Succeeded")

    assert {job.node_of(slot) for slot in range(nodes)} == set(cluster.nodes)
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()
    assert job.ledger()["queued"] > 0


def test_a_gang_that_can_never_fit_says_so(cluster: Cluster, job: Job) -> None:
    nodes = len(cluster.nodes)
    job.apply(workers=nodes + 1, accelerators=WHOLE_NODE, spec={"startDeadlineSeconds": 3})
    job.wait_phase("Failed", timeout_seconds=30)

    assert job.condition("Failed")["reason"] == "StartDeadlineExceeded"
    assert f"{nodes} fit" in job.condition("Failed")["message"]
    assert job.pods() == []
    job.assert_every_second_is_accounted_for()


@contextmanager
def occupied(cluster: Cluster, namespace: str, node: str) -> Iterator[None]:
    """Have somebody else's pod use half of a node's accelerators."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "somebody"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "for-ever",
                    "image": WORKER_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": ["sleep", "infinity"],
                    "resources": {"limits": {GPU: "4"}},
                }
            ],
        },
    }
    pods = f"/api/v1/namespaces/{namespace}/pods"
    cluster.api.call("POST", pods, body)
    try:
        yield
    finally:
        cluster.api.call("DELETE", f"{pods}/somebody")
