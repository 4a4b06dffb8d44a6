"""Step reports reach a listening agent, and cost a training process nothing."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from goodput.agent.trainer import publish
from goodput.session import Session

SPEECH = {"RANK": "2", "WORLD_SIZE": "4", "GOODPUT_ATTEMPT": "3"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def session(agent, clock: Clock):
    session = Session({**SPEECH, "GOODPUT_AGENT": str(agent.path)}, clock)
    yield session
    session.close()


def test_the_first_step_is_told_at_once_after_a_hello(session, agent, clock: Clock) -> None:
    session.step(41)
    common = {"rank": 2, "attempt": 3, "at": 1000.0}
    assert agent.heard() == [
        {"kind": "hello", **common, "pid": os.getpid()},
        {"kind": "step", **common, "step": 41, "milliseconds": None},
    ]


def test_at_most_four_steps_a_second_are_told(session, agent, clock: Clock) -> None:
    steps = []
    for step in range(1000):
        session.step(step)
        steps += [message for message in agent.heard() if message["kind"] == "step"]
        clock.now += 0.01
    assert 38 <= len(steps) <= 41
    assert steps[-1]["milliseconds"] == 10


def test_a_slow_step_does_not_hide_how_long_steps_take(session, agent, clock: Clock) -> None:
    for step in range(20):
        clock.now += 60 if step % 5 == 4 else 2
        session.step(step)
    assert agent.heard()[-1]["milliseconds"] == 2000


def test_steps_told_by_the_dozen_are_timed_one_by_one(session, agent, clock: Clock) -> None:
    for step in range(0, 120, 12):
        session.step(step)
        clock.now += 6
    assert agent.heard()[-1]["milliseconds"] == 500


def test_the_last_step_is_told_at_the_end(session, agent, clock: Clock) -> None:
    session.step(1)
    session.step(2)
    agent.heard()
    session.close()
    (last,) = agent.heard()
    assert last["step"] == 2
    session.step(3)
    assert agent.heard() == []


def test_a_finished_step_keeps_its_time(session, clock: Clock) -> None:
    session.step(7)
    clock.now += 30
    assert session.finished_at(7) == 1000.0
    assert session.finished_at(8) == 1030.0


def test_nobody_has_to_listen(tmp_path: pathlib.Path, clock: Clock) -> None:
    session = Session({**SPEECH, "GOODPUT_AGENT": str(tmp_path / "nobody")}, clock)
    session.step(1)
    session.close()


def test_an_agent_that_does_not_read_does_not_stop_the_training(session, agent, clock) -> None:
    began = time.monotonic()
    for step in range(20_000):
        clock.now += 1
        session.step(step)
    assert time.monotonic() - began < 10
    assert agent.heard()[0]["kind"] == "hello"


def test_a_commit_waits_for_a_busy_agent(session, agent, clock: Clock) -> None:
    for step in range(1000):
        clock.now += 1
        session.step(step)  # until the queue is full
    heard = []
    reader = threading.Timer(0.2, lambda: heard.extend(agent.heard()))
    reader.start()
    session.say("commit", step=1000)
    reader.join()
    assert (heard + agent.heard())[-1]["kind"] == "commit"


def test_a_stuck_agent_is_waited_for_once(session, agent, clock: Clock) -> None:
    for step in range(1000):
        clock.now += 1
        session.step(step)
    began = time.monotonic()
    for step in range(20):
        session.say("commit", step=step)
    assert 0.9 < time.monotonic() - began < 10


def test_a_step_costs_less_than_twenty_microseconds(agent) -> None:
    session = Session({**SPEECH, "GOODPUT_AGENT": str(agent.path)})
    costs = []
    for _ in range(5):
        began = time.perf_counter()
        for step in range(1000):
            session.step(step)
        costs.append((time.perf_counter() - began) / 1000)
    session.close()
    assert min(costs) < 20e-6


@pytest.mark.parametrize(
    ("environ", "rank", "world_size"),
    [
        ({}, 0, 1),
        ({"RANK": "3", "WORLD_SIZE": "8", "JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, 3, 8),
        ({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}, 1, 2),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, 5, 6),
        ({"RANK": "3"}, 0, 1),
        ({"RANK": "x", "WORLD_SIZE": "8"}, 0, 1),
    ],
)
def test_a_process_knows_its_place(environ: dict[str, str], rank: int, world_size: int) -> None:
    session = Session(environ)
    assert (session.rank, session.world_size) == (rank, world_size)


def test_a_process_speaks_from_its_first_word_to_its_last(agent) -> None:
    code = "from goodput import session\nfor step in range(5): session.step(step)"
    source = pathlib.Path(__file__).parents[3] / "operator"
    environ = {**SPEECH, "GOODPUT_AGENT": str(agent.path), "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert [message.get("step") for message in agent.heard()] == [None, 0, 4]


def asked(agent, step: int | None, attempt: int = 3) -> None:
    publish(str(agent.path.parent), attempt, None, step)


def test_all_ranks_are_asked_to_save_after_the_same_step_and_once(session, agent) -> None:
    asked(agent, 12)
    answers = []
    for step in range(10, 16):
        session.step(step)
        answers.append(session.should_save())
    assert answers == [False, False, True, False, False, False]
    asked(agent, None)
    asked(agent, 20)
    session.step(20)
    assert session.should_save(), "another question"


def test_who_learns_of_the_question_too_late_does_not_save_alone(session, agent) -> None:
    for step in (12, 13):
        session.step(step)
    asked(agent, 12)
    assert not session.should_save()
    session.step(14)
    assert not session.should_save()


def test_one_who_says_few_of_his_steps_saves_after_the_next(session, agent) -> None:
    asked(agent, 12)
    session.step(10)
    assert not session.should_save()
    session.step(20)
    assert session.should_save()


@pytest.mark.parametrize("state", ["", "{", "[]", '{"attempt": 3, "save": "12"}', '{"save": 12}'])
def test_nobody_is_asked_by_what_cannot_be_read(session, agent, state: str) -> None:
    (agent.path.parent / "state.json").write_text(state)
    session.step(12)
    assert not session.should_save()


def test_the_question_to_another_attempt_is_none_to_this_one(session, agent) -> None:
    asked(agent, 12, attempt=2)
    session.step(12)
    assert not session.should_save()


def test_nobody_asks_outside_a_cluster() -> None:
    alone = Session({})
    alone.step(1)
    assert not alone.should_save()
    alone.rest_after_save(1)


def test_one_who_has_saved_as_asked_rests_until_he_is_let_go(session, agent) -> None:
    asked(agent, 12)
    session.rest_after_save(11)  # of a checkpoint before that, nothing is waited for
    resting = threading.Thread(target=session.rest_after_save, args=(12,))
    resting.start()
    resting.join(0.2)
    assert resting.is_alive()
    asked(agent, None)
    resting.join(10)
    assert not resting.is_alive()


def test_how_long_training_stands_still_is_told_with_the_steps(
    session, agent, clock: Clock
) -> None:
    with session.stalled("data"):
        clock.now += 5  # the first batch: the start's own time
    session.step(1)
    for seconds in (2.0, 0.5):
        with session.stalled("data"):
            clock.now += seconds
    with session.stalled("checkpoint"), session.stalled("data"):
        clock.now += 3
    clock.now += 1
    session.step(2)
    assert agent.heard()[-1]["stalled"] == {"data": 2500, "checkpoint": 3000}


def test_a_commit_tells_what_of_it_came_after_its_step(session, clock: Clock) -> None:
    session.step(1)
    with session.stalled("data"):
        clock.now += 2
    session.step(2)
    with session.stalled("checkpoint"):
        clock.now += 4
        assert session.stalls_since(2) == {
            "stalled": {"data": 2000, "checkpoint": 4000},
            "since": 4000,
        }


def test_who_never_stands_still_says_nothing_of_it(session, agent, clock: Clock) -> None:
    session.step(1)
    session.say_stalls()
    assert [message["kind"] for message in agent.heard()] == ["hello", "step"]
    assert session.stalls_since(1) == {}
