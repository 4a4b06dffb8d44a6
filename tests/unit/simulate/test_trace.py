"""Recorded failures of nodes."""

import json
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.simulate.trace import (
    Outage,
    Trace,
    merged,
    read_infinitehbd,
    read_spot_bamboo,
)

ANY = settings(max_examples=50, deadline=None)
LENGTH = 1000
NODES = tuple("abcd")
outages = st.lists(
    st.builds(
        lambda node, begin, lasts: Outage(node, begin, min(begin + lasts, LENGTH)),
        st.sampled_from(NODES),
        st.integers(0, LENGTH - 1),
        st.integers(0, LENGTH),
    ),
    max_size=12,
)
traces = outages.map(lambda listed: Trace("made", NODES, 4, LENGTH, merged(listed)))


def test_a_node_is_back_when_the_last_of_its_faults_is_repaired() -> None:
    faults = [Outage("a", 5, 9), Outage("a", 1, 6), Outage("a", 9, 10), Outage("b", 2, 3)]
    assert merged(faults) == (Outage("a", 1, 10), Outage("b", 2, 3))


@ANY
@given(outages)
def test_merging_keeps_the_downtime_and_leaves_gaps(listed: list[Outage]) -> None:
    once = merged(listed)
    assert {(o.node, at) for o in once for at in range(o.begin, o.end)} == {
        (o.node, at) for o in listed for at in range(o.begin, o.end)
    }
    for first, second in pairwise(once):
        assert first.node < second.node or first.end < second.begin


@ANY
@given(traces, st.integers(1, 5), st.integers())
def test_superposed_copies_take_nodes_down_at_least_as_long_and_no_longer_than_all_together(
    trace: Trace, copies: int, seed: int
) -> None:
    def downtime(of: Trace) -> int:
        return sum(outage.end - outage.begin for outage in of.outages)

    many = trace.superposed(copies, seed)
    assert downtime(trace) <= downtime(many) <= copies * downtime(trace)
    assert all(0 <= outage.begin < outage.end <= LENGTH for outage in many.outages)
    assert many == trace.superposed(copies, seed)


def test_one_copy_is_the_recording_itself() -> None:
    trace = Trace("made", NODES, 4, LENGTH, (Outage("a", 1, 10),))
    assert trace.superposed(1, seed=7) == trace


def test_a_fault_that_leaves_at_the_end_comes_in_at_the_beginning() -> None:
    trace = Trace("made", ("a",), 1, LENGTH, (Outage("a", 0, 600),))
    for seed in range(20):
        turned = trace.superposed(2, seed).outages
        assert sum(outage.end - outage.begin for outage in turned) >= 600
        assert turned[0].begin == 0


@ANY
@given(traces)
def test_the_time_of_each_number_of_healthy_nodes_sums_to_the_recording(trace: Trace) -> None:
    by_healthy = trace.milliseconds_by_healthy()
    assert sum(by_healthy.values()) == LENGTH
    up = LENGTH * len(NODES) - sum(outage.end - outage.begin for outage in trace.outages)
    assert sum(number * lasted for number, lasted in by_healthy.items()) == up


def test_days_of_faults_become_outages(tmp_path: Path) -> None:
    events = [
        ("x", 1.0, "fault_start"),
        ("x", 2.0, "fault_start"),
        ("x", 3.0, "fault_end"),
        ("y", 3.5, "fault_start"),
        ("x", 4.0, "fault_end"),
    ]
    keys = ("node_id", "event_time", "event_type")
    listed = [dict(zip(keys, event, strict=True)) for event in events]
    (tmp_path / "fault_trace.json").write_text(json.dumps(listed))
    trace = read_infinitehbd(tmp_path)
    day = 86_400_000
    assert trace.outages == (Outage("x", day, 4 * day), Outage("y", 3.5 * day, 4 * day))
    assert len(trace.nodes) == trace.wanted == 400


def test_spot_nodes_are_missing_before_they_come_and_after_they_go(tmp_path: Path) -> None:
    (tmp_path / "p3-trace.csv").write_text("0,add,x\n50,add,y\n60,remove,x\n90,remove,y\n")
    trace = read_spot_bamboo(tmp_path)
    assert trace.outages == (Outage("x", 60, 90), Outage("y", 0, 50))
    assert (trace.nodes, trace.wanted, trace.milliseconds) == (("x", "y"), 2, 90)
