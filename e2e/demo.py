"""`make demo`: watch one training job survive a killed process and a lost node.

Makes what it needs (cluster, images, torch), installs the operator with its chart, trains
`examples/char-gpt` on four workers, breaks things and tells what happens while it happens.
Removes all of it at the end, unless KEEP=1; a cluster that was up before stays up.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from e2e.cluster import Cluster, ClusterError, WaitTimeoutError, binaries, unavailable_reason
from e2e.cluster.api import ApiError
from e2e.cluster.images import build_static_images, torch_site
from e2e.cluster.paths import REPOSITORY, cache_dir
from e2e.cluster.run import run
from e2e.support import char_gpt
from e2e.support.evidence import collect
from e2e.support.installation import NAMESPACE as OPERATOR_NAMESPACE
from e2e.support.installation import Operator
from e2e.support.job import Job, Object, brief
from e2e.support.suite import is_up

NAMESPACE = "goodput-demo"
WORKERS = 4
GPUS_PER_WORKER = 4
"""Two workers to a node of eight: the gang takes two nodes, and the third is the way out."""
STEPS = 240
CHECKPOINT_EVERY = 20
_STEP_LINE = re.compile(r"step (\d+) loss ([\d.]+)")


def main() -> int:
    """Play the demo and return the exit status: 0, 1 on failure, 130 when interrupted."""
    screen = Screen()
    try:
        with stage(screen) as cluster:
            play(cluster, screen)
    except KeyboardInterrupt:
        return 130
    except (ClusterError, AssertionError, OSError) as failed:
        screen.error(str(failed))
        return 1
    return 0


def play(cluster: Cluster, screen: Screen) -> None:
    """Apply the job, harm it twice, and show what it cost."""
    job = Job(cluster, NAMESPACE, char_gpt.NAME)
    story = Story(job, screen)
    try:
        screen.chapter(f"a job of {WORKERS} workers with {GPUS_PER_WORKER} accelerators each")
        apply(job)
        screen.line(f"kubectl apply -f examples/{char_gpt.NAME}/job.yaml")
        story.follow(lambda status: step_of(status) >= 2 * CHECKPOINT_EVERY, 120)
        lose_a_process(job, story, screen)
        story.follow(lambda status: durable_of(status) >= 4 * CHECKPOINT_EVERY, 120)
        with lose_a_node(job, story, screen):
            screen.chapter("to the end")
            story.follow(lambda status: status.get("phase") == "Succeeded", 300)
    except (ClusterError, AssertionError) as failed:
        raise ClusterError(f"{failed}\n{collect(cluster, NAMESPACE, 'demo')}") from failed
    job.assert_succeeded(STEPS)
    settle(job, screen)
    screen.chapter(f"kubectl goodput timeline {job.name}")
    screen.text(goodput(job, "timeline"))
    page = cache_dir() / "demo.html"
    page.write_text(goodput(job, "timeline", "-o", "html"), encoding="utf-8")
    screen.line(f"the same as a page for a browser: {page}")


def goodput(job: Job, command: str, *options: str) -> str:
    """Return what `kubectl goodput` prints of the job.

    Raises:
        ClusterError: it failed.
    """
    kubectl = binaries.ensure(["kubectl"])["kubectl"]
    argv = [sys.executable, "-m", "goodput_operator.cli", command, job.name, *options]
    where = [f"--namespace={job.namespace}", f"--kubeconfig={job.cluster.kubeconfig}"]
    path = {"PYTHONPATH": str(REPOSITORY / "operator"), "PATH": f"{kubectl.parent}:{os.defpath}"}
    return run([*argv, *where], env=os.environ | path).stdout


# The stage --------------------------------------------------------------------------------------


@contextmanager
def stage(screen: Screen) -> Iterator[Cluster]:
    """Give a cluster with the operator and all that the job needs; clear up at the end."""
    reason = None if is_up() else unavailable_reason("node")
    if reason is not None:
        raise ClusterError(f"the demo needs real nodes, and cannot have them here: {reason}")
    keep = os.environ.get("KEEP", "") not in {"", "0"}
    found = is_up()
    screen.chapter("a Kubernetes on this machine")
    try:
        cluster = Cluster.up() if not found else Cluster.attach()
        for archive in build_static_images():
            cluster.load_image(archive)
        version = cluster.api.call("GET", "/version")["gitVersion"]
        screen.line(f"{len(cluster.nodes)} nodes are Ready: {' '.join(cluster.nodes)} ({version})")
        screen.line(f"torch for the workers is at {torch_site()}")
        operator = Operator.install(cluster)
        pods = [pod["metadata"]["name"] for pod in operator.pods()]
        screen.line(
            f"helm install goodput-operator: {len(pods)} replicas, {operator.leader()} leads"
        )
        _fresh_namespace(cluster)
        yield cluster
        if keep:
            screen.how_to_look_further(cluster)
    except KeyboardInterrupt:
        screen.line("interrupted; clearing up")
        raise
    finally:
        if not keep:
            _clear(cluster if found else None, screen)


def _fresh_namespace(cluster: Cluster) -> None:
    _delete_namespace(cluster)
    path = f"/api/v1/namespaces/{NAMESPACE}"
    cluster.wait_until(lambda: _is_gone(cluster, path), "the former demo to go", 60)
    shutil.rmtree(cluster.shared_dir / NAMESPACE, ignore_errors=True)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.api.call("POST", "/api/v1/namespaces", body)


def _delete_namespace(cluster: Cluster) -> None:
    try:
        cluster.api.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    except ApiError as refused:
        if refused.status not in {404, 409}:
            raise


def _is_gone(cluster: Cluster, path: str) -> bool:
    try:
        cluster.api.call("GET", path)
    except ApiError as refused:
        return refused.status == 404
    return False


def _clear(found: Cluster | None, screen: Screen) -> None:
    if found is None:
        Cluster.down()
        screen.line("the cluster is removed; KEEP=1 make demo leaves it up")
    else:
        _delete_namespace(found)
        screen.line("the job is removed; the cluster was up before and stays up")


# The job ----------------------------------------------------------------------------------------


def apply(job: Job) -> None:
    """Create the example's job as it is committed, with what this cluster calls its own."""
    arguments = [f"--steps={STEPS}", f"--checkpoint-every={CHECKPOINT_EVERY}"]
    char_gpt.create(job, "job.yaml", arguments, GPUS_PER_WORKER)


def lose_a_process(job: Job, story: Story, screen: Screen) -> None:
    """SIGKILL one training process and follow the recovery."""
    screen.chapter("one training process dies")
    before, attempt = job.pods(), job.status()["attempt"]["number"]
    at = datetime.now(UTC)
    (pid, *_) = job.kill_rank(2)
    screen.line(f"SIGKILL for process {pid}, the training process of worker 2", loud=True)
    story.recovery(at, attempt + 1, 90)
    job.assert_pods_untouched(before)
    screen.line("no pod was deleted or created for that")


@contextmanager
def lose_a_node(job: Job, story: Story, screen: Screen) -> Iterator[None]:
    """Take a node's power away and follow the recovery; the node boots again at the end."""
    screen.chapter("a whole node dies")
    attempt = job.status()["attempt"]["number"]
    node, slots = victim(job)
    at = datetime.now(UTC)
    job.cluster.lose_node(node)
    try:
        workers = " and ".join(map(str, slots))
        screen.line(f"{node} has lost its power, and with it the workers {workers}", loud=True)
        story.recovery(at, attempt + 1, 180)
        moved = ", ".join(f"worker {slot} on {job.node_of(slot)}" for slot in slots)
        screen.line(f"now {moved}")
        yield
    finally:
        job.cluster.restore_node(node)


def victim(job: Job) -> tuple[str, list[int]]:
    """Return a node with workers and, if there is one, without the operator's leader."""
    slots: dict[str, list[int]] = {}
    for slot in range(WORKERS):
        slots.setdefault(job.node_of(slot), []).append(slot)
    operator = Operator(job.cluster)
    leader = operator.leader()
    leads = {
        pod["spec"].get("nodeName") for pod in operator.pods() if pod["metadata"]["name"] == leader
    }
    return min(slots.items(), key=lambda item: (item[0] in leads, item[0]))


def settle(job: Job, screen: Screen) -> None:
    """Show where the accelerators' time went."""
    screen.chapter("what it cost")
    job.assert_every_second_is_accounted_for()
    ledger = {bucket: seconds for bucket, seconds in job.ledger().items() if seconds}
    whole = sum(ledger.values())
    gpus = job.status()["ledger"]["accelerators"]
    screen.text(f"{'':14} {'seconds':>8}  of {gpus} accelerators, each counted once")
    for bucket, seconds in sorted(ledger.items(), key=lambda item: -item[1]):
        bar = "█" * round(seconds / whole * 40)
        screen.text(f"{bucket:>14} {seconds:8.1f} {seconds / whole:6.1%} {bar}")
    screen.text(f"{'sum':>14} {whole:8.1f} = {gpus} × {whole / gpus:.1f} s since kubectl apply")
    screen.text("A short life with two accidents; in a long one the start-up hardly counts.")
    screen.text("\n" + job.cluster.kubectl("get", "gtj", "-n", NAMESPACE))


# Telling ----------------------------------------------------------------------------------------


def step_of(status: Mapping[str, Any]) -> int:
    """Return the newest finished step, 0 before the first."""
    return int((status.get("progress") or {}).get("step") or 0)


def durable_of(status: Mapping[str, Any]) -> int:
    """Return the step of the newest durable checkpoint, 0 before the first."""
    return int((status.get("checkpoint") or {}).get("lastDurableStep") or 0)


@dataclass(slots=True)
class Story:
    """Tells what has changed in a job since it last looked."""

    job: Job
    screen: Screen
    _seen: set[str] = field(default_factory=set)
    _step: int = 0

    def follow(self, until: Callable[[Object], object], timeout_seconds: float) -> None:
        """Tell what happens until `until` is true of the status.

        Raises:
            WaitTimeoutError: it did not become true in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            status = self.job.status()
            self._tell(status)
            if until(status):
                return
            if status.get("phase") == "Failed":
                raise ClusterError(f"the job has failed: {brief(status)}")
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"{self.job} is not there after {timeout_seconds:g} s: {brief(status)}"
                )
            time.sleep(0.25)

    def recovery(self, since: datetime, attempt: int, timeout_seconds: float) -> None:
        """Tell how attempt `attempt` came to its first step, with the seconds since `since`."""
        told: set[str] = set()
        deadline = time.monotonic() + timeout_seconds
        while "firstStepAt" not in told:
            status = self.job.status()
            for key, at, text in _milestones(status, attempt):
                if key not in told:
                    told.add(key)
                    seconds = (at - since).total_seconds()
                    self.screen.line(f"{seconds:6.1f} s  {text}", good=key == "firstStepAt")
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"attempt {attempt} made no step in {timeout_seconds:g} s; {brief(status)}"
                )
            time.sleep(0.05)
        self._seen.add(f"attempt {attempt}")

    def _tell(self, status: Object) -> None:
        workers = status.get("workers") or {}
        if workers.get("bound") == workers.get("wanted") and workers:
            nodes = sorted({pod["spec"].get("nodeName", "?") for pod in self.job.pods()})
            self._once("bound", f"all {workers['wanted']} workers have a place: {' '.join(nodes)}")
        attempt = status.get("attempt") or {}
        if attempt.get("state") == "Running":
            where = f"{attempt['masterAddress']}:{attempt['masterPort']}"
            text = (
                f"attempt {attempt['number']}: a world of {attempt['worldSize']} ranks at {where}"
            )
            self._once(f"attempt {attempt['number']}", text)
        if status.get("phase") in {"Succeeded", "Failed"}:
            self._once("end", f"{status['phase']}", good=status["phase"] == "Succeeded")
        else:
            self._tell_step(status)

    def _tell_step(self, status: Object) -> None:
        for slot in status.get("slots") or ():
            if slot.get("rank") != 0:
                continue
            pod = f"{self.job.name}-{slot['slot']}-{slot.get('incarnation', 0)}"
            lines = _STEP_LINE.findall(self.job.logs(pod, lines=5))
            if lines and abs(int(lines[-1][0]) - self._step) >= 10:
                self._step = int(lines[-1][0])
                self.screen.line(f"step {self._step:4}  loss {lines[-1][1]}")

    def _once(self, key: str, text: str, good: bool = False) -> None:
        if key not in self._seen:
            self._seen.add(key)
            self.screen.line(text, good=good)


def _milestones(status: Object, attempt: int) -> Iterator[tuple[str, datetime, str]]:
    """Yield what is known of the way to an attempt: key, time, words; in order of time."""
    now = status.get("attempt") or {}
    if now.get("number", 0) == attempt - 1 and "stoppingAt" in now:
        yield "noticed", _time(now["stoppingAt"]), f"noticed: {_short(now['message'])}"
    if now.get("number") != attempt:
        return
    if "openedAt" in now:
        step = durable_of(status)
        yield "openedAt", _time(now["openedAt"]), f"attempt {attempt} opens, from step {step}"
    if "runningAt" in now:
        yield "runningAt", _time(now["runningAt"]), f"all {now['worldSize']} processes run again"
    if "firstStepAt" in now:
        yield "firstStepAt", _time(now["firstStepAt"]), "the first step is done: training goes on"


def _short(text: str) -> str:
    first = text.partition("\n")[0]
    return first if len(first) <= 90 else first[:89] + "…"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Screen:
    """Prints for people: coloured on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n{self._paint('1;36', title)}", flush=True)

    def line(self, text: str, *, good: bool = False, loud: bool = False) -> None:
        """Print one line, with the seconds since the beginning."""
        stamp = self._paint("2", f"{time.monotonic() - self._began:6.1f}")
        colour = "1;32" if good else "1;31" if loud else ""
        print(f"{stamp}  {self._paint(colour, text)}".rstrip(), flush=True)

    def text(self, text: str) -> None:
        """Print what another program has written."""
        print(text.rstrip(), flush=True)

    def error(self, text: str) -> None:
        """Say why the demo ends early."""
        print(f"{self._paint('1;31', 'error:')} {text}", file=sys.stderr, flush=True)

    def how_to_look_further(self, cluster: Cluster) -> None:
        """Say how to look at what was left."""
        self.chapter("to look further")
        self.text(
            f"  export KUBECONFIG={cluster.kubeconfig}\n"
            f"  kubectl -n {NAMESPACE} describe gtj {char_gpt.NAME}\n"
            f"  kubectl -n {OPERATOR_NAMESPACE} logs -l app.kubernetes.io/name=goodput-operator\n"
            "  make cluster-down"
        )

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if colour and self._coloured and text else text


if __name__ == "__main__":
    sys.exit(main())
