"""How many workers a gang should have."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.plan.sizing import (
    HALF_LIFE_SECONDS,
    PRIOR_RESTART_SECONDS,
    SPOT_FAULTS_PER_NODE_SECOND,
    Decaying,
    FailureHistory,
    Idle,
    accumulation_steps,
    data_parallel_degree,
    economic_spares,
    grow_due,
    largest_legal,
    legal_sizes,
    nearest_legal,
    percentile_90,
    planned_restart_seconds,
    restart_price,
    wait_seconds,
)

ANY = settings(max_examples=50, deadline=None)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = timedelta(seconds=HALF_LIFE_SECONDS)


@dataclass(frozen=True)
class Split:
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    global_batch_size: int | None = None
    micro_batch_size: int | None = None


splits = st.builds(
    Split,
    tensor=st.integers(1, 8),
    pipeline=st.integers(1, 4),
    context=st.integers(1, 2),
    expert=st.integers(1, 4),
    global_batch_size=st.none() | st.integers(1, 512),
    micro_batch_size=st.none() | st.integers(1, 8),
)
sorted_sizes = st.lists(st.integers(1, 50), unique=True).map(lambda sizes: tuple(sorted(sizes)))


@pytest.mark.parametrize(
    ("processes", "split", "worker_sizes", "sizes"),
    [
        pytest.param(1, None, (), (2, 3, 4, 5, 6, 7, 8), id="all, where nothing is split"),
        pytest.param(8, Split(tensor=8), (), (2, 3, 4, 5, 6, 7, 8), id="a replica in each worker"),
        pytest.param(8, Split(tensor=8, pipeline=2), (), (2, 4, 6, 8), id="a replica in two"),
        pytest.param(4, Split(tensor=2, context=3), (), (3, 6), id="workers that share replicas"),
        pytest.param(1, Split(tensor=16), (), (), id="none that holds a replica"),
        pytest.param(1, Split(expert=4), (), (4, 8), id="experts divide the replicas"),
        pytest.param(1, Split(expert=4, tensor=2), (), (8,), id="experts spend no ranks"),
        pytest.param(
            1, Split(global_batch_size=24, micro_batch_size=2), (), (2, 3, 4, 6), id="whole passes"
        ),
        pytest.param(1, Split(global_batch_size=24), (), (2, 3, 4, 6, 8), id="the batch divides"),
        pytest.param(1, Split(micro_batch_size=3), (), (2, 3, 4, 5, 6, 7, 8), id="any batch"),
        pytest.param(1, None, (9, 8, 4, 4, 1), (4, 8), id="the user's list, within its bounds"),
        pytest.param(1, Split(tensor=2), (3, 4), (4,), id="the user's list is checked, too"),
    ],
)
def test_a_size_is_legal_when_the_parallelism_and_the_batch_come_out_whole(
    processes: int, split: Split | None, worker_sizes: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    assert sizes == legal_sizes(
        min_workers=2,
        max_workers=8,
        processes_per_worker=processes,
        parallelism=split,
        worker_sizes=worker_sizes,
    )


@ANY
@given(splits, st.integers(1, 8), st.integers(1, 20), st.integers(0, 20))
def test_every_legal_size_keeps_the_batch_and_no_other_within_the_bounds_does(
    split: Split, processes: int, least: int, more: int
) -> None:
    legal = legal_sizes(
        min_workers=least,
        max_workers=least + more,
        processes_per_worker=processes,
        parallelism=split,
    )
    replica = split.tensor * split.pipeline * split.context
    for size in range(least, least + more + 1):
        degree, left = divmod(size * processes, replica)
        whole = left == 0 and degree > 0 and degree % split.expert == 0
        if whole and split.global_batch_size is not None:
            whole = split.global_batch_size % (degree * (split.micro_batch_size or 1)) == 0
        assert (size in legal) == whole
        if size in legal:
            degree = data_parallel_degree(size, processes, split) or 0
            steps = accumulation_steps(split, degree)
            assert steps is not None
            if split.global_batch_size and split.micro_batch_size:
                assert degree * split.micro_batch_size * steps == split.global_batch_size


def test_no_worker_is_no_size() -> None:
    assert legal_sizes(min_workers=0, max_workers=2, processes_per_worker=1) == (1, 2)


@ANY
@given(sorted_sizes, st.integers(0, 60))
def test_the_largest_legal_size_is_the_largest_that_can_be_filled(
    sizes: tuple[int, ...], available: int
) -> None:
    assert largest_legal(sizes, available) == max(
        (size for size in sizes if size <= available), default=None
    )


@pytest.mark.parametrize(
    ("wanted", "named"),
    [(1, (2,)), (2, (2,)), (3, (2, 4)), (7, (4, 8)), (8, (8,)), (9, (8,))],
)
def test_the_nearest_legal_sizes_are_the_size_itself_or_its_neighbours(
    wanted: int, named: tuple[int, ...]
) -> None:
    assert nearest_legal((2, 4, 8), wanted) == named


def test_without_a_legal_size_none_is_near() -> None:
    assert nearest_legal((), 3) == ()


def test_what_is_remembered_halves_in_a_week() -> None:
    faults = Decaying(0, NOW).plus(2, NOW)
    assert faults.at(NOW + WEEK) == 1
    assert faults.plus(1, NOW + WEEK) == Decaying(2_000_000, NOW + WEEK)


def test_a_clock_that_was_set_back_neither_adds_nor_forgets() -> None:
    faults = Decaying(3_000_000, NOW)
    assert faults.at(NOW - DAY) == 3
    assert faults.plus_steadily(1, NOW - DAY) == faults


@ANY
@given(st.lists(st.integers(60, 400_000), min_size=1, max_size=20), st.integers(1, 1000))
def test_a_steady_sum_is_the_same_however_often_it_is_written(
    pauses: list[int], workers: int
) -> None:
    often, now = Decaying(0, NOW), NOW
    for pause in pauses:
        now += timedelta(seconds=pause)
        often = often.plus_steadily(workers, now)
    once = Decaying(0, NOW).plus_steadily(workers, now)
    assert often.micro == pytest.approx(once.micro, rel=1e-6)


def test_a_steady_sum_levels_off_at_a_week_and_a_half() -> None:
    sum_ = Decaying(0, NOW).plus_steadily(1, NOW + 1000 * DAY)
    assert sum_.at(NOW + 1000 * DAY) == pytest.approx(HALF_LIFE_SECONDS / math.log(2))


def test_a_new_job_expects_what_clusters_report() -> None:
    history = FailureHistory.begin(NOW)
    assert history.mean_seconds_to_restart(1000, NOW) == pytest.approx(86_400 / 5)


def test_a_new_job_on_spot_nodes_expects_a_reclaim_per_node_and_day() -> None:
    history = FailureHistory.begin(NOW, SPOT_FAULTS_PER_NODE_SECOND)
    assert history.mean_seconds_to_restart(24, NOW) == pytest.approx(3600)


def test_a_job_believes_its_own_failures_after_a_few() -> None:
    history, now = FailureHistory.begin(NOW), NOW
    for _ in range(20):
        now += timedelta(hours=1)
        history = history.lived(10, now).interrupted(now)
    assert history.mean_seconds_to_restart(10, now) == pytest.approx(3600, rel=0.02)


def test_a_job_that_lives_on_expects_to_live_longer() -> None:
    history = FailureHistory.begin(NOW).lived(10, NOW + DAY).interrupted(NOW + DAY)
    later = history.lived(10, NOW + 3 * DAY)
    assert later.mean_seconds_to_restart(10, NOW + 3 * DAY) > history.mean_seconds_to_restart(
        10, NOW + DAY
    )


def test_twice_the_workers_expect_half_the_time() -> None:
    history = FailureHistory.begin(NOW).lived(10, NOW + DAY).interrupted(NOW + DAY)
    assert history.mean_seconds_to_restart(20, NOW + DAY) == pytest.approx(
        history.mean_seconds_to_restart(10, NOW + DAY) / 2
    )


def test_without_workers_nothing_restarts() -> None:
    assert FailureHistory.begin(NOW).mean_seconds_to_restart(0, NOW) == math.inf


def test_an_operator_that_restarts_reads_the_same() -> None:
    history = FailureHistory.begin(NOW).lived(8, NOW + DAY).interrupted(NOW + DAY)
    kept = (history.episodes, history.worker_seconds, history.interruptions)
    assert FailureHistory(*kept).mean_seconds_to_restart(
        8, NOW + 3 * DAY
    ) == history.mean_seconds_to_restart(8, NOW + 3 * DAY)


def test_idle_capacity_adds_up_over_changes_of_its_size() -> None:
    idle = Idle.since_restart(2, NOW)
    idle = idle.changed(5, NOW + timedelta(seconds=10))
    idle = idle.changed(0, NOW + timedelta(seconds=12))
    assert idle.worker_seconds(NOW + DAY) == 2 * 10 + 5 * 2


def test_capacity_that_does_not_change_is_not_written_again() -> None:
    idle = Idle.since_restart(2, NOW)
    assert idle.changed(2, NOW + DAY) is idle


@ANY
@given(
    joinable=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    pause_seconds=st.integers(0, 1000),
    workers=st.integers(1, 500),
)
def test_the_moment_to_grow_is_known_exactly(
    joinable: list[int], pause_seconds: int, workers: int
) -> None:
    idle, now = Idle.since_restart(0, NOW), NOW
    for count in joinable:
        idle = idle.changed(count, now)
        now += timedelta(seconds=pause_seconds)
    costs = {"workers": workers, "restart_seconds": 15, "stall_seconds": 0.2}
    due_at = idle.due_at(restart_price(**costs), now)
    if due_at is None:
        assert joinable[-1] == 0
        return

    def due(at: datetime) -> bool:
        return grow_due(idle_worker_seconds=idle.worker_seconds(at), **costs)

    assert due_at >= now
    assert due(due_at + timedelta(milliseconds=1))
    assert due_at == now or not due(due_at - timedelta(milliseconds=1))


@pytest.mark.parametrize(
    ("idle", "grows"),
    [
        pytest.param(1519, False, id="waiting has cost less than the restart of all would"),
        pytest.param(1520, True, id="waiting has cost as much"),
    ],
)
def test_a_gang_grows_when_waiting_has_cost_what_growing_costs(idle: int, grows: bool) -> None:
    assert grows == grow_due(
        idle_worker_seconds=idle, workers=100, restart_seconds=15, stall_seconds=0.2
    )


@ANY
@given(
    arrival_seconds=st.integers(0, 10_000),
    end_seconds=st.integers(0, 40_000),
    joinable=st.integers(1, 50),
    workers=st.integers(1, 500),
    restart_seconds=st.integers(1, 600),
)
def test_growing_costs_at_most_twice_what_hindsight_would_have_paid(
    arrival_seconds: int, end_seconds: int, joinable: int, workers: int, restart_seconds: int
) -> None:
    arrival = NOW + timedelta(seconds=arrival_seconds)
    end = arrival + timedelta(seconds=end_seconds)
    price = restart_price(workers=workers, restart_seconds=restart_seconds, stall_seconds=0)
    idle = Idle.since_restart(0, NOW).changed(joinable, arrival)
    due_at = idle.due_at(price, arrival)
    assert due_at is not None
    grown = due_at < end
    paid = idle.worker_seconds(min(due_at, end)) + (price if grown else 0)
    best = min(price, idle.worker_seconds(end))
    assert paid <= 2 * best + joinable * 1e-3


@pytest.mark.parametrize(
    ("measured", "seconds"),
    [
        pytest.param([], PRIOR_RESTART_SECONDS, id="none yet"),
        pytest.param([7], 7, id="one is better than a guess"),
        pytest.param([900, 900, 900, 10, 12, 11, 400, 13], 12, id="of the last five the middle"),
    ],
)
def test_a_planned_restart_takes_what_the_last_ones_took(
    measured: list[float], seconds: float
) -> None:
    assert planned_restart_seconds(measured) == seconds


@pytest.mark.parametrize(
    ("measured", "seconds"),
    [([], None), ([4.0], 4), ([1.0, 3.0, 2.0], 3), ([float(n) for n in range(1, 11)], 9)],
)
def test_nine_in_ten_replacements_are_no_slower(
    measured: list[float], seconds: float | None
) -> None:
    assert percentile_90(measured) == seconds


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        pytest.param({}, 20, id="a replacement that comes before a restart would be over"),
        pytest.param({"replacement_seconds": None}, 0, id="no free node: nothing to wait for"),
        pytest.param({"replacement_seconds": 61}, 0, id="slower than a planned restart"),
        pytest.param({"restart_seconds": 19}, 0, id="a restart would be over before"),
        pytest.param({"mean_seconds_to_restart": 1000}, 0, id="the next restart is near anyway"),
        pytest.param(
            {"mean_seconds_to_restart": 1000, "lost_workers": 2}, 20, id="too many would idle"
        ),
        pytest.param({"limit_seconds": 5}, 5, id="never longer than the user allows"),
    ],
)
def test_a_gang_waits_for_a_replacement_only_where_that_is_cheaper_than_to_shrink(
    changed: dict[str, float], seconds: float
) -> None:
    case: dict[str, float] = {
        "replacement_seconds": 20,
        "restart_seconds": 60,
        "lost_workers": 1,
        "workers": 100,
        "mean_seconds_to_restart": 10_000,
        "limit_seconds": 60,
    }
    assert wait_seconds(**(case | changed)) == seconds


@pytest.mark.parametrize(
    ("workers", "saved", "mean", "spares"),
    [
        pytest.param(100, 30, 3000, 0, id="a swap that gains no more than it costs"),
        pytest.param(400, 30, 4000, 2, id="2 ln 3"),
        pytest.param(10_000, 45, 2000, 10, id="2 ln 225"),
    ],
)
def test_spares_pay_when_swaps_save_more_than_they_idle(
    workers: int, saved: float, mean: float, spares: int
) -> None:
    case = {"workers": workers, "saved_seconds": saved, "mean_seconds_to_restart": mean}
    assert economic_spares(**case, one_by_one=True) == spares
    assert economic_spares(**case, one_by_one=False) == 0
