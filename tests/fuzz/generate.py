"""TrainingJobs and what surrounds them, by chance: valid, at the border, and hostile.

The spec and the status follow the CRD's own schema; the pod template, which has next to none
there, follows what Kubernetes would take. Each case is plain JSON, so that it can be printed,
shrunk and played again.
"""

import copy
import json
import string
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from goodput_operator import names
from goodput_operator.api.schema import custom_resource_definition

Json = Any
Path = tuple[str | int, ...]

ROOT = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC, STATUS = ROOT["properties"]["spec"], ROOT["properties"]["status"]
CREATED = "2026-01-01T00:00:00Z"
INT64 = 2**63 - 1

TIMES = (
    CREATED,
    "2026-01-01T00:00:30.000Z",
    "2026-01-01T01:00:00.123456789Z",
    "2025-12-31T19:00:00-05:00",
    "2026-01-01T23:59:00+23:59",
    "1970-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+12:00",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59-12:00",
    "2262-04-12T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "2026-01-01t00:00:00z",
)
NUMBERS = (0, 1, -1, 2, 7, 99_999, 100_000, 2**31 - 1, 2**31, 2**53, 2**53 + 1, INT64, -INT64 - 1)
QUANTITIES = (
    *(
        "1",
        "0",
        "8",
        "500m",
        "1Gi",
        "1.5Gi",
        "1e3",
        "2k",
        ".5",
        "1E18",
        "7Ei",
        "9223372036854775807",
    ),
    *(
        1,
        0,
        8,
        2.5,
        "100000000000000000000",
        "1e9999",
        "1n",
        "-1",
        "+1",
        "",
        "x",
        "1 Gi",
        "1e",
        "0x1",
    ),
)
WORDS = (
    *("", "a", "trainer", "goodput-agent", "goodput-credentials", "Never", "Always", "default"),
    *("/checkpoints", "/goodput", "/goodput/..//x", "/", "nvidia.com/gpu", "$(HOSTNAME)", "node-0"),
    *(
        "x" * 64,
        "x" * 254,
        "ü",
        "💥",
        "a\nb",
        "\x00",
        "-",
        "a-0-0",
        "goodput.training/job",
        "{}",
        "%s",
    ),
)


def junk(rng: Random) -> Json:
    """Return any value of JSON."""
    match rng.randrange(9):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice(NUMBERS)
        case 3:
            return rng.choice((0.5, -0.0, 1e308, 1e-9, 2.0))
        case 4 | 5:
            return rng.choice(WORDS + TIMES)
        case 6:
            return [junk(rng) for _ in range(rng.randrange(3))]
        case 7:
            return {rng.choice(WORDS): junk(rng) for _ in range(rng.randrange(3))}
    deep: Json = "deep"
    for _ in range(40):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return deep


def from_schema(schema: Json, rng: Random, bold: float) -> Json:
    """Return a value of a structural schema; with the chance `bold` one at or past its border."""
    if rng.random() < bold / 8:
        return junk(rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return _object(schema, rng, bold)
        case "array":
            few = rng.choice((0, 1, 1, 2, 3))
            return [from_schema(schema["items"], rng, bold) for _ in range(few)]
        case "integer":
            return _integer(schema, rng, bold)
        case "boolean":
            return rng.random() < 0.5
        case "number":
            return rng.choice((0.0, 1.5, *NUMBERS))
    return _text(schema, rng, bold)


def _object(schema: Json, rng: Random, bold: float) -> Json:
    required = schema.get("required", ())
    made = {
        name: from_schema(child, rng, bold)
        for name, child in schema.get("properties", {}).items()
        if (rng.random() < 0.45 or name in required) and not (rng.random() < bold / 8)
    }
    if "additionalProperties" in schema:
        keys = rng.choice((("productive",), ("queued", "lost_work"), (rng.choice(WORDS),), ()))
        made |= {key: from_schema(schema["additionalProperties"], rng, bold) for key in keys}
    if rng.random() < bold / 4:
        made[rng.choice(WORDS)] = junk(rng)
    return made


def _integer(schema: Json, rng: Random, bold: float) -> int:
    low, high = schema.get("minimum", -INT64 - 1), schema.get("maximum", INT64)
    border = (low, low + 1, high, high - 1)
    if rng.random() < bold:
        number: int = rng.choice((low - 1, high + 1, *border, *NUMBERS))
        return number
    if rng.random() < 0.5:
        return max(low, min(high, rng.randrange(6)))
    fitting = [number for number in NUMBERS if low <= number <= high]
    return int(rng.choice((*border, *fitting)))


def _text(schema: Json, rng: Random, bold: float) -> str:
    if schema.get("format") == "date-time" and rng.random() > bold / 4:
        return rng.choice(TIMES)
    longest = min(schema.get("maxLength", 300), 5_000)
    if rng.random() < 0.1:
        over = 1 if rng.random() < bold else 0
        return "".join(rng.choices(string.ascii_lowercase, k=longest + over))
    text: str = rng.choice(WORDS)
    return text if rng.random() < bold else text[:longest]


# --- a job ---------------------------------------------------------------------------------


def name(rng: Random) -> str:
    """Return a name that the CRD takes."""
    return rng.choice(("job", "j", "a-0-0", "7b", "j" * 52, "x--y"))


def spec(rng: Random, bold: float) -> Json:
    """Return a spec: by the schema, or a usual one in which a few things are otherwise."""
    if rng.random() < 0.35:
        made = from_schema(SPEC, rng, bold)
        if isinstance(made, dict):
            made["template"] = template(rng, bold)
            if isinstance(made.get("workers"), int) and made["workers"] > 6 and rng.random() < 0.97:
                made["workers"] = rng.randint(1, 4)  # thousands of slots take their time
            if rng.random() > bold:
                made.pop("managedBy", None)
        return made
    made = {
        "workers": rng.randint(1, 3),
        "template": template(rng, bold),
        "recovery": {"maxRestarts": rng.choice((0, 1, 10))},
    }
    if rng.random() < 0.5:
        made["checkpoint"] = {"directory": "/checkpoints"}
    for _ in range(rng.choice((0, 0, 1, 2))):
        field = rng.choice(list(SPEC["properties"]))
        if field not in ("workers", "template", "managedBy"):
            made[field] = from_schema(SPEC["properties"][field], rng, bold)
    return made


def template(rng: Random, bold: float) -> Json:
    """Return a pod template: a usual one, with parts of any kind."""
    containers = [_container(rng, "trainer", bold)]
    if rng.random() < 0.2:
        containers.append(_container(rng, rng.choice(("side", "trainer", "b")), bold))
    pod: Json = {"containers": containers}
    for field, make in _POD_PARTS.items():
        if rng.random() < 0.12:
            pod[field] = make(rng)
    made: Json = {"spec": pod}
    if rng.random() < 0.3:
        made["metadata"] = {
            "labels": {"app": "a", rng.choice(WORDS): rng.choice(WORDS)},
            "annotations": {"note": rng.choice(WORDS)},
        }
    for _ in range(rng.choice((1, 1, 2, 4)) if rng.random() < bold else 0):
        mutate(made, rng)
    return made


def _container(rng: Random, called: str, bold: float) -> Json:
    made: Json = {
        "name": called,
        "image": "train:1",
        "command": ["python3", "train.py"],
        "resources": {"requests": _amounts(rng, bold)},
    }
    for field, make in _CONTAINER_PARTS.items():
        if rng.random() < 0.12:
            made[field] = make(rng)
    if rng.random() < 0.3:
        made["resources"]["limits"] = _amounts(rng, bold)
    return made


def _amounts(rng: Random, bold: float) -> Json:
    kinds = ("cpu", "memory", "nvidia.com/gpu", "ephemeral-storage", "hugepages-2Mi", "a.b/c")
    plain = ("1", "500m", "1Gi", 8)
    return {
        kind: rng.choice(QUANTITIES if rng.random() < bold else plain)
        for kind in rng.sample(kinds, rng.randrange(4))
    }


_CONTAINER_PARTS: dict[str, Callable[[Random], Json]] = {
    "args": lambda rng: [rng.choice(WORDS)],
    "env": lambda rng: [{"name": rng.choice(("A", "GOODPUT_X", "")), "value": rng.choice(WORDS)}],
    "volumeMounts": lambda rng: [{"name": "v", "mountPath": rng.choice(WORDS)}],
    "ports": lambda rng: [{"containerPort": 1, "hostPort": rng.choice(NUMBERS)}],
    "restartPolicy": lambda rng: rng.choice(("Always", "Never")),
    "lifecycle": junk,
    "securityContext": junk,
}
_TERM: Callable[[Random], Json] = lambda rng: {  # noqa: E731
    rng.choice(("matchExpressions", "matchFields")): [
        {
            "key": rng.choice(("metadata.name", "kubernetes.io/hostname", "n")),
            "operator": rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Or")),
            "values": [rng.choice((*WORDS, "1"))],
        }
    ]
}
_POD_PARTS: dict[str, Callable[[Random], Json]] = {
    "initContainers": lambda rng: [_container(rng, rng.choice(("init", "trainer")), 0.3)],
    "volumes": lambda rng: [{"name": rng.choice(WORDS), "emptyDir": {}}],
    "nodeSelector": lambda rng: {rng.choice(WORDS): rng.choice((*WORDS, 1))},
    "tolerations": lambda rng: [
        {"operator": rng.choice(("Exists", "Equal", "Gt", 1)), "key": rng.choice(WORDS)}
    ],
    "affinity": lambda rng: {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [_TERM(rng) for _ in range(rng.randrange(3))]
            }
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": rng.choice(({}, None, {"matchLabels": {"app": "a"}})),
                }
            ]
        },
    },
    "overhead": lambda rng: _amounts(rng, 0.5),
    "resources": lambda rng: {"requests": _amounts(rng, 0.5)},
    "terminationGracePeriodSeconds": lambda rng: rng.choice((*NUMBERS, None)),
    "imagePullSecrets": lambda rng: [{"name": rng.choice(WORDS)}, {}],
    "hostNetwork": lambda rng: rng.random() < 0.5,
    "restartPolicy": lambda rng: rng.choice(("Never", "", "Always")),
    "nodeName": lambda rng: rng.choice(("", "node-0")),
    "serviceAccountName": lambda rng: rng.choice(("operator", "default")),
    "schedulerName": lambda rng: rng.choice(WORDS),
    "topologySpreadConstraints": lambda _: [{"whenUnsatisfiable": "DoNotSchedule"}],
    "schedulingGates": lambda _: [{"name": "a/b"}],
    "resourceClaims": lambda _: [{"name": "c"}],
    "priorityClassName": lambda rng: rng.choice(WORDS),
    "runtimeClassName": lambda rng: rng.choice(WORDS),
    "securityContext": junk,
    "hostname": lambda rng: rng.choice(WORDS),
    "subdomain": lambda rng: rng.choice(WORDS),
}


# --- edits -----------------------------------------------------------------------------------


def paths(value: Json, under: Path = ()) -> Iterator[Path]:
    """Yield the path of each part of a value, parents first."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, child in items:
        yield (*under, key)
        yield from paths(child, (*under, key))


def parent(value: Json, path: Path) -> Json:
    """Return what holds the last step of a path."""
    for key in path[:-1]:
        value = value[key]
    return value


def mutate(value: Json, rng: Random) -> None:
    """Change one part of a value, in place, to something else."""
    places = list(paths(value))
    if not places:
        return
    path = rng.choice(places)
    holder, key = parent(value, path), path[-1]
    if rng.random() < 0.25:
        del holder[key]
    elif rng.random() < 0.2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = junk(rng)


def edit_status(status: Json, rng: Random, bold: float) -> Json:
    """Return a status in which somebody has changed something by hand."""
    if not status or rng.random() < 0.15:
        made = from_schema(STATUS, rng, bold)
        if isinstance(made, dict) and rng.random() < 0.5:
            made["selector"] = "goodput.training/job=job"
            made.setdefault("slots", [{"slot": 0}])
        return made
    made = json.loads(json.dumps(status))
    for _ in range(rng.choice((1, 1, 2, 4))):
        _edit_at(made, STATUS, rng, bold)
    return made


def _edit_at(value: Json, schema: Json, rng: Random, bold: float) -> None:
    """Set one field of the schema, somewhere below `value`."""
    while True:
        if isinstance(value, list) and value and "items" in schema:
            if rng.random() < 0.2:
                del value[rng.randrange(len(value))]
                return
            value, schema = rng.choice(value), schema["items"]
            continue
        properties = schema.get("properties")
        if not isinstance(value, dict) or not properties:
            return
        field = rng.choice(list(properties))
        below = value.get(field)
        nested = properties[field].get("type") in ("object", "array")
        if nested and below and rng.random() < 0.85:
            value, schema = below, properties[field]
            continue
        if rng.random() < 0.15:
            value.pop(field, None)
        else:
            value[field] = from_schema(properties[field], rng, bold)
        return


def edit_spec(now: Json, rng: Random, bold: float) -> Json:
    """Return a spec in which the user has changed something."""
    made = copy.deepcopy(now)
    if not isinstance(made, dict):
        return spec(rng, bold)
    match rng.randrange(5):
        case 0 | 1:
            made["suspend"] = not made.get("suspend")
        case 2:
            made["workers"] = rng.randint(1, 4)
        case 3:
            made["template"] = template(rng, bold)
        case _:
            field = rng.choice(list(SPEC["properties"]))
            made[field] = from_schema(SPEC["properties"][field], rng, bold)
    return made


# --- what surrounds a job ------------------------------------------------------------------------


def nodes(rng: Random) -> list[Json]:
    """Return raw nodes, some of them strange."""
    return [_node(f"node-{number}", rng) for number in range(rng.randint(1, 4))]


def _node(called: str, rng: Random) -> Json:
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "8"}
    made: Json = {
        "metadata": {
            "name": called,
            "uid": f"uid-{called}",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": called, "n": "1"},
        },
        "spec": {},
        "status": {
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    if rng.random() < 0.25:
        made["spec"] = {
            "unschedulable": rng.random() < 0.5,
            "taints": [{"key": rng.choice(WORDS), "effect": rng.choice(("NoSchedule", "Other"))}],
        }
    if rng.random() < 0.15:
        made["status"]["allocatable"] = rng.choice(
            ({}, None, {"cpu": "9223372036854775807"}, {**amounts, "pods": "0"})
        )
    if rng.random() < 0.15:
        made["status"]["conditions"] = rng.choice(
            ([], None, [{"type": "Ready", "status": "Unknown"}], [{"type": "Odd", "status": "x"}])
        )
    return made


POD_STATUSES: tuple[Json, ...] = (
    {"phase": "Running", "podIP": "10.0.0.1"},
    {"phase": "Pending"},
    {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
     "reason": "Unschedulable", "message": "0/4 nodes"}]},
    {"phase": "Succeeded", "containerStatuses": [
        {"name": "trainer", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]},
    {"phase": "Failed", "reason": "Evicted", "message": "x" * 2000},
    {"phase": "Failed", "containerStatuses": [
        {"name": "trainer", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
    {"phase": "Failed", "containerStatuses": [
        {"name": "other", "state": {"terminated": {"exitCode": 93}}}]},
    {"phase": "Running", "containerStatuses": [
        {"name": "trainer", "state": {"terminated": {"exitCode": 97, "message": "\x00\n"}}}]},
    {"phase": "Pending", "initContainerStatuses": [
        {"name": "goodput-agent", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
    {"phase": "Unknown", "containerStatuses": []},
    {"phase": "Running", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
    {},
)  # fmt: skip


def strange_pod(job: str, rng: Random) -> Json:
    """Return a raw pod that bears our labels and was made by somebody else."""
    called = rng.choice(
        (
            *(f"{job}-0-0", f"{job}-0-7", f"{job}-99999-0", f"{job}-x-0", "other", f"{job}--1-2"),
            *(f"{job}-1-{'9' * 30}", f"{job}-²-1", "0-0", "a-1_0-1", "a-+1-1"),
        )
    )
    owned = rng.random() < 0.6
    made: Json = {
        "metadata": {
            "name": called,
            "namespace": "lab",
            "uid": f"uid-{called}-strange",
            "resourceVersion": "1",
            "creationTimestamp": CREATED,
            "labels": {
                names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
                names.LABEL_JOB: job,
                names.LABEL_SLOT: rng.choice(("0", "x", "", "99999999999999999999")),
                names.LABEL_INCARNATION: "0",
            },
            "ownerReferences": [{"uid": "uid-job", "kind": "TrainingJob"}] if owned else None,
        },
        "spec": {"nodeName": rng.choice(("", "node-0", "gone"))},
        "status": copy.deepcopy(rng.choice(POD_STATUSES)),
    }
    if rng.random() < 0.2:
        made["metadata"]["deletionTimestamp"] = rng.choice((CREATED, "2026-01-01T00:00:40Z"))
    return made


def report(slot: int, attempt: int, rng: Random) -> Json:
    """Return what an agent says, true or not."""
    big = (0, 1, 5, 1_000, 2**31, 2**53 - 1, -(2**53) + 1)
    commit = {"attempt": rng.choice((attempt, 0, *big)), "step": rng.choice(big)}
    progress = {
        "sdk": rng.random() < 0.5,
        **{
            field: rng.choice(big)
            for field in (
                *("restoreBeganAt", "restoreEndedAt", "firstStepAt", "step", "stepAt"),
                *("stepMilliseconds", "committedStepAt", "trackerStep", "trackerStepAt"),
            )
            if rng.random() < 0.3
        },
        **{field: commit for field in ("restored", "committed") if rng.random() < 0.3},
    }
    ended = {
        "rank": rng.choice(big),
        "at": rng.choice(big),
        "exitCode": rng.choice((0, 1, 93, *big)),
    }
    run = {
        "attempt": rng.choice((attempt, attempt, attempt, attempt - 1, *big)),
        "startedAt": rng.choice((None, *big)),
        "alive": rng.choice((0, 1, *big)),
        "failed": rng.choice((0, 0, 1, -1)),
        "succeeded": rng.random() < 0.2,
        "exits": [ended] * rng.randrange(3),
        "progress": progress,
    }
    made = {
        "slot": slot,
        "incarnation": 0,
        "sequence": 1,
        "sentAt": rng.choice(big),
        "seenRevision": rng.choice(("", f"{attempt}.stop", "x")),
        "freePort": rng.choice((0, 29500, *big)),
        "disk": {
            "highestAttempt": rng.choice((0, 0, 0, *big)),
            "problem": rng.choice(("", "", "ro")),
        },
        "run": run if rng.random() < 0.7 else None,
    }
    if rng.random() < 0.3:
        made["disk"]["newest"] = commit
    return made


def case(seed: int, number: int) -> Json:
    """Return one case: a job, what surrounds it, and a seed for what happens to it."""
    rng = Random(f"{seed}/{number}")
    bold = rng.choice((0.0, 0.1, 0.3, 0.6))
    called = name(rng)
    return {
        "seed": rng.randrange(2**32),
        "bold": bold,
        "name": called,
        "spec": spec(rng, bold),
        "status": from_schema(STATUS, rng, bold / 2) if rng.random() < 0.1 else None,
        "nodes": nodes(rng),
        "pods": [strange_pod(called, rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))],
        "edits": rng.choice((0, 1, 2, 3)),
    }
