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
- `spare`: while a gang trains, the time of those who stand by to take a lost worker's place.
The account of a job that succeeds ends with its last process, however late that is heard of.
The sum of all buckets and the unsettled rest is accelerators × time since creation. Of a job of
fixed size these are the whole gang's. Of one that is elastic or has spares they are those that
are wanted or held, whichever are more, as the last write of the status has it: a change counts
from the write that tells of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from goodput_operator.api.status import Bucket, LedgerStatus
from goodput_operator.ledger.tally import Tally

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Span:
    """Time up to `until` belongs to `bucket`; None means work that is not settled yet."""

    until: datetime
    bucket: Bucket | None


class Account:
    """A ledger that is being written: a tally whose times are moments."""

    def __init__(self, tally: Tally, stalled_attempt: int, stalled: dict[Bucket, int]) -> None:
        self._tally = tally
        self._stalled_attempt = stalled_attempt
        self._stalled = stalled

    @classmethod
    def open(
        cls,
        status: LedgerStatus,
        weight: int,
        created_at: datetime,
        *,
        missing: int = 0,
        spare: int = 0,
    ) -> "Account":
        """Go on from a persisted ledger, or begin at the job's creation.

        Args:
            status: what was persisted.
            weight: accelerators that do what is accounted for.
            created_at: the job's creation.
            missing: further ones that are wanted and not there; their time is `degraded`.
            spare: further ones that stand by; their time is `spare`.
        """
        tally = Tally(
            weight=weight,
            until=_milliseconds(status.accounted_until or created_at),
            missing=missing,
            spare=spare,
            buckets=dict(status.accelerator_milliseconds),
            unsettled=status.unsettled_milliseconds,
        )
        return cls(tally, status.stalled_attempt, dict(status.stalled_milliseconds))

    @property
    def prices(self) -> Mapping[int, Mapping[Bucket, int]]:
        """What incidents have to pay for, by the attempt that they ended, and by bucket."""
        return self._tally.prices

    def charge(self, attempt: int | None) -> None:
        """Let the incident that ended `attempt` pay from now on; None: nobody."""
        self._tally.payer = attempt

    def add(self, spans: Iterable[Span]) -> None:
        """Add spans in order of time; what lies before the last is not counted again."""
        for span in spans:
            self._tally.add(_milliseconds(span.until), span.bucket)

    def stall(self, attempt: int, totals: Mapping[Bucket, int]) -> None:
        """Move the time for which training stood still out of the unsettled work.

        Args:
            attempt: whose training it is.
            totals: milliseconds by bucket, counted from the attempt's beginning on. What was moved
                before is not moved again.
        """
        if attempt != self._stalled_attempt:
            self._stalled_attempt, self._stalled = attempt, {}
        for bucket, milliseconds in totals.items():
            known = self._stalled.get(bucket, 0)
            if milliseconds > known:
                self._tally.move((milliseconds - known) * self._tally.weight, bucket)
                self._stalled[bucket] = milliseconds

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
            rest = self._work_since(worked_until, ended_at) - stalled_since * self._tally.weight
        self._tally.move(self._tally.unsettled - max(0, rest), bucket)

    def reclassify_tail(
        self, since: datetime, bucket: Bucket, ended_at: datetime | None = None
    ) -> None:
        """Move the unsettled work after `since` into `bucket`: it turned out to be no work.

        Args:
            since: when it stopped to be work.
            bucket: what it was instead.
            ended_at: see `settle`.
        """
        self._tally.move(self._work_since(since, ended_at), bucket)

    def take_back(self, since: datetime) -> None:
        """End the account at `since`: what was counted as work after that was none.

        Where some of it is settled, all of it stays, for no counter may go back. The account must
        have no time of others in it, since that is settled at once.
        """
        self._tally.take_back(_milliseconds(since))

    def close(self, accelerators: int) -> LedgerStatus:
        """Return the ledger to persist, its buckets in their one order.

        Args:
            accelerators: how many are to be counted from now on.
        """
        tally = self._tally
        return LedgerStatus(
            accelerator_milliseconds={
                bucket: tally.buckets[bucket] for bucket in Bucket if tally.buckets.get(bucket)
            },
            unsettled_milliseconds=tally.unsettled,
            accelerators=accelerators,
            accounted_until=EPOCH + tally.until * MILLISECOND,
            stalled_attempt=self._stalled_attempt,
            stalled_milliseconds=self._stalled,
        )

    def _work_since(self, moment: datetime, ended_at: datetime | None) -> int:
        end = self._tally.until if ended_at is None else _milliseconds(ended_at)
        return (end - _milliseconds(moment)) * self._tally.weight


def _milliseconds(moment: datetime) -> int:
    """Return whole milliseconds; all moments are cut alike, so that sums stay exact."""
    return (moment - EPOCH) // MILLISECOND


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
