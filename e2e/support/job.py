"""A TrainingJob of a test: apply it, watch it, and hold it to what was promised.

It runs `examples/counter` in plain Python: a synchronous all-reduce at every step, checkpoints
with the SDK, losses that show whether a sample was lost or taken twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, WaitTimeoutError
from e2e.cluster.api import MERGE_PATCH, ApiError
from e2e.cluster.images import WORKER_IMAGE
from e2e.cluster.paths import REPOSITORY

Object = dict[str, Any]

COUNTER = REPOSITORY / "examples" / "counter"
GPU = "nvidia.com/gpu"
TRAINER = "counter.py"
_PROGRAM = "counter"
PATIENCE_SECONDS = 120.0
"""How long a test waits for what must come, unless it says otherwise: longer than any of it takes
on a machine that others use, too. What is promised in seconds is asserted for itself."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Step:
    """One line that a rank printed: a finished step of an attempt, and its share of the batch.

    Attributes:
        at: when it was finished, in seconds since the epoch.
        seconds: what it took, without the checkpoint that was saved before it.
    """

    rank: int
    attempt: int
    step: int
    loss: float
    samples: Sequence[int]
    at: float
    seconds: float


def condition_of(status: Object, kind: str) -> Object:
    """Return a condition of a status; with status "Unknown" where there is none yet."""
    for one in status.get("conditions", []):
        if one["type"] == kind:
            found: Object = one
            return found
    return {"type": kind, "status": "Unknown", "reason": "", "message": ""}


class Job:
    """One TrainingJob, by its name and namespace; `apply` makes it."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "counter") -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.checkpoints = cluster.shared_dir / namespace / name
        """The job's checkpoint directory, as this host and every node see it."""

    # What a user does ---------------------------------------------------------------------

    def apply(
        self,
        *,
        workers: int = 3,
        steps: int = 100,
        step_seconds: float = 0.1,
        checkpoint_every: int = 10,
        arguments: tuple[str, ...] = (),
        accelerators: int = 1,
        labels: Mapping[str, str] | None = None,
        spec: Mapping[str, Any] | None = None,
        pod: Mapping[str, Any] | None = None,
        container: Mapping[str, Any] | None = None,
        beside: Sequence[Mapping[str, Any]] = (),
    ) -> Job:
        """Create the job and return it.

        Args:
            workers: pods in the gang, one rank each.
            steps: after which the training ends.
            step_seconds: how long each takes.
            checkpoint_every: steps.
            arguments: more of them for the trainer, such as `--peer-lost=hang`.
            accelerators: that each pod asks for; 0 for a job without.
            labels: of the job.
            spec: merged over the job's `spec`.
            pod: merged over the pods' `spec`.
            container: merged over the trainer's container.
            beside: more containers of each pod.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._apply_program()
        trainer: Object = {
            "name": "trainer",
            "image": WORKER_IMAGE,
            "imagePullPolicy": "Never",
            "command": ["python3", f"/examples/{TRAINER}"],
            "args": [
                f"--steps={steps}",
                f"--step-seconds={step_seconds}",
                f"--checkpoint-every={checkpoint_every}",
                *arguments,
            ],
            "resources": {
                "requests": {"cpu": "20m", "memory": "32Mi"},
                "limits": {GPU: str(accelerators)} if accelerators else {},
            },
            "volumeMounts": [
                {"name": "examples", "mountPath": "/examples", "readOnly": True},
                {"name": "checkpoints", "mountPath": "/checkpoints"},
            ],
        }
        template: Object = {
            "containers": [merged(trainer, container or {}), *beside],
            "terminationGracePeriodSeconds": 5,
            "volumes": [
                {"name": "examples", "configMap": {"name": _PROGRAM}},
                {
                    "name": "checkpoints",
                    "hostPath": {"path": str(self.checkpoints), "type": "Directory"},
                },
            ],
        }
        wanted: Object = {
            "workers": workers,
            "processesPerWorker": 1,
            "launcher": "Processes",
            "checkpoint": {"directory": "/checkpoints"},
            "template": {"spec": merged(template, pod or {})},
        }
        body = {
            "apiVersion": "goodput.training/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": self.name, "labels": dict(labels or {})},
            "spec": merged(wanted, spec or {}),
        }
        self.create(body)
        return self

    def create(self, body: Mapping[str, Any]) -> None:
        """Create the job from a whole object."""
        self.cluster.api.call("POST", self._jobs, body)

    def patch(self, spec: Mapping[str, Any]) -> None:
        """Change the job's `spec`, as `kubectl patch --type=merge` does."""
        self.cluster.api.call("PATCH", self._path, {"spec": dict(spec)}, MERGE_PATCH)

    def delete(self) -> None:
        """Delete the job; its pods follow by the garbage collector's work."""
        self.cluster.api.call("DELETE", self._path, {"propagationPolicy": "Background"})

    # What a user sees ---------------------------------------------------------------------

    def read(self) -> Object:
        """Return the whole object."""
        body: Object = self.cluster.api.call("GET", self._path)
        return body

    def exists(self) -> bool:
        """Tell whether there is such an object."""
        try:
            self.read()
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def status(self) -> Object:
        """Return the status, empty before the operator's first visit."""
        status: Object = self.read().get("status") or {}
        return status

    def condition(self, kind: str) -> Object:
        """Return a condition of the status; with status "Unknown" where there is none yet."""
        return condition_of(self.status(), kind)

    def pods(self) -> list[Object]:
        """Return the job's pods in the order of their names."""
        selector = f"labelSelector=goodput.training%2Fjob%3D{self.name}"
        listed = self.cluster.api.call(
            "GET", f"/api/v1/namespaces/{self.namespace}/pods?{selector}"
        )
        return sorted(listed["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, slot: int) -> Object:
        """Return the newest pod of a slot.

        Raises:
            AssertionError: the slot has none.
        """
        incarnations = {
            int(pod["metadata"]["labels"]["goodput.training/incarnation"]): pod
            for pod in self.pods()
            if pod["metadata"]["labels"]["goodput.training/slot"] == str(slot)
        }
        assert incarnations, f"slot {slot} of {self} has no pod"
        return incarnations[max(incarnations)]

    def node_of(self, slot: int) -> str:
        """Return the node of a slot's newest pod."""
        return str(self.pod(slot)["spec"]["nodeName"])

    def slot_away_from(self, node: str) -> int:
        """Return the first slot whose pod is not on `node`.

        Raises:
            AssertionError: all are there.
        """
        slots = range(self.read()["spec"]["workers"])
        found = next((slot for slot in slots if self.node_of(slot) != node), None)
        assert found is not None, f"all workers of {self} are on {node}"
        return found

    def logs(self, pod: str, lines: int | None = None) -> str:
        """Return what a pod's trainer has printed; empty while it, or its node, is away.

        `lines` asks for the last ones only.
        """
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log?container=trainer"
        if lines is not None:
            path += f"&tailLines={lines}"
        try:
            return str(self.cluster.api.call("GET", path, timeout_seconds=3))
        except (ApiError, OSError):
            return ""

    def steps(self, slot: int) -> list[Step]:
        """Return the steps that a slot's newest pod has printed, in that order."""
        return steps_of(self.logs(self.pod(slot)["metadata"]["name"]))

    def redone_steps(self, attempt: int) -> int:
        """Return how many finished steps `attempt` had to do again."""
        lines = [line for pod in self.pods() for line in self._said(pod)]
        last = max(line.step for line in lines if line.attempt < attempt)
        first = min(line.step for line in lines if line.attempt == attempt)
        return last + 1 - first

    def trainers(self, pod: Object) -> list[int]:
        """Return the pids of a pod's training processes, also where nobody hears of them."""
        found = self.cluster.pids_of(pod)
        return [pid for pid, command in found if command.startswith("python3 /examples/")]

    def ledger(self) -> dict[str, float]:
        """Return accelerator-seconds by bucket; `unsettled` is one of them."""
        ledger = self.status().get("ledger", {})
        seconds = {
            bucket: milliseconds / 1000
            for bucket, milliseconds in ledger.get("acceleratorMilliseconds", {}).items()
        }
        return {**seconds, "unsettled": ledger.get("unsettledMilliseconds", 0) / 1000}

    # Waiting ------------------------------------------------------------------------------

    def wait_for(
        self,
        predicate: Callable[[Object], object],
        what: str,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> Object:
        """Return the first status of which `predicate` is true.

        Raises:
            WaitTimeoutError: there was none in time; the message says what was waited for and
                how the job stood.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            status = self.status()
            if predicate(status):
                return status
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"{self}: waited {timeout_seconds:g} s for {what}, in vain; {brief(status)}"
                )
            time.sleep(_POLL_SECONDS)

    def wait_reason(
        self, kind: str, reason: str, timeout_seconds: float = PATIENCE_SECONDS
    ) -> Object:
        """Return the first status whose condition `kind` has this reason.

        Raises:
            WaitTimeoutError: none had it in time.
        """
        return self.wait_for(
            lambda status: condition_of(status, kind)["reason"] == reason,
            f"{kind} to have the reason {reason}",
            timeout_seconds,
        )

    def wait_phase(self, *phases: str, timeout_seconds: float = PATIENCE_SECONDS) -> Object:
        """Return the status once the phase is one of `phases`.

        Raises:
            WaitTimeoutError: it was none of them in time.
        """
        return self.wait_for(
            lambda status: status.get("phase") in phases,
            f"phase {' or '.join(phases)}",
            timeout_seconds,
        )

    def wait_step(
        self, step: int, attempt: int = 1, timeout_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Return once rank 0 of `attempt`, or of a later one, has printed `step` or a later one.

        The trainer's own output is looked at, not the status, which may be seconds older.

        Raises:
            WaitTimeoutError: it did not in time.
        """

        def printed() -> bool:
            standing = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
            lines = [line for pod in standing for line in self._said(pod)]
            return any(line.attempt >= attempt and line.step >= step for line in lines)

        self.cluster.wait_until(
            printed, f"step {step} of attempt {attempt} of {self}", timeout_seconds
        )

    def wait_attempt(self, number: int, timeout_seconds: float = PATIENCE_SECONDS) -> Object:
        """Return the status once attempt `number`, or a later one, runs on all workers.

        Raises:
            WaitTimeoutError: it did not in time.
        """
        return self.wait_for(
            lambda status: (
                (attempt := status.get("attempt") or {}).get("number", 0) >= number
                and attempt["state"] == "Running"
            ),
            f"attempt {number} to run",
            timeout_seconds,
        )

    # Harm ---------------------------------------------------------------------------------

    def kill_rank(self, slot: int) -> list[int]:
        """SIGKILL the training processes of a slot's pod, not its agent; return their pids."""
        name = self.pod(slot)["metadata"]["name"]
        return self.cluster.kill_process(self.namespace, name, r"^python3 /examples/")

    # What was promised --------------------------------------------------------------------

    def assert_succeeded(self, steps: int) -> None:
        """Hold the job to its end: Succeeded, with the last step durable."""
        status = self.status()
        assert status.get("phase") == "Succeeded", f"{self} has not succeeded: {brief(status)}"
        durable = status["checkpoint"]["lastDurableStep"]
        assert durable == steps, f"{self}: step {durable} is durable, the last one is {steps}"

    def assert_every_second_is_accounted_for(self) -> None:
        """Hold the ledger to its sum: accelerators × time since creation, to the millisecond."""
        body = self.read()
        ledger = body["status"]["ledger"]
        lived = _time(ledger["accountedUntil"]) - _time(body["metadata"]["creationTimestamp"])
        expected = round(lived.total_seconds() * 1000) * ledger["accelerators"]
        found = sum(ledger["acceleratorMilliseconds"].values())
        found += ledger.get("unsettledMilliseconds", 0)
        assert found == expected, (
            f"{self}: the buckets sum to {found} accelerator-milliseconds, "
            f"{ledger['accelerators']} accelerators lived {expected}: {ledger}"
        )
        self._assert_prices_are_losses(body["status"])

    def _assert_prices_are_losses(self, status: Object) -> None:
        """Hold the incidents to theirs: together they have cost what was lost."""
        prices = [one["acceleratorMilliseconds"] for one in status["incidents"]]
        prices.append(status["ledger"]["earlierIncidentsMilliseconds"])
        for bucket in ("lost_work", "detection", "recovery", "unknown"):
            paid = sum(price.get(bucket, 0) for price in prices)
            lost = status["ledger"]["acceleratorMilliseconds"].get(bucket, 0)
            assert paid == lost, f"{self}: incidents have paid {paid} of {lost} ms of {bucket}"

    def assert_losses_agree(self) -> None:
        """Hold all ranks and all attempts to one loss per step: none lost, none counted twice."""
        losses: dict[int, set[float]] = {}
        for pod in self.pods():
            for line in self._said(pod):
                losses.setdefault(line.step, set()).add(line.loss)
        differing = {step: sorted(seen) for step, seen in losses.items() if len(seen) > 1}
        assert not differing, f"{self}: these steps had more than one loss: {differing}"
        assert losses, f"{self}: no pod has printed a step"

    def assert_pods_untouched(self, before: list[Object]) -> None:
        """Hold recovery to its thrift: the pods of `before` are the pods of now."""
        now = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.pods()}
        then = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in before}
        assert now == then, f"{self}: pods were {then} and are {now}"

    def __str__(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"

    # ----------------------------------------------------------------------------------------

    @property
    def _jobs(self) -> str:
        return f"/apis/goodput.training/v1alpha1/namespaces/{self.namespace}/trainingjobs"

    @property
    def _path(self) -> str:
        return f"{self._jobs}/{self.name}"

    def _said(self, pod: Object) -> list[Step]:
        return steps_of(self.logs(pod["metadata"]["name"]))

    def _apply_program(self) -> None:
        put_program(self.cluster, self.namespace, _PROGRAM, COUNTER)


def avoiding(node: str) -> Object:
    """Return what `apply` merges over the pods' spec so that none of them is on `node`."""
    name = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [name]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return {"affinity": {"nodeAffinity": required}}


def put_program(cluster: Cluster, namespace: str, name: str, directory: Path) -> None:
    """Bring the Python files of an example into a ConfigMap."""
    data = {path.name: path.read_text() for path in sorted(directory.glob("*.py"))}
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": data,
    }
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    try:
        cluster.api.call("POST", path, body)
    except ApiError as refused:
        if refused.status != 409:
            raise
        cluster.api.call("PUT", f"{path}/{name}", body)


def steps_of(log: str) -> list[Step]:
    """Return the steps in a trainer's output; other lines are passed over."""
    steps = []
    for line in log.splitlines():
        if line.startswith('{"rank"'):
            try:
                steps.append(Step(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # the line of a process that was killed while it wrote
    return steps


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Object:
    """Return `base` with `over` laid on it, mappings merged and all else replaced."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def brief(status: Mapping[str, Any]) -> str:
    """Return how a job stands, in a line."""
    if not status:
        return "it has no status yet"
    attempt = status.get("attempt") or {}
    told = [
        f"{one['type']}={one['status']} ({one['reason']}: {one.get('message', '')})"
        for one in status.get("conditions", [])
        if one["type"] in ("TemplateValid", "Admitted", "Running", "Recovering", "Failed")
    ]
    return (
        f"it is {status.get('phase')}, workers {status.get('workers', {}).get('text')}, "
        f"attempt {attempt.get('number')} {attempt.get('state')}, "
        f"step {status.get('progress', {}).get('step')}; {'; '.join(told)}"
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
