"""The proxy does to a request what its plan says, and nothing to any other."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.faultproxy.proxy import Fault, FaultProxy, Harm, essence

STATUS = "/apis/goodput.training/v1alpha1/namespaces/here/trainingjobs/job/status"
PODS = "/api/v1/pods"
NO_ANSWER = 0
POINT = "status-1.Running-Running@1"


class Bench:
    """An API server that remembers what it was asked, and a client behind the proxy."""

    def __init__(self, proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
        self.proxy = proxy
        self.kills = 0
        self.asked: list[str] = []
        self.events = asyncio.Queue[Any]()
        self._client = client

    async def kill(self) -> None:
        self.kills += 1

    async def call(self, method: str, path: str, body: Any = None) -> int:
        """Return the status, `NO_ANSWER` when the connection was cut."""
        url = f"http://127.0.0.1:{self.proxy.port}{path}"
        try:
            async with self._client.request(method, url, json=body) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return NO_ANSWER

    async def write(self, state: str = "Running", step: int = 1) -> int:
        attempt = {"number": 1, "state": state}
        status = {"phase": state, "attempt": attempt, "progress": {"step": step}}
        return await self.call(
            "PUT", STATUS, {"metadata": {"resourceVersion": "7"}, "status": status}
        )

    async def watch(self, path: str) -> AsyncIterator[Any]:
        url = f"http://127.0.0.1:{self.proxy.port}{path}?watch=1&resourceVersion=9"
        async with self._client.get(url) as answer:
            async for line in answer.content:
                yield json.loads(line)

    async def upstream(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}})
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def bench(harm: Harm) -> AsyncIterator[Bench]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        session._retry_connection = False  # it would repeat a PUT by itself
        app = web.Application()
        runner = web.AppRunner(app)
        proxy = FaultProxy(session, "http://nowhere", "lane")
        made = Bench(proxy, session)
        app.router.add_route("*", "/{path:.*}", made.upstream)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy._server = f"http://{host}:{port}"
        await proxy.open(None)
        proxy.attach("here", harm, made.kill, lambda: None)
        await proxy.begin()
        try:
            yield made
        finally:
            await proxy.close()
            await runner.cleanup()


def play(harm: Harm, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        async with bench(harm) as made:
            await asyncio.wait_for(story(made), 20)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "answer", "writes_done", "kills"),
    [
        (Fault.CRASH_BEFORE, NO_ANSWER, 0, 1),
        (Fault.CRASH_AFTER, NO_ANSWER, 1, 1),
        (Fault.ANSWER_LOST, NO_ANSWER, 1, 0),
        (Fault.INTERNAL_ERROR, 500, 0, 0),
        (Fault.UNAVAILABLE, 503, 0, 0),
        (Fault.TOO_MANY, 429, 0, 0),
    ],
)
def test_a_fault_happens_once_at_its_write(
    fault: Fault, answer: int, writes_done: int, kills: int
) -> None:
    async def story(made: Bench) -> None:
        assert await made.write("Starting") == 200
        assert await made.write() == answer
        done = [one for one in made.asked if one.startswith("PUT")]
        assert (len(done), made.kills, made.proxy.fired) == (1 + writes_done, kills, 1)
        assert await made.write("Stopping") == 200

    play(Harm(fault, POINT), story)


def test_a_write_can_be_meant_by_its_position() -> None:
    async def story(made: Bench) -> None:
        assert await made.write("Starting") == 200
        assert await made.write("Anything") == 503
        assert await made.write("Stopping") == 200

    play(Harm(Fault.UNAVAILABLE, position=2), story)


def test_a_conflict_is_a_real_one_because_somebody_else_writes_first() -> None:
    async def story(made: Bench) -> None:
        await made.write()
        assert [one.split()[0] for one in made.asked] == ["PATCH", "PUT"]

    play(Harm(Fault.CONFLICT, POINT), story)


def test_a_plan_whose_write_never_comes_has_not_fired() -> None:
    async def story(made: Bench) -> None:
        assert await made.write("Starting") == 200
        assert made.proxy.fired == 0

    play(Harm(Fault.CRASH_BEFORE, POINT), story)


def test_numbers_that_move_on_are_no_decision() -> None:
    async def story(made: Bench) -> None:
        await made.write(step=1)
        await made.write(step=2)
        assert [write.point for write in made.proxy.writes] == [POINT, "flush@1"]

    play(Harm(), story)


def test_an_operator_sees_one_namespace_only() -> None:
    async def story(made: Bench) -> None:
        await made.call("GET", PODS)
        await made.call("GET", "/api/v1/nodes")
        assert made.asked == [
            "GET /api/v1/namespaces/here/pods",
            "GET /api/v1/nodes?labelSelector=goodput.test%2Flane%3Dlane",
        ]

    play(Harm(), story)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("DELETE", f"{PODS}/a", {}, id="a deletion without the UID"),
        pytest.param("PUT", STATUS, {"metadata": {}}, id="an update of whatever is there"),
        pytest.param("PATCH", f"{PODS}/a", {}, id="a patch"),
        pytest.param("POST", PODS, {"metadata": {"name": "a"}}, id="a pod without an owner"),
    ],
)
def test_a_write_that_could_hit_the_wrong_object_is_a_violation(
    method: str, path: str, body: Any
) -> None:
    async def story(made: Bench) -> None:
        await made.call(method, path, body)
        assert len(made.proxy.violations) == 1

    play(Harm(), story)


def test_a_watch_that_is_gone_says_so_in_place_of_an_event() -> None:
    async def story(made: Bench) -> None:
        made.events.put_nowait({"type": "ADDED", "object": {}})
        seen = [event async for event in made.watch(PODS)]
        assert [event["object"].get("code") for event in seen] == [410]
        assert made.proxy.fired == 1
        made.events.put_nowait(None)

    play(Harm(Fault.WATCH_GONE, "pods"), story)


def test_a_watch_that_is_cut_tells_nothing_and_stays_away_for_a_moment() -> None:
    async def story(made: Bench) -> None:
        made.events.put_nowait({"type": "ADDED", "object": {}})
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                _ = [event async for event in made.watch(PODS)]
        assert made.proxy.fired == 1
        made.events.put_nowait(None)

    play(Harm(Fault.WATCH_CUT, "pods"), story)


def test_lists_are_old_after_a_crash_and_only_once() -> None:
    async def story(made: Bench) -> None:
        await made.call("GET", PODS)
        await made.proxy.begin()
        await made.write()
        before = len(made.asked)
        assert await made.call("GET", PODS) == 200
        assert len(made.asked) == before, "the API server was asked"
        assert await made.call("GET", PODS) == 200
        assert len(made.asked) == before + 1
        assert (made.kills, made.proxy.fired) == (1, 1)

    play(Harm(Fault.STALE_LISTS, POINT), story)


def test_the_essence_of_a_status_has_no_numbers_and_no_words() -> None:
    condition = {"type": "Running", "status": "True", "reason": "R", "message": "1 of 2"}
    one = {"phase": "Running", "ledger": {"productive": 1}, "conditions": [condition]}
    other = {**one, "ledger": {}, "conditions": [{**condition, "message": "2 of 2"}]}
    assert essence(one) == essence(other)
    assert essence(one) != essence({**one, "phase": "Failed"})
