"""A steady stream of valid reports, so cheap that its maker does not stand in the way.

One thread, one connection for each agent, bytes that are made beforehand. A report that could
not be sent in time, as the one before it was not answered yet, waits; its latency counts from
the moment at which it was due, so that a server that stalls cannot hide it.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from goodput.protocol import SERVER_NAME, SYNC_PATH, Progress, Run, SyncRequest

from .agents import Seat

_LARGE = 10**9
"""Numbers begin here, so that they all have the same length."""
_DRAIN_SECONDS = 10.0


@dataclass(slots=True)
class _Line:
    """One agent's connection."""

    socket: ssl.SSLSocket
    head: bytes
    body: bytes
    sequence: int
    due: deque[float] = field(default_factory=deque)
    received: bytes = b""


class Load(threading.Thread):
    """Sends reports at a rate until `stop` is called, or for so many seconds.

    Attributes:
        answered: how many answers had which status.
        latencies: seconds, of the answered ones.
        trouble: why it broke off, None while all is well.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        context: ssl.SSLContext,
        *,
        per_second: float,
        seconds: float = 1e9,
        first_sequence: int = 0,
    ) -> None:
        super().__init__(daemon=True)
        self.answered: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.trouble: Exception | None = None
        self.sent = 0
        self.elapsed_seconds = 0.0
        self._gap = 1 / per_second
        self._seconds = seconds
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._lines = [_open(seat, context, first_sequence) for seat in seats]
        for line in self._lines:
            self._selector.register(line.socket, selectors.EVENT_READ, line)

    def stop(self) -> None:
        """Send no more, and wait for the answers that are due."""
        self._over.set()
        self.join()
        if self.trouble is not None:
            raise self.trouble

    def run(self) -> None:
        """Send and receive."""
        try:
            self._send_all()
        except Exception as error:  # noqa: BLE001 - told to whoever stops us
            self.trouble = error
        for line in self._lines:
            line.socket.close()

    def _send_all(self) -> None:
        began, number = time.perf_counter(), 0
        while not self._over.is_set():
            now = time.perf_counter()
            if now - began > self._seconds:
                break
            while (due := began + number * self._gap) <= now:
                line = self._lines[number % len(self._lines)]
                line.due.append(due)
                if len(line.due) == 1:
                    self._send(line)
                number += 1
            self._receive(min(0.2, max(0.0, due - time.perf_counter())))
        self.elapsed_seconds = time.perf_counter() - began
        end = time.perf_counter() + _DRAIN_SECONDS
        while any(line.due for line in self._lines) and time.perf_counter() < end:
            self._receive(0.1)
        missing = sum(len(line.due) for line in self._lines)
        if missing:
            raise TimeoutError(f"{missing} reports have had no answer")

    def _receive(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            line: _Line = key.data
            try:
                while True:
                    data = line.socket.recv(16_384)
                    if not data:
                        raise ConnectionError("the operator hung up")
                    line.received += data
            except ssl.SSLWantReadError:
                self._read(line)

    def _read(self, line: _Line) -> None:
        end = line.received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = int(line.received.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(line.received) < end + 4 + length:
            return
        self.answered[int(line.received[9:12])] += 1
        line.received = line.received[end + 4 + length :]
        self.latencies.append(time.perf_counter() - line.due.popleft())
        if line.due:
            self._send(line)

    def _send(self, line: _Line) -> None:
        line.sequence += 1
        now_ms = int(time.monotonic() * 1000) + _LARGE
        body = line.body % (line.sequence, now_ms, line.sequence, now_ms)
        line.socket.send(line.head + body)
        self.sent += 1


def _open(seat: Seat, context: ssl.SSLContext, first_sequence: int) -> _Line:
    plain = socket.create_connection(
        ("127.0.0.1", seat.operator_port), timeout=30, source_address=(seat.source, 0)
    )
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wrapped = context.wrap_socket(plain, server_hostname=SERVER_NAME)
    wrapped.setblocking(False)
    marks = (_LARGE + 1, _LARGE + 2, _LARGE + 3, _LARGE + 4)
    progress = Progress(
        sdk=True,
        first_step_at=_LARGE,
        step=marks[2],
        step_at=marks[3],
        step_milliseconds=1000,
    )
    text = SyncRequest(
        slot=seat.slot,
        incarnation=seat.incarnation,
        sequence=marks[0],
        sent_at=marks[1],
        address=seat.address,
        free_port=29_500,
        run=Run(attempt=1, started_at=_LARGE, alive=1, progress=progress),
    ).to_json()
    body = text
    for mark in marks:
        body = body.replace(b"%d" % mark, b"%d")
    head = (
        f"POST {SYNC_PATH} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n"
        f"Authorization: Bearer {seat.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return _Line(wrapped, head.encode(), body, _LARGE + first_sequence)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
