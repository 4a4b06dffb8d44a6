"""Jobs for the command line to speak of."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from goodput_operator.cli.job import Job, read_job

Json = dict[str, Any]

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    """A moment so many seconds after NOW, as the API writes it; before it, if negative."""
    moment = NOW + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def condition(kind: str, status: str, reason: str = "Because", message: str = "") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(-60),
    }


def attempt(**changes: Any) -> Json:
    return {
        "number": 2,
        "state": "Running",
        "openedAt": at(-300),
        "publishedAt": at(-299),
        "runningAt": at(-298),
        "firstStepAt": at(-290),
        "worldSize": 4,
        "restoreStep": 100,
        **changes,
    }


def incident(**changes: Any) -> Json:
    """A process has failed, and ten seconds later all was as before."""
    return {
        "attempt": 1,
        "reason": "ProcessFailed",
        "planned": False,
        "charged": True,
        "slot": 1,
        "rank": 3,
        "pod": "gpt-1-0",
        "node": "node3",
        "message": "rank 3 ended with exit code 1\nRuntimeError: NCCL",
        "decision": "RestartProcesses",
        "why": "all 4 workers have kept their pods",
        "faultAt": at(-301),
        "decidedAt": at(-300),
        "scheduledAt": at(-300),
        "publishedAt": at(-299),
        "runningAt": at(-298),
        "firstStepAt": at(-290),
        "caughtUpAt": at(-286),
        "step": 105,
        "restoreStep": 100,
        "stepsLost": 5,
        "acceleratorMilliseconds": {"lost_work": 16000, "detection": 4000, "recovery": 8000},
        **changes,
    }


def status(**changes: Any) -> Json:
    """The status of a job that trains well and has survived a fault."""
    return {
        "phase": "Running",
        "reason": "AllProcessesStarted",
        "conditions": [
            condition("Running", "True", "AllProcessesStarted"),
            condition("Progressing", "True", "StepsFinished"),
        ],
        "workers": {"wanted": 4, "bound": 4, "connected": 4, "training": 4, "text": "4/4"},
        "attempt": attempt(),
        "progress": {"step": 1410, "stepMilliseconds": 500, "observedAt": at(-2)},
        "checkpoint": {"lastDurableStep": 1400, "time": at(-12), "verified": True},
        "recovery": {"total": 1},
        "ledger": {
            "acceleratorMilliseconds": {
                "productive": 9_000_000,
                "queued": 100_000,
                "lost_work": 600_000,
                "recovery": 300_000,
            },
            "unsettledMilliseconds": 40_000,
            "accelerators": 4,
            "accountedUntil": at(-10),
        },
        "incidents": [incident()],
        "queuedSince": at(-3600),
        "startedAt": at(-3000),
        **changes,
    }


def raw_job(
    name: str = "gpt",
    *,
    namespace: str = "lab",
    spec: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    **changes: Any,
) -> Json:
    """A raw job; `changes` are those of its status."""
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-02T11:00:00Z",
            "annotations": dict(annotations or {}),
        },
        "spec": {"workers": 4, "checkpoint": {"directory": "/checkpoints"}, **(spec or {})},
        "status": status(**changes),
    }


def job(name: str = "gpt", **changes: Any) -> Job:
    return read_job(raw_job(name, **changes))
