"""The trainer's image has no Python, and so our agent can never run in it."""

from __future__ import annotations

from e2e.support.job import Job


def test_the_job_fails_at_once_and_says_what_to_do(job: Job) -> None:
    job.apply(workers=2, container={"image": "goodput.local/nopython:dev"})
    job.wait_phase("Failed")

    failed = job.condition("Failed")
    assert failed["reason"] == "ImageLacksPython"
    assert "the image has no python3" in failed["message"]
    assert "install it in the image of the trainer container" in failed["message"]
    assert {pod["metadata"]["name"] for pod in job.pods()} == {"counter-0-0", "counter-1-0"}
    job.assert_every_second_is_accounted_for()
