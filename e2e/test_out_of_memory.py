"""A rank needs more memory than its container may use, and the kernel's killer comes.

With cgroup version 1 it takes one process. With version 2 the kubelet sets memory.oom.group,
and it takes the whole container; on version 1 the same is had by pointing it at process 1.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster import Cluster, cgroups
from e2e.support.job import Job, Object

CHECKPOINT_EVERY = 20
STEPS = 120

HUNGRY = """
import os, runpy, sys, threading, time

def eat():
    while not os.path.exists("/checkpoints/eat"):
        time.sleep(0.05)
    eaten = []
    while True:
        eaten.append(b"x" * (1 << 20))

if os.environ["RANK"] == "1" and os.environ["GOODPUT_ATTEMPT"] == "1":
    threading.Thread(target=eat, daemon=True).start()
sys.path.insert(0, "/examples")
runpy.run_path("/examples/counter.py", run_name="__main__")
"""

GUARANTEED = {"cpu": "500m", "memory": "128Mi"}
"""The kernel's killer does not hurry towards such a container: where it goes, we point it."""

version_1_only = pytest.mark.skipif(
    cgroups.version() != 1, reason="with cgroup version 2 the whole container dies"
)


@version_1_only
def test_when_only_the_process_dies_the_gang_goes_on_in_the_same_pods(job: Job) -> None:
    before = _train(job)

    (job.checkpoints / "eat").touch()
    job.wait_attempt(2)
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    _assert_recovered(job)


def test_when_the_whole_container_dies_only_its_pod_is_replaced(cluster: Cluster, job: Job) -> None:
    before = _train(job)
    if cgroups.version() == 1:
        _aim_at_process_1(cluster, job.pod(1))

    (job.checkpoints / "eat").touch()
    job.wait_attempt(2)
    assert job.pod(1)["metadata"]["name"] == "counter-1-1"
    job.wait_phase("Succeeded")

    assert job.pod(0)["metadata"]["uid"] == before[0]["metadata"]["uid"]
    _assert_recovered(job)


def _train(job: Job) -> list[Object]:
    job.apply(
        workers=2,
        steps=STEPS,
        step_seconds=0.05,
        checkpoint_every=CHECKPOINT_EVERY,
        container={
            "command": ["python3", "-c", HUNGRY],
            "resources": {"requests": GUARANTEED, "limits": GUARANTEED},
        },
    )
    job.wait_step(CHECKPOINT_EVERY + 5)
    return job.pods()


def _aim_at_process_1(cluster: Cluster, pod: Object) -> None:
    found = cluster.pod_pids(pod["metadata"]["namespace"], pod["metadata"]["name"], "trainer")
    for pid, command in found:
        if "agent.pyz" in command:
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _assert_recovered(job: Job) -> None:
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert 0 <= job.redone_steps(2) <= CHECKPOINT_EVERY
    status = job.status()
    assert status["attempt"]["number"] == 2
    (charge,) = status["recovery"]["restarts"]
    assert charge["reason"] == "OutOfMemory", "and it is charged: another node would not help"
