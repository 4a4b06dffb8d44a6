"""What a job's pod template says, and what is wrong with it before anything starts. Pure.

The template has no schema in the CRD, so anything can be in it. Checked here is what we touch
or reserve; the rest is the API server's to judge, by a dry run of one worker pod.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from goodput_operator import names
from goodput_operator.api.spec import (
    MAX_PROCESSES,
    MAX_PROCESSES_PER_WORKER,
    TrainingJobSpec,
)
from goodput_operator.api.template import RESERVED_PATHS
from goodput_operator.observe.resources import (
    QuantityError,
    accelerators,
    mapping,
    parse_resources,
    pod_requests,
)

MOST_PROBLEMS = 20
_SPEC = "spec.template.spec"
_METADATA = "spec.template.metadata"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_LOOKED_UP = ("priorityClassName", "runtimeClassName", "serviceAccountName")
"""What the API server's admission looks up by name, and fails itself where that can be none."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def accelerators_per_worker(spec: TrainingJobSpec) -> int:
    """Return how many accelerators one worker asks for; 0 too when its amounts are no numbers."""
    try:
        return accelerators(pod_requests(mapping(spec.template.get("spec"))))
    except QuantityError:
        return 0


def processes_per_worker(spec: TrainingJobSpec) -> int:
    """Return how many training processes one worker runs: as said, else one per accelerator."""
    return spec.processes_per_worker or accelerators_per_worker(spec) or 1


def trainer_index(containers: Sequence[Mapping[str, Any]]) -> int | None:
    """Return which container trains: the one called trainer, else the only one."""
    for index, container in enumerate(containers):
        if container.get("name") == names.TRAINER_CONTAINER:
            return index
    return 0 if len(containers) == 1 else None


def template_problems(
    spec: TrainingJobSpec, *, operator_service_account: str = ""
) -> tuple[str, ...]:
    """Return what keeps the template from being used; each with field, cause and remedy.

    At most `MOST_PROBLEMS`. Without any, `render_pod` cannot fail.

    Args:
        spec: the job's.
        operator_service_account: the one we run as, for a job in our own namespace: with it a
            training container could do all that we may. Empty elsewhere.
    """
    problems = _problems(spec.template, operator_service_account)
    return tuple(islice(problems, MOST_PROBLEMS)) or tuple(_size_problems(spec))


def _problems(template: Mapping[str, Any], service_account: str) -> Iterator[str]:
    shapes = list(_shape_problems(template))
    if shapes:
        yield from shapes  # the rest can be judged only when these are right
        return
    spec = template.get("spec") or {}
    yield from _metadata_problems(template.get("metadata") or {})
    yield from _pod_problems(spec, service_account)
    yield from _container_problems(spec)
    yield from _trainer_problems(spec.get("containers") or [])


def _size_problems(spec: TrainingJobSpec) -> Iterator[str]:
    """A gang of absurd size is refused at admission only where its processes are counted there."""
    asked = accelerators_per_worker(spec)
    if asked > MAX_PROCESSES_PER_WORKER:
        yield (
            f"{_SPEC}.containers: a worker asks for {asked} accelerators, and at most "
            f"{MAX_PROCESSES_PER_WORKER} can be counted; lower resources.limits"
        )
    elif spec.workers * max(asked, processes_per_worker(spec)) > MAX_PROCESSES:
        yield (
            f"{_SPEC}.containers: {spec.workers} workers with {asked} accelerators each are more "
            f"than {MAX_PROCESSES}; lower spec.workers or resources.limits"
        )


# --- shapes: whether we can read it at all --------------------------------------------------


def _shape_problems(template: Mapping[str, Any]) -> Iterator[str]:
    yield from _not_objects(template, "spec.template", "metadata", "spec")
    metadata, spec = mapping(template.get("metadata")), mapping(template.get("spec"))
    yield from _not_objects(metadata, _METADATA, "labels", "annotations")
    for field in ("labels", "annotations"):
        yield from _not_texts(mapping(metadata.get(field)), f"{_METADATA}.{field}")
    yield from _not_text_list(metadata, _METADATA, "finalizers")
    yield from _not_objects(
        spec, _SPEC, "affinity", "nodeSelector", "resources", "overhead", "securityContext"
    )
    yield from _affinity_shape(mapping(spec.get("affinity")))
    for field in ("containers", "initContainers", "volumes", "imagePullSecrets", "tolerations"):
        yield from _not_object_list(spec, _SPEC, field)
    for path, container in _containers(spec):
        yield from _container_shape(container, path)
    yield from _amounts(spec.get("resources"), f"{_SPEC}.resources")
    yield from _amounts({"overhead": spec.get("overhead")}, _SPEC, ("overhead",))


def _container_shape(container: Mapping[str, Any], path: str) -> Iterator[str]:
    if not isinstance(container.get("name"), str) or not container["name"]:
        yield f"{path}.name: a container needs a name; give it one"
    for field in ("env", "volumeMounts"):
        yield from _not_object_list(container, path, field)
    for field in ("command", "args"):
        yield from _not_text_list(container, path, field)
    yield from _not_objects(container, path, "resources")
    yield from _amounts(container.get("resources"), f"{path}.resources")


def _affinity_shape(affinity: Mapping[str, Any]) -> Iterator[str]:
    path = f"{_SPEC}.affinity"
    yield from _not_objects(affinity, path, "nodeAffinity")
    path += ".nodeAffinity"
    node_affinity = mapping(affinity.get("nodeAffinity"))
    yield from _not_objects(node_affinity, path, _REQUIRED)
    path += f".{_REQUIRED}"
    required = mapping(node_affinity.get(_REQUIRED))
    yield from _not_object_list(required, path, "nodeSelectorTerms")
    for index, term in enumerate(_list(required.get("nodeSelectorTerms"))):
        for field in ("matchFields", "matchExpressions"):
            yield from _not_object_list(mapping(term), f"{path}.nodeSelectorTerms[{index}]", field)


def _amounts(
    sections: object, path: str, fields: Iterable[str] = ("requests", "limits")
) -> Iterator[str]:
    for field in fields:
        amounts = mapping(sections).get(field)
        if amounts is not None and not isinstance(amounts, Mapping):
            yield _wrong(f"{path}.{field}", "an object")
            continue
        try:
            parse_resources(amounts)
        except QuantityError as error:
            yield f'{path}.{field}.{error}; write it like "8", "500m" or "64Gi"'


def _not_objects(parent: Mapping[str, Any], path: str, *fields: str) -> Iterator[str]:
    for field in fields:
        value = parent.get(field)
        if value is not None and not isinstance(value, Mapping):
            yield _wrong(f"{path}.{field}", "an object")


def _not_object_list(parent: Mapping[str, Any], path: str, field: str) -> Iterator[str]:
    value = parent.get(field)
    if value is not None and not isinstance(value, list):
        yield _wrong(f"{path}.{field}", "a list")
    for index, item in enumerate(_list(value)):
        if not isinstance(item, Mapping):
            yield _wrong(f"{path}.{field}[{index}]", "an object")


def _not_text_list(parent: Mapping[str, Any], path: str, field: str) -> Iterator[str]:
    value = parent.get(field)
    if value is not None and not isinstance(value, list):
        yield _wrong(f"{path}.{field}", "a list of strings")
    for index, item in enumerate(_list(value)):
        if not isinstance(item, str):
            yield _wrong(f"{path}.{field}[{index}]", "a string; put it in quotes")


def _not_texts(values: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in values.items():
        if not isinstance(value, str):
            yield _wrong(f"{path}.{key}", "a string; put it in quotes")


def _wrong(path: str, wanted: str) -> str:
    return f"{path}: of the wrong type; it must be {wanted}"


# --- rules: whether we can use it -------------------------------------------------------------


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[str]:
    for field in ("labels", "annotations"):
        for key in metadata.get(field) or {}:
            if key.startswith(names.RESERVED_PREFIX):
                yield (
                    f"{_METADATA}.{field}.{key}: names that begin with {names.RESERVED_PREFIX} "
                    "are the operator's; remove it"
                )


def _pod_problems(spec: Mapping[str, Any], service_account: str) -> Iterator[str]:
    if spec.get("restartPolicy") not in (None, "", "Never"):
        yield (
            f"{_SPEC}.restartPolicy: must be Never, because the operator restarts the gang as a "
            "whole; remove it"
        )
    if spec.get("nodeName"):
        yield (
            f"{_SPEC}.nodeName: would send every worker to one node past the scheduler; "
            "use nodeSelector or affinity"
        )
    if service_account and service_account in (
        spec.get("serviceAccountName"),
        spec.get("serviceAccount"),
    ):
        yield (
            f"{_SPEC}.serviceAccountName: {service_account} is the operator's own; "
            "use one of the job's"
        )
    for field in _LOOKED_UP:
        name = spec.get(field)
        if isinstance(name, str) and name and not _NAME.fullmatch(name):
            yield (
                f"{_SPEC}.{field}: {name[:80]!r} is the name of nothing; it consists of lower-case "
                "letters, digits, '-' and '.'"
            )
    for index, volume in enumerate(spec.get("volumes") or []):
        if volume.get("name") in (names.AGENT_VOLUME, names.CREDENTIALS_VOLUME):
            yield f"{_SPEC}.volumes[{index}].name: {volume['name']} is the operator's; rename it"
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int)):
        yield _wrong(f"{_SPEC}.terminationGracePeriodSeconds", "a whole number of seconds")
    yield from _duplicates(
        (f"{_SPEC}.volumes[{index}]", volume.get("name"))
        for index, volume in enumerate(spec.get("volumes") or [])
    )


def _container_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    found = list(_containers(spec))
    for path, container in found:
        if container["name"] == names.AGENT_CONTAINER:
            yield f"{path}.name: {names.AGENT_CONTAINER} is the operator's; rename it"
    yield from _duplicates((path, container["name"]) for path, container in found)


def _trainer_problems(containers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    path = f"{_SPEC}.containers"
    if not containers:
        yield f"{path}: there is none; add the container that trains"
        return
    index = trainer_index(containers)
    if index is None:
        yield (
            f"{path}: there are {len(containers)} and none is called {names.TRAINER_CONTAINER}; "
            "give this name to the one that trains"
        )
        return
    path, trainer = f"{path}[{index}]", containers[index]
    if not trainer.get("command"):
        yield (
            f"{path}.command: missing, and the image's entrypoint cannot be seen from here; "
            "write the training command out"
        )
    for number, variable in enumerate(trainer.get("env") or []):
        name = variable.get("name")
        if isinstance(name, str) and name.startswith(names.RESERVED_ENV_PREFIX):
            yield (
                f"{path}.env[{number}]: {name}: names that begin with "
                f"{names.RESERVED_ENV_PREFIX} are the operator's; rename it"
            )
    for number, mount in enumerate(trainer.get("volumeMounts") or []):
        if reserved := _reserved_mount(mount.get("mountPath")):
            yield (
                f"{path}.volumeMounts[{number}].mountPath: {reserved} is the operator's; "
                "mount it elsewhere"
            )


def _reserved_mount(mount_path: object) -> str:
    if isinstance(mount_path, str):
        for reserved in RESERVED_PATHS:
            if PurePosixPath(mount_path).is_relative_to(reserved):
                return reserved
    return ""


def _duplicates(named: Iterable[tuple[str, object]]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path, name in named:
        if not isinstance(name, str):
            continue
        if name in seen:
            yield f"{path}.name: {name} is also the name of {seen[name]}; rename one"
        seen.setdefault(name, path)


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field in ("initContainers", "containers"):
        for index, container in enumerate(_list(spec.get(field))):
            if isinstance(container, Mapping):
                yield f"{_SPEC}.{field}[{index}]", container


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
