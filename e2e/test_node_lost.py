"""The power of a node fails for good, and no worker on it ever speaks again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.cluster import Cluster
from e2e.support.faults import lost_node
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

CHECKPOINT_EVERY = 20
STEPS = 150
WHOLE_NODE = 8


def test_a_lost_worker_is_replaced_on_another_node_and_training_goes_on_from_its_checkpoint(
    cluster: Cluster, operator: Operator, job: Job, record_property: Callable[[str, object], None]
) -> None:
    job.apply(workers=2, accelerators=WHOLE_NODE, steps=STEPS, checkpoint_every=CHECKPOINT_EVERY)
    job.wait_step(50)
    lost = job.slot_away_from(operator.leader_node())
    survivor = 1 - lost
    survivor_uid, lost_on = job.pod(survivor)["metadata"]["uid"], job.node_of(lost)

    lost_at = time.monotonic()
    with lost_node(cluster, lost_on):
        status = job.wait_attempt(2)
        record_property("seconds from the loss to the next attempt", _since(lost_at))
        job.wait_step(status["attempt"]["restoreStep"] + 1, attempt=2)
        record_property("seconds from the loss to the next step", _since(lost_at))
        assert job.node_of(lost) not in (lost_on, job.node_of(survivor))
        job.wait_phase("Succeeded")

        assert job.pod(survivor)["metadata"]["uid"] == survivor_uid
        assert 0 <= job.redone_steps(2) <= CHECKPOINT_EVERY
        assert status["attempt"]["number"] == 2
        recovery = job.status()["recovery"]
        assert recovery["total"] == 1
        assert recovery.get("restarts", []) == [], "a node's loss is not charged to the user"
        job.assert_succeeded(STEPS)
        job.assert_losses_agree()
        job.assert_every_second_is_accounted_for()
        assert job.ledger()["lost_work"] > 0
        assert job.ledger()["detection"] > 0


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.1f}"
