"""The whole sweep: `make checkpoint-durability`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import dataclass, field

from tests.durability.corruptions import Bench, Corruption
from tests.durability.plans import (
    KILLS,
    REFUSALS,
    Outcome,
    Plan,
    fault_plans,
    play,
    stale_plans,
)

COMMAND = "PYTHONPATH=operator python -m tests.durability --replay"
PROGRESS_SECONDS = 10.0
TAIL = 25


@dataclass
class Tally:
    """What has been seen so far."""

    seed: int
    began_at: float = field(default_factory=time.monotonic)
    said_at: float = field(default_factory=time.monotonic)
    runs: int = 0
    fired: int = 0
    kill_points: int = 0
    refusals: int = 0
    stale: int = 0
    corruptions: int = 0
    violations: list[tuple[int, str, list[str], list[str]]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        plan = outcome.plan
        self.runs += 1
        self.fired += bool(plan.fault and outcome.fired)
        self.kill_points += plan.fault in KILLS and outcome.fired
        self.refusals += plan.fault in REFUSALS and outcome.fired
        self.stale += plan.names_kept_seconds > 0
        wrong = list(outcome.violations)
        if not outcome.fired:
            wrong.append("the fault did not fire")
        if wrong:
            history = [str(one) for one in outcome.operations]
            self.violations.append((len(history), f"{COMMAND} {plan}", wrong, history))
        self.progress()

    def add_corruption(self, corruption: Corruption, wrong: list[str]) -> None:
        self.runs += 1
        self.corruptions += 1
        self.fired += 1
        if wrong:
            command = f"{COMMAND} {corruption} --seed {self.seed}"
            self.violations.append((0, command, wrong, []))
        self.progress()

    def progress(self) -> None:
        now = time.monotonic()
        if now - self.said_at >= PROGRESS_SECONDS:
            self.said_at = now
            print(
                f"{now - self.began_at:4.0f} s: {self.kill_points} kills, "
                f"{self.corruptions} corruptions, {self.refusals} refusals, {self.stale} on stale "
                f"hosts, {len(self.violations)} with violations",
                flush=True,
            )

    def summary(self) -> dict[str, object]:
        texts = [text for _, _, wrong, _ in self.violations for text in wrong]
        return {
            "suite": "checkpoint-durability",
            "plans": self.runs,
            "runs": self.runs,
            "kill_points": self.kill_points,
            "corruptions": self.corruptions,
            "refusals": self.refusals,
            "stale": self.stale,
            "fired": self.fired,
            "lost": sum(text.startswith("lost") or "could not restore" in text for text in texts),
            "wrongly_restored": sum("wrongly restored" in text for text in texts),
            "violations": len(self.violations),
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.began_at, 1),
            "cpu_seconds": round(time.process_time(), 1),
        }


def sweep(seed: int, share: int = 1) -> Tally:
    """Run all plans, or each `share`-th of them."""
    tally = Tally(seed)
    for number, plan in enumerate([*stale_plans(seed), *fault_plans(seed)]):
        if number % share == 0:
            tally.add(play(plan))
    bench = Bench(seed)
    for number, corruption in enumerate(bench.corruptions()):
        if number % share == 0:
            tally.add_corruption(corruption, bench.judge(corruption))
    return tally


def _replay(text: str, seed: int) -> int:
    if text.count(":") == 3:
        corruption = Corruption.parse(text)
        wrong = Bench(seed).judge(corruption)
        history: list[str] = []
    else:
        outcome = play(Plan.parse(text))
        wrong, history = outcome.violations, [str(one) for one in outcome.operations]
    print(*history, *wrong, sep="\n")
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=int, default=1, help="run each n-th plan only")
    parser.add_argument("--replay", help="a plan that a violation has named")
    options = parser.parse_args()
    logging.getLogger("goodput.checkpoint").setLevel(logging.CRITICAL)
    if options.replay:
        return _replay(options.replay, options.seed)
    tally = sweep(options.seed, options.share)
    if tally.violations:
        _, command, wrong, history = min(tally.violations)
        print("the shortest history that shows a violation:", *history[-TAIL:], sep="\n  ")
        print(*wrong, sep="\n")
        print(f"again: {command}")
    print(json.dumps(tally.summary()))
    return bool(tally.violations or not tally.fired)


if __name__ == "__main__":
    sys.exit(main())
