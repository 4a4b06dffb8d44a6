"""The watch of TrainingJobs, served by kopf in a thread with an event loop of its own.

kopf cancels tasks in its loop that it does not know, so nothing of ours lives there. It gets
one silent observer and nothing that stores state on objects: no finalizers, no annotations,
no patches. An event is handed over to our loop as it is and means nothing but "look".

What a watch cannot tell (a deletion while it was broken) is healed by `relist`.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import kopf

from goodput_operator import names
from goodput_operator.controller.jobs import Job
from goodput_operator.controller.settings import bracketed
from goodput_operator.errors import GoodputError

logger = logging.getLogger(__name__)

Deliver = Callable[[Job, bool], None]
"""Called in our loop with a TrainingJob and whether it has been deleted."""

WATCH_SECONDS = 300
BEAT_SECONDS = 5.0
STOP_SECONDS = 5.0
CLOSE_SECONDS = 0.1
"""TLS connections take a moment to say good-bye after kopf has closed them."""


class WatchEndedError(GoodputError):
    """kopf gave up; only a new process can watch again."""


class _Patience:
    """The pauses between the tries of one request: without end, an outage is no reason to die."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 4)
        while True:
            yield 5


class JobWatch:
    """Watches all TrainingJobs, or those of some namespaces.

    Args:
        deliver: takes what the watch sees, in the loop that called `run`.
        namespaces: empty means all.
        kubeconfig: None means the pod's service account.
    """

    def __init__(
        self, deliver: Deliver, *, namespaces: tuple[str, ...], kubeconfig: str | None
    ) -> None:
        self.events = 0
        self._deliver = deliver
        self._namespaces = namespaces
        self._kubeconfig = kubeconfig
        self._beat_at: float | None = None

    def silence_seconds(self) -> float:
        """Return for how long kopf's loop has not turned; 0 before it has started."""
        if self._beat_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._beat_at

    async def run(self) -> NoReturn:
        """Watch until cancelled.

        Raises:
            WatchEndedError: kopf ended by itself.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        kopf_loop, stop = asyncio.new_event_loop(), asyncio.Event()

        def serve() -> None:
            reason = "it stopped"
            try:
                with asyncio.Runner(loop_factory=lambda: kopf_loop) as runner:
                    runner.run(self._serve(loop, stop))
            except BaseException as error:  # noqa: BLE001 - whatever it was, our loop must hear it
                reason = f"{type(error).__name__}: {error}"
            if not loop.is_closed():
                loop.call_soon_threadsafe(_finish, ended, reason)

        threading.Thread(target=serve, name="kopf", daemon=True).start()
        try:
            await asyncio.shield(ended)
        finally:
            if not ended.done():
                with contextlib.suppress(RuntimeError):  # its loop is closed: it is about to end
                    kopf_loop.call_soon_threadsafe(stop.set)
                await asyncio.wait({ended}, timeout=STOP_SECONDS)
            if ended.done():
                ended.exception()  # seen; without this asyncio would complain
        raise WatchEndedError("the watch of TrainingJobs ended")

    async def _serve(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        self._beat(loop, asyncio.get_running_loop())
        await kopf.operator(
            registry=self._registry(loop),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )
        await asyncio.sleep(CLOSE_SECONDS)

    def _beat(self, loop: asyncio.AbstractEventLoop, kopf_loop: asyncio.AbstractEventLoop) -> None:
        """Say, from kopf's loop, that it turns."""
        self._beat_at = loop.time()
        kopf_loop.call_later(BEAT_SECONDS, self._beat, loop, kopf_loop)

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**known: Any) -> kopf.ConnectionInfo | None:
            return _login(self._kubeconfig, known)

        @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
        async def see(event: Mapping[str, Any], **_: Any) -> None:
            loop.call_soon_threadsafe(self._see, event["object"], event["type"] == "DELETED")

        return registry

    def _see(self, job: Job, deleted: bool) -> None:
        self.events += 1
        self._deliver(job, deleted)


def _finish(ended: asyncio.Future[None], reason: str) -> None:
    if not ended.done():
        ended.set_exception(WatchEndedError(f"the watch of TrainingJobs ended: {reason}"))


def _login(kubeconfig: str | None, known: Mapping[str, Any]) -> kopf.ConnectionInfo | None:
    """Return the credentials; asked again whenever the API server says 401."""
    if kubeconfig is not None:
        os.environ["KUBECONFIG"] = kubeconfig  # the only way to tell kopf
        return kopf.login_with_kubeconfig(**known)
    account = kopf.login_with_service_account(**known)
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    if account is None or not host:
        return account
    # By address, as everybody else: the API server must not depend on the cluster's DNS.
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    return dataclasses.replace(account, server=f"https://{bracketed(host)}:{port}")


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Patience()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70
    settings.queueing.idle_timeout = 1
    settings.persistence.finalizer = f"{names.GROUP}/unused"
    settings.persistence.diffbase_storage = _NothingToCompare()
    return settings


class _NothingToCompare(kopf.DiffBaseStorage):
    """Spares kopf the copies of each job, some of them for each event, by which it sees changes.

    We ask for events only, and for a gang of a thousand each copy takes some hundredths of a
    second from the loop that answers the agents.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return
