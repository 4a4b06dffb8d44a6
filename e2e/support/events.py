"""What `kubectl describe` tells of a job besides its status."""

from __future__ import annotations

from e2e.support.job import Job


def events(job: Job) -> list[tuple[str, str]]:
    """Return reason and message of the job's events, oldest first."""
    path = f"/apis/events.k8s.io/v1/namespaces/{job.namespace}/events"
    listed = [
        one
        for one in job.cluster.api.call("GET", path)["items"]
        if one["regarding"].get("uid") == job.read()["metadata"]["uid"]
    ]
    listed.sort(key=lambda one: str(one.get("eventTime") or one["metadata"]["creationTimestamp"]))
    return [(one["reason"], one.get("note", "")) for one in listed]
