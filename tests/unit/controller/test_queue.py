"""Every job is looked at when it must be, one pass at a time, and none starves another."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.controller.queue import QueueTiming, WorkQueue
from goodput_operator.errors import (
    ApiError,
    ConflictError,
    CorruptStatusError,
    UnavailableError,
)
from goodput_operator.observe.agents import JobKey
from tests.virtual_time import VirtualLoop, run

A, B, C = ("ml", "a"), ("ml", "b"), ("ml", "c")
Behaviour = Callable[["World", JobKey], Awaitable[float | None]]


async def nothing(world: "World", key: JobKey) -> float | None:
    return None


class World:
    """A queue, and what it did: (begin, end) of each visit of each key."""

    def __init__(
        self,
        behaviour: Behaviour = nothing,
        workers: int = 16,
        timing: QueueTiming | None = None,
        gone: frozenset[JobKey] = frozenset(),
    ) -> None:
        self.visits: list[tuple[JobKey, float, float]] = []
        self.ends: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self._behaviour = behaviour
        self.queue = WorkQueue(
            self._visit,
            keep=lambda key: key not in gone,
            ended=lambda how, _: self.ends.update([how]),
            rng=random.Random(1),
            workers=workers,
            timing=timing,
        )
        self.queue.start()

    async def _visit(self, key: JobKey) -> float | None:
        began = self.now
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._behaviour(self, key)
        finally:
            self.at_once -= 1
            self.visits.append((key, began, self.now))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def began(self, key: JobKey = A) -> list[float]:
        return [began for one, began, _ in self.visits if one == key]

    def order(self) -> list[str]:
        return [name for (_, name), _, _ in self.visits]


async def one_second(world: World, key: JobKey) -> float | None:
    await asyncio.sleep(1)
    return None


def failing(*errors: Exception) -> Behaviour:
    """Fail like this, one after the other, then be well."""
    left = list(errors)

    async def behaviour(world: World, key: JobKey) -> float | None:
        if left:
            raise left.pop(0)
        return None

    return behaviour


def test_waking_a_waiting_job_again_changes_nothing() -> None:
    async def test() -> None:
        world = World(one_second, workers=1)
        for key in (B, A, A, A):
            world.queue.wake(key)
        await asyncio.sleep(10)
        assert world.order() == ["b", "a"]

    run(test())


def test_wakes_during_a_visit_lead_to_exactly_one_more() -> None:
    async def test() -> None:
        world = World(one_second)
        world.queue.wake(A)
        for _ in range(3):
            await asyncio.sleep(0.2)
            world.queue.wake(A)
        await asyncio.sleep(10)
        assert world.began() == [0, 1]

    run(test())


def test_many_jobs_are_visited_at_once_but_not_more_than_there_are_workers() -> None:
    async def test() -> None:
        world = World(one_second, workers=4)
        for number in range(12):
            world.queue.wake(("ml", str(number)))
        assert (world.queue.running, world.queue.depth) == (4, 8)
        await asyncio.sleep(10)
        assert world.most_at_once == 4
        assert max(end for _, _, end in world.visits) == 3

    run(test())


def test_a_job_that_never_rests_does_not_starve_the_others() -> None:
    async def restless(world: World, key: JobKey) -> float | None:
        await asyncio.sleep(1)
        if key == A:
            world.queue.wake(A)
        return None

    async def test() -> None:
        world = World(restless, workers=1)
        for key in (A, B, C):
            world.queue.wake(key)
        await asyncio.sleep(4.5)
        assert world.order() == ["a", "b", "c", "a"]

    run(test())


def test_a_job_rests_after_a_visit_that_held_the_loop_for_long() -> None:
    async def heavy(world: World, key: JobKey) -> float | None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.sleep(3)  # the API server's time: nobody else was kept from working
        loop.skip(0.05)
        await asyncio.sleep(3)
        loop.skip(0.05)
        return None

    async def test() -> None:
        world = World(heavy, timing=QueueTiming(rests=4))
        world.queue.wake(A)
        await asyncio.sleep(1)
        world.queue.wake(A)
        await asyncio.sleep(5.2)
        world.queue.wake(A)
        await asyncio.sleep(10)
        assert world.began() == [0, pytest.approx(6.1 + 4 * 0.1)]

    run(test())


def test_one_long_visit_among_short_ones_makes_no_long_rest() -> None:
    held_seconds = [0.1, 1.0, 0.1]

    async def heavy(world: World, key: JobKey) -> float | None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.skip(held_seconds[len(world.began())])
        return None

    async def test() -> None:
        world = World(heavy, timing=QueueTiming(rests=4))
        for moment in (0, 10, 11.1, 20):
            await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))
            world.queue.wake(A)
        assert world.began() == [0, 10, pytest.approx(11 + 4 * 0.1)]

    run(test())


def test_a_visit_that_is_broken_off_hears_of_it() -> None:
    heard: list[str] = []

    async def endless(world: World, key: JobKey) -> float | None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise
        return None

    async def test() -> None:
        world = World(endless, timing=QueueTiming(visit_timeout_seconds=2))
        world.queue.wake(A)
        await asyncio.sleep(2.1)
        assert heard == ["cancelled"]

    run(test())


def test_the_visit_says_when_the_next_is_due() -> None:
    async def every_five(world: World, key: JobKey) -> float | None:
        return 5.0

    async def test() -> None:
        world = World(every_five)
        world.queue.wake(A)
        await asyncio.sleep(16)
        assert world.began() == [0, 5, 10, 15]

    run(test())


def test_a_wake_comes_before_the_due_time_and_replaces_it() -> None:
    async def every_five(world: World, key: JobKey) -> float | None:
        return 5.0

    async def test() -> None:
        world = World(every_five)
        world.queue.wake(A)
        await asyncio.sleep(2)
        world.queue.wake(A)
        await asyncio.sleep(6)
        assert world.began() == [0, 2, 7]

    run(test())


def test_of_several_wishes_the_earliest_wins() -> None:
    async def test() -> None:
        world = World()
        for seconds in (9, 3, 6):
            world.queue.wake_after(A, seconds)
        await asyncio.sleep(20)
        assert world.began() == [3]

    run(test())


def test_a_wish_during_a_visit_is_kept() -> None:
    async def test() -> None:
        world = World(one_second)
        world.queue.wake(A)
        await asyncio.sleep(0.5)
        world.queue.wake_after(A, 4)
        await asyncio.sleep(20)
        assert world.began() == [0, 4.5]

    run(test())


def test_a_quiet_job_is_looked_at_now_and_then_spread_over_time() -> None:
    async def test() -> None:
        world = World(timing=QueueTiming(resync_seconds=100))
        for number in range(20):
            world.queue.wake(("ml", str(number)))
        await asyncio.sleep(130)
        second = [world.began(("ml", str(number)))[1] for number in range(20)]
        assert all(80 <= at <= 120 for at in second)
        assert len(set(second)) == 20

    run(test())


def test_a_job_that_is_gone_is_forgotten_after_a_last_visit() -> None:
    async def test() -> None:
        world = World(gone=frozenset({A}))
        world.queue.wake(A)
        await asyncio.sleep(5000)
        assert world.began() == [0]

    run(test())


def test_a_failing_job_is_visited_less_and_less_often_up_to_a_cap() -> None:
    async def test() -> None:
        world = World(failing(*[UnavailableError("down")] * 12))
        world.queue.wake(A)
        await asyncio.sleep(400)
        began = world.began()
        pauses = [later - earlier for earlier, later in pairwise(began)]
        for doublings, pause in enumerate(pauses[:12]):
            expected = min(0.2 * 2**doublings, 60)
            assert 0.75 * expected <= pause <= 1.25 * expected

    run(test())


def test_success_makes_the_next_failure_the_first_again() -> None:
    async def test() -> None:
        down = UnavailableError("down")
        errors = iter([down, down, down, None, down, None])

        async def behaviour(world: World, key: JobKey) -> float | None:
            if error := next(errors):
                raise error
            return 10.0

        world = World(behaviour)
        world.queue.wake(A)
        await asyncio.sleep(15)
        began = world.began()
        assert began[5] - began[4] <= 0.25

    run(test())


def test_a_conflict_is_tried_again_at_once() -> None:
    async def test() -> None:
        world = World(failing(ConflictError("old view")))
        world.queue.wake(A)
        await asyncio.sleep(1)
        assert world.began()[1] < 0.1

    run(test())


def test_the_servers_own_wish_to_be_left_alone_is_granted() -> None:
    async def test() -> None:
        world = World(failing(UnavailableError("busy", retry_after_seconds=7)))
        world.queue.wake(A)
        await asyncio.sleep(20)
        assert world.began() == [0, 7]

    run(test())


def test_an_event_shortens_a_long_back_off_but_cannot_make_it_spin() -> None:
    async def waking_itself(world: World, key: JobKey) -> float | None:
        world.queue.wake(key)
        raise UnavailableError("down")

    async def test() -> None:
        world = World(waking_itself)
        world.queue.wake(A)
        await asyncio.sleep(100)
        began = world.began()
        assert 90 <= len(began) <= 110
        assert all(later - earlier <= 1 for earlier, later in pairwise(began))

    run(test())


def test_however_many_events_come_a_failing_job_is_visited_once_a_second_at_most() -> None:
    async def test() -> None:
        world = World(failing(*[UnavailableError("down")] * 1000))
        for _ in range(2000):
            world.queue.wake(A)
            await asyncio.sleep(0.01)
        began = world.began()
        assert 20 <= len(began) <= 25
        assert all(later - earlier >= 0.99 for earlier, later in pairwise(began[4:]))

    run(test())


def test_one_jobs_bug_does_not_hinder_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def broken_for_a(world: World, key: JobKey) -> float | None:
        if key == A:
            raise KeyError("oops")
        return 1.0

    async def test() -> None:
        world = World(broken_for_a)
        for key in (A, B):
            world.queue.wake(key)
        await asyncio.sleep(30.5)
        assert len(world.began(B)) == 31
        assert len(world.began(A)) > 5
        assert world.ends["bug"] == len(world.began(A))

    run(test())
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1, "a bug is told once, not at every visit"
    assert "ml/a" in said[0].getMessage()
    assert said[0].exc_info is not None, "with its traceback"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConflictError("x"), "conflict"),
        (ApiError("x"), "api_error"),
        (CorruptStatusError("x"), "error"),
        (ValueError("x"), "bug"),
        (TimeoutError(), "bug"),
    ],
)
def test_every_visit_is_counted_by_how_it_ended(error: Exception, outcome: str) -> None:
    async def test() -> None:
        world = World(failing(error))
        world.queue.wake(A)
        await asyncio.sleep(5)
        assert world.ends == {outcome: 1, "ok": 1}

    run(test())


def test_what_is_our_own_word_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        world = World(failing(CorruptStatusError("status.slots: too many"), ConflictError("old")))
        world.queue.wake(A)
        await asyncio.sleep(5)

    run(test())
    assert [record.exc_info for record in caplog.records] == [None], "and a conflict not at all"


def test_a_visit_that_hangs_is_broken_off_and_tried_again() -> None:
    async def hang_once(world: World, key: JobKey) -> float | None:
        if not world.visits:
            await asyncio.sleep(10_000)
        return None

    async def test() -> None:
        world = World(hang_once, timing=QueueTiming(visit_timeout_seconds=30))
        world.queue.wake(A)
        await asyncio.sleep(40)
        assert len(world.visits) == 2
        assert world.at_once == 0

    run(test())


def test_a_visit_whose_inside_was_cancelled_is_not_lost() -> None:
    async def test() -> None:
        world = World(failing(asyncio.CancelledError()))  # type: ignore[arg-type]
        world.queue.wake(A)
        await asyncio.sleep(5)
        assert len(world.visits) == 2

    run(test())


def test_before_the_start_a_wake_does_nothing() -> None:
    async def test() -> None:
        visited: list[JobKey] = []

        async def visit(key: JobKey) -> float | None:
            visited.append(key)
            return None

        queue = WorkQueue(visit, keep=lambda _: True, ended=lambda *_: None, rng=random.Random(1))
        queue.wake(A)
        queue.wake_after(A, 1)
        queue.start()
        await asyncio.sleep(10)
        assert visited == []

    run(test())


def test_at_the_end_running_visits_finish_and_no_other_begins() -> None:
    async def test() -> None:
        world = World(one_second, workers=1)
        for key in (A, B):
            world.queue.wake(key)
        await asyncio.sleep(0.5)
        await world.queue.stop(timeout_seconds=10)
        assert world.now == 1
        world.queue.wake(A)
        await asyncio.sleep(1000)
        assert world.order() == ["a"]

    run(test())


def test_at_the_end_a_visit_that_takes_too_long_is_broken_off() -> None:
    async def test() -> None:
        world = World(one_second)
        world.queue.wake(A)
        await asyncio.sleep(0)
        await world.queue.stop(timeout_seconds=0.3)
        assert world.visits == [(A, 0, 0.3)]
        assert world.queue.running == 0

    run(test())


@settings(max_examples=60)
@given(
    wakes=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from([A, B, C])), min_size=1, max_size=40
    ),
    durations=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    failures=st.sets(st.integers(0, 30)),
    workers=st.integers(1, 3),
)
def test_after_every_wake_a_visit_begins_and_none_overlaps_another_of_its_job(
    wakes: list[tuple[int, JobKey]], durations: list[int], failures: set[int], workers: int
) -> None:
    async def test() -> None:
        count = 0

        async def behaviour(world: World, key: JobKey) -> float | None:
            nonlocal count
            number, count = count, count + 1
            await asyncio.sleep(durations[number % len(durations)] / 10)
            if number in failures:
                raise UnavailableError("down")
            return None

        world = World(behaviour, workers=workers)
        at = 0.0
        for tenths, key in sorted(wakes):
            await asyncio.sleep(tenths / 10 - at)
            at = tenths / 10
            world.queue.wake(key)
        await asyncio.sleep(300)
        for tenths, key in wakes:
            assert any(began >= tenths / 10 - 1e-6 for began in world.began(key))
        for key in (A, B, C):
            own = [(began, end) for one, began, end in world.visits if one == key]
            assert all(end <= began for (_, end), (began, _) in pairwise(own))
        assert world.most_at_once <= workers

    run(test())
