"""The connection to the operator: one held poll, and a second connection for what is urgent.

Whatever goes wrong here – no route, a bad certificate, a cut answer, garbage, a refusal – means
"try again": the training processes never notice. Both connections go to the address that the
service resolves to, or to the leader that a standby named; the certificate must carry
`protocol.SERVER_NAME` in either case.
"""

import contextlib
import http.client
import random
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Callable, Deque, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from goodput import protocol
from goodput.protocol import Misdirected, ProtocolError, SyncAnswer, SyncRequest

CONNECT_SECONDS = 2.0
"""How long a TCP connection may take. The Service may still lead to a replica whose node is gone:
another try may find the other one, which no longer wait would."""
HANDSHAKE_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""How long an answer may take, beyond the time for which it is held."""
DEAD_PATH_SECONDS = 5
"""A connection on which nothing has been acknowledged for so long is dead. Without this a path
that swallows packets, as a flushed connection table does, silences a healthy worker for as long
as an answer may take, and the operator would take it for lost."""
IDLE_SECONDS = 30.0
"""A connection that has been idle for longer is not trusted: a firewall may have dropped it."""
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 60.0
SHORTEST_ROUND_SECONDS = 0.05
STARTING_SECONDS = 0.1
"""How long the next poll waits for the word that the processes, which it was told to start, run."""
URGENT_BURST, URGENT_WINDOW_SECONDS = 8, 2.5
"""So many urgent requests in such a time, and no more: a trainer that commits at every step
must not use up what the operator allows a pod."""
MAX_ANSWER_BYTES = 1024 * 1024

_CLOSED = (ConnectionError, http.client.BadStatusLine, ssl.SSLEOFError, ssl.SSLZeroReturnError)

Build = Callable[[float], SyncRequest]
Deliver = Callable[[SyncAnswer, int], None]


class Address(NamedTuple):
    """Where to connect to."""

    host: str
    port: int


class Heard(NamedTuple):
    """What came of an exchange.

    Attributes:
        news: something was new, the answer or our own words.
        started: it has told us to run what we did not run before.
    """

    news: bool
    started: bool


class Unanswered(Exception):  # noqa: N818 - an outcome, not an error
    """No answer came, for this reason; the same request may be sent again.

    Attributes:
        retry_after_seconds: the server's own wish, None when it has none.
        redirected: the request went to a standby, which named the leader.
        too_large: the request was refused for its size.
    """

    def __init__(
        self,
        reason: str,
        retry_after_seconds: Optional[float] = None,
        redirected: bool = False,
        too_large: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
        self.redirected = redirected
        self.too_large = too_large


@dataclass(frozen=True)
class Credentials:
    """Files that are replaced while we run, so they are read anew each time."""

    token_path: str = protocol.TOKEN_PATH
    ca_path: str = protocol.CA_PATH

    def token(self) -> str:
        """Return the bearer token. Raises OSError."""
        with open(self.token_path) as file:
            return file.read().strip()

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts the operator's CA alone. Raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with open(self.ca_path) as file:
            context.load_verify_locations(cadata=file.read())
        return context


class Route:
    """Where the operator is: its service, or the leader that a standby has named."""

    def __init__(self, url: str) -> None:
        """Begin at the service.

        Raises:
            ValueError: `url` is not `https://host[:port]`.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("{!r} is not https://host[:port]".format(url))
        self._service = Address(parts.hostname, parts.port or 443)
        self._leader: Optional[Address] = None

    def current(self) -> Address:
        """Return where to connect to now."""
        return self._leader or self._service

    def misdirected(self, leader: str) -> bool:
        """Follow a standby's `host:port`; return False when it does not lead anywhere new."""
        before = self.current()
        host, _, port = leader.rpartition(":")
        number = int(port) if port.isdigit() and len(port) <= 5 else 0
        known = bool(host) and 0 < number < 2**16
        self._leader = Address(host.strip("[]"), number) if known else None
        return known and self.current() != before

    def failed(self, address: Address) -> None:
        """Go back to the service when the leader cannot be reached."""
        if address == self._leader:
            self._leader = None


def notice_dead_paths(connection: socket.socket) -> None:
    """Have the kernel end a connection `DEAD_PATH_SECONDS` after its path has died.

    Probes do it while we wait for an answer, the user time-out (RFC 5482) while we send. A
    sandbox whose kernel has no such option does without.
    """
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, DEAD_PATH_SECONDS - 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PATH_SECONDS * 1000),
    ):
        with contextlib.suppress(OSError):
            connection.setsockopt(level, option, value)


class _Tls(http.client.HTTPSConnection):
    """HTTPS to an address under the one name of the operator."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self._credentials = credentials
        self._unsent = b""
        super().__init__(address.host, address.port, timeout=HANDSHAKE_SECONDS)

    def send(self, data: Any) -> None:
        """Keep a part of the request until all of it is there.

        Head and body in one TLS record wake the operator once, not twice.
        """
        self._unsent += data

    def getresponse(self) -> http.client.HTTPResponse:
        request, self._unsent = self._unsent, b""
        self.sock.sendall(request)
        return super().getresponse()

    def connect(self) -> None:
        context = self._credentials.context()
        plain = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        try:
            plain.settimeout(self.timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_dead_paths(plain)
            self.sock = context.wrap_socket(plain, server_hostname=protocol.SERVER_NAME)
        except BaseException:
            plain.close()
            raise


class Connection:
    """One connection to the operator, opened on demand and used by one thread."""

    def __init__(self, route: Route, credentials: Credentials) -> None:
        self._route = route
        self._credentials = credentials
        self._http: Optional[_Tls] = None
        self._address: Optional[Address] = None
        self._used_at = 0.0

    def exchange(self, body: bytes, hold_seconds: float) -> SyncAnswer:
        """Send one request and return the answer.

        Raises:
            Unanswered: whatever prevented it.
        """
        address = self._route.current()
        idle = time.monotonic() - self._used_at > IDLE_SECONDS
        if self._http is not None and (address != self._address or idle):
            self.close()
        reused = self._http is not None
        try:
            try:
                status, headers, text = self._round_trip(address, body, hold_seconds)
            except _CLOSED:
                if not reused:  # else it was closed while it lay idle: no reason to wait
                    raise
                self.close()
                status, headers, text = self._round_trip(address, body, hold_seconds)
        # What http.client raises on garbage is not limited to its own exceptions.
        except Exception as error:
            self.close()
            self._route.failed(address)
            raise Unanswered("{}: {}".format(address.host, _one_line(error))) from error
        self._used_at = time.monotonic()
        return self._read(status, headers, text)

    def close(self) -> None:
        """Close it; the next exchange opens a new one."""
        if self._http is not None:
            self._http.close()
        self._http = None

    def _round_trip(
        self, address: Address, body: bytes, hold_seconds: float
    ) -> Tuple[int, http.client.HTTPMessage, bytes]:
        if self._http is None:
            self._http = _Tls(address, self._credentials)
            self._address = address
            self._http.connect()
        self._http.sock.settimeout(hold_seconds + ANSWER_SECONDS)
        headers = {
            "Authorization": "Bearer " + self._credentials.token(),
            "Content-Type": "application/json",
            "Host": protocol.SERVER_NAME,
        }
        self._http.request("POST", protocol.SYNC_PATH, body, headers)
        response = self._http.getresponse()
        deadline = time.monotonic() + ANSWER_SECONDS
        text = b""
        while True:
            piece = response.read(MAX_ANSWER_BYTES + 1 - len(text))
            text += piece
            if not piece:
                break
            if len(text) > MAX_ANSWER_BYTES:
                raise ValueError("the answer is too long")
            if time.monotonic() > deadline:
                raise socket.timeout("the answer does not end")
        if response.will_close or not response.isclosed():
            self.close()
        return response.status, response.headers, text

    def _read(self, status: int, headers: http.client.HTTPMessage, text: bytes) -> SyncAnswer:
        try:
            if status == http.client.OK:
                return SyncAnswer.from_json(text)
            if status == http.client.MISDIRECTED_REQUEST:
                leader = Misdirected.from_json(text).leader
                redirected = self._route.misdirected(leader)
                raise Unanswered("a standby answered", redirected=redirected)
        except ProtocolError as error:
            self.close()
            raise Unanswered("the answer is not understood: {}".format(error)) from error
        raise Unanswered(
            "the operator answered {}".format(status),
            retry_after_seconds=_retry_after(headers.get("Retry-After")),
            too_large=status == http.client.REQUEST_ENTITY_TOO_LARGE,
        )


class Link:
    """Keeps the operator informed and hands its answers over, on two threads of its own.

    Args:
        build: returns the next request, held for so many seconds; asked just before sending.
        deliver: takes an answer and the sequence number of its request.
        trouble: told why an exchange failed, and "" when one has succeeded.
    """

    def __init__(
        self,
        route: Route,
        credentials: Credentials,
        build: Build,
        deliver: Deliver,
        trouble: Callable[[str], None],
    ) -> None:
        self._route = route
        self._credentials = credentials
        self._build = build
        self._deliver = deliver
        self._trouble = trouble
        self._limit_bytes = protocol.MAX_REQUEST_BYTES
        self._changed = threading.Condition()
        self._urgent = False  # there is news that no request has carried yet
        self._polling = False  # a request is under way that was built before the news
        self._newest_sequence = 0
        self._stopped = False

    def start(self) -> None:
        """Begin to poll."""
        for loop in (self._poll, self._send_urgent):
            name = "link" + loop.__name__
            threading.Thread(target=self._connected, args=(loop,), name=name, daemon=True).start()

    def hurry(self) -> None:
        """Have the present state sent at once, unless a request built from now on carries it."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def farewell(self, request: SyncRequest, timeout_seconds: float) -> None:
        """Send a last report; return when it is answered, or after this time."""

        def send(connection: Connection) -> None:
            for attempt in range(3):
                try:
                    connection.exchange(fit(request, self._limit_bytes), 0.0)
                except Unanswered:
                    time.sleep(backoff_seconds(attempt, _chance()))
                else:
                    return

        thread = threading.Thread(
            target=self._connected, args=(send,), name="farewell", daemon=True
        )
        thread.start()
        thread.join(timeout_seconds)

    def _connected(self, loop: Callable[[Connection], None]) -> None:
        connection = Connection(self._route, self._credentials)
        try:
            loop(connection)
        finally:
            connection.close()

    def _poll(self, connection: Connection) -> None:
        failures = empty_rounds = 0
        while not self._stopped:
            began = time.monotonic()
            try:
                heard = self._exchange(connection, protocol.HOLD_SECONDS, polling=True)
            except Unanswered as outcome:
                self._trouble(str(outcome))
                self._rest(outcome, failures)
                failures += 1
                continue
            self._trouble("")
            failures = 0
            empty_rounds = 0 if heard.news else empty_rounds + 1
            if heard.started:
                # That the processes run is worth no request of its own, nor a second poll.
                self._wait(STARTING_SECONDS, or_news=True)
            # An answer without news should have been held; do not circle if it was not.
            elapsed = time.monotonic() - began
            self._wait(SHORTEST_ROUND_SECONDS - elapsed)
            self._wait(_round_seconds(empty_rounds) - elapsed, or_news=True)

    def _send_urgent(self, connection: Connection) -> None:
        """Send what is urgent while the poll is held; between polls the next one carries it."""
        failures = 0
        sent_at: Deque[float] = deque(maxlen=URGENT_BURST)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or (self._urgent and self._polling))
            if self._stopped:
                return
            try:
                self._exchange(connection, 0.0)
            except Unanswered as outcome:
                self._rest(outcome, failures)
                failures += 1
                self.hurry()
            else:
                failures = 0
                sent_at.append(time.monotonic())
                self._wait(SHORTEST_ROUND_SECONDS)
                if len(sent_at) == URGENT_BURST:
                    self._wait(sent_at[0] + URGENT_WINDOW_SECONDS - time.monotonic())

    def _rest(self, outcome: Unanswered, failures: int) -> None:
        if outcome.redirected and failures == 0:
            return
        if outcome.retry_after_seconds is not None:
            self._wait(outcome.retry_after_seconds)
        else:
            # The first pause is short enough for urgent news; a later one is cut short by it.
            self._wait(min(SHORTEST_ROUND_SECONDS, backoff_seconds(failures, _chance())))
            self._wait(backoff_seconds(failures, _chance()), or_news=True)

    def _wait(self, seconds: float, or_news: bool = False) -> None:
        if seconds > 0:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or (or_news and self._urgent), timeout=seconds
                )

    def _exchange(
        self, connection: Connection, hold_seconds: float, polling: bool = False
    ) -> Heard:
        """Do one exchange. The operator lets a held poll go when we send something newer."""
        try:
            with self._changed:
                self._urgent = False
            request = self._build(hold_seconds)
            self._newest_sequence = max(self._newest_sequence, request.sequence)
            if polling:
                self._set_polling(True)
            answer = connection.exchange(fit(request, self._limit_bytes), hold_seconds)
            self._deliver(answer, request.sequence)
        except Unanswered as outcome:
            if outcome.too_large:
                self._limit_bytes = max(self._limit_bytes // 2, 4096)
            raise
        except Exception as error:  # a thread that dies would be silent for ever
            raise Unanswered("internal error: " + _one_line(error)) from error
        finally:
            if polling:
                self._set_polling(False)
        overtaken = request.sequence < self._newest_sequence
        told = answer.revision != request.seen_revision
        return Heard(news=overtaken or told, started=told and answer.kind == protocol.RUN)

    def _set_polling(self, polling: bool) -> None:
        with self._changed:
            self._polling = polling
            self._changed.notify_all()


def fit(request: SyncRequest, limit_bytes: int) -> bytes:
    """Return the request as JSON, with less evidence where it would be too long."""
    body = request.to_json()
    while len(body) > limit_bytes and request.run is not None and request.run.exits:
        exits = request.run.exits
        if any(end.last_lines for end in exits):
            exits = tuple(
                replace(end, last_lines=end.last_lines[(len(end.last_lines) + 1) // 2 :])
                for end in exits
            )
        else:
            exits = exits[:-1]
        request = replace(request, run=replace(request.run, exits=exits))
        body = request.to_json()
    return body


def backoff_seconds(failures: int, chance: float) -> float:
    """Return the pause after so many earlier failures in a row; `chance` is in [0, 1)."""
    return chance * min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * (1 << min(failures, 16)))


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads retries, guards no secret


def _round_seconds(empty_rounds: int) -> float:
    return (
        0.0 if empty_rounds < 2 else min(protocol.HOLD_SECONDS, 0.1 * (1 << min(empty_rounds, 8)))
    )


def _retry_after(value: Optional[str]) -> Optional[float]:
    if value is None or not value.strip().isdigit():
        return None
    return min(float(value), MAX_RETRY_AFTER_SECONDS)


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
