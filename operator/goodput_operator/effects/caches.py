"""What the API server holds, in memory, kept up to date by list and watch.

Why not kopf or an informer: raw JSON, trimmed at the door (`observe.trim`), takes ten times
the events per second and a tenth of the memory. Who reads: the gathering of a pass and the
book of capacity; who writes: the watches, and `put` and `drop` with what our own writes
returned, so that a pass sees what the pass before it did.

Lists are consistent reads (no resourceVersion): we list when we distrust what we have, and the
answer to "0" may be older than that, from another replica's cache, and comes in one piece
whatever the limit. Since 1.31 the server answers consistent reads from its own cache as well.

resourceVersions are compared as numbers (KEP-5504): of two states of an object the newer wins,
in whatever order they come in. An API server whose numbers go *back* was restored from a
backup; the list that reveals it replaces everything.

Nothing here decides whether a view is good enough to act on: `Cache.fresh` says how it is.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Any, Final

from goodput_operator import names
from goodput_operator.effects import gateway as api
from goodput_operator.effects.gateway import Gateway, Resource
from goodput_operator.errors import ApiError, ExpiredError, UnavailableError
from goodput_operator.observe.agents import JobKey
from goodput_operator.observe.trim import (
    Trim,
    Trimmed,
    trim_foreign_pod,
    trim_node,
    trim_own_pod,
)

OnChange = Callable[[str, Trimmed | None, Trimmed | None], None]

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
_BOOKMARK: Final = "BOOKMARK"

_OURS: Final = f"{names.LABEL_MANAGED_BY}={names.OPERATOR_NAME}"
_NOT_OURS: Final = f"{names.LABEL_MANAGED_BY}!={names.OPERATOR_NAME}"
_HOLDS_A_NODE: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How a cache keeps in touch.

    Attributes:
        watch_seconds: how long one watch lasts; drawn between once and twice this.
        silence_seconds: without an event or bookmark for so long (they come each minute) the
            watch is taken for dead, and everything is listed again.
        stale_seconds: so old may the last news be before the view is no longer `fresh`.
        relist_seconds: everything is listed again, whatever the watch says; within a tenth.
        backoff_seconds, max_backoff_seconds: the pause after a failure doubles between them.
        page_limit: objects per page of a list; while one is decoded the loop does nothing else.
    """

    watch_seconds: float = 300.0
    silence_seconds: float = 90.0
    stale_seconds: float = 120.0
    relist_seconds: float = 1800.0
    backoff_seconds: float = 0.5
    max_backoff_seconds: float = 30.0
    page_limit: int = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cache's objects come from, and what is kept of them.

    Attributes:
        trim: makes of a raw object what is kept.
        label_selector, field_selector: which objects belong here, by the API server's rules.
        monotonic: the clock, in seconds.
        chance: draws from [0, 1), for jitter.
    """

    gateway: Gateway
    resource: Resource
    trim: Trim
    label_selector: str = ""
    field_selector: str = ""
    timing: Timing = Timing()
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random


def worker_pods(gateway: Gateway, namespaces: Sequence[str] = ()) -> "Cache":
    """Return the cache of our own pods, of these namespaces or of all.

    Others' pods are a cache of their own, though one watch could carry both: listing ten
    thousand of them takes seconds, for which the workers' events would have to wait.
    """
    return Cache(Source(gateway, api.PODS, trim_own_pod, label_selector=_OURS), namespaces)


def foreign_pods(gateway: Gateway) -> "Cache":
    """Return the cache of all other pods that hold a place on a node now."""
    return Cache(
        Source(
            gateway,
            api.PODS,
            trim_foreign_pod,
            label_selector=_NOT_OURS,
            field_selector=_HOLDS_A_NODE,
        )
    )


def nodes(gateway: Gateway) -> "Cache":
    """Return the cache of all nodes; their namespace is ""."""
    return Cache(Source(gateway, api.NODES, trim_node))


class Cache:
    """All objects of one resource that a selector matches, trimmed.

    What it hands out is shared: nobody may change it. All calls come from the loop of `run`.

    Args:
        source: where the objects come from.
        namespaces: one list and watch for each of these; none means one for the whole cluster.
    """

    def __init__(self, source: Source, namespaces: Sequence[str] = ()) -> None:
        self._source = source
        self._store = _Store()
        self._streams: dict[str | None, _Stream] = {
            namespace: _Stream(source, namespace, self._store)
            for namespace in (namespaces or (None,))
        }

    async def run(self) -> None:
        """Keep up with the API server until cancelled; no failure ends it."""
        async with asyncio.TaskGroup() as group:
            for stream in self._streams.values():
                group.create_task(stream.run())

    @property
    def synced(self) -> bool:
        """Whether everything has been listed once. It stays so; see `fresh`."""
        return all(stream.synced.is_set() for stream in self._streams.values())

    async def wait_synced(self) -> None:
        """Return when everything has been listed once."""
        for stream in self._streams.values():
            await stream.synced.wait()

    @property
    def last_event_age_seconds(self) -> float:
        """How long ago the API server last said how things stand: a list, event or bookmark."""
        return self._source.monotonic() - min(one.heard_at for one in self._streams.values())

    def fresh(self) -> bool:
        """Return whether the view is complete, and young enough to destroy something on it."""
        return self.synced and self.last_event_age_seconds <= self._source.timing.stale_seconds

    def get(self, namespace: str, name: str) -> Trimmed | None:
        """Return an object, None when it is not there as far as we know."""
        return self._store.objects.get((namespace, name))

    def by_job(self, key: JobKey) -> tuple[Trimmed, ...]:
        """Return the objects that carry this job's label, by name; a label alone proves nothing."""
        return tuple(obj for _, obj in sorted(self._store.jobs.get(key, {}).items()))

    def all(self) -> tuple[Trimmed, ...]:
        """Return all objects, in no order to rely on."""
        return tuple(self._store.objects.values())

    def on_change(self, listener: OnChange) -> None:
        """Call `listener(type, old, new)` after each change to what is kept of an object.

        `type` is ADDED (old is None), MODIFIED, or DELETED (new is None). It is called in the
        loop and must not block.
        """
        self._store.listeners.append(listener)

    def put(self, raw: Mapping[str, Any]) -> None:
        """Take in what a write or a read of ours returned, unless we know as much or more.

        An answer that the watch has overtaken is not taken in: the object may have been deleted
        since.
        """
        obj = self._source.trim(raw)
        stream = self._stream_of(obj["metadata"].get("namespace", ""))
        if stream is not None:
            stream.put(obj)

    def drop(self, namespace: str, name: str, uid: str) -> None:
        """Forget an object that a write or a read of ours found gone; late news revive it not."""
        stream = self._stream_of(namespace)
        if stream is not None:
            stream.drop(namespace, name, uid)

    def _stream_of(self, namespace: str) -> "_Stream | None":
        return self._streams.get(None) or self._streams.get(namespace)


class _Store:
    """Objects by (namespace, name) and by job. Of two states of an object the newer stays."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Trimmed] = {}
        self.jobs: dict[JobKey, dict[str, Trimmed]] = {}
        self.listeners: list[OnChange] = []

    def admit(self, obj: Trimmed, *, rewound: bool = False) -> None:
        """Take an object in if it is newer than what we have, or if history was rewound."""
        key = _key(obj)
        old = self.objects.get(key)
        if old is not None:
            if not rewound and _version(obj) <= _version(old):
                return
            if _uid(old) != _uid(obj):  # deleted and made again under the same name
                self.remove(old)
                old = None
            else:
                self._unindex(old)
        self.objects[key] = obj
        job = _job_key(obj)
        if job is not None:
            self.jobs.setdefault(job, {})[key[1]] = obj
        if old is None:
            self._tell(ADDED, None, obj)
        elif not _alike(old, obj):
            self._tell(MODIFIED, old, obj)

    def remove(self, obj: Trimmed) -> None:
        """Take an object out."""
        del self.objects[_key(obj)]
        self._unindex(obj)
        self._tell(DELETED, obj, None)

    def _unindex(self, obj: Trimmed) -> None:
        job = _job_key(obj)
        if job is not None:
            members = self.jobs[job]
            del members[obj["metadata"]["name"]]
            if not members:
                del self.jobs[job]

    def _tell(self, kind: str, old: Trimmed | None, new: Trimmed | None) -> None:
        for listener in self.listeners:
            listener(kind, old, new)


class _Stream:
    """One list and watch that feeds a store, of one namespace or of the whole cluster.

    Attributes:
        synced: set after the first list.
        heard_at: when the API server last said how things stand; minus infinity: never.
    """

    def __init__(self, source: Source, namespace: str | None, store: _Store) -> None:
        self.synced = asyncio.Event()
        self.heard_at = -inf
        self._source = source
        self._namespace = namespace
        self._store = store
        self._version = 0  # everything up to here has been told us
        self._buried: set[str] = set()  # UIDs that `drop` took out; the watch may be behind
        self._must_list = True
        self._relist_at = -inf
        self._rounds_in_vain = 0
        self._complaint = ""

    async def run(self) -> None:
        """List and watch, again and again, until cancelled."""
        while True:
            wanted_pause_seconds = await self._round()
            if self._rounds_in_vain:
                await asyncio.sleep(max(wanted_pause_seconds, self._pause_seconds()))

    def put(self, obj: Trimmed) -> None:
        """See `Cache.put`."""
        if _version(obj) > self._version and _uid(obj) not in self._buried:
            self._store.admit(obj)

    def drop(self, namespace: str, name: str, uid: str) -> None:
        """See `Cache.drop`."""
        self._buried.add(uid)
        known = self._store.objects.get((namespace, name))
        if known is not None and _uid(known) == uid:
            self._store.remove(known)

    async def _round(self) -> float:
        """List if need be, watch as long as it lasts; return the pause that the server wants."""
        began_at = self._source.monotonic()
        self._rounds_in_vain += 1
        pause_seconds = 0.0
        try:
            if self._must_list or began_at >= self._relist_at:
                await self._list()
            await self._watch()
        except ApiError as error:
            # A server that is away or overloaded is asked again from where we were: it has
            # enough to do. Any other trouble ends with a list.
            self._must_list |= not _away(error)
            self._complain(str(error))
            pause_seconds = error.retry_after_seconds
        except Exception:  # a bug, ours or a listener's: say so, and go on from the truth
            self._must_list = True
            logger.exception("%s: listing again", self._name)
        if self._source.monotonic() - began_at > self._source.timing.max_backoff_seconds:
            self._rounds_in_vain = 0
        return pause_seconds

    async def _list(self) -> None:
        began_at = self._source.monotonic()
        self._buried.clear()  # what is gone by now is not in a list that begins now
        listed: set[str] = set()
        version = 0
        async for page in self._pages():
            version = int(page["metadata"]["resourceVersion"])  # the same on all pages
            for raw in page["items"]:
                obj = self._source.trim(raw)
                listed.add(_uid(obj))
                self._store.admit(obj, rewound=version < self._version)
        for obj in list(self._store.objects.values()):
            here = self._namespace in (None, _key(obj)[0])
            # What our own writes made after the list is newer than the list.
            told = _version(obj) <= version or version < self._version
            if here and told and _uid(obj) not in listed:
                self._store.remove(obj)
        self._heard(version, began_at)
        timing = self._source.timing
        self._relist_at = began_at + timing.relist_seconds * (0.9 + 0.2 * self._source.chance())
        self._must_list = False
        self.synced.set()

    async def _pages(self) -> AsyncIterator[dict[str, Any]]:
        source, next_page = self._source, ""
        while True:
            page = await source.gateway.list_page(
                source.resource,
                self._namespace,
                label_selector=source.label_selector,
                field_selector=source.field_selector,
                limit=source.timing.page_limit,
                continue_=next_page,
            )
            yield page
            next_page = page["metadata"].get("continue") or ""
            if not next_page:
                return

    async def _watch(self) -> None:
        source, timing = self._source, self._source.timing
        until_relist_seconds = self._relist_at - source.monotonic()
        seconds = min(timing.watch_seconds * (1 + source.chance()), until_relist_seconds)
        events = source.gateway.watch(
            source.resource,
            self._namespace,
            resource_version=str(self._version),
            label_selector=source.label_selector,
            field_selector=source.field_selector,
            timeout_seconds=max(1, int(seconds)),
            silence_seconds=timing.silence_seconds,
        )
        async with aclosing(events):
            async for event in events:
                self._take(event["type"], event["object"])

    def _take(self, kind: str, raw: Trimmed) -> None:
        version = _version(raw)
        if version < self._version:
            raise ExpiredError("the API server's history was rewound", reason="Rewound")
        if kind == DELETED:
            self._buried.discard(_uid(raw))
            known = self._store.objects.get(_key(raw))
            if known is not None and _version(known) <= version:
                self._store.remove(known)
        elif kind != _BOOKMARK and _uid(raw) not in self._buried:
            self._store.admit(self._source.trim(raw))
        self._heard(version, self._source.monotonic())
        self._rounds_in_vain = 0
        self._complaint = ""

    def _heard(self, version: int, heard_at: float) -> None:
        self._version = version
        self.heard_at = heard_at

    def _pause_seconds(self) -> float:
        timing = self._source.timing
        doublings = min(self._rounds_in_vain - 1, 32)
        longest = min(timing.backoff_seconds * 2.0**doublings, timing.max_backoff_seconds)
        return longest * (0.5 + 0.5 * self._source.chance())

    def _complain(self, complaint: str) -> None:
        """Say what is wrong once, not at every attempt."""
        if complaint != self._complaint:
            logger.warning("%s: %s", self._name, complaint)
            self._complaint = complaint

    @property
    def _name(self) -> str:
        return f"cache of {self._source.resource.plural} in {self._namespace or 'all namespaces'}"


def _away(error: ApiError) -> bool:
    """Tell whether the server was not there to answer, or asks to be left alone for a while."""
    if not isinstance(error, UnavailableError) or error.reason == api.SILENCE:
        return False
    return error.code in (0, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def _key(obj: Trimmed) -> tuple[str, str]:
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _uid(obj: Trimmed) -> str:
    uid: str = obj["metadata"]["uid"]
    return uid


def _version(obj: Trimmed) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _job_key(obj: Trimmed) -> JobKey | None:
    metadata = obj["metadata"]
    job = (metadata.get("labels") or {}).get(names.LABEL_JOB)
    return None if job is None else (metadata.get("namespace", ""), job)


def _alike(old: Trimmed, new: Trimmed) -> bool:
    """Tell whether two states differ in nothing that we keep but the resourceVersion."""
    return all(
        {**old[part], "resourceVersion": ""} == {**new[part], "resourceVersion": ""} for part in new
    )
