"""An API server in memory, behind the real `Gateway`: only the HTTP client is replaced.

It keeps what the operator relies on: resourceVersions and conflicts, AlreadyExists, UID
preconditions, graceful deletion, selectors on watches (an object that leaves a selector is
DELETED for it), finalizers, admission before storage. Faults are injected by position: at the
n-th write. Watches can lag, repeat themselves, lose an event, break off or have expired; reads
can come from a replica that has fallen behind.
"""

import asyncio
import base64
import json
import pickle
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp

from goodput_operator.api.base import format_time
from goodput_operator.effects.gateway import Gateway
from tests.simulation.history import SOMEBODY, History, Write, clock

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace, name."""

START = datetime(2026, 1, 1, tzinfo=UTC)
TRAVEL_SECONDS = 0.002
WATCH_LAG_SECONDS = 0.01
BOOKMARK_SECONDS = 60.0
LAST_BOOKMARK_SECONDS = 2.0
DEFAULT_GRACE_SECONDS = 30
GRACE = "deletionGracePeriodSeconds"


class Fault(StrEnum):
    """What happens to a write of the operator."""

    CRASH_BEFORE = "the operator dies before the write"
    CRASH_AFTER = "the operator dies after the write"
    AWAY = "the operator dies after the write, and for a while none comes"
    ANSWER_LOST = "the write is done, its answer lost"
    UNAVAILABLE = "the write is refused for a moment"
    CONFLICT = "somebody else writes the object first"
    THROTTLED = "the write is refused with a wish to wait"
    FAILED = "the API server fails, the write undone"
    STALE_PODS = "the operator dies after the write; its successor sees the pods as before it"
    STALE_JOBS = "the operator dies after the write; its successor sees the jobs as before it"
    UNOBSERVED = "what happens to pods from this write on is seen late, its outcome only"


STALE = {Fault.STALE_PODS: "pods", Fault.STALE_JOBS: "trainingjobs"}
STALE_SECONDS = 4.0
"""So long a successor hears of nothing new."""
BLIND_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    plural: str
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str]
    body: Any

    @classmethod
    def read(cls, method: str, url: str, body: Any) -> "Request":
        parsed = urlsplit(url)
        query = dict(parse_qsl(parsed.query))
        parts = parsed.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        plural, name, subresource = [*parts, "", ""][:3]
        verb = {"POST": "create", "PUT": "update", "DELETE": "delete"}.get(method, "get")
        if verb == "get" and not name:
            verb = "watch" if "watch" in query else "list"
        return cls(verb, plural, namespace, name, subresource, query, copied(body))

    @property
    def writes(self) -> bool:
        """Whether it changes what is stored."""
        changes = self.verb in ("create", "update", "delete")
        return changes and self.plural != "tokenreviews" and "dryRun" not in self.query

    @property
    def subject(self) -> str:
        """The name of what it is about."""
        return self.name or (self.body or {}).get("metadata", {}).get("name", "")

    def __str__(self) -> str:
        name = self.body["reason"] if self.plural == "events" else self.subject
        return " ".join(filter(None, [self.verb, self.plural, name, self.subresource]))


class RefusedError(Exception):
    """An answer of 400 or above."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class ApiServer:
    """What is stored, and who watches it.

    Attributes:
        writes: what the operator has written, in words, since the last `begin`.
        faults: what happens to its n-th write since then.
        fired: the faults that happened, by the position of their write.
        frozen: plurals whose watches bring no news: every cache of them is stale.
        stuck: plurals whose reads are answered by a replica that has fallen behind: the version
            that it knows, and its objects.
        watch_lag_seconds: how long news take.
        repeats: every event of a watch comes twice.
        oldest: a watch from before this version has expired.
        quotas: how many pods a namespace may have.
        admission: refuses the creation of an object by raising `RefusedError`.
        listeners: the rest of the cluster: told (plural, old, new) at once.
        history: where every write is recorded.
        changes: every state of every object, oldest first: (version, plural, old, new).
    """

    def __init__(self, history: History | None = None) -> None:
        self.history = history or History()
        self.version = 1000
        self.objects: dict[Key, Json] = {}
        self.changes: list[tuple[int, str, Json | None, Json | None]] = []
        self.watches: list[_Watch] = []
        self.writes: list[str] = []
        self.faults: dict[int, Fault] = {}
        self.fired: dict[int, Fault] = {}
        self.frozen: set[str] = set()
        self.stuck: dict[str, tuple[int, dict[Key, Json]]] = {}
        self.watch_lag_seconds = WATCH_LAG_SECONDS
        self.repeats = False
        self.oldest = 0
        self.quotas: dict[str, int] = {}
        self.admission: Callable[[Request], None] = lambda _: None
        self.listeners: list[Callable[[str, Json | None, Json | None], None]] = []
        self.created: Counter[str] = Counter()
        self.events: list[Json] = []
        self._uids = 0

    # --- for the world ------------------------------------------------------------------

    def begin(self) -> None:
        """Count writes from here."""
        self.writes.clear()
        self.fired.clear()

    def get(self, plural: str, namespace: str, name: str) -> Json | None:
        return self.objects.get((plural, namespace, name))

    def all(self, plural: str) -> list[Json]:
        return [obj for (kind, _, _), obj in sorted(self.objects.items()) if kind == plural]

    def store(
        self, plural: str, obj: Json, by: str = SOMEBODY, request: Request | None = None
    ) -> Json:
        """Create or replace an object as somebody else."""
        metadata = obj["metadata"]
        key = plural, metadata.get("namespace", ""), metadata["name"]
        old = self.objects.get(key)
        new = copied(obj)
        if old is None:
            self._uids += 1
            new["metadata"].update(uid=f"uid-{self._uids}", generation=1)
            new["metadata"].setdefault("creationTimestamp", _seconds_of(now()))
        elif old.get("spec") != new.get("spec") and "generation" in old["metadata"]:
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        if old is not None and old == new:
            if request is not None:
                self.record(request, by, old, old)
            return old
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = new
        self._tell(plural, old, new, by, request)
        return new

    def change(
        self,
        plural: str,
        namespace: str,
        name: str,
        change: Callable[[Json], Any],
        by: str = SOMEBODY,
    ) -> None:
        """Edit an object as somebody else; who takes off the last finalizer may remove it."""
        obj = copied(self.objects[plural, namespace, name])
        change(obj)
        self.store(plural, obj, by)
        metadata = obj["metadata"]
        if metadata.get(GRACE) == 0 and not _finalizers(obj):
            self.remove(plural, namespace, name, by)

    def remove(
        self,
        plural: str,
        namespace: str,
        name: str,
        by: str = SOMEBODY,
        request: Request | None = None,
    ) -> None:
        """Remove an object for good, unless a finalizer holds it: then it only ends."""
        key = plural, namespace, name
        old = self.objects.get(key)
        if old is None or (_finalizers(old) and old["metadata"].get(GRACE) == 0):
            return
        if _finalizers(old):
            ending = {"deletionTimestamp": _seconds_of(now()), GRACE: 0}
            held = {**old, "metadata": {**old["metadata"], **ending}}
            self.store(plural, held, by, request)
            return
        del self.objects[key]
        self.version += 1
        self._tell(plural, old, None, by, request)

    def delete(
        self,
        plural: str,
        namespace: str,
        name: str,
        grace: int | None = None,
        by: str = SOMEBODY,
        request: Request | None = None,
    ) -> None:
        """Delete as the API does: a bound pod that has not ended gets its grace period."""
        obj = self.objects[plural, namespace, name]
        if plural != "pods":
            self.remove(plural, namespace, name, by, request)
            return
        if grace is None:
            spec_grace = obj["spec"].get("terminationGracePeriodSeconds")
            grace = DEFAULT_GRACE_SECONDS if spec_grace is None else spec_grace
        ended = obj["status"].get("phase") in ("Succeeded", "Failed")
        if grace == 0 or ended or not obj["spec"].get("nodeName"):
            self.remove(plural, namespace, name, by, request)
        elif not obj["metadata"].get("deletionTimestamp"):
            until = _seconds_of(now() + timedelta(seconds=grace))
            mark = {"deletionTimestamp": until, GRACE: grace}
            ending = {**obj, "metadata": {**obj["metadata"], **mark}}
            self.store(plural, ending, by, request)

    def stick(self, plural: str) -> None:
        """From now on reads and watches of this plural come from a replica that hears nothing."""
        known = {key: obj for key, obj in self.objects.items() if key[0] == plural}
        self.stuck[plural] = self.version, known
        self.frozen.add(plural)

    def thaw(self) -> None:
        """Let all watches speak again."""
        self.frozen.clear()
        self.stuck.clear()
        for watch in self.watches:
            watch.flush()

    def merge(self) -> None:
        """The same, but of each object they tell the newest state only."""
        for watch in self.watches:
            watch.merge()
        self.thaw()

    def break_watches(self, plural: str, *, expired: bool = False) -> None:
        """Cut all watches of a plural.

        Args:
            expired: what they had not told yet is forgotten, so they cannot go on from there.
        """
        if expired:
            self.oldest = min([self.version, *(version for version, _ in self.stuck.values())])
        for watch in [one for one in self.watches if one.plural == plural]:
            watch.cut()

    def lose_event(self, plural: str) -> None:
        """The newest event that has not arrived yet never does."""
        for watch in self.watches:
            if watch.plural == plural:
                watch.lose()

    def record(
        self, request: Request, by: str, known: Json | None, new: Json | None, code: int = 200
    ) -> None:
        """Write down what an operator asked for, and what came of it."""
        self.history.add(
            Write(
                at=clock(),
                actor=by,
                verb=request.verb,
                plural=request.plural,
                namespace=request.namespace,
                name=request.subject,
                subresource=request.subresource,
                body=request.body,
                before=known,
                after=new,
                code=code,
            )
        )

    def _tell(
        self, plural: str, old: Json | None, new: Json | None, by: str, request: Request | None
    ) -> None:
        self.changes.append((self.version, plural, old, new))
        if request is not None:
            self.record(request, by, old, new)
        else:
            verb = "create" if old is None else "delete" if new is None else "update"
            metadata = (new or old or {})["metadata"]
            self.history.add(
                Write(
                    at=clock(),
                    actor=by,
                    verb=verb,
                    plural=plural,
                    namespace=metadata.get("namespace", ""),
                    name=metadata["name"],
                    before=old,
                    after=new,
                )
            )
        for watch in self.watches:
            watch.take(self.version, plural, old, new)
        for listener in list(self.listeners):
            listener(plural, old, new)

    # --- the protocol -------------------------------------------------------------------

    def handle(self, request: Request, by: str = SOMEBODY) -> Json:
        """Return the answer to anything but a watch; raises `RefusedError`."""
        if request.verb == "list":
            return self._list(request)
        if request.verb == "create":
            return self._create(request, by)
        key = request.plural, request.namespace, request.name
        objects = self.objects
        if request.verb == "get" and request.plural in self.stuck:
            _, objects = self.stuck[request.plural]
        known = objects.get(key)
        if known is None:
            raise RefusedError(404, "NotFound", f'{request.plural} "{request.name}" not found')
        if request.verb == "get":
            return known
        if request.verb == "delete":
            options = request.body or {}
            wanted = options.get("preconditions", {}).get("uid")
            if wanted not in (None, known["metadata"]["uid"]):
                raise RefusedError(409, "Conflict", "Precondition failed: UID in precondition")
            self.delete(*key, options.get("gracePeriodSeconds"), by, request)
            return self.objects.get(key, known)
        version = request.body["metadata"].get("resourceVersion")
        if version not in (None, "", known["metadata"]["resourceVersion"]):
            raise RefusedError(409, "Conflict", "the object has been modified")
        part = request.subresource == "status"
        new = {**known, "status": request.body["status"]} if part else request.body
        return self.store(request.plural, new, by, request)

    def _create(self, request: Request, by: str) -> Json:
        body = request.body
        if request.plural == "tokenreviews":
            return {"status": self._review(body["spec"])}
        if request.plural == "events":
            self.events.append(body)
            return dict(body)
        name = body["metadata"]["name"]
        self.admission(request)
        if request.plural == "pods":
            self._check_quota(request.namespace)
        if (request.plural, request.namespace, name) in self.objects:
            raise RefusedError(409, "AlreadyExists", f'{request.plural} "{name}" already exists')
        made = {**body, "metadata": {**body["metadata"], "namespace": request.namespace}}
        if request.plural == "pods":
            made["spec"] = {"restartPolicy": "Always", **body["spec"]}
            made["status"] = {"phase": "Pending"}
        if "dryRun" in request.query:
            return made
        self.created[name] += 1
        return self.store(request.plural, made, by, request)

    def _check_quota(self, namespace: str) -> None:
        """Refuse one pod more than a namespace may have; those that have ended do not count."""
        limit = self.quotas.get(namespace)
        used = sum(
            pod["metadata"].get("namespace") == namespace
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
            for pod in self.all("pods")
        )
        if limit is not None and used >= limit:
            message = f"exceeded quota: team, used: pods={used}, limited: pods={limit}"
            raise RefusedError(403, "Forbidden", message)

    def _list(self, request: Request) -> Json:
        """Return a page; all pages of a list are of the moment of its first."""
        version, objects = self.stuck.get(request.plural, (self.version, self.objects))
        begin = 0
        if "continue" in request.query:
            version, begin = json.loads(request.query["continue"])
            objects = self._as_of(version)
        found = [
            obj
            for (plural, _, _), obj in sorted(objects.items())
            if plural == request.plural and _matches(obj, request.namespace, request)
        ]
        end = begin + int(request.query.get("limit", len(found)))
        metadata = {"resourceVersion": str(version)}
        if end < len(found):
            metadata["continue"] = json.dumps([version, end])
        return {"metadata": metadata, "items": found[begin:end]}

    def _as_of(self, version: int) -> dict[Key, Json]:
        objects = dict(self.objects)
        for later, plural, old, new in reversed(self.changes):
            if later <= version:
                break
            metadata = (old or new or {})["metadata"]
            key = plural, metadata.get("namespace", ""), metadata["name"]
            objects.pop(key, None)
            if old is not None:
                objects[key] = old
        return objects

    def _review(self, spec: Json) -> Json:
        parts = spec["token"].split(".")
        if len(parts) != 3 or parts[2] != "signature":
            return {"authenticated": False}
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(payload))
        named = claims["kubernetes.io"]
        pod = self.get("pods", named["namespace"], named["pod"]["name"])
        known = pod is not None and pod["metadata"]["uid"] == named["pod"]["uid"]
        if not known or not set(claims["aud"]) & set(spec["audiences"]):
            return {"authenticated": False}
        extra = {
            "authentication.kubernetes.io/pod-name": [named["pod"]["name"]],
            "authentication.kubernetes.io/pod-uid": [named["pod"]["uid"]],
        }
        username = f"system:serviceaccount:{named['namespace']}:default"
        return {
            "authenticated": True,
            "audiences": spec["audiences"],
            "user": {"username": username, "extra": extra},
        }


class Connection:
    """What a gateway has in place of its HTTP client: one operator process's connection.

    Attributes:
        name: what the history calls that process.
        crash: ends that process; nothing of it happens afterwards.
        cut: nothing gets through any more.
        late_seconds: each request takes so long on its way.
        deaf: no watch of it hears anything.
    """

    def __init__(self, server: ApiServer, name: str, crash: Callable[[], None]) -> None:
        self.server = server
        self.name = name
        self.crash = crash
        self.cut = False
        self.late_seconds = 0.0
        self.deaf = False

    async def call_api(self, method: str, url: str, _headers: Any, body: Any, **_: Any) -> Any:
        """See `kubernetes.aio.client.ApiClient.call_api`."""
        request = Request.read(method, url, body)
        await self._travel()
        if request.verb == "watch":
            return _Response(200, content=_Watch(self.server, request, self))
        fault = None
        if request.writes:
            self.server.writes.append(str(request))
            position = len(self.server.writes)
            fault = self.server.faults.pop(position, None)
            if fault is not None:
                self.server.fired[position] = fault
        response = await self._answer(request, fault)
        await self._travel()
        return response

    async def _answer(self, request: Request, fault: Fault | None) -> "_Response":
        if fault is Fault.CRASH_BEFORE:
            await self._die()
        if fault is Fault.UNAVAILABLE:
            return _Response(503, _status(503, "ServiceUnavailable", "try again"))
        if fault is Fault.THROTTLED:
            later = {"Retry-After": "1"}
            return _Response(429, _status(429, "TooManyRequests", "later"), headers=later)
        if fault is Fault.FAILED:
            return _Response(500, _status(500, "InternalError", "etcdserver: no leader"))
        if fault is Fault.CONFLICT and request.verb == "update":
            key = request.plural, request.namespace, request.name
            self.server.change(
                *key, lambda obj: obj["metadata"].setdefault("annotations", {}).update(touched="1")
            )
        if fault in STALE:
            self.server.stick(STALE[fault])
            asyncio.get_running_loop().call_later(STALE_SECONDS, self.server.thaw)
        if fault is Fault.UNOBSERVED:
            self.server.frozen.add("pods")
            asyncio.get_running_loop().call_later(BLIND_SECONDS, self.server.merge)
        try:
            code, answer = 200, self.server.handle(request, self.name)
        except RefusedError as refusal:
            code, answer = refusal.code, _status(refusal.code, refusal.reason, str(refusal))
            if request.writes and request.plural != "events":
                key = request.plural, request.namespace, request.subject
                known = self.server.objects.get(key)
                self.server.record(request, self.name, known, known, code)
        if fault in (Fault.CRASH_AFTER, Fault.AWAY) or fault in STALE:
            await self._die()
        if fault is Fault.ANSWER_LOST:
            raise aiohttp.ServerDisconnectedError
        return _Response(code, answer)

    async def _travel(self) -> None:
        if self.cut:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(TRAVEL_SECONDS + self.late_seconds)

    async def _die(self) -> None:
        self.crash()
        await asyncio.get_running_loop().create_future()


class _Configuration:
    host = "http://kubernetes"

    async def get_api_key_with_prefix(self, _: str) -> str:
        return ""


class InMemoryGateway(Gateway):
    """The real gateway on a connection that needs no sockets, and so on any clock."""

    def __init__(self, connection: Connection) -> None:
        self.requests = Counter()
        self._timeout_seconds = 10.0
        self._configuration: Any = _Configuration()
        self._client: Any = connection
        self._turn = asyncio.Semaphore(64)


@dataclass(slots=True)
class _Response:
    """A `RESTResponse` and the `aiohttp.ClientResponse` in it."""

    status: int
    answer: Json | None = None
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    connection: None = None

    @property
    def response(self) -> "_Response":
        return self

    async def read(self) -> bytes:
        return json.dumps(self.answer).encode()

    async def __aenter__(self) -> "_Response":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.content is not None:
            self.content.close()


class _Watch:
    """One open watch: an `aiohttp.StreamReader` that ends when its time is over."""

    def __init__(self, server: ApiServer, request: Request, connection: Connection) -> None:
        self.plural = request.plural
        self._server = server
        self._connection = connection
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + int(request.query["timeoutSeconds"])
        self._told = int(request.query["resourceVersion"])
        self._coming: deque[tuple[int, bytes]] = deque()
        self._here: list[bytes] = []
        self._news = asyncio.Event()
        self._broken = False
        if self._told < server.oldest:
            gone = {"type": "ERROR", "object": _status(410, "Expired", "too old resource version")}
            self._here.append(json.dumps(gone).encode())
        begin = self._told
        for version, plural, old, new in server.changes:
            if version > begin:
                self.take(version, plural, old, new)
        server.watches.append(self)

    def close(self) -> None:
        if self in self._server.watches:
            self._server.watches.remove(self)

    def take(self, version: int, plural: str, old: Json | None, new: Json | None) -> None:
        if plural != self._request.plural:
            return
        before = old is not None and _matches(old, self._request.namespace, self._request)
        after = new is not None and _matches(new, self._request.namespace, self._request)
        if not before and not after:
            return
        kind = ("MODIFIED" if before else "ADDED") if after else "DELETED"
        obj = new if after else old
        assert obj is not None
        metadata = {**obj["metadata"], "resourceVersion": str(version)}
        line = json.dumps({"type": kind, "object": {**obj, "metadata": metadata}}).encode()
        for _ in range(2 if self._server.repeats else 1):
            self._coming.append((version, line))
            self._loop.call_later(self._server.watch_lag_seconds, self._arrive)

    def merge(self) -> None:
        """Of each object keep the newest state only."""
        newest = {}
        for version, line in self._coming:
            newest[json.loads(line)["object"]["metadata"]["uid"]] = version, line
        self._coming = deque(sorted(newest.values()))

    def cut(self) -> None:
        """Break the connection: what was on its way is lost, and can be asked for again."""
        self._coming.clear()
        self._broken = True
        self._news.set()

    def lose(self) -> None:
        if self._coming:
            self._coming.pop()

    def flush(self) -> None:
        while self._coming and not self._connection.deaf:
            self._arrive()

    def _arrive(self) -> None:
        mute = self._connection.deaf or self.plural in self._server.frozen
        if self._coming and not mute:
            self._told, line = self._coming.popleft()
            self._here.append(line)
            self._news.set()

    async def read(self, _: int) -> bytes:
        while not self._here:
            if self._broken:
                raise aiohttp.ClientPayloadError("the connection was cut")
            left_seconds = self._ends_at - self._loop.time()
            if left_seconds <= 0:
                return b""
            # The last bookmark comes shortly before the end.
            last = left_seconds - LAST_BOOKMARK_SECONDS
            wait_seconds = min(last if last > 0 else left_seconds, BOOKMARK_SECONDS)
            self._news.clear()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                if last > 0:
                    self._bookmark()
        text = b"".join(line + b"\n" for line in self._here)
        self._here.clear()
        return text

    def _bookmark(self) -> None:
        if not self._connection.deaf and self.plural not in self._server.frozen:
            metadata = {"resourceVersion": str(self._told)}
            bookmark = {"type": "BOOKMARK", "object": {"metadata": metadata}}
            self._here.append(json.dumps(bookmark).encode())


def copied(value: Any) -> Any:
    """Return a copy of a JSON value that shares nothing with it; ten times as fast as deepcopy."""
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def now() -> datetime:
    """Return the time of day on the running loop's clock."""
    return START + timedelta(seconds=asyncio.get_running_loop().time())


def _seconds_of(moment: datetime) -> str:
    """Return a time as the API server gives it: whole seconds."""
    return format_time(moment)[:-5] + "Z"


def _finalizers(obj: Json) -> list[str]:
    found: list[str] = obj["metadata"].get("finalizers") or []
    return found


def _status(code: int, reason: str, message: str) -> Json:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


def _matches(obj: Json, namespace: str, request: Request) -> bool:
    if namespace and obj["metadata"].get("namespace") != namespace:
        return False
    labels = obj["metadata"].get("labels") or {}
    if not _holds(request.query.get("labelSelector", ""), labels.get):
        return False
    return _holds(request.query.get("fieldSelector", ""), lambda path: _field(obj, path))


def _holds(selector: str, value_of: Callable[[str], Any]) -> bool:
    for term in filter(None, selector.split(",")):
        key, _, value = term.partition("!=") if "!=" in term else term.partition("=")
        if (value_of(key) == value) is ("!=" in term):
            return False
    return True


def _field(obj: Json, path: str) -> str:
    first, _, last = path.partition(".")
    value: str = (obj.get(first) or {}).get(last) or ""
    return value
