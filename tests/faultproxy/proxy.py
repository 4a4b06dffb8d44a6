"""One operator's way to a real API server: it confines, counts, records and harms.

The operator believes that it serves a whole cluster: its lists and watches of all namespaces
are confined to one namespace, and those of nodes to the nodes of one lane, so that many operators
share an API server and none disturbs another.

Every request that changes something is named by what it does, such as `create-pod-job-1-0` or
`status-2.Running-Running`, with how many of that name there were: `@1`, `@2` … Names, unlike
numbers, are the same from run to run, although a gang's pods are created in no order. Not
counted are Leases, TokenReviews, dry runs and events, which decide nothing about a job, and
status writes that only carry numbers on (they are named `flush`).
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

Json = dict[str, Any]

RETRY_AFTER_SECONDS = 1
SLOW_SECONDS = 0.3
STALL_SECONDS = 5.0
REFUSE_WATCHES_SECONDS = 2.0
NOT_COUNTED = frozenset({"leases", "tokenreviews", "events"})
LANE_LABEL = "goodput.test/lane"
DECIDED = {
    "checkpoint": ("fenced", "lineage"),
    "elastic": ("workers", "wanted", "joinable", "legalSizes", "snoozedUntil"),
}
"""What decides, of parts of the status in which much is measured."""


class Fault(StrEnum):
    """What happens; at one write, but for those from `SLOW` on."""

    CRASH_BEFORE = "crash_before"
    """The operator is killed, and the API server never sees the write."""
    CRASH_AFTER = "crash_after"
    """The write is done, and the operator is killed before it hears so."""
    ANSWER_LOST = "answer_lost"
    """The write is done, and the connection cut."""
    CONFLICT = "conflict"
    """An update: somebody else writes first. A creation: it is done, and 409 the answer."""
    INTERNAL_ERROR = "internal_error"
    """500, and nothing done."""
    UNAVAILABLE = "unavailable"
    """503 with Retry-After, and nothing done."""
    TOO_MANY = "too_many"
    """429 with Retry-After, and nothing done."""

    STALE_LISTS = "stale_lists"
    """The operator dies after the write; its successor's first lists are old."""
    SLOW = "slow"
    """Every request takes `SLOW_SECONDS` longer."""
    EVENTS_REFUSED = "events_refused"
    """No event can be written."""
    CRASH_AT_ONCE = "crash_at_once"
    """The operator dies at the moment of the harm and misses it."""
    WATCH_STALLS = "watch_stalls"
    """A watch falls silent for `STALL_SECONDS`, then tells all."""
    WATCH_CUT = "watch_cut"
    """A watch breaks off in place of an event, and cannot be opened for a moment."""
    WATCH_GONE = "watch_gone"
    """A watch ends with 410 in place of an event."""
    WATCH_REPLAYED = "watch_replayed"
    """A watch breaks off; the next one begins in the past."""


AT_A_WRITE = tuple(Fault)[:7]
ON_A_WATCH = tuple(one for one in Fault if one.name.startswith("WATCH_"))


@dataclass(frozen=True, slots=True)
class Call:
    """A request of the operator.

    Attributes:
        resource: plural; `other-pods` for pods that are not ours.
    """

    verb: str
    resource: str
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str]
    path: str
    body: Json

    @classmethod
    def read(cls, method: str, target: str, body: bytes) -> "Call":
        """Read a request's first line and body."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        parts = url.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if len(parts) > 2 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        resource, name, subresource = [*parts, "", "", ""][:3]
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
            method, "get"
        )
        if verb == "get" and not name and resource:
            verb = "watch" if query.get("watch") in ("1", "true") else "list"
        if resource == "pods" and "!=" in query.get("labelSelector", ""):
            resource = "other-pods"
        decoded = json.loads(body) if body else {}
        return cls(verb, resource, namespace, name, subresource, query, url.path, decoded)

    @property
    def counted(self) -> bool:
        """Whether it changes what matters."""
        changes = self.verb in ("create", "update", "patch", "delete")
        return changes and self.resource not in NOT_COUNTED and "dryRun" not in self.query


@dataclass(slots=True)
class Write:
    """A counted request and what became of it."""

    at_seconds: float
    point: str
    status: int = 0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.at_seconds:7.2f} s  {self.point} -> {self.status or '-'} {self.note}"


@dataclass(frozen=True, slots=True)
class Harm:
    """What a plan does to the operator.

    Attributes:
        point: the write, as `name@occurrence`, or the watched resource; "" for all the time.
        position: harm the write at this position of all, from 1 on, whatever it is; 0: none.
    """

    fault: Fault | None = None
    point: str = ""
    position: int = 0


class FaultProxy:
    """See the module.

    Args:
        upstream: a session that is the administrator to the API server.
        server: the API server's URL.
        lane: whose nodes the operator sees.

    Attributes:
        fired: how often the fault has happened.
        writes: the counted writes since `begin`.
        events: how many events of each watched resource were sent since `begin`.
        violations: what no request may be like.
        led: a Lease was written since this was last set to False: somebody leads.
    """

    def __init__(self, upstream: aiohttp.ClientSession, server: str, lane: str) -> None:
        self._upstream = upstream
        self._server = server
        self._lane = lane
        self.port = 0
        self._listening: asyncio.Server | None = None
        self.attach("none", Harm(), _nobody, lambda: None)

    def attach(
        self,
        namespace: str,
        harm: Harm,
        kill: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """Serve the operator of another plan from now on.

        Args:
            namespace: all it sees.
            harm: what to do from `begin` on.
            kill: ends the operator by SIGKILL.
            changed: called after every counted write.
        """
        self.harm = harm
        self.fired = 0
        self.writes: list[Write] = []
        self.events: Counter[str] = Counter()
        self.violations: list[str] = []
        self.led = False
        self._namespace = namespace
        self._kill = kill
        self._changed = changed
        self._armed = False
        self._counts: Counter[str] = Counter()
        self._essence = ""
        self._began_at = asyncio.get_running_loop().time()
        self._lists: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._stale: dict[tuple[str, str], bytes] = {}
        self._stalled: dict[str, asyncio.Event] = {}
        self._refused_until: dict[str, float] = {}
        self._old_versions: dict[str, str] = {}
        self._replay: set[str] = set()

    async def begin(self) -> None:
        """Count from here, and harm from here; lists that are served stale are of this moment."""
        for key, (url, _) in list(self._lists.items()):
            async with self._upstream.get(URL(url, encoded=True)) as answer:
                text = await answer.read()
            self._lists[key] = url, text
            self._old_versions[key[0]] = json.loads(text)["metadata"]["resourceVersion"]
        self.writes.clear()
        self._counts.clear()
        self.events.clear()
        self._began_at = asyncio.get_running_loop().time()
        self._armed = True
        if self.harm.fault is Fault.CRASH_AT_ONCE:
            self.fired += 1
            await self._kill()

    async def open(self, context: ssl.SSLContext | None) -> None:
        """Listen at `port`; without a context, for want of certificates, in the clear."""
        server = web.Server(self._serve, access_log=None)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(server, "127.0.0.1", 0, ssl=context)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.close()

    # --- requests -----------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        call = Call.read(request.method, request.path_qs, body)
        url = self._confined(call)
        if call.verb == "watch":
            return await self._watch(request, call, url)
        fault = self.harm.fault if self._armed else None
        if fault is Fault.SLOW and call.resource != "leases":
            self.fired += call.counted
            await asyncio.sleep(SLOW_SECONDS)
        if call.verb == "list":
            return await self._list(request, call, url)
        if fault is Fault.EVENTS_REFUSED and call.resource == "events":
            self.fired += 1
            return _refusal(503, "ServiceUnavailable", "no events today")
        if not call.counted:
            answer = await self._forward(request, url, body)
            wrote = call.resource == "leases" and call.verb in ("create", "update")
            if wrote and answer.status < 300 and not self.led:
                self.led = True
                self._changed()
            return answer
        return await self._write(request, call, url, body)

    def _confined(self, call: Call) -> str:
        path, query = call.path, dict(call.query)
        if call.verb in ("list", "watch") and not call.namespace:
            if call.resource in ("pods", "other-pods", "trainingjobs"):
                root, _, plural = path.rpartition("/")
                path = f"{root}/namespaces/{self._namespace}/{plural}"
            elif call.resource == "nodes":
                query["labelSelector"] = f"{LANE_LABEL}={self._lane}"
        if call.verb == "watch" and call.resource in self._replay:
            query["resourceVersion"] = self._old_versions.get(call.resource, "1")
            self._replay.discard(call.resource)
            self.fired += 1
        return self._server + path + ("?" + urlencode(query) if query else "")

    async def _forward(self, request: web.BaseRequest, url: str, body: bytes) -> web.Response:
        headers = {
            name: request.headers[name]
            for name in ("Accept", "Content-Type")
            if name in request.headers
        }
        async with self._upstream.request(
            request.method, URL(url, encoded=True), data=body or None, headers=headers
        ) as answer:
            text = await answer.read()
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            return web.Response(status=answer.status, body=text, headers=kept)

    async def _list(self, request: web.BaseRequest, call: Call, url: str) -> web.StreamResponse:
        key = call.resource, request.headers.get("User-Agent", "")
        old = self._stale.pop(key, None)
        if old is not None:
            self.fired += 1
            return web.Response(body=old, content_type="application/json")
        answer = await self._forward(request, url, b"")
        if answer.status == 200 and isinstance(answer.body, bytes):
            self._lists.setdefault(key, (url, answer.body))
        return answer

    # --- writes -------------------------------------------------------------------------------

    async def _write(
        self, request: web.BaseRequest, call: Call, url: str, body: bytes
    ) -> web.StreamResponse:
        self._judge(call)
        name = self._name_of(call)
        self._counts[name] += 1
        point = f"{name}@{self._counts[name]}"
        now = asyncio.get_running_loop().time()
        write = Write(now - self._began_at, point)
        self.writes.append(write)
        harm = self.harm
        meant = harm.point == point or harm.position == len(self.writes)
        here = self._armed and meant and not self.fired
        try:
            if here and harm.fault is not None:
                answer = await self._harmed(harm.fault, request, call, url, body, write)
            else:
                answer = await self._forward(request, url, body)
            write.status = answer.status if answer is not None else 0
        finally:
            self._changed()
        if answer is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if call.resource == "trainingjobs" and 200 <= answer.status < 300:
            self._essence = essence(call.body.get("status") or {})
        return answer

    async def _harmed(
        self,
        fault: Fault,
        request: web.BaseRequest,
        call: Call,
        url: str,
        body: bytes,
        write: Write,
    ) -> web.Response | None:
        """Return the answer to a write that goes wrong; None cuts the connection."""
        self.fired += fault is not Fault.STALE_LISTS
        write.note = f"<- {fault}"
        if fault is Fault.CRASH_BEFORE:
            await self._kill()
            return None
        if fault is Fault.UNAVAILABLE:
            return _refusal(503, "ServiceUnavailable", "try again")
        if fault is Fault.TOO_MANY:
            return _refusal(429, "TooManyRequests", "try again")
        if fault is Fault.INTERNAL_ERROR:
            return _refusal(500, "InternalError", "an injected failure", retry=False)
        if fault is Fault.CONFLICT and call.verb == "delete":
            return _refusal(409, "Conflict", "an injected conflict", retry=False)
        if fault is Fault.CONFLICT and call.verb == "update":
            await self._touch(call)
            return await self._forward(request, url, body)
        answer = await self._forward(request, url, body)
        write.note += f" (the API server said {answer.status})"
        if fault is Fault.CONFLICT:
            return _refusal(409, "AlreadyExists", "an injected repetition", retry=False)
        if fault is Fault.STALE_LISTS:
            self._stale = {key: text for key, (_, text) in self._lists.items()}
        if fault in (Fault.CRASH_AFTER, Fault.STALE_LISTS):
            await self._kill()
        return None

    async def _touch(self, call: Call) -> None:
        """Write the object as somebody else, so that an update of its former state conflicts."""
        path = call.path.removesuffix(f"/{call.subresource}") if call.subresource else call.path
        patch = {"metadata": {"annotations": {"goodput.test/touched": str(self.fired)}}}
        async with self._upstream.patch(
            self._server + path,
            data=json.dumps(patch),
            headers={"Content-Type": "application/merge-patch+json"},
        ) as answer:
            answer.raise_for_status()

    def _judge(self, call: Call) -> None:
        """Note what a write must not be like."""
        metadata = call.body.get("metadata") or {}
        where = f"{call.verb} {call.path}"
        if call.verb == "delete" and not (call.body.get("preconditions") or {}).get("uid"):
            self.violations.append(f"{where}: a deletion without the UID")
        if call.verb == "update" and not metadata.get("resourceVersion"):
            self.violations.append(f"{where}: an update without the resourceVersion")
        if call.verb == "patch":
            self.violations.append(f"{where}: an update on no condition")
        if call.resource == "pods" and call.verb == "create":
            owners = metadata.get("ownerReferences") or ()
            if not any(owner.get("uid") for owner in owners):
                self.violations.append(f"{where}: a pod without an owner")

    def _name_of(self, call: Call) -> str:
        if call.resource == "trainingjobs" and call.subresource == "status":
            status = call.body.get("status") or {}
            if essence(status) == self._essence:
                return "flush"
            attempt = status.get("attempt") or {}
            where = f"{attempt.get('number', 0)}.{attempt.get('state', 'None')}"
            return f"status-{where}-{status.get('phase') or 'None'}"
        name = call.name or (call.body.get("metadata") or {}).get("name", "")
        return f"{call.verb}-{call.resource.removesuffix('s')}-{name}"

    # --- watches ------------------------------------------------------------------------------

    async def _watch(self, request: web.BaseRequest, call: Call, url: str) -> web.StreamResponse:
        resource, loop = call.resource, asyncio.get_running_loop()
        if loop.time() < self._refused_until.get(resource, 0.0):
            _abort(request)
            return web.Response(status=503)
        limits = aiohttp.ClientTimeout(total=None)
        async with self._upstream.get(URL(url, encoded=True), timeout=limits) as upstream:
            response = web.StreamResponse(status=upstream.status)
            response.content_type = "application/json"
            pending = b""
            try:
                await response.prepare(request)
                while chunk := await upstream.content.read(256 * 1024):
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        if not await self._event(request, response, resource, line):
                            return response
            except ConnectionError:
                pass  # the operator is gone, or has hung up
            return response

    async def _event(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        resource: str,
        line: bytes,
    ) -> bool:
        """Pass an event on, or harm it; return whether the watch goes on."""
        self.events[resource] += 1
        harm = self.harm
        if self._armed and harm.point == resource:
            if harm.fault is Fault.WATCH_STALLS:
                await self._stall(resource)
            elif harm.fault is Fault.WATCH_CUT and not self.fired:
                self.fired += 1
                now = asyncio.get_running_loop().time()
                self._refused_until[resource] = now + REFUSE_WATCHES_SECONDS
                return _abort(request)
            elif harm.fault is Fault.WATCH_GONE and not self.fired:
                self.fired += 1
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return False
            elif harm.fault is Fault.WATCH_REPLAYED and not self.fired:
                self._replay.add(resource)
                return _abort(request)
        await response.write(line + b"\n")
        return True

    async def _stall(self, resource: str) -> None:
        gate = self._stalled.get(resource)
        if gate is None:
            self.fired += 1
            gate = self._stalled[resource] = asyncio.Event()
            asyncio.get_running_loop().call_later(STALL_SECONDS, gate.set)
        await gate.wait()


def essence(status: Mapping[str, Any]) -> str:
    """Return what a status decides, without the numbers and words that only move along."""
    kept = {
        name: value
        for name, value in status.items()
        if name not in ("workers", "ledger", "incidents", "goodput", "progress", "reason")
    }
    kept["conditions"] = [
        (one["type"], one["status"], one["reason"]) for one in status.get("conditions", ())
    ]
    for name, decided in DECIDED.items():
        part = status.get(name) or {}
        kept[name] = {field: part.get(field) for field in decided}
    return json.dumps(kept, sort_keys=True)


def _abort(request: web.BaseRequest) -> bool:
    if request.transport is not None:
        request.transport.abort()
    return False


def _refusal(code: int, reason: str, message: str, *, retry: bool = True) -> web.Response:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if retry else {}
    return web.json_response(status, status=code, headers=headers)


async def _nobody() -> None:
    pass
