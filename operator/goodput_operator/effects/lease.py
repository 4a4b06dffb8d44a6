"""Elect the one replica that acts, through a `coordination.k8s.io/v1` Lease.

The rules are client-go's (tools/leaderelection): no replica ever compares its clock with
another's. A standby counts the lease's duration from the moment *it* saw the record
change; the leader counts from before it *sent* its last successful renewal and stops
acting well before that duration has passed. So two leaders never overlap, as long as
clocks tick at about the same rate.

Where we differ: losing the lease raises, so that a leader cannot go on unnoticed; the
record carries the leader's address, so that a standby can send agents there.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from goodput_operator import names
from goodput_operator.effects.gateway import LEASES, Gateway, Resource
from goodput_operator.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    GoodputError,
    NotFoundError,
)

logger = logging.getLogger(__name__)

ANNOTATION_ADDRESS = f"{names.GROUP}/address"
"""On the Lease: `ip:port` where the leader serves the agents."""

Record = Mapping[str, Any]
Write = Callable[[Resource, str, Record], Awaitable[Record]]


class LeaseLostError(GoodputError):
    """This replica led and must not act any more: another leads, or may soon."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How fast a dead leader is replaced, and how patient a living one is.

    A standby that looks every `renew_seconds` takes over at most `duration_seconds +
    renew_seconds` after the leader's death, plus the time of two requests.

    Raises:
        ValueError: the leader could not renew twice before its deadline.
    """

    duration_seconds: float = 10.0
    renew_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.renew_seconds * 3 <= self.duration_seconds:
            raise ValueError("the lease's duration must be at least three times its renewal")

    @property
    def deadline_seconds(self) -> float:
        """How long a leader may act on one renewal: 0.7 of the duration, as client-go's 10/15."""
        return 0.7 * self.duration_seconds

    @property
    def request_seconds(self) -> float:
        """The limit of one request: a hung one leaves time for another."""
        return self.deadline_seconds / 2


class Election:
    """One replica's part in the election.

    `run` campaigns, then renews; `acquired` is set when this replica leads. All waiting is
    on the running loop's clock.

    Args:
        identity: unique to this process, `<pod>_<random>`.
        address: where this replica serves agents, `ip:port`.
        wall_clock: for the times that people read in the Lease; nothing is decided by it.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        namespace: str,
        name: str,
        identity: str,
        address: str,
        rng: random.Random,
        timing: LeaseTiming | None = None,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.acquired = asyncio.Event()
        self.identity = identity
        self._gateway = gateway
        self._namespace = namespace
        self._name = name
        self._address = address
        self._timing = timing or LeaseTiming()
        self._rng = rng
        self._wall_clock = wall_clock
        self._record: Record | None = None
        self._observed_at = 0.0
        self._act_until = 0.0
        self._last_problem: tuple[str, type] | None = None

    @property
    def leads(self) -> bool:
        """Whether this replica may act at this moment."""
        return self.acquired.is_set() and _now() < self._act_until

    @property
    def leader_address(self) -> str:
        """Where the leader serves agents, empty while none is known to live."""
        if self.leads:
            return self._address
        record = self._record
        if record is None or _holder(record) in ("", self.identity) or self._expires_at() <= _now():
            return ""
        return str(record["metadata"].get("annotations", {}).get(ANNOTATION_ADDRESS, ""))

    async def run(self) -> NoReturn:
        """Campaign until elected, then renew. Cancel it to step down: the lease is released.

        Raises:
            LeaseLostError: this replica led and does not any more.
        """
        try:
            await self._campaign()
            self.acquired.set()
            logger.info("%s leads from now on", self.identity)
            while True:
                await asyncio.sleep(self._timing.renew_seconds)
                await self._renew()
        finally:
            await self._release()

    async def _campaign(self) -> None:
        """Look at the lease again and again, and take it when it is free."""
        while True:
            if await self._try_to_take():
                return
            await asyncio.sleep(self._pause_seconds())

    async def _try_to_take(self) -> bool:
        try:
            return await self._look_and_take()
        except (AlreadyExistsError, ConflictError):
            return False  # another replica was faster
        except (ApiError, TimeoutError) as error:
            self._complain("the lease cannot be read or taken", error)
            return False

    async def _look_and_take(self) -> bool:
        try:
            self._observe(await self._read())
        except NotFoundError:
            await self._write(self._gateway.create, self._wanted(None))
            return True
        if self._is_others() and self._expires_at() > _now():
            return False
        await self._write(self._gateway.replace, self._wanted(self._record))
        return True

    async def _renew(self) -> None:
        """Renew, again and again until the deadline."""
        problem: Exception | None = None
        while _now() < self._act_until:
            try:
                async with asyncio.timeout_at(self._act_until):
                    return await self._renew_once()
            except (ApiError, TimeoutError) as error:
                problem = error
                self._complain("the lease could not be renewed", error)
            await asyncio.sleep(self._timing.renew_seconds / 4)
        seconds = self._timing.deadline_seconds
        raise LeaseLostError(f"leadership lost: no renewal for {seconds:g} s: {_words(problem)}")

    async def _renew_once(self) -> None:
        try:
            await self._write(self._gateway.replace, self._wanted(self._record))
        except (ConflictError, NotFoundError):
            # Somebody wrote it: ourselves, when the answer was lost; or another leader.
            if not await self._look_and_take():
                holder = _holder(self._record or {})
                raise LeaseLostError(f"leadership lost: {holder} holds the lease") from None

    async def _release(self) -> None:
        """Give the lease up, so that a standby need not wait for its end."""
        led, self._act_until = self.leads and not self._is_others(), 0.0
        self.acquired.clear()
        if not led:
            return
        try:
            try:
                await self._write(self._gateway.replace, self._released())
            except ConflictError:  # the answer to a renewal was not awaited
                self._observe(await self._read())
                if not self._is_others():
                    await self._write(self._gateway.replace, self._released())
            logger.info("%s has released the lease", self.identity)
        except (ApiError, TimeoutError) as error:
            self._complain("the lease could not be released", error)

    async def _read(self) -> Record:
        async with asyncio.timeout(self._timing.request_seconds):
            return await self._gateway.get(LEASES, self._namespace, self._name)

    async def _write(self, call: Write, lease: Record) -> None:
        """Create or replace the lease. If it names us, we may act for a while, counted from now."""
        sent_at = _now()
        async with asyncio.timeout(self._timing.request_seconds):
            self._observe(await call(LEASES, self._namespace, lease))
        if _holder(lease) == self.identity:
            self._act_until = sent_at + self._timing.deadline_seconds
            self._last_problem = None

    def _released(self) -> Record:
        lease = self._wanted(self._record)
        lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        lease["metadata"]["annotations"].pop(ANNOTATION_ADDRESS)
        return lease

    def _wanted(self, old: Record | None) -> dict[str, Any]:
        """Return the lease as held by us, based on the version that we saw."""
        now = self._wall_clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(old["spec"]) if old else {}
        metadata = dict(old["metadata"]) if old else {}
        metadata |= {"name": self._name, "namespace": self._namespace}
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {**annotations, ANNOTATION_ADDRESS: self._address}
        if spec.get("holderIdentity") != self.identity:
            changes = spec.get("leaseTransitions") or 0
            spec |= {"acquireTime": now, "leaseTransitions": changes + 1 if old else 0}
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self._timing.duration_seconds),
            "renewTime": now,
        }
        return {"metadata": metadata, "spec": spec}

    def _observe(self, record: Record) -> None:
        """Remember the record, and when we saw it change: by its version, not by its times."""
        if self._record is None or _version(record) != _version(self._record):
            holder = _holder(record)
            if holder not in ("", self.identity) and holder != _holder(self._record or {}):
                logger.info("%s stands by; %s leads", self.identity, holder)
            self._observed_at = _now()
        self._record = record

    def _is_others(self) -> bool:
        return _holder(self._record or {}) not in ("", self.identity)

    def _expires_at(self) -> float:
        """When the observed record may be taken over, on our own clock."""
        spec = (self._record or {}).get("spec", {})
        seconds = spec.get("leaseDurationSeconds") or self._timing.duration_seconds
        return self._observed_at + float(seconds)

    def _pause_seconds(self) -> float:
        """Until the next look: the usual pause, or just past the record's end."""
        usual_seconds = self._timing.renew_seconds * self._rng.uniform(0.8, 1.0)
        left_seconds = self._expires_at() - _now() if self._is_others() else usual_seconds
        return min(usual_seconds, max(left_seconds, 0.0) + 0.05)

    def _complain(self, what: str, error: ApiError | TimeoutError) -> None:
        """Say what is wrong once, not at every attempt; the words vary, the kind does not."""
        problem = what, type(error)
        if problem != self._last_problem:
            logger.warning("%s: %s", what, _words(error))
        self._last_problem = problem


def _now() -> float:
    return asyncio.get_running_loop().time()


def _version(record: Record) -> str:
    return str(record["metadata"]["resourceVersion"])


def _holder(record: Record) -> str:
    return str(record.get("spec", {}).get("holderIdentity") or "")


def _words(error: Exception | None) -> str:
    if error is None:
        return "the process stood still"
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
