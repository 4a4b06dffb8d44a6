"""Somebody edits a job, or a pod of it, at the wrong moment."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.cluster.api import ApiError
from e2e.support.job import Job


def test_a_worker_that_lost_its_labels_is_made_anew_when_the_next_attempt_forms(
    cluster: Cluster, job: Job
) -> None:
    job.apply(workers=2, steps=150, step_seconds=0.05, checkpoint_every=20)
    job.wait_step(20)
    before = _uids(cluster, job.namespace)
    _take_labels_off(cluster, job)
    job.kill_rank(1)
    job.wait_phase("Succeeded")

    after = _uids(cluster, job.namespace)
    assert after["counter-1-0"] == before["counter-1-0"]
    assert len(after) == 2
    assert before["counter-0-0"] not in after.values()
    job.assert_succeeded(150)
    job.assert_every_second_is_accounted_for()


def test_a_worker_that_lost_its_labels_while_the_gang_formed_is_made_anew(
    cluster: Cluster, job: Job
) -> None:
    job.apply(workers=2, steps=20, step_seconds=0.05)
    cluster.wait_until(lambda: len(job.pods()) == 2, "the gang to be created", 20, 0.05)
    _take_labels_off(cluster, job)
    job.wait_phase("Succeeded")

    assert len(_uids(cluster, job.namespace)) == 2
    job.assert_succeeded(20)
    job.assert_every_second_is_accounted_for()


def _take_labels_off(cluster: Cluster, job: Job) -> None:
    name = job.pod(0)["metadata"]["name"]
    labels = ("goodput.training/job-", "app.kubernetes.io/managed-by-", "goodput.training/slot-")
    cluster.kubectl("label", "pod", "-n", job.namespace, name, *labels)


def _uids(cluster: Cluster, namespace: str) -> dict[str, str]:
    pods = cluster.api.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def test_a_job_edited_while_its_attempt_forms_takes_what_is_allowed_and_nothing_else(
    cluster: Cluster, job: Job
) -> None:
    job.apply(workers=2, steps=20, step_seconds=0.05)
    cluster.wait_until(lambda: len(job.pods()) == 2, "the gang to be created", 20, 0.05)

    with pytest.raises(ApiError, match="workers can change only while the job is suspended"):
        job.patch({"workers": 3})
    job.patch({"recovery": {"maxRestarts": 3}, "gang": {"startTimeoutSeconds": 60}})
    before = job.pods()
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    job.assert_succeeded(20)
    assert job.status()["observedGeneration"] == job.read()["metadata"]["generation"] == 2


def test_two_jobs_of_one_name_in_two_namespaces_know_nothing_of_each_other(
    cluster: Cluster, job: Job, other_namespace: str
) -> None:
    other = Job(cluster, other_namespace, job.name)
    job.apply(workers=2, steps=100, step_seconds=0.05, checkpoint_every=20)
    other.apply(workers=1, steps=100, step_seconds=0.05, checkpoint_every=20)
    job.wait_step(25)
    other.wait_step(25)
    job.kill_rank(1)

    for one, attempts in ((job, 2), (other, 1)):
        one.wait_phase("Succeeded")
        one.assert_succeeded(100)
        one.assert_losses_agree()
        one.assert_every_second_is_accounted_for()
        assert one.status()["attempt"]["number"] == attempts
    assert [len(one.pods()) for one in (job, other)] == [2, 1]
