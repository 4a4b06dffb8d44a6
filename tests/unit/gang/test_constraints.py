"""Which nodes a template allows, and what of it only the scheduler can judge."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator.gang import read_constraints
from goodput_operator.gang.nodes import read_node
from tests.unit.gang.cluster import GPU, node

LABELS = {"goodput.training/job": "train"}
GPU_TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}


def refusal(spec: dict[str, Any], **facts: Any) -> str:
    return read_constraints({"spec": spec}, LABELS).refusal(read_node(node("a", **facts)))


def required(*terms: Any) -> dict[str, Any]:
    selector = {"nodeSelectorTerms": list(terms)}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}
    }


def expression(operator: str, *values: str, key: str = "size") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def test_a_template_without_wishes_may_use_any_open_node() -> None:
    assert refusal({}) == ""


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        pytest.param({"key": GPU, "operator": "Exists"}, True, id="any value of the key"),
        pytest.param({"operator": "Exists"}, True, id="everything"),
        pytest.param({"key": GPU, "value": "present"}, True, id="Equal is the default"),
        pytest.param({"key": GPU, "operator": "Equal", "value": "x"}, False, id="another value"),
        pytest.param({"key": "x", "operator": "Exists"}, False, id="another key"),
        pytest.param(
            {"key": GPU, "operator": "Exists", "effect": "NoExecute"}, False, id="another effect"
        ),
        pytest.param(
            {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}, True, id="its effect"
        ),
        pytest.param(
            {"key": GPU, "operator": "Gt", "value": "1"}, True, id="the scheduler can compare"
        ),
    ],
)
def test_a_taint_keeps_out_who_does_not_tolerate_it(
    toleration: dict[str, str], tolerated: bool
) -> None:
    expected = "" if tolerated else f"tainted {GPU}"
    assert refusal({"tolerations": [toleration]}, taints=[GPU_TAINT]) == expected


def test_a_taint_that_only_prefers_keeps_nobody_out() -> None:
    assert refusal({}, taints=[{**GPU_TAINT, "effect": "PreferNoSchedule"}]) == ""


@pytest.mark.parametrize(
    ("term", "allowed"),
    [
        pytest.param(expression("In", "8", "16"), True, id="In"),
        pytest.param(expression("In", "4"), False, id="not In"),
        pytest.param(expression("NotIn", "4"), True, id="NotIn"),
        pytest.param(expression("NotIn", "4", key="none"), True, id="NotIn holds without label"),
        pytest.param(expression("Exists"), True, id="Exists"),
        pytest.param(expression("Exists", key="none"), False, id="does not exist"),
        pytest.param(expression("DoesNotExist", key="none"), True, id="DoesNotExist"),
        pytest.param(expression("Gt", "7"), True, id="Gt"),
        pytest.param(expression("Gt", "8"), False, id="Gt is strict"),
        pytest.param(expression("Lt", "9"), True, id="Lt"),
        pytest.param(expression("Lt", "9", key="none"), False, id="Lt needs a label"),
        pytest.param(expression("Gt", "many"), False, id="Gt needs numbers"),
        pytest.param({}, False, id="an empty term is satisfied by no node"),
        pytest.param(
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]},
            True,
            id="the node's own name",
        ),
        pytest.param(
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}]},
            False,
            id="any but this node",
        ),
    ],
)
def test_required_node_affinity_is_judged_as_the_scheduler_does(
    term: dict[str, Any], allowed: bool
) -> None:
    expected = "" if allowed else "outside the required node affinity"
    assert refusal(required(term), labels={"size": "8"}) == expected


def test_one_satisfied_term_is_enough_and_all_of_it_must_hold() -> None:
    both = {
        "matchExpressions": expression("Exists")["matchExpressions"]
        + expression("In", "x", key="zone")["matchExpressions"]
    }
    assert refusal(required(both), labels={"size": "8"})
    assert refusal(required(both, expression("Exists")), labels={"size": "8"}) == ""


def test_an_affinity_without_terms_is_satisfied_by_no_node() -> None:
    assert refusal(required())


def anti_affinity(**term: Any) -> dict[str, Any]:
    return {
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    }


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            anti_affinity(
                topologyKey="kubernetes.io/hostname",
                labelSelector={"matchLabels": {"goodput.training/job": "train"}},
            ),
            id="anti-affinity to the job's own pods",
        ),
        pytest.param(
            anti_affinity(
                topologyKey="kubernetes.io/hostname",
                labelSelector={
                    "matchExpressions": [{"key": "app", "operator": "In", "values": ["gpt"]}]
                },
            ),
            id="anti-affinity to the template's own label",
        ),
        pytest.param({"containers": [{"ports": [{"hostPort": 29500}]}]}, id="a host port"),
        pytest.param(
            {"hostNetwork": True, "containers": [{"ports": [{"containerPort": 29500}]}]},
            id="a port on the host's network",
        ),
    ],
)
def test_workers_that_cannot_share_a_node_are_told_apart(spec: dict[str, Any]) -> None:
    template = {"metadata": {"labels": {"app": "gpt"}}, "spec": spec}
    assert read_constraints(template, LABELS).one_per_node


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ({"schedulerName": "volcano"}, "the rules of scheduler volcano"),
        (
            {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]},
            "where the persistent volumes can be used",
        ),
        ({"resourceClaims": [{"name": "gpu"}]}, "resource claims"),
        ({"schedulingGates": [{"name": "quota"}]}, "scheduling gates"),
        ({"runtimeClassName": "kata"}, "the overhead and the nodes of the runtime class"),
        (
            {"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]},
            "topology spread constraints",
        ),
        (
            {
                "affinity": {
                    "podAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]
                    }
                }
            },
            "required pod affinity",
        ),
        (
            anti_affinity(topologyKey="zone", labelSelector={}),
            "required pod anti-affinity over zone",
        ),
        (
            anti_affinity(
                topologyKey="kubernetes.io/hostname",
                labelSelector={"matchLabels": {"app": "somebody-else"}},
            ),
            "required pod anti-affinity over kubernetes.io/hostname",
        ),
    ],
)
def test_what_only_the_scheduler_can_judge_is_named(spec: dict[str, Any], left: str) -> None:
    constraints = read_constraints({"spec": spec}, LABELS)
    assert constraints.unevaluated == (left,)
    assert not constraints.one_per_node


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: JSON | st.lists(JSON, max_size=2)
            for name in (
                "affinity",
                "containers",
                "initContainers",
                "nodeSelector",
                "schedulerName",
                "tolerations",
                "volumes",
            )
        },
    )
)
def test_a_template_of_any_shape_can_be_asked(spec: dict[str, Any]) -> None:
    refusal(spec, taints=[GPU_TAINT])
