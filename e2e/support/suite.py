"""`make test`: lint, then every test that can run on this machine.

Tests with nodes wait for most of their time, so they run side by side: those that can share a
cluster do, and those that take it apart have one for each worker. The tests that need no nodes
run behind them, with the lowest priority. What cannot run here is skipped, and pytest's summary
at the end says what and why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
WITH_CLUSTER = (
    ("tests/contract", f"--ignore={SWEEP}"),
    ("e2e", "-m", "not alone", "-n", "3", "-v"),
    ("e2e", "-m", "alone", "-n", "2", "--clusters-from=1", "-v"),
)
"""One after the other. Tests with nodes wait most of the time, so they do it side by side; those
that share no cluster have one for each worker."""
SECOND = "2"
"""The number of the second worker's cluster."""
NORMAL_PRIORITY, LOWEST_PRIORITY = 0, 19
WITHOUT_NODES = (
    (("tests", "--ignore=tests/contract", "-n", "2"), LOWEST_PRIORITY),
    ((SWEEP,), NORMAL_PRIORITY),
)
"""In the background, with their niceness: the operators of the sweep must not lose their leases."""


def main() -> int:
    """Run everything and return the exit status: 0 only when nothing failed."""
    # Not every process may begin on the same day.
    os.environ.setdefault("GOODPUT_SWEEP_SEED", str(datetime.now(UTC).toordinal()))
    with step("lint"):
        lint = subprocess.run(["make", "lint"], cwd=REPOSITORY, check=False).returncode
    tests = 0
    try:
        with tempfile.TemporaryDirectory(prefix="goodput-tests-") as memory, ExitStack() as end:

            def begin(what: tuple[str, ...], niceness: int, background: bool) -> Run:
                run = Run(what, Path(tempfile.mkdtemp(dir=memory)))
                end.callback(run.stop)
                run.start(niceness, background)
                return run

            end.enter_context(shared_cluster())
            if not cluster_command(SECOND, "status"):
                # pytest's worker removes it, but may have been stopped in its middle.
                end.callback(cluster_command, SECOND, "down")
            say("tests without nodes begin, in the background")
            behind = [begin(what, niceness, True) for what, niceness in WITHOUT_NODES]
            for what in WITH_CLUSTER:
                say(f"tests with a cluster: {' '.join(what)}")
                tests = begin(what, NORMAL_PRIORITY, False).finish() or tests
            for run in behind:
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


def cluster_command(number: str, command: str) -> bool:
    """Do this to another of the machine's clusters; return whether it went well."""
    done = subprocess.run(
        [sys.executable, "-m", "e2e.cluster", command],
        cwd=REPOSITORY,
        env={**os.environ, "GOODPUT_CLUSTER": number},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0


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

    def start(self, niceness: int, background: bool) -> None:
        """Begin; in the background, the output is shown by `finish`."""
        self._log = self.memory / "output" if background else None
        output = self._log.open("wb") if self._log else None
        argv = ["nice", f"-n{niceness}", *self._argv, *self.what]
        self._process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=output, stderr=output)
        if output is not None:
            output.close()

    def finish(self) -> int:
        """Wait for the end, and return the exit status."""
        assert self._process is not None
        self._show()
        first = self._process.wait()
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

    def _show(self) -> None:
        """Print what it has said in the background, and says until its end."""
        if self._log is None or self._process is None:
            return
        sys.stdout.flush()
        with self._log.open("rb") as log:
            ended = False
            while not ended:
                ended = self._process.poll() is not None
                for some in iter(lambda: log.read(65536), b""):
                    os.write(sys.stdout.fileno(), some)
                time.sleep(0 if ended else 0.5)

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
