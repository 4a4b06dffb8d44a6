"""The ledger of an event log by brute force: each second is looked at by itself.

`spent` shares no code with `ledger.log`, is slow, and says the definition in the plainest way: in
which state is this second, and if it is work, what becomes of it later?
"""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from goodput_operator.api.status import Bucket
from goodput_operator.ledger import derived
from goodput_operator.ledger.log import Commit, Enter, Event, Fault, Finish, Log, Resize, Step

SECOND = 1000
STATES = (
    None,
    Bucket.SCHEDULING,
    Bucket.POD_START,
    Bucket.STARTUP,
    Bucket.RESTORE,
    Bucket.RECOVERY,
    Bucket.SUSPENDED,
    Bucket.CHECKPOINT_STALL,
    Bucket.DATA_STALL,
)
STALLS = (Bucket.CHECKPOINT_STALL, Bucket.DATA_STALL)
UNSETTLED = "unsettled"


MINUTE = 60_000

GOLDEN: tuple[Event, ...] = (
    Enter(0, Bucket.RESTORE),
    Enter(5 * MINUTE, None),
    Step(55 * MINUTE, 50),
    Enter(55 * MINUTE, Bucket.CHECKPOINT_STALL),
    Commit(60 * MINUTE, 50),
    Enter(60 * MINUTE, None),
    Step(100 * MINUTE, 70),
    Fault(100 * MINUTE),
    Enter(100 * MINUTE, Bucket.RECOVERY),
    Enter(115 * MINUTE, Bucket.RESTORE),
    Enter(120 * MINUTE, None),
    Step(195 * MINUTE, 75),
    Enter(195 * MINUTE, Bucket.CHECKPOINT_STALL),
    Commit(200 * MINUTE, 75),
    Finish(200 * MINUTE),
)
"""The example of Google's guide to measuring goodput (AI-Hypercomputer/resiliency): steps 25 to 75
in 200 minutes, with a crash."""

GOOGLES_PERCENTAGES = {
    "Total Time": 200,
    "Effective Computation Time": 50,
    "Checkpoint Loading": 5,
    "Training Progress Loss": 20,
    "Job Restart": 7.5,
    "Checkpoint Saving": 5,
    "Training Slowdown": 12.5,
}
"""The guide's own summary of it: minutes, then per cent of them."""


def spent(begin: int, weight: int, events: Sequence[Event]) -> dict[str, int]:
    """Return accelerator-milliseconds by bucket, and those that are unsettled."""
    times = [max([begin, *(one.at for one in events[: place + 1])]) for place in range(len(events))]
    finish = next((n for n, one in enumerate(events) if isinstance(one, Finish)), len(events) - 1)
    events, times = events[: finish + 1], times[: finish + 1]
    saved = _saved_by(events)
    found: Counter[str] = Counter()
    for second in range(begin, times[-1] if times else begin, SECOND):
        state, doing, missing = _state(events, times, second, weight)
        if missing:
            found[Bucket.DEGRADED] += missing * SECOND
        fate = state if state is not None else _fate(events, times, saved, second)
        found[fate] += doing * SECOND
    return {key: amount for key, amount in found.items() if amount}


def _state(
    events: Sequence[Event], times: Sequence[int], second: int, weight: int
) -> tuple[Bucket | None, int, int]:
    state: Bucket | None = Bucket.QUEUED
    missing = 0
    for at, event in zip(times, events, strict=True):
        if at > second:
            break
        match event:
            case Enter():
                state = event.bucket
            case Fault():
                state = Bucket.DETECTION
            case Step() if state not in STALLS:
                state = None
            case Resize():
                weight, missing = event.weight, event.missing
    return state, weight, missing


def _saved_by(events: Sequence[Event]) -> dict[int, int]:
    """Return, by the place of each commit, that of the last step that it covers.

    It covers the steps that were finished since the last fault, in their order, up to the first
    that is beyond it.
    """
    saved: dict[int, int] = {}
    for place, commit in enumerate(events):
        if not isinstance(commit, Commit):
            continue
        begin = max((n for n in range(place) if isinstance(events[n], Fault)), default=-1)
        earlier = max((saved[n] for n in saved if n > begin), default=begin)
        for number in range(earlier + 1, place):
            step = events[number]
            if isinstance(step, Step):
                if step.step > commit.step:
                    break
                saved[place] = number
    return saved


def _fate(events: Sequence[Event], times: Sequence[int], saved: dict[int, int], second: int) -> str:
    for place, event in enumerate(events):
        if times[place] <= second:
            continue
        if isinstance(event, Fault):
            return Bucket.LOST_WORK
        if isinstance(event, Finish):
            return Bucket.PRODUCTIVE
        if isinstance(event, Commit) and place in saved and times[saved[place]] > second:
            return Bucket.PRODUCTIVE
    return UNSETTLED


def read(events: tuple[Event, ...] | list[Event], weight: int = 1) -> Log:
    log = Log.begin(0, weight)
    for event in events:
        log.feed(event)
    return log


def counted(log: Log) -> dict[str, int]:
    """Return what `spent` does, as the log has it."""
    found = {bucket.value: amount for bucket, amount in log.tally.buckets.items()}
    found[UNSETTLED] = log.tally.unsettled
    return {key: amount for key, amount in found.items() if amount}


def googles_percentages() -> dict[str, float | Fraction]:
    """Return what the guide tells of its example, in its words."""
    buckets = read(GOLDEN).tally.buckets
    useful, ideal, whole = 75 - 25, 2 * MINUTE, sum(buckets.values())
    effective = derived.useful_goodput(useful, ideal, whole)
    slow = derived.slowdown(useful, ideal, buckets[Bucket.PRODUCTIVE])
    return {
        "Total Time": Fraction(whole, MINUTE),
        "Effective Computation Time": 100 * (effective or 0),
        "Checkpoint Loading": Fraction(100 * buckets[Bucket.RESTORE], whole),
        "Training Progress Loss": Fraction(100 * buckets[Bucket.LOST_WORK], whole),
        "Job Restart": Fraction(100 * buckets[Bucket.RECOVERY], whole),
        "Checkpoint Saving": Fraction(100 * buckets[Bucket.CHECKPOINT_STALL], whole),
        "Training Slowdown": Fraction(100 * slow, whole),
    }


def random_log(chance: random.Random) -> list[Event]:
    """Return what may befall a job within a minute or so, and some of what may not."""
    events: list[Event] = []
    at = step = committed = 0
    for _ in range(chance.randint(1, 16)):
        at += chance.choice((0, 1, 1, 2, 3, 7)) * SECOND
        moment = max(0, at - chance.choice((0,) * 19 + (5,)) * SECOND)  # some come late
        kind = chance.randrange(12)
        if kind < 3:
            events.append(Enter(moment, chance.choice(STATES)))
        elif kind < 8:
            step += chance.choice((1, 1, 1, 1, 2, -1, 1_000_000, -1_000_000))
            events.append(Step(moment, step))
        elif kind < 10:
            committed = step - chance.choice((0, 0, 0, 1, 3))
            events.append(Commit(moment, committed))
        elif kind == 10:
            events.append(Fault(moment))
            step = committed
        else:
            events.append(Resize(moment, chance.randint(0, 5), chance.choice((0, 0, 1, 3))))
    if chance.random() < 0.5:
        events.append(Finish(at + chance.randint(0, 3) * SECOND))
    return events
