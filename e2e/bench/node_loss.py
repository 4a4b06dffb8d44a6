"""What a lost node costs, on real nodes: no network, all its processes dead at once.

`overhead_seconds`: from the loss until the agents of all workers have said that the processes of
the next attempt run, less the start of the new pod (its creation until its trainer's start),
which is the cluster's. The operator's leader is on another node; where it dies with the worker,
e2e/test_operator_killed.py prints what that costs. With a cluster of its own at Kubernetes' stock
grace (50 s before a silent node counts as not ready) and at the local one (12 s), the worse of
the two; where a cluster is up already, at that one's.
"""

from __future__ import annotations

import time

from e2e.cluster import Cluster
from e2e.cluster.progress import say
from e2e.support.faults import lost_node
from e2e.support.installation import Operator
from e2e.support.job import Job
from e2e.support.suite import is_up

from .harness import report
from .harness.node_tier import moment, namespace, node_tier, pod_start_seconds

GRACES_SECONDS = (12, 50)
WORKERS = 2
_STEPS = 5


def measure(cluster: Cluster) -> float:
    """Return the seconds for which the gang stood still that are ours."""
    with namespace(cluster, "bench-node-loss") as name:
        job = Job(cluster, name).apply(
            # Two pods do not fit on a node of eight.
            workers=WORKERS,
            accelerators=5,
            steps=1_000_000,
            checkpoint_every=_STEPS,
        )
        job.wait_attempt(1, timeout_seconds=120)
        job.wait_step(2 * _STEPS)
        lost = job.slot_away_from(Operator(cluster).leader_node())
        node = job.node_of(lost)
        lost_at = time.time()
        with lost_node(cluster, node):
            status = job.wait_attempt(2, timeout_seconds=180)
            pod = job.pod(lost)
    spent = moment(status["attempt"]["runningAt"]) - lost_at
    start = pod_start_seconds(pod)
    grace = cluster.shape.node_grace_seconds
    say(f"grace {grace} s: {spent:.1f} s, of which the start of the new pod {start:.0f} s")
    return spent - start


def main() -> None:
    report.begin("node-loss")
    overheads = {}
    for grace_seconds in (None,) if is_up() else GRACES_SECONDS:
        with node_tier(grace_seconds or 0) as cluster:
            overheads[cluster.shape.node_grace_seconds] = measure(cluster)
    by_grace = {f"overhead_seconds_at_{grace}": each for grace, each in overheads.items()}
    report.finish({"overhead_seconds": max(overheads.values()), **by_grace})


if __name__ == "__main__":
    main()
