"""Two gangs want the same nodes."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.conftest import URGENT
from e2e.support.job import Job

WHOLE_NODE = 8


@pytest.mark.alone
def test_of_two_that_only_fit_one_after_the_other_one_waits_and_holds_nothing(
    cluster: Cluster, job: Job
) -> None:
    more_than_half = len(cluster.nodes) // 2 + 1
    jobs = [Job(cluster, job.namespace, name) for name in ("one", "two")]
    for one in jobs:
        one.apply(workers=more_than_half, accelerators=WHOLE_NODE, steps=40, step_seconds=0.1)
    cluster.wait_until(lambda: any(_runs(one) for one in jobs), "a gang to run", 30)
    (first,) = [one for one in jobs if one.pods()]
    (second,) = [one for one in jobs if not one.pods()]
    assert len(first.pods()) == more_than_half
    assert second.condition("Admitted")["reason"] == "DoesNotFit"
    assert second.status()["phase"] == "Queued"

    first.wait_phase("Succeeded")
    second.wait_phase("Succeeded")
    for one in jobs:
        one.assert_succeeded(40)
        one.assert_losses_agree()
        one.assert_every_second_is_accounted_for()
    assert second.ledger()["queued"] > first.ledger()["queued"]


def test_two_that_recover_at_once_do_not_hinder_each_other(cluster: Cluster, job: Job) -> None:
    jobs = [Job(cluster, job.namespace, name) for name in ("one", "two")]
    for one in jobs:
        one.apply(workers=2, steps=120, step_seconds=0.05, checkpoint_every=20)
    for one in jobs:
        one.wait_step(25)
    one, two = jobs
    survivor = two.pod(0)["metadata"]["uid"]
    before = one.pods()
    one.kill_rank(0)
    cluster.kubectl("delete", "pod", "-n", job.namespace, "two-1-0", "--wait=false")

    for either in jobs:
        either.wait_phase("Succeeded")
        either.assert_succeeded(120)
        either.assert_losses_agree()
        either.assert_every_second_is_accounted_for()
        assert either.status()["attempt"]["number"] == 2
    one.assert_pods_untouched(before)
    assert two.pod(0)["metadata"]["uid"] == survivor


@pytest.mark.alone
def test_of_two_that_wait_the_more_urgent_one_is_served_first(
    cluster: Cluster, job: Job, urgent: str
) -> None:
    nodes = len(cluster.nodes)
    first, late, soon = (Job(cluster, job.namespace, name) for name in ("first", "late", "soon"))
    first.apply(workers=nodes, accelerators=WHOLE_NODE, steps=60, step_seconds=0.1)
    first.wait_phase("Running")
    late.apply(workers=nodes, accelerators=WHOLE_NODE, steps=10)
    late.wait_phase("Queued")
    pod = {"priorityClassName": urgent}
    soon.apply(workers=nodes, accelerators=WHOLE_NODE, steps=10, pod=pod)
    soon.wait_phase("Queued")

    for one in (first, soon, late):
        one.wait_phase("Succeeded")
    assert soon.status()["priority"] == URGENT
    assert soon.status()["finishedAt"] < late.status()["startedAt"]


def _runs(job: Job) -> bool:
    return bool(job.condition("Running")["status"] == "True")
