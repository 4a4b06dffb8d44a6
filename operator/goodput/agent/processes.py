"""Start, signal and reap the training processes, and find out how they ended.

Each process leads a session of its own. Whatever they start stays below us in the tree, for we
are PID 1 or, where the pod shares its PID namespace, a child subreaper: when we have no child
left, nothing of ours is alive. Sidecars and `kubectl exec` are never our children.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from goodput.agent.output import Output, Tail
from goodput.protocol import ProcessExit

OOM_COUNTERS = (
    "/sys/fs/cgroup/memory.events",  # cgroup v2
    "/sys/fs/cgroup/memory/memory.oom_control",  # cgroup v1
)
START_ERROR_NOT_FOUND = 127
START_ERROR_NOT_EXECUTABLE = 126

_PR_SET_CHILD_SUBREAPER = 36
_MAX_ERROR_FILE_BYTES = 256 * 1024


class Launch(NamedTuple):
    """A process to start.

    Attributes:
        rank: its global rank (the first one, for a launcher that starts several).
        error_file: where torchelastic's `@record` writes in this process.
        alone: the worker has no other process: its output is passed on as it is.
    """

    rank: int
    command: Sequence[str]
    environment: Mapping[str, str]
    error_file: str
    alone: bool


class _Process(NamedTuple):
    launch: Launch
    popen: "subprocess.Popen[bytes]"
    tail: Tail
    oom_kills: int


class Member(NamedTuple):
    """A living process below us: its process id, its process group and its session."""

    pid: int
    group: int
    session: int


def become_subreaper() -> bool:
    """Have the orphans among our descendants become our children; True when they do."""
    if os.getpid() == 1:
        return True
    try:
        result: int = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return result == 0


class Processes:
    """The training processes of one attempt and all that they have started."""

    def __init__(self, output: Output, oom_counters: Sequence[str] = OOM_COUNTERS) -> None:
        self._output = output
        self._oom_counters = oom_counters
        self._running: Dict[int, _Process] = {}
        self._sessions: Set[int] = set()
        self._reaps_orphans = become_subreaper()

    def start(self, launch: Launch, now: int) -> Optional[ProcessExit]:
        """Start one process; return None, or why it could not be started at `now`."""
        try:
            popen = subprocess.Popen(
                list(launch.command),
                env=dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return _start_error(launch, error, now)
        assert popen.stdout is not None
        assert popen.stderr is not None
        # The output thread owns the descriptors from here on.
        stdout, stderr = os.dup(popen.stdout.fileno()), os.dup(popen.stderr.fileno())
        popen.stdout.close()
        popen.stderr.close()
        prefix = "" if launch.alone else "[{}] ".format(launch.rank)
        tail = self._output.attach(stdout, stderr, prefix)
        self._running[popen.pid] = _Process(launch, popen, tail, self._oom_kills())
        self._sessions.add(popen.pid)
        return None

    @property
    def running(self) -> int:
        """How many of the processes that we started have not been reaped."""
        return len(self._running)

    def reap(self, now: int) -> List[ProcessExit]:
        """Take in all that have ended, orphans too, and return the exits of our processes."""
        exits = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            process = self._running.pop(pid, None)
            if process is not None:
                exits.append(self._explain(process, status, now))
        return exits

    def empty(self) -> bool:
        """Whether nothing of ours is alive: neither process, nor child, nor grandchild."""
        try:
            # Looks without taking: an end must be seen by `reap`, which knows the process.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            if not self._reaps_orphans and self.members():
                return False
            self._sessions.clear()
            return True
        return False

    def signal(self, number: int, everyone: bool) -> None:
        """Send a signal to our processes; with `everyone` to all below them, too."""
        if not everyone:
            for pid in self._running:
                _send(pid, number)
            return
        members = self.members()
        for group in sorted({member.group for member in members} & self._sessions):
            _send(-group, number)
        for member in members:
            if member.group not in self._sessions:
                _send(member.pid, number)

    def members(self) -> List[Member]:
        """Return all living processes that descend from us or belong to a session of ours."""
        return find_members(os.getpid(), self._sessions)

    def _explain(self, process: _Process, status: int, now: int) -> ProcessExit:
        self._output.settle(process.tail)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + number if number else os.WEXITSTATUS(status)
        process.popen.returncode = -number if number else code  # it must not wait for the pid
        if code == 0:
            return ProcessExit(rank=process.launch.rank, at=now, exit_code=0, reason="Completed")
        oom = self._oom_kills() > process.oom_kills
        reason = "Killed" if number else "Error"
        # A launcher whose child was killed for memory ends with an exit code of its own.
        if oom and (code == 128 + signal.SIGKILL or process.launch.alone):
            reason = "OutOfMemory"
        return ProcessExit(
            rank=process.launch.rank,
            at=now,
            exit_code=code,
            signal=number,
            reason=reason,
            exception=read_error_file(process.launch.error_file) or process.tail.exception,
            last_lines=process.tail.last_lines(),
        )

    def _oom_kills(self) -> int:
        return sum(_oom_kills(path) for path in self._oom_counters)


def find_members(root: int, sessions: Set[int]) -> List[Member]:
    """Return the living descendants of `root`, and the living members of `sessions`.

    A zombie is not alive, unless it is a process whose first thread alone has ended.
    """
    table: Dict[int, Tuple[int, Member, bool]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            entry = _read_stat(int(name))
            if entry is not None:
                table[int(name)] = entry
    ours = {root}
    grown = True
    while grown:
        found = {pid for pid, (parent, _, _) in table.items() if parent in ours} - ours
        ours |= found
        grown = bool(found)
    return [
        member
        for pid, (_, member, alive) in sorted(table.items())
        if alive and pid != root and (pid in ours or member.session in sessions)
    ]


def _read_stat(pid: int) -> Optional[Tuple[int, Member, bool]]:
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            # The name may hold spaces and brackets; the last bracket ends it.
            state, parent, group, session = file.read().rpartition(b")")[2].split()[:4]
        alive = state not in (b"Z", b"X") or len(os.listdir("/proc/{}/task".format(pid))) > 1
    except (OSError, ValueError):
        return None
    return int(parent), Member(pid, int(group), int(session)), alive


def read_error_file(path: str) -> str:
    """Return the exception that torchelastic's `@record` left in this file, else nothing."""
    try:
        with open(path, "rb") as file:
            message = json.loads(file.read(_MAX_ERROR_FILE_BYTES))["message"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    if isinstance(message, dict):
        message = message.get("message")
    lines = message.strip().splitlines() if isinstance(message, str) else []
    return lines[0] if lines else ""


def _oom_kills(path: str) -> int:
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    except (OSError, ValueError):
        pass
    return 0


def _start_error(launch: Launch, error: Exception, now: int) -> ProcessExit:
    missing = isinstance(error, FileNotFoundError)
    why = "command not found" if missing else getattr(error, "strerror", None) or str(error)
    return ProcessExit(
        rank=launch.rank,
        at=now,
        exit_code=START_ERROR_NOT_FOUND if missing else START_ERROR_NOT_EXECUTABLE,
        reason="StartError",
        exception="{}: {}".format(launch.command[0] if launch.command else "", why),
    )


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
