"""What the API server is told of the pod template: the few fields that a refusal needs.

All else of a PodTemplateSpec passes through unseen (`x-kubernetes-preserve-unknown-fields`),
so that the CRD stays small and a template may use what newer Kubernetes versions add; the
operator has one pod of it dry-run before it starts anything. CEL sees declared fields only:
with a wholly schemaless template none of these refusals could be made at admission.
"""

from pydantic import JsonValue

from goodput import protocol
from goodput_operator import names
from goodput_operator.api.base import Rule, list_map, rule, rules

RESERVED_PATHS = (
    protocol.AGENT_MOUNT,
    protocol.CREDENTIALS_MOUNT,
    protocol.CREDENTIALS_MOUNT.removeprefix("/var"),  # /var/run is a link to /run in most images
)
MAX_CONTAINERS = 32
MAX_LIST_LENGTH = 512

Fragment = dict[str, JsonValue]


def outside_reserved_paths(message: str) -> Rule:
    """Return the rule that a path is none of ours and lies in none of ours."""
    # Written out, because the API server cannot bound the cost of a loop over them.
    outside = (f"self != '{path}' && !self.startsWith('{path}/')" for path in RESERVED_PATHS)
    return rule(" && ".join(outside), message, reason="FieldValueForbidden")


def _object(description: str, properties: Fragment, **more: JsonValue) -> Fragment:
    return {
        "type": "object",
        "description": description,
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": properties,
        **more,
    }


def _list(description: str, items: Fragment, max_items: int = MAX_LIST_LENGTH) -> Fragment:
    return {"type": "array", "description": description, "items": items, "maxItems": max_items}


def _string(description: str, max_length: int, *refusals: Rule) -> Fragment:
    text: Fragment = {"type": "string", "description": description, "maxLength": max_length}
    return {**text, **rules(*refusals)} if refusals else text


def _name(of: str, *reserved: str) -> Fragment:
    refusals = [
        rule(
            f"self != '{name}'",
            f"the {of} name {name} is Goodput's own; choose another name",
            reason="FieldValueForbidden",
        )
        for name in reserved
    ]
    return _string(f"Name of the {of}.", 253, *refusals)


def _unreserved_keys(what: str) -> Fragment:
    return {
        "type": "object",
        "description": f"{what.capitalize()} that every worker pod gets.",
        "additionalProperties": {"type": "string", "maxLength": 262_144},
        "maxProperties": MAX_LIST_LENGTH,
        **rules(
            rule(
                f"self.all(key, !key.startsWith('{names.RESERVED_PREFIX}'))",
                f"{what} that begin with {names.RESERVED_PREFIX} are set by Goodput; remove them",
                reason="FieldValueForbidden",
            )
        ),
    }


def _container() -> Fragment:
    env_name = _string(
        "Name of the variable.",
        1024,
        rule(
            f"!self.startsWith('{names.RESERVED_ENV_PREFIX}')",
            f"variables that begin with {names.RESERVED_ENV_PREFIX} are set by Goodput; "
            "rename this one",
            reason="FieldValueForbidden",
        ),
    )
    mount_path = _string(
        "Where the volume is mounted.",
        4096,
        outside_reserved_paths(
            f"Goodput mounts its own at {protocol.AGENT_MOUNT} and {protocol.CREDENTIALS_MOUNT}; "
            "mount this volume elsewhere"
        ),
    )
    arguments: Fragment = {"type": "string"}
    return _object(
        "A container, as in a pod.",
        {
            "name": _name("container", names.AGENT_CONTAINER),
            "command": _list("The program and its arguments.", arguments, 4096),
            "env": _list(
                "Environment variables.", _object("A variable, as in a pod.", {"name": env_name})
            ),
            "volumeMounts": _list(
                "Mounted volumes.",
                _object("A mount, as in a pod.", {"mountPath": mount_path}),
            ),
        },
        required=["name"],
    )


def _containers() -> Fragment:
    trainer = names.TRAINER_CONTAINER
    description = (
        f"The containers of a worker. The training runs in the one named {trainer}, or in the "
        "only one; it needs a `command`, because Goodput's agent runs that command."
    )
    return {
        **_list(description, _container(), MAX_CONTAINERS),
        "minItems": 1,
        **list_map("name"),
        **rules(
            rule(
                f"size(self) <= 1 || self.exists(c, c.name == '{trainer}')",
                f"which of the containers trains? Name that one {trainer}",
            ),
            rule(
                f"self.all(c, size(self) > 1 && c.name != '{trainer}' "
                "|| has(c.command) && size(c.command) > 0)",
                "the training container needs a command: Goodput runs it under its agent and "
                "cannot see the image's ENTRYPOINT; set command (args alone is not enough)",
                reason="FieldValueRequired",
            ),
        ),
    }


def template_schema() -> Fragment:
    """Return the schema of `spec.template`."""
    never = rule(
        "self in ['', 'Never']",
        "a worker's pod is never restarted in place by the kubelet, because Goodput restarts "
        "the processes; remove restartPolicy or set it to Never",
    )
    free = rule(
        "self == ''",
        "nodeName would send every worker to one node, past the scheduler; remove it and use "
        "nodeSelector or affinity",
        reason="FieldValueForbidden",
    )
    spec = _object(
        "The pod, as in any PodTemplateSpec; only the fields that Goodput checks are listed.",
        {
            "containers": _containers(),
            "initContainers": _list("Init containers.", _container(), MAX_CONTAINERS),
            "volumes": _list(
                "Volumes.",
                _object(
                    "A volume, as in a pod.",
                    {"name": _name("volume", names.AGENT_VOLUME, names.CREDENTIALS_VOLUME)},
                ),
            ),
            "restartPolicy": _string("Never, or absent.", 64, never),
            "nodeName": _string("Absent.", 253, free),
        },
        required=["containers"],
    )
    metadata = _object(
        "Labels and annotations of the pods; names are given by Goodput.",
        {"labels": _unreserved_keys("labels"), "annotations": _unreserved_keys("annotations")},
    )
    return _object(
        "The worker's pod (a PodTemplateSpec), the same for all workers.",
        {"metadata": metadata, "spec": spec},
        required=["spec"],
    )
