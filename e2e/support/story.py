"""Three jobs side by side: nothing happens to one, one is broken five ways, one waits for room.

What is read off Prometheus in the test and drawn in the documentation's pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from e2e.cluster import Cluster
from e2e.support.diary import KEEPS_DIARY
from e2e.support.faults import lost_node
from e2e.support.installation import Operator
from e2e.support.job import Job

WORKERS = 2
ACCELERATORS = 5
"""Of a worker of the job that is broken: no two of them are on one node of eight."""
WHOLE_NODE = 8
STEP_SECONDS = 0.1
QUEUE, TEAM = "kueue.x-k8s.io/queue-name", "team"
FAULTS = ("rank killed", "pod deleted", "agent killed", "leader killed", "node lost")
"""In their order. While there is no leader a rank is killed, for the successor to find."""


@dataclass(frozen=True, slots=True)
class Story:
    """The three jobs, all in one namespace."""

    clean: Job
    broken: Job
    waits: Job

    @staticmethod
    def begin(
        cluster: Cluster, namespace: str, *, steps: int, checkpoint_every: int, nodes_wanted: int
    ) -> Story:
        """Apply the jobs; two of them train for so many steps, the third wants whole nodes."""
        story = Story(*(Job(cluster, namespace, name) for name in ("clean", "broken", "waits")))
        for job, team, accelerators in (
            (story.broken, "vision", ACCELERATORS),
            (story.clean, "speech", 1),
        ):
            job.apply(
                workers=WORKERS,
                steps=steps,
                step_seconds=STEP_SECONDS,
                checkpoint_every=checkpoint_every,
                accelerators=accelerators,
                labels={QUEUE: "gold", TEAM: team},
                container=KEEPS_DIARY,
            )
        story.broken.wait_step(1)
        story.waits.apply(
            workers=nodes_wanted,
            accelerators=WHOLE_NODE,
            labels={QUEUE: "silver", TEAM: "vision"},
        )
        return story

    def break_it(self, operator: Operator, steps_between: int) -> None:
        """Break the job in each of the ways, each so many steps after the one before.

        Returns while the job trains again, with all nodes there.
        """
        job, cluster = self.broken, self.broken.cluster
        job.wait_step(steps_between)
        job.kill_rank(1)

        job.wait_step(2 * steps_between, attempt=2)
        name = job.pod(0)["metadata"]["name"]
        cluster.kubectl("delete", "pod", "-n", job.namespace, name, "--wait=false")

        job.wait_step(3 * steps_between, attempt=3)
        cluster.kill_pid1(job.namespace, job.pod(1)["metadata"]["name"], container="trainer")

        job.wait_step(4 * steps_between, attempt=4)
        former = operator.kill_leader()
        job.kill_rank(0)
        operator.wait_successor(former, timeout_seconds=30)

        job.wait_step(5 * steps_between, attempt=5)
        self.clean.wait_phase("Succeeded")  # the node may be one of its own
        slot = job.slot_away_from(operator.leader_node())
        with lost_node(cluster, job.node_of(slot)):
            job.wait_attempt(6)
