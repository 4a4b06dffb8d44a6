"""Build one worker's pod from the job's template.

Pure. The template is kept as it is except for what is named here; parts that we do not touch
are shared with it, so nobody may change a rendered pod in place.

What we add: identity (name, labels, owner), `restartPolicy: Never`, the init container that
brings the agent and always comes first, the agent in front of the trainer's command, two
volumes, environment, unlimited tolerations for not-ready and unreachable (when a worker leaves
its node is our decision), and the pin to the node that the gang's placement chose. The label
`app.kubernetes.io/managed-by` becomes ours even where a template inherits it from Helm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from goodput import protocol
from goodput_operator import names
from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.render.template import processes_per_worker, trainer_index

Object = dict[str, Any]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_TOKEN_SECONDS = 3600
_READABLE_BY_ALL = 0o444  # the trainer may run as any user
_DEFAULT_GRACE_SECONDS = 30
_KILL_MARGIN_SECONDS = 5
"""The agent kills what is left so long before the kubelet would, and still says so."""

_INSTALLER_USER = 65532
_INSTALLER_RESOURCES = {"cpu": "100m", "memory": "64Mi"}
"""Requests and limits alike, so that a Guaranteed pod stays one; less than any trainer asks."""


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job a pod belongs to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What every worker pod gets from the operator's own configuration.

    Attributes:
        agent_image: brings the agent, as `/app/agent.pyz`.
        operator_url: `https://host[:port]`, where the agents report.
        ca_pem: the certificate that the operator's own must be signed by.
        pull_policy: of the agent image; empty for the cluster's default.
        pull_secrets: names of secrets, in the job's namespace, that may pull the agent image.
    """

    agent_image: str
    operator_url: str
    ca_pem: str
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()


def render_pod(  # noqa: PLR0917 - six facts make a pod
    job: JobIdentity,
    spec: TrainingJobSpec,
    slot: int,
    incarnation: int,
    node: str | None,
    settings: RenderSettings,
) -> Object:
    """Return the whole pod of one incarnation of a slot.

    Args:
        job: the owner.
        spec: the job's; `template_problems` must find nothing wrong with it.
        slot: the place in the gang.
        incarnation: which pod of this slot it is.
        node: where it must run; None leaves that to the scheduler.
        settings: the operator's.
    """
    metadata = spec.template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **({"finalizers": metadata["finalizers"]} if metadata.get("finalizers") else {}),
            "name": names.pod_name(job.name, slot, incarnation),
            "namespace": job.namespace,
            "labels": {
                **(metadata.get("labels") or {}),
                **worker_labels(job.name, slot, incarnation),
            },
            "annotations": {
                **(metadata.get("annotations") or {}),
                names.ANNOTATION_CA: settings.ca_pem,
            },
            "ownerReferences": [_owner(job)],
        },
        "spec": _pod_spec(
            spec.template["spec"],
            _environment(job, spec, settings, slot=slot, incarnation=incarnation),
            node,
            settings,
            _priority_class(spec, slot),
        ),
    }


def _priority_class(spec: TrainingJobSpec, slot: int) -> str:
    """Return the class that takes the place of the template's; empty for the template's own.

    Of the slots, as many as there must be at least keep theirs, whoever is in the world.
    """
    elastic = spec.elastic
    return elastic.extra_priority_class_name if elastic and slot >= elastic.min_workers else ""


def job_labels(job_name: str) -> dict[str, str]:
    """Return the labels that all pods of a job have in common."""
    return {names.LABEL_JOB: job_name, names.LABEL_MANAGED_BY: names.OPERATOR_NAME}


def worker_labels(job_name: str, slot: int, incarnation: int) -> dict[str, str]:
    """Return the labels that we put on a worker pod."""
    return {
        **job_labels(job_name),
        names.LABEL_SLOT: str(slot),
        names.LABEL_INCARNATION: str(incarnation),
    }


def _owner(job: JobIdentity) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
    }


def _pod_spec(
    given: Mapping[str, Any],
    environment: list[Object],
    node: str | None,
    settings: RenderSettings,
    priority_class: str,
) -> Object:
    containers = list(given["containers"])
    index = trainer_index(containers)
    if index is None:
        raise ValueError("no container trains; template_problems says so")
    containers[index] = _trainer(containers[index], environment)
    pod: Object = {
        "automountServiceAccountToken": False,
        **{key: value for key, value in given.items() if value is not None},
        "restartPolicy": "Never",
        "initContainers": [_installer(settings), *(given.get("initContainers") or [])],
        "containers": containers,
        "volumes": [*(given.get("volumes") or []), _agent_volume(), _credentials_volume()],
        "tolerations": [*(given.get("tolerations") or []), *_tolerations()],
    }
    if priority_class:
        pod["priorityClassName"] = priority_class
        pod.pop("priority", None)  # the API server fills in what the class says
        pod.pop("preemptionPolicy", None)
    if settings.pull_secrets:
        pod["imagePullSecrets"] = _pull_secrets(given.get("imagePullSecrets") or [], settings)
    if node is not None:
        pod["affinity"] = _pinned(given.get("affinity") or {}, node)
    return pod


def _installer(settings: RenderSettings) -> Object:
    """Return the init container that puts the agent where the trainer finds it."""
    return {
        "name": names.AGENT_CONTAINER,
        "image": settings.agent_image,
        **({"imagePullPolicy": settings.pull_policy} if settings.pull_policy else {}),
        "command": ["python3", "/app/agent.pyz", "install", protocol.AGENT_ZIPAPP],
        "resources": {
            "requests": dict(_INSTALLER_RESOURCES),
            "limits": dict(_INSTALLER_RESOURCES),
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _INSTALLER_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": names.AGENT_VOLUME, "mountPath": protocol.AGENT_MOUNT}],
    }


def _trainer(container: Mapping[str, Any], environment: list[Object]) -> Object:
    """Return the trainer with the agent in front of its command.

    Our variables come first: the user's may refer to them by $(NAME), and win.
    """
    command = [*container["command"], *(container.get("args") or [])]
    mounts = [
        {"name": names.AGENT_VOLUME, "mountPath": protocol.AGENT_MOUNT},
        {
            "name": names.CREDENTIALS_VOLUME,
            "mountPath": protocol.CREDENTIALS_MOUNT,
            "readOnly": True,
        },
    ]
    return {
        **{key: value for key, value in container.items() if key != "args"},
        "command": ["python3", protocol.AGENT_ZIPAPP, "--", *command],
        "env": [*environment, *(container.get("env") or [])],
        "volumeMounts": [*(container.get("volumeMounts") or []), *mounts],
    }


def _environment(
    job: JobIdentity,
    spec: TrainingJobSpec,
    settings: RenderSettings,
    *,
    slot: int,
    incarnation: int,
) -> list[Object]:
    """Return what the agent is told, `goodput.agent.settings` being the reader."""
    grace = spec.template["spec"].get("terminationGracePeriodSeconds")
    if grace is None:
        grace = _DEFAULT_GRACE_SECONDS
    values = {
        protocol.ENV_JOB: job.name,
        protocol.ENV_JOB_UID: job.uid,
        protocol.ENV_NAMESPACE: job.namespace,
        protocol.ENV_SLOT: str(slot),
        protocol.ENV_INCARNATION: str(incarnation),
        protocol.ENV_PROCESSES_PER_WORKER: str(processes_per_worker(spec)),
        protocol.ENV_LAUNCHER: spec.launcher.value,
        protocol.ENV_OPERATOR_URL: settings.operator_url,
        protocol.ENV_TERMINATION_GRACE: str(max(1, grace - _KILL_MARGIN_SECONDS)),
    }
    if spec.checkpoint:
        values[protocol.ENV_CHECKPOINT_DIR] = spec.checkpoint.directory
        values[protocol.ENV_CHECKPOINT_KEEP] = str(spec.checkpoint.keep)
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        {
            "name": protocol.ENV_POD_IP,
            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
        },
    ]


def _agent_volume() -> Object:
    return {"name": names.AGENT_VOLUME, "emptyDir": {}}


def _credentials_volume() -> Object:
    """Return the token that proves who the agent is, and the CA that proves who we are."""
    ca = {"fieldPath": f"metadata.annotations['{names.ANNOTATION_CA}']"}
    token = {
        "audience": protocol.TOKEN_AUDIENCE,
        "expirationSeconds": _TOKEN_SECONDS,
        "path": _file_name(protocol.TOKEN_PATH),
    }
    return {
        "name": names.CREDENTIALS_VOLUME,
        "projected": {
            "defaultMode": _READABLE_BY_ALL,
            "sources": [
                {"serviceAccountToken": token},
                {
                    "downwardAPI": {
                        "items": [{"path": _file_name(protocol.CA_PATH), "fieldRef": ca}]
                    }
                },
            ],
        },
    }


def _file_name(path: str) -> str:
    return path.removeprefix(f"{protocol.CREDENTIALS_MOUNT}/")


def _tolerations() -> list[Object]:
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute"}
        for key in (names.TAINT_NOT_READY, names.TAINT_UNREACHABLE)
    ]


def _pull_secrets(given: list[Object], settings: RenderSettings) -> list[Object]:
    present = [secret.get("name") for secret in given]
    return [*given, *({"name": name} for name in settings.pull_secrets if name not in present)]


def _pinned(affinity: Mapping[str, Any], node: str) -> Object:
    """Return the affinity with `node` ANDed into every alternative of what it requires.

    An alternative that asks for nothing is satisfied by no node; pinning it would change that.
    """
    pin = {"key": "metadata.name", "operator": "In", "values": [node]}
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get(_REQUIRED)
    if required is None:
        terms: list[Object] = [{"matchFields": [pin]}]
    else:
        terms = [
            {**term, "matchFields": [pin, *(term.get("matchFields") or [])]}
            for term in required.get("nodeSelectorTerms") or []
            if term.get("matchExpressions") or term.get("matchFields")
        ] or [{}]
    required = {**(required or {}), "nodeSelectorTerms": terms}
    return {**affinity, "nodeAffinity": {**node_affinity, _REQUIRED: required}}
