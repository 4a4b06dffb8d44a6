"""The training asks not to be tried again: exit code 93."""

from __future__ import annotations

from e2e.support.job import Job

GIVES_UP = """
import os, sys, time
if os.environ["RANK"] == "0":
    time.sleep(60)
print("the loss is NaN")
sys.exit(93)
"""


def test_the_job_fails_at_once_whatever_is_left_of_its_budget(job: Job) -> None:
    job.apply(workers=2, container={"command": ["python3", "-c", GIVES_UP], "args": []})
    job.wait_phase("Failed")

    failed = job.condition("Failed")
    assert failed["reason"] == "DoNotRequeue"
    assert "asked not to be tried again (exit code 93)" in failed["message"]
    assert "rank 1 of worker 1" in failed["message"]
    assert "the loss is NaN" in failed["message"]
    assert job.status()["attempt"]["number"] == 1
    job.assert_every_second_is_accounted_for()
