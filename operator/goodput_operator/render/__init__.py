"""The objects that a job should have, built from its spec. Pure."""

from goodput_operator.render.pod import (
    JobIdentity,
    RenderSettings,
    job_labels,
    render_pod,
)
from goodput_operator.render.template import (
    accelerators_per_worker,
    processes_per_worker,
    template_problems,
)

__all__ = [
    "JobIdentity",
    "RenderSettings",
    "accelerators_per_worker",
    "job_labels",
    "processes_per_worker",
    "render_pod",
    "template_problems",
]
