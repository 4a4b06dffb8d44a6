"""Runs pytest many times, each time in a process of its own, without importing everything anew.

Each is forked from a server process that has imported the libraries, of which nothing is ours:
what a variant alters, and what tests leave behind, ends with its process.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    "aiohttp",
    "cryptography.x509",
    "hypothesis",
    "kopf",
    "kubernetes.aio.client",
    "kubernetes.aio.config",
    "prometheus_client",
    "pydantic",
    "pytest",
    "yaml",
)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(LIBRARIES))


def run_pytest(arguments: Sequence[str], output: Path, most_seconds: float | None) -> bool:
    """Run pytest to its end; return False when it did not end in time, and was killed.

    Args:
        arguments: of pytest.
        output: the file for all that it prints.
        most_seconds: how long it may take; None for as long as it wants.
    """
    process = _forks.Process(target=_session, args=(list(arguments), str(output)))
    process.start()
    process.join(most_seconds)
    in_time = not process.is_alive()
    if not in_time:
        process.kill()
        process.join()
    process.close()
    return in_time


def _session(arguments: list[str], output: str) -> None:
    import pytest

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    # Most of the time goes into compiling the same tests, if nothing may be kept.
    sys.dont_write_bytecode = sys.pycache_prefix is None
    status = int(pytest.main(arguments))
    sys.stdout.flush()
    os._exit(status)  # whatever threads a bug has left behind
