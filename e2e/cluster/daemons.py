"""Start and end long-running processes by pid files that cannot be mistaken.

A pid file holds the pid and the start time that the kernel counts for it, written by the
process itself just before it becomes the daemon. So a file exists for everything that was
started, however abruptly the starter died, and a pid that another process has taken since
is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError, WaitTimeoutError, log_tail, shown
from .progress import wait_until

_LAUNCH = """
pid_file=$1; shift
while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift
start_time() { eval "echo \\${22}"; }
echo "$$ $(start_time $(cat /proc/$$/stat))" > "$pid_file.new"
mv "$pid_file.new" "$pid_file"
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process known by its pid file; `name` is unique within one state directory."""

    name: str
    state: Path

    @property
    def pid_file(self) -> Path:
        """The file that holds the pid and its start time in clock ticks after boot."""
        return self.state / "pids" / self.name

    @property
    def log(self) -> Path:
        """The file that takes standard output and standard error."""
        return self.state / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The pid while the process lives, else None."""
        try:
            pid, started = (int(word) for word in self.pid_file.read_text().split())
        except (OSError, ValueError):
            return None
        return pid if _start_time(pid) == started else None

    def start(
        self,
        argv: Sequence[str],
        *,
        cgroups: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start `argv` detached, inside `cgroups` from its first instruction; return the pid.

        Raises:
            ClusterError: it is not there within ten seconds.
        """
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        joins = [str(cgroup / "cgroup.procs") for cgroup in cgroups]
        launch = ["setsid", "sh", "-c", _LAUNCH, "sh", str(self.pid_file), *joins, "--", *argv]
        with self.log.open("ab") as log:
            # The outer shell ends at once, so the daemon is no child of ours, nor ever a zombie.
            subprocess.run(
                ["sh", "-c", '"$@" &', "sh", *launch],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if env is None else {**os.environ, **env},
                timeout=10,
                check=True,
            )
        try:
            wait_until(self.pid_file.exists, f"`{shown(argv)}`", 10, interval_seconds=0.005)
        except WaitTimeoutError as late:
            raise ClusterError(f"{self.name} did not start; {log_tail(self.log)}") from late
        pid = self.pid
        if pid is None:
            raise ClusterError(f"{self.name} ended at once; {log_tail(self.log)}")
        return pid

    def stop(self) -> None:
        """Kill it and wait for its end. Does nothing when it is gone.

        Raises:
            WaitTimeoutError: SIGKILL did not end it within ten seconds.
        """
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.pid is None, f"the end of {self.name}", 10, 0.01)
        self.pid_file.unlink(missing_ok=True)


def _start_time(pid: int) -> int | None:
    """Return when a living process started, in clock ticks; None for dead ones and zombies."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if fields[0] in "ZX" else int(fields[19])
