"""The leader's process is killed in the middle of its work, and the standby goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE
from e2e.support.faults import lost_node
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

WHOLE_NODE = 8
NEVER_A_STEP = {"command": ["python3", "-c", "raise SystemExit('no data')"], "args": []}
TWO_RESTARTS = {"recovery": {"maxRestarts": 2, "backoffSeconds": 10}}
SLOW = {
    "name": "slow",
    "image": WORKER_IMAGE,
    "imagePullPolicy": "Never",
    "command": ["sleep", "15"],
}

Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _whole_operator(operator: Operator) -> Iterator[None]:
    """Begin and end with both replicas Ready: a killed one restarts with a back-off."""
    operator.mend()
    yield
    operator.mend()


def test_the_standby_finishes_what_the_killed_leader_had_begun_and_training_never_stops(
    cluster: Cluster, operator: Operator, namespace: str, record_property: Record
) -> None:
    def begin(name: str, steps: int, **more: Any) -> Job:
        return Job(cluster, namespace, name).apply(workers=2, steps=steps, **more)

    training, failing = begin("training", 400), begin("failing", 300)
    agentless, podless = begin("agentless", 300), begin("podless", 300)
    suspending, deleted = begin("suspending", 9999), begin("deleted", 9999)
    for job in (training, failing, agentless, podless, suspending, deleted):
        job.wait_step(20)
    waiting = begin("waiting", 30, accelerators=WHOLE_NODE)
    waiting.wait_reason("Admitted", "DoesNotFit", 20)
    untouched = {job: job.pods() for job in (training, failing)}
    forming = begin("forming", 30, pod={"initContainers": [SLOW]})
    forming.wait_for(lambda status: status.get("attempt"), "a gang to form")
    looping = begin("looping", 30, container=NEVER_A_STEP, spec=TWO_RESTARTS)
    looping.wait_for(lambda status: status.get("recovery", {}).get("total"), "its first failure")
    starting = begin("starting", 30)
    starting.wait_for(_is_published, "the world to be published")

    suspending.patch({"suspend": True})
    deleted.delete()
    failing.kill_rank(1)
    cluster.kill_pid1(namespace, "agentless-1-0", container="trainer")
    gone = ("podless-1-0", "--grace-period=1", "--wait=false")
    cluster.kubectl("delete", "pod", "-n", namespace, *gone)
    former, killed_at = operator.kill_leader(), time.monotonic()
    assert _attempt(forming)["state"] == "Forming"
    seen = training.steps(0)[-1].step
    operator.wait_successor(former, timeout_seconds=15)
    record_property("seconds without a leader", f"{time.monotonic() - killed_at:.1f}")
    assert training.steps(0)[-1].step > seen + 50, "training stood while nobody led"

    cluster.wait_until(lambda: not (deleted.exists() or deleted.pods()), "the deletion", 30)
    suspending.wait_phase("Suspended")
    cluster.wait_until(lambda: not suspending.pods(), "the suspended pods to go", 30)
    for job, attempt, restarts in (
        (forming, 1, 0),
        (starting, 1, 0),
        (failing, 2, 1),
        (agentless, 2, 1),
        (podless, 2, 1),
        (training, 1, 0),
        (waiting, 1, 0),
    ):
        job.wait_phase("Succeeded")
        assert _attempt(job)["number"] == attempt
        assert job.status()["recovery"].get("total", 0) == restarts
        job.assert_losses_agree()
        job.assert_every_second_is_accounted_for()
    for job, pods in untouched.items():
        job.assert_pods_untouched(pods)
    assert 0 <= failing.redone_steps(2) <= 10
    for job in (agentless, podless):
        assert 0 <= job.redone_steps(2) <= 10
        assert job.status()["recovery"].get("restarts", []) == [], "no fault of the user's"
    looping.wait_phase("Failed")
    assert _attempt(looping)["number"] == 3
    assert "no data" in looping.condition("Failed")["message"]
    assert suspending.status()["recovery"].get("total", 0) == 0
    suspending.assert_every_second_is_accounted_for()


def test_a_worker_whose_replacement_had_begun_is_replaced_once(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, steps=120)
    job.wait_step(20)
    lost = job.slot_away_from(operator.leader_node())
    survivor_uid = job.pod(1 - lost)["metadata"]["uid"]

    with lost_node(cluster, job.node_of(lost)):
        job.wait_for(lambda status: status["attempt"]["state"] != "Running", "the decision")
        operator.kill_leader()
        _assert_replaced_once(job, lost, survivor_uid)


def test_a_node_that_takes_a_worker_and_the_leader_with_it_costs_one_attempt(
    cluster: Cluster, operator: Operator, job: Job, record_property: Record
) -> None:
    former, leader_node = operator.holder(), operator.leader_node()
    spare = next(node for node in cluster.nodes if node not in operator.nodes().values())
    with _cordoned(cluster, spare):
        job.apply(workers=2, accelerators=WHOLE_NODE, steps=120)
        job.wait_step(20)
    lost = 1 if job.node_of(1) == leader_node else 0
    assert job.node_of(lost) == leader_node
    survivor_uid = job.pod(1 - lost)["metadata"]["uid"]

    lost_at = time.monotonic()
    with lost_node(cluster, leader_node):
        operator.wait_successor(former, timeout_seconds=15)
        record_property("seconds without a leader", f"{time.monotonic() - lost_at:.1f}")
        job.wait_attempt(2)
        record_property(
            "seconds from the loss to the next attempt", f"{time.monotonic() - lost_at:.1f}"
        )
        _assert_replaced_once(job, lost, survivor_uid)


def _assert_replaced_once(job: Job, lost: int, survivor_uid: str) -> None:
    job.wait_phase("Succeeded")
    assert _attempt(job)["number"] == 2
    assert job.status()["recovery"]["total"] == 1
    assert job.pod(lost)["metadata"]["name"] == f"{job.name}-{lost}-1"
    assert job.pod(1 - lost)["metadata"]["uid"] == survivor_uid
    assert 0 <= job.redone_steps(2) <= 10
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


@contextmanager
def _cordoned(cluster: Cluster, node: str) -> Iterator[None]:
    cluster.kubectl("cordon", node)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", node)


def _attempt(job: Job) -> dict[str, Any]:
    attempt: dict[str, Any] = job.status()["attempt"]
    return attempt


def _is_published(status: dict[str, Any]) -> bool:
    attempt = status.get("attempt") or {}
    return attempt.get("state") in ("Starting", "Running")
