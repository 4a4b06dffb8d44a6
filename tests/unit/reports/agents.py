"""Workers, their tokens and an API server's opinion of them, for the tests of the endpoint."""

import asyncio
import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from goodput.protocol import TOKEN_AUDIENCE, Run, SyncAnswer, SyncRequest
from goodput_operator.observe.agents import JobKey, PodIdentity, TokenIdentity
from goodput_operator.reports.auth import Gate, read_claims
from goodput_operator.reports.handler import SyncHandler
from goodput_operator.reports.replies import Reply
from goodput_operator.reports.store import AgentStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY: JobKey = ("lab", "gpt")
PEER = "10.0.0.7"


def pod(slot: int = 0, incarnation: int = 1, uid: str = "") -> PodIdentity:
    name = f"gpt-{slot}-{incarnation}"
    return PodIdentity("lab", name, uid or f"uid-{name}", "gpt", slot, incarnation)


def request(sequence: int = 1, slot: int = 0, incarnation: int = 1, **changes: Any) -> SyncRequest:
    """What a healthy agent says that runs attempt 3."""
    plain = SyncRequest(
        slot=slot,
        incarnation=incarnation,
        sequence=sequence,
        sent_at=1000 * sequence,
        address="10.0.0.7",
        free_port=4000,
        run=Run(attempt=3, started_at=500, alive=8),
    )
    return replace(plain, **changes)


def claims(of: PodIdentity, now: datetime = START, **changes: Any) -> dict[str, Any]:
    return {
        "aud": [TOKEN_AUDIENCE],
        "exp": int(now.timestamp()) + 3600,
        "kubernetes.io": {
            "namespace": of.namespace,
            "pod": {"name": of.name, "uid": of.uid},
            "serviceaccount": {"name": "default", "uid": "sa"},
        },
        **changes,
    }


def token(payload: Any, signature: str = "good") -> str:
    """A token that the API server below takes for genuine unless its signature is another."""
    text = json.dumps(payload).encode()
    return f"e30.{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}.{signature}"


class World:
    """An endpoint with its clock, its pods and its API server; time passes only by `later`."""

    def __init__(self, *pods: PodIdentity) -> None:
        self.now = START
        self.pods = {(one.namespace, one.name): one for one in pods}
        self.reviews: list[str] = []
        self.api_error: Exception | None = None
        self.api_waits: asyncio.Event | None = None
        self.woken: list[JobKey] = []
        self.store = AgentStore(self.woken.append)
        self.gate = Gate(
            lambda namespace, name: self.pods.get((namespace, name)), self.review, lambda: self.now
        )
        self.handler = SyncHandler(self.store, self.gate, lambda: self.now)
        self.handler.lead()

    def clock(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.handler.expire()

    async def review(self, text: str) -> TokenIdentity | None:
        self.reviews.append(text)
        if self.api_waits is not None:
            await self.api_waits.wait()
        if self.api_error is not None:
            raise self.api_error
        named = read_claims(text)
        if named is None or not text.endswith(".good"):
            return None
        return TokenIdentity(named.namespace, "default", named.pod_name, named.pod_uid)

    def send(self, of: PodIdentity, what: SyncRequest | bytes, text: str = "") -> list[Reply]:
        """Send a request; the answer appears in the list that is returned."""
        replies: list[Reply] = []
        body = what if isinstance(what, bytes) else what.to_json()
        self.handler.receive(text or token(claims(of)), PEER, body, replies.append)
        return replies

    async def ask(self, of: PodIdentity, what: SyncRequest | bytes, text: str = "") -> Reply:
        """Send a request that is not held, and wait for its answer."""
        replies = self.send(of, what, text)
        await settle()
        [reply] = replies
        return reply


async def settle() -> None:
    """Let everything happen that can happen without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def answer_of(reply: Reply) -> SyncAnswer:
    assert reply.status == 200
    return SyncAnswer.from_json(reply.body)
