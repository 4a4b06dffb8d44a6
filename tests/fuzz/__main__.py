"""`make fuzz`: TrainingJobs of every kind, through the pure path and on a real API server.

Prints one JSON line last. A violation prints its smallest job, and how to play it again.
"""

import argparse
import itertools
import json
import logging
import os
import random
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from e2e.cluster.progress import say
from tests.fuzz import shrink

CHUNK = 200
SAY_EVERY = 10.0


def pure(seed: int, objects: int, processes: int) -> shrink.Outcome:
    """Take at least so many states of jobs through the pure path."""
    total, said = shrink.Outcome(), time.monotonic()
    chunks = (range(begin, begin + CHUNK) for begin in itertools.count(0, CHUNK))
    with ProcessPoolExecutor(processes, initializer=_be_quiet) as pool:
        waiting = {pool.submit(shrink.run, seed, next(chunks)) for _ in range(2 * processes)}
        while waiting:
            done = next(as_completed(waiting))
            waiting.remove(done)
            one = done.result()
            total.cases += one.cases
            total.objects += one.objects
            total.refused += one.refused
            total.visits += one.visits
            total.violations += one.violations
            for found in one.violations:
                say(f"VIOLATION: case {found.number}: {found.place}: {found.message[:200]}")
            if total.objects < objects:
                waiting.add(pool.submit(shrink.run, seed, next(chunks)))
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                say(
                    f"{total.objects} states of {total.cases} jobs, {total.visits} passes, "
                    f"{len(total.violations)} violations"
                )
    return total


def explain(seed: int, violations: list[shrink.Violation]) -> None:
    """Print each kind of violation once, by its smallest job."""
    for place in sorted({one.place for one in violations}):
        alike = [one for one in violations if one.place == place]
        first = min(alike, key=lambda one: one.number)
        print(f"\nVIOLATION ({len(alike)} times): {place}: {first.message}")
        print(f"  the smallest: {json.dumps(shrink.shrunk(seed, first), ensure_ascii=True)}")
        print(f"  play it again: make fuzz SEED={seed} CASE={first.number}")


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)
    os.nice(5)


def main() -> int:
    """Run what the command line asks for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is to be ended
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--case", type=int, default=None, help="play this one of the seed alone")
    parser.add_argument("--pure", type=int, default=100_000)
    parser.add_argument("--real", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    began = time.monotonic()
    say(f"seed {seed}")
    if given.case is not None:
        outcome, real = shrink.run(seed, range(given.case, given.case + 1)), None
    else:
        outcome = pure(seed, given.pure, given.processes) if given.pure else shrink.Outcome()
        real = None
        if given.real:
            from tests.fuzz import real as on_a_server

            real = on_a_server.run(seed, given.real)
    explain(seed, outcome.violations)
    tracebacks = sum(one.traceback for one in outcome.violations)
    figures = {
        "suite": "fuzz",
        "pure": outcome.objects,
        "real": real.objects if real else 0,
        "tracebacks": tracebacks + (real.tracebacks if real else 0),
        "refused": outcome.refused + (real.refused if real else 0),
        "accepted": outcome.objects - outcome.refused + (real.accepted if real else 0),
        "violations": len(outcome.violations) + (len(real.violations) if real else 0),
        "passes": outcome.visits + (real.passes if real else 0),
        "seed": seed,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(figures), flush=True)
    return 1 if figures["violations"] or figures["tracebacks"] else 0


if __name__ == "__main__":
    sys.exit(main())
