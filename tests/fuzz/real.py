"""The same kinds of jobs and edits on a real API server, with the operator as a process.

Each object that is sent is refused with the field named, or the operator answers it: with all
conditions of its generation, or with the one that says why the job cannot be read.
"""

import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from e2e.bench.harness import fleet
from e2e.bench.harness.api_tier import JOBS, MERGE_PATCH, PODS, Client, api_tier, client
from e2e.bench.harness.operator_process import OperatorProcess, operator
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.progress import say
from goodput_operator import names
from goodput_operator.api.status import ConditionType
from tests.fuzz import generate
from tests.fuzz.generate import Json

NODES, BATCH, AT_ONCE = 8, 60, 10
LEASE_SECONDS = 60
ANSWER_SECONDS, POLL_SECONDS = 60.0, 0.2
MOST_PASSES = 40
"""For each object that was sent, on the average: more would be a job that goes round in circles."""
FIELD = re.compile(r"\b(spec|status|metadata)\b[.:\[]")
STRANGE_NAMES = ("a.b", "J", "-a", "a" * 53, "a_b", "7", "")
_PASSES = re.compile(r'^goodput_operator_passes_total\{result="(\w+)"\} (\S+)$', re.MULTILINE)
_FORESEEN = ("CorruptStatusError", "ConflictError", "UnavailableError", "NotFoundError")


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        objects: creations and edits that were sent.
        violations: what must never happen and did, in words, with the number of its job.
    """

    objects: int = 0
    accepted: int = 0
    refused: int = 0
    passes: int = 0
    tracebacks: int = 0
    violations: list[str] = field(default_factory=list)


def run(seed: int, objects: int) -> Outcome:
    """Send at least so many objects."""
    with api_tier(NODES) as plane:
        return asyncio.run(_run(plane, seed, objects))


async def _run(plane: ControlPlane, seed: int, objects: int) -> Outcome:
    outcome, number = Outcome(), 0
    async with client(plane) as api:
        with operator(plane, LEASE_SECONDS) as process:
            while outcome.objects < objects:
                few = asyncio.Semaphore(AT_ONCE)
                jobs = [Job(api, outcome, few, seed, number + more) for more in range(BATCH)]
                await asyncio.gather(*(job.play() for job in jobs))
                number += BATCH
                if not process.lives():
                    outcome.violations.append("the operator has ended: see its log")
                    break
                await _clear(api)
                say(
                    f"{outcome.objects} objects of {number} jobs sent to the API server: "
                    f"{outcome.refused} refused, {len(outcome.violations)} violations"
                )
            _judge(outcome, process, (plane.state / "logs" / "operator.log").read_text())
    for violation in outcome.violations[:20]:
        print(f"\nVIOLATION on the API server: {violation}")
        print(f"  play it again: make fuzz SEED={seed} FUZZ='--pure=0 --real={objects}'")
    return outcome


def _judge(outcome: Outcome, process: OperatorProcess, log: str) -> None:
    """Look at what the operator says of itself."""
    passes = Counter({name: int(float(n)) for name, n in _PASSES.findall(process.metrics())})
    say(f"passes of the operator: {dict(passes)}")
    outcome.passes = passes.total()
    outcome.tracebacks = log.count("Traceback (most recent call last)")
    if passes["bug"]:
        outcome.violations.append(f"{passes['bug']} passes ended by a bug: see its log")
    if outcome.passes > MOST_PASSES * outcome.objects:
        outcome.violations.append(f"{outcome.passes} passes for {outcome.objects} objects")
    failed = [line for line in log.splitlines() if "the visit failed" in line]
    for line in failed:
        if not any(name in line for name in _FORESEEN):
            outcome.violations.append(line[:600])
    if "Traceback" in log:
        print(log[log.index("Traceback") :][:3000])


async def _clear(api: Client) -> None:
    """Delete all jobs and pods; no kubelet would end them."""
    await api.call("DELETE", JOBS, {"propagationPolicy": "Background"})
    while (await api.call("GET", f"{JOBS}?limit=1"))["items"]:  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    await fleet.remove_pods(api)


class Job:
    """One job: its creation, a few edits, and the operator's word on each."""

    def __init__(
        self, api: Client, outcome: Outcome, few: asyncio.Semaphore, seed: int, number: int
    ) -> None:
        self._api, self._outcome, self._few = api, outcome, few
        self._rng = Random(f"real/{seed}/{number}")
        self._bold = self._rng.choice((0.0, 0.1, 0.3, 0.6))
        self._name = f"fuzz-{number}"
        if self._rng.random() < 0.03:
            self._name = self._rng.choice(STRANGE_NAMES)
        self._path = f"{JOBS}/{self._name}"

    async def play(self) -> None:
        """Send what this job consists of."""
        async with self._few:
            spec = generate.spec(self._rng, self._bold)
            if isinstance(spec, dict) and isinstance(spec.get("workers"), int):
                spec["workers"] = min(spec["workers"], 3 if self._rng.random() < 0.97 else 30)
            body = {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "metadata": {"name": self._name},
                "spec": spec,
            }
            if not await self._send("POST", JOBS, body):
                return
            await self._answered()
            for _ in range(self._rng.choice((2, 3, 4, 6))):
                await self._edit()
                await self._answered()

    async def _edit(self) -> None:
        rng, job = self._rng, await self._read()
        if job is None:
            return  # its time to live was over
        spec, status = job["spec"], job.get("status") or {}
        match rng.randrange(7):
            case 0:
                job["spec"] = generate.edit_spec(spec, rng, self._bold)
                job["spec"]["workers"] = spec["workers"]
                await self._send("PUT", self._path, job)
            case 1:
                change = {"suspend": not spec.get("suspend")}
                await self._send("PATCH", self._path, {"spec": change}, MERGE_PATCH)
            case 2:
                change = {rng.choice(list(generate.SPEC["properties"])): generate.junk(rng)}
                change.pop("workers", None)
                await self._send("PATCH", self._path, {"spec": change}, MERGE_PATCH)
            case 3 | 4:
                job["status"] = generate.edit_status(status, rng, self._bold / 2)
                await self._send("PUT", f"{self._path}/status", job)
            case 5:
                part = {rng.choice(list(generate.STATUS["properties"])): generate.junk(rng)}
                await self._send("PATCH", f"{self._path}/status", {"status": part}, MERGE_PATCH)
            case 6:
                await self._touch_a_pod()

    async def _touch_a_pod(self) -> None:
        """End, delete or change a pod of the job, as a kubelet or a person does."""
        rng = self._rng
        query = f"labelSelector={names.LABEL_JOB.replace('/', '%2F')}%3D{self._name}"
        pods = await self._api.items(f"{PODS}?{query}")
        if not pods:
            return
        path = f"{PODS}/{rng.choice(pods)['metadata']['name']}"
        match rng.randrange(3):
            case 0:
                await self._api.ask("DELETE", path, {"gracePeriodSeconds": rng.choice((0, 5))})
            case 1:
                status = {"phase": rng.choice(("Failed", "Succeeded")), "message": "by hand"}
                await self._api.ask("PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)
            case 2:
                labels = {rng.choice((names.LABEL_SLOT, names.LABEL_JOB)): rng.choice(("x", None))}
                change = {"metadata": {"labels": labels}}
                await self._api.ask("PATCH", path, change, MERGE_PATCH)

    async def _send(
        self, method: str, path: str, body: Json, kind: str = "application/json"
    ) -> bool:
        """Send an object; return whether it was taken. A conflict with the operator is none."""
        status, text = await self._api.ask(method, path, body, kind)
        if status in (404, 409):
            return False
        self._outcome.objects += 1
        if status < 400:
            self._outcome.accepted += 1
            return True
        self._outcome.refused += 1
        answer = json.loads(text)
        message = str(answer.get("message"))
        if status >= 500 or not FIELD.search(message):
            sent = json.dumps(body)[:1500]
            self._wrong(f"{method} was refused by {status} {message[:500]}; sent: {sent}")
        return False

    async def _answered(self) -> None:
        """Wait until the operator has answered what is there."""
        end = time.monotonic() + ANSWER_SECONDS
        job = await self._read()
        while job is not None and not _is_answered(job):
            if time.monotonic() > end:
                self._wrong(f"no word after {ANSWER_SECONDS:.0f} s: {json.dumps(job)[:3000]}")
                return
            await asyncio.sleep(POLL_SECONDS)
            job = await self._read()

    async def _read(self) -> Json | None:
        status, text = await self._api.ask("GET", self._path)
        return json.loads(text) if status == 200 else None

    def _wrong(self, what: str) -> None:
        self._outcome.violations.append(f"{self._name}: {what}")


def _is_answered(job: Json) -> bool:
    if job["spec"].get("managedBy", names.MANAGED_BY) != names.MANAGED_BY:
        return True
    status: dict[str, Any] = job.get("status") or {}
    said = {one["type"]: one for one in status.get("conditions") or ()}
    degraded = said.get(ConditionType.DEGRADED, {})
    generation = job["metadata"]["generation"]
    if degraded.get("reason") == "CannotBeRead":
        return bool(
            degraded.get("observedGeneration") == generation
            and FIELD.search(degraded.get("message", ""))
        )
    failed = said.get(ConditionType.FAILED, {}).get("status") == "True"
    succeeded = said.get(ConditionType.SUCCEEDED, {}).get("status") == "True"
    current = status.get("observedGeneration") == generation or failed or succeeded
    return current and set(ConditionType) <= set(said)
