"""Two of three machines are 10 and 20 minutes behind the time of day."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from e2e.cluster import Cluster, packages
from e2e.support.job import Job

STEPS = 120
CHECKPOINT_EVERY = 20
LIBRARY = "libfaketime.so.1"
OFF_BY_SLOT = [
    {
        "name": "SLOT",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['goodput.training/slot']"}},
    },
    {"name": "FAKETIME", "value": "-$(SLOT)0m"},
    {"name": "FAKETIME_DONT_FAKE_MONOTONIC", "value": "1"},
    {"name": "LD_PRELOAD", "value": f"/checkpoints/{LIBRARY}"},
]
SAY_THE_TIME = ("python3", "-c", "import time; print(time.time())")


@pytest.fixture
def faketime() -> Path:
    """The library that shifts a program's time of day."""
    if not _found() and packages.can_install():
        packages.install(["libfaketime"])
    found = _found()
    if not found:
        pytest.skip("needs libfaketime, and cannot install it here")
    return found[0]


def _found() -> list[Path]:
    return sorted(Path("/usr/lib").glob(f"*/faketime/{LIBRARY}"))


def test_recovery_and_ledger_are_the_same_as_with_clocks_that_agree(
    cluster: Cluster, job: Job, faketime: Path
) -> None:
    job.checkpoints.mkdir(parents=True)
    shutil.copy(faketime, job.checkpoints)
    job.apply(
        steps=STEPS,
        step_seconds=0.05,
        checkpoint_every=CHECKPOINT_EVERY,
        container={"env": OFF_BY_SLOT},
    )
    job.wait_step(CHECKPOINT_EVERY + 5)
    before = job.pods()
    assert [_minutes_behind(cluster, job, slot) for slot in range(3)] == [0, 10, 20]

    job.kill_rank(2)
    job.wait_attempt(2)
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert job.status()["attempt"]["number"] == 2
    spent = job.ledger()
    assert spent["detection"] + spent["recovery"] < 3 * 10, "no ten minutes of anybody's clock"
    (charge,) = job.status()["recovery"]["restarts"]
    assert charge["reason"] == "ProcessFailed"


def _minutes_behind(cluster: Cluster, job: Job, slot: int) -> int:
    pod = job.pod(slot)["metadata"]["name"]
    exec_in = ("exec", "-n", job.namespace, pod, "-c", "trainer", "--")
    theirs = float(cluster.kubectl(*exec_in, *SAY_THE_TIME))
    ours = float(cluster.kubectl(*exec_in, "env", "-u", "LD_PRELOAD", *SAY_THE_TIME))
    return round((ours - theirs) / 60)
