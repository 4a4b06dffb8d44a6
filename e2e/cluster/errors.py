"""The one error that this package raises for its user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ClusterError(Exception):
    """Something about the cluster went wrong; the message is one or two plain sentences."""


class WaitTimeoutError(ClusterError):
    """A bounded wait ran out of time."""


def log_tail(path: Path, lines: int = 12) -> str:
    """Return where a log lies and its last `lines` lines, for an error message."""
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return f"(no log at {path})"
    return f"the end of {path}:\n" + "\n".join(f"    {line[:400]}" for line in text[-lines:])


def shown(argv: Sequence[str]) -> str:
    """Return a command line short enough for a message."""
    text = " ".join(argv)
    return text if len(text) <= 160 else text[:157] + "..."
