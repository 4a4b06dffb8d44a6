"""A queue of keys to visit: each key at most once at a time, many keys at once, fairly.

The semantics are those of client-go's rate-limited work queue: waking a key that waits
changes nothing; waking one that is being visited leads to exactly one more visit. Unlike
there, a wake during a back-off is honoured (an event may have cured the cause) but not
before a second has passed, so that a failing visit that wakes itself cannot spin.

And unlike there, a key rests after a visit for a multiple of the time for which it held the
event loop: while a gang of a thousand starts, thousands of events wake its job, and its visits
are the long ones. A small job's rest is too short to be noticed. Of its last two visits the
shorter counts: one that has answered a thousand agents is long and seldom, and says nothing of
how long the next will be.

All timing is by `loop.time()` and `loop.call_later`, so a simulation runs this very code
on a virtual clock.
"""

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from goodput_operator.errors import ApiError, ConflictError, GoodputError
from goodput_operator.observe.agents import JobKey

logger = logging.getLogger(__name__)

T = TypeVar("T")

Visit = Callable[[JobKey], Awaitable[float | None]]
"""One whole pass; returns the seconds until the next (None: the slow resync is enough)."""


@dataclass(frozen=True, slots=True)
class QueueTiming:
    """How soon a key is visited again.

    Attributes:
        resync_seconds: a key is visited at least this often, ± a fifth.
        backoff_seconds: after the first failure; doubles with each further one.
        max_backoff_seconds: the cap of the back-off.
        conflict_seconds: after a conflict: our view was old, the watch is about to mend it.
        min_wake_seconds: the part of a back-off that a wake cannot shorten.
        visit_timeout_seconds: a visit that takes longer is broken off and counts as failed.
        rests: after a visit, a key rests for so many times the seconds for which the shorter of its
            last two held the event loop; so one job's visits that find nothing to do take at most
            a third of it.
    """

    resync_seconds: float = 600.0
    backoff_seconds: float = 0.2
    max_backoff_seconds: float = 60.0
    conflict_seconds: float = 0.05
    min_wake_seconds: float = 1.0
    visit_timeout_seconds: float = 300.0
    rests: float = 2.0


@dataclass(slots=True)
class _Key:
    """What the queue remembers of one key."""

    queued: bool = False
    running: bool = False
    woken: bool = False  # during the running visit
    failures: int = 0
    last_error: str = ""
    not_before: float = 0.0
    held_seconds: float = math.inf  # by the last visit, of the event loop
    timer: asyncio.TimerHandle | None = None


class WorkQueue:
    """Calls `visit` for every woken key.

    Args:
        visit: never called twice at once for one key. An `ApiError` means: back off.
            So does anything else; what is not a `GoodputError` is a bug, and logged with its
            traceback.
        keep: whether a key still matters after a visit that succeeded; else it is forgotten.
        ended: told of every visit how it ended (ok, conflict, api_error, error or bug) and the
            seconds it took.
        workers: how many keys are visited at once.
        rng: spreads the back-offs and the resync.
    """

    def __init__(
        self,
        visit: Visit,
        *,
        keep: Callable[[JobKey], bool],
        ended: Callable[[str, float], None],
        rng: random.Random,
        workers: int = 16,
        timing: QueueTiming | None = None,
    ) -> None:
        self._visit = visit
        self._keep = keep
        self._ended = ended
        self._rng = rng
        self._workers = workers
        self._timing = timing or QueueTiming()
        self._keys: dict[JobKey, _Key] = {}
        self._waiting: deque[JobKey] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to visit. Before this, and after `stop`, a wake does nothing."""
        self._loop = asyncio.get_running_loop()

    async def stop(self, timeout_seconds: float) -> None:
        """Begin no further visit; give the running ones so long, then break them off."""
        self._loop = None
        self._waiting.clear()
        for state in self._keys.values():
            _cancel_timer(state)
        self._keys.clear()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        if late:
            logger.warning("%d visits were broken off after %g s", len(late), timeout_seconds)
            await asyncio.wait(late)

    def wake(self, key: JobKey) -> None:
        """Have `key` visited soon."""
        if self._loop is None:
            return
        state = self._keys.setdefault(key, _Key())
        if state.running:
            state.woken = True
        elif state.not_before > self._loop.time():
            self._set_timer(key, state, state.not_before)
        else:
            self._enqueue(key, state)

    def wake_after(self, key: JobKey, seconds: float) -> None:
        """Have `key` visited in `seconds` at the latest; of several wishes the earliest wins."""
        if self._loop is not None:
            state = self._keys.setdefault(key, _Key())
            if not state.queued:
                self._set_timer(key, state, self._loop.time() + seconds)

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many visits are under way."""
        return len(self._running)

    def _enqueue(self, key: JobKey, state: _Key) -> None:
        if self._loop is None or state.queued:
            return
        _cancel_timer(state)
        state.queued = True
        self._waiting.append(key)
        self._pump()

    def _pump(self) -> None:
        """Start visits while there are keys and workers."""
        while self._loop is not None and self._waiting and len(self._running) < self._workers:
            key = self._waiting.popleft()
            state = self._keys[key]
            state.queued, state.running = False, True
            task = self._loop.create_task(self._run(key, state), name=f"visit {'/'.join(key)}")
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _run(self, key: JobKey, state: _Key) -> None:
        """Visit once, and say when to visit again."""
        loop = asyncio.get_running_loop()
        began, seconds = loop.time(), None
        error: Exception | None = None
        visit = _Timed(self._visit(key), loop.time)
        try:
            async with asyncio.timeout(self._timing.visit_timeout_seconds):
                seconds = await visit
        except asyncio.CancelledError:
            if self._loop is None:
                raise  # by `stop`; any other would lose the key
            error = RuntimeError("the visit was cancelled")
        except Exception as raised:  # noqa: BLE001 - a bug in one job must not stop the others
            error = raised
        state.running = False
        self._ended(_outcome(error), loop.time() - began)
        if error is None:
            shorter_seconds = min(visit.held_seconds, state.held_seconds)
            state.held_seconds = visit.held_seconds
            state.not_before = loop.time() + self._timing.rests * shorter_seconds
            self._succeeded(key, state, seconds)
        else:
            self._failed(key, state, error)

    def _succeeded(self, key: JobKey, state: _Key, seconds: float | None) -> None:
        if state.failures >= 3:
            logger.info("%s/%s: well again after %d failed visits", *key, state.failures)
        state.failures, state.last_error = 0, ""
        if self._loop is None:
            return
        if state.woken:
            state.woken = False
            self.wake(key)
        elif seconds is None and not self._keep(key):
            _cancel_timer(state)
            del self._keys[key]
        else:
            resync_seconds = self._timing.resync_seconds * self._rng.uniform(0.8, 1.2)
            wait_seconds = resync_seconds if seconds is None else min(seconds, resync_seconds)
            self._set_timer(key, state, self._loop.time() + max(wait_seconds, 0.0))

    def _failed(self, key: JobKey, state: _Key, error: Exception) -> None:
        state.failures += 1
        self._report(key, state, error)
        if self._loop is None:
            return
        now = self._loop.time()
        delay = self._delay_seconds(state.failures, error)
        state.not_before = now + min(delay, self._timing.min_wake_seconds)
        self._set_timer(key, state, state.not_before if state.woken else now + delay)
        state.woken = False

    def _delay_seconds(self, failures: int, error: Exception) -> float:
        timing = self._timing
        conflict = isinstance(error, ConflictError)
        base_seconds = timing.conflict_seconds if conflict else timing.backoff_seconds
        doublings = min(failures - 1, 32)  # past any sane cap; 2.0**1024 would overflow
        delay = min(base_seconds * 2.0**doublings, timing.max_backoff_seconds)
        wish = error.retry_after_seconds if isinstance(error, ApiError) else 0.0
        return max(delay * self._rng.uniform(0.75, 1.25), wish)

    def _report(self, key: JobKey, state: _Key, error: Exception) -> None:
        """Log what is news: a conflict is none, nor is the same error again."""
        text = f"{type(error).__name__}: {error}"
        is_news, state.last_error = text != state.last_error, text
        if not is_news or isinstance(error, ConflictError):
            return
        if isinstance(error, GoodputError):
            logger.warning("%s/%s: the visit failed and will be repeated: %s", *key, text)
        else:
            logger.error("%s/%s: the visit failed: %s", *key, text, exc_info=error)

    def _set_timer(self, key: JobKey, state: _Key, at: float) -> None:
        """Have the key woken at loop time `at`; the earliest such wish wins."""
        if self._loop is None or (state.timer is not None and state.timer.when() <= at):
            return
        _cancel_timer(state)
        state.timer = self._loop.call_at(at, self._due, key, state)

    def _due(self, key: JobKey, state: _Key) -> None:
        state.timer = None
        self.wake(key)


class _Timed(Awaitable[T]):
    """Awaits something, and counts for how long it held the event loop."""

    def __init__(self, work: Awaitable[T], clock: Callable[[], float]) -> None:
        self.held_seconds = 0.0
        self._work = work
        self._clock = clock

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        go_on: Callable[[], Any] = partial(next, steps)
        while True:
            began = self._clock()
            try:
                awaited = go_on()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.held_seconds += self._clock() - began
            try:
                yield awaited
                go_on = partial(next, steps)
            except BaseException as thrown:  # noqa: BLE001 - a cancellation: the work's to handle
                go_on = partial(steps.throw, thrown)


def _cancel_timer(state: _Key) -> None:
    if state.timer is not None:
        state.timer.cancel()
        state.timer = None


def _outcome(error: Exception | None) -> str:
    match error:
        case None:
            return "ok"
        case ConflictError():
            return "conflict"
        case ApiError():
            return "api_error"
        case GoodputError():
            return "error"
    return "bug"
