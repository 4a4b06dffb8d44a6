"""Account for each accelerator-millisecond of a job exactly once.

Pure. `plan.project` calls `account` with the status as it was, and so as it held true until
now, and with what the agents have said since; the result goes into the same status write as
the decision, so a span is either written with its consequences or not at all.

The borders, each with its reason:
- `queued`: from the job's creation until all of its gang may be created. Nothing is held.
- `scheduling`: until all pods are bound; `pod_start`: until all agents are connected.
- `startup`: from the published world to the first finished step, less `restore`, which is
  what the trainer itself calls so. Without any sign of progress it ends when all processes
  have been started, because nobody can tell later.
- `checkpoint_stall`, `data_stall`: from the first step on, the time for which the trainer says
  that it has stood in saving a checkpoint, or waiting for data.
- then work is *unsettled*: `productive` as soon as a durable commit covers it (or the job
  succeeds), `lost_work` when its attempt dies first. That is settled when the attempt is closed:
  until then agents may tell of commits from before the fault. Where the trainer shows no
  checkpoint and no step nobody can know what was lost, and it becomes `unknown`.
- `detection`: from the fault until the operator has decided; `recovery`: from there until all
  processes of the next attempt have been started, whatever happens between.
- `suspended`: from the decision to suspend until the job is queued again.
- `degraded`: while an elastic gang trains with fewer workers than are wanted, from the published
  world until it is closed: the missing ones' time, whatever becomes of the others' (startup,
  work, loss).
The sum of all buckets and the unsettled rest is accelerators × time since creation. Of a job of
fixed size these are the whole gang's. Of an elastic one they are those that are wanted or held,
whichever are more, as the last write of the status has it: a change counts from the write that
tells of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import Bucket, LedgerStatus

MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Span:
    """Time up to `until` belongs to `bucket`; None means work that is not settled yet."""

    until: datetime
    bucket: Bucket | None


@dataclass(slots=True)
class Account:
    """A ledger that is being written: buckets in accelerator-milliseconds.

    Attributes:
        weight: accelerators that do what is accounted for.
        missing: further ones that are wanted and not there; their time is `degraded`.
        payer: the attempt whose incident pays for what is added to a bucket; None: nobody does.
        prices: what has been paid for so far, by attempt and bucket.
    """

    weight: int
    until: datetime
    missing: int = 0
    buckets: dict[Bucket, int] = field(default_factory=dict)
    unsettled: int = 0
    payer: int | None = None
    prices: dict[int, dict[Bucket, int]] = field(default_factory=dict)
    stalled_attempt: int = 0
    stalled: dict[Bucket, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls, status: LedgerStatus, weight: int, created_at: datetime, missing: int = 0
    ) -> "Account":
        """Go on from a persisted ledger, or begin at the job's creation.

        Args:
            status: what was persisted.
            weight: accelerators of the whole gang; its workers where there are none.
            created_at: the job's creation.
            missing: see the class.
        """
        return cls(
            weight=weight,
            missing=missing,
            until=truncate(status.accounted_until or created_at),
            buckets=dict(status.accelerator_milliseconds),
            unsettled=status.unsettled_milliseconds,
            stalled_attempt=status.stalled_attempt,
            stalled=dict(status.stalled_milliseconds),
        )

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans in order of time; what lies before the last is not counted again."""
        for span in spans:
            if self.missing:
                lacking = self._milliseconds(self.until, span.until) * self.missing
                self._put(Bucket.DEGRADED, lacking)
            cost = self._advance(span.until)
            if span.bucket is None:
                self.unsettled += cost
            else:
                self._put(span.bucket, cost)

    def stall(self, attempt: int, totals: Mapping[Bucket, int]) -> None:
        """Move the time for which training stood still out of the unsettled work.

        Args:
            attempt: whose training it is.
            totals: milliseconds by bucket, counted from the attempt's beginning on. What was moved
                before is not moved again.
        """
        if attempt != self.stalled_attempt:
            self.stalled_attempt, self.stalled = attempt, {}
        for bucket, milliseconds in totals.items():
            new = max(0, milliseconds - self.stalled.get(bucket, 0))
            moved = min(self.unsettled, new * self.weight)
            self.unsettled -= moved
            self._put(bucket, moved)
            self.stalled[bucket] = self.stalled.get(bucket, 0) + new

    def settle(
        self,
        bucket: Bucket,
        worked_until: datetime | None = None,
        ended_at: datetime | None = None,
        stalled_since: int = 0,
    ) -> None:
        """Move unsettled work into `bucket`.

        Args:
            bucket: productive, lost_work or unknown.
            worked_until: only work done before this moment; None for all of it.
            ended_at: when the unsettled work came to its end; None while it goes on: it is
                counted back from the present end of the account then.
            stalled_since: milliseconds for which training stood still after `worked_until`.
        """
        rest = 0
        if worked_until is not None:
            after = self._cost(worked_until, ended_at or self.until) - stalled_since * self.weight
            rest = min(self.unsettled, max(0, after))
        self._put(bucket, self.unsettled - rest)
        self.unsettled = rest

    def reclassify_tail(
        self, since: datetime, bucket: Bucket, ended_at: datetime | None = None
    ) -> None:
        """Move the unsettled work after `since` into `bucket`: it turned out to be no work.

        Args:
            since: when it stopped to be work.
            bucket: what it was instead.
            ended_at: see `settle`.
        """
        tail = min(self.unsettled, self._cost(since, ended_at or self.until))
        self.unsettled -= tail
        self._put(bucket, tail)

    def close(self, accelerators: int) -> LedgerStatus:
        """Return the ledger to persist, its buckets in their one order.

        Args:
            accelerators: how many are to be counted from now on.
        """
        return LedgerStatus(
            accelerator_milliseconds={
                bucket: self.buckets[bucket] for bucket in Bucket if self.buckets.get(bucket)
            },
            unsettled_milliseconds=self.unsettled,
            accelerators=accelerators,
            accounted_until=self.until,
            stalled_attempt=self.stalled_attempt,
            stalled_milliseconds={one: amount for one, amount in self.stalled.items() if amount},
        )

    def _put(self, bucket: Bucket, amount: int) -> None:
        self.buckets[bucket] = self.buckets.get(bucket, 0) + amount
        if self.payer is not None and amount and bucket is not Bucket.PRODUCTIVE:
            price = self.prices.setdefault(self.payer, {})
            price[bucket] = price.get(bucket, 0) + amount

    def _advance(self, until: datetime) -> int:
        cost = self._cost(self.until, until)
        self.until = max(self.until, truncate(until))
        return cost

    def _cost(self, begin: datetime, end: datetime) -> int:
        """Return whole milliseconds × weight; both ends are cut alike, so that sums stay exact."""
        return self._milliseconds(begin, end) * self.weight

    @staticmethod
    def _milliseconds(begin: datetime, end: datetime) -> int:
        return max(0, (truncate(end) - truncate(begin)) // MILLISECOND)


def total(ledger: LedgerStatus) -> int:
    """Return all accelerator-milliseconds that the ledger accounts for."""
    return sum(ledger.accelerator_milliseconds.values()) + ledger.unsettled_milliseconds


def goodput_text(ledger: LedgerStatus) -> str:
    """Return the productive share as people read it, "93.4%"; empty before there is time.

    Work that no commit covers yet counts neither way.
    """
    settled = sum(ledger.accelerator_milliseconds.values())
    if settled <= 0:
        return ""
    productive = ledger.accelerator_milliseconds.get(Bucket.PRODUCTIVE, 0)
    return f"{productive * 1000 // settled / 10:.1f}%"
