"""What an intruder can send to the report endpoint: one entry for each kind of forgery.

Every kind carries the same lie, that a training process of the victim has failed, which would
stop and restart its whole gang. `tests/unit/reports/test_forgeries.py` sends each once, to the
server alone; the benchmark `reports` sends thousands, with tokens that a real API server has
signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from goodput.protocol import (
    MAX_REQUEST_BYTES,
    SERVER_NAME,
    SYNC_PATH,
    ProcessExit,
    Run,
    SyncRequest,
)

FORGED_TOKENS = (
    "of the wrong audience",
    "of a pod in another namespace",
    "of a pod that is no worker",
    "of another UID than the pod's",
    "of a pod that is gone",
    "of a pod whose name another one bears now",
    "of the service account alone",
    "of the service account, for the API server",
    "of the operator's own account",
    "that is bound to a secret",
    "that has expired",
    "that is not valid yet",
    "of another cluster",
    "signed with another key",
    "signed with nothing (alg none)",
    "signed with the public key (alg HS256)",
    "with another pod's claims",
    "with a later expiry than was signed",
    "without its signature",
)
"""Kinds of token that must be worth nothing; `Loot.tokens` has one of each."""


@dataclass(frozen=True, slots=True)
class Loot:
    """What the intruder knows and has come by.

    Attributes:
        slot, incarnation, attempt: of the victim, and what it runs.
        sequence: of the newest report of the victim.
        own: the victim's own token, for lies that its pod itself could tell.
        neighbour: the genuine token of another worker of the same gang.
        tokens: a maker of tokens for each of `FORGED_TOKENS`.
    """

    slot: int
    incarnation: int
    attempt: int
    sequence: int
    own: str
    neighbour: str
    tokens: Mapping[str, Callable[[], str]]

    def lie(self, **changes: Any) -> bytes:
        """Return the report that a process of the victim has failed."""
        return replace(self._lie(), **changes).to_json()

    def failed(self, attempt: int) -> Run:
        """Return what an agent says of an attempt whose process has failed."""
        ended = ProcessExit(rank=self.slot, at=1, exit_code=1, exception="forged")
        return Run(attempt=attempt, started_at=1, failed=1, exits=(ended,))

    def _lie(self) -> SyncRequest:
        return SyncRequest(
            slot=self.slot,
            incarnation=self.incarnation,
            sequence=self.sequence + 1_000_000,
            sent_at=2_000_000_000,
            address="10.66.6.6",
            free_port=6666,
            run=self.failed(self.attempt),
        )


@dataclass(frozen=True, slots=True)
class Forgery:
    """One try.

    Attributes:
        sent: the bytes.
        answers: the status of each answer to come; with none, the connection is cut off.
        tls: whether it is sent within TLS.
    """

    sent: bytes
    answers: tuple[int, ...]
    tls: bool = True


Kind = Callable[[Loot], Forgery]


def message(body: bytes, *headers: str, token: str = "", line: str = "") -> bytes:
    """Return an HTTP request; without headers of its own it has the right length."""
    lines = [line or f"POST {SYNC_PATH} HTTP/1.1", f"Host: {SERVER_NAME}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    lines += headers or [f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def kinds() -> dict[str, Kind]:
    """Return every kind of forgery by its name."""
    return {
        **{f"a token {name}": _with_token(name) for name in FORGED_TOKENS},
        **_CREDENTIALS,
        **{name: _said_by_the_pod(status, made) for name, (status, made) in _LIES.items()},
        **{name: _framed(status, made) for name, (status, made) in _FRAMES.items()},
        **_CONNECTIONS,
    }


def _with_token(name: str) -> Kind:
    return lambda loot: Forgery(message(loot.lie(), token=loot.tokens[name]()), (401,))


def _said_by_the_pod(status: int, made: Callable[[Loot], bytes]) -> Kind:
    return lambda loot: Forgery(message(made(loot), token=loot.own), (status,))


def _framed(status: int, made: Callable[[Loot, bytes], bytes]) -> Kind:
    return lambda loot: Forgery(made(loot, loot.lie()), (status,))


def _raw(body: bytes, *headers: str, loot: Loot, line: str = "") -> bytes:
    return message(body, *headers, token=loot.own, line=line)


def _length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


def _edited(loot: Loot, old: str, new: str) -> bytes:
    text = loot.lie().decode()
    assert old in text
    return text.replace(old, new, 1).encode()


_CREDENTIALS: dict[str, Kind] = {
    "no token": lambda loot: Forgery(message(loot.lie()), (401,)),
    "a password for a token": lambda loot: Forgery(
        message(loot.lie(), "Authorization: Basic YTpi", _length(loot.lie())), (401,)
    ),
    "a token in the address": lambda loot: Forgery(
        message(loot.lie(), line=f"POST {SYNC_PATH}?access_token={loot.own} HTTP/1.1"), (404,)
    ),
    "a user's name in the proxy's headers": lambda loot: Forgery(
        message(
            loot.lie(),
            "X-Remote-User: system:admin",
            "X-Remote-Group: system:masters",
            "Impersonate-User: system:admin",
            "X-Forwarded-For: 127.0.0.1",
            _length(loot.lie()),
        ),
        (401,),
    ),
    "a token of 20 KB": lambda loot: Forgery(message(loot.lie(), token="a." * 10_000), (431,)),
    "a token of 10 KB": lambda loot: Forgery(
        message(loot.lie(), token=f"{loot.own}{'A' * 9_000}"), (401,)
    ),
    "the token of another worker": lambda loot: Forgery(
        message(loot.lie(), token=loot.neighbour), (403,)
    ),
    "two tokens": lambda loot: Forgery(
        message(
            loot.lie(),
            f"Authorization: Bearer {loot.neighbour}",
            f"Authorization: Bearer {loot.own}",
            _length(loot.lie()),
        ),
        (400,),
    ),
}

_LIES: dict[str, tuple[int, Callable[[Loot], bytes]]] = {
    # From the pod itself, with its own token: 200 says only that it changes nothing.
    "another slot": (403, lambda loot: loot.lie(slot=loot.slot + 1)),
    "a slot below 0": (403, lambda loot: loot.lie(slot=-1)),
    "another incarnation": (403, lambda loot: loot.lie(incarnation=loot.incarnation + 1)),
    "a report that was sent before": (200, lambda loot: loot.lie(sequence=loot.sequence)),
    "a report from long ago": (200, lambda loot: loot.lie(sequence=0)),
    "an older attempt": (200, lambda loot: loot.lie(run=loot.failed(loot.attempt - 1))),
    "an attempt that nobody has ordered": (
        200,
        lambda loot: loot.lie(run=loot.failed(loot.attempt + 1)),
    ),
    "an attempt of any number": (200, lambda loot: loot.lie(run=loot.failed(2**53 - 1))),
    "no JSON": (400, lambda _: b"slot=0&incarnation=0"),
    "an empty body": (400, lambda _: b""),
    "a list": (400, lambda loot: b"[" + loot.lie() + b"]"),
    "deep JSON": (400, lambda _: b"[" * 30_000 + b"]" * 30_000),
    "deep JSON in an unknown field": (
        400,
        lambda loot: _edited(loot, "{", '{"x":' + "[" * 30_000 + "]" * 30_000 + ","),
    ),
    "a number of 5,000 digits": (
        400,
        lambda loot: _edited(loot, '"sequence":', f'"x":{"9" * 5_000},"sequence":'),
    ),
    "a number beyond 2**53": (400, lambda loot: loot.lie(sequence=2**60)),
    "a number beyond all numbers": (
        400,
        lambda loot: _edited(loot, "{", '{"holdSeconds":1e999,'),
    ),
    "not a number (NaN)": (
        400,
        lambda loot: _edited(loot, "{", '{"holdSeconds":NaN,'),
    ),
    "Infinity in an unknown field": (400, lambda loot: _edited(loot, "{", '{"x":-Infinity,')),
    "a truth for a number": (400, lambda loot: _edited(loot, '"slot":', '"slot":true,"was":')),
    "a text for a number": (400, lambda loot: _edited(loot, '"slot":', '"slot":"0","was":')),
    "bytes that are no UTF-8": (400, lambda loot: loot.lie().replace(b"10.66", b"\xff\xfe")),
    "UTF-16": (400, lambda loot: loot.lie().decode().encode("utf-16")),
    "one slot twice": (400, lambda loot: _edited(loot, "{", f'{{"slot":{loot.slot + 1},')),
    "one slot twice, beside a lone surrogate": (
        400,
        lambda loot: _edited(loot, "{", f'{{"x":"\\ud800","slot":{loot.slot + 1},'),
    ),
    "a run twice": (
        400,
        lambda loot: _edited(loot, "{", '{"run":' + json.dumps({"attempt": loot.attempt}) + ","),
    ),
    "more exits than there are processes": (
        400,
        lambda loot: loot.lie(
            run=replace(loot.failed(loot.attempt), exits=loot.failed(loot.attempt).exits * 100)
        ),
    ),
}

_FRAMES: dict[str, tuple[int, Callable[[Loot, bytes], bytes]]] = {
    "a body of 1 MB, announced": (
        413,
        lambda loot, lie: _raw(lie, "Content-Length: 1000000", loot=loot),
    ),
    "a body one byte too long": (
        413,
        lambda loot, lie: _raw(lie + b" " * (MAX_REQUEST_BYTES + 1 - len(lie)), loot=loot),
    ),
    "a head of 20 KB": (
        431,
        lambda loot, lie: _raw(lie, "X: " + "y" * 20_000, _length(lie), loot=loot),
    ),
    "a head of 2,000 lines": (
        431,
        lambda loot, lie: _raw(
            lie, *(f"X-{number}: yyy" for number in range(2_000)), _length(lie), loot=loot
        ),
    ),
    "a head without an end": (431, lambda _, __: b"POST " + b"A" * 30_000),
    "no length": (411, lambda loot, lie: _raw(lie, "X: y", loot=loot)),
    "a length below 0": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length: -{len(lie)}", loot=loot),
    ),
    "a length with a sign": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length: +{len(lie)}", loot=loot),
    ),
    "a length in hex": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length: {len(lie):#x}", loot=loot),
    ),
    "a list of lengths": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length: {len(lie)}, {len(lie)}", loot=loot),
    ),
    "a length of 400 digits": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length: {'1' * 400}", loot=loot),
    ),
    "two lengths": (
        400,
        lambda loot, lie: _raw(lie, "Content-Length: 0", _length(lie), loot=loot),
    ),
    "chunks": (
        400,
        lambda loot, lie: _raw(
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(lie), lie), "Transfer-Encoding: chunked", loot=loot
        ),
    ),
    "chunks and a length": (
        400,
        lambda loot, lie: _raw(
            b"0\r\n\r\n" + _raw(lie, loot=loot),
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            loot=loot,
        ),
    ),
    "chunks by another spelling": (
        400,
        lambda loot, lie: _raw(lie, "transfer-ENCODING: \tchunked", _length(lie), loot=loot),
    ),
    "a blank before the colon": (
        400,
        lambda loot, lie: _raw(lie, f"Content-Length : {len(lie)}", loot=loot),
    ),
    "a folded header": (
        400,
        lambda loot, lie: _raw(lie, "X: y", " Content-Length: 0", _length(lie), loot=loot),
    ),
    "a header after a bare line feed": (
        411,
        lambda loot, lie: _raw(lie, f"X: y\nContent-Length: {len(lie)}", loot=loot),
    ),
    "another method": (
        405,
        lambda loot, lie: _raw(lie, loot=loot, line=f"PUT {SYNC_PATH} HTTP/1.1"),
    ),
    "another path": (
        404,
        lambda loot, lie: _raw(lie, loot=loot, line=f"POST /v2{SYNC_PATH} HTTP/1.1"),
    ),
    "a path that climbs": (
        404,
        lambda loot, lie: _raw(lie, loot=loot, line=f"POST /x/..{SYNC_PATH} HTTP/1.1"),
    ),
    "a proxy's request": (
        404,
        lambda loot, lie: _raw(
            lie, loot=loot, line=f"POST https://{SERVER_NAME}{SYNC_PATH} HTTP/1.1"
        ),
    ),
    "HTTP/1.0": (400, lambda loot, lie: _raw(lie, loot=loot, line=f"POST {SYNC_PATH} HTTP/1.0")),
    "HTTP/0.9": (400, lambda loot, lie: _raw(lie, loot=loot, line=f"POST {SYNC_PATH}")),
    "HTTP/2": (
        400,
        lambda loot, lie: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _raw(lie, loot=loot),
    ),
    "a request behind a refused one": (
        400,
        lambda loot, lie: message(b"", "nonsense") + _raw(lie, loot=loot),
    ),
}

_CONNECTIONS: dict[str, Kind] = {
    "a forged request behind a good one": lambda loot: Forgery(
        message(loot.lie(sequence=0), token=loot.own) + message(loot.lie()), (200, 401)
    ),
    "another worker's request behind a good one": lambda loot: Forgery(
        message(loot.lie(sequence=0), token=loot.own) + message(loot.lie(), token=loot.neighbour),
        (200, 403),
    ),
    "a request that hides in the body of another": lambda loot: Forgery(
        message(message(loot.lie(), token=loot.own), token=loot.own), (400,)
    ),
    "no TLS": lambda loot: Forgery(message(loot.lie(), token=loot.own), (), tls=False),
    "a head that is never finished": lambda loot: Forgery(message(b"", token=loot.own)[:-2], ()),
    "a body that is never finished": lambda loot: Forgery(
        message(loot.lie(), token=loot.own)[:-1], ()
    ),
}
