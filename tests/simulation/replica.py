"""One operator process: everything that `controller.parts` joins, on the virtual clock."""

import asyncio
import random
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator.controller import parts as composition
from goodput_operator.controller.jobs import JobStore
from goodput_operator.controller.parts import Parts, known_pod
from goodput_operator.controller.queue import WorkQueue
from goodput_operator.effects import caches
from goodput_operator.effects.caches import Cache, Source
from goodput_operator.effects.gateway import JOBS, NODES, PODS
from goodput_operator.errors import ApiError, ExpiredError
from goodput_operator.gang.book import Book
from goodput_operator.observe.trim import trim_foreign_pod, trim_node, trim_own_pod
from goodput_operator.reconcile import Reconciler
from goodput_operator.render.pod import RenderSettings
from goodput_operator.reports.auth import Gate
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.store import AgentStore
from tests.simulation import apiserver
from tests.simulation.apiserver import Connection, InMemoryGateway
from tests.simulation.history import Died, Led, Visited, clock

if TYPE_CHECKING:
    from tests.simulation.world import World

EXPIRE_SECONDS = 0.5
RETRY_SECONDS = 1.0


class Replica:
    """A process with an empty memory, from its start to its sudden end.

    Attributes:
        name: `operator-` and its number among all that there were.
        skew_seconds: how far its clock is ahead of the others.
        ended: set when the process is dead, and its connections are broken.
        results: how many visits ended how, in the queue's words.
    """

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self.name = name
        self.ended = asyncio.Event()
        self.results: Counter[str] = Counter()
        self.skew_seconds = 0.0
        self._tasks: list[asyncio.Task[Any]] = []
        self._connection = Connection(world.server, name, self.crash)
        self.gateway = InMemoryGateway(self._connection)
        self.parts = self._build()

    def _build(self) -> Parts:
        loop, rng = asyncio.get_running_loop(), random.Random(1)
        source = partial(Source, self.gateway, monotonic=loop.time, chance=rng.random)
        workers = Cache(source(PODS, trim_own_pod, label_selector=caches._OURS))
        foreign = Cache(
            source(
                PODS,
                trim_foreign_pod,
                label_selector=caches._NOT_OURS,
                field_selector=caches._HOLDS_A_NODE,
            )
        )
        nodes, book, jobs = Cache(source(NODES, trim_node)), Book(), JobStore()
        agents = AgentStore(lambda key: queue.wake(key))  # noqa: PLW0108 - made further below
        review = partial(self.gateway.review_token, audience=TOKEN_AUDIENCE)
        reconciler = Reconciler(
            gateway=self.gateway,
            jobs=jobs,
            workers=workers,
            nodes=nodes,
            book=book,
            agents=agents,
            render_settings=lambda: RenderSettings("agent:1", "https://10.96.0.1", "CA"),
            service_account=("goodput", "operator"),
            now=self.now,
        )
        queue = WorkQueue(
            reconciler.visit,
            keep=lambda key: jobs.get(key) is not None,
            ended=self._visited,
            rng=rng,
        )
        unused: Any = None
        built = Parts(
            settings=unused,
            gateway=self.gateway,
            certificate=unused,
            election=unused,
            jobs=jobs,
            watch=unused,
            workers=workers,
            foreign=foreign,
            nodes=nodes,
            book=book,
            agents=agents,
            handler=SyncHandler(
                agents, Gate(partial(known_pod, workers), review, self.now), self.now
            ),
            reports=unused,
            reconciler=reconciler,
            queue=queue,
            metrics=unused,
        )
        composition._connect(built)
        return built

    async def start(self, *, queue: bool = True) -> None:
        """List everything, then lead, as `controller.runtime` does."""
        parts = self.parts
        for cache in parts.caches.values():
            self._run(cache.run())
        for cache in parts.caches.values():
            await cache.wait_synced()
        self._run(self._watch_jobs(await self._list_jobs()))
        parts.reconciler.listening_since = self.now()
        parts.handler.lead()
        self._world.history.add(Led(clock(), self.name))
        self._run(self._expire_polls())
        if queue:
            parts.queue.start()
            keys = parts.jobs.keys()
            for key in keys:
                parts.queue.wake(key)

    def now(self) -> datetime:
        """The time of day on this machine's clock."""
        return apiserver.now() + timedelta(seconds=self.skew_seconds)

    def fall_behind(self, late_seconds: float) -> None:
        """Be cut off: nothing is heard any more, and what is written arrives late."""
        self._connection.deaf = True
        self._connection.late_seconds = late_seconds

    def crash(self, *, for_good: bool = False) -> None:
        """End the process, in the middle of whatever it does.

        No other follows one that ends `for_good`, nor one in whose place another leads already.
        """
        if self.ended.is_set():
            return
        self._world.history.add(Died(clock(), self.name))
        self._connection.cut = True
        self.ended.set()
        for task in self._tasks:
            task.cancel()
        self._run(self.parts.queue.stop(0.0))
        if not for_good and self._world.operator is self:
            self._world.replica_died()

    def _visited(self, result: str, _: float) -> None:
        self.results.update([result])
        self._world.history.add(Visited(clock(), self.name, result))

    def _run(self, coroutine: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def _watch_jobs(self, version: str) -> None:
        while True:
            try:
                async for event in self.gateway.watch(JOBS, resource_version=version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self.parts.jobs.observe(event["object"], deleted=event["type"] == "DELETED")
            except ApiError as error:
                await asyncio.sleep(RETRY_SECONDS)
                if isinstance(error, ExpiredError):
                    version = await self._list_jobs()

    async def _list_jobs(self) -> str:
        before = self.parts.jobs.versions()
        page = await self.gateway.list_page(JOBS)
        self.parts.jobs.relist(before, page["items"])
        version: str = page["metadata"]["resourceVersion"]
        return version

    async def _expire_polls(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            self.parts.handler.expire()
