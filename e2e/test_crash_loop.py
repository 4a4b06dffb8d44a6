"""The user's own code fails, and fails again."""

from __future__ import annotations

from e2e.support.events import events
from e2e.support.job import Job

NEVER_A_STEP = """
import os, time
if os.environ["RANK"] != "1":
    time.sleep(60)
print("loading /data/shard-7")
raise FileNotFoundError("/data/shard-7")
"""

NEVER_PAST_STEP_5 = """
from goodput import session
for step in range(1, 6):
    session.step(step)
print("loading /data/shard-7")
raise ValueError("a damaged shard")
"""

SOON = {"recovery": {"maxRestarts": 2, "backoffSeconds": 1}}


def test_the_job_fails_with_the_evidence_once_its_budget_is_used_up(job: Job) -> None:
    job.apply(workers=2, spec=SOON, container=_running(NEVER_A_STEP))
    job.wait_phase("Failed")

    failed = job.condition("Failed")
    assert failed["reason"] == "ProcessFailed"
    message = failed["message"]
    assert "3 failures within 21600 s exceed spec.recovery.maxRestarts=2" in message
    assert "rank 1 of worker 1 (pod counter-1-0 on node" in message
    assert "exit code 1" in message
    assert "FileNotFoundError: /data/shard-7" in message
    assert "loading /data/shard-7" in message, "the last lines are part of the evidence"
    assert job.status()["attempt"]["number"] == 3
    assert {pod["metadata"]["name"] for pod in job.pods()} == {"counter-0-0", "counter-1-0"}
    assert [reason for reason, _ in events(job)].count("ProcessFailed") == 3
    job.assert_every_second_is_accounted_for()


def test_three_failures_without_a_new_step_are_enough(job: Job) -> None:
    recovery = {"recovery": {"backoffSeconds": 1}}
    job.apply(workers=1, spec=recovery, container=_running(NEVER_PAST_STEP_5))
    job.wait_phase("Failed")

    message = job.condition("Failed")["message"]
    assert "3 failures without a new step" in message
    assert "spec.recovery.maxRestartsWithoutProgress=3" in message
    assert "ValueError: a damaged shard" in message
    assert job.status()["attempt"]["number"] == 4, "the first one did make new steps"
    job.assert_every_second_is_accounted_for()


def _running(script: str) -> dict[str, list[str]]:
    return {"command": ["python3", "-c", script], "args": []}
