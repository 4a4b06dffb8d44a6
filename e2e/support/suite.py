"""`make test`: lint, then every test that can run on this machine, on one cluster.

The tests that need no nodes run beside those that do, with the lowest priority: the latter
wait for most of their time. What cannot run here is skipped, and pytest's summary at the end
says what and why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import Cluster, unavailable_reason
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import say, step

SOME_FAILED = 1
"""pytest's exit status when tests ran and some of them failed."""
MOST_RETRIED = 5
"""More failures than these are no accident of a busy machine."""
SWEEP = "tests/contract/test_sweep.py"
BESIDE = (("tests", "--ignore=tests/contract", "-n", "2"), (SWEEP,))
"""Need no nodes, and run in the background."""
WITH_CLUSTER = (
    ("tests/contract", f"--ignore={SWEEP}"),
    ("e2e", "-m", "not alone", "-n", "3", "-v"),
    ("e2e", "-m", "alone"),
)
"""One after the other. Tests that can share the cluster wait most of the time, so they do it
side by side."""
LOWEST_PRIORITY = 19


def main() -> int:
    """Run everything and return the exit status: 0 only when nothing failed."""
    with step("lint"):
        lint = subprocess.run(["make", "lint"], cwd=REPOSITORY, check=False).returncode
    tests = 0
    try:
        with tempfile.TemporaryDirectory(prefix="goodput-tests-") as memory, ExitStack() as end:
            say("tests without nodes begin, in the background")
            beside = [Run(what, Path(memory) / str(n)) for n, what in enumerate(BESIDE)]
            for run in beside:
                end.callback(run.stop)
                run.start(LOWEST_PRIORITY)
            with shared_cluster():
                for number, what in enumerate(WITH_CLUSTER, len(BESIDE)):
                    say(f"tests with a cluster: {' '.join(what)}")
                    run = Run(what, Path(memory) / str(number))
                    end.callback(run.stop)
                    run.start()
                    tests = run.finish() or tests
            for run in beside:
                say(f"tests without nodes: {' '.join(run.what)}")
                tests = run.finish() or tests
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


@dataclass
class Run:
    """pytest over some folders; what failed is run once more, for others may use the machine.

    What passes only the second time is named: it is a bug in the test or in us all the same.
    """

    what: tuple[str, ...]
    memory: Path
    _process: subprocess.Popen[bytes] | None = None
    _log: Path | None = None

    def start(self, niceness: int = 0) -> None:
        """Begin; with a niceness, in the background: its output is shown by `finish`."""
        self.memory.mkdir()
        self._log = self.memory / "output" if niceness else None
        output = self._log.open("wb") if self._log else None
        argv = ["nice", f"-n{niceness}", *self._argv, *self.what]
        self._process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=output, stderr=output)
        if output is not None:
            output.close()

    def finish(self) -> int:
        """Wait for the end, and return the exit status."""
        assert self._process is not None
        first = self._process.wait()
        if self._log is not None:
            sys.stdout.flush()
            os.write(sys.stdout.fileno(), self._log.read_bytes())
        if first != SOME_FAILED:
            return first
        failed = sorted(json.loads((self.memory / "v" / "cache" / "lastfailed").read_text()))
        if len(failed) > MOST_RETRIED:
            return first
        say(f"once more: {', '.join(failed)}")
        second = subprocess.run([*self._argv, *failed], cwd=REPOSITORY, check=False).returncode
        if second == 0:
            say(f"UNSTABLE, passed the second time only: {', '.join(failed)}")
        return second

    def stop(self) -> None:
        """End it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    @property
    def _argv(self) -> list[str]:
        options = ["-p", "cacheprovider", "-o", f"cache_dir={self.memory}", "--durations=10"]
        return [sys.executable, "-m", "pytest", *options]


def _verdict(status: int) -> str:
    return "ok" if status == 0 else "FAILED"


if __name__ == "__main__":
    sys.exit(main())
