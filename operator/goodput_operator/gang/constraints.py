"""Which nodes the pods of one template may use, as far as that can be told from here. Pure.

What needs more than the node's own labels, taints and capacity (volumes and their zones, other
pods' anti-affinity, DRA claims, another scheduler's rules) is left to the scheduler and to the
gang's start time-out; `Constraints.unevaluated` names it.

Sources: the scheduler's plug-ins NodeAffinity, TaintToleration, NodePorts, InterPodAffinity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from goodput_operator.gang.nodes import Node, Taint
from goodput_operator.observe.resources import mapping, mappings

HOSTNAME = "kubernetes.io/hostname"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_DEFAULT_SCHEDULER = "default-scheduler"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a selector over labels (or over a node's fields)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Return whether a label's value, None for no such label, satisfies it."""
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
        return False  # the API server refuses any other

    def _compares(self, value: str | None) -> bool:
        try:
            left, right = int(value or ""), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return left > right if self.operator == "Gt" else left < right


@dataclass(frozen=True, slots=True)
class Term:
    """One alternative of a required node affinity: all of it must hold."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]

    def matches(self, node: Node) -> bool:
        """Return whether `node` satisfies it; an empty term is satisfied by none."""
        if not self.labels and not self.fields:
            return False
        return all(one.holds(node.labels.get(one.key)) for one in self.labels) and all(
            one.key == "metadata.name" and one.holds(node.name) for one in self.fields
        )


@dataclass(frozen=True, slots=True)
class Toleration:
    """One toleration of the template."""

    key: str
    operator: str
    value: str
    effect: str

    def covers(self, taint: Taint) -> bool:
        """Return whether it tolerates `taint`.

        Of the numeric comparisons (KEP-5471, not on by default) it says yes: the scheduler knows.
        """
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        if self.operator == "Equal":
            return self.key == taint.key and self.value == taint.value
        return self.operator == "Exists" or self.key == taint.key


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a template asks of a node, besides room.

    Attributes:
        affinity: the alternatives of the required node affinity; None when there is none.
        one_per_node: why no two workers can share a node; empty when they can.
        unevaluated: what only the scheduler can judge.
    """

    node_selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[Term, ...] | None = None
    tolerations: tuple[Toleration, ...] = ()
    one_per_node: str = ""
    unevaluated: tuple[str, ...] = ()

    def refusal(self, node: Node) -> str:
        """Return why no worker may go to `node`, in a few words; empty when one may."""
        if node.closed:
            return node.closed
        for taint in node.taints:
            if not any(toleration.covers(taint) for toleration in self.tolerations):
                return f"tainted {taint.key}"
        if any(node.labels.get(key) != value for key, value in self.node_selector):
            return "other labels"
        if self.affinity is not None and not any(term.matches(node) for term in self.affinity):
            return "outside the required node affinity"
        return ""

    def wanted(self) -> str:
        """Return what a node must look like, as the beginning of a sentence's end."""
        if self.node_selector:
            pairs = ",".join(f"{key}={value}" for key, value in self.node_selector)
            return f"no node matches nodeSelector {pairs}"
        if self.affinity is not None:
            return "no node matches the required node affinity"
        return "no node takes a worker"


def read_constraints(template: Mapping[str, Any], job_labels: Mapping[str, str]) -> Constraints:
    """Return what a job's pod template asks of nodes; parts of a wrong type count as absent.

    Args:
        template: `spec.template` of the job.
        job_labels: the labels that we put on each of its pods.
    """
    spec = mapping(template.get("spec"))
    labels = {**mapping(mapping(template.get("metadata")).get("labels")), **job_labels}
    affinity = mapping(spec.get("affinity"))
    apart, foreign = _anti_affinity(mapping(affinity.get("podAntiAffinity")), labels)
    ports = _host_ports(spec)
    return Constraints(
        node_selector=tuple(
            sorted(
                (str(key), str(value)) for key, value in mapping(spec.get("nodeSelector")).items()
            )
        ),
        affinity=_terms(mapping(affinity.get("nodeAffinity")).get(_REQUIRED)),
        tolerations=tuple(_toleration(one) for one in mappings(spec.get("tolerations"))),
        one_per_node="required anti-affinity"
        if apart
        else f"host port {ports[0]}"
        if ports
        else "",
        unevaluated=(*_left_to_the_scheduler(spec, affinity, ports), *foreign),
    )


def _toleration(one: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=_text(one.get("key")),
        operator=_text(one.get("operator")) or "Equal",
        value=_text(one.get("value")),
        effect=_text(one.get("effect")),
    )


def _terms(required: object) -> tuple[Term, ...] | None:
    if not isinstance(required, Mapping):
        return None
    return tuple(
        Term(
            tuple(_requirements(term.get("matchExpressions"))),
            tuple(_requirements(term.get("matchFields"))),
        )
        for term in mappings(required.get("nodeSelectorTerms"))
    )


def _requirements(expressions: object) -> Iterable[Requirement]:
    for one in mappings(expressions):
        values = one.get("values")
        texts = tuple(_text(value) for value in values) if isinstance(values, list) else ()
        yield Requirement(_text(one.get("key")), _text(one.get("operator")), texts)


def _anti_affinity(
    anti: Mapping[str, Any], labels: Mapping[str, str]
) -> tuple[bool, tuple[str, ...]]:
    """Return whether the gang's pods keep off each other's nodes, and what else is required."""
    apart, foreign = False, []
    for term in mappings(anti.get(_REQUIRED)):
        key = _text(term.get("topologyKey"))
        simple = not any(
            term.get(field)
            for field in ("namespaces", "namespaceSelector", "matchLabelKeys", "mismatchLabelKeys")
        )
        if key == HOSTNAME and simple and _selects(term.get("labelSelector"), labels):
            apart = True
        else:
            foreign.append(f"required pod anti-affinity over {key or 'no topology'}")
    return apart, tuple(foreign)


def _selects(selector: object, labels: Mapping[str, str]) -> bool:
    """Apply a label selector: an empty one selects everything, none selects nothing."""
    if not isinstance(selector, Mapping):
        return False
    wanted = mapping(selector.get("matchLabels"))
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        one.holds(labels.get(one.key)) for one in _requirements(selector.get("matchExpressions"))
    )


def _host_ports(spec: Mapping[str, Any]) -> list[int]:
    shares_the_network = spec.get("hostNetwork") is True
    found = []
    for container in mappings(spec.get("containers")) + mappings(spec.get("initContainers")):
        for port in mappings(container.get("ports")):
            number = port.get("hostPort") or (shares_the_network and port.get("containerPort"))
            if isinstance(number, int) and number:
                found.append(number)
    return found


def _left_to_the_scheduler(
    spec: Mapping[str, Any], affinity: Mapping[str, Any], ports: list[int]
) -> Iterable[str]:
    scheduler = _text(spec.get("schedulerName")) or _DEFAULT_SCHEDULER
    if scheduler != _DEFAULT_SCHEDULER:
        yield f"the rules of scheduler {scheduler}"
    if any(
        "persistentVolumeClaim" in volume or "ephemeral" in volume
        for volume in mappings(spec.get("volumes"))
    ):
        yield "where the persistent volumes can be used"
    if mappings(spec.get("resourceClaims")):
        yield "resource claims"
    if mappings(spec.get("schedulingGates")):
        yield "scheduling gates"
    if spec.get("runtimeClassName"):
        yield "the overhead and the nodes of the runtime class"
    if mappings(mapping(affinity.get("podAffinity")).get(_REQUIRED)):
        yield "required pod affinity"
    if any(
        spread.get("whenUnsatisfiable") == "DoNotSchedule"
        for spread in mappings(spec.get("topologySpreadConstraints"))
    ):
        yield "topology spread constraints"
    if ports:
        yield "host ports of other pods"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
