"""A lost node comes back, and with it a worker whose place is taken: a zombie."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.support.faults import lost_node, partitioned
from e2e.support.installation import Operator
from e2e.support.job import Job, avoiding

pytestmark = pytest.mark.alone

WHOLE_NODE = 8


def test_a_worker_that_comes_back_joins_nothing_and_ends(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, steps=200, arguments=("--peer-lost=hang",))
    job.wait_step(20)
    lost = job.slot_away_from(operator.leader_node())
    zombie = job.pod(lost)

    with partitioned(cluster, zombie["spec"]["nodeName"]):
        job.wait_attempt(2)
        assert job.trainers(zombie), "the zombie should live on, unheard"
    cluster.wait_until(lambda: not job.trainers(zombie), "the zombie's processes to end", 20)
    cluster.wait_until(
        lambda: zombie["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in job.pods()},
        "the zombie's pod to go",
        30,
    )

    job.wait_phase("Succeeded")
    assert job.status()["attempt"]["number"] == 2, "the zombie's return disturbed the job"
    for slot in (0, 1):
        second = [step for step in job.steps(slot) if step.attempt == 2]
        assert [step.rank for step in second] == [slot] * len(second)
        assert [step.step for step in second] == list(range(second[0].step, 201))
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def test_what_a_zombie_gang_commits_is_never_restored(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    """A whole gang, cut off with its storage in reach, trains on and commits ever later steps."""
    job.apply(workers=2, accelerators=4, steps=600, pod=avoiding(operator.leader_node()))
    job.wait_step(20)
    node, zombies = job.node_of(0), job.pods()
    assert {job.node_of(slot) for slot in (0, 1)} == {node}

    with partitioned(cluster, node):
        restored = job.wait_attempt(2)["attempt"]["restoreStep"]
        assert {job.node_of(slot) for slot in (0, 1)}.isdisjoint({node})
        # Soon: what lies outside its history is pruned by the second attempt.
        cluster.wait_until(lambda: _newest_commit(job, 1) > restored, "the zombies to commit", 10)
        cluster.wait_until(lambda: _newest_commit(job, 2) > restored, "attempt 2 to commit", 30)
        job.kill_rank(1)
        history = job.wait_attempt(3)["checkpoint"]["lineage"]
        assert (history[0]["attempt"], history[0]["origin"]) == (3, 2)
        assert history[1] == {"attempt": 2, "origin": 1, "step": restored}
    cluster.wait_until(
        lambda: not any(job.trainers(zombie) for zombie in zombies), "the zombies to end", 20
    )

    job.wait_step(history[0]["step"] + 50, attempt=3)
    assert job.status()["attempt"]["number"] == 3
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def test_a_node_that_only_rebooted_costs_one_attempt(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, steps=150)
    job.wait_step(20)
    lost = job.slot_away_from(operator.leader_node())
    survivor_uid = job.pod(1 - lost)["metadata"]["uid"]

    with lost_node(cluster, job.node_of(lost)):
        pass

    job.wait_attempt(2)
    job.wait_phase("Succeeded")
    assert job.status()["attempt"]["number"] == 2
    assert job.status()["recovery"]["total"] == 1
    assert job.pod(1 - lost)["metadata"]["uid"] == survivor_uid
    assert 0 <= job.redone_steps(2) <= 10
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def _newest_commit(job: Job, attempt: int) -> int:
    """Return the newest step that this attempt has published, 0 when there is none."""
    published = job.checkpoints.glob(f"step-*.attempt-{attempt:05d}/manifest.json")
    return max((int(path.parent.name[5:13]) for path in published), default=0)
