"""HTTPS for the agents: a strict and small part of HTTP/1.1 that carries one call.

Why not a web framework: a thousand agents hold a thousand connections and send 200 requests
a second for ever. Measured with the same handler behind asyncio's TLS 1.3 (Python 3.11),
aiohttp's low-level server takes a third more time per request and 10 KB more per held
connection. What makes this one safe is how little it accepts: one path, one method, a body of
known length, no transfer encoding, no folded or doubled headers; anything else is refused and
the connection closed.
"""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from goodput.protocol import MAX_REQUEST_BYTES, SYNC_PATH
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.replies import RefusedError, Reply
from goodput_operator.reports.tls import Channel

MAX_HEAD_BYTES = 16 * 1024
MAX_BUFFERED_BYTES = MAX_HEAD_BYTES + MAX_REQUEST_BYTES
TICK_SECONDS = 0.25
"""Polls are released, and slow senders dropped, in rounds: one round of fifty answers costs
half the processor time of fifty single timers."""
ACCEPT_AGAIN_SECONDS = 0.5

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


class _Connection:
    """One client: at most one request at a time, each with a deadline."""

    __slots__ = (
        "_buffer",
        "_busy",
        "_channel",
        "_head",
        "_keep_alive",
        "_known",
        "_peer",
        "_server",
        "deadline",
    )

    def __init__(self, server: "ReportServer", sock: socket.socket, peer: str) -> None:
        """Take over a connected socket. Raises OSError: it has been cut already."""
        self._server = server
        self._peer = peer
        self._buffer = b""
        self._head: Head | None = None
        self._known: tuple[bytes, Head] | None = None
        self._busy = False  # a request is with the handler
        self._keep_alive = True
        self.deadline = server.time() + server.limits.handshake_seconds
        self._channel = Channel(sock, server.context, self, server.loop)

    def established(self) -> None:
        self.deadline = self._server.time() + self._server.limits.request_seconds

    def lost(self) -> None:
        self._server.leave(self, self._peer)

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
        """Close it once the client has taken in the last answer."""
        self._keep_alive, self._buffer = False, b""
        self.deadline = self._server.time() + self._server.limits.drain_seconds
        self._channel.finish()

    def abort(self) -> None:
        """Cut it off."""
        self._channel.abort()

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
        if self._channel.closed:
            return
        limits, now = self._server.limits, self._server.time()
        self.deadline = now + (limits.drain_seconds if drain else limits.idle_seconds)
        self._channel.write(render(reply, self._keep_alive))
        if not drain and not self._keep_alive:
            self.close()
        elif self._buffer:
            self._server.loop.call_soon(self._read)


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
        self.context = context
        self.context.num_tickets = 0  # agents keep their connections; nobody resumes a session
        self.connections: set[_Connection] = set()
        self._peers: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._listener: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listener is not None
        return int(self._listener.getsockname()[1])

    async def start(self, host: str | None, port: int) -> None:
        """Listen; `host` None means every address, port 0 any free one. Raises OSError."""
        self.loop = asyncio.get_running_loop()
        self.time: Callable[[], float] = self.loop.time
        both = host is None and socket.has_dualstack_ipv6()
        self._listener = socket.create_server(
            (host or "", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            backlog=1024,
            dualstack_ipv6=both,
        )
        self._listener.setblocking(False)
        self._tasks = [
            self.loop.create_task(self._accept(self._listener)),
            self.loop.create_task(self._tick()),
        ]

    async def stop(self, timeout_seconds: float = 2.0) -> None:
        """Take no more connections, answer whoever waits, and close."""
        if self._listener is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        await self.handler.close()
        for connection in list(self.connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            if self.connections:
                await asyncio.wait_for(self._empty.wait(), timeout_seconds)
        for connection in list(self.connections):
            connection.abort()

    def leave(self, connection: _Connection, peer: str) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        if not self.connections:
            self._empty.set()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = await self.loop.sock_accept(listener)
            except OSError as error:
                # The client has gone again, or we have no more files: it may pass.
                logger.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            try:
                self._take(sock, str(address[0]))
            except OSError:  # it has been cut already
                sock.close()
            except Exception:  # of one connection; the others must still be accepted
                logger.exception("a connection could not be served")
                sock.close()

    def _take(self, sock: socket.socket, peer: str) -> None:
        """Serve a new connection, unless there are too many. Raises OSError: it is cut already."""
        limits = self.limits
        if (
            len(self.connections) >= limits.connections
            or self._peers[peer] >= limits.connections_per_peer
        ):
            self.handler.results["TooManyConnections"] += 1
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.add(_Connection(self, sock, peer))
        self._peers[peer] += 1
        self._empty.clear()

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
