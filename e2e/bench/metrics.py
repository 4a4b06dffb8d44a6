"""What /metrics costs: a real operator with 1,000 jobs that change while it is scraped.

Every job is elastic, with all that a status can hold, and belongs to nobody's nodes: it has
finished, so that the operator only shows it. As many statuses change per second as those of
1,000 running jobs do, each being written once a minute.

- `scrape_p99_ms`, `scrape_median_ms`: from the request until the last byte, over HTTP, one scrape
  after the other.
- `series_per_job`: the most that any job has.
- `memory_mb`: further resident memory of a process for the pages of 1,000 jobs and their scrapes.
- `write_us`: processor time to write one job's lines anew.
- `render_10k_ms`, `series_10k_per_job`: the page of 10,000 jobs, made in one process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say
from goodput_operator.api.status import MAX_REASONS, Bucket, ConditionType
from goodput_operator.metrics import JobLabels, Metrics, Sources

from .harness import fleet, report
from .harness.api_tier import JOBS, MERGE_PATCH, Client, Object, api_tier, client
from .harness.load import percentile
from .harness.operator_process import OperatorProcess, operator

COUNT, MANY = 1_000, 10_000
CHANGES_PER_SECOND = COUNT / 60
SCRAPES = 300
REST_SECONDS = 0.1
LEASE_SECONDS = 60
_JOB = re.compile(r'^goodput_\w+\{namespace="default",job="([^"]+)"', re.MULTILINE)
_IN_MEMORY = "--in-memory"
LABELS = JobLabels("kueue.x-k8s.io/queue-name", "team")


def full_job(number: int) -> Object:
    """Return an elastic job with all the labels that are looked at."""
    body = fleet.training_job(f"train-{number:05}", 4, 8)
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gold", "team": f"t{number % 20}"}
    body["spec"] |= {"elastic": {"minWorkers": 2, "maxWorkers": 8}}
    return body


def full_status(number: int) -> Object:
    """Return a finished job's status with everything that makes a series."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = dict.fromkeys(ConditionType, "False") | {ConditionType.SUCCEEDED: "True"}
    return {
        "observedGeneration": 1,
        "phase": "Succeeded",
        "conditions": [
            {"type": kind, "status": value, "lastTransitionTime": now, "reason": "Bench"}
            for kind, value in kinds.items()
        ],
        "workers": {"wanted": 4, "bound": 4, "connected": 4, "training": 4, "text": "4/4"},
        "attempt": {"number": 7, "state": "Closed", "openedAt": now},
        "progress": {"step": number, "stepMilliseconds": 412, "observedAt": now},
        "checkpoint": {"lastDurableStep": number, "time": now},
        "recovery": {
            "total": 6,
            "byReason": {f"Reason{place}": 1 for place in range(MAX_REASONS)},
            "restarts": [{"attempt": 1, "at": now, "reason": "Reason1", "charged": True}],
        },
        "ledger": {
            "acceleratorMilliseconds": {bucket.value: 10**6 + number for bucket in Bucket},
            "unsettledMilliseconds": 5,
            "accelerators": 32,
        },
        "finishedAt": now,
    }


async def create(api: Client) -> None:
    """Make all jobs, each finished before any operator sees it."""

    async def one(number: int) -> None:
        await api.call("POST", JOBS, full_job(number))
        await change(api, number)

    await asyncio.gather(*(one(number) for number in range(COUNT)))


async def change(api: Client, number: int) -> None:
    """Write a job's status anew."""
    path = f"{JOBS}/train-{number % COUNT:05}/status"
    await api.call("PATCH", path, {"status": full_status(number)}, MERGE_PATCH)


async def keep_changing(api: Client) -> None:
    """Change one job after the other, for ever."""
    loop = asyncio.get_running_loop()
    due, number = loop.time(), COUNT
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(change(api, number))
            number, due = number + 1, due + 1 / CHANGES_PER_SECOND
            await asyncio.sleep(due - loop.time())


async def measure(plane: ControlPlane) -> dict[str, float]:
    """Return the figures of the real operator."""
    async with client(plane) as api:
        say(f"making {COUNT} jobs")
        await create(api)
        with operator(plane, lease_seconds=LEASE_SECONDS) as process:
            changes = asyncio.create_task(keep_changing(api))
            taken, page = await asyncio.to_thread(scrape, process)
            changes.cancel()
            await asyncio.gather(changes, return_exceptions=True)
    series = Counter(_JOB.findall(page))
    assert len(series) == COUNT
    say(f"{len(page) / 2**20:.1f} MiB a page, {median(taken):.1f} ms in the median")
    return {
        "scrape_p99_ms": percentile(taken, 0.99),
        "scrape_median_ms": median(taken),
        "series_per_job": max(series.values()),
        "page_mb": len(page) / 2**20,
        "jobs": len(series),
    }


def scrape(process: OperatorProcess) -> tuple[list[float], str]:
    """Return how long each scrape took, in milliseconds, and the last page."""
    taken, page = [], b""
    for _ in range(SCRAPES):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://{process.metrics_address}/metrics") as answer:
            page = answer.read()
        taken.append(1000 * (time.perf_counter() - began))
        time.sleep(REST_SECONDS)
    return taken, page.decode()


def in_memory() -> dict[str, float]:
    """Measure the pages alone, in this process."""
    jobs = [_raw(number) for number in range(MANY)]
    metrics = Metrics(_sources(), LABELS)
    metrics.lead(leading=True)
    before = _rss_kib()
    began = time.process_time()
    for job in jobs[:COUNT]:
        metrics.follow(("default", job["metadata"]["name"]), job)
    write_seconds = (time.process_time() - began) / COUNT
    for _ in range(20):
        metrics.render()
    memory_mb = (_rss_kib() - before) / 1024
    for job in jobs:
        metrics.follow(("default", job["metadata"]["name"]), job)
    began = time.perf_counter()
    page = metrics.render()
    render_seconds = time.perf_counter() - began
    return {
        "memory_mb": memory_mb,
        "write_us": 1e6 * write_seconds,
        "render_10k_ms": 1000 * render_seconds,
        "series_10k_per_job": page.count(b'{namespace="default",job="') / MANY,
    }


def _raw(number: int) -> dict[str, Any]:
    job = full_job(number) | {"status": full_status(number)}
    job["metadata"] |= {
        "namespace": "default",
        "uid": f"00000000-0000-0000-0000-{number:012}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return job


def _sources() -> Sources:
    return Sources(
        jobs=lambda: COUNT,
        queue_depth=lambda: 0,
        watch_ages_seconds=dict,
        api_requests=dict,
        report_results=dict,
        agents=lambda: 0,
        accelerators=dict,
        now=lambda: datetime.now(UTC),
    )


def _rss_kib() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> None:
    if _IN_MEMORY in sys.argv:
        print(json.dumps(in_memory()))
        return
    report.begin("metrics")
    argv = [sys.executable, "-m", "e2e.bench.metrics", _IN_MEMORY]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "operator")}
    alone = subprocess.run(argv, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    with api_tier(1) as plane:
        report.finish(asyncio.run(measure(plane)) | json.loads(alone.stdout))


if __name__ == "__main__":
    main()
