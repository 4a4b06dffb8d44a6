"""What is, of one job, as values: the only thing that diagnosis and planning look at.

Pure. `reconcile` gathers the raw objects; this module turns them into frozen, sorted values
in which "unknown" is a value of its own, never a default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar, cast

from goodput.protocol import Progress, Run
from goodput_operator import names
from goodput_operator.api.status import SlotStatus
from goodput_operator.observe.agents import AgentView
from goodput_operator.observe.notices import Notice, node_notice, pod_notice
from goodput_operator.observe.resources import mapping, mappings
from goodput_operator.observe.trim import Trimmed

T = TypeVar("T")


class NodeHealth(StrEnum):
    """What the control plane says of a node."""

    READY = "Ready"
    NOT_READY = "NotReady"
    """Its kubelet says so, or has stopped reporting: the worker on it may well be alive."""
    GONE = "Gone"
    """Deleted or declared out of service: nothing on it runs any more."""
    UNKNOWN = "Unknown"
    """We cannot see nodes (namespaced mode), or the pod is not bound."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the trainer's container ended, in the kubelet's words; `at`: in whole seconds."""

    exit_code: int
    reason: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of ours.

    Attributes:
        node: where it is bound, empty while it is not.
        address: the pod's IP, empty while it has none.
        pinned: the one node that we allowed it, empty when the scheduler was free.
        deleting: it has a deletion timestamp: it is as good as gone, and must end soon.
        gone_by: when the kubelet kills what is left of a pod that is being deleted.
        terminal: all of its containers have ended, sidecars too; it holds nothing.
        ended: the trainer's container has ended, or the whole pod has; None while neither has.
        disruption: why the cluster takes it away (preemption, eviction, drain), else empty.
        unschedulable: the scheduler's own words when it found no place.
        trouble: (reason, message) of a container that cannot start, as the kubelet puts it.
    """

    name: str
    uid: str
    slot: int
    incarnation: int
    node: str
    address: str
    pinned: str
    deleting: bool
    terminal: bool
    ended: Ending | None
    disruption: str
    unschedulable: str
    trouble: tuple[str, str] | None
    created_at: datetime
    gone_by: datetime | None = None

    @property
    def dead(self) -> bool:
        """Whether no process of ours can start in it any more."""
        return self.deleting or self.ended is not None


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node.

    Attributes:
        ready_since: since when it has been Ready; None where it is not, or does not say.
        domain: its rack, empty where that is not known.
        spot: its cloud may take it away at any time, as a label says.
        taints: as they are.
    """

    health: NodeHealth
    ready_since: datetime | None = None
    domain: str = ""
    spot: bool = False
    taints: Sequence[Mapping[str, Any]] = ()


UNSEEN_NODE = NodeView(NodeHealth.UNKNOWN)
GONE_NODE = NodeView(NodeHealth.GONE)


@dataclass(frozen=True, slots=True)
class Worker:
    """One place in the gang: the pod that stands for it now, its agent, its node's health.

    Attributes:
        silent_seconds: since the agent's last word, or while there is none since its pod was
            made; since we began to listen if that is later.
        succeeded: the status has it that its processes of the newest attempt ended well.
        domain: its node's rack, empty where that is not known.
        spot: its node's cloud may take the node away at any time, as a label says.
        notice: that it will be taken away, and until when it may save; None: nobody says so.
    """

    slot: int
    incarnation: int
    rank: int
    pod: PodView | None
    agent: AgentView | None
    node: NodeHealth
    silent_seconds: float
    succeeded: bool = False
    domain: str = ""
    spot: bool = False
    notice: Notice | None = None

    @property
    def run(self) -> Run | None:
        """What the agent last said that it runs."""
        return self.agent.request.run if self.agent else None

    def run_of(self, attempt: int) -> Run | None:
        """What the agent last said of this very attempt."""
        run = self.run
        return run if run is not None and run.attempt == attempt else None

    def progress_of(self, attempt: int) -> Progress | None:
        """What the trainer last said in this very attempt."""
        run = self.run_of(attempt)
        return run.progress if run else None


@dataclass(frozen=True, slots=True)
class TemplateAnswer:
    """What the API server says of a worker pod that it was only asked about (dry run).

    Attributes:
        refusal: its objection, empty when it has none.
        priority: what the pod's priority class means; None where it could not be asked.
    """

    refusal: str = ""
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """One job's world at one moment, sorted by slot.

    Attributes:
        workers: one for each slot of the status, in slot order.
        strays: pods of this job that stand for no slot now (older incarnations, lost slots).
        listening_since: when this operator began to take reports, and to answer them.
        refusal: why the API server refused to create a pod in the last pass, else empty.
        template_answer: None when the API server was not asked.
        ready_since: since when the nodes that are Ready have been, as far as they were looked at.
    """

    key: tuple[str, str]
    uid: str
    generation: int
    created_at: datetime
    workers: tuple[Worker, ...]
    strays: tuple[PodView, ...]
    listening_since: datetime
    refusal: str = ""
    template_answer: TemplateAnswer | None = None
    ready_since: Mapping[str, datetime] = field(default_factory=dict)


def reseat(snapshot: JobSnapshot, slots: Sequence[SlotStatus]) -> JobSnapshot:
    """Return the same world seen with other places of the gang.

    A pod whose slot has moved on to another incarnation becomes a stray, and the slot's worker
    has no pod yet.
    """
    known = {worker.slot: worker for worker in snapshot.workers}
    workers = []
    strays = list(snapshot.strays)
    for slot in sorted(slots, key=lambda one: one.slot):
        worker = known.pop(slot.slot, None)
        if worker is not None and worker.incarnation == slot.incarnation:
            if (worker.rank, worker.succeeded) != (slot.rank, slot.succeeded):
                worker = replace(worker, rank=slot.rank, succeeded=slot.succeeded)
            workers.append(worker)
            continue
        if worker is not None and worker.pod is not None:
            strays.append(worker.pod)
        workers.append(
            Worker(slot.slot, slot.incarnation, slot.rank, None, None, NodeHealth.UNKNOWN, 0.0)
        )
    strays += [worker.pod for worker in known.values() if worker.pod is not None]
    strays.sort(key=lambda pod: (pod.slot, pod.incarnation, pod.uid))
    return replace(snapshot, workers=tuple(workers), strays=tuple(strays))


def parse_time(text: str) -> datetime:
    """Return an API server's timestamp."""
    return datetime.fromisoformat(text)


def observe_pod(pod: Mapping[str, Any], owner_uid: str) -> PodView | None:
    """Return the view of a (trimmed) pod, or None when it is not this job's own."""
    owners, view = _read_once(pod, _read_pod)
    return view if owner_uid in owners else None


def observe_node(node: Mapping[str, Any] | None) -> NodeView:
    """Return the view of a (trimmed) node; None means that the node is not there."""
    return GONE_NODE if node is None else _read_once(node, _read_node)


def _read_once(obj: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what `read` makes of an object; of a trimmed one it is kept.

    Most objects are the same in pass after pass, and to read those of a thousand workers anew takes
    a third of the time of a pass.
    """
    if not isinstance(obj, Trimmed):
        return read(obj)
    try:
        return cast("T", obj.view)
    except AttributeError:
        view = read(obj)
        obj.view = view
        return view


def _read_pod(pod: Mapping[str, Any]) -> tuple[frozenset[str], PodView | None]:
    """Return the UIDs of a pod's owners, and its view; None when its name is none of ours."""
    metadata = pod["metadata"]
    owners = frozenset(one.get("uid", "") for one in metadata.get("ownerReferences") or ())
    try:
        slot, incarnation = _identity(metadata["name"])
    except ValueError:
        return owners, None
    status = pod.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {})
    deleted_at = metadata.get("deletionTimestamp")
    return owners, PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        slot=slot,
        incarnation=incarnation,
        node=(pod.get("spec") or {}).get("nodeName") or "",
        address=status.get("podIP") or "",
        pinned=(pod.get("spec") or {}).get("pinnedNode") or "",
        deleting=bool(deleted_at),
        terminal=status.get("phase") in ("Succeeded", "Failed"),
        ended=_ending(status),
        disruption=disrupted.get("reason", "") if disrupted.get("status") == "True" else "",
        unschedulable=(
            scheduled.get("message") or "Unschedulable"
            if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
            else ""
        ),
        trouble=_trouble(status),
        created_at=parse_time(metadata["creationTimestamp"]),
        gone_by=parse_time(deleted_at) if deleted_at else None,
    )


def _read_node(node: Mapping[str, Any]) -> NodeView:
    taints = mappings(mapping(node.get("spec")).get("taints"))
    labels = mapping(mapping(node.get("metadata")).get("labels"))
    conditions = mappings(mapping(node.get("status")).get("conditions"))
    condition = next((one for one in conditions if one.get("type") == "Ready"), {})
    since = condition.get("lastTransitionTime")
    health = NodeHealth.READY if condition.get("status") == "True" else NodeHealth.NOT_READY
    if any(taint.get("key") == names.TAINT_OUT_OF_SERVICE for taint in taints):
        health = NodeHealth.GONE
    return NodeView(
        health=health,
        ready_since=parse_time(since) if since and health is NodeHealth.READY else None,
        domain=labels.get(names.LABEL_RACK, ""),
        spot=any(labels.get(name) == value for name, value in names.SPOT_LABELS),
        taints=taints,
    )


def _identity(name: str) -> tuple[int, int]:
    """Read slot and incarnation from the name: labels can be edited by hand, names cannot."""
    _, slot, incarnation = name.rsplit("-", 2)
    return int(slot), int(incarnation)


def _statuses(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]


def _ending(status: Mapping[str, Any]) -> Ending | None:
    containers = status.get("containerStatuses") or ()
    wrapped = [one for one in containers if one["name"] == names.TRAINER_CONTAINER]
    if not wrapped and len(containers) == 1:
        wrapped = list(containers)
    for one in wrapped:
        ended = (one.get("state") or {}).get("terminated")
        if ended:
            return Ending(
                int(ended.get("exitCode", 0)),
                ended.get("reason") or "",
                ended.get("message") or status.get("message") or "",
                parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None,
            )
    phase = status.get("phase")
    if phase in ("Succeeded", "Failed"):
        for one in _statuses(status):
            ended = (one.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode"):
                return Ending(
                    int(ended["exitCode"]),
                    status.get("reason") or ended.get("reason") or "",
                    f"container {one['name']}: {ended.get('message') or status.get('message', '')}",
                )
        return Ending(
            0 if phase == "Succeeded" else -1,
            status.get("reason") or "",
            status.get("message") or "",
        )
    return None


def _trouble(status: Mapping[str, Any]) -> tuple[str, str] | None:
    for one in _statuses(status):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or ""
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            return reason, f"container {one['name']}: {waiting.get('message') or reason}"
    return None


def observe(
    job: Mapping[str, Any],
    slots: Sequence[SlotStatus],
    pods: Sequence[Mapping[str, Any]],
    nodes: Mapping[str, Mapping[str, Any] | None] | None,
    agents: Mapping[str, AgentView],
    *,
    listening_since: datetime,
    now: datetime,
    refusal: str = "",
    template_answer: TemplateAnswer | None = None,
) -> JobSnapshot:
    """Return the job's world.

    Args:
        job: the raw TrainingJob.
        slots: the status's places of the gang.
        pods: trimmed pods that carry the job's label.
        nodes: by name, for the pods' nodes and those that are avoided, None for one that is not
            there; or None when we may not see nodes.
        agents: by pod UID.
        listening_since: when this operator began to take reports: silence counts from then.
        now: the present.
        refusal: see `JobSnapshot`.
        template_answer: see `JobSnapshot`.
    """
    metadata = job["metadata"]
    template = mapping(mapping(job.get("spec")).get("template"))
    tolerations = mappings(mapping(template.get("spec")).get("tolerations"))
    seen = {name: observe_node(node) for name, node in sorted((nodes or {}).items())}
    views = [view for pod in pods if (view := observe_pod(pod, metadata["uid"])) is not None]
    views.sort(key=lambda view: (view.slot, view.incarnation, view.uid))
    current = {slot.slot: slot for slot in slots}
    standing: dict[int, PodView] = {}
    strays = []
    for view in views:
        slot = current.get(view.slot)
        if slot is not None and slot.incarnation == view.incarnation:
            standing[view.slot] = view
        else:
            strays.append(view)
    workers = []
    for slot in sorted(slots, key=lambda one: one.slot):
        pod = standing.get(slot.slot)
        agent = agents.get(pod.uid) if pod else None
        heard_at = listening_since
        if pod is not None:
            heard_at = max(heard_at, agent.received_at if agent else pod.created_at)
        node, notice = UNSEEN_NODE, None
        if pod and pod.node and nodes is not None:
            node = seen.get(pod.node, GONE_NODE)
            notice = node_notice(node.taints, tolerations) if node.taints else None
        if pod:
            notice = pod_notice(pod.gone_by, pod.disruption, agent) or notice
        workers.append(
            Worker(
                slot=slot.slot,
                incarnation=slot.incarnation,
                rank=slot.rank,
                pod=pod,
                agent=agent,
                node=node.health,
                silent_seconds=max(0.0, (now - heard_at).total_seconds()),
                succeeded=slot.succeeded,
                domain=node.domain,
                spot=node.spot,
                notice=notice,
            )
        )
    return JobSnapshot(
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created_at=parse_time(metadata["creationTimestamp"]),
        workers=tuple(workers),
        strays=tuple(strays),
        listening_since=listening_since,
        refusal=refusal,
        template_answer=template_answer,
        ready_since={
            name: node.ready_since for name, node in seen.items() if node.ready_since is not None
        },
    )
