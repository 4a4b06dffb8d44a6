"""Two API servers for one suite: a real one, and the one that the simulations stand on.

What holds on both cannot drift apart. What the simulated one does not claim – to validate
objects, to evaluate policies – is tested on the real one alone.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from e2e.cluster.cluster import Cluster
from goodput_operator.effects.gateway import Gateway
from tests.simulation.apiserver import ApiServer, Connection, InMemoryGateway, Request, copied
from tests.virtual_time import VirtualLoop

Json = dict[str, Any]


class Api(Protocol):
    """The API server as its administrator."""

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        """Return the decoded answer."""
        ...


class Tier(Protocol):
    """An API server to test on."""

    api: Api

    def namespace(self) -> str:
        """Make a namespace that takes pods at once."""
        ...

    def forget(self, namespace: str) -> None:
        """Begin its deletion."""
        ...

    def talk(self, test: Callable[[Gateway], Awaitable[None]]) -> None:
        """Run a test with a gateway, in a loop of its own."""
        ...

    def expire_watches(self) -> None:
        """Let every watch from the beginning of time have expired, where that can be had."""
        ...


class RealTier:
    """A real API server."""

    def __init__(self, cluster: Cluster) -> None:
        self.api: Api = cluster.api
        self._cluster = cluster

    def namespace(self) -> str:
        name = f"contract-{uuid.uuid4().hex[:8]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.api.call("POST", "/api/v1/namespaces", body)
        accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
        self._cluster.wait_until(
            lambda: self.api.call("GET", accounts)["items"], "the default service account", 30
        )
        return name

    def forget(self, namespace: str) -> None:
        self.api.call("DELETE", f"/api/v1/namespaces/{namespace}")

    def talk(self, test: Callable[[Gateway], Awaitable[None]]) -> None:
        async def run() -> None:
            gateway = await Gateway.connect(kubeconfig=str(self._cluster.kubeconfig))
            try:
                await test(gateway)
            finally:
                await gateway.close()

        asyncio.run(run())

    def expire_watches(self) -> None:
        """Nobody tells a real one to forget."""


class SimulatedTier:
    """The API server in memory, alone: no scheduler and no kubelet touches what is stored."""

    def __init__(self) -> None:
        self.server = ApiServer()
        self.api: Api = self
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)

    def close(self) -> None:
        self._runner.close()

    def namespace(self) -> str:
        return "contract"

    def forget(self, namespace: str) -> None:
        """It is forgotten with all the rest."""

    def talk(self, test: Callable[[Gateway], Awaitable[None]]) -> None:
        async def run() -> None:
            await test(InMemoryGateway(Connection(self.server, "operator-1", lambda: None)))

        self._runner.run(run())

    def expire_watches(self) -> None:
        self._now(self._store("pods", {"metadata": {"namespace": "x", "name": "x"}}))
        self.server.oldest = self.server.version

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        return self._now(self._call(method, path, body))

    def _now(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Run a call that waits for nothing, in the test's loop or between two of its runs."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._runner.run(call)
        try:
            call.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the call waits for something")

    async def _store(self, plural: str, obj: Json) -> Json:
        return self.server.store(plural, obj)

    async def _call(self, method: str, path: str, body: Any) -> Any:
        request = Request.read(method, path, body)
        if path.endswith("/token"):
            return {"status": {"token": _token(request.namespace, body["spec"])}}
        if request.plural == "resourcequotas":
            self.server.quotas[request.namespace] = int(body["spec"]["hard"]["pods"])
            return body
        if method == "PATCH":
            key = request.plural, request.namespace, request.name
            known = self.server.objects[key]
            return self.server.store(request.plural, _merged(known, body))
        return self.server.handle(request)


def _merged(old: Json, patch: Json) -> Json:
    """Apply a JSON merge patch (RFC 7386)."""
    new = copied(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            new[name] = _merged(new.get(name) or {}, value)
        else:
            new[name] = value
    return new


def _token(namespace: str, spec: Json) -> str:
    pod = {one: spec["boundObjectRef"][one] for one in ("name", "uid")}
    claims = {"aud": spec["audiences"], "kubernetes.io": {"namespace": namespace, "pod": pod}}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{text}.signature"
