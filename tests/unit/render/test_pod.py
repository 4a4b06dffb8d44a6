"""The whole pod that a worker gets, from three templates, and how it is recognised again."""

from copy import deepcopy
from typing import Any

import pytest

from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.observe.resources import pod_requests
from goodput_operator.observe.trim import trim_own_pod
from goodput_operator.render import (
    JobIdentity,
    RenderSettings,
    accelerators_per_worker,
    processes_per_worker,
    render_pod,
)

JOB = JobIdentity(namespace="research", name="char-gpt", uid="1b2c")
SETTINGS = RenderSettings(
    agent_image="registry.example/goodput-agent:1.0",
    operator_url="https://goodput-operator.goodput-system:9443",
    ca_pem="-----BEGIN CERTIFICATE-----\n",
)

INSTALLER: dict[str, Any] = {
    "name": "goodput-agent",
    "image": "registry.example/goodput-agent:1.0",
    "command": ["python3", "/app/agent.pyz", "install", "/goodput/agent.pyz"],
    "resources": {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "100m", "memory": "64Mi"},
    },
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumeMounts": [{"name": "goodput-agent", "mountPath": "/goodput"}],
}
OWNER = {
    "apiVersion": "goodput.training/v1alpha1",
    "kind": "TrainingJob",
    "name": "char-gpt",
    "uid": "1b2c",
    "controller": True,
}
MOUNTS = [
    {"name": "goodput-agent", "mountPath": "/goodput"},
    {"name": "goodput-credentials", "mountPath": "/var/run/goodput", "readOnly": True},
]
VOLUMES: list[dict[str, Any]] = [
    {"name": "goodput-agent", "emptyDir": {}},
    {
        "name": "goodput-credentials",
        "projected": {
            "defaultMode": 0o444,
            "sources": [
                {
                    "serviceAccountToken": {
                        "audience": "goodput.training/agent",
                        "expirationSeconds": 3600,
                        "path": "token",
                    }
                },
                {
                    "downwardAPI": {
                        "items": [
                            {
                                "path": "ca.crt",
                                "fieldRef": {
                                    "fieldPath": (
                                        "metadata.annotations['goodput.training/operator-ca']"
                                    )
                                },
                            }
                        ]
                    }
                },
            ],
        },
    },
]
TOLERATIONS = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
]


def environment(**changed: str) -> list[dict[str, Any]]:
    values = {
        "GOODPUT_JOB": "char-gpt",
        "GOODPUT_JOB_UID": "1b2c",
        "GOODPUT_NAMESPACE": "research",
        "GOODPUT_SLOT": "3",
        "GOODPUT_INCARNATION": "2",
        "GOODPUT_PROCESSES_PER_WORKER": "1",
        "GOODPUT_LAUNCHER": "Command",
        "GOODPUT_OPERATOR_URL": "https://goodput-operator.goodput-system:9443",
        "GOODPUT_TERMINATION_GRACE_SECONDS": "25",
        **changed,
    }
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        {"name": "GOODPUT_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]


def spec_of(template: dict[str, Any], **fields: Any) -> TrainingJobSpec:
    return TrainingJobSpec.model_validate({"workers": 4, "template": template, **fields})


def render(
    template: dict[str, Any],
    node: str | None = None,
    settings: RenderSettings = SETTINGS,
    **fields: Any,
) -> dict[str, Any]:
    before = deepcopy(template)
    pod = render_pod(JOB, spec_of(template, **fields), 3, 2, node, settings)
    assert template == before, "the template is not ours to change"
    return pod


MINIMAL = {"spec": {"containers": [{"name": "main", "image": "x", "command": ["python", "t.py"]}]}}


def test_a_minimal_template() -> None:
    assert render(MINIMAL) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "char-gpt-3-2",
            "namespace": "research",
            "labels": {
                "goodput.training/job": "char-gpt",
                "goodput.training/slot": "3",
                "goodput.training/incarnation": "2",
                "app.kubernetes.io/managed-by": "goodput-operator",
            },
            "annotations": {"goodput.training/operator-ca": "-----BEGIN CERTIFICATE-----\n"},
            "ownerReferences": [OWNER],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "initContainers": [INSTALLER],
            "containers": [
                {
                    "name": "main",
                    "image": "x",
                    "command": ["python3", "/goodput/agent.pyz", "--", "python", "t.py"],
                    "env": environment(),
                    "volumeMounts": MOUNTS,
                }
            ],
            "volumes": VOLUMES,
            "tolerations": TOLERATIONS,
        },
    }


def test_a_guaranteed_template_with_accelerators_on_a_chosen_node() -> None:
    resources = {
        "requests": {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": 8},
        "limits": {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": 8},
    }
    template = {
        "spec": {
            "containers": [
                {
                    "name": "trainer",
                    "image": "x",
                    "command": ["torchrun"],
                    "args": ["train.py", "--lr=1"],
                    "resources": resources,
                }
            ]
        }
    }
    pod = render(template, node="gpu-7", checkpoint={"directory": "/checkpoints", "keep": 3})
    assert pod["spec"] == {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "initContainers": [INSTALLER],
        "containers": [
            {
                "name": "trainer",
                "image": "x",
                "command": [
                    "python3",
                    "/goodput/agent.pyz",
                    "--",
                    "torchrun",
                    "train.py",
                    "--lr=1",
                ],
                "resources": resources,
                "env": environment(
                    GOODPUT_PROCESSES_PER_WORKER="8",
                    GOODPUT_CHECKPOINT_DIR="/checkpoints",
                    GOODPUT_CHECKPOINT_KEEP="3",
                ),
                "volumeMounts": MOUNTS,
            }
        ],
        "volumes": VOLUMES,
        "tolerations": TOLERATIONS,
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["gpu-7"]}
                            ]
                        }
                    ]
                }
            }
        },
    }


RICH: dict[str, Any] = {
    "metadata": {
        "labels": {"team": "nlp", "app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"note": "x"},
        "finalizers": ["example.com/audit"],
    },
    "spec": {
        "automountServiceAccountToken": True,
        "serviceAccountName": "trainer",
        "priorityClassName": "high",
        "shareProcessNamespace": True,
        "hostname": "h",
        "subdomain": "s",
        "terminationGracePeriodSeconds": 120,
        "imagePullSecrets": [{"name": "mine"}],
        "nodeSelector": {"pool": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [],
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
                        {},
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
                            ]
                        },
                    ]
                },
            },
        },
        "initContainers": [
            {"name": "log-shipper", "image": "y", "restartPolicy": "Always"},
            {"name": "fetch-data", "image": "y"},
        ],
        "containers": [
            {"name": "tensorboard", "image": "y"},
            {
                "name": "trainer",
                "image": "x",
                "command": ["bash", "-c", "train $(GOODPUT_SLOT)"],
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {"runAsUser": 1000},
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
            },
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    },
}


def test_a_rich_template_keeps_all_that_its_author_said() -> None:
    settings = RenderSettings(
        agent_image="registry.example/goodput-agent:1.0",
        operator_url="https://goodput-operator.goodput-system:9443",
        ca_pem="PEM",
        pull_policy="Always",
        pull_secrets=("mine", "chart"),
    )
    pod = render(RICH, node="gpu-7", settings=settings, launcher="Processes", processesPerWorker=2)
    given = RICH["spec"]
    pin = {"key": "metadata.name", "operator": "In", "values": ["gpu-7"]}
    not_bad = {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
    assert pod["metadata"] == {
        "name": "char-gpt-3-2",
        "namespace": "research",
        "labels": {
            "team": "nlp",
            "goodput.training/job": "char-gpt",
            "goodput.training/slot": "3",
            "goodput.training/incarnation": "2",
            "app.kubernetes.io/managed-by": "goodput-operator",
        },
        "annotations": {"note": "x", "goodput.training/operator-ca": "PEM"},
        "finalizers": ["example.com/audit"],
        "ownerReferences": [OWNER],
    }
    assert pod["spec"] == {
        "restartPolicy": "Never",
        "automountServiceAccountToken": True,
        "serviceAccountName": "trainer",
        "priorityClassName": "high",
        "shareProcessNamespace": True,
        "hostname": "h",
        "subdomain": "s",
        "terminationGracePeriodSeconds": 120,
        "imagePullSecrets": [{"name": "mine"}, {"name": "chart"}],
        "nodeSelector": {"pool": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}, *TOLERATIONS],
        "affinity": {
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [],
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [{"key": "a", "operator": "Exists"}],
                            "matchFields": [pin],
                        },
                        {"matchFields": [pin, not_bad]},
                    ]
                },
            },
        },
        "initContainers": [
            {**INSTALLER, "imagePullPolicy": "Always"},
            *given["initContainers"],
        ],
        "containers": [
            given["containers"][0],
            {
                **given["containers"][1],
                "command": [
                    *("python3", "/goodput/agent.pyz", "--"),
                    *("bash", "-c", "train $(GOODPUT_SLOT)"),
                ],
                "env": [
                    *environment(
                        GOODPUT_PROCESSES_PER_WORKER="2",
                        GOODPUT_LAUNCHER="Processes",
                        GOODPUT_TERMINATION_GRACE_SECONDS="115",
                    ),
                    {"name": "NCCL_DEBUG", "value": "INFO"},
                ],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, *MOUNTS],
            },
        ],
        "volumes": [*given["volumes"], *VOLUMES],
    }


def test_the_same_worker_is_rendered_the_same_every_time() -> None:
    assert render(RICH, node="a") == render(RICH, node="a")


def test_the_cache_reads_the_chosen_node_back_from_the_pod() -> None:
    for template in (MINIMAL, RICH):
        pod = render(template, node="gpu-7")
        pod["metadata"] |= {"uid": "u", "resourceVersion": "1"}
        assert trim_own_pod(pod)["spec"]["pinnedNode"] == "gpu-7"
        pod = render(template, node=None)
        pod["metadata"] |= {"uid": "u", "resourceVersion": "1"}
        assert "pinnedNode" not in trim_own_pod(pod)["spec"]


def test_an_affinity_that_no_node_satisfies_is_not_satisfied_by_the_chosen_one() -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}
    template = {"spec": {**MINIMAL["spec"], "affinity": {"nodeAffinity": required}}}
    assert render(template, node="a")["spec"]["affinity"]["nodeAffinity"] == required


def test_bringing_the_agent_costs_a_worker_of_usual_size_nothing() -> None:
    template = {
        "spec": {
            "containers": [
                {
                    "name": "trainer",
                    "command": ["x"],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi", "amd.com/gpu": 2}},
                }
            ]
        }
    }
    assert pod_requests(render(template)["spec"]) == pod_requests(template["spec"])


@pytest.mark.parametrize(
    ("limits", "said", "processes", "accelerators"),
    [
        pytest.param({"nvidia.com/gpu": 8}, None, 8, 8, id="one for each accelerator"),
        pytest.param({"nvidia.com/gpu": "8"}, 4, 4, 8, id="as many as said"),
        pytest.param({"cpu": 8}, None, 1, 0, id="one where there is none"),
        pytest.param({"nvidia.com/gpu": "many"}, None, 1, 0, id="one where the amount is wrong"),
    ],
)
def test_how_many_processes_a_worker_runs(
    limits: dict[str, Any], said: int | None, processes: int, accelerators: int
) -> None:
    template = {"spec": {"containers": [{"name": "trainer", "resources": {"limits": limits}}]}}
    spec = spec_of(template, processesPerWorker=said)
    assert processes_per_worker(spec) == processes
    assert accelerators_per_worker(spec) == accelerators


def test_workers_beyond_the_smallest_gang_carry_the_extra_class() -> None:
    template = {
        "spec": {
            "priorityClassName": "research",
            "priority": 100,
            "preemptionPolicy": "Never",
            "containers": [{"name": "x", "image": "x", "command": ["x"]}],
        }
    }
    elastic = {"minWorkers": 2, "maxWorkers": 4, "extraPriorityClassName": "scavenger"}
    job = TrainingJobSpec.model_validate({"workers": 4, "template": template, "elastic": elastic})
    pods = [render_pod(JOB, job, slot, 0, None, SETTINGS)["spec"] for slot in range(4)]
    assert [pod["priorityClassName"] for pod in pods] == ["research"] * 2 + ["scavenger"] * 2
    assert ["priority" in pod for pod in pods] == [True, True, False, False]
    assert ["preemptionPolicy" in pod for pod in pods] == [True, True, False, False]
