"""A trainer with no line of ours in it: nothing fences its checkpoints, so death is confirmed."""

from __future__ import annotations

import textwrap

import pytest

from e2e.cluster import Cluster
from e2e.support.faults import lost_node, out_of_service
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

WHOLE_NODE = 8
TRAINER = textwrap.dedent(
    """
    import json, os, sys, time
    sys.path.insert(0, "/examples")
    from star import Star

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt, tracker, step = 1 + int(os.environ["SLURM_RESTART_COUNT"]), "/checkpoints/latest", 0
    if os.path.exists(tracker):
        step = int(open(tracker).read())
    ranks = Star(rank, size)
    while step < 400:
        step += 1
        time.sleep(0.1 if attempt == 1 else 0.01)  # long enough to be broken
        loss = ranks.sum(step)
        said = dict(rank=rank, attempt=attempt, step=step, loss=loss)
        print(json.dumps(dict(said, samples=[], at=time.time(), seconds=0.1)))
        sys.stdout.flush()
        if rank == 0 and step % 20 == 0:
            with open(tracker + ".new", "w") as file:
                file.write(str(step))
            os.replace(tracker + ".new", tracker)
    """
)


@pytest.mark.long
def test_a_lost_worker_is_replaced_only_once_it_is_known_to_be_dead(
    cluster: Cluster, operator: Operator, job: Job
) -> None:
    job.apply(
        workers=2,
        accelerators=WHOLE_NODE,
        container={"command": ["python3", "-c", TRAINER], "args": []},
    )
    job.wait_step(50)
    lost = job.slot_away_from(operator.leader_node())
    survivor_uid, lost_on = job.pod(1 - lost)["metadata"]["uid"], job.node_of(lost)

    with lost_node(cluster, lost_on):
        job.wait_for(_waits_for_death, "the operator to say what it waits for", 120)
        said = job.condition("Running")["message"]
        assert f"worker {lost} " in said
        assert lost_on in said
        assert "node.kubernetes.io/out-of-service" in said
        assert job.status()["attempt"]["number"] == 1
        assert job.node_of(lost) == lost_on, "replaced although it may still write"
        with out_of_service(cluster, lost_on):
            job.wait_attempt(2)
            job.wait_phase("Succeeded")

    assert job.pod(1 - lost)["metadata"]["uid"] == survivor_uid
    assert job.status()["attempt"]["number"] == 2
    assert job.status()["recovery"]["total"] == 1
    assert next(one.step for one in job.steps(1 - lost) if one.attempt == 2) % 20 == 1
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()


def _waits_for_death(status: dict[str, list[dict[str, str]]]) -> bool:
    return any(one["reason"] == "WaitingForConfirmedDeath" for one in status["conditions"])
