"""A training under torchrun with no line of ours in it, as most that exist are."""

from __future__ import annotations

import re

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import installed_torch
from e2e.support import char_gpt
from e2e.support.job import Job, Object

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("operator")]

STEPS, CHECKPOINT_EVERY = 4000, 100
ARGUMENTS = (
    f"--steps={STEPS}",
    f"--checkpoint-every={CHECKPOINT_EVERY}",
    "--batch=4",
    "--directory=/checkpoints",
)
SMALL = {"CHAR_GPT_WIDTH": "32", "CHAR_GPT_LAYERS": "2", "CHAR_GPT_CONTEXT": "32"}
RANK = r"-u /examples/train_plain\.py"
"""What torchrun starts; its own command line names the script, too."""


def test_it_is_started_again_in_its_pods_and_goes_on_from_its_own_checkpoint(
    cluster: Cluster, namespace: str
) -> None:
    if installed_torch() is None:
        pytest.skip("torch for the workers is not there yet: make demo brings it")
    job = Job(cluster, namespace, "plain")
    char_gpt.create(job, "job-torchrun.yaml", ARGUMENTS, 1, environment=SMALL)
    job.wait_for(saved, "its first checkpoint", 180)
    before = job.pods()

    cluster.kill_process(namespace, job.pod(1)["metadata"]["name"], RANK)
    job.wait_phase("Succeeded", timeout_seconds=180)

    job.assert_pods_untouched(before)
    status = job.status()
    assert status["attempt"]["number"] == 2
    [charge] = status["recovery"]["restarts"]
    assert (charge["attempt"], charge["reason"]) == (1, "ProcessFailed")
    said = job.logs(job.pod(0)["metadata"]["name"])
    starts = [int(step) for step in re.findall(r"2 ranks, from step (\d+)", said)]
    assert starts[0] == 0
    assert starts[1] >= CHECKPOINT_EVERY
    assert starts[1] % CHECKPOINT_EVERY == 0
    assert len(starts) == 2, "a start that nobody asked for"
    steps = [int(step) for step in re.findall(r"^step (\d+) loss", said, re.MULTILINE)]
    assert sorted(set(steps)) == list(range(1, STEPS + 1))
    assert len(steps) - STEPS < 2 * CHECKPOINT_EVERY, "steps were done twice that were saved"
    job.assert_every_second_is_accounted_for()


def saved(status: Object) -> bool:
    """Tell whether the operator knows of a checkpoint."""
    return bool(status.get("checkpoint", {}).get("lastDurableStep"))
