"""`kubectl goodput` against a real API server, as a user types it."""

import base64
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import binaries
from e2e.cluster.cluster import Cluster
from goodput_operator import cli
from goodput_operator.cli import access
from goodput_operator.errors import ForbiddenError, NotFoundError
from goodput_operator.reconcile import event
from tests.contract.test_admission import JOBS, MINIMAL
from tests.unit.cli.conftest import at, condition, status

SOURCES = Path(cli.__file__).parents[2]
STATUS = status()
STATUS["ledger"]["accountedUntil"] = "2199-01-01T00:00:00.000Z"  # the operator is never away
WAITS: dict[str, Any] = {
    "phase": "Queued",
    "reason": "DoesNotFit",
    "selector": "goodput.training/job=big",
    "conditions": [condition("Admitted", "False", "DoesNotFit", "no node has 8 free GPUs")],
    "workers": {"wanted": 4},
    "ledger": {"acceleratorMilliseconds": {"queued": 40_000_000}, "accelerators": 32},
    "queuedSince": at(-1000),
}


def create(cluster: Cluster, namespace: str, name: str, status: dict[str, Any] | None) -> str:
    """Create a job as its user would, and write its status as the operator would."""
    path = JOBS.format(namespace)
    made = cluster.api.call("POST", path, {**MINIMAL, "metadata": {"name": name}})
    if status is not None:
        cluster.api.call("PUT", f"{path}/{name}/status", {**made, "status": status})
    uid: str = made["metadata"]["uid"]
    return uid


class Cli:
    """The command line, through the kubectl of the cluster."""

    def __init__(self, cluster: Cluster, bin_: Path, namespace: str) -> None:
        self.kubeconfig = cluster.kubeconfig
        self.bin = bin_
        self.namespace = namespace

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        base = {
            "PATH": str(self.bin),
            "PYTHONPATH": str(SOURCES),
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(self.bin),
        }
        if "PYTHONPYCACHEPREFIX" in os.environ:
            base["PYTHONPYCACHEPREFIX"] = os.environ["PYTHONPYCACHEPREFIX"]
        return subprocess.run(
            [sys.executable, "-m", "goodput_operator.cli", *arguments],
            env=base | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def said(self, command: str, *arguments: str, **environment: str) -> str:
        ended = self(command, *arguments, "-n", self.namespace, **environment)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout


@pytest.fixture
def goodput(cluster: Cluster, trainingjobs: None, namespace: str, tmp_path: Path) -> Cli:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "kubectl").symlink_to(binaries.ensure(["kubectl"])["kubectl"])
    return Cli(cluster, bin_, namespace)


@pytest.fixture
def uid(cluster: Cluster, goodput: Cli, namespace: str) -> str:
    """A job `gpt` that trains, and a job `big` that waits; the UID of the former."""
    create(cluster, namespace, "big", WAITS)
    return create(cluster, namespace, "gpt", STATUS)


def test_top_shows_who_has_lost_most(goodput: Cli, uid: str) -> None:
    rows = [one.split() for one in goodput.said("top").splitlines()]
    assert [row[0] for row in rows[:3]] == ["JOB", "big", "gpt"]
    assert rows[1][3:6] == ["0.0%", "11.1", "h"]
    assert rows[2][3] == "90.0%"
    everywhere = goodput("top", "-A")
    assert everywhere.returncode == 0
    assert everywhere.stdout.startswith("NAMESPACE")
    assert goodput.namespace in everywhere.stdout


def test_status_shows_how_far_a_job_is(goodput: Cli, uid: str) -> None:
    text = goodput.said("status", "gpt", "--steps", "2000")
    assert text.startswith(f"{goodput.namespace}/gpt trains (AllProcessesStarted)\n")
    assert "Step        1,410 of 2,000, 500 ms each (2.0/s)" in text
    assert "if nothing breaks" in text
    assert "Checkpoint  step 1,400" in text


def test_status_is_there_for_programs_too(goodput: Cli, uid: str) -> None:
    told = json.loads(goodput.said("status", "gpt", "-o", "json"))
    assert (told["step"], told["eta"]) == (1410, None)
    assert told["figures"]["goodput"] == 0.9
    assert told["figures"]["modelFlopsUtilization"] is None


def test_watching_a_job_that_has_finished_ends(cluster: Cluster, goodput: Cli) -> None:
    done = {**STATUS, "phase": "Succeeded", "finishedAt": at(-1)}
    create(cluster, goodput.namespace, "done", done)
    assert goodput.said("status", "gtj/done", "--watch").count("has succeeded") == 1


def test_explain_tells_why_what_it_cost_and_what_was_told(
    cluster: Cluster, goodput: Cli, uid: str
) -> None:
    job = {"metadata": {"name": "gpt", "namespace": goodput.namespace, "uid": uid}}
    told = event(job, "ProcessFailed", "rank 3 of worker 1 ended", datetime.now(UTC), warning=True)
    path = f"/apis/events.k8s.io/v1/namespaces/{goodput.namespace}/events"
    cluster.api.call("POST", path, told)
    text = goodput.said("explain", "gpt")
    assert "gpt is productive now.\n" in text
    assert "ProcessFailed ended attempt 1" in text
    assert "Decision: RestartProcesses: all 4 workers have kept their pods." in text
    assert "Its price: 28.0 s of accelerator time and 5 steps" in text
    assert "rank 3 of worker 1 ended" in text.partition("The newest events")[2]


def test_explain_tells_what_a_job_waits_for(goodput: Cli, uid: str) -> None:
    text = goodput.said("explain", "big")
    assert "big is not productive now.\n  It waits for room for its gang of 4 workers" in text
    assert "DoesNotFit: no node has 8 free GPUs." in text
    assert "What you can do\n  Free or add nodes" in text


def test_explain_names_the_pod_that_keeps_a_job_from_starting(
    cluster: Cluster, goodput: Cli
) -> None:
    starting = {
        **WAITS,
        "phase": "Starting",
        "conditions": [condition("Running", "False", "Forming", "attempt 1 is forming")],
        "attempt": {"number": 1, "state": "Forming", "openedAt": at(-5)},
    }
    create(cluster, goodput.namespace, "slow", starting)
    pods = f"/api/v1/namespaces/{goodput.namespace}/pods"
    pod = {
        "metadata": {"name": "slow-0-0", "labels": {"goodput.training/job": "slow"}},
        "spec": {
            "containers": [{"name": "trainer", "image": "example.com/none:1"}],
            "nodeSelector": {"goodput.training/nowhere": "true"},
        },
    }
    accounts = f"/api/v1/namespaces/{goodput.namespace}/serviceaccounts"
    cluster.wait_until(lambda: cluster.api.call("GET", accounts)["items"], "an account", 30)
    cluster.api.call("POST", pods, pod)

    def unschedulable() -> bool:
        status = cluster.api.call("GET", f"{pods}/slow-0-0")["status"]
        return any(one["type"] == "PodScheduled" for one in status.get("conditions") or ())

    cluster.wait_until(unschedulable, "the scheduler's word", 30)
    text = goodput.said("explain", "slow")
    assert "0 of 4 workers have a node; all start together." in text
    assert "  Pod slow-0-0 has no node: " in text


def test_a_job_that_no_operator_has_seen_is_explained(cluster: Cluster, goodput: Cli) -> None:
    create(cluster, goodput.namespace, "new", None)
    assert "No operator has looked at it yet." in goodput.said("explain", "new")
    assert "not looked at by an operator yet" in goodput.said("status", "new")
    assert "has not run yet" in goodput.said("timeline", "new")


@pytest.mark.parametrize("form", ["text", "json", "csv", "html"])
def test_a_timeline_comes_in_every_form(goodput: Cli, uid: str, form: str) -> None:
    text = goodput.said("timeline", "gpt", "-o", form)
    assert "ProcessFailed" in text
    if form == "json":
        assert json.loads(text)["interruptions"][0]["stages"][0]["seconds"] == 1.0
    if form == "csv":
        assert text.startswith("attempt,kind,name,begin,end,seconds,accelerator_seconds\n1,attempt")
    if form == "html":
        assert text.startswith("<!doctype html>")


@pytest.mark.parametrize("command", ["status", "explain", "timeline"])
def test_a_job_that_is_not_there_is_a_sentence(goodput: Cli, command: str) -> None:
    ended = goodput(command, "nobody", "-n", goodput.namespace)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"error: there is no TrainingJob nobody in namespace {goodput.namespace} "
        "(kubectl goodput top -A shows all)\n"
    )


def test_the_namespace_of_the_context_is_meant(goodput: Cli, uid: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text(goodput.kubeconfig.read_text())
    environment = {"KUBECONFIG": str(own), "PATH": str(goodput.bin)}
    subprocess.run(
        ["kubectl", "config", "set-context", "--current", f"--namespace={goodput.namespace}"],
        env=environment,
        check=True,
        capture_output=True,
    )
    ended = goodput("status", "gpt", KUBECONFIG=str(own))
    assert ended.stdout.startswith(f"{goodput.namespace}/gpt trains")
    ended = goodput("status", "gpt", "--context", "nowhere", "--kubeconfig", str(own))
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr


def test_an_api_server_that_is_away_is_a_sentence(goodput: Cli, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        )
    )
    ended = goodput("top", KUBECONFIG=str(away))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert "127.0.0.1:1 was refused" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def account(cluster: Cluster, namespace: str) -> str:
    """The token of a service account without any right."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.api.call("POST", path, {"metadata": {"name": "ada"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = cluster.api.call("POST", f"{path}/ada/token", request)
    token: str = answer["status"]["token"]
    return token


def grant(cluster: Cluster, namespace: str, *rules: dict[str, list[str]]) -> None:
    """Give ada these rights."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    cluster.api.call("POST", f"{path}/roles", {"metadata": {"name": "r"}, "rules": list(rules)})
    binding = {
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "ada", "namespace": namespace}],
    }
    cluster.api.call("POST", f"{path}/rolebindings", binding)


@pytest.fixture
def as_ada(cluster: Cluster, goodput: Cli, account: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a user without any right, by a kubeconfig of her own."""
    authority = base64.b64encode(authority_of(cluster, goodput.namespace).encode()).decode()
    server = {"server": cluster.api_url, "certificate-authority-data": authority}
    path = tmp_path / "ada"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": server}],
                "users": [{"name": "ada", "user": {"token": account}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "ada"}}],
                "current-context": "c",
            }
        )
    )
    return {"KUBECONFIG": str(path)}


def authority_of(cluster: Cluster, namespace: str) -> str:
    """The CA that a pod of the namespace is given."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def published() -> bool:
        maps = cluster.api.call("GET", path)["items"]
        return any(one["metadata"]["name"] == "kube-root-ca.crt" for one in maps)

    cluster.wait_until(published, "the CA of the namespace", 30)
    authority: str = cluster.api.call("GET", f"{path}/kube-root-ca.crt")["data"]["ca.crt"]
    return authority


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [(("top",), "list"), (("status", "gpt"), "get"), (("explain", "gpt"), "get")],
)
def test_a_user_without_rights_is_told_which_is_missing(
    goodput: Cli, uid: str, as_ada: dict[str, str], arguments: tuple[str, ...], verb: str
) -> None:
    ended = goodput(*arguments, "-n", goodput.namespace, **as_ada)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        f"error: the right to {verb} trainingjobs.goodput.training in namespace "
        f"{goodput.namespace} is missing; the chart gives it to everybody who has the cluster "
        "role view. The API server says: "
    )
    assert "ada" in ended.stderr


def test_who_may_see_the_job_alone_gets_it_explained_and_is_told_what_is_left_out(
    cluster: Cluster, goodput: Cli, uid: str, as_ada: dict[str, str]
) -> None:
    rule = {"apiGroups": ["goodput.training"], "resources": ["trainingjobs"], "verbs": ["get"]}
    grant(cluster, goodput.namespace, rule)
    cluster.wait_until(
        lambda: goodput("status", "gpt", "-n", goodput.namespace, **as_ada).returncode == 0,
        "the right to count",
        30,
    )
    text = goodput.said("explain", "gpt", **as_ada)
    assert "gpt is productive now." in text
    for what in ("pods", "events"):
        assert f"(the right to list {what} in namespace {goodput.namespace} is missing." in text


def test_a_pod_reads_by_its_own_account(
    cluster: Cluster, goodput: Cli, uid: str, account: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(account)
    (tmp_path / "ca.crt").write_text(authority_of(cluster, goodput.namespace))
    (tmp_path / "namespace").write_text(goodput.namespace)
    pod = access.Cluster(access.PodAccount(cluster.api_url, tmp_path), None)
    assert pod.namespace == goodput.namespace
    with pytest.raises(ForbiddenError, match="the right to get trainingjobs"):
        pod.job("gpt")
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}
    grant(cluster, goodput.namespace, everything)

    def allowed() -> bool:
        try:
            return bool(pod.job("gpt"))
        except ForbiddenError:
            return False

    cluster.wait_until(allowed, "the right to count", 30)
    job, pods, _, notes = pod.about("gpt")
    assert (job["metadata"]["uid"], pods, notes) == (uid, [], [])
    assert len(pod.jobs(everywhere=False)) == 2
    with pytest.raises(NotFoundError, match="there is no TrainingJob nobody"):
        pod.job("nobody")
    (tmp_path / "token").write_text("forged")
    with pytest.raises(ForbiddenError, match="Unauthorized"):
        pod.job("gpt")


def test_more_jobs_than_a_page_holds_are_all_shown(cluster: Cluster, goodput: Cli) -> None:
    many = [f"job{number}" for number in range(access.PAGE + 10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: create(cluster, goodput.namespace, name, None), many))
    assert f"\n{len(many)} jobs: " in goodput.said("top")
