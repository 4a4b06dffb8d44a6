"""One pass over one TrainingJob: the page to read first.

    gather    what the caches, the agents and the API server say       I/O, read only
    observe   -> JobSnapshot                                           pure
    decide    -> Plan: the next status, and what follows from it       pure: plan.decide
    persist   the status, on condition that nobody wrote since         the intent first
    act       answer the agents, create and delete pods                idempotent
    record    Kubernetes events for what was decided

An event only wakes a job; it carries no facts. All memory is in the TrainingJob's status, so
a pass can die after any line and the next one, of whichever replica, goes on from there. Only
one pass at a time runs for a job (`controller.queue` sees to that), and passes of different
jobs meet in one place, the book of capacity, which is read and written without an `await`
between.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from goodput.protocol import SyncAnswer
from goodput_operator import names
from goodput_operator.api.spec import Admission, TrainingJobSpec
from goodput_operator.api.status import (
    Condition,
    ConditionType,
    Exclusion,
    TrainingJobStatus,
)
from goodput_operator.effects.caches import Cache
from goodput_operator.effects.gateway import NODES, Gateway
from goodput_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    CorruptStatusError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from goodput_operator.gang.book import Book
from goodput_operator.gang.constraints import read_constraints
from goodput_operator.gang.placement import GangRequest, NoRoom, Placement
from goodput_operator.observe.agents import JobKey
from goodput_operator.observe.resources import Resources, pod_requests
from goodput_operator.observe.snapshot import JobSnapshot, TemplateAnswer, observe
from goodput_operator.observe.trim import trim_node, trim_own_pod
from goodput_operator.plan.answers import farewell
from goodput_operator.plan.decide import Plan, decide
from goodput_operator.plan.reasons import PUBLISHED, TEMPLATE_ACCEPTED
from goodput_operator.plan.view import PlaceFunction, Timing, find_condition
from goodput_operator.render.pod import JobIdentity, RenderSettings, job_labels, render_pod
from goodput_operator.render.template import (
    accelerators_per_worker,
    processes_per_worker,
    template_problems,
)
from goodput_operator.reports.store import AgentStore

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

STALE_VIEW_SECONDS = 2.0
CONCURRENT_WRITES = 64
MAX_NOTE_BYTES = 1024
MAX_CONDITIONS = 16
DELETION = "deletionTimestamp"
PASSING = (
    "exceeded quota",
    "status unknown for quota",
    "cannot create resource",
    "cannot set blockOwnerDeletion",
    "not yet ready to handle request",
    "is being terminated",
)
"""What the API server says of pods that are refused, though nothing is wrong with their template:
the namespace's quota is used up or has not been counted yet, the operator lacks the right, the
server has just been started, or the namespace goes."""
TOLD = frozenset(
    {
        "Admitted",
        "Running",
        "Recovered",
        "Succeeded",
        "Failed",
        "Suspended",
        "Resumed",
        "TemplateInvalid",
        "SaveAsked",
        "SaveWithdrawn",
        "Resized",
        "Grown",
        "ScaledDown",
        "SurplusReleased",
        "SpareSwappedIn",
    }
)
"""Decisions that go well and are worth an event; every fault is worth one."""
QUIET = frozenset(
    {
        "Accepted",
        "Forming",
        "Published",
        "Closed",
        "Stopping",
        "TemplateValid",
        "MoreSlots",
        "Joinable",
        "WishTakenBack",
    }
)


class Jobs(Protocol):
    """The newest known TrainingJobs."""

    def get(self, key: JobKey) -> Mapping[str, Any] | None:
        """Return the raw job, None when there is none."""
        ...

    def put(self, job: Mapping[str, Any]) -> None:
        """Take in what a read or write of ours returned."""
        ...

    def writing(self, key: JobKey) -> AbstractContextManager[None]:
        """Hold back what is heard of the job while it is being written."""
        ...


@dataclass(slots=True)
class Placer:
    """Asks the book for one job, and remembers what was asked and answered."""

    book: Book
    key: JobKey
    spec: TrainingJobSpec
    requests: Callable[[], Resources]
    now: datetime
    request: GangRequest | None = None
    answer: Placement | NoRoom | None = None

    def place(
        self, slots: Any, bound: Mapping[int, str], exclusions: Any, priority: int
    ) -> Placement | NoRoom:
        """Look for room for `slots`; promises nothing."""
        template = self.spec.template
        avoid: list[Exclusion] = list(exclusions)
        self.request = GangRequest(
            slots=tuple(slots),
            requests=self.requests(),
            constraints=read_constraints(template, job_labels(self.key[1])),
            bound=bound,
            excluded={one.node: one.until for one in avoid},
            priority=priority,
        )
        self.answer = self.book.place(self.key, self.request, self.now)
        return self.answer

    def settle(self, plan: Plan, since: datetime | None) -> None:
        """Hold what the plan creates, or queue the gang that has no room. No `await` before."""
        if isinstance(self.answer, Placement) and plan.create and self.request:
            nodes = {
                names.pod_name(self.key[1], slot, incarnation): node
                for slot, incarnation, node in plan.create
                if node
            }
            self.book.promise(self.key, nodes, self.request.requests, self.now)
        elif isinstance(self.answer, NoRoom) and self.request:
            self.book.wait(self.key, self.request, since or self.now)
        else:
            self.book.leave(self.key)


@dataclass(slots=True)
class Reconciler:
    """Makes passes over jobs.

    Attributes:
        gateway: the API server.
        jobs: the newest TrainingJobs.
        workers: the cache of our pods.
        nodes: the cache of nodes, None when we may not see them.
        book: what is free; None with `nodes`.
        agents: what the agents said, and where their answers go.
        render_settings: what every pod gets from our configuration; asked anew for each pass,
            because the certificate authority can change.
        service_account: namespace and name of our own, which no worker may use.
        now: the clock.
        timing: the times that the plan goes by.
        listening_since: since when we take reports; silence counts from then at the earliest.
    """

    gateway: Gateway
    jobs: Jobs
    workers: Cache
    nodes: Cache | None
    book: Book | None
    agents: AgentStore
    render_settings: Callable[[], RenderSettings]
    service_account: tuple[str, str]
    now: Callable[[], datetime]
    timing: Timing = field(default_factory=Timing)
    listening_since: datetime = field(init=False)
    _refusals: dict[JobKey, str] = field(default_factory=dict)
    _writes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_WRITES))

    def __post_init__(self) -> None:
        self.listening_since = self.now()

    async def visit(self, key: JobKey) -> float | None:
        """Make one pass; return the seconds until time alone calls for the next.

        Raises:
            ApiError: the API server refused or did not answer; try again after a while.
            CorruptStatusError: the status is not one of ours; nothing was done.
        """
        job = self.jobs.get(key)
        if job is None or not _ours(job):
            self._forget(key)
            self._answer(key, {})
            self.agents.keep_vigil(key, None, self.now())
            return None
        if not self._view_is_fresh():
            return STALE_VIEW_SECONDS
        try:
            spec, status = read_job(job)
        except CorruptStatusError as error:
            self._forget(key)  # who cannot be placed must keep no room from others
            await self._tell(key, job, str(error))
            raise
        namespace, account = self.service_account
        problems = template_problems(
            spec, operator_service_account=account if key[0] == namespace else ""
        )

        snapshot = await self._gather(key, job, spec, status, bool(problems))
        pinned = self.book is not None and spec.gang.admission is Admission.WHEN_FITS
        now = self.now()
        placer = None
        if self.book is not None and not problems:
            placer = self._placer(self.book, key, job, spec)
        plan = decide(
            spec,
            status,
            snapshot,
            now=now,
            place=placer.place if placer else _no_book,
            pinned=pinned,
            accelerators=accelerators_per_worker(spec) or 1,
            processes=processes_per_worker(spec),
            timing=self.timing,
            template_problems=problems,
        )
        if placer is not None:
            placer.settle(plan, status.queued_since)
        else:
            self._forget(key)

        if plan.write:
            await self._persist(key, job, plan)
        await self._act(key, job, spec, plan)
        if plan.write:
            await self._record(key, job, plan)
        return self._until(key, plan)

    def _placer(
        self, book: Book, key: JobKey, job: Mapping[str, Any], spec: TrainingJobSpec
    ) -> Placer:
        """Return who places this job's pods; they ask for what the rendered pod does."""

        def requests() -> Resources:
            pod = render_pod(_identity(job), spec, 0, 0, None, self.render_settings())
            return pod_requests(pod["spec"])

        return Placer(book, key, spec, requests, self.now())

    # --- gather -------------------------------------------------------------------------

    async def _gather(
        self,
        key: JobKey,
        job: Mapping[str, Any],
        spec: TrainingJobSpec,
        status: TrainingJobStatus,
        broken: bool,
    ) -> JobSnapshot:
        """Read what is; the present is taken last, so that nothing read is newer than it."""
        pods = {pod["metadata"]["name"]: pod for pod in self.workers.by_job(key)}
        if status.attempt is not None and status.attempt.state in PUBLISHED:
            await self._look_for_missing(key, status, pods)
        nodes = None
        if self.nodes is not None:
            nodes = {one.node: self.nodes.get("", one.node) for one in status.exclusions}
            nodes |= await self._nodes_of(pods.values())
        answer = None
        if not broken and _template_is_open(spec, status, job):
            answer = await self._try_template(key, job, spec)
        now = self.now()
        self.listening_since = min(self.listening_since, now)  # the clock may have been put back
        self.agents.heard_by(key, now)
        return observe(
            job,
            status.slots,
            tuple(pods.values()),
            nodes,
            self.agents.views(key),
            listening_since=self.listening_since,
            now=now,
            refusal=self._refusals.pop(key, ""),
            template_answer=answer,
        )

    async def _look_for_missing(
        self, key: JobKey, status: TrainingJobStatus, pods: dict[str, Any]
    ) -> None:
        """Ask the API server about members that the cache does not have.

        A pod whose labels were edited by hand leaves our watch and still trains; a watch can
        lag. A worker is lost only when the API server itself does not know its pod.
        """
        for slot in status.slots:
            name = names.pod_name(key[1], slot.slot, slot.incarnation)
            if name in pods or slot.rank < 0:
                continue
            try:
                pods[name] = trim_own_pod(await self.gateway.get_pod(key[0], name))
            except NotFoundError:
                continue

    async def _nodes_of(self, pods: Any) -> dict[str, Any]:
        assert self.nodes is not None
        found: dict[str, Any] = {}
        for pod in pods:
            name = (pod.get("spec") or {}).get("nodeName")
            if not name or name in found:
                continue
            found[name] = self.nodes.get("", name)
            if found[name] is None:
                try:
                    found[name] = trim_node(await self.gateway.get(NODES, None, name))
                except NotFoundError:
                    found[name] = None
        return found

    async def _try_template(
        self, key: JobKey, job: Mapping[str, Any], spec: TrainingJobSpec
    ) -> TemplateAnswer:
        """Ask the API server what it says of a worker pod."""
        slots = [0]
        if spec.elastic is not None and spec.elastic.extra_priority_class_name:
            slots.append(spec.elastic.min_workers)
        answers = [await self._try_slot(key, job, spec, slot) for slot in slots]
        return next((one for one in answers if one.refusal), answers[0])

    async def _try_slot(
        self, key: JobKey, job: Mapping[str, Any], spec: TrainingJobSpec, slot: int
    ) -> TemplateAnswer:
        pod = render_pod(_identity(job), spec, slot, 0, None, self.render_settings())
        try:
            accepted = await self.gateway.create_pod(key[0], pod, dry_run=True)
        except InvalidError as error:
            text = str(error)
            return TemplateAnswer("" if "dry run" in text or "dryRun" in text else text)
        except ForbiddenError as error:
            # Creation finds out when it matters. Whatever else it is (a policy, a class or an
            # account that is not there), the template or what it names must be changed first.
            text = str(error)
            return TemplateAnswer("" if any(one in text for one in PASSING) else text)
        except AlreadyExistsError:
            return TemplateAnswer()
        return TemplateAnswer(priority=(accepted.get("spec") or {}).get("priority") or 0)

    def _view_is_fresh(self) -> bool:
        caches = [cache for cache in (self.workers, self.nodes) if cache is not None]
        return all(cache.synced and cache.fresh() for cache in caches)

    # --- persist ------------------------------------------------------------------------

    async def _persist(self, key: JobKey, job: Mapping[str, Any], plan: Plan) -> None:
        body = dict(job) | {"status": plan.status.model_dump(mode="json", by_alias=True)}
        try:
            with self.jobs.writing(key):
                self.jobs.put(await self.gateway.replace_status(body))
        except ConflictError:
            self._take_back(key, plan)
            self.jobs.put(await self.gateway.get_job(key))
            raise
        except ApiError:
            self._take_back(key, plan)
            raise

    def _take_back(self, key: JobKey, plan: Plan) -> None:
        """Give up the room that was promised to pods which are not created now."""
        if self.book:
            for slot, incarnation, _ in plan.create:
                self.book.release(key[0], names.pod_name(key[1], slot, incarnation))

    async def _tell(self, key: JobKey, job: Mapping[str, Any], problem: str) -> None:
        """Say in its conditions what keeps a job from being read; all else stays as it is."""
        status = unreadable(job, problem, self.now())
        if status is None:
            return
        try:
            with self.jobs.writing(key):
                self.jobs.put(await self.gateway.replace_status(dict(job) | {"status": status}))
        except ApiError as error:
            logger.warning("%s/%s: its condition could not be written: %s", *key, error)

    # --- act ----------------------------------------------------------------------------

    async def _act(
        self, key: JobKey, job: Mapping[str, Any], spec: TrainingJobSpec, plan: Plan
    ) -> None:
        """Carry the persisted plan out. Everything here may happen twice."""
        self._answer(key, plan.answers)
        self.agents.keep_vigil(key, plan.vigil, self.now())
        if plan.delete_job:
            await self.gateway.delete_job(key, job["metadata"]["uid"])
            return
        if not (plan.create or plan.delete):
            return
        settings = self.render_settings()
        identity = _identity(job)
        bodies = [
            render_pod(identity, spec, slot, incarnation, node, settings)
            for slot, incarnation, node in plan.create
        ]
        errors = await asyncio.gather(
            *(self._create(key, body, identity.uid) for body in bodies),
            *(self._delete(key, pod.name, pod.uid) for pod in plan.delete),
            return_exceptions=True,
        )
        failed = [error for error in errors if isinstance(error, BaseException)]
        refused = [one for one in failed if isinstance(one, ForbiddenError | InvalidError)]
        if refused:
            self._refusals[key] = str(refused[0])
        for error in failed:
            if error not in refused:
                raise error

    def _answer(self, key: JobKey, answers: Mapping[str, SyncAnswer]) -> None:
        """Tell the agents what is due to them.

        A pod that is being deleted and that no job answers for was a deleted job's: it need not
        wait to be asked for a checkpoint.
        """
        ending = [pod for pod in self.workers.by_job(key) if pod["metadata"].get(DELETION)]
        leave = farewell(self.timing)
        orphans = {uid: leave for pod in ending if (uid := pod["metadata"]["uid"]) not in answers}
        self.agents.set_answers(key, {**orphans, **answers})

    async def _create(self, key: JobKey, body: Mapping[str, Any], owner_uid: str) -> None:
        if key in self._refusals:
            return  # one refusal releases the whole gang: more of it would only be deleted again
        name = body["metadata"]["name"]
        try:
            async with self._writes:
                created = await self.gateway.create_pod(key[0], body)
        except AlreadyExistsError:
            created = await self.gateway.get_pod(key[0], name)
            owners = created["metadata"].get("ownerReferences") or ()
            if all(owner.get("uid") != owner_uid for owner in owners):
                raise InvalidError(
                    f"a pod named {name} exists in namespace {key[0]} and is not ours: delete "
                    f"it or rename the job"
                ) from None
            labels = created["metadata"].get("labels") or {}
            if not job_labels(key[1]).items() <= labels.items():
                # Somebody took our labels off, so no watch of ours sees it.
                await self._delete(key, name, created["metadata"]["uid"])
                raise ConflictError(f"pod {name} has lost our labels and is made anew") from None
        except (ForbiddenError, InvalidError) as error:
            self._refusals[key] = str(error)
            if self.book:
                self.book.release(key[0], name)
            raise
        self.workers.put(created)

    async def _delete(self, key: JobKey, name: str, uid: str) -> None:
        async with self._writes:
            ending = await self.gateway.delete_pod(key[0], name, uid)
        if ending is not None:
            self.workers.put(ending)  # so that the next pass does not delete it again

    # --- record -------------------------------------------------------------------------

    async def _record(self, key: JobKey, job: Mapping[str, Any], plan: Plan) -> None:
        """Tell people what was decided. A lost event is no fault: the status says it, too."""
        moment = self.now()
        for order, (reason, message) in enumerate(plan.decisions):
            if reason in QUIET:
                continue
            warning = reason not in TOLD or reason in ("Failed", "TemplateInvalid")
            logger.info("%s/%s: %s: %s", *key, reason, message)
            try:
                at = moment + timedelta(microseconds=order)
                await self.gateway.create_event(event(job, reason, message, at, warning=warning))
            except ApiError as error:
                logger.warning("%s/%s: an event was lost: %s", *key, error)

    def _until(self, key: JobKey, plan: Plan) -> float | None:
        if key in self._refusals:
            return 0.0  # nothing that was created will wake the job
        if plan.recheck_at is None:
            return None
        return max(0.0, (plan.recheck_at - self.now()).total_seconds())

    def _forget(self, key: JobKey) -> None:
        self._refusals.pop(key, None)
        if self.book:
            self.book.leave(key)


def read_job(job: Mapping[str, Any]) -> tuple[TrainingJobSpec, TrainingJobStatus]:
    """Return a raw job's spec and status.

    Raises:
        CorruptStatusError: one of them is not what our API describes.
    """
    spec = _read(TrainingJobSpec, job, "spec")
    status = _read(TrainingJobStatus, job, "status")
    if status.attempt is not None and not status.slots:  # of nobody, all would have succeeded
        raise CorruptStatusError(
            "nothing is done about this job: it has status.attempt and no status.slots; "
            "remove status.attempt, too"
        )
    return spec, status


def _read(model: type[M], job: Mapping[str, Any], part: str) -> M:
    try:
        return model.model_validate(job.get(part) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(one) for one in (part, *first["loc"]))
        raise CorruptStatusError(
            f"nothing is done about this job: {where}: {first['msg']}; mend it, or remove it"
        ) from error


def unreadable(job: Mapping[str, Any], problem: str, now: datetime) -> dict[str, Any] | None:
    """Return the raw status with the condition that the job cannot be read; None if it is there.

    The condition is Degraded, which the first pass that can read the job writes anew.
    """
    status = dict(job.get("status") or {})
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list) or not all(isinstance(one, dict) for one in conditions):
        return None  # no API server stores that
    kind = ConditionType.DEGRADED.value
    before = next((one for one in conditions if one.get("type") == kind), None)
    others = [one for one in conditions if one is not before]
    made = Condition(
        type=kind,
        status="True",
        observed_generation=job["metadata"].get("generation", 0),
        last_transition_time=now,
        reason="CannotBeRead",
        message=problem[:2000],
    ).model_dump(mode="json", by_alias=True)
    said = ("status", "reason", "message", "observedGeneration")
    if before is not None and all(before.get(field) == made[field] for field in said):
        return None
    return status | {"conditions": [*others, made][-MAX_CONDITIONS:]}


def _ours(job: Mapping[str, Any]) -> bool:
    if job["metadata"].get("deletionTimestamp"):
        return False  # the garbage collector's work now, also when we are down
    managed_by = (job.get("spec") or {}).get("managedBy", names.MANAGED_BY)
    return bool(managed_by == names.MANAGED_BY)


def _template_is_open(
    spec: TrainingJobSpec, status: TrainingJobStatus, job: Mapping[str, Any]
) -> bool:
    """Return whether the API server should be asked about the template before going on."""
    if spec.suspend or status.finished_at is not None:
        return False
    if status.attempt is not None and status.attempt.state in PUBLISHED:
        return False
    known = find_condition(status, ConditionType.TEMPLATE_VALID)
    return (
        known is None
        or known.reason != TEMPLATE_ACCEPTED
        or known.observed_generation != job["metadata"].get("generation", 0)
    )


def _identity(job: Mapping[str, Any]) -> JobIdentity:
    metadata = job["metadata"]
    return JobIdentity(metadata["namespace"], metadata["name"], metadata["uid"])


def _no_book(*_: object) -> NoRoom:
    return NoRoom("the operator may not see nodes")


_: PlaceFunction = _no_book


def event(
    job: Mapping[str, Any], reason: str, message: str, at: datetime, *, warning: bool
) -> dict[str, Any]:
    """Return an event of events.k8s.io/v1; its name is the job's and the moment, as client-go's.

    Its note is the first line of the message: a list of events has a line for each.
    """
    metadata = job["metadata"]
    moment = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{int(at.timestamp() * 1_000_000):x}",
            "namespace": metadata["namespace"],
        },
        "eventTime": moment,
        "reportingController": f"{names.GROUP}/operator",
        "reportingInstance": names.OPERATOR_NAME,
        "action": "Reconcile",
        "reason": reason,
        "note": message.partition("\n")[0].encode()[:MAX_NOTE_BYTES].decode(errors="ignore"),
        "type": "Warning" if warning else "Normal",
        "regarding": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }
