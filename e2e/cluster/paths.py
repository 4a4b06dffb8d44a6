"""Where the cluster keeps what it makes: one cache that stays, one state that `down` removes."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Return the directory for binaries, images and torch; it outlives clusters."""
    chosen = os.environ.get("GOODPUT_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "goodput"


def cluster_number() -> int:
    """Return which of this machine's clusters is meant: `GOODPUT_CLUSTER`, from 1 to 9.

    They share nothing but the cache: each has addresses, ports, cgroups and names of its own.

    Raises:
        ClusterError: it is something else.
    """
    said = os.environ.get("GOODPUT_CLUSTER") or "1"
    if not re.fullmatch("[1-9]", said):
        raise ClusterError(f"GOODPUT_CLUSTER is {said!r}, and not a number from 1 to 9")
    return int(said)


def numbered(name: str) -> str:
    """Return a name of this machine for this cluster; the first one's has no number."""
    number = cluster_number()
    return name if number == 1 else f"{name}-{number}"


def state_dir() -> Path:
    """Return the directory of this cluster; `down` removes it whole."""
    base = os.environ.get("GOODPUT_CLUSTER_STATE") or "/var/lib/goodput-cluster"
    return Path(numbered(base)).absolute()


@contextmanager
def locked(path: Path, what: str, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock file `path`; it is removed again at the end.

    Raises:
        ClusterError: another process held it for `timeout_seconds`; the message names `what`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_seconds
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
        except BlockingIOError:
            pass
        os.close(handle)
        if time.monotonic() >= deadline:
            raise ClusterError(f"another process is busy with {what} (it holds {path})")
        time.sleep(0.1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
