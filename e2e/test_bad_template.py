"""The template cannot work: nothing is started from it, and the condition says why."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.cluster.api import ApiError
from e2e.support.events import events
from e2e.support.job import Job, condition_of

KUBELET_SECONDS = 40
"""It tells why a container does not start only when it tries again, 10 to 15 s later."""

ASKED_AGAIN_SECONDS = 60
"""What the API server says of a template is asked so often, while it refuses it."""


@pytest.mark.parametrize(
    ("container", "words"),
    [
        pytest.param(
            {"command": None, "args": None},
            "containers: Required value: the training container needs a command",
            id="the trainer has no command",
        ),
        pytest.param(
            {"env": [{"name": "GOODPUT_ATTEMPT", "value": "7"}]},
            r"env\[0\].name: Forbidden: variables that begin with GOODPUT_ are set by Goodput",
            id="it sets what is ours",
        ),
    ],
)
def test_what_concerns_us_is_refused_when_the_job_is_created(
    job: Job, container: dict[str, Any], words: str
) -> None:
    with pytest.raises(ApiError, match=words):
        job.apply(container=container)


def test_a_template_that_the_api_server_rejects_starts_nothing_and_can_be_corrected(
    job: Job,
) -> None:
    job.apply(workers=2, steps=10, step_seconds=0.05, container={"imagePullPolicy": "Sometimes"})
    job.wait_for(lambda _: job.condition("TemplateValid")["status"] == "False", "the refusal", 20)

    assert 'Unsupported value: "Sometimes"' in job.condition("TemplateValid")["message"]
    assert job.condition("Admitted")["reason"] == "TemplateInvalid"
    assert job.status()["phase"] == "Invalid"
    assert job.pods() == []
    assert [reason for reason, _ in events(job)] == ["TemplateInvalid"]

    template = job.read()["spec"]["template"]
    template["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    job.patch({"suspend": True})
    job.wait_phase("Suspended")
    job.patch({"suspend": False, "template": template})
    job.wait_phase("Succeeded")
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()


def test_an_account_that_is_not_there_is_named_and_the_job_starts_once_it_is(
    cluster: Cluster, job: Job
) -> None:
    job.apply(workers=2, steps=10, step_seconds=0.05, pod={"serviceAccountName": "trainer"})
    job.wait_phase("Invalid")
    assert 'serviceaccount "trainer" not found' in job.condition("TemplateValid")["message"]
    assert job.pods() == []

    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "trainer"}}
    cluster.api.call("POST", f"/api/v1/namespaces/{job.namespace}/serviceaccounts", account)
    job.wait_phase("Succeeded", timeout_seconds=ASKED_AGAIN_SECONDS + 60)
    job.assert_succeeded(10)
    job.assert_every_second_is_accounted_for()


def test_a_namespace_that_does_not_allow_such_pods_says_what_it_misses(
    cluster: Cluster, job: Job
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    path = f"/api/v1/namespaces/{job.namespace}"
    body = {"metadata": {"labels": label}}
    cluster.api.call("PATCH", path, body, content_type="application/merge-patch+json")
    job.apply(workers=2)
    job.wait_phase("Invalid")
    assert 'violates PodSecurity "restricted' in job.condition("TemplateValid")["message"]
    assert job.pods() == []
    assert [reason for reason, _ in events(job)] == ["TemplateInvalid"]


def test_an_image_that_cannot_be_pulled_is_named_and_blocks_nobody(
    cluster: Cluster, job: Job
) -> None:
    job.apply(
        workers=2,
        container={"image": "goodput.local/none:dev"},
        spec={"gang": {"startTimeoutSeconds": KUBELET_SECONDS}},
    )
    status = job.wait_reason("Running", "ErrImageNeverPull", KUBELET_SECONDS)
    assert "goodput.local/none:dev" in condition_of(status, "Running")["message"]
    assert (status["phase"], status["reason"]) == ("Starting", "ErrImageNeverPull")

    cluster.wait_until(
        lambda: [pod["metadata"]["name"] for pod in job.pods()] == ["counter-0-1", "counter-1-1"],
        "the gang to be released and tried again",
        60,
    )
    (released,) = [message for reason, message in events(job) if reason == "StartTimeout"]
    assert "2 of 2 workers were not connected within spec.gang.startTimeoutSeconds" in released
    assert "goodput.local/none:dev" in released
    assert job.status()["recovery"]["startFailures"] == 1
    assert "publishedAt" not in job.status()["attempt"], "no process was ever started"
    job.assert_every_second_is_accounted_for()
