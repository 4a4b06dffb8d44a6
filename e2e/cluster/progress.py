"""Say what takes long, with elapsed seconds, on standard error; be quiet about the rest."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import WaitTimeoutError

_started = time.monotonic()
_under_way: list[threading.Event] = []
"""The end of each step that has begun and is not over, the newest last."""


def say(text: str) -> None:
    """Print one line, stamped with the seconds since this process began."""
    print(f"[{time.monotonic() - _started:6.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str, every_seconds: float = 30.0) -> Iterator[None]:
    """Announce `what`, remind of it every `every_seconds`, and say how long it took.

    Of steps within a step, the innermost reminds.
    """
    say(what)
    began = time.monotonic()
    over = threading.Event()

    def remind() -> None:
        while not over.wait(every_seconds):
            if _under_way[-1:] == [over]:
                say(f"... still {what} ({time.monotonic() - began:.0f} s)")

    thread = threading.Thread(target=remind, daemon=True)
    _under_way.append(over)
    thread.start()
    try:
        yield
    finally:
        _under_way.remove(over)
        over.set()
        thread.join()
    say(f"{what}: done in {time.monotonic() - began:.1f} s")


def wait_until(
    predicate: Callable[[], object],
    what: str,
    timeout_seconds: float,
    interval_seconds: float = 0.1,
) -> None:
    """Return once `predicate` is true; it is asked every `interval_seconds`.

    Raises:
        WaitTimeoutError: it stayed false for `timeout_seconds`; the message names `what`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not predicate():
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(f"waited {timeout_seconds:g} s for {what}, in vain")
        time.sleep(interval_seconds)
