"""Which nodes a gang gets: all or none, close together, leaving whole nodes to others."""

from collections import Counter
from datetime import timedelta

import pytest

from goodput_operator.gang import Constraints, NoRoom, Placement, read_constraints
from tests.unit.gang.cluster import GPU, JOB, NOW, book, foreign, gang, later, node


def nodes_of(outcome: Placement | NoRoom) -> list[str]:
    assert isinstance(outcome, Placement), outcome
    assert list(outcome.nodes) == sorted(outcome.nodes)
    return list(outcome.nodes.values())


def refusal(outcome: Placement | NoRoom) -> NoRoom:
    assert isinstance(outcome, NoRoom), outcome
    return outcome


def test_every_worker_gets_a_node_with_room_for_it() -> None:
    cluster = book(node("a"), node("b"))
    assert nodes_of(cluster.place(JOB, gang(2), NOW)) == ["a", "b"]


def test_workers_that_ask_for_less_than_a_node_share_one() -> None:
    cluster = book(node("a"), node("b"))
    assert nodes_of(cluster.place(JOB, gang(4, gpus=2), NOW)) == ["a"] * 4


def test_a_gang_that_does_not_fit_whole_gets_nothing() -> None:
    cluster = book(node("a"), node("b"))
    assert refusal(cluster.place(JOB, gang(3), NOW)).fits == 2


def test_what_other_pods_hold_is_not_given_away() -> None:
    cluster = book(node("a"), node("b"))
    cluster.pod_changed(None, foreign("x", on="a", gpus=1))
    assert nodes_of(cluster.place(JOB, gang(1), NOW)) == ["b"]


def test_a_gang_goes_into_one_rack_when_one_can_hold_it() -> None:
    cluster = book(
        node("a1", rack="a"),
        node("b1", rack="b"),
        node("b2", rack="b"),
        node("c1", rack="c"),
        node("c2", rack="c"),
        node("c3", rack="c"),
    )
    assert nodes_of(cluster.place(JOB, gang(2), NOW)) == ["b1", "b2"], "the tightest rack"


def test_a_gang_too_large_for_a_rack_uses_as_few_as_possible() -> None:
    racks = {"a": 2, "b": 3, "c": 4, "d": 1}
    cluster = book(
        *(node(f"{rack}{n}", rack=rack) for rack, size in racks.items() for n in range(size))
    )
    placed = nodes_of(cluster.place(JOB, gang(5), NOW))
    assert Counter(name[0] for name in placed) == {"c": 4, "d": 1}


def test_consecutive_slots_are_neighbours() -> None:
    cluster = book(*(node(f"{rack}{n}", rack=rack) for n in range(2) for rack in "ab"))
    placed = nodes_of(cluster.place(JOB, gang(8, gpus=4), NOW))
    assert placed == ["a0", "a0", "a1", "a1", "b0", "b0", "b1", "b1"]


def test_whole_nodes_stay_free_for_those_who_need_them() -> None:
    cluster = book(node("a"), node("b"))
    cluster.pod_changed(None, foreign("x", on="b", gpus=4))
    assert nodes_of(cluster.place(JOB, gang(1, gpus=4), NOW)) == ["b"]


def test_a_lost_worker_comes_back_in_the_rack_of_the_others() -> None:
    cluster = book(
        node("a1", rack="a"),
        node("b1", rack="b"),
        node("b2", rack="b"),
        node("b3", rack="b"),
    )
    for name in ("b1", "b2"):
        cluster.pod_changed(None, foreign(f"survivor-{name}", on=name))
    assert nodes_of(cluster.place(JOB, gang(1, bound={1: "b1", 2: "b2"}), NOW)) == ["b3"]


def test_slots_beyond_the_rack_of_the_survivors_go_elsewhere() -> None:
    cluster = book(node("a1", rack="a"), node("b1", rack="b"), node("b2", rack="b"))
    cluster.pod_changed(None, foreign("survivor", on="b1"))
    assert nodes_of(cluster.place(JOB, gang(2, bound={7: "b1"}), NOW)) == ["b2", "a1"]


def test_workers_that_refuse_each_other_get_a_node_each() -> None:
    cluster = book(node("a"), node("b"))
    alone = Constraints(one_per_node="required anti-affinity")
    assert nodes_of(cluster.place(JOB, gang(2, gpus=1, constraints=alone), NOW)) == ["a", "b"]
    crowd = refusal(cluster.place(JOB, gang(3, gpus=1, constraints=alone), NOW))
    assert crowd.message == (
        "needs 3 workers × 1 nvidia.com/gpu; 2 fit; one worker a node (required anti-affinity)"
    )


def test_workers_that_refuse_each_other_avoid_the_survivors_nodes() -> None:
    cluster = book(node("a"), node("b"))
    alone = Constraints(one_per_node="host port 29500")
    request = gang(1, gpus=1, constraints=alone, bound={1: "a"})
    assert nodes_of(cluster.place(JOB, request, NOW)) == ["b"]


def test_an_excluded_node_is_avoided_until_its_time() -> None:
    cluster = book(node("a"), node("b"))
    request = gang(1, excluded={"a": later(60)})
    assert nodes_of(cluster.place(JOB, request, NOW)) == ["b"]
    assert nodes_of(cluster.place(JOB, request, later(60))) == ["a"]


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param({"ready": False}, id="its kubelet is not ready"),
        pytest.param({"cordoned": True}, id="it is cordoned"),
        pytest.param({"deleting": True}, id="it is being deleted"),
        *(
            pytest.param(
                {"taints": [{"key": f"node.kubernetes.io/{key}", "effect": "NoExecute"}]}, id=key
            )
            for key in ("not-ready", "unreachable", "out-of-service", "unschedulable")
        ),
    ],
)
def test_no_new_worker_goes_to_a_node_that_is_leaving_whatever_it_tolerates(
    closed: dict[str, object],
) -> None:
    tolerant = read_constraints({"spec": {"tolerations": [{"operator": "Exists"}]}}, {})
    cluster = book(node("a", **closed))  # type: ignore[arg-type]
    assert refusal(cluster.place(JOB, gang(1, constraints=tolerant), NOW)).fits == 0
    cluster.node_changed(node("a"), node("a"))
    assert nodes_of(cluster.place(JOB, gang(1, constraints=tolerant), NOW)) == ["a"]


# --- what the user reads when there is no room -------------------------------------------


def test_the_message_names_what_is_short_and_where_it_comes_closest() -> None:
    cluster = book(*(node(f"node-{n}") for n in range(4)))
    cluster.pod_changed(None, foreign("x", on="node-3", gpus=4))
    assert refusal(cluster.place(JOB, gang(4), NOW)).message == (
        "needs 4 workers × 8 nvidia.com/gpu; 3 fit; node-3 has 4 free"
    )


def test_the_message_says_when_nothing_at_all_is_left() -> None:
    cluster = book(node("a"), node("b"))
    for name in ("a", "b"):
        cluster.pod_changed(None, foreign(f"on-{name}", on=name))
    assert refusal(cluster.place(JOB, gang(1), NOW)).message == (
        "needs 1 worker × 8 nvidia.com/gpu; 0 fit; 2 nodes without free nvidia.com/gpu"
    )


def test_the_message_says_when_no_node_could_ever_hold_a_worker() -> None:
    cluster = book(node("a"), node("b", gpus=4))
    assert refusal(cluster.place(JOB, gang(1, gpus=16), NOW)).message == (
        "needs 1 worker × 16 nvidia.com/gpu; 0 fit; "
        "no node is that large: the largest has 8 nvidia.com/gpu"
    )


def test_the_message_of_a_gang_that_lost_workers_counts_the_missing_ones() -> None:
    cluster = book(node("a"))
    cluster.pod_changed(None, foreign("x", on="a", gpus=2))
    assert refusal(cluster.place(JOB, gang(1, bound={1: "z"}), NOW)).message == (
        "needs 1 more worker × 8 nvidia.com/gpu; 0 fit; a has 6 free"
    )


def test_the_message_counts_why_no_node_is_eligible() -> None:
    pool = Constraints(node_selector=(("pool", "h100"),))
    taint = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    cluster = book(
        *(node(f"gpu-{n}", taints=[taint]) for n in range(8)),
        *(node(f"cpu-{n}", gpus=0) for n in range(4)),
    )
    assert refusal(cluster.place(JOB, gang(2, constraints=pool), NOW)).message == (
        "no node matches nodeSelector pool=h100 "
        "(12 nodes: 8 tainted nvidia.com/gpu, 4 other labels)"
    )


def test_the_message_tells_of_excluded_nodes() -> None:
    cluster = book(node("a"), node("b"))
    some = gang(2, excluded={"a": later(60)})
    assert refusal(cluster.place(JOB, some, NOW)).message == (
        "needs 2 workers × 8 nvidia.com/gpu; 1 fits; 1 excluded after failures"
    )
    every = gang(2, excluded={"a": later(60), "b": later(60)})
    assert refusal(cluster.place(JOB, every, NOW)).message == (
        "no node takes a worker (2 nodes: 2 excluded after failures)"
    )


def test_an_empty_cluster_says_so() -> None:
    assert refusal(book().place(JOB, gang(1), NOW)).message == "there are no nodes"


def test_a_node_that_is_full_of_pods_is_full() -> None:
    cluster = book(node("a", pods=1))
    cluster.pod_changed(None, foreign("x", on="a", gpus=0))
    assert refusal(cluster.place(JOB, gang(1, gpus=1), NOW)).message == (
        "needs 1 worker; 0 fit; 1 node without free pods"
    )


# --- fairness -----------------------------------------------------------------------------

BIG, SMALL = ("default", "big"), ("default", "small")


def test_a_young_gang_may_use_what_an_elder_cannot_use_yet() -> None:
    cluster = book(node("a"), node("b"))
    cluster.pod_changed(None, foreign("x", on="b"))
    cluster.wait(BIG, gang(2), NOW)
    assert nodes_of(cluster.place(SMALL, gang(1), later(299))) == ["a"]


def test_once_its_patience_is_over_an_elder_is_overtaken_no_more() -> None:
    cluster = book(node("a"), node("b"))
    cluster.promise(("default", "other"), {"other-0-0": "b"}, gang(1).requests, later(250))
    cluster.wait(BIG, gang(2), NOW)
    held_back = refusal(cluster.place(SMALL, gang(1), later(300)))
    assert held_back.waiting_behind == BIG
    assert held_back.message == (
        "there is room, but it is kept for default/big, which comes first "
        "and was queued more than 300 s ago"
    )
    cluster.leave(BIG)
    assert nodes_of(cluster.place(SMALL, gang(1), later(300))) == ["a"]


def test_room_that_the_elder_cannot_use_is_not_kept_for_it() -> None:
    cluster = book(node("a"), node("b"), node("c", labels={"pool": "small"}))
    pool = Constraints(node_selector=(("pool", "small"),))
    cluster.promise(("default", "other"), {"other-0-0": "c"}, {"pods": 1, GPU: 4}, later(250))
    cluster.wait(BIG, gang(1, constraints=pool), NOW)
    assert nodes_of(cluster.place(SMALL, gang(2), later(300))) == ["a", "b"]


def test_room_is_not_kept_for_a_gang_that_would_not_fit_without_us_either() -> None:
    cluster = book(node("a"), node("b"))
    cluster.pod_changed(None, foreign("x", on="b"))
    cluster.wait(BIG, gang(2), NOW)
    assert nodes_of(cluster.place(SMALL, gang(1), later(3600))) == ["a"]


def test_a_more_important_gang_does_not_wait_for_an_elder() -> None:
    cluster = book(node("a"), node("b"))
    cluster.promise(("default", "other"), {"other-0-0": "b"}, gang(1).requests, later(250))
    cluster.wait(BIG, gang(2), NOW)
    assert nodes_of(cluster.place(SMALL, gang(1, priority=1), later(300))) == ["a"]


def test_a_gang_that_replaces_a_lost_worker_does_not_wait_for_an_elder() -> None:
    cluster = book(node("a"), node("b"))
    cluster.promise(SMALL, {"small-0-0": "b"}, gang(1).requests, later(250))
    cluster.wait(BIG, gang(2), NOW)
    assert nodes_of(cluster.place(SMALL, gang(1, bound={1: "b"}), later(300))) == ["a"]


def test_the_waiting_list_is_served_by_priority_and_then_by_age() -> None:
    cluster = book()
    cluster.wait(("n", "young"), gang(1), later(2))
    cluster.wait(("n", "old"), gang(1), later(1))
    cluster.wait(("n", "important"), gang(1, priority=5), later(3))
    assert cluster.waiting() == (("n", "important"), ("n", "old"), ("n", "young"))


def test_a_gang_that_has_been_promised_its_nodes_waits_no_more() -> None:
    cluster = book(node("a"))
    cluster.wait(JOB, gang(1), NOW)
    cluster.promise(JOB, {"train-0-0": "a"}, gang(1).requests, NOW)
    assert cluster.waiting() == ()


def test_patience_can_be_chosen() -> None:
    cluster = book(node("a"), node("b"), patience_seconds=10)
    cluster.promise(("default", "other"), {"other-0-0": "b"}, gang(1).requests, NOW)
    cluster.wait(BIG, gang(2), NOW)
    held_back = refusal(cluster.place(SMALL, gang(1), NOW + timedelta(seconds=10)))
    assert held_back.waiting_behind == BIG
