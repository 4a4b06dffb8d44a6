"""The operator may look after one namespace only, and sees no node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.support.installation import NAMESPACE, RELEASE, Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone
WHOLE_NODE = 8
STEPS = 200
START_SECONDS = 10


@pytest.fixture
def confined(operator: Operator, namespace: str) -> Iterator[Operator]:
    """The operator with rights in the test's own namespace; afterwards it has all again."""
    yield Operator.install(operator.cluster, {"watchNamespaces": [namespace]})
    Operator.install(operator.cluster)


def test_a_gang_recovers_where_no_node_may_be_seen(
    cluster: Cluster, confined: Operator, job: Job, other_namespace: str
) -> None:
    assert confined.leader() is not None
    assert [_may(cluster, verb, "nodes") for verb in ("list", "watch", "get")] == ["no"] * 3
    assert _may(cluster, "create", "pods", other_namespace) == "no"

    elsewhere = Job(cluster, other_namespace).apply(workers=1)
    job.apply(steps=STEPS, step_seconds=0.05, checkpoint_every=20)
    job.wait_step(25)
    assert not any(pod["spec"].get("affinity") for pod in job.pods()), "the scheduler places them"
    survivors = {slot: job.pod(slot)["metadata"]["uid"] for slot in (0, 2)}
    job.kill_rank(2)
    job.wait_step(job.wait_attempt(2)["attempt"]["restoreStep"] + 5, attempt=2)
    cluster.kubectl("delete", "pod", "-n", job.namespace, "counter-1-0", "--wait=false")
    job.wait_attempt(3)
    job.wait_phase("Succeeded")

    assert {slot: job.pod(slot)["metadata"]["uid"] for slot in (0, 2)} == survivors
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert elsewhere.read().get("status", {}) == {}, "it is nobody's business"


def test_a_gang_that_does_not_fit_is_let_go_after_its_time(
    cluster: Cluster, confined: Operator, job: Job
) -> None:
    assert confined.leader() is not None
    workers = len(cluster.nodes) + 1
    job.apply(
        workers=workers,
        accelerators=WHOLE_NODE,
        steps=10,
        spec={
            "gang": {"startTimeoutSeconds": START_SECONDS},
            "recovery": {"backoffSeconds": 1},
        },
    )
    status = job.wait_reason("Admitted", "StartTimeout")
    assert status["attempt"]["number"] == 1
    cluster.wait_until(lambda: not job.pods(), "the part that had started to be let go", 30)
    job.wait_for(lambda _: len(job.pods()) == workers, "the gang to be tried again", 60)
    assert job.status()["attempt"].get("publishedAt") is None, "no process was ever started"


def _may(cluster: Cluster, verb: str, what: str, namespace: str = "") -> str:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    where = ("-n", namespace) if namespace else ("--all-namespaces",)
    asked = ("auth", "can-i", verb, what, f"--as={account}", *where)
    return cluster.kubectl(*asked, check=False).strip()
