"""Many agents in one process: the real core of each, over real TLS connections.

The core decides everything (`goodput.agent.core`); this is its driver, as the supervisor is in
a pod, but for a thousand of them on one event loop and with imaginary training processes,
which start at once and die of any signal. They finish a step a second each by themselves, or
train together (`training`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any

from goodput import protocol
from goodput.agent import core
from goodput.agent.core import Core
from goodput.agent.settings import PROCESSES, Settings
from goodput.protocol import ProcessExit, SyncAnswer, SyncRequest, World

from .training import Training

SHORTEST_ROUND_SECONDS = 0.05
RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Seat:
    """Who an agent is, and where it calls.

    Attributes:
        source: the address it calls from; agents of one node share it.
    """

    slot: int
    incarnation: int
    address: str
    source: str
    token: str
    operator_port: int


class Connection:
    """One connection to the operator, opened on demand; one exchange at a time.

    OpenSSL works on the socket itself: asyncio's streams would cost a thousand agents of one
    process more than the operator spends on them, and be measured with it.
    """

    def __init__(self, seat: Seat, context: ssl.SSLContext) -> None:
        self._seat, self._context = seat, context
        self._socket: ssl.SSLSocket | None = None
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    async def exchange(self, request: SyncRequest) -> SyncAnswer:
        """Send a request and return its answer.

        Raises:
            OSError: there was none, or a refusal.
        """
        return SyncAnswer.from_json(await self.post(request.to_json()))

    async def post(self, body: bytes) -> bytes:
        """Send a request as it goes over the wire, and return its answer as it came.

        Raises:
            OSError: there was none, or a refusal.
        """
        head = (
            f"POST {protocol.SYNC_PATH} HTTP/1.1\r\nHost: {protocol.SERVER_NAME}\r\n"
            f"Authorization: Bearer {self._seat.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            if self._socket is None:
                self._socket = await self._open()
            self._answer = asyncio.get_running_loop().create_future()
            self._socket.send(head.encode() + body)  # what an agent says fits into any buffer
            return await self._answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cut it; the next exchange opens a new one."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket, self._received = None, b""

    async def _open(self) -> ssl.SSLSocket:
        loop = asyncio.get_running_loop()
        plain = socket.socket()
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.bind((self._seat.source, 0))
            await loop.sock_connect(plain, ("127.0.0.1", self._seat.operator_port))
            wrapped = self._context.wrap_socket(
                plain, server_hostname=protocol.SERVER_NAME, do_handshake_on_connect=False
            )
        except BaseException:
            plain.close()
            raise
        readable = asyncio.Event()
        loop.add_reader(wrapped, readable.set)
        try:
            while True:
                try:
                    wrapped.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    readable.clear()
                    await readable.wait()
        except BaseException:
            loop.remove_reader(wrapped)
            wrapped.close()
            raise
        loop.add_reader(wrapped, self._read)
        return wrapped

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(16 * 1024)
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(ConnectionError("the operator hung up"))
            return
        self._received += data
        head, end, text = self._received.partition(b"\r\n\r\n")
        if not end or len(text) < int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]):
            return
        self._received = b""
        if head.startswith(b"HTTP/1.1 200"):
            self._end(text)
        else:
            self._end(ConnectionError(f"{head[:12]!r} {text[:200]!r}"))

    def _end(self, outcome: bytes | OSError) -> None:
        """End the exchange that is under way; without one, whatever comes closes the connection."""
        waiting, self._answer = self._answer, None
        if waiting is None or waiting.done():
            self.close()
        elif isinstance(outcome, OSError):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)


@dataclass(slots=True)
class Agent:
    """One agent.

    Attributes:
        training: what its processes take part in; None: each goes on by itself.
        connected: set once the operator has answered it.
        confirmed: by attempt, when it first reported that its processes run; monotonic seconds.
        save_step: the step after which its processes have been asked to save.
        troubles: exchanges that failed.
        saves: its trainer says with each step that this is saved, too.
    """

    seat: Seat
    context: ssl.SSLContext
    training: Training | None = None
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    confirmed: dict[int, float] = field(default_factory=dict)
    save_step: int | None = None
    troubles: int = 0
    saves: bool = False
    _core: Core = field(init=False)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _held: bool = False
    _ranks: tuple[int, ...] = ()
    _step: int = 0
    _left: bool = False

    def __post_init__(self) -> None:
        seat = self.seat
        url = f"https://127.0.0.1:{seat.operator_port}"
        settings = Settings(seat.slot, seat.incarnation, seat.address, PROCESSES, url)
        self._core = Core(settings, _now(), "bench")
        self._core.port_found(29_500)

    async def run(self) -> None:
        """Poll and report until told to leave, or cancelled."""
        async with asyncio.TaskGroup() as group:
            urgent = group.create_task(self._send_urgent())
            await self._poll()
            urgent.cancel()

    async def _poll(self) -> None:
        connection, rounds_in_vain = Connection(self.seat, self.context), 0
        try:
            while not self._left:
                began = time.monotonic()
                self._go_on()
                self._hurry.clear()
                request = self._core.request(protocol.HOLD_SECONDS, _now())
                self._held = True
                # On the same connection until something fails, as the agent's link does.
                answer = await self._tried(connection, request)
                self._held = False
                if answer is None:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                self.connected.set()
                news = answer.revision != request.seen_revision
                rounds_in_vain = 0 if news else rounds_in_vain + 1
                rest = 0.0 if rounds_in_vain < 2 else min(5.0, 0.1 * 2**rounds_in_vain)
                pause = max(SHORTEST_ROUND_SECONDS, rest) - (time.monotonic() - began)
                if pause > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._hurry.wait(), pause)
        finally:
            connection.close()

    async def _send_urgent(self) -> None:
        connection = Connection(self.seat, self.context)
        try:
            while True:
                await self._hurry.wait()
                if self._held and self._hurry.is_set():  # else the poll has carried it
                    self._hurry.clear()
                    await self._tried(connection, self._core.request(0.0, _now()))
                await asyncio.sleep(SHORTEST_ROUND_SECONDS)
        finally:
            connection.close()

    async def _tried(self, connection: Connection, request: SyncRequest) -> SyncAnswer | None:
        if request.run is not None and request.run.started_at is not None:
            self.confirmed.setdefault(request.run.attempt, time.monotonic())
        try:
            answer = await connection.exchange(request)
        except (OSError, ValueError):
            self.troubles += 1
            return None
        self._carry_out(self._core.answered(answer, request.sequence, _now()))
        return answer

    def say(self, kind: str, **what: Any) -> None:
        """Tell the core what a training process says to its agent."""
        if self._ranks:
            said = {"kind": kind, "rank": self._ranks[0], "attempt": self._core.attempt}
            said |= {"at": time.monotonic(), **what}
            self._carry_out(self._core.heard(json.dumps(said).encode(), _now()))

    def _carry_out(self, commands: core.Commands) -> None:
        for command in commands:
            if isinstance(command, core.Start):
                self._start(command.world)
            elif isinstance(command, core.Publish):
                self.save_step = command.save_step
            elif isinstance(command, core.Signal):
                self._die(command.number)
            elif isinstance(command, core.Report):
                self._hurry.set()
            elif isinstance(command, core.Leave):
                self._left = True

    def _start(self, world: World) -> None:
        self._ranks = tuple(range(world.rank_offset, world.rank_offset + world.processes))
        for rank in self._ranks:
            self._carry_out(self._core.spawned(world.attempt, rank, _now()))
        if self.training is not None:
            self.training.join(self, world)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the training processes by a signal, as from outside."""
        self._die(number)
        self._hurry.set()

    def _die(self, number: int) -> None:
        ranks, self._ranks = self._ranks, ()
        if self.training is not None and ranks:
            self.training.left(self._core.attempt)
        for rank in ranks:
            end = ProcessExit(rank, _now(), 128 + number, number, signal.Signals(number).name)
            self._carry_out(self._core.exited(self._core.attempt, end, _now()))
        self._carry_out(self._core.emptied(_now()))

    def _go_on(self) -> None:
        """Say what a trainer by itself would have said since the last poll: that it goes on."""
        if self.training is None and self._ranks:
            self._step += 5
            self.say("step", step=self._step, milliseconds=1000)
            if self.saves and self._ranks[0] == 0:
                self.say("commit", step=self._step, step_at=time.monotonic())


def _now() -> int:
    return int(time.monotonic() * 1000)
