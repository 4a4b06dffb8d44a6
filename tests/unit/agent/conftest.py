"""Helpers of the agent's tests: an operator on the other end of the wire, and bounded waiting."""

import contextlib
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from goodput import protocol
from goodput.protocol import SyncAnswer, SyncRequest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def source_root() -> Path:
    return REPOSITORY / "operator"


def _eventually(holds: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has not become true in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until something holds, but not for ever."""
    return _eventually


@dataclass(frozen=True)
class Certificates:
    """A CA and what it has issued: for the operator's one name, and for another one."""

    ca: Path
    operator: Path
    somebody_else: Path


def _issue(
    name: str, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, is_ca: bool = False
) -> bytes:
    key = issuer_key if is_ca else ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                if name == "somebody.else"
                else [x509.DNSName(name)]
            ),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    paths = Certificates(directory / "ca.crt", directory / "operator.pem", directory / "else.pem")
    paths.ca.write_bytes(_issue("ca", "ca", key, is_ca=True))
    paths.operator.write_bytes(_issue(protocol.SERVER_NAME, "ca", key))
    paths.somebody_else.write_bytes(_issue("somebody.else", "ca", key))
    return paths


@dataclass
class Received:
    """One request as it came over the wire."""

    headers: dict[str, str]
    body: bytes
    at: float
    connection: int

    @property
    def sync(self) -> SyncRequest:
        return SyncRequest.from_json(self.body)


Respond = Callable[[Received], bytes]


class Wire:
    """A real TLS server that answers with whatever bytes the test wants, and then may hang up."""

    def __init__(self, pem: Path, respond: Respond, keep_open: bool = True) -> None:
        self.respond = respond
        self.keep_open = keep_open
        self.received: list[Received] = []
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"https://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def hang_up(self) -> None:
        """Break all connections that are open now."""
        for one in self._open:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: it would have the serving thread read on without TLS.
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            arguments = (plain, self.connections)
            thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
            self._threads.append(thread)
            self._open.append(plain)
            thread.start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), plain:
            plain.settimeout(30)
            with self._context.wrap_socket(plain, server_side=True) as secure:
                self._open.append(secure)
                with secure.makefile("rb") as stream:
                    while self._answer_one(secure, stream, number) and self.keep_open:
                        pass

    def _answer_one(self, secure: ssl.SSLSocket, stream, number: int) -> bool:  # type: ignore[no-untyped-def]
        if not stream.readline():
            return False
        headers = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            headers[name] = value
        body = stream.read(int(headers.get("Content-Length", "1")))
        if len(body) < int(headers.get("Content-Length", "1")):
            return False
        received = Received(headers, body, time.monotonic(), number)
        self.received.append(received)
        reply = self.respond(received)
        secure.sendall(reply)
        return bool(reply)


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="session")
def http() -> Callable[..., bytes]:
    """Render an HTTP answer."""
    return http_answer


@pytest.fixture
def serve(certificates: Certificates) -> Iterator[Callable[..., Wire]]:
    """Start `Wire` servers that end with the test."""
    servers: list[Wire] = []

    def start(respond: Respond, pem: Path | None = None, keep_open: bool = True) -> Wire:
        servers.append(Wire(pem or certificates.operator, respond, keep_open))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@dataclass
class FakeOperator:
    """An operator that says the same until it is told to say something else; holds polls."""

    answer: SyncAnswer = field(default_factory=lambda: SyncAnswer(kind=protocol.HOLD, revision="0"))
    requests: list[SyncRequest] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False
    respond_with: bytes | None = None

    def order(self, answer: SyncAnswer) -> None:
        with self.changed:
            self.answer = answer
            self.changed.notify_all()

    def end(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def respond(self, received: Received) -> bytes:
        request = received.sync
        if self.respond_with is not None:
            return self.respond_with
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: self.ended or self.answer.revision != request.seen_revision,
                timeout=request.hold_seconds,
            )
            return http_answer(json.dumps(self.answer.to_dict()).encode())

    def saw(self, what: Callable[[SyncRequest], bool], seconds: float = 20.0) -> SyncRequest:
        """Wait for a request of which `what` holds, and return the first one."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(what(request) for request in self.requests), timeout=seconds
            ), self.requests[-1:]
            return next(request for request in self.requests if what(request))


@pytest.fixture
def operator() -> Iterator[FakeOperator]:
    fake = FakeOperator()
    yield fake
    fake.end()
