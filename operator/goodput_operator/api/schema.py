"""Turn the models into the CustomResourceDefinition that the API server enforces.

Pure; `crds/generate.py` writes the files. The API server wants a *structural* schema: no
references, no `anyOf` with null, a type on every node, `x-kubernetes-*` for what JSON Schema
cannot say. Defaults are the models' own and stand in `spec` alone: a server that invents parts
of a status would put words into the operator's mouth.
"""

from typing import Any

from pydantic import BaseModel

from goodput_operator import names
from goodput_operator.api.base import rule, rules
from goodput_operator.api.spec import MAX_JOB_NAME_LENGTH, TrainingJobSpec, shape_rules
from goodput_operator.api.status import TrainingJobStatus

Schema = dict[str, Any]

_DROPPED = ("title", "propertyNames", "$defs", "examples")

_NAME_RULE = rule(
    f"size(self.metadata.name) <= {MAX_JOB_NAME_LENGTH} "
    "&& self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    f"metadata.name must be at most {MAX_JOB_NAME_LENGTH} lower-case letters, digits and '-' "
    "(and not begin or end with '-'), because a worker's host name is "
    "{name}-{slot}-{incarnation} and has room for 63; choose a shorter or plainer name",
)

_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the job is in its life.", 0),
    ("Workers", "string", ".status.workers.text", "Workers that train, of those wanted.", 0),
    ("Step", "integer", ".status.progress.step", "The newest finished training step.", 0),
    ("Restarts", "integer", ".status.recovery.total", "How often it was started again.", 0),
    ("Goodput", "string", ".status.goodput", "Productive share of all accelerator time.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created.", 0),
    ("Reason", "string", ".status.reason", "Why the phase is what it is.", 1),
    ("Attempt", "integer", ".status.attempt.number", "Number of the newest attempt.", 1),
    ("Checkpoint", "integer", ".status.checkpoint.lastDurableStep", "Newest durable step.", 1),
)


def custom_resource_definition() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition of the TrainingJob."""
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.workers",
                "statusReplicasPath": ".status.workers.bound",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": wide}
            for name, kind, path, text, wide in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": _root()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["gtj"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """Return the structural schema of a model, with or without its defaults."""
    document = model.model_json_schema(by_alias=True)
    return _structural(document, document.get("$defs", {}), defaults)


def _root() -> Schema:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": (
            "A training job on several workers that start together and are brought back together, "
            "from the newest good checkpoint, whatever breaks."
        ),
        "required": ["spec"],
        **rules(_NAME_RULE, *shape_rules()),
        "properties": {
            "apiVersion": {**text, "description": f"Always {names.API_VERSION}."},
            "kind": {**text, "description": f"Always {names.KIND}."},
            "metadata": {"type": "object"},
            "spec": structural(TrainingJobSpec, defaults=True),
            "status": structural(TrainingJobStatus, defaults=False),
        },
    }


def _structural(node: Schema, definitions: Schema, defaults: bool) -> Schema:
    node = _resolved(node, definitions)
    made = {key: value for key, value in node.items() if key not in _DROPPED}
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if made.get("type") == "object":
        _settle_object(made, definitions, defaults)
    if made.get("type") == "array":
        made["items"] = _structural(made["items"], definitions, defaults)
        made.setdefault("x-kubernetes-list-type", "atomic")
    if not defaults or made.get("default") is None:
        made.pop("default", None)
    return made


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """Follow a reference and unwrap an optional; what stands beside them wins."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _resolved({**target, **beside}, definitions)
    if "anyOf" in node:
        beside = {key: value for key, value in node.items() if key != "anyOf"}
        (only,) = (choice for choice in node["anyOf"] if choice.get("type") != "null")
        return _resolved({**only, **beside}, definitions)
    return node


def _settle_object(made: Schema, definitions: Schema, defaults: bool) -> None:
    if "properties" in made:
        made["properties"] = {
            name: _structural(child, definitions, defaults)
            for name, child in made["properties"].items()
        }
    values = made.pop("additionalProperties", None)
    if isinstance(values, dict):
        made["additionalProperties"] = _structural(values, definitions, defaults)
    elif values is True:
        made["x-kubernetes-preserve-unknown-fields"] = True
