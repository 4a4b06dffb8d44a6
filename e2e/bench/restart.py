"""What a killed rank costs, on real nodes: four ranks in four pods, one gets SIGKILL.

- `overhead_seconds`: from the death (its agent's word for it) until the agents of all four have
  said that their processes of the next attempt run: the median of ten kills in one job, with the
  first, the last and the worst.
- `ratio_to_torchrun`: seconds from the last step before a kill to the first after it, of a small
  GPT on gloo, divided by the same for the same script with four ranks in one pod under
  `torchrun --max-restarts`; medians of five kills each. That is torchrun's best case: with
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, for without it the restarted ranks wait for ever for
  addresses of the dead ones, which are still in the shared store (torch 2.13).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median

from e2e.cluster import Cluster
from e2e.cluster.images import WORKER_IMAGE, torch_site
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say
from e2e.support.job import Job, put_program

from .harness import report
from .harness.api_tier import Object
from .harness.node_tier import moment, namespace, node_tier

RANKS = 4
KILLS = 10
TORCH_KILLS = 5
STEPS_BETWEEN = 5
_EXAMPLE = REPOSITORY / "examples" / "char-gpt"
_BEGIN = re.compile(r"^\S+ \d+ ranks, from step ")
_STEP = re.compile(r"^(\S{26})\S* step \d+ ")
_KILL_ONE = """
import os, signal
for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
    words = open(f"/proc/{pid}/cmdline").read().split("\\0")
    if "/examples/train_plain.py" in words and "-m" not in words and "--" not in words:
        os.kill(int(pid), signal.SIGKILL)
        break
"""


def measure_overhead(cluster: Cluster) -> dict[str, float]:
    """Return the seconds from a death to the next attempt's processes."""
    with namespace(cluster, "bench-restart") as name:
        recovery = {"maxRestarts": 900, "maxRestartsWithoutProgress": 900}
        job = Job(cluster, name).apply(
            workers=RANKS,
            steps=1_000_000,
            step_seconds=0.2,
            checkpoint_every=STEPS_BETWEEN,
            spec={"recovery": recovery},
        )
        spent = []
        for number in range(1, KILLS + 1):
            job.wait_attempt(number, timeout_seconds=120)
            best = job.status().get("progress", {}).get("bestStep", 0)
            job.wait_step(best + STEPS_BETWEEN, attempt=number, timeout_seconds=60)
            job.kill_rank(number % RANKS)
            status = job.wait_attempt(number + 1, timeout_seconds=60)
            died_at = moment(status["recovery"]["restarts"][-1]["at"])
            spent.append(moment(status["attempt"]["runningAt"]) - died_at)
            say(f"kill {number}: {spent[-1]:.3f} s")
    return {
        "overhead_seconds": median(spent),
        "overhead_seconds_first": spent[0],
        "overhead_seconds_last": spent[-1],
        "overhead_seconds_worst": max(spent),
    }


class Training:
    """The small GPT, started one way or the other; rank 0 prints its steps into one pod's log."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, body: Object) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._rank_0 = f"{name}-0-0" if body["kind"] != "Pod" else name
        self._victim = f"{name}-{RANKS - 1}-0" if body["kind"] != "Pod" else name
        group = "/api/v1" if body["kind"] == "Pod" else "/apis/goodput.training/v1alpha1"
        plural = "pods" if body["kind"] == "Pod" else "trainingjobs"
        cluster.api.call("POST", f"{group}/namespaces/{namespace}/{plural}", body)

    def gap_seconds(self) -> float:
        """Kill a rank once steps are made; return the seconds from the last step to the next."""
        self._wait(lambda lives: len(lives[-1]) >= 2 * STEPS_BETWEEN)
        lives = len(self._lives())
        exec_in = ("exec", "-n", self._namespace, self._victim, "--")
        self._cluster.kubectl(*exec_in, "python3", "-c", _KILL_ONE)
        self._wait(lambda now: len(now) > lives and bool(now[lives]), 180)
        after = self._lives()
        return after[lives][0] - after[lives - 1][-1]

    def _lives(self) -> list[list[float]]:
        """Return when steps were finished, by the lives of rank 0's process."""
        said = self._cluster.kubectl(
            *("logs", "-n", self._namespace, self._rank_0, "--timestamps"), check=False
        )
        lives: list[list[float]] = [[]]
        for line in said.splitlines():
            if _BEGIN.match(line):
                lives.append([])
            elif found := _STEP.match(line):
                lives[-1].append(moment(found[1] + "Z"))
        return lives

    def _wait(
        self, enough: Callable[[list[list[float]]], bool], timeout_seconds: float = 240
    ) -> None:
        self._cluster.wait_until(lambda: enough(self._lives()), "steps", timeout_seconds, 0.5)


def measure_ratio(cluster: Cluster) -> dict[str, float]:
    """Return how long a gang stands still, of ours and under torchrun."""
    with namespace(cluster, "bench-torchrun") as name:
        put_program(cluster, name, "char-gpt", _EXAMPLE)
        ours = Training(cluster, name, "ours", _our_job(cluster, name))
        spent = {"ours": _kills("ours", ours)}
        cluster.kubectl("delete", "gtj", "ours", "-n", name, "--cascade=foreground")
        torchrun = Training(cluster, name, "torchrun", _torchrun_pod(cluster, name))
        spent["torchrun"] = _kills("torchrun", torchrun)
    seconds = {which: median(values) for which, values in spent.items()}
    return {
        "ratio_to_torchrun": seconds["ours"] / seconds["torchrun"],
        "step_to_step_seconds": seconds["ours"],
        "step_to_step_seconds_torchrun": seconds["torchrun"],
    }


def _kills(which: str, training: Training) -> list[float]:
    spent = []
    for number in range(1, TORCH_KILLS + 1):
        spent.append(training.gap_seconds())
        say(f"{which}, kill {number}: {spent[-1]:.2f} s without a step")
    return spent


def _our_job(cluster: Cluster, namespace: str) -> Object:
    command = ["python3", "/examples/train_plain.py"]
    return {
        "apiVersion": "goodput.training/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "ours"},
        "spec": {
            "workers": RANKS,
            "launcher": "Processes",
            "recovery": {"maxRestarts": 900, "maxRestartsWithoutProgress": 900},
            "checkpoint": {"directory": "/checkpoints"},
            "template": {"spec": _pod_spec(cluster, namespace, "ours", command)},
        },
    }


def _torchrun_pod(cluster: Cluster, namespace: str) -> Object:
    launcher = ["python3", "-m", "torch.distributed.run", "--standalone"]
    options = [f"--nproc-per-node={RANKS}", "--max-restarts=1000"]
    command = [*launcher, *options, "/examples/train_plain.py"]
    spec = _pod_spec(cluster, namespace, "torchrun", command) | {"restartPolicy": "Never"}
    spec["containers"][0]["env"].append(
        {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"}
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "torchrun"},
        "spec": spec,
    }


def _pod_spec(cluster: Cluster, namespace: str, name: str, command: list[str]) -> Object:
    checkpoints = cluster.shared_dir / namespace / name
    checkpoints.mkdir(parents=True)
    trainer = {
        "name": "trainer",
        "image": WORKER_IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "args": ["--steps=1000000", "--checkpoint-every=10", "--directory=/checkpoints"],
        "env": [
            {"name": "PYTHONPATH", "value": "/opt/site"},
            {"name": "OMP_NUM_THREADS", "value": "1"},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
        ],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "volumeMounts": [
            {"name": "examples", "mountPath": "/examples", "readOnly": True},
            {"name": "site", "mountPath": "/opt/site", "readOnly": True},
            {"name": "checkpoints", "mountPath": "/checkpoints"},
        ],
    }
    return {
        "terminationGracePeriodSeconds": 2,
        "containers": [trainer],
        "volumes": [
            {"name": "examples", "configMap": {"name": "char-gpt"}},
            {"name": "site", "hostPath": {"path": str(torch_site()), "type": "Directory"}},
            {"name": "checkpoints", "hostPath": {"path": str(checkpoints), "type": "Directory"}},
        ],
    }


def main() -> None:
    report.begin("restart")
    with node_tier() as cluster:
        report.finish(measure_overhead(cluster) | measure_ratio(cluster))


if __name__ == "__main__":
    main()
