"""One case through the pure part of a pass, again and again, as `Reconciler.visit` does it."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from goodput.protocol import ProtocolError, SyncAnswer, SyncRequest
from goodput_operator import names
from goodput_operator.api.status import ConditionType
from goodput_operator.errors import CorruptStatusError
from goodput_operator.gang.book import Book
from goodput_operator.observe.agents import AgentView
from goodput_operator.observe.resources import pod_requests
from goodput_operator.observe.snapshot import TemplateAnswer, observe
from goodput_operator.observe.trim import trim_node, trim_own_pod
from goodput_operator.plan.decide import Plan, decide
from goodput_operator.plan.view import Timing
from goodput_operator.reconcile import Placer, event, read_job, unreadable
from goodput_operator.render.pod import JobIdentity, RenderSettings, render_pod
from goodput_operator.render.template import (
    accelerators_per_worker,
    processes_per_worker,
    template_problems,
)
from tests.fuzz import generate
from tests.fuzz.generate import CREATED, INT64, POD_STATUSES, SPEC, STATUS, Json

SETTINGS = RenderSettings("agent:1", "https://10.96.0.1", "CA")
MOST_VISITS = 16
"""Until a job in a world that stands still must be at rest."""
PLACE = re.compile(r"(spec|status)\b")
TEXT = {"string": str, "boolean": bool, "object": dict, "array": list}


class ViolationError(AssertionError):
    """What must never happen and did."""


def problems(schema: Json, value: Json, path: str) -> Iterator[str]:
    """Yield why the API server would refuse a value, its CEL rules left aside."""
    if value is None:
        return  # it takes null as absent
    kind = schema.get("type")
    if kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            yield f"{path}: an integer is wanted"
        elif (
            not max(schema.get("minimum", -INT64 - 1), -INT64 - 1)
            <= value
            <= min(schema.get("maximum", INT64), INT64)
        ):
            yield f"{path}: {value} is out of range"
        return
    if kind in TEXT and not isinstance(value, TEXT[kind]):
        yield f"{path}: of the wrong type"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: none of {schema['enum']}"
    if kind == "string":
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", INT64):
            yield f"{path}: too short or too long"
        if schema.get("format") == "date-time" and not _is_time(value):
            yield f"{path}: no time"
    elif kind == "array":
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", INT64):
            yield f"{path}: too few or too many"
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys and all(isinstance(one, dict) for one in value):
            found = [json.dumps([one.get(key) for key in keys]) for one in value]
            if len(set(found)) < len(found):
                yield f"{path}: a key stands twice"
        for index, one in enumerate(value):
            if one is None:
                yield f"{path}[{index}]: null is no item"
            yield from problems(schema["items"], one, f"{path}[{index}]")
    elif kind == "object":
        for missing in set(schema.get("required", ())) - {
            k for k, v in value.items() if v is not None
        }:
            yield f"{path}.{missing}: required"
        for key, one in value.items():
            below = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if below:
                yield from problems(below, one, f"{path}.{key}")


def _is_time(text: str) -> bool:
    """Tell whether Go reads it as RFC 3339."""
    found = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    return found is not None and int(found[1]) < 60


@dataclass
class World:
    """A job, and the caches and clock round it.

    Attributes:
        objects: how many states of the job went through the path.
        refused: how many of them the API server, or `read_job`, would not take.
        visits: passes made.
    """

    case: Json
    rng: Random
    job: Json
    now: datetime = datetime.fromisoformat(CREATED) + timedelta(seconds=1)
    pods: dict[str, Json] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)
    agents: dict[str, AgentView] = field(default_factory=dict)
    book: Book = field(default_factory=Book)
    refusal: str = ""
    template_refusal: str = ""
    priority: int | None = None
    objects: int = 0
    refused: int = 0
    visits: int = 0

    @classmethod
    def of(cls, case: Json) -> "World":
        """Set the stage."""
        metadata = {
            "namespace": "lab",
            "name": case["name"],
            "uid": "uid-job",
            "generation": 1,
            "creationTimestamp": CREATED,
        }
        made = cls(case, Random(case["seed"]), {"metadata": metadata, "spec": case["spec"]})
        if made.rng.random() < 0.05:
            made.template_refusal = "spec.containers[0].image: Required value"
        made.priority = made.rng.choice((None, 0, -(2**31), 2_000_001_000))
        for node in case["nodes"]:
            made.nodes[node["metadata"]["name"]] = trim_node(node)
            made.book.node_changed(None, made.nodes[node["metadata"]["name"]])
        for pod in case["pods"]:
            made._put(pod)
        if case["status"] is not None:
            made._write_by_hand(case["status"])
        return made

    def play(self) -> None:
        """Take the job to rest, then do the same after each edit."""
        self._settle()
        for _ in range(self.case["edits"]):
            self._edit()
            self._settle()

    # --- the operator ------------------------------------------------------------------------

    def _settle(self) -> None:
        self.objects += 1
        if any(problems(SPEC, self.job["spec"], "spec")):
            self.refused += 1  # at admission; whoever reads it all the same must not fall over
            self._read()
            return
        for _ in range(self.rng.choice((1, 1, 2))):
            plan = self._rest()
            if plan is None:
                return
            later = plan.recheck_at or self.now + timedelta(seconds=60)
            self.now = max(self.now, min(later, self.now + timedelta(days=1)))

    def _read(self) -> Any:
        try:
            return read_job(self.job)
        except CorruptStatusError as error:
            if not PLACE.search(str(error)):
                raise ViolationError(f"a refusal that names no field: {error}") from None
            if any(problems(STATUS, self.job.get("status"), "status")):
                return None  # no API server stores it
            said = unreadable(self.job, str(error), self.now)
            if said is None or unreadable({**self.job, "status": said}, str(error), self.now):
                raise ViolationError(f"not said once in the conditions: {error}") from None
            _plain(said)
            return None

    def _rest(self) -> Plan | None:
        decisions = []
        for _ in range(MOST_VISITS):
            read = self._read()
            if read is None:
                self.refused += 1
                return None
            plan = self._visit(*read)
            decisions.append([reason for reason, _ in plan.decisions])
            if not (plan.write or plan.create or plan.delete):
                return plan
        raise ViolationError(f"no rest after {MOST_VISITS} visits: {decisions[-4:]}")

    def _visit(self, spec: Any, status: Any) -> Plan:
        self.visits += 1
        key = ("lab", self.case["name"])
        wrong = template_problems(spec, operator_service_account="operator")
        snapshot = observe(
            self.job,
            status.slots,
            tuple(self.pods.values()),
            self.nodes,
            self.agents,
            listening_since=self.now - timedelta(seconds=self.rng.choice((0, 1, 90))),
            now=self.now,
            refusal=self.refusal,
            template_answer=(
                None if wrong else TemplateAnswer(self.template_refusal, self.priority)
            ),
        )
        self.refusal = ""
        identity = JobIdentity(*key, "uid-job")

        def requests() -> Any:
            pod = render_pod(identity, spec, 0, 0, None, SETTINGS)
            return pod_requests(pod["spec"])

        placer = Placer(self.book, key, spec, requests, self.now)
        plan = decide(
            spec,
            status,
            snapshot,
            now=self.now,
            place=placer.place,
            pinned=spec.gang.admission == "WhenFits",
            accelerators=accelerators_per_worker(spec) or 1,
            processes=processes_per_worker(spec),
            timing=Timing(),
            template_problems=wrong,
        )
        if not wrong:
            placer.settle(plan, status.queued_since)
        self._check(plan, spec, wrong)
        if plan.write:
            self.job["status"] = plan.status.model_dump(mode="json", by_alias=True)
            _plain(self.job["status"])
            refused = list(problems(STATUS, self.job["status"], "status"))
            if refused:
                raise ViolationError(f"the status that was written is refused: {refused[:3]}")
        for slot, incarnation, node in plan.create:
            pod = render_pod(identity, spec, slot, incarnation, node, SETTINGS)
            _plain(pod)
            if len(pod["metadata"]["name"]) > 63:
                raise ViolationError(f"the pod's name is too long: {pod['metadata']['name']}")
            if pod["metadata"]["name"] in self.pods:
                self.refusal = "a pod of this name exists"
                break
            self._put(_stored(pod, node or self.rng.choice(list(self.nodes)), now=self.now))
        for view in plan.delete:
            self._remove(view.name)
        return plan

    def _check(self, plan: Plan, spec: Any, wrong: tuple[str, ...]) -> None:
        """What must hold after every pass."""
        said = {one.type: one for one in plan.status.conditions}
        missing = set(ConditionType) - set(said)
        if missing:
            raise ViolationError(f"conditions are not set: {sorted(missing)}")
        if wrong and (plan.create or not all("spec." in one for one in wrong)):
            raise ViolationError(f"an invalid template is used, or its field not named: {wrong}")
        for decision, kind in (
            ("Failed", ConditionType.FAILED),
            ("TemplateInvalid", ConditionType.TEMPLATE_VALID),
        ):
            if decision in dict(plan.decisions) and not said[kind].message.strip():
                raise ViolationError(f"{kind} without a word: {said[kind]}")
        for decision, message in plan.decisions:
            _plain(event(self.job | {"spec": {}}, decision, message, self.now, warning=True))
        for answer in plan.answers.values():
            SyncAnswer.from_json(answer.to_json())

    # --- the others ------------------------------------------------------------------------------

    def _edit(self) -> None:
        rng, bold = self.rng, self.case["bold"]
        match rng.randrange(8):
            case 0:
                self.job["spec"] = generate.edit_spec(self.job["spec"], rng, bold)
                self.job["metadata"]["generation"] += 1
            case 1 | 2:
                before = self.job.get("status")
                self._write_by_hand(generate.edit_status(before, rng, bold / 2))
            case 3 | 4:
                self._speak()
            case 5:
                for pod in rng.sample(list(self.pods.values()), min(2, len(self.pods))):
                    changed = {**pod, "uid": "x", "status": copy.deepcopy(rng.choice(POD_STATUSES))}
                    if rng.random() < 0.3:
                        stamp = {"deletionTimestamp": CREATED}
                        changed["metadata"] = {**pod["metadata"], **stamp}
                    self._put(changed)
            case 6:
                if self.pods and rng.random() < 0.5:
                    self._remove(rng.choice(list(self.pods)))
                else:
                    self._put(generate.strange_pod(self.case["name"], rng))
            case 7:
                name = rng.choice(list(self.nodes))
                if rng.random() < 0.4:
                    self.book.node_changed(self.nodes.pop(name), None)
                    self.nodes[f"{name}-"] = trim_node(generate.nodes(rng)[0])
                self.now += timedelta(seconds=rng.choice((0, 5, 100, 10**6)))

    def _write_by_hand(self, status: Json) -> None:
        """Write a status; where the API server refuses it, everything stays as it was."""
        before = self.job.get("status")
        self.job["status"] = status
        if any(problems(STATUS, status, "status")):
            self._read()
            self.job["status"] = before

    def _speak(self) -> None:
        status = self.job.get("status") or {}
        attempt = (status.get("attempt") or {}).get("number") or 0
        together = self.rng.random() < 0.5
        text = generate.report(0, attempt, self.rng)
        for pod in self.pods.values():
            if not together:
                text = generate.report(0, attempt, self.rng)
            try:
                request = SyncRequest.from_dict(text)
            except ProtocolError:
                continue
            first = self.now - timedelta(seconds=1)
            self.agents[pod["metadata"]["uid"]] = AgentView(request, self.now, first)

    def _put(self, raw: Json) -> None:
        pod = trim_own_pod({**raw, "metadata": {"resourceVersion": "1", **raw["metadata"]}})
        name = pod["metadata"]["name"]
        self.book.pod_changed(self.pods.get(name), pod)
        self.pods[name] = pod

    def _remove(self, name: str) -> None:
        pod = self.pods.pop(name)
        self.book.pod_changed(pod, None)
        self.agents.pop(pod["metadata"]["uid"], None)


def _stored(pod: Json, node: str, now: datetime | None = None) -> Json:
    """Return a rendered pod as the API server gives it back, bound and running."""
    stamp = now.isoformat() if now else CREATED
    metadata = {
        **pod["metadata"],
        "uid": f"uid-{pod['metadata']['name']}",
        "resourceVersion": "1",
        "creationTimestamp": stamp,
    }
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    spec = {**pod["spec"], "nodeName": node, "affinity": affinity}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "podIP": "10.0.0.1"}}


def _plain(value: Json) -> None:
    """Assert that it can be sent: JSON, in UTF-8, no number beyond what the API server holds."""
    json.dumps(value, allow_nan=False).encode()


assert names.TRAINER_CONTAINER == "trainer"
