"""What is kept of an object is what decisions read, and as little more as can be."""

import copy
import json
from typing import Any

import pytest

from goodput_operator.observe.trim import (
    LONGEST_MESSAGE,
    trim_foreign_pod,
    trim_node,
    trim_own_pod,
)

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "char-gpt-0-2",
        "namespace": "ml",
        "uid": "1234",
        "resourceVersion": "42",
        "generation": 1,
        "creationTimestamp": "2026-11-22T03:00:00Z",
        "deletionTimestamp": "2026-11-22T04:00:00Z",
        "labels": {
            "app.kubernetes.io/managed-by": "goodput-operator",
            "goodput.training/job": "char-gpt",
            "goodput.training/slot": "0",
            "team": "nlp",
        },
        "annotations": {"big": "x" * 10_000},
        "ownerReferences": [
            {
                "apiVersion": "goodput.training/v1alpha1",
                "kind": "TrainingJob",
                "name": "char-gpt",
                "uid": "job-uid",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    },
    "spec": {
        "nodeName": "node-1",
        "priority": 0,
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["node-1"]}
                            ]
                        }
                    ]
                }
            }
        },
        "tolerations": [{"operator": "Exists"}],
        "containers": [
            {
                "name": "trainer",
                "image": "example.com/train:1",
                "env": [{"name": "A", "value": "b"}],
                "resources": {"requests": {"cpu": "1500m", "nvidia.com/gpu": "8"}},
            }
        ],
    },
    "status": {
        "phase": "Failed",
        "podIP": "10.0.0.7",
        "hostIP": "10.0.0.1",
        "reason": "Evicted",
        "message": "out of memory",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "PodFailed",
                "message": "",
                "lastProbeTime": None,
                "lastTransitionTime": "2026-11-22T03:10:00Z",
            },
            {"type": "ContainersReady", "status": "False"},
        ],
        "initContainerStatuses": [
            {
                "name": "goodput-agent",
                "image": "i",
                "state": {"waiting": {"reason": "ErrImagePull"}},
            }
        ],
        "containerStatuses": [
            {
                "name": "trainer",
                "image": "example.com/train:1",
                "imageID": "sha256:0",
                "restartCount": 0,
                "state": {
                    "terminated": {
                        "exitCode": 0,
                        "reason": "Error",
                        "message": "lost " * 1000 + "the end",
                        "startedAt": "2026-11-22T03:01:00Z",
                        "finishedAt": "2026-11-22T03:10:00Z",
                        "containerID": "containerd://0",
                    }
                },
                "lastState": {},
            }
        ],
    },
}


def test_of_a_worker_everything_stays_that_tells_how_it_fares() -> None:
    trimmed = trim_own_pod(POD)
    ended = trimmed["status"]["containerStatuses"][0]["state"]["terminated"].pop("message")
    assert trimmed == {
        "metadata": {
            "name": "char-gpt-0-2",
            "namespace": "ml",
            "uid": "1234",
            "resourceVersion": "42",
            "creationTimestamp": "2026-11-22T03:00:00Z",
            "deletionTimestamp": "2026-11-22T04:00:00Z",
            "labels": {
                "app.kubernetes.io/managed-by": "goodput-operator",
                "goodput.training/job": "char-gpt",
                "goodput.training/slot": "0",
            },
            "ownerReferences": (
                {"uid": "job-uid", "controller": True, "kind": "TrainingJob", "name": "char-gpt"},
            ),
        },
        "spec": {
            "nodeName": "node-1",
            "priority": 0,
            "requests": {"cpu": 1500, "nvidia.com/gpu": 8, "pods": 1},
            "pinnedNode": "node-1",
        },
        "status": {
            "phase": "Failed",
            "podIP": "10.0.0.7",
            "reason": "Evicted",
            "message": "out of memory",
            "conditions": (
                {
                    "type": "Ready",
                    "status": "False",
                    "reason": "PodFailed",
                    "lastTransitionTime": "2026-11-22T03:10:00Z",
                },
            ),
            "initContainerStatuses": (
                {"name": "goodput-agent", "state": {"waiting": {"reason": "ErrImagePull"}}},
            ),
            "containerStatuses": (
                {
                    "name": "trainer",
                    "state": {
                        "terminated": {
                            "exitCode": 0,
                            "reason": "Error",
                            "startedAt": "2026-11-22T03:01:00Z",
                            "finishedAt": "2026-11-22T03:10:00Z",
                        }
                    },
                    "restartCount": 0,
                },
            ),
        },
    }
    assert len(ended) == LONGEST_MESSAGE
    assert ended.endswith("the end"), "a program says last why it died"


def test_of_a_foreign_pod_only_its_claim_on_a_node_stays() -> None:
    assert trim_foreign_pod(POD) == {
        "metadata": {
            "name": "char-gpt-0-2",
            "namespace": "ml",
            "uid": "1234",
            "resourceVersion": "42",
            "deletionTimestamp": "2026-11-22T04:00:00Z",
        },
        "spec": {
            "nodeName": "node-1",
            "priority": 0,
            "requests": {"cpu": 1500, "nvidia.com/gpu": 8, "pods": 1},
        },
        "status": {"phase": "Failed"},
    }


NODE: dict[str, Any] = {
    "metadata": {
        "name": "node-1",
        "uid": "n1",
        "resourceVersion": "7",
        "labels": {"topology.kubernetes.io/rack": "r1"},
        "annotations": {"big": "x"},
    },
    "spec": {
        "podCIDR": "10.0.0.0/24",
        "unschedulable": True,
        "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
    },
    "status": {
        "allocatable": {"cpu": "64", "memory": "1Gi", "nvidia.com/gpu": "8", "pods": "110"},
        "capacity": {"cpu": "64"},
        "images": [{"names": ["x" * 1000]}],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "lastHeartbeatTime": "2026-11-22T03:10:00Z",
                "lastTransitionTime": "2026-11-22T03:00:00Z",
            }
        ],
    },
}


def test_of_a_node_its_room_its_marks_and_its_health_stay() -> None:
    assert trim_node(NODE) == {
        "metadata": {
            "name": "node-1",
            "uid": "n1",
            "resourceVersion": "7",
            "labels": {"topology.kubernetes.io/rack": "r1"},
        },
        "spec": {
            "unschedulable": True,
            "taints": ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},),
        },
        "status": {
            "allocatable": {"cpu": 64_000, "memory": 2**30, "nvidia.com/gpu": 8, "pods": 110},
            "conditions": (
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "lastTransitionTime": "2026-11-22T03:00:00Z",
                },
            ),
        },
    }


def test_a_heartbeat_changes_nothing() -> None:
    later = copy.deepcopy(NODE)
    later["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-11-22T03:15:00Z"
    assert trim_node(later) == trim_node(NODE)


@pytest.mark.parametrize("trim", [trim_own_pod, trim_foreign_pod, trim_node])
def test_an_object_that_has_almost_nothing_is_no_trouble(trim: Any) -> None:
    bare = {"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}}
    empty = {**bare, "spec": None, "status": None}
    assert trim(bare)["metadata"] == bare["metadata"]
    assert trim(empty)["metadata"] == bare["metadata"]


def test_equal_requests_are_kept_once() -> None:
    another = json.loads(json.dumps(POD))
    assert trim_own_pod(another)["spec"]["requests"] is trim_own_pod(POD)["spec"]["requests"]
