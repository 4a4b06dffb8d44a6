"""Real tokens, as the kubelet asks for them, against a real API server's TokenReview."""

import asyncio
import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from goodput.protocol import TOKEN_AUDIENCE, SyncRequest
from goodput_operator import names
from goodput_operator.effects.gateway import Gateway
from goodput_operator.observe.agents import PodIdentity, pod_identity
from goodput_operator.reports.auth import Gate
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.replies import Reply
from goodput_operator.reports.store import AgentStore

ACCOUNT = "trainer"


class Workers:
    """Worker pods that are never scheduled, and tokens for them."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.kubeconfig, self.api, self.namespace = cluster.kubeconfig, cluster.api, namespace
        self.pods: dict[str, Mapping[str, Any]] = {}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}
        self.api.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)

    def create(self, slot: int) -> PodIdentity:
        labels = {
            names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
            names.LABEL_JOB: "gpt",
            names.LABEL_SLOT: str(slot),
            names.LABEL_INCARNATION: "1",
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": names.pod_name("gpt", slot, 1), "labels": labels},
            "spec": {
                "serviceAccountName": ACCOUNT,
                "schedulingGates": [{"name": "goodput.training/never"}],
                "containers": [{"name": "trainer", "image": "none"}],
            },
        }
        created = self.api.call("POST", f"/api/v1/namespaces/{self.namespace}/pods", pod)
        self.pods[created["metadata"]["name"]] = created
        identity = pod_identity(created)
        assert identity is not None
        return identity

    def delete(self, pod: PodIdentity) -> None:
        """Delete it for good; our view of it stays as it was."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}"
        self.api.call("DELETE", path, {"gracePeriodSeconds": 0})

    def token(self, pod: PodIdentity | None, audience: str = TOKEN_AUDIENCE) -> str:
        """What the kubelet would project into the pod; None: a token of the account alone."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
        if pod is not None:
            bound = {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid}
            spec["boundObjectRef"] = bound
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{ACCOUNT}/token"
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.api.call("POST", path, review)["status"]["token"])

    def known(self, namespace: str, name: str) -> PodIdentity | None:
        pod = self.pods.get(name)
        return pod_identity(pod) if pod is not None and namespace == self.namespace else None

    def say(self, pod: PodIdentity, token: str) -> Reply:
        """Report as `pod` with `token` to an endpoint that has never heard of either."""

        async def story() -> Reply:
            gateway = await Gateway.connect(kubeconfig=str(self.kubeconfig))
            replied: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            review = functools.partial(gateway.review_token, audience=TOKEN_AUDIENCE)
            gate = Gate(self.known, review, lambda: datetime.now(UTC))
            handler = SyncHandler(AgentStore(lambda _: None), gate, lambda: datetime.now(UTC))
            handler.lead()
            body = SyncRequest(pod.slot, pod.incarnation, sequence=1, sent_at=0).to_json()
            handler.receive(token, "10.0.0.1", body, replied.set_result)
            try:
                return await asyncio.wait_for(replied, 10)
            finally:
                await handler.close()
                await gateway.close()

        return asyncio.run(story())


@pytest.fixture
def workers(cluster: Cluster, namespace: str) -> Workers:
    return Workers(cluster, namespace)


def test_the_token_of_a_worker_pod_is_believed(workers: Workers) -> None:
    pod = workers.create(0)
    assert workers.say(pod, workers.token(pod)).status == 200


def test_the_token_of_another_worker_speaks_for_that_worker_only(workers: Workers) -> None:
    pod, other = workers.create(0), workers.create(1)
    assert workers.say(pod, workers.token(other)).status == 403


def test_a_token_for_the_api_server_is_not_for_us(workers: Workers) -> None:
    pod = workers.create(0)
    token = workers.token(pod, audience="https://kubernetes.default.svc")
    assert workers.say(pod, token).status == 401


def test_a_token_that_is_bound_to_no_pod_is_nobodys(workers: Workers) -> None:
    pod = workers.create(0)
    assert workers.say(pod, workers.token(None)).status == 401


def test_genuine_claims_under_another_signature_are_found_out(workers: Workers) -> None:
    pod = workers.create(0)
    head, payload, _ = workers.token(pod).split(".")
    signature = workers.token(workers.create(1)).rpartition(".")[2]
    assert workers.say(pod, f"{head}.{payload}.{signature}").status == 401


def test_the_token_of_a_deleted_pod_is_refused_even_where_our_view_is_old(
    workers: Workers,
) -> None:
    pod = workers.create(0)
    token = workers.token(pod)
    workers.delete(pod)
    assert workers.known(pod.namespace, pod.name) == pod
    assert workers.say(pod, token).status == 401
