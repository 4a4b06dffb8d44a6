"""Every write of every scenario, failing in every way: does it come to the same in the end?

`plans` says all of them, `play` plays one, `main` (`make sweep-sim`) plays them all and prints
one line of JSON last; with REPLAY it plays one again and tells its whole history.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.simulation import oracle
from tests.simulation.apiserver import STALE, Fault
from tests.simulation.scenarios import CHANCE, SCENARIOS, WITHOUT_SDK, WORLDS
from tests.simulation.world import World, simulate

SEED = 1
DOUBLES = 300
SETTLE_SECONDS = 60.0
REST_SECONDS = 10.0
PROCESSES = 2
CHUNK = 20
TOLD_EVERY_SECONDS = 10.0
SHARES = 3
"""`make unit` plays one plan of so many, other ones each day."""
LOST_WRITES = 3
"""A crash saves so many writes at most: the events of one decision, which nobody tells then."""
CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
BY_NOTICE = frozenset({"drained"})
"""Where somebody must be there in time, or the training is not asked to save."""
VIEWS = frozenset({*STALE, Fault.UNOBSERVED})
"""Faults of the view: they matter where a pod is created or deleted."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: a scenario, and what happens to which of its writes, counted from 1."""

    scenario: str
    sdk: bool
    faults: tuple[tuple[int, Fault], ...]

    def __str__(self) -> str:
        title = self.scenario if self.sdk else f"{self.scenario}:no-sdk"
        return "@".join([title, *(f"{at}={fault.name.lower()}" for at, fault in self.faults)])

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """Read what `str` gives."""
        title, *faults = text.split("@")
        scenario, _, bare = title.partition(":")
        pairs = [one.split("=") for one in faults]
        return cls(scenario, not bare, tuple((int(at), Fault[name.upper()]) for at, name in pairs))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a plan.

    Attributes:
        wrong: what is wrong, in words and with the history that shows it; empty if nothing.
        length: entries of that history.
    """

    plan: Plan
    fired: bool
    wrong: str = ""
    length: int = 0


def titles() -> list[tuple[str, bool]]:
    """Every scenario, and whether the trainers use the SDK in it."""
    return [(name, True) for name in SCENARIOS] + [(name, False) for name in WITHOUT_SDK]


@cache
def fault_free(name: str, sdk: bool = True) -> World:
    """The world after a scenario in which nothing else goes wrong."""
    return simulate(SCENARIOS[name], sdk=sdk, **WORLDS.get(name, {}))


def plans(seed: int = SEED) -> list[Plan]:
    """Every fault at every write of every scenario, and pairs of crashes drawn by this seed."""
    return [*single_faults(), *double_crashes(seed)]


def share(day: int) -> list[Plan]:
    """Return the plans of one day: in `SHARES` days in a row they are all."""
    return plans()[day % SHARES :: SHARES]


def single_faults() -> Iterator[Plan]:
    for name, sdk in titles():
        for position, write in enumerate(fault_free(name, sdk).server.writes, start=1):
            for fault in Fault:
                if fault is Fault.CONFLICT and not write.startswith("update"):
                    continue
                if fault in VIEWS and " pods " not in write:
                    continue
                if fault is Fault.AWAY and name in BY_NOTICE:
                    continue
                yield Plan(name, sdk, ((position, fault),))


def double_crashes(seed: int) -> Iterator[Plan]:
    """The operator dies at two writes of one run."""
    chance = random.Random(seed)
    lengths = {one: len(fault_free(*one).server.writes) for one in titles()}
    pairs = [
        (title, first, second)
        for title, length in lengths.items()
        for first in range(1, length)
        for second in range(first + 1, length - LOST_WRITES)
    ]
    for (name, sdk), first, second in chance.sample(pairs, min(DOUBLES, len(pairs))):
        faults = (first, chance.choice(CRASHES)), (second, chance.choice(CRASHES))
        yield Plan(name, sdk, faults)


def play(plan: Plan) -> Result:
    """Play a plan to its end and judge it."""
    made: list[World] = []
    tries = plan.scenario not in CHANCE
    expected = fault_free(plan.scenario, plan.sdk).outcome(tries=tries)

    async def story(world: World) -> None:
        made.append(world)
        await SCENARIOS[plan.scenario](world)
        await world.until(lambda: world.outcome(tries=tries) == expected, seconds=SETTLE_SECONDS)
        await world.check_rest(REST_SECONDS)

    wrong = ""
    try:
        world = simulate(
            story, faults=dict(plan.faults), sdk=plan.sdk, **WORLDS.get(plan.scenario, {})
        )
        world.check(created_once=not STALE.keys() & {fault for _, fault in plan.faults})
        wrong = _difference(world.outcome(tries=tries), expected)
    except oracle.BrokenPromiseError as broken:
        wrong = str(broken)
    except AssertionError as failed:
        what = _difference(made[0].outcome(tries=tries), expected) or failed
        wrong = f"{what}\n{made[0].history.told()}"
    server = made[0].server
    fired = all(position in server.fired for position, _ in plan.faults)
    return Result(plan, fired, wrong, len(made[0].history.entries))


def _difference(came: dict[str, Any], expected: dict[str, Any]) -> str:
    """What is not as it would have been without a fault."""
    differs = [key for key in came if came[key] != expected[key]]
    return "; ".join(f"{key}: {came[key]}, not {expected[key]}" for key in differs)


def play_all(some: Iterable[Plan]) -> list[Result]:
    return [play(plan) for plan in some]


def main() -> int:
    """Sweep, or replay one plan; return the exit status."""
    if replay := os.environ.get("REPLAY"):
        return _replay(Plan.parse(replay))
    begin = time.monotonic()
    seed = int(os.environ.get("SEED") or SEED)
    all_plans = plans(seed)
    print(f"{len(all_plans)} plans of {len(titles())} scenarios, seed {seed}")
    results = list(_in_processes(all_plans, begin))
    for line in _complaints(results):
        print(line)
    wrong = sum(bool(one.wrong) for one in results)
    unfired = sum(not one.fired for one in results)
    points = {(plan.scenario, plan.sdk, plan.faults[0]) for plan in single_faults()}
    swept = {
        (one.plan.scenario, one.plan.sdk, one.plan.faults[0])
        for one in results
        if one.fired and len(one.plan.faults) == 1
    }
    summary = {
        "suite": "sweep-sim",
        "runs": len(results) + len(titles()),
        "plans": len(results),
        "fired": len(results) - unfired,
        "points": sum(len(fault_free(*title).server.writes) for title in titles()),
        "points_percent": 100 * len(points & swept) // len(points),
        "violations": wrong,
        "seed": seed,
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(json.dumps(summary))
    return 1 if wrong or unfired else 0


def _in_processes(all_plans: list[Plan], begin: float) -> Iterator[Result]:
    number = -(-len(all_plans) // CHUNK)
    chunks = [all_plans[start::number] for start in range(number)]  # a bit of everything in each
    done, told_at = 0, begin
    with ProcessPoolExecutor(PROCESSES) as pool:
        for results in pool.map(play_all, chunks):
            for result in results:
                if result.wrong or not result.fired:
                    print(f"{result.plan}: {_first_line(result) or 'did not fire'}", flush=True)
            yield from results
            done += len(results)
            if time.monotonic() - told_at > TOLD_EVERY_SECONDS:
                told_at = time.monotonic()
                print(f"{done} of {len(all_plans)} after {told_at - begin:.0f} s", flush=True)


def _complaints(results: list[Result]) -> Iterator[str]:
    """What went wrong, the shortest history first and whole."""
    wrong = sorted((one for one in results if one.wrong), key=lambda one: one.length)
    for number, result in enumerate(wrong):
        yield f"violation in {result.plan}: {result.wrong if not number else _first_line(result)}"
        yield f"  again: make sweep-sim REPLAY={result.plan}"
    for result in results:
        if not result.fired:
            yield f"did not fire: {result.plan}"


def _first_line(result: Result) -> str:
    return result.wrong.partition("\n")[0]


def _replay(plan: Plan) -> int:
    result = play(plan)
    print(result.wrong or f"{plan}: all promises are kept")
    if not result.fired:
        print("the fault did not fire")
    return 1 if result.wrong or not result.fired else 0


if __name__ == "__main__":
    sys.exit(main())
