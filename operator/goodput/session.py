"""What a training process says to its agent, and what it knows of itself.

```python
from goodput import session

for step in range(first, last + 1):
    train(step)
    session.step(step)
```

Every rank may call `step`; an agent takes the newest word of its ranks. Saying is free: one
datagram to a Unix socket (the wire: the end of `goodput.protocol`), at most four a second,
never waited for, dropped when nobody listens. Outside a cluster nothing is sent at all. Only
what is rare and cannot be said again, a commit or a restore, waits up to a second for a busy
agent: Linux queues as few as ten datagrams.

A step is counted when it is *finished*: `step(7)` says that seven steps are done, and a
checkpoint of step 7 goes on with the eighth.
"""

import atexit
import collections
import json
import os
import socket
import statistics
import time
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Tuple

from goodput import protocol

REPORT_SECONDS = 0.25
"""At most one step report in this time."""

_BUSY_AGENT_SECONDS = 1.0
_PLACES = (
    ("RANK", "WORLD_SIZE"),
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_DURATIONS_KEPT = 31  # long enough to outvote checkpoints and garbage collections


class Session:
    """One training process in its attempt, as its environment describes it.

    Attributes:
        rank: this process's place in the world, in the words of torch, JAX or Slurm; 0 when
            nothing says it.
        world_size: training processes of the gang; 1 when nothing says it.
        attempt: the operator's number for this generation of the gang, None outside.
    """

    def __init__(
        self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rank, self.world_size = _place(environ)
        self.attempt = _number(environ, protocol.ENV_ATTEMPT)
        self._agent = environ.get(protocol.ENV_AGENT, "")
        self._clock = clock
        self._socket: Optional[socket.socket] = None
        self._patience_seconds = _BUSY_AGENT_SECONDS
        self._step: Optional[int] = None
        self._step_at = 0.0
        self._said: Optional[int] = None
        self._next_report_at = 0.0
        self._durations: Deque[float] = collections.deque(maxlen=_DURATIONS_KEPT)

    def step(self, step: int) -> None:
        """Say that `step` has been finished just now. Costs about a microsecond."""
        now = self._clock()
        before = self._step
        if before is not None and step > before:
            self._durations.append((now - self._step_at) / (step - before))
        self._step = step
        self._step_at = now
        if self._agent and now >= self._next_report_at:
            self._next_report_at = now + REPORT_SECONDS
            self._report_step()

    def close(self) -> None:
        """Say the newest step if it has not been said yet, and no more after that."""
        if self._step is not None and self._step != self._said:
            self._report_step()
        self._agent = ""
        if self._socket is not None:
            self._socket.close()

    def finished_at(self, step: int) -> float:
        """Return when `step` was finished, on the monotonic clock: now, if nothing is known."""
        return self._step_at if step == self._step else self._clock()

    def say(self, kind: str, at: Optional[float] = None, **what: Any) -> None:
        """Send one datagram to the agent; a `hello` goes before the first."""
        if not self._agent:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._send("hello", self._clock(), {"pid": os.getpid()})
        self._send(kind, self._clock() if at is None else at, what)

    def _report_step(self) -> None:
        milliseconds = None
        if self._durations:
            milliseconds = max(1, round(statistics.median(self._durations) * 1000))
        self._said = self._step
        self.say("step", self._step_at, step=self._step, milliseconds=milliseconds)

    def _send(self, kind: str, at: float, what: Dict[str, Any]) -> None:
        whole = {"kind": kind, "rank": self.rank, "attempt": self.attempt or 0, "at": at, **what}
        text = json.dumps(whole, separators=(",", ":")).encode("ascii")
        if self._socket is not None and len(text) <= protocol.MAX_DATAGRAM_BYTES:
            self._socket.settimeout(0 if kind == "step" else self._patience_seconds)
            try:
                self._socket.sendto(text, self._agent)
                self._patience_seconds = _BUSY_AGENT_SECONDS
            except OSError:  # nobody listens, or not fast enough: so be it
                if kind != "step":
                    self._patience_seconds = 0.0  # an agent that is stuck is waited for once


def _place(environ: Mapping[str, str]) -> Tuple[int, int]:
    for rank_name, size_name in _PLACES:
        rank, size = _number(environ, rank_name), _number(environ, size_name)
        if rank is not None and size is not None:
            return rank, size
    return 0, 1


def _number(environ: Mapping[str, str], name: str) -> Optional[int]:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else None


_current: Optional[Session] = None


def current() -> Session:
    """Return the session of this process, made from its environment at the first call."""
    global _current  # noqa: PLW0603 - one process is one session
    if _current is None:
        _current = Session(os.environ)
        atexit.register(_current.close)
    return _current


def step(step: int) -> None:
    """Say that `step` has been finished just now; call it once a step, on any or all ranks."""
    current().step(step)


def rank() -> int:
    """Return this process's rank in the world, 0 outside a gang."""
    return current().rank


def world_size() -> int:
    """Return how many training processes the gang has, 1 outside a gang."""
    return current().world_size


def attempt() -> Optional[int]:
    """Return the number of this generation of the gang, None outside a cluster."""
    return current().attempt
