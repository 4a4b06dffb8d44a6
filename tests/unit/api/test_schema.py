"""The CRD says what the models say, in the form that an API server takes."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from crds import generate
from goodput_operator import names
from goodput_operator.api.schema import custom_resource_definition
from goodput_operator.api.spec import (
    MAX_JOB_NAME_LENGTH,
    MAX_WORKERS,
    TrainingJobSpec,
)
from goodput_operator.api.status import TrainingJobStatus

Node = dict[str, Any]

(VERSION,) = custom_resource_definition()["spec"]["versions"]
ROOT: Node = VERSION["schema"]["openAPIV3Schema"]
SPEC: Node = ROOT["properties"]["spec"]
STATUS: Node = ROOT["properties"]["status"]
ANNOTATION_LIMIT_BYTES = 256 * 1024


def nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every node of a schema with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


ALL_NODES = [pytest.param(node, id=path or "the root") for path, node in nodes(ROOT)]
FIELDS = [
    pytest.param(node, id=path)
    for path, node in nodes(ROOT)
    if path and path != ".metadata" and not path.endswith(("[]", "{}"))
]


@pytest.mark.parametrize("target", generate.TARGETS, ids=lambda path: path.parent.name)
def test_the_committed_crd_is_the_generated_one(target: Any) -> None:
    assert target.read_text(encoding="utf-8") == generate.rendered(), "run python crds/generate.py"


def test_what_is_written_is_what_the_models_say() -> None:
    assert yaml.safe_load(generate.rendered()) == custom_resource_definition()


def test_client_side_apply_has_room_for_the_crd() -> None:
    assert len(generate.rendered()) < ANNOTATION_LIMIT_BYTES / 2


@pytest.mark.parametrize("node", ALL_NODES)
def test_the_schema_is_structural(node: Node) -> None:
    refused = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "const", "prefixItems", "title"}
    assert not refused & node.keys()
    assert isinstance(node.get("type"), str) != node.get("x-kubernetes-int-or-string", False)
    assert not ("properties" in node and "additionalProperties" in node)
    assert node.get("default", "absent") is not None
    if node.get("type") == "array":
        assert node["x-kubernetes-list-type"] in {"atomic", "map", "set"}


@pytest.mark.parametrize("node", FIELDS)
def test_every_field_is_described_to_its_user(node: Node) -> None:
    assert node["description"].endswith(".")
    assert "\n" not in node["description"]


def defaults_of(model: type[BaseModel]) -> Node:
    """Return the defaults of a model's fields under their names in the API."""
    return {
        field.alias or name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def assert_same_defaults(model: type[BaseModel], node: Node) -> None:
    given = {name: child.get("default") for name, child in node["properties"].items()}
    for name, default in defaults_of(model).items():
        if isinstance(default, BaseModel):
            assert given[name] == default.model_dump(by_alias=True, exclude_none=True)
            assert_same_defaults(type(default), node["properties"][name])
        else:
            assert given[name] == default, name


def test_the_servers_defaults_are_the_models() -> None:
    assert_same_defaults(TrainingJobSpec, SPEC)


def test_the_server_invents_no_part_of_a_status() -> None:
    assert [path for path, node in nodes(STATUS) if "default" in node] == []


def test_a_status_may_leave_out_what_has_a_default() -> None:
    assert "required" not in STATUS
    TrainingJobStatus.model_validate({})


def test_conditions_are_merged_by_their_types_and_slots_are_one_value() -> None:
    assert STATUS["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert STATUS["properties"]["slots"]["x-kubernetes-list-type"] == "atomic"


def test_the_longest_name_leaves_room_for_the_last_pod() -> None:
    longest = names.pod_name("j" * MAX_JOB_NAME_LENGTH, MAX_WORKERS - 1, names.MAX_INCARNATION)
    assert len(longest) == 63


def test_the_template_keeps_what_its_schema_does_not_know() -> None:
    open_nodes = {
        path
        for path, node in nodes(SPEC["properties"]["template"])
        if node.get("x-kubernetes-preserve-unknown-fields")
    }
    objects = {
        path
        for path, node in nodes(SPEC["properties"]["template"])
        if node["type"] == "object" and "additionalProperties" not in node
    }
    assert open_nodes == objects


@pytest.mark.parametrize(
    "column", VERSION["additionalPrinterColumns"], ids=lambda column: column["name"]
)
def test_a_printed_column_shows_a_field_that_exists(column: Node) -> None:
    _, part, *fields = column["jsonPath"].split(".")
    if part == "metadata":
        return
    node = STATUS
    for field in fields:
        node = node["properties"][field]
    assert node["type"] == column["type"]


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(refusal, id=refusal["message"][:60])
        for _, node in nodes(ROOT)
        for refusal in node.get("x-kubernetes-validations", [])
    ],
)
def test_a_refusal_is_a_sentence_with_a_reason(refusal: Node) -> None:
    assert refusal["reason"].startswith("FieldValue")
    assert len(refusal["message"].split()) >= 8
