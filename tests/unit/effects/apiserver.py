"""An API server in this process: the real protocol over real sockets, no storage, no admission.

It lists in pages, watches with bookmarks, refuses old resourceVersions with 410, honours UID
preconditions and dry runs, and breaks where a test tells it to: by position, never by chance.
"""

import asyncio
import copy
import json
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]

CUT = "cut in the middle of an event"
GARBAGE = "an event that is not JSON"
SILENT = "an open watch on which nothing comes"
END = "the watch ends at once"
HANG = "no answer at all"


class ApiServer:
    """State, faults and what was asked. `faults[verb]` are taken one per request, oldest first.

    A fault is None (none), one of the words above, or (HTTP status, Status fields, headers).
    """

    def __init__(self) -> None:
        self.version = 1000
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.history: list[tuple[str, str, Json]] = []
        self.oldest_version = 0
        self.faults: dict[str, deque[Any]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self.watches = 0
        self.before_list: Callable[[], None] = lambda: None
        self.most_at_once = 0
        self.review: Callable[[Json], Json] = lambda spec: {"authenticated": False}
        self._now = 0
        self._news = asyncio.Event()
        self._bookmarks = 0
        self._ends = 0

    # --- the world, for tests -----------------------------------------------------------

    def store(self, plural: str, obj: Json) -> Json:
        """Create or change an object as somebody else."""
        metadata = obj["metadata"]
        key = plural, metadata.get("namespace", ""), metadata["name"]
        known = self.objects.get(key)
        self.version += 1
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(self.version)
        stored["metadata"].setdefault(
            "uid", known["metadata"]["uid"] if known else str(uuid.uuid4())
        )
        self.objects[key] = stored
        self._record("MODIFIED" if known else "ADDED", plural, stored)
        return stored

    def delete(self, plural: str, namespace: str, name: str) -> Json:
        """Remove an object as somebody else."""
        gone = copy.deepcopy(self.objects.pop((plural, namespace, name)))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._record("DELETED", plural, gone)
        return gone

    def forget_silently(self, plural: str, namespace: str, name: str) -> None:
        """Remove an object without an event, as if its event had been lost."""
        self.version += 1
        del self.objects[plural, namespace, name]

    def compact(self) -> None:
        """Make every resourceVersion before now too old to watch from."""
        self.oldest_version = self.version

    def end_watches(self) -> None:
        """End all watches that are open, as a server does that shuts down."""
        self._ends += 1
        self._wake()

    def bookmark(self) -> None:
        """Send a bookmark on all watches."""
        self._bookmarks += 1
        self._wake()

    def fail(self, verb: str, *faults: Any) -> None:
        """Let the next requests of a verb fail, each in its way."""
        self.faults.setdefault(verb, deque()).extend(faults)

    def count(self, verb: str) -> int:
        """How many requests of a verb came in."""
        return Counter(one for one, _, _ in self.asked)[verb]

    def _record(self, kind: str, plural: str, obj: Json) -> None:
        self.history.append((kind, plural, copy.deepcopy(obj)))
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- the protocol -------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self, directory: Path) -> AsyncIterator[Path]:
        """Serve on a free port; yields a kubeconfig."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        kubeconfig = directory / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(runner.addresses[0][1])))
        try:
            yield kubeconfig
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        plural, namespace, name, subresource = _parts(request.path)
        query = dict(request.query)
        verb = _verb(request.method, name, query)
        self.asked.append((verb, request.path, query))
        self.headers.append(dict(request.headers))
        faults = self.faults.get(verb)
        fault = faults.popleft() if faults else None
        if fault == HANG:
            await asyncio.Event().wait()
        if isinstance(fault, tuple):
            return _status(*fault)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if verb == "watch":
                return await self._watch(request, plural, namespace, query, fault)
            await asyncio.sleep(0)
            if verb == "list":
                return self._list(plural, namespace, query)
            body = await request.json() if request.can_read_body else {}
            if plural == "tokenreviews":
                return web.json_response({"status": self.review(body["spec"])}, status=201)
            return self._one(verb, (plural, namespace, name), subresource, query, body)
        finally:
            self._now -= 1

    def _one(
        self, verb: str, key: tuple[str, str, str], subresource: str, query: Json, body: Json
    ) -> web.Response:
        plural, namespace, name = key
        name = name or body["metadata"]["name"]
        known = self.objects.get((plural, namespace, name))
        if verb == "create":
            if known:
                return _status(409, {"reason": "AlreadyExists", "message": f"{name} exists"})
            made = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
            if query.get("dryRun") == "All":
                return web.json_response(made, status=201)
            return web.json_response(self.store(plural, made), status=201)
        if known is None:
            message = f'{plural} "{name}" not found'
            return _status(404, {"reason": "NotFound", "message": message})
        if verb == "get":
            return web.json_response(known)
        if verb == "delete":
            if body.get("preconditions", {}).get("uid") not in (None, known["metadata"]["uid"]):
                return _status(409, {"reason": "Conflict", "message": "Precondition failed: UID"})
            return web.json_response(self.delete(plural, namespace, name))
        if body["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"]:
            message = "the object has been modified"
            return _status(409, {"reason": "Conflict", "message": message})
        new = {**known, "status": body["status"]} if subresource == "status" else body
        return web.json_response(self.store(plural, new))

    def _list(self, plural: str, namespace: str, query: Json) -> web.Response:
        version, start = str(self.version), 0
        if query.get("continue"):
            version, start_text = query["continue"].split(":")
            start = int(start_text)
        else:
            self.before_list()
            version = str(self.version)
        found = [
            obj
            for (kind, _, _), obj in sorted(self.objects.items())
            if kind == plural and _matches(obj, namespace, query)
        ]
        end = start + int(query.get("limit") or len(found) or 1)
        metadata = {"resourceVersion": version}
        if end < len(found):
            metadata["continue"] = f"{version}:{end}"
        return web.json_response({"metadata": metadata, "items": found[start:end]})

    async def _watch(
        self, request: web.Request, plural: str, namespace: str, query: Json, fault: str | None
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        version = int(query["resourceVersion"])
        if version < self.oldest_version:
            return _status(410, {"reason": "Expired", "message": "too old resource version"})
        await answer.prepare(request)
        self.watches += 1
        if fault == END:
            return answer
        if fault == SILENT:
            await asyncio.Event().wait()
        if isinstance(fault, dict):
            await _write(answer, {"type": "ERROR", "object": fault})
            return answer
        told, bookmarks, ends = 0, self._bookmarks, self._ends
        while ends == self._ends:
            news = self._news
            for kind, of, obj in self.history[told:]:
                told += 1
                later = int(obj["metadata"]["resourceVersion"]) > version
                if of != plural or not later or not _matches(obj, namespace, query):
                    continue
                line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
                if fault in (CUT, GARBAGE):
                    await answer.write(line[: len(line) // 2] + b"\n" * (fault == GARBAGE))
                    assert request.transport is not None
                    request.transport.abort()
                    return answer
                await answer.write(line)
            if bookmarks < self._bookmarks:
                bookmarks = self._bookmarks
                metadata = {"resourceVersion": str(self.version)}
                await _write(answer, {"type": "BOOKMARK", "object": {"metadata": metadata}})
            await news.wait()
        return answer


async def _write(answer: web.StreamResponse, event: Json) -> None:
    await answer.write(json.dumps(event).encode() + b"\n")


def _matches(obj: Json, namespace: str, query: Json) -> bool:
    metadata = obj["metadata"]
    if namespace and metadata.get("namespace") != namespace:
        return False
    labels = metadata.get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, value = term.split("!=") if "!=" in term else term.split("=")
        if (labels.get(key) == value) is ("!=" in term):
            return False
    return True


def _verb(method: str, name: str, query: Json) -> str:
    if method == "GET":
        return "get" if name else "watch" if "watch" in query else "list"
    return {"POST": "create", "PUT": "update", "DELETE": "delete"}[method]


def _parts(path: str) -> tuple[str, str, str, str]:
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = [*parts, "", ""][:3]
    return plural, namespace, name, subresource


def _status(code: int, fields: Json, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, **fields}
    return web.json_response(body, status=code, headers=headers)


def _kubeconfig(port: int) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
