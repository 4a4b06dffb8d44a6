"""The probes say what is wrong, from the first moment on."""

import asyncio

import aiohttp

from goodput_operator.controller.http import HttpServer


async def get(server: HttpServer, path: str) -> tuple[int, str]:
    port = server._runner.addresses[0][1]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


def test_each_probe_names_what_is_wrong_with_it() -> None:
    async def test() -> None:
        server = HttpServer()
        await server.start("127.0.0.1", 0)
        try:
            assert await get(server, "/healthz") == (200, "ok\n")
            problem = "nodes have not been listed"
            server.ready["caches"] = lambda: problem
            assert await get(server, "/readyz") == (503, f"caches: {problem}\n")
            assert await get(server, "/healthz") == (200, "ok\n"), "alive all the same"
            problem = ""
            assert await get(server, "/readyz") == (200, "ok\n")
        finally:
            await server.stop()

    asyncio.run(test())


def test_the_metrics_come_when_there_is_something_to_count() -> None:
    async def test() -> None:
        server = HttpServer()
        await server.start("127.0.0.1", 0)
        try:
            assert (await get(server, "/metrics"))[0] == 503
            server.metrics = lambda: b"up 1\n"
            assert await get(server, "/metrics") == (200, "up 1\n")
        finally:
            await server.stop()

    asyncio.run(test())
