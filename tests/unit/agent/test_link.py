"""The connection, against a real TLS server that does its worst."""

import itertools
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goodput import protocol
from goodput.agent.link import (
    CONNECT_SECONDS,
    HANDSHAKE_SECONDS,
    SHORTEST_ROUND_SECONDS,
    Connection,
    Credentials,
    Link,
    Route,
    Unanswered,
    backoff_seconds,
    fit,
    notice_dead_paths,
)
from goodput.protocol import ProcessExit, Run, SyncAnswer, SyncRequest
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS

HOLD = json.dumps(SyncAnswer(kind=protocol.HOLD, revision="r1").to_dict()).encode()
REQUEST = SyncRequest(slot=1, incarnation=1, sequence=1, sent_at=5)


@pytest.fixture
def credentials(tmp_path: Path, certificates: Any) -> Credentials:
    (tmp_path / "token").write_text("secret-1\n")
    shutil.copyfile(certificates.ca, tmp_path / "ca.crt")
    return Credentials(str(tmp_path / "token"), str(tmp_path / "ca.crt"))


@pytest.fixture
def connect(credentials: Credentials) -> Iterator[Callable[..., Connection]]:
    made: list[Connection] = []

    def start(route: Route | str) -> Connection:
        route = Route(route) if isinstance(route, str) else route
        made.append(Connection(route, credentials))
        return made[-1]

    yield start
    for connection in made:
        connection.close()


def reason_of(connection: Connection, hold_seconds: float = 0.0) -> str:
    with pytest.raises(Unanswered) as caught:
        connection.exchange(REQUEST.to_json(), hold_seconds)
    return str(caught.value)


# --- one exchange ---------------------------------------------------------------------------


def test_an_exchange_carries_the_token_and_the_one_server_name(
    serve: Any, http: Any, connect: Any
) -> None:
    server = serve(lambda _: http(HOLD))
    answer = connect(server.url).exchange(REQUEST.to_json(), 0.0)
    assert answer == SyncAnswer(kind=protocol.HOLD, revision="r1")
    (received,) = server.received
    assert received.sync == REQUEST
    assert received.headers["Authorization"] == "Bearer secret-1"
    assert received.headers["Host"] == protocol.SERVER_NAME


def test_a_connection_is_used_again(serve: Any, http: Any, connect: Any) -> None:
    server = serve(lambda _: http(HOLD))
    connection = connect(server.url)
    for _ in range(3):
        connection.exchange(REQUEST.to_json(), 0.0)
    assert server.connections == 1


def test_a_request_comes_in_one_record_so_that_it_wakes_the_operator_once(
    certificates: Any, http: Any, connect: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.operator)
    records: list[bytes] = []

    def serve_one(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as secure:
            records.append(secure.recv(16 * 1024))  # one at most, by RFC 8446
            secure.sendall(http(HOLD))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one, args=(listener,), daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        connect(url).exchange(REQUEST.to_json(), 0.0)
        thread.join(10)
    assert records[0].startswith(b"POST ")
    assert records[0].endswith(b"\r\n\r\n" + REQUEST.to_json())


def test_a_path_that_swallows_packets_is_left_before_the_worker_counts_as_lost() -> None:
    with socket.socket() as plain:
        notice_dead_paths(plain)
        idle, interval, probes, sending = (
            plain.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        )
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    dead_seconds = max(idle + interval * probes, sending / 1000)
    first_pause_seconds = backoff_seconds(0, chance=1.0) + SHORTEST_ROUND_SECONDS
    silence_seconds = protocol.HOLD_SECONDS + dead_seconds + first_pause_seconds
    assert silence_seconds < SILENCE_LIMIT_SECONDS - 1


def test_a_rotated_token_is_used_from_the_next_request_on(
    serve: Any, http: Any, connect: Any, credentials: Credentials
) -> None:
    server = serve(lambda _: http(HOLD))
    connection = connect(server.url)
    connection.exchange(REQUEST.to_json(), 0.0)
    Path(credentials.token_path).write_text("secret-2")
    connection.exchange(REQUEST.to_json(), 0.0)
    tokens = [received.headers["Authorization"] for received in server.received]
    assert tokens == ["Bearer secret-1", "Bearer secret-2"]


def test_a_rotated_ca_is_trusted_from_the_next_connection_on(
    serve: Any, http: Any, connect: Any, credentials: Credentials, certificates: Any
) -> None:
    server = serve(lambda _: http(HOLD))
    connection = connect(server.url)
    Path(credentials.ca_path).write_text("")
    reason_of(connection)
    shutil.copyfile(certificates.ca, credentials.ca_path)
    assert connection.exchange(REQUEST.to_json(), 0.0).revision == "r1"


def test_a_connection_that_was_closed_while_idle_is_opened_anew_without_a_failure(
    serve: Any, http: Any, connect: Any, eventually: Any
) -> None:
    server = serve(lambda _: http(HOLD), keep_open=False)
    connection = connect(server.url)
    for expected in (1, 2, 3):
        connection.exchange(REQUEST.to_json(), 0.0)
        assert server.connections == expected


def test_a_certificate_for_another_name_is_refused_even_at_its_own_address(
    serve: Any, http: Any, connect: Any, certificates: Any
) -> None:
    server = serve(lambda _: http(HOLD), pem=certificates.somebody_else)
    assert "not valid for" in reason_of(connect(server.url))
    assert server.received == []


def test_an_unknown_ca_is_refused(serve: Any, http: Any, connect: Any, certificates: Any) -> None:
    server = serve(lambda _: http(HOLD), pem=certificates.operator)
    credentials = connect(server.url)._credentials
    other_ca = Path(certificates.somebody_else).read_bytes().split(b"-----BEGIN PRIVATE")[0]
    Path(credentials.ca_path).write_bytes(other_ca)
    assert "CERTIFICATE_VERIFY_FAILED" in reason_of(connect(server.url))
    assert server.received == []


@pytest.mark.parametrize("missing", ["token_path", "ca_path"])
def test_missing_credentials_mean_try_again(
    serve: Any, http: Any, connect: Any, credentials: Credentials, missing: str
) -> None:
    server = serve(lambda _: http(HOLD))
    Path(getattr(credentials, missing)).unlink()
    path = getattr(credentials, missing)
    assert reason_of(connect(server.url)).endswith(f"No such file or directory: '{path}'")


def test_a_replica_whose_node_is_gone_is_given_up_sooner_than_one_that_is_busy(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        ours = socket.create_connection(busy.getsockname())
        busy.accept()[0].close()
    waits: list[float | None] = []

    def connected(_address: object, timeout: float) -> socket.socket:
        waits.append(timeout)
        return ours

    handshake = ssl.SSLContext.wrap_socket

    def wrapped(context: ssl.SSLContext, plain: socket.socket, **more: Any) -> ssl.SSLSocket:
        waits.append(plain.gettimeout())
        return handshake(context, plain, **more)

    monkeypatch.setattr(socket, "create_connection", connected)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrapped)
    assert reason_of(connect("https://127.0.0.1:1"))
    assert waits == [CONNECT_SECONDS, HANDSHAKE_SECONDS]
    assert CONNECT_SECONDS < HANDSHAKE_SECONDS < SILENCE_LIMIT_SECONDS


def test_an_answer_cut_at_any_byte_means_try_again(serve: Any, http: Any, connect: Any) -> None:
    whole = http(b'{"kind": "hold"}')
    length = 0
    server = serve(lambda _: whole[:length], keep_open=False)
    connection = connect(server.url)
    for length in range(len(whole)):  # noqa: B007 - the server reads it
        assert reason_of(connection)
    length = len(whole)
    assert connection.exchange(REQUEST.to_json(), 0.0).kind == protocol.HOLD


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\xff\x15garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: banana\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b" " * 2_000_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\n\r\n{"kind": 7}',
        b'HTTP/1.1 200 OK\r\n\r\n{"kind": "run", "world": {"attempt": "x"}}',
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xff",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_garbage_means_try_again(serve: Any, connect: Any, reply: bytes) -> None:
    server = serve(lambda _: reply, keep_open=False)
    assert reason_of(connect(server.url))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 502, 503])
def test_a_refusal_means_try_again_on_the_same_connection(
    serve: Any, http: Any, connect: Any, status: int
) -> None:
    server = serve(lambda _: http(b"no", f"{status} No"))
    connection = connect(server.url)
    assert reason_of(connection) == f"the operator answered {status}"
    assert reason_of(connection) == f"the operator answered {status}"
    assert server.connections == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("100000", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-3", None)],
)
def test_the_servers_own_wish_for_a_pause_is_heard_within_reason(
    serve: Any, http: Any, connect: Any, value: str, seconds: float | None
) -> None:
    server = serve(lambda _: http(b"", "429 Too Many Requests", f"Retry-After: {value}"))
    with pytest.raises(Unanswered) as caught:
        connect(server.url).exchange(REQUEST.to_json(), 0.0)
    assert caught.value.retry_after_seconds == seconds


# --- the route ------------------------------------------------------------------------------


def redirect(http: Any, leader: str) -> bytes:
    return http(json.dumps({"leader": leader}).encode(), "421 Misdirected Request")


def test_a_standby_sends_us_to_the_leader(serve: Any, http: Any, connect: Any) -> None:
    leader = serve(lambda _: http(HOLD))
    standby = serve(lambda _: redirect(http, f"127.0.0.1:{leader.port}"))
    connection = connect(standby.url)
    with pytest.raises(Unanswered) as caught:
        connection.exchange(REQUEST.to_json(), 0.0)
    assert caught.value.redirected
    assert connection.exchange(REQUEST.to_json(), 0.0).revision == "r1"
    assert len(leader.received) == 1


def test_when_the_leader_cannot_be_reached_we_go_back_to_the_service(
    serve: Any, http: Any, connect: Any
) -> None:
    gone = serve(lambda _: b"")
    gone.close()
    replies = [redirect(http, f"127.0.0.1:{gone.port}"), http(HOLD)]
    service = serve(lambda _: replies.pop(0))
    connection = connect(service.url)
    reason_of(connection)
    assert "refused" in reason_of(connection)
    assert connection.exchange(REQUEST.to_json(), 0.0).revision == "r1"


@pytest.mark.parametrize(
    ("leader", "where"),
    [
        pytest.param("10.0.0.8:8443", ("10.0.0.8", 8443), id="an address"),
        pytest.param("[fd00::8]:8443", ("fd00::8", 8443), id="an IPv6 address"),
        pytest.param("", ("operator.goodput", 8443), id="nobody leads yet"),
        pytest.param("10.0.0.8", ("operator.goodput", 8443), id="no port"),
        pytest.param("10.0.0.8:99999", ("operator.goodput", 8443), id="no such port"),
        pytest.param(":8443", ("operator.goodput", 8443), id="no host"),
    ],
)
def test_the_route_follows_a_leader_that_can_be_one(leader: str, where: tuple[str, int]) -> None:
    route = Route("https://operator.goodput:8443")
    moved = route.misdirected(leader)
    assert route.current() == where
    assert moved == (where != ("operator.goodput", 8443))


def test_a_standby_that_names_itself_leads_nowhere_new() -> None:
    route = Route("https://10.0.0.8")
    assert not route.misdirected("10.0.0.8:443")


@pytest.mark.parametrize("url", ["http://operator", "operator:8443", "", "https://", "https://a:b"])
def test_a_url_without_tls_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Route(url)


# --- pauses and sizes -----------------------------------------------------------------------


def test_pauses_double_up_to_five_seconds_with_full_jitter() -> None:
    longest = [backoff_seconds(failures, 1.0) for failures in range(8)]
    assert longest == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff_seconds(5, 0.0) == 0.0
    assert backoff_seconds(10_000, 0.5) == 2.5


def test_a_request_that_is_too_long_loses_evidence_but_never_the_fact() -> None:
    lines = tuple("\x1b" * 1000 for _ in range(8))
    ends = tuple(
        ProcessExit(
            rank=rank,
            at=1,
            exit_code=1,
            exception="\x1b" * 500,
            last_lines=lines if rank == 0 else (),
        )
        for rank in range(8)
    )
    request = SyncRequest(slot=1, incarnation=1, sequence=1, sent_at=1, run=Run(3, exits=ends))
    body = fit(request, protocol.MAX_REQUEST_BYTES)
    assert len(body) <= protocol.MAX_REQUEST_BYTES
    kept = SyncRequest.from_json(body).run
    assert kept is not None
    assert kept.exits[0].last_lines
    smallest = SyncRequest.from_json(fit(request, 200)).run
    assert smallest is not None
    assert (smallest.attempt, smallest.exits) == (3, ())


def test_a_request_that_fits_is_sent_whole() -> None:
    assert fit(REQUEST, protocol.MAX_REQUEST_BYTES) == REQUEST.to_json()


# --- the link -------------------------------------------------------------------------------


class Reporter:
    """Builds numbered requests and keeps what was delivered."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self.lock = threading.Lock()
        self.sequence = 0
        self.seen_revision = ""
        self.delivered: list[tuple[int, str]] = []
        self.troubles: list[str] = []
        self.link = Link(Route(url), credentials, self.build, self.deliver, self.troubles.append)

    def build(self, hold_seconds: float) -> SyncRequest:
        with self.lock:
            self.sequence += 1
            return SyncRequest(
                slot=1,
                incarnation=1,
                sequence=self.sequence,
                sent_at=1,
                hold_seconds=hold_seconds,
                seen_revision=self.seen_revision,
                run=Run(attempt=3, exits=(ProcessExit(0, 1, 1, last_lines=("x" * 1000,) * 50),)),
            )

    def deliver(self, answer: SyncAnswer, sequence: int) -> None:
        with self.lock:
            self.delivered.append((sequence, answer.revision))
            self.seen_revision = answer.revision


@pytest.fixture
def report(credentials: Credentials) -> Iterator[Callable[[str], Reporter]]:
    made: list[Reporter] = []

    def start(url: str) -> Reporter:
        made.append(Reporter(url, credentials))
        made[-1].link.start()
        return made[-1]

    yield start
    for reporter in made:
        reporter.link.stop()


def test_urgent_news_is_sent_while_the_poll_is_held(
    serve: Any, operator: Any, report: Any, eventually: Any
) -> None:
    server = serve(operator.respond)
    reporter = report(server.url)
    operator.saw(lambda request: request.seen_revision == "0")  # this one is held
    reporter.link.hurry()
    urgent = operator.saw(lambda request: request.hold_seconds == 0.0)
    eventually(lambda: (urgent.sequence, "0") in reporter.delivered)
    assert server.connections == 2


def test_urgent_news_which_ends_the_hold_never_delays_the_next_poll(
    serve: Any, http: Any, report: Any, eventually: Any
) -> None:
    released = threading.Event()
    held: list[float] = []

    def respond(received: Any) -> bytes:
        if received.sync.hold_seconds:
            held.append(received.at)
            released.wait(20)
            released.clear()
        else:
            released.set()  # as the operator does: the poll's sender has moved on
        return http(HOLD)

    reporter = report(serve(respond).url)
    for polls in range(1, 8):
        eventually(lambda polls=polls: len(held) == polls)
        reporter.link.hurry()
    assert max(later - earlier for earlier, later in itertools.pairwise(held)) < 2.0
    reporter.link.stop()
    released.set()


def test_a_trainer_with_constant_news_does_not_use_up_what_a_pod_may_send(
    serve: Any, operator: Any, report: Any, eventually: Any
) -> None:
    server = serve(operator.respond)
    reporter = report(server.url)
    operator.saw(lambda request: request.seen_revision == "0")

    def another_second() -> bool:
        reporter.link.hurry()
        return time.monotonic() > began + 1.0

    began = time.monotonic()
    eventually(another_second)
    urgent = [request for request in operator.requests if request.hold_seconds == 0.0]
    assert 1 <= len(urgent) <= 8


def test_that_what_was_ordered_runs_is_said_by_the_next_poll_and_no_other_request(
    serve: Any, operator: Any, report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goodput.agent.link.STARTING_SECONDS", 20.0)
    reporter = report(serve(operator.respond).url)
    operator.saw(lambda request: request.seen_revision == "0")
    running = threading.Event()

    def started() -> None:
        running.set()
        reporter.link.hurry()

    def start(answer: SyncAnswer, sequence: int) -> None:
        reporter.deliver(answer, sequence)
        threading.Timer(0.2, started).start()  # later than any poll without this would begin

    def build(hold_seconds: float) -> SyncRequest:
        return replace(reporter.build(hold_seconds), free_port=int(running.is_set()))

    reporter.link._deliver, reporter.link._build = start, build
    operator.order(SyncAnswer(kind=protocol.RUN, revision="1", attempt=3))
    said = operator.saw(lambda request: request.seen_revision == "1")
    assert (said.hold_seconds, said.free_port) == (protocol.HOLD_SECONDS, 1)
    assert all(request.hold_seconds for request in operator.requests)


def test_a_new_order_ends_the_hold(serve: Any, operator: Any, report: Any, eventually: Any) -> None:
    reporter = report(serve(operator.respond).url)
    operator.saw(lambda request: request.seen_revision == "0")
    operator.order(SyncAnswer(kind=protocol.HOLD, revision="1"))
    eventually(lambda: reporter.seen_revision == "1")


def test_an_operator_that_holds_nothing_is_asked_more_and_more_seldom(
    serve: Any, http: Any, report: Any, eventually: Any
) -> None:
    server = serve(lambda _: http(HOLD))  # never holds anything
    report(server.url)
    eventually(lambda: len(server.received) >= 4)
    times = [received.at for received in server.received]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[-1] > 0.3


def test_the_link_comes_back_by_itself_after_every_kind_of_failure(
    serve: Any, http: Any, report: Any, eventually: Any
) -> None:
    replies = [
        b"",
        b"garbage\r\n",
        http(b"", "503 No"),
        http(b"", "401 No"),
        http(b"{}"),
        http(HOLD),
    ]
    server = serve(lambda _: replies.pop(0) if len(replies) > 1 else replies[0])
    reporter = report(server.url)
    eventually(lambda: reporter.delivered)
    assert len([trouble for trouble in reporter.troubles if trouble]) >= 4


def test_the_link_reconnects_when_its_connections_break(
    serve: Any, operator: Any, report: Any, eventually: Any
) -> None:
    server = serve(operator.respond)
    reporter = report(server.url)
    operator.saw(lambda request: request.seen_revision == "0")
    before = len(operator.requests)
    server.hang_up()
    eventually(lambda: len(operator.requests) > before)
    operator.order(SyncAnswer(kind=protocol.HOLD, revision="1"))
    eventually(lambda: reporter.seen_revision == "1")


def test_a_redirect_costs_no_pause(serve: Any, http: Any, operator: Any, report: Any) -> None:
    leader = serve(operator.respond)
    standby = serve(lambda _: redirect(http, f"127.0.0.1:{leader.port}"))
    report(standby.url)
    operator.saw(lambda request: request.seen_revision == "0")
    assert len(standby.received) == 1


def test_a_refused_size_halves_the_next_request(
    serve: Any, http: Any, report: Any, eventually: Any
) -> None:
    def respond(received: Any) -> bytes:
        return http(HOLD) if len(received.body) < 20_000 else http(b"", "413 Too Large")

    reporter = report(serve(respond).url)
    eventually(lambda: reporter.delivered)


def test_a_fault_of_ours_does_not_end_the_link(
    serve: Any, operator: Any, credentials: Credentials, eventually: Any
) -> None:
    reporter = Reporter(serve(operator.respond).url, credentials)
    good, faults = reporter.link._build, iter([ZeroDivisionError("ours")])

    def build(hold_seconds: float) -> SyncRequest:
        for fault in faults:
            raise fault
        return good(hold_seconds)

    reporter.link._build = build
    reporter.link.start()
    eventually(lambda: reporter.delivered)
    assert reporter.troubles[0] == "internal error: ours"
    reporter.link.stop()


def test_a_farewell_arrives_and_never_takes_longer_than_it_may(
    serve: Any, http: Any, credentials: Credentials, eventually: Any
) -> None:
    released = threading.Event()

    def respond(_: Any) -> bytes:
        released.wait(20)
        return http(HOLD)

    server = serve(respond)
    link = Reporter(server.url, credentials).link
    began = time.monotonic()
    link.farewell(REQUEST, timeout_seconds=0.5)
    assert time.monotonic() - began < 5
    eventually(lambda: len(server.received) == 1)
    released.set()
    link.farewell(REQUEST, timeout_seconds=20)
    assert [received.sync for received in server.received] == [REQUEST, REQUEST]
