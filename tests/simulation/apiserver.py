"""An API server in memory, behind the real `Gateway`: only the HTTP client is replaced.

It keeps what the operator relies on: resourceVersions and conflicts, AlreadyExists, UID
preconditions, graceful deletion, selectors on watches (an object that leaves a selector is
DELETED for it), admission before storage. Faults are injected by position: at the n-th write.
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
DEFAULT_GRACE_SECONDS = 30
GRACE = "deletionGracePeriodSeconds"


class Fault(StrEnum):
    """What happens to a write of the operator."""

    CRASH_BEFORE = "the operator dies before the write"
    CRASH_AFTER = "the operator dies after the write"
    ANSWER_LOST = "the write is done, its answer lost"
    UNAVAILABLE = "the write is refused for a moment"
    CONFLICT = "somebody else writes the object first"


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
        frozen: plurals whose watches bring no news: every cache of them is stale.
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
        self.frozen: set[str] = set()
        self.admission: Callable[[Request], None] = lambda _: None
        self.listeners: list[Callable[[str, Json | None, Json | None], None]] = []
        self.created: Counter[str] = Counter()
        self.events: list[Json] = []
        self._uids = 0

    # --- for the world ------------------------------------------------------------------

    def begin(self) -> None:
        """Count writes from here."""
        self.writes.clear()

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

    def thaw(self) -> None:
        """Let all watches speak again."""
        self.frozen.clear()
        for watch in self.watches:
            watch.flush()

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
        known = self.objects.get(key)
        if known is None:
            raise RefusedError(404, "NotFound", f'{request.plural} "{request.name}" not found')
        if request.verb == "get":
            return known
        if request.verb == "delete":
            wanted = request.body.get("preconditions", {}).get("uid")
            if wanted not in (None, known["metadata"]["uid"]):
                raise RefusedError(409, "Conflict", "Precondition failed: UID in precondition")
            self.delete(*key, request.body.get("gracePeriodSeconds"), by, request)
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
        if (request.plural, request.namespace, name) in self.objects:
            raise RefusedError(409, "AlreadyExists", f'{request.plural} "{name}" already exists')
        made = {**body, "metadata": {**body["metadata"], "namespace": request.namespace}}
        if request.plural == "pods":
            made["status"] = {"phase": "Pending"}
        if "dryRun" in request.query:
            return made
        self.created[name] += 1
        return self.store(request.plural, made, by, request)

    def _list(self, request: Request) -> Json:
        found = [
            obj for obj in self.all(request.plural) if _matches(obj, request.namespace, request)
        ]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": found}

    def _review(self, spec: Json) -> Json:
        payload = spec["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        named = claims["kubernetes.io"]
        pod = self.get("pods", named["namespace"], named["pod"]["name"])
        if pod is None or pod["metadata"]["uid"] != named["pod"]["uid"]:
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
    """

    def __init__(self, server: ApiServer, name: str, crash: Callable[[], None]) -> None:
        self.server = server
        self.name = name
        self.crash = crash
        self.cut = False

    async def call_api(self, method: str, url: str, _headers: Any, body: Any, **_: Any) -> Any:
        """See `kubernetes.aio.client.ApiClient.call_api`."""
        request = Request.read(method, url, body)
        await self._travel()
        if request.verb == "watch":
            return _Response(200, content=_Watch(self.server, request))
        fault = None
        if request.writes:
            self.server.writes.append(str(request))
            fault = self.server.faults.pop(len(self.server.writes), None)
        response = await self._answer(request, fault)
        await self._travel()
        return response

    async def _answer(self, request: Request, fault: Fault | None) -> "_Response":
        if fault is Fault.CRASH_BEFORE:
            await self._die()
        if fault is Fault.UNAVAILABLE:
            return _Response(503, _status(503, "ServiceUnavailable", "try again"))
        if fault is Fault.CONFLICT and request.verb == "update":
            key = request.plural, request.namespace, request.name
            self.server.change(
                *key, lambda obj: obj["metadata"].setdefault("annotations", {}).update(touched="1")
            )
        try:
            code, answer = 200, self.server.handle(request, self.name)
        except RefusedError as refusal:
            code, answer = refusal.code, _status(refusal.code, refusal.reason, str(refusal))
            if request.writes and request.plural != "events":
                key = request.plural, request.namespace, request.subject
                known = self.server.objects.get(key)
                self.server.record(request, self.name, known, known, code)
        if fault is Fault.CRASH_AFTER:
            await self._die()
        if fault is Fault.ANSWER_LOST:
            raise aiohttp.ServerDisconnectedError
        return _Response(code, answer)

    async def _travel(self) -> None:
        if self.cut:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(TRAVEL_SECONDS)

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

    def __init__(self, server: ApiServer, request: Request) -> None:
        self._server = server
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + int(request.query["timeoutSeconds"])
        self._told = int(request.query["resourceVersion"])
        self._coming: deque[tuple[int, bytes]] = deque()
        self._here: list[bytes] = []
        self._news = asyncio.Event()
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
        self._coming.append((version, line))
        self._loop.call_later(WATCH_LAG_SECONDS, self._arrive)

    def flush(self) -> None:
        while self._coming:
            self._arrive()

    def _arrive(self) -> None:
        if self._coming and self._request.plural not in self._server.frozen:
            self._told, line = self._coming.popleft()
            self._here.append(line)
            self._news.set()

    async def read(self, _: int) -> bytes:
        while not self._here:
            wait_seconds = min(self._ends_at - self._loop.time(), BOOKMARK_SECONDS)
            if wait_seconds <= 0:
                return b""
            self._news.clear()
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
            except TimeoutError:
                self._bookmark()
        text = b"".join(line + b"\n" for line in self._here)
        self._here.clear()
        return text

    def _bookmark(self) -> None:
        if self._request.plural not in self._server.frozen:
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
