"""The operator is updated, or its node is cut off, while jobs train."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.support.faults import partitioned
from e2e.support.installation import Operator
from e2e.support.job import Job, avoiding

pytestmark = pytest.mark.alone

STEPS = 300


def test_an_update_of_the_operator_disturbs_no_training(operator: Operator, job: Job) -> None:
    """Both replicas are replaced, so the agents follow the lead at least once."""
    job.apply(workers=2, steps=STEPS)
    job.wait_step(20)
    before, former = job.pods(), operator.holder()
    operator.restart()
    operator.wait_successor(former)
    attempt = job.status()["attempt"]
    assert (attempt["number"], attempt["state"]) == (1, "Running")
    seen = job.status()["progress"]["step"]
    job.wait_for(lambda status: status["progress"]["step"] > seen, "the new leader to hear steps")

    job.wait_phase("Succeeded")
    job.assert_succeeded(STEPS)
    job.assert_pods_untouched(before)
    assert job.status()["attempt"]["number"] == 1
    assert job.status()["recovery"].get("total", 0) == 0
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def test_a_leader_that_is_cut_off_gives_way_and_does_no_harm(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    former, leader_node = operator.holder(), operator.leader_node()
    job.apply(workers=2, steps=STEPS, pod=avoiding(leader_node))
    job.wait_step(20)
    before = job.pods()

    with partitioned(cluster, leader_node):
        operator.wait_successor(former, timeout_seconds=15)
        seen = job.status()["progress"]["step"]
        job.wait_for(lambda status: status["progress"]["step"] > seen, "the successor to hear")
    cluster.wait_until(
        lambda: operator.holder().split("_")[0] != former.split("_")[0], "one leader", 10
    )

    job.wait_phase("Succeeded")
    job.assert_pods_untouched(before)
    assert job.status()["attempt"]["number"] == 1
    assert job.status()["recovery"].get("total", 0) == 0
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
