"""A worker is lost: a spare stands ready and takes its place, or a pod must be started first."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.cluster import Cluster
from e2e.support.events import events
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone  # with all whole nodes
WHOLE_NODE = 8


@pytest.mark.parametrize("spares", [1, 0], ids=["a spare is swapped in", "its pod is replaced"])
def test_a_lost_worker_is_made_good(
    cluster: Cluster,
    operator: Operator,
    job: Job,
    spares: int,
    record_property: Callable[[str, object], None],
) -> None:
    job.apply(
        workers=2,
        accelerators=WHOLE_NODE,
        steps=20_000,
        step_seconds=0.05,
        spec={"spares": spares},
    )
    job.wait_step(20)
    job.wait_for(
        lambda status: status["workers"].get("spares", 0) == spares, "the spares to be ready"
    )
    before = {pod["metadata"]["uid"] for pod in job.pods()}
    assert len(before) == 2 + spares
    slot = _member_away_from(job, operator.leader_node())
    name = job.pod(slot)["metadata"]["name"]

    lost_at = time.monotonic()
    cluster.kubectl("delete", "pod", "-n", job.namespace, name, "--grace-period=0", "--force")
    status = job.wait_attempt(2)
    restart = job.status()["attempt"].get("restoreStep", 0)
    job.wait_step(restart + 1, attempt=2)
    record_property(f"seconds from the loss to a step, spares {spares}", f"{_since(lost_at):.1f}")
    members = [int(one["slot"]) for one in status["slots"] if one.get("rank", -1) >= 0]
    assert (slot in members) == (not spares)
    assert ("SpareSwappedIn" in {reason for reason, _ in events(job)}) == bool(spares)

    job.wait_for(lambda now: now["workers"].get("spares", 0) == spares, "the spare to be made anew")
    assert job.status()["attempt"]["number"] == 2, "which touches nobody"
    assert len(before & {pod["metadata"]["uid"] for pod in job.pods()}) == 1 + spares
    job.wait_step(restart + 20, attempt=2)
    assert job.status()["recovery"].get("restarts", []) == []
    job.assert_losses_agree()


def _member_away_from(job: Job, node: str) -> int:
    """Return a slot of the world whose pod is not on `node`: who was ready first, trains."""
    members = [int(one["slot"]) for one in job.status()["slots"] if one.get("rank", -1) >= 0]
    return next(slot for slot in members if job.node_of(slot) != node)


def _since(moment: float) -> float:
    return time.monotonic() - moment
