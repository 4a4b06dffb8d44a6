"""What the API server says at the door, before any controller has seen the job."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.api.status import TrainingJobStatus

CRD = Path(__file__).resolve().parents[2] / "crds" / "goodput.training_trainingjobs.yaml"
JOBS = "/apis/goodput.training/v1alpha1/namespaces/{}/trainingjobs"

MINIMAL: dict[str, Any] = {
    "apiVersion": "goodput.training/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "char-gpt"},
    "spec": {
        "workers": 4,
        "template": {
            "spec": {"containers": [{"name": "main", "image": "a", "command": ["train"]}]}
        },
    },
}
FULL_SPEC: dict[str, Any] = {
    "workers": 10_000,
    "processesPerWorker": 8,
    "launcher": "Processes",
    "template": {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "someone",
            "initContainers": [{"name": "fetch", "image": "a", "args": ["x"]}],
            "containers": [
                {
                    "name": "trainer",
                    "image": "a",
                    "command": ["python3", "train.py"],
                    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/checkpoints"}],
                    "resources": {"limits": {"nvidia.com/gpu": 8}},
                },
                {"name": "sidecar", "image": "b"},
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    },
    "gang": {"admission": "Always", "startTimeoutSeconds": 60},
    "elastic": {
        "minWorkers": 5_000,
        "maxWorkers": 10_000,
        "workerSizes": [5_000, 10_000],
        "faultyScaleDownTimeoutSeconds": 0,
        "scaleUpSnoozeTimeSeconds": 1,
        "gracefulShutdownTimeoutSeconds": 1,
        "extraPriorityClassName": "scavenger",
    },
    "spares": "auto",
    "parallelism": {
        "tensor": 8,
        "pipeline": 4,
        "context": 1,
        "expert": 2,
        "globalBatchSize": 40_000,
        "microBatchSize": 4,
    },
    "work": {
        "tokensPerStep": 2**53 - 1,
        "flopsPerToken": 2**53 - 1,
        "acceleratorPeakTeraflops": 989,
    },
    "checkpoint": {"directory": "/checkpoints/run-1", "keep": 5},
    "recovery": {
        "maxRestarts": 0,
        "windowSeconds": 60,
        "maxRestartsWithoutProgress": 1,
        "backoffSeconds": 0,
        "maxBackoffSeconds": 0,
    },
    "suspend": True,
    "managedBy": "kueue.x-k8s.io/multikueue",
    "startDeadlineSeconds": 0,
    "activeDeadlineSeconds": 1,
    "ttlSecondsAfterFinished": 0,
    "cleanPodPolicy": "All",
}


NOT_OURS = ("spec.managedBy", "example.com/test")
"""An operator that runs in the cluster leaves such a job's status to the test."""


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Cluster:
    """The API server, with our CRD."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    cluster.kubectl("wait", "--for=condition=Established", "-f", str(CRD), "--timeout=30s")
    cluster.wait_until(
        lambda: "trainingjobs" in cluster.kubectl("api-resources", "--api-group=goodput.training"),
        "the TrainingJob's API to be served",
        30,
    )
    return cluster


def job(*changes: tuple[str, Any], spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """The minimal job, or one of this spec, with values set at paths such as `spec.workers`."""
    made = copy.deepcopy(MINIMAL)
    if spec is not None:
        made["spec"] = copy.deepcopy(spec)
    for path, value in changes:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = made
        for part in parents:
            place = place[part] if isinstance(part, int) else place.setdefault(part, {})
        place[last] = value
    return made


def create(server: Cluster, namespace: str, body: dict[str, Any], *options: str) -> dict[str, Any]:
    args = ("create", "-n", namespace, "-f", "-", "-o", "json", *options)
    made: dict[str, Any] = json.loads(server.kubectl(*args, input=json.dumps(body)))
    return made


def refusal(server: Cluster, namespace: str, body: dict[str, Any]) -> str:
    with pytest.raises(ClusterError) as refused:
        create(server, namespace, body, "--dry-run=server")
    return str(refused.value)


def merge(server: Cluster, namespace: str, spec: dict[str, Any]) -> str:
    patch = json.dumps({"spec": spec})
    args = ("patch", "gtj", "char-gpt", "-n", namespace, "--type=merge", "-p", patch)
    return server.kubectl(*args)


def put_status(server: Cluster, namespace: str, status: dict[str, Any]) -> dict[str, Any]:
    current = json.loads(server.kubectl("get", "gtj", "char-gpt", "-n", namespace, "-o", "json"))
    path = JOBS.format(namespace) + "/char-gpt/status"
    made: dict[str, Any] = server.api.call("PUT", path, {**current, "status": status})
    return made


def test_the_crd_is_small_enough_for_a_plain_kubectl_apply(server: Cluster) -> None:
    assert "trainingjobs" in server.kubectl("apply", "--dry-run=server", "-f", str(CRD))


def test_the_smallest_job_is_accepted_and_gets_the_models_defaults(
    server: Cluster, namespace: str
) -> None:
    spec = create(server, namespace, job())["spec"]
    expected = TrainingJobSpec.model_validate(MINIMAL["spec"])
    assert spec == expected.model_dump(by_alias=True, exclude_none=True, mode="json")


def test_a_job_that_uses_every_field_is_accepted_unchanged(server: Cluster, namespace: str) -> None:
    every_field = {field.alias for field in TrainingJobSpec.model_fields.values()}
    assert every_field == set(FULL_SPEC)
    assert create(server, namespace, job(spec=FULL_SPEC))["spec"] == FULL_SPEC


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("metadata.name", "j" * 52), id="the longest name"),
        pytest.param(("metadata.name", "7b"), id="a name that begins with a digit"),
        pytest.param(("spec.template.spec.tolerations", [{"new": 1}]), id="unknown pod fields"),
        pytest.param(("spec.template.spec.volumes", None), id="what a chart left empty"),
        pytest.param(("spec.template.spec.containers.0.env", None), id="an empty env"),
        pytest.param(("spec.template.metadata", None), id="an empty metadata"),
        pytest.param(("spec.checkpoint.directory", "/goodputs/"), id="a path that only looks ours"),
        pytest.param(
            ("spec.template.spec.containers.0.command", ["sh", "-c", "x" * 100_000]),
            id="a script for a command",
        ),
    ],
)
def test_what_pod_authors_write_is_accepted(
    server: Cluster, namespace: str, change: tuple[str, Any]
) -> None:
    create(server, namespace, job(change), "--dry-run=server")


TRAINER = "spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            ("metadata.name", "j" * 53),
            "metadata.name must be at most 52",
            id="a name without room for slot and incarnation",
        ),
        pytest.param(
            ("metadata.name", "a.b"), "metadata.name must be", id="a name that is no host name"
        ),
        pytest.param(("spec.workers", 0), "spec.workers", id="no workers"),
        pytest.param(("spec.workers", 10_001), "spec.workers", id="too many workers"),
        pytest.param(("spec.processesPerWorker", 0), "spec.processesPerWorker", id="no processes"),
        pytest.param(("spec.launcher", "Torchrun"), "spec.launcher", id="an unknown launcher"),
        pytest.param(
            ("spec.checkpoint.directory", "checkpoints"),
            "spec.checkpoint.directory must be an absolute path",
            id="a relative checkpoint directory",
        ),
        pytest.param(
            ("spec.checkpoint.directory", "/data/../goodput"),
            "spec.checkpoint.directory must be an absolute path",
            id="a checkpoint directory that climbs",
        ),
        pytest.param(
            ("spec.checkpoint.directory", "/goodput"),
            "choose a directory on a shared volume",
            id="checkpoints in our mount",
        ),
        pytest.param(
            ("spec.checkpoint.directory", "/var/run/goodput/x"),
            "choose a directory on a shared volume",
            id="checkpoints among our credentials",
        ),
        pytest.param(
            ("spec.checkpoint", {"directory": "/c", "keep": 1}),
            "spec.checkpoint.keep",
            id="a single checkpoint",
        ),
        pytest.param(
            ("spec.recovery", {"backoffSeconds": 301}),
            "raise maxBackoffSeconds or lower backoffSeconds",
            id="a back-off above its cap",
        ),
        pytest.param(
            ("spec.work", {"tokensPerStep": 1, "flopsPerToken": 6}),
            "add the other one or leave out both",
            id="operations without a peak to compare them with",
        ),
        pytest.param(
            ("spec.work", {"tokensPerStep": 1, "acceleratorPeakTeraflops": 989}),
            "spec.work.flopsPerToken",
            id="a peak without operations to compare with it",
        ),
        pytest.param(
            ("spec.work", {"tokensPerStep": 0}), "spec.work.tokensPerStep", id="an empty step"
        ),
        pytest.param(
            ("spec.managedBy", "someone"), "spec.managedBy must be a domain", id="no domain"
        ),
        pytest.param(
            ("spec.template", {}), "spec.template.spec: Required", id="a template without spec"
        ),
        pytest.param(
            ("spec.template.spec.containers", []),
            "spec.template.spec.containers",
            id="no containers",
        ),
        pytest.param((f"{TRAINER}.command", []), "needs a command", id="an image's own ENTRYPOINT"),
        pytest.param(
            (
                "spec.template.spec.containers",
                [{"name": "a", "command": ["x"]}, {"name": "b", "command": ["x"]}],
            ),
            "Name that one trainer",
            id="two containers of which none is the trainer",
        ),
        pytest.param(
            (
                "spec.template.spec.containers",
                [{"name": "a", "command": ["x"]}, {"name": "trainer"}],
            ),
            "needs a command",
            id="a trainer without command beside one with",
        ),
        pytest.param(
            ("spec.template.metadata.labels", {"goodput.training/job": "x"}),
            "labels that begin with goodput.training/",
            id="our labels",
        ),
        pytest.param(
            ("spec.template.metadata.annotations", {"goodput.training/operator-ca": "x"}),
            "annotations that begin with goodput.training/",
            id="our annotations",
        ),
        pytest.param(
            (f"{TRAINER}.env", [{"name": "A"}, {"name": "GOODPUT_AGENT"}]),
            "spec.template.spec.containers[0].env[1].name",
            id="our environment",
        ),
        pytest.param(
            (f"{TRAINER}.volumeMounts", [{"name": "a", "mountPath": "/goodput/x"}]),
            "spec.template.spec.containers[0].volumeMounts[0].mountPath",
            id="our mounts",
        ),
        pytest.param(
            (f"{TRAINER}.name", "goodput-agent"), "choose another name", id="our container"
        ),
        pytest.param(
            ("spec.template.spec.volumes", [{"name": "goodput-credentials"}]),
            "choose another name",
            id="our volume",
        ),
        pytest.param(
            ("spec.template.spec.nodeName", "node1"), "past the scheduler", id="one fixed node"
        ),
        pytest.param(
            ("spec.template.spec.restartPolicy", "OnFailure"),
            "remove restartPolicy or set it to Never",
            id="a restart by the kubelet",
        ),
    ],
)
def test_a_refusal_names_the_field_or_the_remedy(
    server: Cluster, namespace: str, change: tuple[str, Any], words: str
) -> None:
    assert words in refusal(server, namespace, job(change))


def elastic(**changes: Any) -> tuple[str, Any]:
    return "spec.elastic", {"minWorkers": 2, "maxWorkers": 8, **changes}


def parallel(workers: int, **split: int) -> list[tuple[str, Any]]:
    return [
        ("spec.workers", workers),
        ("spec.processesPerWorker", 1),
        ("spec.parallelism", split),
    ]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        pytest.param(
            [elastic(minWorkers=9)], "spec.elastic.minWorkers", "lower minWorkers", id="min > max"
        ),
        pytest.param([elastic(minWorkers=5)], "spec.workers", "widen the range", id="below min"),
        pytest.param([elastic(maxWorkers=3)], "spec.workers", "widen the range", id="above max"),
        pytest.param(
            [elastic(workerSizes=[4, 16])], "spec.elastic.workerSizes", "take the others out"
        ),
        pytest.param([elastic(workerSizes=[2, 8])], "spec.workers", "choose one of them or add it"),
        pytest.param(
            [("spec.parallelism", {"tensor": 2})],
            "spec.processesPerWorker",
            "is required beside spec.parallelism",
        ),
        pytest.param(parallel(6, tensor=4), "spec.workers", "a multiple", id="half a replica"),
        pytest.param(parallel(6, expert=4), "spec.workers", "expert divides", id="half an expert"),
        pytest.param(
            parallel(6, globalBatchSize=512, microBatchSize=4),
            "spec.workers",
            "divides globalBatchSize",
            id="a batch that cannot be dealt out",
        ),
        pytest.param(
            [*parallel(4, tensor=4), elastic(minWorkers=3)],
            "spec.elastic.minWorkers",
            "choose another size",
            id="an illegal min",
        ),
        pytest.param(
            [*parallel(4, tensor=4), elastic(minWorkers=4, maxWorkers=9)],
            "spec.elastic.maxWorkers",
            "choose another size",
            id="an illegal max",
        ),
        pytest.param([("spec.spares", -1)], "spec.spares", "from 0 to 1000, or auto"),
        pytest.param([("spec.spares", 1001)], "spec.spares", "from 0 to 1000, or auto"),
        pytest.param([("spec.spares", "many")], "spec.spares", "from 0 to 1000, or auto"),
        pytest.param(
            [elastic(extraPriorityClassName="Not a class")],
            "spec.elastic.extraPriorityClassName",
            "the name of a PriorityClass",
        ),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    server: Cluster, namespace: str, changes: list[tuple[str, Any]], field: str, words: str
) -> None:
    said = refusal(server, namespace, job(*changes))
    assert field in said
    assert words in said


def test_only_an_elastic_job_can_be_scaled_while_it_runs_and_within_its_range(
    server: Cluster, namespace: str
) -> None:
    create(server, namespace, job(elastic(), NOT_OURS))
    scale = ("scale", "gtj/char-gpt", "-n", namespace)
    server.kubectl(*scale, "--replicas=5")
    for replicas in (0, 9):
        with pytest.raises(ClusterError, match="widen the range"):
            server.kubectl(*scale, f"--replicas={replicas}")
    assert "patched" in merge(server, namespace, {"elastic": {"maxWorkers": 9}})
    with pytest.raises(ClusterError, match=r"spec.elastic can change only while"):
        merge(server, namespace, {"elastic": None})
    create(server, namespace, job(("metadata.name", "fixed"), NOT_OURS))
    with pytest.raises(ClusterError, match=r"spec.workers can change only while"):
        server.kubectl("scale", "gtj/fixed", "-n", namespace, "--replicas=5")


def test_a_world_of_absurd_size_is_refused(server: Cluster, namespace: str) -> None:
    body = job(("spec.workers", 10_000), ("spec.processesPerWorker", 16))
    assert "must not exceed 131072 processes" in refusal(server, namespace, body)


def test_a_misspelt_field_is_refused_by_kubectl(server: Cluster, namespace: str) -> None:
    assert "maxRestart" in refusal(server, namespace, job(("spec.recovery", {"maxRestart": 1})))


CHANGES: list[dict[str, Any]] = [
    {"workers": 5},
    {"processesPerWorker": 2},
    {"launcher": "Processes"},
    {"template": {"spec": {"hostNetwork": True}}},
    {"checkpoint": {"directory": "/elsewhere"}},
]


def _status(suspended: str | None) -> dict[str, Any]:
    """The status of a job that has trained, with the condition Suspended if it has been seen."""
    now = "2026-01-02T03:04:05.000Z"
    attempt = {"number": 1, "state": "Running", "openedAt": now}
    if suspended is None:
        return {"attempt": attempt}
    condition = {
        "type": "Suspended",
        "status": suspended,
        "reason": "SpecSuspend",
        "lastTransitionTime": now,
    }
    return {"attempt": attempt, "conditions": [condition]}


def _assert_shape_is_kept(server: Cluster, namespace: str, **also: Any) -> None:
    for change in CHANGES:
        (field,) = change
        with pytest.raises(ClusterError, match=f"spec.{field} can change only while"):
            merge(server, namespace, {**change, **also})


def test_a_job_keeps_its_shape_until_the_operator_has_suspended_it(
    server: Cluster, namespace: str
) -> None:
    made = job(("spec.checkpoint", {"directory": "/checkpoints"}), NOT_OURS)
    create(server, namespace, made)
    put_status(server, namespace, _status(None))
    _assert_shape_is_kept(server, namespace)
    _assert_shape_is_kept(server, namespace, suspend=True)
    merge(server, namespace, {"suspend": True})
    _assert_shape_is_kept(server, namespace)
    put_status(server, namespace, _status("False"))
    _assert_shape_is_kept(server, namespace, suspend=False)
    put_status(server, namespace, _status("True"))
    for change in CHANGES:
        assert "patched" in merge(server, namespace, change)
    merge(server, namespace, {"workers": 6, "suspend": False})


def test_a_job_that_was_created_suspended_may_change_at_once(
    server: Cluster, namespace: str
) -> None:
    create(server, namespace, job(("spec.suspend", True)))
    merge(server, namespace, {"workers": 2})
    merge(server, namespace, {"workers": 3, "suspend": False})
    _assert_shape_is_kept(server, namespace, suspend=True)


def test_a_running_job_may_change_its_policies(server: Cluster, namespace: str) -> None:
    create(server, namespace, job())
    merge(server, namespace, {"recovery": {"maxRestarts": 3}, "activeDeadlineSeconds": 60})


def test_the_manager_of_a_job_never_changes(server: Cluster, namespace: str) -> None:
    create(server, namespace, job(("spec.suspend", True)))
    with pytest.raises(ClusterError, match=r"spec.managedBy cannot change; delete the job"):
        merge(server, namespace, {"managedBy": "kueue.x-k8s.io/multikueue"})


FULL_STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Running",
    "reason": "AllProcessesStarted",
    "conditions": [
        {
            "type": "Running",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05.678Z",
            "reason": "AllWorkersTrain",
            "message": "4 of 4",
        }
    ],
    "selector": "goodput.training/job=char-gpt",
    "workers": {"wanted": 4, "bound": 4, "connected": 4, "training": 4, "spares": 1, "text": "4/4"},
    "attempt": {
        "number": 3,
        "state": "Running",
        "openedAt": "2026-01-02T03:04:05.000Z",
        "publishedAt": "2026-01-02T03:04:05.000Z",
        "runningAt": "2026-01-02T03:04:05.000Z",
        "firstStepAt": "2026-01-02T03:04:05.000Z",
        "stoppingAt": "2026-01-02T03:04:05.000Z",
        "endedAt": "2026-01-02T03:04:05.000Z",
        "runId": "r",
        "worldSize": 32,
        "masterAddress": "10.0.0.1",
        "masterPort": 29500,
        "restoreStep": 0,
        "reason": "ProcessFailed",
        "message": "m",
        "charged": True,
        "saveStep": 1500,
        "saveBy": "2026-01-02T03:04:05.000Z",
        "saveAskedAt": "2026-01-02T03:04:05.000Z",
    },
    "slots": [
        {"slot": 0, "incarnation": 2, "rank": 0, "succeeded": True},
        {"slot": 1, "incarnation": 0, "rank": -1, "succeeded": False},
    ],
    "progress": {
        "step": 1410,
        "stepMilliseconds": 412,
        "observedAt": "2026-01-02T03:04:05.000Z",
        "bestStep": 1410,
    },
    "checkpoint": {
        "directory": "/checkpoints",
        "lastDurableStep": 1400,
        "lastDurableAttempt": 3,
        "time": "2026-01-02T03:04:05.000Z",
        "verified": True,
        "fenced": True,
        "lineage": [{"attempt": 3, "origin": 2, "step": 1200}],
    },
    "recovery": {
        "total": 2,
        "byReason": {"ProcessFailed": 2},
        "restarts": [
            {"attempt": 1, "at": "2026-01-02T03:04:05.000Z", "reason": "Exit", "charged": True}
        ],
        "withoutProgress": 0,
        "chargedWithoutProgress": 0,
        "startFailures": 0,
        "notBefore": "2026-01-02T03:04:05.000Z",
    },
    "elastic": {
        "legalSizes": [2, 4, 8],
        "workers": 4,
        "wanted": 4,
        "idleWorkerMilliseconds": 1_000,
        "joinable": 4,
        "joinableSince": "2026-01-02T03:04:05.000Z",
        "plannedRestartMilliseconds": [1_500],
        "unfitSizes": [3],
        "economicSpares": 1,
        "benched": [5],
        "swaps": 1,
        "interruptedAt": "2026-01-02T03:04:05.000Z",
        "prompt": True,
        "promptRestartMilliseconds": [1_500],
        "otherRestartMilliseconds": [9_500],
        "podStartMilliseconds": [2_500],
        "resizeBeganAt": "2026-01-02T03:04:05.000Z",
        "snoozedUntil": "2026-01-02T03:04:05.000Z",
        "interruptions": 1,
        "episodesMicro": 1_000_000,
        "exposedWorkerSecondsMicro": 2**53 - 1,
        "exposedUntil": "2026-01-02T03:04:05.000Z",
    },
    "exclusions": [{"node": "n", "until": "2026-01-02T03:04:05.000Z", "reason": "Lost"}],
    "ledger": {
        "acceleratorMilliseconds": {"productive": 2**53 - 1, "lost_work": 1},
        "unsettledMilliseconds": 40_000,
        "accelerators": 32,
        "accountedUntil": "2026-01-02T03:04:05.000Z",
        "stalledAttempt": 3,
        "stalledMilliseconds": {"checkpoint_stall": 20},
        "earlierIncidentsMilliseconds": {"recovery": 7},
    },
    "incidents": [
        {
            "attempt": 2,
            "reason": "ProcessFailed",
            "planned": False,
            "charged": True,
            "slot": 1,
            "rank": 3,
            "pod": "char-gpt-1-0",
            "node": "n",
            "message": "m",
            "decision": "RestartProcesses",
            "why": "w",
            "faultAt": "2026-01-02T03:04:05.000Z",
            "decidedAt": "2026-01-02T03:04:05.000Z",
            "scheduledAt": "2026-01-02T03:04:05.000Z",
            "publishedAt": "2026-01-02T03:04:05.000Z",
            "runningAt": "2026-01-02T03:04:05.000Z",
            "firstStepAt": "2026-01-02T03:04:05.000Z",
            "caughtUpAt": "2026-01-02T03:04:05.000Z",
            "step": 85,
            "bestStep": 85,
            "restoreStep": 80,
            "stepsLost": 5,
            "acceleratorMilliseconds": {"lost_work": 1},
        }
    ],
    "goodput": "93.4%",
    "priority": -1000,
    "queuedSince": "2026-01-02T03:04:05.000Z",
    "startedAt": "2026-01-02T03:04:05.000Z",
    "activeSince": "2026-01-02T03:04:05.000Z",
    "finishedAt": "2026-01-02T03:04:05.000Z",
}


def test_every_field_of_a_status_survives_the_trip(server: Cluster, namespace: str) -> None:
    create(server, namespace, job(NOT_OURS))
    status = TrainingJobStatus.model_validate(FULL_STATUS)
    assert status.model_dump(by_alias=True, mode="json") == FULL_STATUS, "a field is not tried here"
    assert put_status(server, namespace, FULL_STATUS)["status"] == FULL_STATUS


def test_kubectl_prints_a_jobs_state(server: Cluster, namespace: str) -> None:
    create(server, namespace, job(NOT_OURS))
    put_status(server, namespace, FULL_STATUS)
    head, row = server.kubectl("get", "gtj", "-n", namespace, "-o", "wide").splitlines()
    assert head.split() == [
        *("NAME", "PHASE", "WORKERS", "STEP", "RESTARTS", "GOODPUT", "AGE"),
        *("REASON", "ATTEMPT", "CHECKPOINT"),
    ]
    shown = row.split()
    assert shown[:6] == ["char-gpt", "Running", "4/4", "1410", "2", "93.4%"]
    assert shown[7:] == ["AllProcessesStarted", "3", "1400"]


def test_a_job_is_among_all_things(server: Cluster, namespace: str) -> None:
    create(server, namespace, job())
    assert "trainingjob.goodput.training/char-gpt" in server.kubectl(
        "get", "all", "-n", namespace, "-o", "name"
    )


def test_kubectl_explains_a_field_with_its_unit_and_meaning(server: Cluster) -> None:
    shown = " ".join(server.kubectl("explain", "gtj.spec.recovery").split())
    assert "Length, in seconds, of the sliding window in which maxRestarts counts" in shown
