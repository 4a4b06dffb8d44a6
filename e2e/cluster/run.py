"""Run a command to its end, with a time limit, and turn its failure into one clear error."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import ClusterError, shown


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float = 60,
    check: bool = True,
    input_text: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` and return it with its output as text.

    Raises:
        ClusterError: it could not be started, took longer than `timeout_seconds`, or, when
            `check` is true, exited with another status than 0.
    """
    try:
        done = subprocess.run(
            argv,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            cwd=cwd,
            env=env,
            check=False,
        )
    except FileNotFoundError as missing:
        raise ClusterError(f"cannot run `{shown(argv)}`: {missing}") from missing
    except subprocess.TimeoutExpired as late:
        raise ClusterError(f"`{shown(argv)}` took longer than {timeout_seconds:g} s") from late
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ClusterError(f"`{shown(argv)}` exited {done.returncode}: {said}")
    return done
