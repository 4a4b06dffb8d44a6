"""The jobs of `examples/char-gpt` as they are committed, with what a cluster calls its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from e2e.cluster.images import WORKER_IMAGE, torch_site
from e2e.cluster.paths import REPOSITORY

from .job import GPU, Job, Object, merged, put_program

EXAMPLE = REPOSITORY / "examples" / "char-gpt"
NAME = "char-gpt"


def create(
    job: Job,
    manifest: str,
    arguments: Sequence[str],
    accelerators: int,
    *,
    environment: Mapping[str, str] | None = None,
    spec: Mapping[str, object] | None = None,
) -> None:
    """Create a job of the example.

    Args:
        job: which name and namespace it gets.
        manifest: the file in the example's folder.
        arguments: of the trainer, in place of the manifest's.
        accelerators: that each pod asks for.
        environment: more of it for the trainer.
        spec: merged over the manifest's.

    Raises:
        ClusterError: torch could not be installed.
    """
    body: Object = yaml.safe_load((EXAMPLE / manifest).read_text())
    body["metadata"]["name"] = job.name
    job.checkpoints.mkdir(parents=True)
    body["spec"]["processesPerWorker"] = 1  # else as many as accelerators: too many for 2 cores
    body["spec"] = merged(body["spec"], spec or {})
    pod = body["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 5
    trainer = pod["containers"][0]
    trainer.update(image=WORKER_IMAGE, imagePullPolicy="Never", args=list(arguments))
    trainer["env"] += [
        {"name": name, "value": value} for name, value in (environment or {}).items()
    ]
    trainer["resources"] = merged(trainer["resources"], {"limits": {GPU: str(accelerators)}})
    paths = {"site": torch_site(), "checkpoints": job.checkpoints}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            put_program(job.cluster, job.namespace, volume["configMap"]["name"], EXAMPLE)
        if volume["name"] in paths:
            volume["hostPath"] = {"path": str(paths[volume["name"]]), "type": "Directory"}
    job.create(body)
