"""Across any resize no sample of an epoch is trained twice or skipped."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodput import data as goodput_data
from goodput.data import Batches, permuted, watched
from goodput.session import Session

ANY = settings(max_examples=25, deadline=None)


@dataclass(frozen=True)
class Attempt:
    """One generation of the gang: its size, and how many steps it trains and saves."""

    replicas: int
    micro_batch_size: int
    saved_steps: int
    lost_steps: int


def test_what_is_waited_for_is_a_stall_and_what_was_ready_is_none(monkeypatch) -> None:
    times = iter(range(0, 1000, 10))
    session = Session({}, clock=lambda: float(next(times)))
    monkeypatch.setattr(goodput_data.session, "current", lambda: session)
    seen = []
    for number in watched("ab"):
        session.step(len(seen))
        seen.append(number)
    assert seen == ["a", "b"]
    # Of three waits, ten seconds each, one was for the first batch: the start's own.
    assert session.stalls_since(1)["stalled"] == {"data": 20_000}


PARTS = 48  # every replicas × micro-batch below divides a batch of this or a multiple
attempts = st.lists(
    st.builds(
        Attempt,
        replicas=st.sampled_from([1, 2, 3, 4, 6]),
        micro_batch_size=st.sampled_from([1, 2, 4]),
        saved_steps=st.integers(0, 3),
        lost_steps=st.integers(0, 1),
    ),
    min_size=1,
    max_size=4,
)


def gang(samples: int | None, batch_size: int, attempt: Attempt, state: dict | None, **options):
    ranks = [
        Batches(
            samples,
            batch_size=batch_size,
            micro_batch_size=attempt.micro_batch_size,
            replica=replica,
            replicas=attempt.replicas,
            **options,
        )
        for replica in range(attempt.replicas)
    ]
    for rank in ranks:
        if state is not None:
            rank.load_state_dict(state)
    return ranks


def one_step(ranks, loaders) -> list:
    """Return the samples that all replicas train on in one optimizer step, pass by pass."""
    trained = []
    for _ in range(ranks[0].accumulation_steps):
        for loader in loaders:
            trained += next(loader)
    for rank in ranks:
        rank.step()
    return trained


@ANY
@given(attempts, st.integers(1, 100), st.integers(1, 2), st.booleans(), st.integers(0, 5))
def test_a_job_that_is_resized_trains_the_steps_of_one_that_is_not(
    attempts: list[Attempt], samples: int, batches: int, shuffle: bool, seed: int
) -> None:
    batch_size, options = PARTS * batches, {"shuffle": shuffle, "seed": seed}
    state, steps = None, []
    for attempt in attempts:
        ranks = gang(samples, batch_size, attempt, state, **options)
        loaders = [iter(rank) for rank in ranks]
        steps += [one_step(ranks, loaders) for _ in range(attempt.saved_steps)]
        state = ranks[-1].state_dict()
        for _ in range(attempt.lost_steps):  # trained, but the attempt dies before it saves
            one_step(ranks, loaders)

    calm = gang(samples, batch_size, Attempt(1, 1, 0, 0), None, **options)
    loader = [iter(calm[0])]
    assert steps == [one_step(calm, loader) for _ in steps]
    for epoch in range(len(steps) * batch_size // samples):
        row = [sample for step in steps for sample in step]
        of_the_epoch = row[epoch * samples : (epoch + 1) * samples]
        assert sorted(of_the_epoch) == list(range(samples))


@ANY
@given(attempts, st.integers(1, 100) | st.none())
def test_a_plain_iterable_is_trained_in_its_order_by_all_together(
    attempts: list[Attempt], samples: int | None
) -> None:
    def stream():
        return range(samples) if samples else iter(range(4000))

    state, trained = None, []
    for attempt in attempts:
        ranks = gang(samples, PARTS, attempt, state)
        loaders = [rank.of(stream()) for rank in ranks]
        for _ in range(attempt.saved_steps):
            trained += one_step(ranks, loaders)
        state = ranks[0].state_dict()
    assert trained == [place % (samples or 4000) for place in range(len(trained))]


def test_a_stream_ends_for_all_replicas_after_the_same_pass() -> None:
    ranks = gang(None, 6, Attempt(3, 1, 0, 0), None)
    assert [len(list(rank.of(range(17)))) for rank in ranks] == [4, 4, 4]


def test_an_iterable_that_can_be_read_only_once_is_told_so() -> None:
    batches = Batches(4, batch_size=3, replica=0, replicas=1)
    micro_batches = batches.of(iter(range(4)))
    next(micro_batches)
    with pytest.raises(ValueError, match="read only once"):
        next(micro_batches)


def test_an_epoch_that_is_shorter_than_was_said_is_told_so() -> None:
    with pytest.raises(ValueError, match="an epoch had 3 samples, not 4"):
        next(Batches(4, batch_size=8, replica=0, replicas=1).of([1, 2, 3]))


@pytest.mark.filterwarnings("default")  # torch's own, about pinned memory and forks
@pytest.mark.parametrize("processes", [0, 1])
def test_torch_loaders_train_each_sample_of_an_epoch_once(processes: int) -> None:
    data = pytest.importorskip("torch.utils.data")
    state, seen = None, []
    for replicas, steps in ((2, 3), (1, 2)):
        ranks = gang(60, 12, Attempt(replicas, 1, 0, 0), state)
        loaders = [
            iter(data.DataLoader(range(60), batch_sampler=rank, num_workers=processes))
            for rank in ranks
        ]
        for _ in range(steps):
            seen += [int(sample) for sample in one_step(ranks, loaders)]
        state = ranks[0].state_dict()
    assert ranks[0].epoch == 1
    assert sorted(seen) == list(range(60))


def test_a_loader_that_reads_ahead_does_not_move_the_position() -> None:
    batches = Batches(100, batch_size=4, replica=0, replicas=1)
    list(islice(batches, 10))
    assert batches.state_dict()["position"] == 0


def test_the_batch_may_change_between_attempts() -> None:
    small = Batches(10, batch_size=2, replica=0, replicas=1)
    small.step()
    large = Batches(10, batch_size=8, replica=0, replicas=1)
    large.load_state_dict(small.state_dict())
    rest = next(iter(large))
    assert {*rest, small.index(0), small.index(1)} == set(range(10))


@pytest.mark.parametrize("other", [{"seed": 1}, {"samples": 9}, {"shuffle": False}])
def test_a_position_along_another_order_is_refused(other: dict) -> None:
    state = Batches(10, batch_size=2, replica=0, replicas=1).state_dict()
    batches = Batches(
        **({"samples": 10, "seed": 0, "shuffle": True} | other),
        batch_size=2,
        replica=0,
        replicas=1,
    )
    with pytest.raises(ValueError, match=f"another order: {next(iter(other))} "):
        batches.load_state_dict(state)


def test_the_environment_says_all_that_is_not_given() -> None:
    environ = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "GOODPUT_GLOBAL_BATCH_SIZE": "48",
        "GOODPUT_GRADIENT_ACCUMULATION_STEPS": "3",
        "GOODPUT_DATA_PARALLEL_DEGREE": "4",
        "GOODPUT_DATA_PARALLEL_RANK": "2",
    }
    batches = Batches(100, environ=environ)
    assert (batches.replica, batches.replicas) == (2, 4)
    assert (batches.micro_batch_size, batches.accumulation_steps) == (4, 3)


def test_without_parallelism_each_rank_is_a_replica_and_one_pass_does_the_batch() -> None:
    batches = Batches(100, batch_size=8, environ={"RANK": "3", "WORLD_SIZE": "4"})
    assert (batches.replica, batches.replicas) == (3, 4)
    assert (batches.micro_batch_size, batches.accumulation_steps) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        pytest.param({}, {}, "give batch_size", id="no batch"),
        pytest.param(
            {"batch_size": 10}, {"RANK": "0", "WORLD_SIZE": "4"}, "10 cannot be dealt", id="uneven"
        ),
        pytest.param({"batch_size": 2, "micro_batch_size": 4}, {}, "2 cannot", id="too small"),
        pytest.param(
            {"batch_size": 8},
            {"RANK": "0", "WORLD_SIZE": "4", "GOODPUT_DATA_PARALLEL_DEGREE": "2"},
            "4 ranks hold 2 replicas: say which",
            id="a share nobody tells",
        ),
        pytest.param(
            {"batch_size": 8, "replica": 2, "replicas": 2}, {}, "replica 2 of 2", id="no such share"
        ),
        pytest.param({"samples": 0, "batch_size": 8}, {}, "no sample", id="nothing"),
    ],
)
def test_what_cannot_be_dealt_is_refused(arguments: dict, environ: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Batches(**({"samples": 100} | arguments), environ=environ)


def test_the_epochs_trained_are_counted() -> None:
    batches = Batches(10, batch_size=4, replica=0, replicas=1)
    seen = []
    for _ in range(6):
        batches.step()
        seen.append(batches.epoch)
    assert seen == [0, 0, 1, 1, 2, 2]


@ANY
@given(st.integers(1, 500), st.integers(0, 2**70), st.integers(0, 1000))
def test_every_key_is_a_permutation(samples: int, seed: int, epoch: int) -> None:
    places = [permuted(place, samples, (seed, epoch)) for place in range(samples)]
    assert sorted(places) == list(range(samples))


@pytest.mark.parametrize("samples", [2, 3, 5, 11])
def test_each_sample_comes_equally_often_to_each_place(samples: int) -> None:
    rounds = 100 * samples
    seen = Counter(
        (place, permuted(place, samples, (7, epoch)))
        for epoch in range(rounds)
        for place in range(samples)
    )
    expected = rounds / samples
    chi_squared = sum(
        (seen[place, index] - expected) ** 2 / expected
        for place in range(samples)
        for index in range(samples)
    )
    freedom = (samples - 1) ** 2
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5


def test_neighbours_are_not_neighbours_in_the_next_epoch() -> None:
    samples = 10_000
    order = [permuted(place, samples, (0, 0)) for place in range(samples)]
    near = sum(abs(a - b) < 100 for a, b in pairwise(order))
    assert near < 300  # 2 % by chance


def test_a_place_in_a_billion_samples_is_found_at_once() -> None:
    batches = Batches(10**9, batch_size=8, replica=0, replicas=1)
    batches.load_state_dict({**batches.state_dict(), "position": 987_654_320})
    assert len(set(next(iter(batches)))) == 8
