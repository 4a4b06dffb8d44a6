"""The composition root: the one place that knows every part, and what wakes what."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator import names
from goodput_operator.controller.jobs import JobStore
from goodput_operator.controller.queue import WorkQueue
from goodput_operator.controller.settings import Settings
from goodput_operator.controller.watch import JobWatch
from goodput_operator.effects import caches
from goodput_operator.effects.caches import DELETED, Cache
from goodput_operator.effects.certificates import ServingCertificate
from goodput_operator.effects.gateway import Gateway
from goodput_operator.effects.lease import Election
from goodput_operator.gang.book import Book
from goodput_operator.metrics import Metrics, Sources
from goodput_operator.observe.agents import JobKey, PodIdentity, pod_identity
from goodput_operator.observe.trim import Trimmed
from goodput_operator.reconcile import Reconciler
from goodput_operator.render.pod import RenderSettings
from goodput_operator.reports.auth import Gate
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.server import ReportServer
from goodput_operator.reports.store import AgentStore

ROOM_SECONDS = 0.5
"""Gangs that wait for room are woken at most this often, however much comes free."""


def utc_now() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Parts:
    """What one replica consists of; `foreign`, `nodes` and `book` only cluster-wide.

    Attributes:
        workers, foreign: the caches of our own pods, and of those of others.
        book: what is free; fed by the three caches.
    """

    settings: Settings
    gateway: Gateway
    certificate: ServingCertificate
    election: Election
    jobs: JobStore
    watch: JobWatch
    workers: Cache
    foreign: Cache | None
    nodes: Cache | None
    book: Book | None
    agents: AgentStore
    handler: SyncHandler
    reports: ReportServer
    reconciler: Reconciler
    queue: WorkQueue
    metrics: Metrics

    @property
    def caches(self) -> dict[str, Cache]:
        """Return the caches that there are, by what they hold."""
        found = {"pods": self.workers, "other pods": self.foreign, "nodes": self.nodes}
        return {name: cache for name, cache in found.items() if cache is not None}


def build(
    settings: Settings, gateway: Gateway, certificate: ServingCertificate, agent_url: str
) -> Parts:
    """Put everything together; nothing runs yet."""
    rng = random.Random()  # noqa: S311 - jitter
    everywhere = not settings.watch_namespaces
    jobs = JobStore()
    workers = caches.worker_pods(gateway, settings.watch_namespaces)
    foreign = caches.foreign_pods(gateway) if everywhere else None
    nodes = caches.nodes(gateway) if everywhere else None
    book = Book() if everywhere else None
    election = Election(
        gateway,
        namespace=settings.namespace,
        name=settings.lease_name,
        identity=settings.identity(),
        address=settings.agent_address,
        timing=settings.lease,
        rng=rng,
    )
    agents = AgentStore(lambda key: queue.wake(key))  # noqa: PLW0108 - made further below
    review = partial(gateway.review_token, audience=TOKEN_AUDIENCE)
    handler = SyncHandler(agents, Gate(partial(known_pod, workers), review, utc_now), utc_now)
    reconciler = Reconciler(
        gateway=gateway,
        jobs=jobs,
        workers=workers,
        nodes=nodes,
        book=book,
        agents=agents,
        render_settings=lambda: render_settings(settings, agent_url, certificate),
        service_account=(settings.namespace, settings.service_account),
        now=utc_now,
    )

    async def visit(key: JobKey) -> float | None:
        # A process that was frozen learns here, before its timers, that another may lead.
        return await reconciler.visit(key) if election.leads else None

    watch = JobWatch(
        lambda job, deleted: jobs.observe(job, deleted=deleted),
        namespaces=settings.watch_namespaces,
        kubeconfig=settings.kubeconfig,
    )
    metrics = Metrics(
        Sources(
            jobs=lambda: len(jobs),
            queue_depth=lambda: queue.depth,
            watch_ages_seconds=lambda: {
                "trainingjobs": watch.silence_seconds(),
                **{name: cache.last_event_age_seconds for name, cache in parts.caches.items()},
            },
            api_requests=lambda: gateway.requests,
            report_results=lambda: handler.results,
            agents=lambda: len(agents),
            accelerators=lambda: book.accelerators() if book is not None else {},
            now=utc_now,
        ),
        settings.job_labels,
    )
    jobs.on_every_change(metrics.follow)
    queue = WorkQueue(
        visit,
        keep=lambda key: jobs.get(key) is not None,
        ended=metrics.count_pass,
        rng=rng,
        workers=settings.workers,
        timing=settings.queue,
    )
    parts = Parts(
        settings=settings,
        gateway=gateway,
        certificate=certificate,
        election=election,
        jobs=jobs,
        watch=watch,
        workers=workers,
        foreign=foreign,
        nodes=nodes,
        book=book,
        agents=agents,
        handler=handler,
        reports=ReportServer(handler, certificate.context),
        reconciler=reconciler,
        queue=queue,
        metrics=metrics,
    )
    _connect(parts)
    return parts


def known_pod(workers: Cache, namespace: str, name: str) -> PodIdentity | None:
    """Return who may speak under this pod's name."""
    pod = workers.get(namespace, name)
    if pod is None:
        return None
    try:
        return pod.identity
    except AttributeError:
        pod.identity = pod_identity(pod)
        return pod.identity


def render_settings(
    settings: Settings, agent_url: str, certificate: ServingCertificate
) -> RenderSettings:
    """Return what every worker pod made now gets."""
    return RenderSettings(
        agent_image=settings.agent_image,
        operator_url=agent_url,
        ca_pem=certificate.authority.bundle,
        pull_policy=settings.agent_image_pull_policy,
        pull_secrets=settings.agent_pull_secrets,
    )


def _connect(parts: Parts) -> None:
    """Say what wakes a job: it, its pods, their nodes, and room for those that wait for it."""
    wake = parts.queue.wake
    parts.jobs.on_change(lambda key, _old, _new: wake(key))
    parts.workers.on_change(partial(_worker_changed, parts))
    if parts.foreign is None or parts.nodes is None or parts.book is None:
        return
    book = parts.book
    room = Batch(ROOM_SECONDS, lambda _: [wake(key) for key in book.waiting()])
    touched = Batch(0.0, lambda nodes: [wake(key) for key in jobs_on(parts.workers, nodes)])

    def pod_changed(_kind: str, old: Trimmed | None, new: Trimmed | None) -> None:
        if book.pod_changed(old, new):
            room.add("")

    def node_changed(_kind: str, old: Trimmed | None, new: Trimmed | None) -> None:
        if book.node_changed(old, new):
            room.add("")
        node = new or old
        assert node is not None
        touched.add(node["metadata"]["name"])

    parts.workers.on_change(pod_changed)
    parts.foreign.on_change(pod_changed)
    parts.nodes.on_change(node_changed)


def _worker_changed(parts: Parts, kind: str, old: Trimmed | None, new: Trimmed | None) -> None:
    pod = new or old
    assert pod is not None
    if kind == DELETED:
        parts.agents.forget(pod["metadata"]["uid"])
    for key in _job_of(pod):
        parts.queue.wake(key)


class Batch:
    """Collects words, and hands them over together a moment after the first."""

    def __init__(self, seconds: float, tell: Callable[[frozenset[str]], object]) -> None:
        self._seconds = seconds
        self._tell = tell
        self._words: set[str] = set()

    def add(self, word: str) -> None:
        """Add one; must be called in the event loop."""
        if not self._words:
            asyncio.get_running_loop().call_later(self._seconds, self._hand_over)
        self._words.add(word)

    def _hand_over(self) -> None:
        words, self._words = frozenset(self._words), set()
        self._tell(words)


def jobs_on(workers: Cache, nodes: frozenset[str]) -> list[JobKey]:
    """Return the jobs that have a pod on one of these nodes."""
    pods = (pod for pod in workers.all() if pod.get("spec", {}).get("nodeName") in nodes)
    return sorted({key for pod in pods for key in _job_of(pod)})


def _job_of(pod: Mapping[str, Trimmed]) -> Iterator[JobKey]:
    metadata = pod["metadata"]
    job = (metadata.get("labels") or {}).get(names.LABEL_JOB)
    if job:
        yield metadata["namespace"], job
