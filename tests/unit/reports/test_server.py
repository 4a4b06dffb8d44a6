"""The endpoint over real TLS: what gets through, what does not, and who is let go."""

import asyncio
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from goodput.agent.link import Connection, Credentials, Route, Unanswered
from goodput.protocol import MAX_REQUEST_BYTES, SERVER_NAME, Misdirected, SyncAnswer
from goodput_operator.reports.server import Limits, ReportServer
from tests.unit.reports.agents import KEY, World, claims, pod, request, settle, token

ME = pod(0)
RUN = SyncAnswer(kind="run", revision="r1", attempt=3)
TOKEN = token(claims(ME))


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate under the operator's name, and its key."""

    pem: str
    key: str

    def load_into(self, context: ssl.SSLContext) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "both.pem")
            path.write_text(self.pem + self.key)
            context.load_cert_chain(path)


def new_identity() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Identity(
        certificate.public_bytes(pem).decode(),
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


IDENTITY = new_identity()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, as an agent or an intruder has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, text: bytes) -> None:
        self.writer.write(text)

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(status_line.split()[1]), headers, body)

    async def ask(self, text: bytes) -> Answer:
        self.send(text)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; False when something else comes first."""
        try:
            return await self.reader.read(1) == b""
        except (ConnectionError, ssl.SSLError):
            return True

    def close(self) -> None:
        self.writer.transport.abort()


class Endpoint:
    """A server with what stands behind it."""

    def __init__(self, limits: Limits) -> None:
        self.world = World(ME)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        IDENTITY.load_into(self.context)
        self.server = ReportServer(self.world.handler, self.context, limits)
        self.clients: list[Client] = []

    async def connect(self, identity: Identity = IDENTITY) -> Client:
        trust = ssl.create_default_context(cadata=identity.pem)
        streams = await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=trust, server_hostname=SERVER_NAME
        )
        self.clients.append(Client(*streams))
        return self.clients[-1]


@asynccontextmanager
async def endpoint(**limits: float) -> AsyncIterator[Endpoint]:
    one = Endpoint(replace(Limits(), **limits))  # type: ignore[arg-type]
    await one.server.start("127.0.0.1", 0)
    try:
        yield one
    finally:
        for client in one.clients:
            client.close()
        await one.server.stop()
        await settle()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(limited())


def message(body: bytes, *headers: str, line: str = "POST /v1/sync HTTP/1.1") -> bytes:
    lines = [line, f"Host: {SERVER_NAME}", f"Authorization: Bearer {TOKEN}"]
    lines += headers or [f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def report(sequence: int = 1, **changes: object) -> bytes:
    return message(request(sequence, **changes).to_json())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the world outside has no event to wait for
        await asyncio.sleep(0)


def test_an_agent_reports_again_and_again_on_one_connection() -> None:
    async def story() -> None:
        async with endpoint() as one:
            one.world.store.set_answers(KEY, {ME.uid: RUN})
            client = await one.connect()
            for sequence in range(1, 4):
                answer = await client.ask(report(sequence))
                assert answer.status == 200
                assert answer.headers["content-type"] == "application/json"
                assert SyncAnswer.from_json(answer.body) == RUN
            assert one.world.store.views(KEY)[ME.uid].request.sequence == 3

    run(story)


def test_a_held_poll_hears_the_news_while_a_second_connection_reports() -> None:
    async def story() -> None:
        async with endpoint() as one:
            store = one.world.store
            store.set_answers(KEY, {ME.uid: RUN})
            poll, second = await one.connect(), await one.connect()
            await second.ask(report(1))
            poll.send(report(2, hold_seconds=5.0, seen_revision="r1"))
            await until(lambda: store.held_polls == 1)
            stop = SyncAnswer(kind="stop", revision="r2")
            store.set_answers(KEY, {ME.uid: stop})
            assert SyncAnswer.from_json((await poll.answer()).body) == stop
            poll.send(report(3, hold_seconds=5.0, seen_revision="r2"))
            await until(lambda: store.held_polls == 1)
            assert SyncAnswer.from_json((await second.ask(report(4))).body) == stop
            assert SyncAnswer.from_json((await poll.answer()).body) == stop

    run(story)


def test_the_agents_own_client_understands_every_answer(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_text(IDENTITY.pem)
    credentials = Credentials(str(tmp_path / "token"), str(tmp_path / "ca.crt"))

    async def story() -> None:
        async with endpoint() as one:
            one.world.store.set_answers(KEY, {ME.uid: RUN})
            route = Route(f"https://127.0.0.1:{one.server.port}")
            connection = Connection(route, credentials)

            async def exchange(body: bytes) -> SyncAnswer:
                return await asyncio.to_thread(connection.exchange, body, 0.0)

            assert await exchange(request(1).to_json()) == RUN
            assert await exchange(request(2).to_json()) == RUN
            with pytest.raises(Unanswered) as refused:
                await exchange(b"x" * (MAX_REQUEST_BYTES + 1))
            assert refused.value.too_large
            assert await exchange(request(3).to_json()) == RUN
            one.world.handler.follow("127.0.0.2:1")
            with pytest.raises(Unanswered) as sent_on:
                await exchange(request(4).to_json())
            assert sent_on.value.redirected
            assert route.current() == ("127.0.0.2", 1)
            connection.close()

    run(story)


def test_an_agent_that_left_its_poll_harms_nobody() -> None:
    async def story() -> None:
        async with endpoint() as one:
            store = one.world.store
            client = await one.connect()
            client.send(report(1, hold_seconds=5.0))
            await until(lambda: store.held_polls == 1)
            client.close()
            await until(lambda: not one.server.connections)
            store.set_answers(KEY, {ME.uid: RUN})
            assert store.held_polls == 0
            answer = await (await one.connect()).ask(report(2, hold_seconds=5.0))
            assert SyncAnswer.from_json(answer.body) == RUN

    run(story)


def test_a_report_in_small_pieces_is_understood() -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = await one.connect()
            for byte in report(1):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer()).status == 200

    run(story)


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = await one.connect()
            client.send(report(1) + report(2) + message(b"?") + report(3))
            assert [(await client.answer()).status for _ in range(4)] == [200, 200, 400, 200]

    run(story)


def test_a_body_of_the_largest_size_is_read() -> None:
    async def story() -> None:
        async with endpoint() as one:
            body = request(1).to_json()
            padded = body + b" " * (MAX_REQUEST_BYTES - len(body))
            assert (await (await one.connect()).ask(message(padded))).status == 200

    run(story)


def test_a_refusal_says_what_an_agent_needs_and_the_connection_goes_on() -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = await one.connect()
            bare = message(b"{}").replace(TOKEN.encode(), b"x")
            refused = await client.ask(bare)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert json.loads(refused.body)["reason"] == "Unauthorized"
            assert (await client.ask(report(1))).status == 200
            for _ in range(30):
                refused = await client.ask(bare)
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1

    run(story)


def test_a_standby_says_who_leads() -> None:
    async def story() -> None:
        async with endpoint() as one:
            one.world.handler.follow("10.1.2.3:8443")
            answer = await (await one.connect()).ask(report(1))
            assert answer.status == 421
            assert Misdirected.from_json(answer.body).leader == "10.1.2.3:8443"

    run(story)


# --- what does not get through -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param(message(b"", "Content-Length: 1000000"), 413, id="1 MB announced"),
        pytest.param(message(b"x" * 1_000_000), 413, id="1 MB sent"),
        pytest.param(message(b"", f"Content-Length: {'9' * 400}"), 400, id="a length like a sum"),
        pytest.param(message(b"", "Content-Length: -1"), 400, id="a negative length"),
        pytest.param(message(b"", "Content-Length: ٣"), 400, id="a length in other digits"),
        pytest.param(message(b"", "X: y"), 411, id="no length"),
        pytest.param(message(b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400, id="chunks"),
        pytest.param(
            message(b"{}", "Content-Length: 2", "Content-Length: 3"), 400, id="two lengths"
        ),
        pytest.param(
            message(b"{}", "Content-Length: 2", "Authorization: x"), 400, id="two credentials"
        ),
        pytest.param(message(b"", "Content-Length : 0"), 400, id="a blank before the colon"),
        pytest.param(message(b"", "A: b", " folded"), 400, id="a folded header"),
        pytest.param(message(b"", "nonsense"), 400, id="a header without a colon"),
        pytest.param(message(b"", line="GET /v1/sync HTTP/1.1"), 405, id="another method"),
        pytest.param(message(b"", line="POST /metrics HTTP/1.1"), 404, id="another path"),
        pytest.param(message(b"", line="POST /v1/sync?x HTTP/1.1"), 404, id="a query"),
        pytest.param(message(b"", line="POST /v1/sync HTTP/1.0"), 400, id="an old HTTP"),
        pytest.param(b"\r\n\r\n", 400, id="an empty head"),
        pytest.param(b"\x00\xff\x00\r\n\r\n", 400, id="bytes"),
        pytest.param(message(b"", "X: " + "y" * 20_000), 431, id="a huge header"),
        pytest.param(b"A" * 30_000, 431, id="a head without an end"),
    ],
)
def test_what_is_not_our_call_is_refused(
    text: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = await one.connect()
            answer = await client.ask(text)
            assert answer.status == status
            assert answer.headers["connection"] == "close"
            client.close()
            await until(lambda: not one.server.connections)
            assert not one.world.reviews
            assert not one.world.store.views(KEY)
            assert one.world.handler.results.total() == 1

    with caplog.at_level(logging.WARNING):
        run(story)
    assert not caplog.records


def test_who_goes_on_after_a_refusal_is_not_heard_and_cut_off() -> None:
    async def story() -> None:
        async with endpoint(drain_seconds=0.5) as one:
            client = await one.connect()
            assert (await client.ask(message(b"", "X: y"))).status == 411
            client.send(report(1))
            assert await client.is_closed()
            assert not one.world.store.views(KEY)

    run(story)


def test_who_speaks_no_tls_is_cut_off() -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = Client(*await asyncio.open_connection("127.0.0.1", one.server.port))
            client.send(report(1))
            assert await client.is_closed()
            assert not one.world.store.views(KEY)

    run(story)


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="says nothing"),
        pytest.param(b"POST /v1/sync HTTP/1.1\r\nHost:", id="stops in the head"),
        pytest.param(message(b"{", "Content-Length: 100"), id="stops in the body"),
    ],
)
def test_a_client_is_cut_off_that(beginning: bytes) -> None:
    async def story() -> None:
        async with endpoint(request_seconds=0.0) as one:
            client = await one.connect()
            client.send(beginning)
            assert await client.is_closed()

    run(story)


def test_a_connection_that_lies_idle_is_closed_but_not_one_that_waits_for_its_answer() -> None:
    async def story() -> None:
        async with endpoint(idle_seconds=0.0) as one:
            waiting, idle = await one.connect(), await one.connect()
            waiting.send(report(1, hold_seconds=5.0))
            await until(lambda: one.world.store.held_polls == 1)
            bare = message(b"{}").replace(TOKEN.encode(), b"x")
            assert (await idle.ask(bare)).status == 401
            assert await idle.is_closed()
            one.world.store.set_answers(KEY, {ME.uid: RUN})
            assert (await waiting.answer()).status == 200

    run(story)


def test_one_address_holds_no_more_than_its_share_of_connections() -> None:
    async def story() -> None:
        async with endpoint(connections_per_peer=2) as one:
            first, _second = await one.connect(), await one.connect()
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await one.connect()
            assert one.world.handler.results == {"TooManyConnections": 1}
            first.close()
            await until(lambda: len(one.server.connections) == 1)
            assert (await (await one.connect()).ask(report(1))).status == 200

    run(story)


def test_a_client_that_asks_to_close_is_closed() -> None:
    async def story() -> None:
        async with endpoint() as one:
            client = await one.connect()
            body = request(1).to_json()
            text = message(body, f"Content-Length: {len(body)}", "Connection: close")
            assert (await client.ask(text)).status == 200
            assert await client.is_closed()

    run(story)


# --- its end, and its certificate -----------------------------------------------------------


def test_stopping_answers_who_waits_and_takes_nobody_in() -> None:
    async def story() -> None:
        async with endpoint() as one:
            poll, idle = await one.connect(), await one.connect()
            poll.send(report(1, hold_seconds=5.0))
            await until(lambda: one.world.store.held_polls == 1)
            port = one.server.port
            stopping = asyncio.ensure_future(one.server.stop())
            answer = await poll.answer()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert await poll.is_closed()
            assert await idle.is_closed()
            await stopping
            assert not one.server.connections
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port)

    run(story)


def test_a_renewed_certificate_serves_new_connections_and_leaves_the_old_alone() -> None:
    async def story() -> None:
        async with endpoint() as one:
            old = await one.connect()
            renewed = new_identity()
            renewed.load_into(one.context)
            new = await one.connect(renewed)
            assert (await new.ask(report(1))).status == 200
            assert (await old.ask(report(2))).status == 200
            with pytest.raises(ssl.SSLCertVerificationError):
                await one.connect(IDENTITY)

    run(story)


def test_a_failure_of_ours_is_logged_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        async with endpoint() as one:
            one.world.pods = None  # type: ignore[assignment]
            client = await one.connect()
            answer = await client.ask(report(1))
            assert answer.status == 500
            assert b"Error" not in answer.body.replace(b"InternalError", b"")

    run(story)
    assert "a request failed" in caplog.text
