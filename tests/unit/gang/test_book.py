"""What the book holds: the cluster as the caches show it, and the promises in between."""

from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.gang import Book, GangRequest, NoRoom, Placement
from goodput_operator.gang.placement import LEFT_OVER
from tests.unit.gang.cluster import GPU, JOB, NOW, book, foreign, gang, later, node, worker

POD = "train-0-0"


def free(cluster: Book, name: str) -> int:
    return cluster.free(name)[GPU]


def promised() -> Book:
    cluster = book(node("a"))
    cluster.promise(JOB, {POD: "a"}, gang(1).requests, NOW)
    assert free(cluster, "a") == 0
    return cluster


def test_a_promise_holds_the_room_until_the_pod_does() -> None:
    cluster = promised()
    assert isinstance(cluster.place(("default", "other"), gang(1), later(1)), NoRoom)
    assert not cluster.pod_changed(None, worker(POD, on="a"))
    assert free(cluster, "a") == 0, "once, not twice"
    assert cluster.pod_changed(worker(POD, on="a"), None), "room comes back"
    assert free(cluster, "a") == 8


def test_a_pending_pod_holds_the_node_that_it_is_pinned_to() -> None:
    cluster = promised()
    cluster.pod_changed(None, worker(POD, on=None, phase="Pending", pinned="a"))
    assert isinstance(cluster.place(("default", "other"), gang(1), later(3600)), NoRoom)

    restarted = book(node("a"))
    restarted.pod_changed(None, worker(POD, on=None, phase="Pending", pinned="a"))
    assert free(restarted, "a") == 0, "a restarted operator reads the promise from the pod"


def test_a_pod_that_nobody_has_a_node_for_holds_nothing() -> None:
    cluster = book(node("a"))
    cluster.pod_changed(None, foreign("x", on=None, phase="Pending"))
    assert free(cluster, "a") == 8


def test_a_promise_ends_when_the_creation_failed() -> None:
    cluster = promised()
    assert cluster.release("default", POD)
    assert not cluster.release("default", POD), "twice is harmless"
    assert free(cluster, "a") == 8


def test_a_promise_ends_when_the_pod_is_seen_to_have_failed() -> None:
    cluster = promised()
    assert cluster.pod_changed(None, worker(POD, on="a", phase="Failed"))
    assert free(cluster, "a") == 8


def test_a_promise_whose_pod_never_shows_up_ends_by_itself() -> None:
    cluster = promised()
    other = ("default", "other")
    assert isinstance(cluster.place(other, gang(1), later(119)), NoRoom)
    assert isinstance(cluster.place(other, gang(1), later(120)), Placement)


def test_the_end_of_a_namesake_does_not_end_the_promise() -> None:
    cluster = book(node("a"), node("b"))
    former = worker(POD, on="b", uid="former")
    cluster.pod_changed(None, former)
    cluster.promise(JOB, {POD: "a"}, gang(1).requests, NOW)
    cluster.pod_changed(former, None)
    assert (free(cluster, "a"), free(cluster, "b")) == (0, 8)
    cluster.pod_changed(None, worker(POD, on="a", uid="new"))
    assert (free(cluster, "a"), free(cluster, "b")) == (0, 8)


def test_a_promise_made_twice_holds_once() -> None:
    cluster = promised()
    cluster.promise(JOB, {POD: "a"}, gang(1).requests, NOW)
    cluster.release("default", POD)
    assert free(cluster, "a") == 8


def test_a_gang_whose_creation_was_not_answered_finds_its_own_room_again() -> None:
    cluster = promised()
    assert cluster.place(JOB, gang(1), later(1)) == Placement({0: "a"})
    assert free(cluster, "a") == 0, "a look changes nothing"
    assert isinstance(cluster.place(("default", "other"), gang(1), later(1)), NoRoom)


def test_a_pod_that_has_ended_gives_its_room_back() -> None:
    cluster = book(node("a"))
    running = foreign("x", on="a")
    cluster.pod_changed(None, running)
    assert cluster.pod_changed(running, foreign("x", on="a", phase="Succeeded"))
    assert free(cluster, "a") == 8


def test_a_node_that_shrinks_below_its_load_offers_nothing() -> None:
    cluster = book(node("a"))
    cluster.pod_changed(None, foreign("x", on="a", gpus=6))
    cluster.node_changed(node("a"), node("a", gpus=4))
    assert free(cluster, "a") == -2
    assert isinstance(cluster.place(JOB, gang(1, gpus=1), NOW), NoRoom)


def test_pods_of_a_node_that_is_not_known_yet_count_when_it_comes() -> None:
    cluster = book()
    cluster.pod_changed(None, foreign("x", on="a"))
    assert cluster.node_changed(None, node("a"))
    assert free(cluster, "a") == 0


def test_a_node_that_went_away_takes_no_workers() -> None:
    cluster = book(node("a"))
    cluster.node_changed(node("a"), None)
    assert isinstance(cluster.place(JOB, gang(1), NOW), NoRoom)
    assert cluster.used() == {}


# --- properties -----------------------------------------------------------------------------

NODES = ("a", "b", "c", "d")
AMOUNTS = st.integers(0, 8)
RACKS = st.sampled_from([None, "r1", "r2"])

Event = tuple[str, str, Any]


def node_events() -> st.SearchStrategy[Event]:
    state = st.none() | st.builds(
        lambda gpus, rack, ready: {"gpus": gpus, "rack": rack, "ready": ready},
        AMOUNTS,
        RACKS,
        st.booleans(),
    )
    return st.tuples(st.just("node"), st.sampled_from(NODES), state)


def pod_events() -> st.SearchStrategy[Event]:
    state = st.none() | st.fixed_dictionaries(
        {
            "on": st.sampled_from([None, *NODES]),
            "gpus": AMOUNTS,
            "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
        }
    )
    return st.tuples(
        st.sampled_from(["worker", "foreign"]), st.sampled_from(["p0", "p1", "p2", "p3"]), state
    )


def objects(event: Event) -> tuple[str, dict[str, Any] | None]:
    kind, name, state = event
    if state is None:
        return name, None
    if kind == "node":
        return name, node(name, **state)
    name = f"{kind}-{name}"
    return name, {"worker": worker, "foreign": foreign}[kind](name, **state)


def play(cluster: Book, events: list[Event]) -> dict[str, dict[str, dict[str, Any]]]:
    """Feed the events as a cache would and return what the cache then holds."""
    seen: dict[str, dict[str, dict[str, Any]]] = {"node": {}, "pod": {}}
    for event in events:
        kind = "node" if event[0] == "node" else "pod"
        name = event[1] if kind == "node" else f"{event[0]}-{event[1]}"
        _, new = objects(event)
        old = seen[kind].pop(name, None)
        if new is not None:
            seen[kind][name] = new
        if old is not None or new is not None:
            change = cluster.node_changed if kind == "node" else cluster.pod_changed
            change(old, new)
    return seen


@given(st.lists(node_events() | pod_events(), max_size=40))
def test_after_any_events_the_book_is_what_a_restarted_operator_would_write(
    events: list[Event],
) -> None:
    lived = Book()
    seen = play(lived, events)
    rebuilt = Book()
    for pod in sorted(seen["pod"]):
        rebuilt.pod_changed(None, seen["pod"][pod])
    for name in sorted(seen["node"]):
        rebuilt.node_changed(None, seen["node"][name])
    assert lived.used() == rebuilt.used()
    for name in NODES:
        assert lived.free(name) == rebuilt.free(name)
    assert lived.place(JOB, gang(2, gpus=2), NOW) == rebuilt.place(JOB, gang(2, gpus=2), NOW)


def requests() -> st.SearchStrategy[GangRequest]:
    return st.builds(lambda workers, gpus: gang(workers, gpus=gpus), st.integers(1, 6), AMOUNTS)


@given(st.lists(node_events() | pod_events(), max_size=30), st.lists(requests(), max_size=6))
def test_no_node_is_ever_promised_beyond_what_it_has_and_gangs_come_whole(
    events: list[Event], wanted: list[GangRequest]
) -> None:
    cluster = Book()
    play(cluster, events)
    before = {name: cluster.free(name) for name in NODES}
    given_away: dict[str, int] = {}
    for number, request in enumerate(wanted):
        key = ("default", f"job{number}")
        outcome = cluster.place(key, request, NOW)
        if isinstance(outcome, NoRoom):
            assert outcome.fits < len(request.slots)
            continue
        assert tuple(outcome.nodes) == request.slots
        names = {f"{key[1]}-{slot}-0": name for slot, name in outcome.nodes.items()}
        cluster.promise(key, names, request.requests, NOW)
        for name in outcome.nodes.values():
            given_away[name] = given_away.get(name, 0) + request.requests.get(GPU, 0)
    for name, amount in given_away.items():
        had = before[name].get(GPU, 0)
        assert amount <= max(0, had)
        assert cluster.free(name).get(GPU, 0) == had - amount
        assert cluster.free(name)["pods"] >= 0


@given(
    st.lists(st.tuples(AMOUNTS, RACKS), min_size=1, max_size=8),
    requests(),
    st.randoms(use_true_random=False),
)
def test_the_order_in_which_nodes_were_seen_changes_nothing(
    shapes: list[tuple[int, str | None]], request: GangRequest, random: Any
) -> None:
    nodes = [node(f"n{n}", gpus=gpus, rack=rack) for n, (gpus, rack) in enumerate(shapes)]
    shuffled = list(nodes)
    random.shuffle(shuffled)
    assert book(*nodes).place(JOB, request, NOW) == book(*shuffled).place(JOB, request, NOW)


@given(
    st.lists(st.tuples(AMOUNTS, st.sampled_from(["r1", "r2", "r3"])), min_size=1, max_size=7),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_no_other_choice_of_racks_would_be_smaller(
    shapes: list[tuple[int, str]], workers: int, gpus: int
) -> None:
    cluster = book(*(node(f"n{n}", gpus=have, rack=rack) for n, (have, rack) in enumerate(shapes)))
    outcome = cluster.place(JOB, gang(workers, gpus=gpus), NOW)
    sizes: dict[str, int] = {}
    for have, rack in shapes:
        sizes[rack] = sizes.get(rack, 0) + have // gpus
    if sum(sizes.values()) < workers:
        assert isinstance(outcome, NoRoom)
        assert outcome.fits == sum(sizes.values())
        return
    assert isinstance(outcome, Placement)
    used = {shapes[int(name[1:])][1] for name in outcome.nodes.values()}
    largest = sorted(sizes.values(), reverse=True)
    assert sum(largest[: len(used) - 1]) < workers


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12))
def test_of_two_gangs_that_each_need_more_than_half_never_both_hold_something(
    turns: list[int],
) -> None:
    cluster = book(*(node(name) for name in NODES))
    keys = (("default", "left"), ("default", "right"))
    holding: set[int] = set()
    for moment, turn in enumerate(turns):
        if turn in holding:
            cluster_pods = [f"{keys[turn][1]}-{slot}-{turn}" for slot in range(3)]
            for pod in cluster_pods:
                cluster.release("default", pod)
            holding.discard(turn)
            continue
        outcome = cluster.place(keys[turn], gang(3), later(moment))
        if isinstance(outcome, Placement):
            pods = {f"{keys[turn][1]}-{slot}-{turn}": on for slot, on in outcome.nodes.items()}
            cluster.promise(keys[turn], pods, gang(3).requests, later(moment))
            holding.add(turn)
        else:
            cluster.wait(keys[turn], gang(3), later(moment))
        assert len(holding) <= 1
        held = sum(8 - free(cluster, name) for name in NODES)
        assert held == 24 * len(holding), "who does not hold all holds nothing"


@given(st.integers(2, 4), st.lists(st.integers(20, 400), min_size=4, max_size=10))
@settings(max_examples=50)
def test_a_large_gang_starts_however_many_small_ones_keep_coming(
    size: int, lifetimes: list[int]
) -> None:
    """Small jobs arrive all the time and each runs for a while; the large one needs them gone."""
    cluster = book(*(node(name) for name in NODES))
    big = ("default", "big")
    running: dict[str, float] = {}
    numbers = count()
    for moment in range(0, 2000, 10):
        for name in [name for name, end in running.items() if end <= moment]:
            del running[name]
            pod = worker(f"{name}-0-0", on="a")
            cluster.pod_changed(pod, None)
        if moment >= 100:
            outcome = cluster.place(big, gang(size), later(moment))
            if isinstance(outcome, Placement):
                assert moment <= 100 + 300 + max(lifetimes) + 10
                return
            cluster.wait(big, gang(size), later(100))
        while True:
            number = next(numbers)
            name = f"small{number}"
            small = cluster.place(("default", name), gang(1), later(moment))
            if isinstance(small, NoRoom):
                break
            cluster.promise(
                ("default", name), {f"{name}-0-0": small.nodes[0]}, gang(1).requests, later(moment)
            )
            cluster.pod_changed(None, worker(f"{name}-0-0", on=small.nodes[0]))
            running[name] = moment + lifetimes[number % len(lifetimes)]
    raise AssertionError("the large gang starved")


def test_a_thousand_workers_find_their_nodes_among_two_thousand() -> None:
    racks = 50
    cluster = book(*(node(f"n{n:04}", rack=f"r{n % racks:02}") for n in range(2000)))
    for number in range(0, 2000, 3):
        cluster.pod_changed(None, foreign(f"x{number}", on=f"n{number:04}"))
    outcome = cluster.place(JOB, gang(1000), NOW)
    assert isinstance(outcome, Placement)
    assert len(set(outcome.nodes.values())) == 1000
    assert len({int(name[1:]) % racks for name in outcome.nodes.values()}) == 38, "⌈1000/27⌉"


def test_growth_takes_only_what_nobody_waits_for() -> None:
    cluster, other = book(node("a"), node("b")), ("default", "other")
    growth = gang(1, bound={7: "z"}, priority=LEFT_OVER)
    cluster.wait(other, gang(2), NOW)
    behind = cluster.place(JOB, growth, later(1))
    assert isinstance(behind, NoRoom)
    assert behind.waiting_behind == other
    cluster.leave(other)
    assert isinstance(cluster.place(JOB, growth, later(2)), Placement)


def test_growth_is_not_held_up_by_a_gang_that_could_not_start_anyway() -> None:
    cluster = book(node("a"))
    cluster.wait(("default", "other"), gang(2), NOW)
    assert isinstance(cluster.place(JOB, gang(1, priority=LEFT_OVER), later(1)), Placement)


def test_growth_that_waits_keeps_no_room_from_anybody() -> None:
    cluster = book(node("a"))
    cluster.wait(JOB, gang(1, bound={7: "z"}, priority=LEFT_OVER), NOW)
    assert isinstance(cluster.place(("default", "other"), gang(1), later(4000)), Placement)


def test_the_accelerators_of_nodes_that_take_workers_are_counted() -> None:
    cluster = book(node("a"), node("b", gpus=4), node("c", cordoned=True), node("d", gpus=0))
    assert cluster.accelerators() == {GPU: (12, 12)}
    cluster.promise(JOB, {POD: "a"}, gang(1).requests, NOW)
    assert cluster.accelerators() == {GPU: (12, 4)}
    cluster.pod_changed(None, foreign("x", on="b", gpus=6))
    assert cluster.accelerators() == {GPU: (12, 0)}, "an overcommitted node has none, not less"
