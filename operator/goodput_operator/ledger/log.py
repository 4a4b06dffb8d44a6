"""The ledger of an event log: what a training's own notes make of its time.

Pure and streaming: each event is read once and costs a constant time, however long the log. The
operator accounts by what it sees of a job, pass by pass (`ledger.accounting`); this reads what
was written down: by a script, a launcher, or another operator. Both keep one `Tally`, and so one
definition of what settles work:

- time belongs to the bucket that the last `Enter` named; of None it is work, unsettled for now;
- a `Step` says that work up to now has finished it, and begins the work of an attempt whose start
  nobody has called over;
- a `Commit` makes productive what had been worked when the newest step that it covers was finished;
- a `Fault` makes lost what no commit covers, and from there on it is `detection`;
- `Finish` makes the rest productive, for a finished training needs no checkpoint.
"""

from collections import deque
from dataclasses import dataclass, field

from goodput_operator.api.status import Bucket
from goodput_operator.ledger.tally import Tally


@dataclass(frozen=True, slots=True)
class Enter:
    """From `at` on time belongs to `bucket`; None: to work."""

    at: int
    bucket: Bucket | None


@dataclass(frozen=True, slots=True)
class Step:
    """`step` was finished at `at`."""

    at: int
    step: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A checkpoint of the state after `step` has been durable since `at`."""

    at: int
    step: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Training was broken off at `at`."""

    at: int


@dataclass(frozen=True, slots=True)
class Resize:
    """From `at` on `weight` accelerators take part, and `missing` further ones are wanted."""

    at: int
    weight: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """All is trained; no time counts after `at`."""

    at: int


Event = Enter | Step | Commit | Fault | Resize | Finish
"""What a log has, in order of time. Times are whole milliseconds of any one clock; one that lies
before its predecessor's counts as that."""

_TRAINING = (None, Bucket.CHECKPOINT_STALL, Bucket.DATA_STALL)
"""Where time goes between the first step of an attempt and its end."""


@dataclass(slots=True)
class Log:
    """The ledger of all events that were fed.

    Attributes:
        tally: the sum so far.
        bucket: to what the time since the last event belongs; None: to work.
        finished: nothing counts any more.
    """

    tally: Tally
    bucket: Bucket | None = Bucket.QUEUED
    finished: bool = False
    _worked: int = 0
    _steps: deque[tuple[int, int]] = field(default_factory=deque)

    @classmethod
    def begin(cls, at: int, weight: int = 1) -> "Log":
        """Begin with a job that was created at `at` and waits, of `weight` accelerators."""
        return cls(Tally(weight=weight, until=at))

    def feed(self, event: Event) -> None:
        """Take the next event in."""
        if self.finished:
            return
        added = self.tally.add(event.at, self.bucket)
        if self.bucket is None:
            self._worked += added
        if isinstance(event, Step):
            self._steps.append((event.step, self._worked))
            if self.bucket not in _TRAINING:
                self.bucket = None
        elif isinstance(event, Enter):
            self.bucket = event.bucket
        elif isinstance(event, Commit):
            self._commit(event.step)
        elif isinstance(event, Fault):
            self.tally.move(self.tally.unsettled, Bucket.LOST_WORK)
            self._steps.clear()
            self.bucket = Bucket.DETECTION
        elif isinstance(event, Resize):
            self.tally.weight, self.tally.missing = event.weight, event.missing
        else:
            self.tally.move(self.tally.unsettled, Bucket.PRODUCTIVE)
            self.finished = True

    def _commit(self, step: int) -> None:
        covered, steps = None, self._steps
        while steps and steps[0][0] <= step:
            covered = steps.popleft()[1]
        if covered is not None:
            since = self._worked - covered
            self.tally.move(self.tally.unsettled - since, Bucket.PRODUCTIVE)
