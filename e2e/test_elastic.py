"""The gang loses a node for which there is no other, and is asked for other sizes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE
from e2e.support.diary import KEEPS_DIARY, written
from e2e.support.events import events
from e2e.support.faults import lost_node
from e2e.support.installation import Operator
from e2e.support.job import GPU, Job, Step, steps_of

WHOLE_NODE = 8
HALF_NODE = 4
GLOBAL_BATCH = 12
"""Of the counter: it divides by every size from one to four workers."""
ELASTIC = {
    "elastic": {"minWorkers": 1, "maxWorkers": 4, "faultyScaleDownTimeoutSeconds": 5},
    "parallelism": {"globalBatchSize": GLOBAL_BATCH},
}


@pytest.mark.alone
def test_a_gang_goes_on_without_a_lost_node_and_grows_again_when_it_is_back(
    cluster: Cluster, operator: Operator, job: Job, record_property: Callable[[str, object], None]
) -> None:
    lost_on, other = [node for node in cluster.nodes if node != operator.leader_node()]
    with _taken(cluster, job, {lost_on: HALF_NODE, other: HALF_NODE}):  # of 8, 4 and 4
        job.apply(
            workers=3,
            accelerators=HALF_NODE,
            steps=20_000,
            step_seconds=0.05,
            checkpoint_every=20,
            spec=ELASTIC,
            container=KEEPS_DIARY,
        )
        job.wait_step(20)
        _scale(cluster, job, 4)  # and so the operator learns what a change of size costs this job
        job.wait_step(job.wait_attempt(2)["attempt"]["restoreStep"] + 20, attempt=2)
        [lost] = [slot for slot in range(4) if job.node_of(slot) == lost_on]
        survivors = {pod["metadata"]["uid"] for pod in job.pods()}
        survivors.remove(job.pod(lost)["metadata"]["uid"])

        lost_at = time.monotonic()
        with lost_node(cluster, lost_on):
            status = job.wait_attempt(3)
            record_property("seconds from the loss to the smaller gang", _since(lost_at))
            assert status["attempt"]["worldSize"] == 3
            assert status["workers"]["text"] == "3/4"
            assert job.condition("Degraded")["reason"] == "ShrunkToFit"
            assert survivors <= {pod["metadata"]["uid"] for pod in job.pods()}
            job.wait_step(status["attempt"]["restoreStep"] + 20, attempt=3)

        back_at = time.monotonic()
        status = job.wait_attempt(4)
        record_property("seconds from the node's return to the larger gang", _since(back_at))
        assert status["attempt"]["worldSize"] == 4
        assert survivors <= {pod["metadata"]["uid"] for pod in job.pods()}
        job.wait_step(status["attempt"]["restoreStep"] + 20, attempt=4)
        assert job.redone_steps(4) == 0, "growth loses no step"
        assert job.status()["recovery"].get("restarts", []) == []
        assert job.ledger()["degraded"] > 0
        _assert_trained_as_if_undisturbed(job)
        _assert_every_sample_was_learned_once(job)


def test_kubectl_scale_changes_the_size_and_loses_no_step(cluster: Cluster, job: Job) -> None:
    job.apply(workers=4, accelerators=1, steps=2000, step_seconds=0.05, spec=ELASTIC)
    job.wait_step(20)
    for attempt, size in ((2, 2), (3, 4)):
        _scale(cluster, job, size)
        status = job.wait_attempt(attempt)
        assert status["attempt"]["worldSize"] == size
        job.wait_step(status["attempt"]["restoreStep"] + 20, attempt=attempt)
        assert job.redone_steps(attempt) == 0
    assert len(job.pods()) == 4
    _assert_trained_as_if_undisturbed(job)


@pytest.mark.alone
def test_a_gang_that_does_not_fit_starts_at_the_size_that_does(cluster: Cluster, job: Job) -> None:
    with _taken(cluster, job, {cluster.nodes[0]: WHOLE_NODE}):
        job.apply(workers=3, accelerators=WHOLE_NODE, steps=2000, step_seconds=0.05, spec=ELASTIC)
        status = job.wait_attempt(1)
        assert status["attempt"]["worldSize"] == 2
        assert len([pod for pod in job.pods() if pod["spec"].get("nodeName")]) == 2


def test_growth_that_cannot_come_leaves_the_training_alone(cluster: Cluster, job: Job) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}}
    quotas = f"/api/v1/namespaces/{job.namespace}/resourcequotas"
    job.apply(workers=2, accelerators=1, steps=2000, step_seconds=0.05, spec=ELASTIC)
    job.wait_step(20)
    cluster.api.call("POST", quotas, {**quota, "spec": {"hard": {"pods": "2"}}})
    _scale(cluster, job, 4)
    job.wait_for(lambda _: _told(job, "GrowthFailed"), "the refusal to be told", 30)
    before = job.steps(0)[-1].step
    job.wait_step(before + 50)
    status = job.status()
    assert (status["attempt"]["number"], status["attempt"]["worldSize"]) == (1, 2)
    assert len(job.pods()) == 2


def test_a_checkpoint_that_cannot_be_resharded_brings_the_old_size_back(
    cluster: Cluster, job: Job
) -> None:
    job.apply(
        workers=2,
        steps=2000,
        step_seconds=0.05,
        arguments=("--same-size",),
        spec=ELASTIC,
    )
    job.wait_step(20)
    _scale(cluster, job, 3)
    status = job.wait_attempt(3)
    assert status["attempt"]["worldSize"] == 2
    assert [one["reason"] for one in status["recovery"]["restarts"]] == ["CannotReshard"]
    [told] = [message for reason, message in events(job) if reason == "CannotReshard"]
    assert "was saved by 2 ranks and cannot be loaded by 3" in told
    saved = status["attempt"]["restoreStep"]
    job.wait_step(saved + 50, attempt=3)
    assert job.status()["attempt"]["number"] == 3, "it is not tried again"
    _assert_trained_as_if_undisturbed(job)


@pytest.mark.alone
def test_a_worker_that_must_make_room_for_a_more_urgent_pod_is_done_without(
    cluster: Cluster, job: Job, urgent: str
) -> None:
    job.apply(workers=3, accelerators=WHOLE_NODE, steps=2000, step_seconds=0.05, spec=ELASTIC)
    job.wait_step(20)
    body = _pod(job, "urgent", WHOLE_NODE)
    body["spec"]["priorityClassName"] = urgent
    cluster.api.call("POST", f"/api/v1/namespaces/{job.namespace}/pods", body)
    status = job.wait_attempt(2)
    assert status["attempt"]["worldSize"] == 2
    assert status["recovery"].get("restarts", []) == [], "a preemption is not charged"
    job.wait_step(status["attempt"]["restoreStep"] + 20, attempt=2)
    _assert_trained_as_if_undisturbed(job)
    job.assert_every_second_is_accounted_for()


def _assert_trained_as_if_undisturbed(job: Job) -> None:
    """Hold the losses to those of a run that nothing ever happened to, to the digit.

    The loss of a step is made of the weight of every sample up to it: one that was skipped, or
    taken twice, would show in all that follow.
    """
    logs = [job.logs(pod["metadata"]["name"]) for pod in job.pods()]
    losses = {line.step: line.loss for log in logs for line in steps_of(log)}
    learned = 0
    for step in range(1, max(losses) + 1):
        samples = range((step - 1) * GLOBAL_BATCH, step * GLOBAL_BATCH)
        learned += sum(1 + sample * 2654435761 % 1000 for sample in samples)
        if step in losses:
            assert losses[step] == round(5 / (1 + learned / 100_000), 6), f"step {step} of {job}"
    job.assert_losses_agree()


def _assert_every_sample_was_learned_once(job: Job) -> None:
    """Hold the trainers' own words, with those of the lost one, to the row of samples.

    What an attempt did after the step from which the next went on was forgotten with its weights,
    and does not count.
    """
    said = written(job)
    begins = {line.attempt: line.step for line in sorted(said, key=_by_step, reverse=True)}
    kept = [
        line
        for line in said
        if all(line.step < begin for attempt, begin in begins.items() if attempt > line.attempt)
    ]
    whole = min(max(line.step for line in kept if line.rank == rank) for rank in range(4))
    learned = Counter(sample for line in kept if line.step <= whole for sample in line.samples)
    assert len(begins) == 4
    assert learned == Counter(range(whole * GLOBAL_BATCH))


def _by_step(line: Step) -> int:
    return line.step


def _scale(cluster: Cluster, job: Job, workers: int) -> None:
    cluster.kubectl("scale", "gtj", job.name, "-n", job.namespace, f"--replicas={workers}")


def _told(job: Job, reason: str) -> bool:
    return any(one == reason for one, _ in events(job))


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.1f}"


@contextmanager
def _taken(cluster: Cluster, job: Job, accelerators: Mapping[str, int]) -> Iterator[None]:
    """Let pods of somebody else have so many accelerators of these nodes."""
    pods = f"/api/v1/namespaces/{job.namespace}/pods"
    for node, count in accelerators.items():
        body = _pod(job, f"other-{node}", count)
        body["spec"]["nodeName"] = node
        cluster.api.call("POST", pods, body)
    cluster.wait_until(
        lambda: all(
            cluster.api.call("GET", f"{pods}/other-{node}")["status"]["phase"] == "Running"
            for node in accelerators
        ),
        "the other pods to run",
        20,
    )
    yield
    for node in accelerators:
        cluster.api.call("DELETE", f"{pods}/other-{node}", {"gracePeriodSeconds": 0})


def _pod(job: Job, name: str, accelerators: int) -> dict[str, Any]:
    sleeper = {
        "name": "sleeper",
        "image": WORKER_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import time; time.sleep(3600)"],
        "resources": {"limits": {GPU: str(accelerators)}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": job.namespace},
        "spec": {"containers": [sleeper], "terminationGracePeriodSeconds": 0},
    }
