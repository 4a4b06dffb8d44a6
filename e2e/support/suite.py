"""`make test`: lint, then every test that can run on this machine, on one cluster.

What cannot run here is skipped, and pytest's summary at the end says what and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import Cluster, unavailable_reason
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say, step

SOME_FAILED = 1
"""pytest's exit status when tests ran and some of them failed."""
MOST_RETRIED = 5
"""More failures than these are no accident of a busy machine."""


def main() -> int:
    """Run everything and return the exit status: 0 only when nothing failed."""
    with step("lint"):
        lint = subprocess.run(["make", "lint"], cwd=REPOSITORY, check=False).returncode
    try:
        with shared_cluster():
            tests = _pytest()
    except ClusterError as failed:
        print(f"error: {failed}", file=sys.stderr)
        tests = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    say(f"lint {_verdict(lint)}, tests {_verdict(tests)}")
    return 0 if lint == tests == 0 else 1


@contextmanager
def shared_cluster() -> Iterator[None]:
    """Keep one cluster for all that follows: the one that is up, else one made for the time.

    Where real nodes cannot run there is none, and the tests say so for themselves.
    """
    if is_up():
        say("using the cluster that is up")
        yield
        return
    reason = unavailable_reason("node")
    if reason is not None:
        say(f"no cluster with nodes here: {reason}")
        yield
        return
    Cluster.up()
    try:
        yield
    finally:
        with step("removing the cluster"):
            Cluster.down()


def is_up() -> bool:
    """Tell whether a healthy cluster with nodes is running."""
    try:
        cluster = Cluster.attach()
        return bool(cluster.nodes) and cluster.unhealthy_reason() is None
    except (ClusterError, OSError):  # none is up, or it is another user's
        return False


def _pytest() -> int:
    """Run all tests; run once more what failed, because others may use this machine, too.

    What passes only the second time is named: it is a bug in the test or in us all the same.
    """
    say("tests: unit, contract, e2e")
    with tempfile.TemporaryDirectory(prefix="goodput-tests-") as memory:
        argv = [sys.executable, "-m", "pytest", "-o", f"cache_dir={memory}", "--durations=10"]
        first = subprocess.run([*argv, "tests", "e2e"], cwd=REPOSITORY, check=False).returncode
        if first != SOME_FAILED:
            return first
        failed = sorted(json.loads((Path(memory) / "v" / "cache" / "lastfailed").read_text()))
        if len(failed) > MOST_RETRIED:
            return first
        say(f"once more: {', '.join(failed)}")
        second = subprocess.run([*argv, *failed], cwd=REPOSITORY, check=False).returncode
    if second == 0:
        say(f"UNSTABLE, passed the second time only: {', '.join(failed)}")
    return second


def _verdict(status: int) -> str:
    return "ok" if status == 0 else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
