"""HTTPS for the agents: a strict and small part of HTTP/1.1 that carries one call.

Why not a web framework: a thousand agents hold a thousand connections and send 200 requests
a second for ever. Measured with the same handler behind TLS 1.3 (Python 3.11), aiohttp's
low-level server takes a third more time per request and 10 KB more per held connection
(45 KB). What makes this one safe is how little it accepts: one path, one method, a body of
known length, no transfer encoding, no folded or doubled headers; anything else is refused and
the connection closed.
"""

import asyncio
import contextlib
import logging
import math
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from goodput.protocol import MAX_REQUEST_BYTES, SYNC_PATH
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.replies import RefusedError, Reply

MAX_HEAD_BYTES = 16 * 1024
MAX_BUFFERED_BYTES = MAX_HEAD_BYTES + MAX_REQUEST_BYTES
TICK_SECONDS = 0.25
"""Polls are released, and slow senders dropped, in rounds: one round of fifty answers costs
half the processor time of fifty single timers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, and how many there may be.

    Attributes:
        request_seconds: from the first byte of a request (or the connection) to its last.
        idle_seconds: between two requests of a connection.
        drain_seconds: for a refused sender to read the answer before it is cut off.
        connections: in all; further ones are closed before their handshake.
        connections_per_peer: of one address; a node may hide all its pods behind its own.
        handshake_seconds: for TLS to be agreed on.
    """

    handshake_seconds: float = 10.0
    request_seconds: float = 10.0
    idle_seconds: float = 75.0
    drain_seconds: float = 2.0
    connections: int = 30_000
    connections_per_peer: int = 2_048


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request says, as far as we care."""

    body_bytes: int
    token: str
    keep_alive: bool


def parse_head(head: bytes) -> Head:
    """Read the request line and the headers, without the empty line that ends them.

    Raises:
        RefusedError: it is not a request that we serve.
    """
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or name in headers:
            raise RefusedError(400, "BadRequest", "a header line is malformed or doubled")
        headers[name] = value.strip()
    _check_request_line(request_line)
    if "transfer-encoding" in headers:
        raise RefusedError(400, "BadRequest", "transfer encodings are not served")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return Head(
        body_bytes=_body_bytes(headers.get("content-length")),
        token=token.strip() if scheme.lower() == "bearer" else "",
        keep_alive=headers.get("connection", "").lower() != "close",
    )


def _check_request_line(line: str) -> None:
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version != "HTTP/1.1":
        raise RefusedError(400, "BadRequest", "HTTP/1.1 is wanted")
    if target != SYNC_PATH:
        raise RefusedError(404, "NotFound", "there is nothing here")
    if method != "POST":
        raise RefusedError(405, "MethodNotAllowed", "POST is wanted")


def _body_bytes(length: str | None) -> int:
    if length is None:
        raise RefusedError(411, "LengthRequired", "a Content-Length is wanted")
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise RefusedError(400, "BadRequest", "the Content-Length is not a number")
    if int(length) > MAX_REQUEST_BYTES:
        raise RefusedError(413, "TooLarge", f"at most {MAX_REQUEST_BYTES} bytes are wanted")
    return int(length)


_EXTRA_HEADERS = {401: "WWW-Authenticate: Bearer\r\n", 405: "Allow: POST\r\n"}


def render(reply: Reply, keep_alive: bool) -> bytes:
    """Return the reply as HTTP/1.1."""
    head = (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(reply.body)}\r\n"
        f"{_EXTRA_HEADERS.get(reply.status, '')}"
    )
    if reply.retry_after_seconds:
        head += f"Retry-After: {reply.retry_after_seconds}\r\n"
    if not keep_alive:
        head += "Connection: close\r\n"
    return f"{head}\r\n".encode() + reply.body


class _Connection(asyncio.Protocol):
    """One client: at most one request at a time, each with a deadline."""

    __slots__ = (
        "_buffer",
        "_busy",
        "_head",
        "_keep_alive",
        "_known",
        "_peer",
        "_server",
        "_transport",
        "deadline",
    )

    def __init__(self, server: "ReportServer") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._buffer = b""
        self._head: Head | None = None
        self._known: tuple[bytes, Head] | None = None
        self._busy = False  # a request is with the handler
        self._keep_alive = True
        self.deadline = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = _address(transport)
        self.deadline = self._server.time() + self._server.limits.request_seconds
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._server.connections.discard(self)

    def pause_writing(self) -> None:
        """A client that does not read what it asked for is cut off."""
        self.abort()

    def data_received(self, data: bytes) -> None:
        if not self._keep_alive:
            return  # the rest of a request that has been refused
        if not (self._buffer or self._head or self._busy):
            self.deadline = self._server.time() + self._server.limits.request_seconds
        self._buffer += data
        if not self._busy:
            self._read()
        elif len(self._buffer) > MAX_BUFFERED_BYTES:
            self.abort()

    def close(self) -> None:
        """Close it once the last answer has been written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut it off."""
        if self._transport is not None:
            self._transport.abort()

    def _read(self) -> None:
        try:
            head = self._head = self._head or self._read_head()
            if head is None or len(self._buffer) < head.body_bytes:
                return
            self._keep_alive = head.keep_alive
            body, self._buffer = self._buffer[: head.body_bytes], self._buffer[head.body_bytes :]
            self._head, self._busy, self.deadline = None, True, math.inf
            self._server.handler.receive(head.token, self._peer, body, self._respond)
        except RefusedError as refusal:
            self._give_up(refusal)
        except Exception:
            logger.exception("a request failed")
            self._give_up(RefusedError(500, "InternalError", "the operator failed"))

    def _read_head(self) -> Head | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise RefusedError(431, "TooLarge", "the head of the request is too large")
        if end < 0:
            return None
        text, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        if self._known is None or self._known[0] != text:  # an agent's next is nearly always alike
            self._known = text, parse_head(text)
        return self._known[1]

    def _give_up(self, refusal: RefusedError) -> None:
        """Refuse what cannot be read on from; its sender may still be sending."""
        self._keep_alive, self._buffer = False, b""
        self._server.handler.results[refusal.result] += 1
        self._respond(refusal.reply(), drain=True)

    def _respond(self, reply: Reply, drain: bool = False) -> None:
        self._busy = False
        if self._transport is None or self._transport.is_closing():
            return
        limits, now = self._server.limits, self._server.time()
        self._transport.write(render(reply, self._keep_alive))
        if drain:
            self.deadline = now + limits.drain_seconds
        elif not self._keep_alive:
            self.close()
        else:
            self.deadline = now + limits.idle_seconds
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._read)


class _Tls(SSLProtocol):
    """TLS of one connection, with a buffer of our messages' size.

    asyncio's own holds 256 KiB for each connection, whatever it carries.
    """

    max_size = 4 * 1024

    def __init__(
        self, server: "ReportServer", app_protocol: asyncio.Protocol, *args: Any, **kwargs: Any
    ) -> None:
        self._server = server
        self._peer: str | None = None
        super().__init__(server.loop, app_protocol, *args, **kwargs)

    def connection_made(self, transport: Any) -> None:
        peer = _address(transport)
        if self._server.admit(peer):
            self._peer = peer
            super().connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._peer is not None:
            self._server.leave(self._peer)
        super().connection_lost(exc)


class ReportServer:
    """Listens for agents until stopped.

    Args:
        handler: decides what each request is answered.
        context: a server context with a certificate for `protocol.SERVER_NAME`. New
            connections use what it has loaded by then, so certificates rotate in place.
    """

    def __init__(
        self, handler: SyncHandler, context: ssl.SSLContext, limits: Limits = Limits()
    ) -> None:
        self.handler = handler
        self.limits = limits
        self.connections: set[_Connection] = set()
        self._context = context
        self._context.num_tickets = 0  # agents keep their connections; nobody resumes a session
        self._peers: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listener is not None
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self, host: str | None, port: int) -> None:
        """Listen; `host` None means every address, port 0 any free one. Raises OSError."""
        self.loop = asyncio.get_running_loop()
        self.time: Callable[[], float] = self.loop.time
        self._listener = await self.loop.create_server(
            self._accept, host, port, backlog=1024, reuse_address=True
        )
        self._ticker = self.loop.create_task(self._tick())

    async def stop(self, timeout_seconds: float = 2.0) -> None:
        """Take no more connections, answer whoever waits, and close."""
        if self._listener is None or self._ticker is None:
            return
        self._listener.close()
        self._ticker.cancel()
        await self.handler.close()
        for connection in list(self.connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            if self._peers:
                await asyncio.wait_for(self._empty.wait(), timeout_seconds)
        for connection in list(self.connections):
            connection.abort()

    def admit(self, peer: str) -> bool:
        """Count a connection in, unless there are too many."""
        limits = self.limits
        if (
            self._peers.total() >= limits.connections
            or self._peers[peer] >= limits.connections_per_peer
        ):
            self.handler.results["TooManyConnections"] += 1
            return False
        self._peers[peer] += 1
        self._empty.clear()
        return True

    def leave(self, peer: str) -> None:
        """Count a connection out."""
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        if not self._peers:
            self._empty.set()

    def _accept(self) -> _Tls:
        return _Tls(
            self,
            _Connection(self),
            self._context,
            None,
            server_side=True,
            ssl_handshake_timeout=self.limits.handshake_seconds,
            ssl_shutdown_timeout=self.limits.drain_seconds,
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                # Rather a moment early than late: the agent counts on its own time-out.
                self.handler.expire(timedelta(seconds=TICK_SECONDS))
            except Exception:
                logger.exception("polls could not be released")
            now = self.time()
            for connection in [one for one in self.connections if one.deadline < now]:
                connection.abort()


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
