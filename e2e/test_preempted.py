"""Who is told that a worker will be taken away has the training save before, and loses no step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE
from e2e.support.events import events
from e2e.support.installation import Operator
from e2e.support.job import GPU, Job

pytestmark = pytest.mark.alone  # with whole nodes, and one of them left or all taken
WHOLE_NODE = 8
GRACE_SECONDS = 30
SAVES_ONLY_WHEN_ASKED: dict[str, Any] = {
    "steps": 20_000,
    "step_seconds": 0.05,
    "checkpoint_every": 20_000,
    "pod": {"terminationGracePeriodSeconds": GRACE_SECONDS},
}
ELASTIC = {"minWorkers": 2, "maxWorkers": 3, "faultyScaleDownTimeoutSeconds": 5}
GLOBAL_BATCH = {"globalBatchSize": 12}


def test_a_more_urgent_pod_takes_a_worker_that_the_gang_can_do_without(
    cluster: Cluster, job: Job, urgent: str, scavenger: str
) -> None:
    spec = {
        "elastic": {**ELASTIC, "extraPriorityClassName": scavenger},
        "parallelism": GLOBAL_BATCH,
    }
    job.apply(workers=3, accelerators=WHOLE_NODE, spec=spec, **SAVES_ONLY_WHEN_ASKED)
    job.wait_step(20)
    cluster.api.call(
        "POST", f"/api/v1/namespaces/{job.namespace}/pods", _urgent_pod(job.namespace, urgent)
    )
    status = job.wait_attempt(2)
    assert status["attempt"]["worldSize"] == 2
    assert [slot.get("rank", -1) for slot in status["slots"]] == [0, 1, -1], "the extra one went"
    _assert_nothing_was_lost(job, "Preempted")
    cluster.api.call("DELETE", f"/api/v1/namespaces/{job.namespace}/pods/urgent")


def test_a_drained_node_is_left_with_all_work_saved(
    cluster: Cluster, operator: Operator, job: Job, record_property: Callable[[str, object], None]
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, **SAVES_ONLY_WHEN_ASKED)
    job.wait_step(20)
    slot = job.slot_away_from(operator.leader_node())
    node = job.node_of(slot)
    began = time.monotonic()
    with _drained(cluster, node):
        job.wait_attempt(2)
        record_property("seconds from the drain to the next attempt", f"{_since(began):.1f}")
        assert job.node_of(slot) != node
        _assert_nothing_was_lost(job, "NodeDraining")


def test_a_spot_node_that_is_reclaimed_is_left_before_it_goes(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, **SAVES_ONLY_WHEN_ASKED)
    job.wait_step(20)
    slot = job.slot_away_from(operator.leader_node())
    node = job.node_of(slot)
    taint = "aws-node-termination-handler/spot-itn"
    cluster.kubectl("taint", "node", node, f"{taint}=event-1:NoSchedule")
    try:
        job.wait_attempt(2)
        assert job.node_of(slot) != node
        _assert_nothing_was_lost(job, "NodeReclaimed")
    finally:
        cluster.kubectl("taint", "node", node, f"{taint}-")


@pytest.fixture
def scavenger(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A priority class below that of all other pods."""
    path, name = "/apis/scheduling.k8s.io/v1/priorityclasses", f"{namespace}-low"
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": -10,
    }
    cluster.api.call("POST", path, body)
    yield name
    cluster.api.call("DELETE", f"{path}/{name}")


def _assert_nothing_was_lost(job: Job, reason: str) -> None:
    """Hold the job to a save before the end, a restart that nobody pays for, and no lost step."""
    attempt = job.status()["attempt"]
    job.wait_step(attempt["restoreStep"] + 20, attempt=2)
    status = job.status()
    assert status["attempt"]["number"] == 2
    assert status["recovery"].get("restarts", []) == []
    assert job.redone_steps(2) == 0
    assert {"SaveAsked", reason} <= {told for told, _ in events(job)}
    assert status["ledger"]["acceleratorMilliseconds"].get("detection", 0) == 0
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


@contextmanager
def _drained(cluster: Cluster, node: str) -> Iterator[None]:
    """Drain a node as an administrator does; it takes pods again at the end."""
    drain = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
    try:
        cluster.kubectl("drain", node, *drain)
        yield
    finally:
        cluster.kubectl("uncordon", node)


def _urgent_pod(namespace: str, priority_class: str) -> dict[str, Any]:
    sleeper = {
        "name": "sleeper",
        "image": WORKER_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "resources": {"limits": {GPU: str(WHOLE_NODE)}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent", "namespace": namespace},
        "spec": {
            "containers": [sleeper],
            "priorityClassName": priority_class,
            "terminationGracePeriodSeconds": 0,
        },
    }


def _since(moment: float) -> float:
    return time.monotonic() - moment
