"""What Prometheus finds at /metrics: the jobs (`jobs`), and the operator's own health (`page`)."""

from goodput_operator.metrics.jobs import JobLabels
from goodput_operator.metrics.page import CONTENT_TYPE, Metrics, Sources

__all__ = ["CONTENT_TYPE", "JobLabels", "Metrics", "Sources"]
