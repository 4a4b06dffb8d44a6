"""What the operator's decisions make of a recorded cluster."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.simulate.baselines import best_fixed
from goodput_operator.simulate.gang import Costs, Growth, Outcome, Spent, simulate
from goodput_operator.simulate.trace import Outage, Trace, merged

ANY = settings(max_examples=40, deadline=None)
HOUR = 3_600_000
COSTS = Costs()
NO_SAVING = replace(COSTS, stall=0)


def cluster(nodes: int, hours: int, *outages: tuple[int, int, int]) -> Trace:
    """Return a cluster; an outage is (number of the node, begin, end)."""
    names = tuple(f"n{number}" for number in range(nodes))
    listed = (Outage(names[number], begin, end) for number, begin, end in outages)
    return Trace("made", names, nodes, hours * HOUR, merged(listed))


@st.composite
def clusters(draw: st.DrawFn) -> Trace:
    nodes, hours = draw(st.integers(1, 8)), draw(st.integers(1, 48))
    edge = st.integers(0, hours * HOUR) | st.integers(0, hours * 60).map(lambda at: at * 60_000)
    pairs = draw(st.lists(st.tuples(st.integers(0, nodes - 1), edge, edge), max_size=30))
    return cluster(nodes, hours, *((n, min(a, b), max(a, b)) for n, a, b in pairs))


costs = st.builds(
    Costs,
    restart=st.integers(1, 600_000),
    planned_restart=st.integers(1, 600_000),
    detection=st.integers(0, 300_000),
    stall=st.integers(1, 60_000),
    join=st.integers(0, 600_000),
    notice=st.just(0) | st.integers(1, 600_000),
)


def spent(outcome: Outcome) -> dict[Spent, int]:
    return {bucket: amount for bucket, amount in outcome.spent.items() if amount}


@ANY
@given(clusters(), costs, st.integers(1, 4), st.sampled_from(Growth))
def test_all_of_the_wanted_time_is_in_one_bucket_each(
    trace: Trace, costs: Costs, step: int, growth: Growth
) -> None:
    outcome = simulate(trace, range(step, trace.wanted + 1, step), costs, growth)
    assert sum(outcome.spent.values()) == trace.wanted * trace.milliseconds
    assert min(outcome.spent.values()) >= 0
    assert outcome.spent[Spent.USEFUL] <= outcome.allowed
    used = sum(outcome.spent.values()) - sum(
        outcome.spent[bucket] for bucket in (Spent.MISSING, Spent.UNUSABLE)
    )
    assert used == outcome.allowed


@ANY
@given(clusters(), costs)
def test_the_same_cluster_has_the_same_outcome(trace: Trace, costs: Costs) -> None:
    sizes = range(1, trace.wanted + 1)
    assert simulate(trace, sizes, costs) == simulate(trace, sizes, costs)


@ANY
@given(clusters(), costs, st.integers(1, 100))
def test_nothing_is_known_before_its_time(trace: Trace, costs: Costs, percent: int) -> None:
    """A gang that has lived through the beginning has done there what it does in the whole."""
    end = max(1, trace.milliseconds * percent // 100)
    begun = (
        replace(outage, end=min(outage.end, end)) for outage in trace.outages if outage.begin < end
    )
    sizes, blind = range(1, trace.wanted + 1), replace(costs, notice=0)
    beginning = simulate(replace(trace, milliseconds=end, outages=merged(begun)), sizes, blind)
    whole = simulate(trace, sizes, blind)
    assert beginning.faults <= whole.faults
    assert beginning.growths <= whole.growths
    trained = (Spent.USEFUL, Spent.LOST_WORK, Spent.CHECKPOINT_STALL)
    for bucket in Spent:
        if bucket not in trained:
            assert beginning.spent[bucket] <= whole.spent[bucket]


def test_without_a_fault_only_the_start_costs() -> None:
    outcome = simulate(cluster(4, 10), range(1, 5), replace(NO_SAVING, stall=1))
    assert outcome.spent[Spent.RECOVERY] == 4 * COSTS.restart
    assert outcome.faults == outcome.growths == 0


def test_a_lost_node_costs_its_detection_and_one_restart_of_the_survivors() -> None:
    trace = cluster(4, 10, (2, HOUR, 10 * HOUR))
    outcome = simulate(trace, range(1, 5), COSTS)
    assert outcome.faults == 1
    assert outcome.spent[Spent.DETECTION] == 3 * COSTS.detection
    assert outcome.spent[Spent.RECOVERY] == 4 * COSTS.restart + 3 * COSTS.restart
    assert outcome.spent[Spent.MISSING] == 9 * HOUR
    assert 0 < outcome.spent[Spent.LOST_WORK] < 4 * HOUR / 2


def test_nodes_that_fall_together_are_one_interruption() -> None:
    trace = cluster(4, 10, (1, HOUR, 10 * HOUR), (2, HOUR, 10 * HOUR), (3, HOUR + 500, 10 * HOUR))
    assert simulate(trace, range(1, 5), COSTS).faults == 1


def test_a_node_that_returns_joins_when_its_idling_has_cost_the_growth() -> None:
    trace = cluster(4, 10, (2, HOUR, 2 * HOUR))
    outcome = simulate(trace, range(1, 5), COSTS)
    assert outcome.growths == 1
    price = 3 * (60_000 + COSTS.stall)  # no growth has been measured yet: 60 s
    assert outcome.spent[Spent.JOINABLE] == COSTS.join + price
    assert outcome.spent[Spent.RESIZE] == 4 * COSTS.planned_restart


def test_growing_at_once_does_not_wait() -> None:
    trace = cluster(4, 10, (2, HOUR, 2 * HOUR))
    outcome = simulate(trace, range(1, 5), COSTS, Growth.AT_ONCE)
    assert outcome.spent[Spent.JOINABLE] == COSTS.join


def test_an_unavoidable_restart_takes_along_who_had_returned() -> None:
    returns = 2 * HOUR
    fault = returns + COSTS.join + 30_000  # before the growth is due
    trace = cluster(4, 10, (2, HOUR, returns), (0, fault, 10 * HOUR))
    outcome = simulate(trace, range(1, 5), COSTS)
    assert outcome.growths == 0
    assert outcome.spent[Spent.JOINABLE] == fault - returns + COSTS.detection


def test_nodes_that_no_legal_size_can_use_are_nobody_s_loss() -> None:
    trace = cluster(4, 10, (2, HOUR, 10 * HOUR))
    outcome = simulate(trace, (2, 4), COSTS)
    assert outcome.spent[Spent.UNUSABLE] == 9 * HOUR
    assert outcome.spent[Spent.JOINABLE] == 0


def test_a_fixed_gang_waits_for_the_repair() -> None:
    trace = cluster(4, 10, (2, HOUR, 3 * HOUR))
    outcome = simulate(trace, (4,), COSTS)
    assert outcome.spent[Spent.UNUSABLE] == 3 * 2 * HOUR
    assert outcome.faults == 1


def test_a_fault_during_the_restart_begins_it_anew() -> None:
    trace = cluster(4, 10, (2, HOUR, 10 * HOUR), (1, HOUR + 40_000, 10 * HOUR))
    outcome = simulate(trace, range(1, 5), COSTS)
    assert outcome.faults == 2
    assert outcome.spent[Spent.RECOVERY] == 4 * 60_000 + 3 * 30_000 + 2 * 60_000


def test_a_notice_saves_the_work_and_the_detection() -> None:
    trace = cluster(4, 10, (2, HOUR, 10 * HOUR))
    outcome = simulate(trace, range(1, 5), replace(COSTS, notice=120_000))
    assert outcome.spent[Spent.LOST_WORK] == outcome.spent[Spent.DETECTION] == 0
    assert outcome.spent[Spent.RECOVERY] == 4 * COSTS.restart + 3 * COSTS.planned_restart


def test_nodes_that_will_go_do_not_join_a_new_world() -> None:
    trace = cluster(4, 10, (1, HOUR, 10 * HOUR), (2, HOUR + 100_000, 10 * HOUR))
    outcome = simulate(trace, range(1, 5), replace(COSTS, notice=120_000))
    assert outcome.faults == 1
    assert outcome.spent[Spent.JOINABLE] == 100_000


def test_a_replacement_that_comes_sooner_than_a_planned_restart_is_waited_for() -> None:
    quick = replace(COSTS, join=12_000)
    trace = cluster(4, 10, (0, 0, HOUR - 1000), (2, HOUR, 10 * HOUR))
    outcome = simulate(trace, (2, 3), quick)
    assert outcome.spent[Spent.WAITING] > 0
    assert outcome.growths == 0


@ANY
@given(clusters())
def test_no_fixed_size_beats_the_best(trace: Trace) -> None:
    _, best = best_fixed(trace, COSTS)
    every = (simulate(trace, (size,), COSTS) for size in range(1, trace.wanted + 1))
    assert best.of_capacity == max(outcome.of_capacity for outcome in every)


def test_a_cluster_with_nobody_left_loses_nothing_that_was_allowed() -> None:
    trace = cluster(1, 2, (0, HOUR, 2 * HOUR))
    assert spent(simulate(trace, (1,), COSTS))[Spent.MISSING] == HOUR
