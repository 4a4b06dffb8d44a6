"""Somebody without the command line on their own machine asks in the operator's pod."""

from __future__ import annotations

import json

from e2e.support.installation import NAMESPACE
from e2e.support.job import Job

STEPS = 400


def test_the_command_line_works_in_the_operators_pod_by_its_account(job: Job) -> None:
    work = {"tokensPerStep": 1000}
    job.apply(workers=2, steps=STEPS, step_seconds=0.05, checkpoint_every=20, spec={"work": work})
    job.wait_step(30)

    assert f"{job.namespace}/{job.name} trains" in asked(job, "status", job.name)
    told = json.loads(asked(job, "status", job.name, "-o", "json"))
    assert told["workers"]["training"] == 2
    assert told["figures"]["throughput"]["unit"] == "tokens"
    assert "is productive now." in asked(job, "explain", job.name)
    assert job.name in asked(job, "top")
    assert "Running" in asked(job, "timeline", job.name)


def asked(job: Job, *arguments: str) -> str:
    within = ("-n", NAMESPACE, "deploy/goodput-operator", "--")
    program = ("python3", "-m", "goodput_operator.cli")
    return job.cluster.kubectl("exec", *within, *program, *arguments, "-n", job.namespace)
