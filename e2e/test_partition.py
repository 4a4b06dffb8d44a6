"""A node is cut off while everything on it goes on: from whom decides what happens."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.support.faults import control_plane_addresses, partitioned
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

WHOLE_NODE = 8


def test_training_goes_on_while_its_node_is_not_ready_and_its_agent_unheard(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    """The ranks advance, so the silent worker is alive, whatever its node's conditions say."""
    job.apply(workers=3, accelerators=WHOLE_NODE, steps=300)
    job.wait_step(20)
    before = job.pods()
    node = next(iter(set(cluster.nodes) - set(operator.nodes().values())))
    silent = next(slot for slot in range(3) if job.node_of(slot) == node)

    with partitioned(cluster, node, [*control_plane_addresses(cluster), *_replicas(operator)]):
        degraded = job.wait_for(_is_degraded, "the silence to be told", 30)
        cluster.wait_until(lambda: not cluster.api.node_is_ready(node), f"{node} NotReady", 30)
        said = next(one for one in degraded["conditions"] if one["type"] == "Degraded")
        assert f"worker {silent} " in said["message"]
        assert "the gang advances" in said["message"]
        here = next(slot for slot in range(3) if slot != silent)
        seen = job.steps(here)[-1].step
        cluster.wait_until(lambda: job.steps(here)[-1].step > seen + 30, "30 more steps", 30)

    job.wait_phase("Succeeded")
    job.assert_pods_untouched(before)
    assert job.status()["attempt"]["number"] == 1
    assert job.status()["recovery"].get("total", 0) == 0
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def test_a_gang_that_nobody_hears_trains_on_while_its_nodes_are_well(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    """Whoever hears nobody at all is deaf: the operator says so, and touches nothing."""
    node = next(iter(set(cluster.nodes) - set(operator.nodes().values())))
    job.apply(workers=2, steps=280, pod={"nodeSelector": {"kubernetes.io/hostname": node}})
    job.wait_step(20)
    before = job.pods()

    with partitioned(cluster, node, _replicas(operator)):
        said = job.wait_for(_is_degraded, "the silence to be told", 30)
        assert any(one["reason"] == "ReportsVanished" for one in said["conditions"])
        seen = job.steps(0)[-1].step
        cluster.wait_until(lambda: job.steps(0)[-1].step > seen + 30, "30 more steps", 30)

    job.wait_phase("Succeeded")
    job.assert_pods_untouched(before)
    assert job.status()["attempt"]["number"] == 1
    job.assert_succeeded(280)
    job.assert_every_second_is_accounted_for()


def test_a_worker_cut_off_from_its_peers_is_replaced(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    """Nobody can advance without it: it may live, but it is of no use."""
    job.apply(workers=2, accelerators=WHOLE_NODE, steps=150, arguments=("--peer-lost=hang",))
    job.wait_step(20)
    lost = job.slot_away_from(operator.leader_node())
    survivor_uid, cut_off = job.pod(1 - lost)["metadata"]["uid"], job.node_of(lost)

    with partitioned(cluster, cut_off):
        job.wait_attempt(2)
        assert job.node_of(lost) != cut_off
        assert job.pod(1 - lost)["metadata"]["uid"] == survivor_uid
        job.wait_step(30, attempt=2)

    job.wait_phase("Succeeded")
    assert job.status()["attempt"]["number"] == 2
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def _is_degraded(status: dict[str, list[dict[str, str]]]) -> bool:
    return any(
        one["type"] == "Degraded" and one["status"] == "True" for one in status["conditions"]
    )


def _replicas(operator: Operator) -> list[str]:
    return [pod["status"]["podIP"] for pod in operator.pods()]
