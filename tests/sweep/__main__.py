"""`make sweep`: every plan on a real API server, or those that are asked for."""

import argparse
import json
import random
import signal
import sys
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from e2e.cluster.preflight import unavailable_reason
from e2e.cluster.progress import say
from tests.sweep.memory import Memory, commit
from tests.sweep.sweep import main_on_own_plane


def main() -> int:
    """Sweep; exit status 0 only when nothing was violated."""
    parser = argparse.ArgumentParser(prog="make sweep")
    parser.add_argument("--plan", default="", help="names of plans, or how some begin: a,b")
    parser.add_argument("--sample", type=int, default=0, help="play so many plans only")
    parser.add_argument(
        "--limit-seconds", type=float, default=inf, help="begin no plan so long after the first"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the order and of a sample")
    parser.add_argument("--lanes", type=int, default=10, help="operators side by side")
    parser.add_argument("--result", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    reason = unavailable_reason("api")
    if reason is not None:
        print(f"no control plane can run here: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is to be ended
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    whole = not given.plan and not given.sample
    say(f"sweep of {commit()}")
    figures = main_on_own_plane(
        lanes=given.lanes,
        seed=seed,
        memory=Memory.of_this_code() if whole else Memory(None),
        sample=given.sample,
        limit_seconds=given.limit_seconds,
        only=given.plan,
    )
    if given.result is not None:
        dated = {"commit": commit(), "date": datetime.now(UTC).date().isoformat(), **figures}
        given.result.write_text(json.dumps(dated, indent=2) + "\n")
    print(json.dumps(figures), flush=True)
    return 0 if figures["violations"] == 0 and figures["fired"] == figures["plans"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
