"""The plain HTTP port: is this replica alive, is it ready, what does it count."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

Check = Callable[[], str]
"""Returns what is wrong, in words; empty when all is well."""
Answer = Callable[[web.Request], Awaitable[web.Response]]


class HttpServer:
    """Serves three pages without TLS, from the first moment of the process on.

    Attributes:
        alive: the checks of /healthz; a problem means that only a restart can help.
        ready: those of /readyz; a problem means that this replica could not lead now. A
            standby is ready, too: it sends agents on.
        metrics: makes the page of /metrics; None while there is nothing to count yet.
        metrics_type: its content type.
    """

    def __init__(self) -> None:
        self.alive: dict[str, Check] = {}
        self.ready: dict[str, Check] = {}
        self.metrics: Callable[[], bytes] | None = None
        self.metrics_type = "text/plain"
        app = web.Application()
        app.router.add_get("/healthz", _answering(self.alive))
        app.router.add_get("/readyz", _answering(self.ready))
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self, host: str | None, port: int) -> None:
        """Listen; OSError if the address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        """Close the port and all connections."""
        await self._runner.cleanup()

    async def _show_metrics(self, _: web.Request) -> web.Response:
        if self.metrics is None:
            return web.Response(text="starting\n", status=503)
        return web.Response(body=self.metrics(), headers={"Content-Type": self.metrics_type})


def _answering(checks: Mapping[str, Check]) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        problems = [f"{name}: {text}" for name, check in checks.items() if (text := check())]
        lines = problems or ["ok"]
        return web.Response(text="\n".join(lines) + "\n", status=503 if problems else 200)

    return answer
