"""A PyTorch training changes the number of its workers, whole or split over ranks."""

from __future__ import annotations

import re

import pytest

from e2e.cluster import Cluster
from e2e.cluster.images import installed_torch
from e2e.support import char_gpt
from e2e.support.job import Job

pytestmark = [pytest.mark.alone, pytest.mark.long, pytest.mark.usefixtures("operator")]

STEPS = 100_000
"""More than are ever done here."""
ARGUMENTS = (f"--steps={STEPS}", "--checkpoint-every=50", "--batch=16")
SMALL = {"CHAR_GPT_WIDTH": "32", "CHAR_GPT_LAYERS": "2", "CHAR_GPT_CONTEXT": "32"}
STEP = re.compile(r"^step (\d+) loss (\S+)$", re.MULTILINE)
ROUNDING = 0.02
"""Each size adds the same numbers in another order; that grows with the steps. A batch that was
skipped or taken twice changes the loss by ten times as much."""


@pytest.mark.parametrize(
    ("manifest", "split", "legal"),
    [
        pytest.param("job-elastic.yaml", (), [1, 2, 3, 4, 5, 6, 7, 8], id="DDP"),
        pytest.param("job-sharded.yaml", ("--tensor-parallel=2",), [2, 4, 8], id="TP and FSDP2"),
    ],
)
def test_it_goes_on_at_another_size_with_the_loss_of_one_that_never_changed(
    cluster: Cluster, namespace: str, manifest: str, split: tuple[str, ...], legal: list[int]
) -> None:
    if installed_torch() is None:
        pytest.skip("torch for the workers is not there yet: make demo brings it")
    steady, resized = Job(cluster, namespace, "steady"), Job(cluster, namespace, "resized")
    arguments = (*ARGUMENTS, *split)
    char_gpt.create(steady, manifest, arguments, 1, environment=SMALL, spec={"workers": 2})
    char_gpt.create(resized, manifest, arguments, 1, environment=SMALL)
    assert resized.wait_phase("Running")["elastic"]["legalSizes"] == legal
    wait_step(resized, 60)
    cluster.kubectl("scale", "gtj", resized.name, "-n", namespace, "--replicas=2")
    status = resized.wait_attempt(2, timeout_seconds=120)
    assert status["attempt"]["worldSize"] == 2
    first = status["attempt"]["restoreStep"] + 1
    last = first + 20
    for job in (steady, resized):
        wait_step(job, last)

    undisturbed, changed = losses(steady), losses(resized)
    assert sorted(changed) == list(range(1, max(changed) + 1)), "a step was lost or done twice"
    for step in range(1, last + 1):
        assert changed[step] == pytest.approx(undisturbed[step], abs=ROUNDING), f"step {step}"


def wait_step(job: Job, step: int) -> None:
    """Return once the step is done."""
    job.cluster.wait_until(lambda: step in losses(job), f"step {step} of {job}", 180)


def losses(job: Job) -> dict[int, float]:
    """Return the loss of each step, as rank 0 has printed it."""
    logs = [job.logs(pod["metadata"]["name"]) for pod in job.pods()]
    found = [(int(step), float(loss)) for log in logs for step, loss in STEP.findall(log)]
    assert len(found) == len(dict(found)), f"{job} has done a step twice"
    return dict(found)
