"""The checkpoint directory cannot be used, or what lies in it cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.support.job import Job, condition_of

CHECKPOINT_EVERY = 20


def test_a_directory_that_cannot_be_written_starts_nothing_and_is_named(job: Job) -> None:
    job.apply(
        workers=2,
        spec={"gang": {"startTimeoutSeconds": 20}},
        container={
            "volumeMounts": [
                {"name": "examples", "mountPath": "/examples", "readOnly": True},
                {"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": True},
            ]
        },
    )
    job.wait_reason("CheckpointFresh", "DirectoryUnusable")
    message = job.condition("CheckpointFresh")["message"]
    assert "worker 0 (pod counter-0-0 on node" in message
    assert "cannot use spec.checkpoint.directory=/checkpoints" in message
    assert "Read-only file system" in message

    released = job.wait_reason("Admitted", "StartTimeout")
    assert "Read-only file system" in condition_of(released, "Admitted")["message"]
    assert "publishedAt" not in job.status()["attempt"], "no process was ever started"
    job.assert_every_second_is_accounted_for()


def test_a_full_directory_fails_the_job_and_is_named(job: Job) -> None:
    job.apply(
        workers=1,
        checkpoint_every=1,
        step_seconds=0.01,
        spec={"recovery": {"backoffSeconds": 1}},
        pod={
            "volumes": [
                {"name": "examples", "configMap": {"name": "counter"}},
                {"name": "checkpoints", "emptyDir": {"medium": "Memory", "sizeLimit": "16Ki"}},
            ]
        },
    )
    job.wait_phase("Failed")

    message = job.condition("Failed")["message"]
    assert "failures without a new step" in message
    assert "CheckpointError: saving step" in message
    assert "No space left on device" in message
    job.assert_every_second_is_accounted_for()


def _truncate(checkpoint: Path) -> None:
    manifest = checkpoint / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])


def _forge(checkpoint: Path) -> None:
    manifest = checkpoint / "manifest.json"
    text = json.loads(manifest.read_text())
    text["step"] = 1_000_000
    manifest.write_text(json.dumps(text))


def _damage(checkpoint: Path) -> None:
    shard = checkpoint / "learned-1"
    shard.write_text(str(int(shard.read_text()) + 1))


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_truncate, id="its manifest is truncated"),
        pytest.param(_forge, id="its manifest lies about the step"),
        pytest.param(_damage, id="a file of it is not what the manifest says"),
    ],
)
def test_a_checkpoint_that_does_not_verify_is_passed_over_for_the_next_older(
    cluster: Cluster, job: Job, harm: Callable[[Path], None]
) -> None:
    job.apply(workers=2, steps=300, step_seconds=0.05, checkpoint_every=CHECKPOINT_EVERY)
    job.wait_step(2 * CHECKPOINT_EVERY + 5)
    job.patch({"suspend": True})
    job.wait_phase("Suspended")
    cluster.wait_until(lambda: not job.pods(), "the pods to go", 20)
    newest = job.status()["checkpoint"]["lastDurableStep"]
    older = (newest - 1) // CHECKPOINT_EVERY * CHECKPOINT_EVERY
    harm(_checkpoint(job.checkpoints, newest))

    job.patch({"suspend": False})
    status = job.wait_reason("CheckpointFresh", "FellBack", 30)
    assert f"step-{newest:08d}" in condition_of(status, "CheckpointFresh")["message"]
    job.wait_for(  # in an attempt of its own: these ranks cannot agree within one
        lambda status: status["attempt"].get("restoreStep") == older,
        "the older checkpoint",
        30,
    )
    job.wait_phase("Succeeded")

    job.assert_succeeded(300)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert job.condition("CheckpointFresh")["reason"] == "Committed"


def _checkpoint(directory: Path, step: int) -> Path:
    (found,) = directory.glob(f"step-{step:08d}.*")
    return found
