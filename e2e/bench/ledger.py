"""How fast the ledger of an event log is, and whether it is exact.

    make bench BENCH=ledger

- `events_per_second`: that one core reads, of a job of a thousand accelerators that trains, saves
  and breaks; by the processor's time, the best of five, for others may use the machine, too.
- `golden_exact`: 1 where the published example of Google's guide comes out to the digit.
- `oracle_cases`: random logs that were counted second by second by brute force, too;
  `oracle_difference`: how many accelerator-milliseconds the two differ by, all together.
SEED=n takes other random logs.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import islice

from goodput_operator.api.status import Bucket
from goodput_operator.ledger.log import Commit, Enter, Event, Fault, Log, Step
from tests.unit.ledger import oracle

from .harness import report

EVENTS = 1_000_000
CASES = 10_000
ROUNDS = 5
EVENTS_PER_SECOND = 200_000
"""What is to be reached; all that must be exact is to be so."""


def training() -> Iterator[Event]:
    """An endless log: a step a second, a commit of 4 s after ten, a fault after a thousand."""
    at = step = 0
    while True:
        yield Enter(at, Bucket.STARTUP)
        at += 30_000
        for number in range(1, 1001):
            at, step = at + 1000, step + 1
            yield Step(at, step)
            if number % 10 == 0:
                yield Enter(at, Bucket.CHECKPOINT_STALL)
                at += 4000
                yield Commit(at, step)
                yield Enter(at, None)
        at += 1500
        yield Fault(at)
        at += 5000
        yield Enter(at, Bucket.RECOVERY)
        at += 2000


def events_per_second() -> float:
    events = list(islice(training(), EVENTS))
    best = 0.0
    for _ in range(ROUNDS):
        log = Log.begin(0, 1000)
        began = time.process_time()
        for event in events:
            log.feed(event)
        best = max(best, EVENTS / (time.process_time() - began))
        assert sum(log.tally.buckets.values()) + log.tally.unsettled == 1000 * log.tally.until
    return best


def oracle_difference(seed: int) -> int:
    chance = random.Random(seed)
    difference = 0
    for _ in range(CASES):
        weight, events = chance.randint(1, 10_000), oracle.random_log(chance)
        ours, theirs = oracle.counted(oracle.read(events, weight)), oracle.spent(0, weight, events)
        difference += sum(
            abs(ours.get(key, 0) - theirs.get(key, 0)) for key in ours.keys() | theirs.keys()
        )
    return difference


def main() -> None:
    report.begin("ledger")
    seed = int(os.environ.get("SEED", "1"))
    speed, difference = round(events_per_second()), oracle_difference(seed)
    golden = oracle.googles_percentages() == oracle.GOOGLES_PERCENTAGES
    figures = {
        "bench": "ledger",
        "seed": seed,
        "events_per_second": speed,
        "golden_exact": int(golden),
        "oracle_cases": CASES,
        "oracle_difference": difference,
        "reached": speed >= EVENTS_PER_SECOND and golden and difference == 0,
    }
    report.finish(figures)


if __name__ == "__main__":
    main()
