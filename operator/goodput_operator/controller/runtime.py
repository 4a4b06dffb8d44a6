"""How one replica lives: it watches, stands by, leads, and ends.

Both replicas run everything that watches, so that the standby is warm; only the leader's
queue visits jobs. Every part is a task that never ends by itself: the first one that does
ends the process with a plain word, and Kubernetes starts it again. That is safe at any
moment, as all that must be known is in the API server.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeVar

from goodput_operator.controller.http import HttpServer
from goodput_operator.controller.parts import Parts, build, utc_now
from goodput_operator.controller.settings import Settings, bracketed
from goodput_operator.effects.certificates import ServingCertificate, load_authority
from goodput_operator.effects.gateway import SERVICES, Gateway
from goodput_operator.errors import ApiError, GoodputError, NotFoundError
from goodput_operator.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

T = TypeVar("T")

RELIST_SECONDS = 300.0
CERTIFICATE_CHECK_SECONDS = 3600.0
DRAIN_SECONDS = 10.0
"""How long visits under way may take when the process is told to end."""
STUCK_SECONDS = 60.0
STANDBY_SECONDS = 0.5
RETRY_SECONDS = 2.0


async def run(settings: Settings) -> int:
    """Run one replica until it is told to end.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when a part has failed.

    Raises:
        GoodputError, OSError: it could not start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    http = HttpServer()
    http.ready["start"] = lambda: "not yet begun"
    await http.start(settings.host, settings.http_port)
    try:
        gateway = await Gateway.connect(kubeconfig=settings.kubeconfig)
        try:
            parts = await _unless(stop, start(settings, gateway))
            return 0 if parts is None else await Replica(parts, http).live(stop)
        finally:
            await gateway.close()
    finally:
        await http.stop()


async def start(settings: Settings, gateway: Gateway) -> Parts:
    """Read what must be known before anything can run, and build the parts."""
    authority = await patiently(
        "read the certificate authority",
        lambda: load_authority(gateway, settings.namespace, utc_now()),
    )
    agent_url = await find_agent_url(settings, gateway)
    parts = build(settings, gateway, ServingCertificate(authority, utc_now()), agent_url)
    logger.info("%s is here; agents are given %s", parts.election.identity, agent_url)
    return parts


async def find_agent_url(settings: Settings, gateway: Gateway) -> str:
    """Return where agents call: the Service's cluster IP, so that no DNS is needed."""
    if settings.agent_url:
        return settings.agent_url
    host = f"{settings.service}.{settings.namespace}.svc"
    try:
        service = await patiently(
            "read the Service", lambda: gateway.get(SERVICES, settings.namespace, settings.service)
        )
    except ApiError as error:
        logger.warning("agents are given a DNS name, as the Service cannot be read: %s", error)
    else:
        address = service.get("spec", {}).get("clusterIP") or "None"
        host = host if address == "None" else bracketed(address)
    return f"https://{host}:{settings.agent_port}"


class Replica:
    """The life of the parts."""

    def __init__(self, parts: Parts, http: HttpServer) -> None:
        self._parts = parts
        self._listed = False
        self._blind_relists = 0
        parts.metrics.lead(False)
        http.metrics, http.metrics_type = parts.metrics.render, CONTENT_TYPE
        http.alive["watch"] = self._watch_problem
        http.ready["caches"] = self._sync_problem
        http.ready.pop("start", None)

    async def live(self, stop: asyncio.Event) -> int:
        """Watch, stand by and lead, until `stop` is set (0) or a part fails (1)."""
        parts, settings = self._parts, self._parts.settings
        await parts.reports.start(settings.host, settings.agent_port)
        election = asyncio.create_task(parts.election.run(), name="election")
        tasks: list[asyncio.Task[Any]] = [
            election,
            *(asyncio.create_task(one.run(), name=name) for name, one in parts.caches.items()),
            asyncio.create_task(self._keep_listing(), name="list of TrainingJobs"),
            asyncio.create_task(parts.watch.run(), name="watch of TrainingJobs"),
            asyncio.create_task(self._keep_certificate_fresh(), name="certificate"),
            asyncio.create_task(self._lead(), name="leader"),
        ]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task in done]
        # Whoever has lost the lease must not even finish; whoever is told to go hands over.
        await parts.queue.stop(0.0 if failed else DRAIN_SECONDS)
        await _cancel([election])
        await parts.reports.stop()
        await _cancel([stopped, *tasks])
        for task in failed:
            _say_why(task)
        return 1 if failed else 0

    async def relist(self) -> int:
        """Compare the jobs with a full list; return how many were not as the watch had said."""
        jobs, gateway = self._parts.jobs, self._parts.gateway
        before = jobs.versions()
        namespaces = self._parts.settings.watch_namespaces or (None,)
        try:
            listed = [job for one in namespaces for job in await gateway.list_jobs(one)]
        except NotFoundError as error:
            raise GoodputError(
                f"TrainingJobs are not served: is their CRD installed? ({error})"
            ) from error
        missed = jobs.relist(before, listed)
        self._listed = True
        return missed

    async def _lead(self) -> NoReturn:
        """When elected: look at every job once, then at what changes."""
        parts = self._parts
        await self._stand_by()
        await patiently("list the TrainingJobs", self.relist)
        for cache in parts.caches.values():
            await cache.wait_synced()
        parts.reconciler.listening_since = utc_now()
        parts.handler.lead()
        parts.metrics.lead(True)
        parts.queue.start()
        keys = parts.jobs.keys()
        logger.info("looks after %d jobs", len(keys))
        for key in keys:
            parts.queue.wake(key)
        await asyncio.Event().wait()
        raise AssertionError  # nobody sets it

    async def _stand_by(self) -> None:
        """Until elected, send agents to whoever leads."""
        acquired, sent_to = self._parts.election.acquired, ""
        while not acquired.is_set():
            leader = self._parts.election.leader_address
            if leader != sent_to:
                self._parts.handler.follow(leader)
                sent_to = leader
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(acquired.wait(), STANDBY_SECONDS)
        self._parts.handler.follow("")

    async def _keep_listing(self) -> NoReturn:
        """List all jobs now and then: a watch cannot tell what was deleted while it was broken."""
        await patiently("list the TrainingJobs", self.relist)
        while True:
            events = self._parts.watch.events
            await asyncio.sleep(RELIST_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311
            missed = await patiently("list the TrainingJobs", self.relist)
            blind = missed > 0 and self._parts.watch.events == events
            self._blind_relists = self._blind_relists + 1 if blind else 0
            if blind:
                logger.warning("the watch of TrainingJobs was silent about %d changes", missed)

    async def _keep_certificate_fresh(self) -> NoReturn:
        certificate, settings = self._parts.certificate, self._parts.settings
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
            authority = certificate.authority
            try:
                authority = await load_authority(
                    self._parts.gateway, settings.namespace, utc_now(), authority
                )
            except GoodputError as error:
                logger.warning("the certificate authority could not be checked: %s", error)
            if certificate.refresh(authority, utc_now()):
                logger.info("serves a new certificate until %s", certificate.expires_at)

    def _watch_problem(self) -> str:
        silence_seconds = self._parts.watch.silence_seconds()
        if silence_seconds > STUCK_SECONDS:
            return f"kopf's loop has not turned for {silence_seconds:.0f} s"
        return "silent while jobs changed" if self._blind_relists >= 2 else ""

    def _sync_problem(self) -> str:
        if not self._listed:
            return "the TrainingJobs have not been listed yet"
        missing = [name for name, cache in self._parts.caches.items() if not cache.synced]
        return f"not listed yet: {', '.join(missing)}" if missing else ""


async def patiently(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Repeat `call` while the API server does not answer; any other error is the caller's."""
    said = False
    while True:
        try:
            return await call()
        except ApiError as error:
            if not error.transient:
                raise
            if not said:
                logger.warning("cannot %s yet: %s", what, error)
            said = True
            await asyncio.sleep(max(RETRY_SECONDS, error.retry_after_seconds))


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Wait for the work; give it up and return None when `stop` is set before."""
    task, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    await _cancel([stopped])
    if task.done():
        return task.result()
    await _cancel([task])
    return None


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _say_why(task: asyncio.Task[Any]) -> None:
    """Log why a part ended: our own errors in a line, anything else with its traceback."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, GoodputError):
        logger.critical("the process ends: %s: %s", task.get_name(), error)
    else:
        logger.critical("the process ends: %s: %r", task.get_name(), error, exc_info=error)
