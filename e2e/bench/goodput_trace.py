"""What the operator's decisions make of a recorded cluster: useful ÷ wanted capacity.

    make bench BENCH=goodput-trace TRACE=infinitehbd|spot-bamboo RATE=1|5|20 SEED=1

The sizes, growth, waiting and failure rate are the operator's own (`plan.sizing`), under a virtual
clock and without foresight; the training saves at the interval that is best for them. RATE=k lets
k recordings come down on the same nodes at once. The traces are looked for in $GOODPUT_TRACES,
else ../shared/traces.

- `G_cap`: useful ÷ wanted node time; `G_oracle`: the same for an oracle that has every healthy
  node at work at any moment and pays for nothing; `of_oracle` = G_cap ÷ G_oracle.
- `simulation_seconds`: of the elastic gang alone; `…_cpu_…` for a machine that others use, too.
- `loss`: where the rest of the wanted time went; with G_cap they sum to 1.
- `steps_of_8`: legal sizes are multiples of 8, and so are the oracle's.
- `fixed_unaided`: a fixed gang without us, of the size that is then best in hindsight. By
  assumption a fault shows after the ten minutes of torch's collective time-out, a restart takes
  ten more, a checkpoint on storage three. `of_fixed_unaided` = G_cap ÷ its G_cap.
- `fixed`: the same with our detection, restarts, copies, and spares that need no preparation. What
  is left of the advantage is elasticity's alone; the oracle's own, which nobody can pass, is
  `oracle_of_fixed`.
- `fixed_from_storage`: the same with our detection and restarts, but checkpoints that stand still
  for three minutes on storage. On infinitehbd at RATE=1 this gives 0.86 of the cluster's
  time, and 0.75 with 384 nodes (`fixed_from_storage_384`): the figures that are quoted for fixed
  gangs on this trace. Much of the difference is the checkpoint's, not elasticity's: `from_storage`
  is the elastic gang with such checkpoints.
- `at_once`: elastic, but grows whenever it can.
- `notice`: nodes say two minutes before that they will go (spot only).
- `planned_15_seconds`: a prepared restart takes 15 s, not 60 s, there too (spot only).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say
from goodput_operator.simulate.baselines import best_fixed
from goodput_operator.simulate.gang import Costs, Growth, Outcome, Spent, simulate
from goodput_operator.simulate.trace import READERS, Trace

from .harness import report

COSTS = {"infinitehbd": Costs(), "spot-bamboo": Costs(planned_restart=60_000)}
STORAGE_MILLISECONDS = 180_000
UNAIDED = Costs(detection=600_000, restart=600_000, stall=STORAGE_MILLISECONDS)
NOTICE_MILLISECONDS = 120_000
REACH = {
    ("infinitehbd", 1): {"of_oracle": 0.996, "of_fixed_unaided": 1.13, "steps_of_8": 0.996},
    ("infinitehbd", 5): {"of_oracle": 0.988, "of_fixed_unaided": 1.28, "steps_of_8": 0.989},
    ("infinitehbd", 20): {"of_oracle": 0.973, "of_fixed_unaided": 1.8, "steps_of_8": 0.974},
    ("spot-bamboo", 1): {"of_oracle": 0.78, "notice": 0.81},
}


def measure(name: str, trace: Trace, rate: int) -> dict[str, Any]:
    """Return the figures of one trace."""
    costs = COSTS[name]
    every = range(1, trace.wanted + 1)
    began, began_cpu = time.monotonic(), time.process_time()
    outcome = simulate(trace, every, costs)
    figures: dict[str, Any] = {
        "simulation_seconds": time.monotonic() - began,
        "simulation_cpu_seconds": time.process_time() - began_cpu,
    } | _all_of(outcome)
    say(f"elastic: {outcome.of_capacity:.4f} of capacity, {outcome.of_oracle:.4f} of the oracle")
    at_once = simulate(trace, every, costs, Growth.AT_ONCE)
    figures["at_once"] = _few_of(at_once)
    say(f"growing at once: {at_once.of_oracle:.4f} of the oracle")
    if name == "infinitehbd":
        figures["steps_of_8"] = _few_of(simulate(trace, every[7::8], costs))
    else:
        figures["notice"] = _few_of(
            simulate(trace, every, replace(costs, notice=NOTICE_MILLISECONDS))
        )
        prepared = replace(costs, planned_restart=15_000)
        figures["planned_15_seconds"] = _few_of(simulate(trace, every, prepared)) | {
            "at_once": _few_of(simulate(trace, every, prepared, Growth.AT_ONCE))
        }
    slow = replace(costs, stall=STORAGE_MILLISECONDS)
    for kind, theirs in (("", costs), ("_unaided", UNAIDED), ("_from_storage", slow)):
        say(f"searching the best fixed size{kind.replace('_', ' ')}")
        size, fixed = best_fixed(trace, theirs)
        figures[f"fixed{kind}"] = {"size": size} | _few_of(fixed)
        figures[f"of_fixed{kind}"] = outcome.of_capacity / fixed.of_capacity
    figures["oracle_of_fixed"] = figures["G_oracle"] / figures["fixed"]["G_cap"]
    figures["from_storage"] = _few_of(simulate(trace, every, slow))
    if name == "infinitehbd":
        figures["fixed_from_storage_384"] = _few_of(simulate(trace, (384,), slow))
    figures["reached"] = {
        key: (figures[key]["of_oracle"] if isinstance(figures[key], dict) else figures[key])
        >= least
        for key, least in REACH.get((name, rate), {}).items()
    }
    return figures


def _few_of(outcome: Outcome) -> dict[str, Any]:
    return {
        "G_cap": outcome.of_capacity,
        "of_oracle": outcome.of_oracle,
        "faults": outcome.faults,
        "growths": outcome.growths,
    }


def _all_of(outcome: Outcome) -> dict[str, Any]:
    wanted = sum(outcome.spent.values())
    loss = {
        spent.value: outcome.spent[spent] / wanted for spent in Spent if spent is not Spent.USEFUL
    }
    return _few_of(outcome) | {"G_oracle": outcome.allowed / wanted, "loss": loss}


def main() -> None:
    report.begin("goodput-trace")
    began = time.monotonic()
    name = os.environ.get("TRACE", "infinitehbd")
    rate, seed = int(os.environ.get("RATE", "1")), int(os.environ.get("SEED", "1"))
    if name not in READERS:
        sys.exit(f"TRACE={name} is not known; there are: {', '.join(READERS)}")
    chosen = {"bench": "goodput-trace", "trace": name, "rate": rate, "seed": seed}
    folder = Path(os.environ.get("GOODPUT_TRACES") or REPOSITORY.parent / "shared/traces") / name
    if not folder.is_dir():
        report.finish(chosen | {"skipped": f"no {folder}; set GOODPUT_TRACES to the traces"})
        return
    trace = READERS[name](folder).superposed(rate, seed)
    lasts = f"{trace.milliseconds / 86_400_000:.1f} days, {len(trace.outages)} outages"
    say(f"{trace.wanted} of {len(trace.nodes)} nodes, {lasts}")
    figures = measure(name, trace, rate)
    report.finish(chosen | figures | {"seconds": time.monotonic() - began}, digits=4)


if __name__ == "__main__":
    main()
