"""The cgroups of the nodes: everything that a node runs is found, and ended, through them.

Version 1, with one hierarchy per controller, is what this was tested on. Version 2 is
implemented from its documentation and has not been tried.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from .paths import numbered
from .progress import wait_until

ROOT = Path("/sys/fs/cgroup")
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def top() -> str:
    """Return the name of the cgroup that all of this cluster's nodes are in."""
    return numbered("goodput")


def version() -> int:
    """Return 2 where the unified hierarchy has the controllers, else 1."""
    return 2 if (ROOT / "cgroup.controllers").exists() else 1


def hierarchies() -> list[Path]:
    """Return the mount points of all cgroup hierarchies, an empty unified one included."""
    if version() == 2:
        return [ROOT]
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted(Path(words[1]) for words in mounts if words[2] in ("cgroup", "cgroup2"))


def create(name: str) -> None:
    """Make the cgroup `<top>/<name>` in every hierarchy, ready to take processes."""
    for hierarchy in hierarchies():
        path = hierarchy
        for part in (top(), *name.split("/")):
            if version() == 2:
                _delegate(path)
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                # A new cpuset of version 1 is empty and takes no process until it is filled.
                if version() == 1 and (path / setting).exists():
                    (path / setting).write_text((parent / setting).read_text())


def joinable(name: str) -> list[Path]:
    """Return the directories whose `cgroup.procs` puts a process into `<top>/<name>`."""
    if version() == 2:
        return [ROOT / top() / name]
    return [path for h in hierarchies() if (path := h / top() / name).is_dir()]


def tracked(name: str = "") -> Path:
    """Return the one directory, of a hierarchy with all processes, that `pids` reads."""
    base = ROOT if version() == 2 else ROOT / "pids"
    return base / top() / name if name else base / top()


def pids(directory: Path) -> list[int]:
    """Return the pids, as the host counts, of all processes at or below a cgroup."""
    found: list[int] = []
    for folder, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                text = Path(folder, "cgroup.procs").read_text()
            except OSError:
                continue  # it went away in the meantime
            found += [int(word) for word in text.split()]
    return sorted(set(found))


def kill_all(name: str = "", timeout_seconds: float = 15) -> None:
    """SIGKILL everything at or below `<top>/<name>` until nothing is left.

    Raises:
        WaitTimeoutError: something outlived it for `timeout_seconds`.
    """
    directory = tracked(name)

    def empty() -> bool:
        alive = [pid for pid in pids(directory) if not _is_zombie(pid)]
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not alive

    wait_until(empty, f"the end of all processes in {directory}", timeout_seconds, 0.02)


def remove(name: str = "", timeout_seconds: float = 10) -> None:
    """Remove `<top>/<name>` from every hierarchy; it must hold no processes.

    Raises:
        WaitTimeoutError: the kernel still called it busy after `timeout_seconds`.
    """
    for hierarchy in hierarchies():
        whole = hierarchy / top() / name if name else hierarchy / top()
        wait_until(partial(_removed, whole), f"the removal of {whole}", timeout_seconds, 0.05)


def _removed(whole: Path) -> bool:
    for folder, _, _ in os.walk(whole, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return not whole.exists()


def _delegate(path: Path) -> None:
    available = (path / "cgroup.controllers").read_text().split()
    for controller in _V2_CONTROLLERS:
        if controller in available:
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
