"""The one call, `POST /v1/sync`, without the network: check, keep, answer or hold.

`server` carries the bytes; a simulation may call `receive` itself. All calls come from one
event loop.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from goodput.protocol import Misdirected, ProtocolError, SyncAnswer, SyncRequest, read_json
from goodput_operator.observe.agents import PodIdentity
from goodput_operator.reports.auth import Gate
from goodput_operator.reports.replies import RefusedError, Reply
from goodput_operator.reports.store import AgentStore

Respond = Callable[[Reply], None]

MAX_EXITS = 64
"""More than any agent sends (8); a bound on what one report can make us keep."""

_STOPPING = RefusedError(503, "Stopping", "this replica is stopping", 1).reply()


class SyncHandler:
    """Serves the agents while this replica leads, and sends them on while it does not.

    It starts as a standby that knows no leader: `lead` or `follow` says otherwise.

    Args:
        store: where reports go and answers come from.
        gate: says whose token a request bears.
        now: the operator's clock; it should not step backwards.

    Attributes:
        results: how many requests came to which result, for the metrics.
    """

    def __init__(self, store: AgentStore, gate: Gate, now: Callable[[], datetime]) -> None:
        self._store = store
        self._gate = gate
        self._now = now
        self._elsewhere: Reply | None = _misdirected("")
        self._introductions: set[asyncio.Task[None]] = set()
        self.results: Counter[str] = Counter()

    def lead(self) -> None:
        """Serve from now on. The caches must be synced, else agents are taken for strangers."""
        self._elsewhere = None

    def follow(self, leader: str) -> None:
        """Send every agent to the leader, `host:port` or empty; held polls at once."""
        self._elsewhere = _misdirected(leader)
        self._store.clear()

    async def close(self) -> None:
        """Answer whoever waits, and from now on everyone, with 503: try again elsewhere."""
        self._elsewhere = _STOPPING
        self._store.clear()
        introductions = list(self._introductions)
        for task in introductions:
            task.cancel()
        await asyncio.gather(*introductions, return_exceptions=True)
        await self._gate.close()

    def receive(self, token: str, peer: str, body: bytes, respond: Respond) -> None:
        """Take one request; `respond` is called exactly once, now or later.

        Args:
            token: the bearer token, empty when there was none.
            peer: the address it came from.
            body: what it carried, of a size that has been checked.
            respond: takes the answer.
        """
        if self._elsewhere is not None:
            self._finish(self._elsewhere, respond)
            return
        try:
            pod = self._gate.recognise(token, peer)
            if pod is not None:
                self._take(pod, body, respond)
                return
        except RefusedError as refusal:
            self._finish(refusal.reply(), respond)
            return
        task = asyncio.get_running_loop().create_task(self._introduce(token, peer, body, respond))
        self._introductions.add(task)
        task.add_done_callback(self._introductions.discard)

    def expire(self, ahead: timedelta = timedelta()) -> None:
        """Answer the polls whose time is over, or will be within `ahead`; call it often.

        Whose agent has been silent for too long is woken then, too.
        """
        now = self._now()
        self._store.expire(now + ahead)
        self._store.notice_silence(now)

    async def _introduce(self, token: str, peer: str, body: bytes, respond: Respond) -> None:
        try:
            pod = await self._gate.ask(token, peer)
            if self._elsewhere is not None:
                self._finish(self._elsewhere, respond)
            else:
                self._take(pod, body, respond)
        except RefusedError as refusal:
            self._finish(refusal.reply(), respond)
        except asyncio.CancelledError:
            self._finish(_STOPPING, respond)
            raise

    def _take(self, pod: PodIdentity, body: bytes, respond: Respond) -> None:
        request, now = _read(pod, body), self._now()
        result = "Accepted" if self._store.report(pod, request, now) else "Stale"

        def release(answer: SyncAnswer) -> None:
            reply = self._elsewhere or Reply(200, result, answer.text)
            self._finish(reply, respond)

        answer = self._store.hold(pod, request, now, release)
        if answer is not None:
            release(answer)

    def _finish(self, reply: Reply, respond: Respond) -> None:
        self.results[reply.result] += 1
        respond(reply)


def _read(pod: PodIdentity, body: bytes) -> SyncRequest:
    try:
        request = SyncRequest.from_json(_writable(body))
    except ProtocolError as error:
        raise RefusedError(400, "Malformed", str(error)) from None
    if request.run is not None and len(request.run.exits) > MAX_EXITS:
        raise RefusedError(400, "Malformed", f"exits: at most {MAX_EXITS} are wanted")
    if (request.slot, request.incarnation) != (pod.slot, pod.incarnation):
        message = f"this pod is slot {pod.slot}, incarnation {pod.incarnation}"
        raise RefusedError(403, "WrongSlot", message)
    return request


def _writable(body: bytes) -> bytes:
    """Return the JSON without lone surrogates: it can escape them, but no UTF-8 can hold them."""
    if b"\\ud" not in body.lower():
        return body
    return json.dumps(read_json(body), ensure_ascii=False).encode("utf-8", "replace")


def _misdirected(leader: str) -> Reply:
    return Reply(421, "Misdirected", Misdirected(leader).to_json())
