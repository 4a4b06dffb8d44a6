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

Before an attempt is ended by choice (the gang changes its size, the job is suspended, a worker is
to be taken away) the operator asks for a checkpoint, after a step that all ranks have yet to
finish:

```python
    session.step(step)
    asked = session.should_save()
    if asked or step % 100 == 0:
        save(step)
```

Only who saves by `goodput.checkpoint` is asked, and is then held there until the end comes: what
would be trained beyond the checkpoint is lost anyway.
"""

import atexit
import collections
import contextlib
import json
import os
import socket
import statistics
import time
from typing import Any, Callable, Deque, Dict, Iterator, Mapping, Optional, Tuple

from goodput import protocol

REPORT_SECONDS = 0.25
"""At most one step report in this time."""

_BUSY_AGENT_SECONDS = 1.0
_REST_SECONDS = 30.0
"""How long one who has saved as asked waits for its end; then it goes on."""
_REST_POLL_SECONDS = 0.02
_PLACES = (
    ("RANK", "WORLD_SIZE"),
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_DURATIONS_KEPT = 31  # long enough to outvote checkpoints and garbage collections

CHECKPOINT, DATA = "checkpoint", "data"
"""What training stands still for, as the wire calls it."""


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
        self._step_before: Optional[int] = None
        self._step_at = 0.0
        self._said: Optional[int] = None
        self._next_report_at = 0.0
        self._durations: Deque[float] = collections.deque(maxlen=_DURATIONS_KEPT)
        self._stalled_seconds: Dict[str, float] = {}
        self._stalls_now: Optional[Tuple[str, float]] = None
        self._stalled_at_step = 0.0
        self._state_path = self._agent and os.path.join(
            os.path.dirname(self._agent), protocol.STATE_FILE
        )
        self._state_seen: Optional[Tuple[int, int]] = None
        self._asked: Optional[int] = None
        self._answered: Optional[int] = None

    def step(self, step: int) -> None:
        """Say that `step` has been finished just now. Costs about a microsecond."""
        now = self._clock()
        before = self._step
        if before is not None and step > before:
            self._durations.append((now - self._step_at) / (step - before))
        self._step_before, self._step = before, step
        self._step_at = now
        if self._stalled_seconds:
            self._stalled_at_step = sum(self._stalled_seconds.values())
        if self._agent and now >= self._next_report_at:
            self._next_report_at = now + REPORT_SECONDS
            self._report_step()

    @contextlib.contextmanager
    def stalled(self, what: str) -> Iterator[None]:
        """Count the time in this block as a stall: training stands still for `what`.

        Before the first step nothing is counted, for that is the start's own time; nor is a stall
        within another one.
        """
        if self._stalls_now is not None or self._step is None:
            yield
            return
        self._stalls_now = what, self._clock()
        try:
            yield
        finally:
            self._stalled_seconds = self._all_stalls()
            self._stalls_now = None

    def say_stalls(self) -> None:
        """Say how long this process has stood still: what the next step would say, too."""
        if self._all_stalls():
            self.say("stall", **self._stalls())

    def stalls_since(self, step: int) -> Dict[str, Any]:
        """Return what a commit says of the time for which training has stood still.

        Args:
            step: the step that was saved.
        """
        said = self._stalls()
        if said and step == self._step:
            all_of_it = sum(self._all_stalls().values())
            said["since"] = round((all_of_it - self._stalled_at_step) * 1000)
        return said

    def _all_stalls(self) -> Dict[str, float]:
        """Return the seconds of all stalls by what they are for, the present one included."""
        if self._stalls_now is None:
            return self._stalled_seconds
        what, since = self._stalls_now
        known = self._stalled_seconds.get(what, 0.0)
        return {**self._stalled_seconds, what: known + self._clock() - since}

    def _stalls(self) -> Dict[str, Any]:
        stalls = self._all_stalls()
        if not stalls:
            return {}
        return {"stalled": {what: round(seconds * 1000) for what, seconds in stalls.items()}}

    def should_save(self) -> bool:
        """Return whether to save the step just finished, because the operator has asked.

        To be called by every rank, after `step`. True once for each time it is asked, on all
        ranks after the same step. Costs a look at a file.
        """
        asked = self._asked_step()
        if asked is None or asked == self._answered or self._step is None or self._step < asked:
            return False
        if self._step_before is not None and self._step_before >= asked:
            return False  # told too late: another rank may learn of it a step later still
        self._answered = asked
        return True

    def rest_after_save(self, step: int) -> None:
        """Wait for the end of this attempt if `step` was saved because it is near."""
        until = self._clock() + _REST_SECONDS
        while self._clock() < until:
            asked = self._asked_step()
            if asked is None or step < asked:
                return
            time.sleep(_REST_POLL_SECONDS)

    def _asked_step(self) -> Optional[int]:
        """Return the step after which the operator wants a checkpoint; read only when changed."""
        if not self._state_path or self.attempt is None:
            return None
        try:
            found = os.stat(self._state_path)
            seen = found.st_mtime_ns, found.st_ino
            if seen != self._state_seen:
                with open(self._state_path, "rb") as file:
                    state = json.loads(file.read())
                asked = state.get("save") if state["attempt"] == self.attempt else None
                self._asked = asked if type(asked) is int else None
                self._state_seen = seen
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return self._asked
        return self._asked

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
        self.say(
            "step", self._step_at, step=self._step, milliseconds=milliseconds, **self._stalls()
        )

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


def should_save() -> bool:
    """Return whether to save the step just finished: the operator is about to end the attempt.

    Call it on every rank after `step`; it is true on all of them after the same step, once.
    """
    return current().should_save()


def rank() -> int:
    """Return this process's rank in the world, 0 outside a gang."""
    return current().rank


def world_size() -> int:
    """Return how many training processes the gang has, 1 outside a gang."""
    return current().world_size


def attempt() -> Optional[int]:
    """Return the number of this generation of the gang, None outside a cluster."""
    return current().attempt
