"""What the agent does next, as a table of sentences. Time is stepped by hand."""

import json
import signal

import pytest

from goodput import protocol
from goodput.agent import core
from goodput.agent.core import Core, Leave, Publish, Report, Say, Signal, Start
from goodput.agent.settings import COMMAND, PROCESSES, Settings
from goodput.protocol import Commit, Disk, ProcessExit, SyncAnswer, World

TERM = Signal(signal.SIGTERM, everyone=True)
KILL = Signal(signal.SIGKILL, everyone=True)


def world(attempt: int, processes: int = 2, restore_step: int | None = None) -> World:
    return World(
        attempt=attempt,
        run_id=f"job-{attempt}",
        workers=2,
        worker_rank=1,
        processes=processes,
        world_size=2 * processes,
        rank_offset=processes,
        master_address="10.0.0.7",
        master_port=29500,
        restore_step=restore_step,
    )


class Played:
    """A core whose commands are carried out by the test: it keeps the clock and the sequence."""

    def __init__(self, launcher: str = PROCESSES, directory: str = "") -> None:
        settings = Settings(
            slot=3,
            incarnation=2,
            address="10.0.0.9",
            launcher=launcher,
            operator_url="https://operator",
            checkpoint_directory=directory,
            termination_grace_seconds=25,
        )
        self.now = 1000
        self.sequence = 0
        self.core = Core(settings, self.now, "1.2.3")

    def later(self, milliseconds: int) -> core.Commands:
        self.now += milliseconds
        return self.core.ticked(self.now)

    def answered(self, kind: str, **fields: object) -> core.Commands:
        self.sequence += 1
        answer = SyncAnswer(kind=kind, **fields)  # type: ignore[arg-type]
        return self.core.answered(answer, self.sequence, self.now)

    def told_to_run(self, attempt: int, **fields: int) -> core.Commands:
        return self.answered(protocol.RUN, world=world(attempt, **fields))

    def told_to_stop(self, attempt: int, grace_seconds: float = 10.0) -> core.Commands:
        return self.answered(protocol.STOP, attempt=attempt, grace_seconds=grace_seconds)

    def running(self, attempt: int = 1) -> "Played":
        self.told_to_run(attempt)
        for rank in self.ranks():
            self.core.spawned(attempt, rank, self.now)
        return self

    def running_many(self) -> "Played":
        self.told_to_run(1, processes=64)
        for rank in range(64, 128):
            self.core.spawned(1, rank, self.now)
        return self

    def ranks(self) -> tuple[int, ...]:
        return (2,) if self.core._settings.launcher == COMMAND else (2, 3)

    def exited(self, rank: int, code: int = 0, **fields: object) -> core.Commands:
        end = ProcessExit(rank=rank, at=self.now, exit_code=code, **fields)  # type: ignore[arg-type]
        return self.core.exited(self.core.attempt, end, self.now)

    def ended(self, code: int = 0) -> "Played":
        for rank in self.ranks():
            self.exited(rank, code)
        self.core.emptied(self.now)
        return self

    def says(self, kind: str, attempt: int = 1, at: float | None = None, **fields: object) -> bool:
        at = self.now / 1000 if at is None else at
        message = {"kind": kind, "rank": 2, "attempt": attempt, "at": at, **fields}
        return Report() in self.core.heard(json.dumps(message).encode(), self.now)

    @property
    def run(self) -> protocol.Run:
        run = self.core.request(0, self.now).run
        assert run is not None
        return run


def started(commands: core.Commands) -> list[int]:
    return [command.world.attempt for command in commands if isinstance(command, Start)]


def without_words(commands: core.Commands) -> list[core.Command]:
    return [command for command in commands if not isinstance(command, Say)]


# --- running ------------------------------------------------------------------------------


def test_an_idle_agent_starts_the_attempt_that_it_is_told_to_run() -> None:
    agent = Played()
    commands = agent.told_to_run(4)
    assert without_words(commands) == [Publish(4, None), Start(world(4))]


def test_an_attempt_has_started_when_all_its_processes_have_been_started() -> None:
    agent = Played()
    agent.told_to_run(1)
    assert agent.core.spawned(1, 2, 1500) == ()
    assert agent.run.started_at is None
    assert agent.core.spawned(1, 3, 1600) == (Report(),)
    assert agent.run.started_at == 1600
    assert agent.run.alive == 2


def test_a_worker_that_runs_the_command_once_has_one_process() -> None:
    agent = Played(COMMAND).running()
    assert agent.run.started_at == 1000
    assert agent.run.alive == 1


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_an_older_run_order_is_ignored(attempt: int) -> None:
    agent = Played().running(3)
    assert agent.told_to_run(attempt) == ()
    agent.ended(1)
    assert agent.told_to_run(attempt) == ()


def test_an_attempt_that_was_stopped_before_it_came_is_never_run() -> None:
    agent = Played()
    agent.told_to_stop(5)
    assert agent.told_to_run(5) == ()
    assert started(agent.told_to_run(6)) == [6]


def test_a_later_attempt_starts_only_when_nothing_of_the_present_one_is_alive() -> None:
    agent = Played().running(1)
    assert without_words(agent.told_to_run(2)) == [TERM]
    assert agent.run.stopping
    agent.exited(2, 143, signal=15)
    assert started(agent.exited(3, 143, signal=15)) == []
    assert started(agent.core.emptied(agent.now)) == [2]


def test_of_two_attempts_that_wait_for_the_present_one_the_later_starts() -> None:
    agent = Played().running(1)
    agent.told_to_run(2)
    agent.told_to_run(3)
    agent.exited(2)
    agent.exited(3)
    assert started(agent.core.emptied(agent.now)) == [3]


def test_a_stop_order_also_takes_back_the_attempt_that_waits() -> None:
    agent = Played().running(1)
    agent.told_to_run(2)
    agent.told_to_stop(2)
    agent.exited(2)
    agent.exited(3)
    assert started(agent.core.emptied(agent.now)) == []


def test_a_run_order_without_a_world_is_ignored() -> None:
    assert Played().answered(protocol.RUN) == ()


def test_an_order_of_a_newer_operator_that_we_do_not_know_changes_nothing() -> None:
    assert Played().running().answered("dance") == ()


# --- answers ------------------------------------------------------------------------------


def test_the_answer_to_an_older_request_never_overrides_a_newer_one() -> None:
    agent = Played().running()
    agent.core.answered(SyncAnswer(kind=protocol.HOLD, revision="b"), 20, agent.now)
    stop = SyncAnswer(kind=protocol.STOP, attempt=1, revision="a")
    assert agent.core.answered(stop, 19, agent.now) == ()
    assert agent.core.request(5, agent.now).seen_revision == "b"


def test_the_same_answer_twice_changes_nothing() -> None:
    agent = Played()
    agent.told_to_run(1)
    assert agent.told_to_run(1) == ()
    agent.core.spawned(1, 2, agent.now)
    agent.core.spawned(1, 3, agent.now)
    agent.told_to_stop(1)
    assert agent.told_to_stop(1) == ()


def test_each_request_has_a_higher_sequence_number() -> None:
    agent = Played()
    numbers = [agent.core.request(5, agent.now).sequence for _ in range(3)]
    assert numbers == [1, 2, 3]


def test_a_request_says_who_we_are_and_what_we_have_seen() -> None:
    agent = Played()
    agent.core.port_found(23456)
    agent.answered(protocol.HOLD, revision="r7")
    assert agent.core.request(5.0, 2000) == protocol.SyncRequest(
        slot=3,
        incarnation=2,
        sequence=1,
        sent_at=2000,
        agent_version="1.2.3",
        seen_revision="r7",
        hold_seconds=5.0,
        address="10.0.0.9",
        free_port=23456,
    )


# --- silence ------------------------------------------------------------------------------


def test_silence_of_any_length_stops_nothing() -> None:
    agent = Played().running()
    assert agent.core.wake_at() is None
    assert agent.later(365 * 86_400_000) == ()
    assert agent.run.alive == 2


def test_failed_processes_wait_for_the_operator_however_long_it_takes() -> None:
    agent = Played().running().ended(1)
    assert agent.later(365 * 86_400_000) == ()
    assert agent.run.failed == 2


def test_after_success_and_ten_silent_minutes_the_agent_leaves() -> None:
    agent = Played().running().ended(0)
    assert agent.core.wake_at() == agent.now + 600_000
    assert agent.later(599_999) == ()
    message = "all processes succeeded and the operator was silent for 10 minutes"
    assert agent.later(1) == (Leave(0, message),)


def test_any_answer_after_success_starts_the_ten_minutes_anew() -> None:
    agent = Played().running().ended(0)
    agent.later(500_000)
    agent.answered(protocol.HOLD)
    assert agent.later(599_999) == ()
    assert [type(command) for command in agent.later(1)] == [Leave]


# --- ends ---------------------------------------------------------------------------------


def test_a_failed_process_is_reported_at_once_and_its_siblings_are_left_alone() -> None:
    agent = Played().running()
    commands = agent.exited(3, 1, exception="ValueError: x", last_lines=("a", "b"))
    assert without_words(commands) == [Report()]
    assert (agent.run.alive, agent.run.failed, agent.run.stopping) == (1, 1, False)
    assert agent.run.exits[0].last_lines == ("a", "b")


def test_only_the_first_failure_brings_its_last_lines() -> None:
    agent = Played().running()
    agent.exited(3, 1, last_lines=("cause",))
    agent.exited(2, 1, last_lines=("consequence",))
    assert [end.last_lines for end in agent.run.exits] == [("cause",), ()]
    assert [end.rank for end in agent.run.exits] == [3, 2]


def test_failures_come_before_successes_in_the_report() -> None:
    agent = Played().running()
    agent.exited(2, 0)
    agent.exited(3, 1)
    assert [end.rank for end in agent.run.exits] == [3, 2]


def test_of_many_successes_the_last_is_reported_for_it_ends_the_work() -> None:
    agent = Played().running_many()
    for rank in range(64, 128):
        agent.later(10)
        agent.exited(rank, 0)
    assert agent.run.succeeded
    assert max(end.at for end in agent.run.exits) == agent.now


def test_a_worker_has_succeeded_when_all_its_processes_ended_with_zero() -> None:
    agent = Played().running()
    agent.exited(2, 0)
    assert not agent.run.succeeded
    assert Report() in agent.exited(3, 0)
    assert agent.run.succeeded


def test_what_a_finished_attempt_leaves_behind_is_cleared_away() -> None:
    agent = Played().running()
    agent.exited(2, 0)
    assert TERM in agent.exited(3, 0)
    assert agent.run.alive == 1  # something that it started may still live
    assert agent.later(core.REMAINS_GRACE_MS) == (KILL,)
    assert agent.core.emptied(agent.now) == (Report(),)
    assert agent.run.alive == 0
    assert agent.run.succeeded


def test_a_command_that_cannot_be_started_is_a_failure_of_the_worker() -> None:
    agent = Played()
    agent.told_to_run(1)
    commands = agent.exited(2, 127, reason="StartError", exception="trian: command not found")
    assert Report() in commands
    agent.core.emptied(agent.now)
    assert (agent.run.started_at, agent.run.alive, agent.run.failed) == (None, 0, 1)


def test_the_end_of_a_process_of_a_former_attempt_changes_nothing() -> None:
    agent = Played().running(2)
    assert agent.core.exited(1, ProcessExit(rank=2, at=1, exit_code=1), 1) == ()
    assert agent.run.failed == 0


# --- stopping -----------------------------------------------------------------------------


def test_stop_asks_first_and_kills_after_the_grace_until_nothing_lives() -> None:
    agent = Played().running()
    assert without_words(agent.told_to_stop(1, grace_seconds=10)) == [TERM]
    assert agent.core.wake_at() == agent.now + 10_000
    assert agent.later(9_999) == ()
    assert agent.later(1) == (KILL,)
    assert agent.later(core.KILL_AGAIN_MS) == (KILL,)


def test_a_second_stop_may_shorten_the_grace_but_never_lengthens_it() -> None:
    agent = Played().running()
    agent.told_to_stop(1, grace_seconds=100)
    agent.told_to_stop(1, grace_seconds=10)
    agent.told_to_stop(1, grace_seconds=50)
    assert agent.core.wake_at() == agent.now + 10_000


def test_stopped_is_reported_when_nothing_is_left_alive_and_not_before() -> None:
    agent = Played().running()
    agent.told_to_stop(1)
    agent.exited(2, 143, signal=15)
    agent.exited(3, 143, signal=15)
    assert (agent.run.stopping, agent.run.alive) == (True, 1)
    assert Report() in agent.core.emptied(agent.now)
    assert (agent.run.stopping, agent.run.alive) == (False, 0)


def test_processes_that_were_told_to_stop_have_neither_failed_nor_succeeded() -> None:
    agent = Played().running()
    agent.told_to_stop(1)
    agent.exited(2, 143, signal=15)
    agent.exited(3, 0)
    agent.core.emptied(agent.now)
    assert (agent.run.failed, agent.run.succeeded) == (0, False)


def test_a_stop_of_an_earlier_attempt_leaves_the_present_one_alone() -> None:
    assert Played().running(3).told_to_stop(2) == ()


def test_a_stop_of_a_later_attempt_also_ends_the_present_one() -> None:
    agent = Played().running(3)
    assert TERM in agent.told_to_stop(4)


# --- leaving ------------------------------------------------------------------------------


def test_an_idle_agent_leaves_at_once_with_the_code_that_it_is_given() -> None:
    commands = Played().answered(protocol.EXIT, exit_code=3)
    assert commands == (Leave(3, "the operator ended this worker"),)


def test_an_exit_order_stops_the_processes_first() -> None:
    agent = Played().running()
    assert without_words(agent.answered(protocol.EXIT, exit_code=3, grace_seconds=7)) == [TERM]
    agent.exited(2, 143)
    agent.exited(3, 143)
    assert agent.core.emptied(agent.now)[-1] == Leave(3, "the operator ended this worker")


def test_what_the_kernel_cannot_end_does_not_hold_the_agent_for_ever() -> None:
    agent = Played().running()
    agent.answered(protocol.EXIT, exit_code=3, grace_seconds=7)
    assert agent.later(7_000) == (KILL,)
    assert agent.later(core.LEAVE_ANYWAY_MS)[-1] == Leave(3, "the operator ended this worker")


def test_a_leaving_agent_starts_nothing_any_more() -> None:
    agent = Played().running()
    agent.answered(protocol.EXIT, grace_seconds=7)
    assert agent.told_to_run(2) == ()


def test_sigterm_stops_the_processes_within_the_kubelets_grace_and_leaves_with_143() -> None:
    agent = Played().running()
    assert without_words(agent.core.signalled(signal.SIGTERM, agent.now)) == [TERM]
    assert agent.core.wake_at() == agent.now + 25_000
    assert agent.run.stopping
    agent.exited(2, 143)
    agent.exited(3, 143)
    leave = agent.core.emptied(agent.now)[-1]
    assert isinstance(leave, Leave)
    assert leave.exit_code == 143


def saving(agent: Played) -> Played:
    """The training has restored by the SDK, and makes steps."""
    agent.says("restore_begin")
    agent.says("step", step=4, milliseconds=500)
    return agent


def test_a_training_that_can_save_gets_the_time_to_when_its_pod_is_ended() -> None:
    agent = saving(Played().running())
    told_at = agent.now
    said = without_words(agent.core.signalled(signal.SIGTERM, agent.now))
    assert said == [Report()], "the operator hears of it at once"
    assert agent.core.request(0, agent.now).ends_at == told_at + 20_000
    agent.answered(protocol.RUN, world=world(1), attempt=1, save_step=9)
    assert without_words(agent.later(19_900)) == []
    assert TERM in agent.later(100)
    assert agent.run.stopping
    assert KILL in agent.later(core.END_GRACE_MS)


def test_one_whom_nobody_asks_to_save_ends_soon() -> None:
    agent = saving(Played().running())
    agent.core.signalled(signal.SIGTERM, agent.now)
    assert agent.later(core.ASKED_WITHIN_MS - 1) == ()
    assert TERM in agent.later(1)


def test_a_worker_that_has_saved_leaves_when_it_is_told_to_stop() -> None:
    agent = saving(Played().running())
    agent.core.signalled(signal.SIGTERM, agent.now)
    assert agent.core.signalled(signal.SIGTERM, agent.now) == (), "once is enough"
    agent.answered(protocol.RUN, world=world(1), attempt=1, save_step=9)
    assert TERM in agent.told_to_stop(1)
    agent.exited(2, 143)
    agent.exited(3, 143)
    assert isinstance(agent.core.emptied(agent.now)[-1], Leave)


def test_a_worker_that_is_about_to_go_starts_nothing_any_more() -> None:
    agent = saving(Played().running())
    agent.core.signalled(signal.SIGTERM, agent.now)
    assert started(agent.told_to_run(2)) == []


def test_a_training_without_the_sdk_hears_at_once_that_its_pod_is_ended() -> None:
    agent = Played().running()
    agent.says("hello")
    assert TERM in agent.core.signalled(signal.SIGTERM, agent.now)


def test_other_signals_are_passed_on_to_the_processes() -> None:
    agent = Played()
    assert agent.core.signalled(signal.SIGUSR1, agent.now) == ()
    agent.running()
    passed_on = (Signal(signal.SIGUSR1, everyone=False),)
    assert agent.core.signalled(signal.SIGUSR1, agent.now) == passed_on


# --- the disk -----------------------------------------------------------------------------


def test_without_a_checkpoint_directory_there_is_nothing_to_wait_for() -> None:
    assert Played().core.ready


def test_the_first_report_waits_for_the_survey() -> None:
    agent = Played(directory="/checkpoints")
    assert not agent.core.ready
    found = Disk(highest_attempt=7, newest=Commit(attempt=6, step=1200))
    agent.core.surveyed(found, agent.now)
    assert agent.core.ready
    assert agent.core.request(5, agent.now).disk == found


def test_a_directory_that_does_not_answer_is_a_problem_after_a_minute() -> None:
    agent = Played(directory="/checkpoints")
    assert agent.core.wake_at() == agent.now + 60_000
    agent.later(60_000)
    assert agent.core.ready
    assert agent.core.request(5, agent.now).disk == Disk(problem="did not answer within 60 s")


def test_a_survey_that_comes_late_is_reported_at_once() -> None:
    agent = Played(directory="/checkpoints")
    agent.later(60_000)
    assert agent.core.surveyed(Disk(highest_attempt=7), agent.now) == (Report(),)
    assert agent.core.request(5, agent.now).disk.highest_attempt == 7


def test_a_directory_that_was_mended_is_reported_at_once() -> None:
    agent = Played(directory="/checkpoints")
    broken = Disk(problem="not writable")
    assert len(agent.core.surveyed(broken, agent.now)) == 1
    assert agent.core.surveyed(broken, agent.now) == (), "once is enough"
    assert agent.core.surveyed(Disk(), agent.now) == (Report(),)
    assert agent.core.request(5, agent.now).disk == Disk()


def test_a_survey_that_comes_after_an_attempt_says_nothing_of_before() -> None:
    agent = Played(directory="/checkpoints")
    agent.later(60_000)
    agent.running()
    assert agent.core.surveyed(Disk(highest_attempt=1), agent.now) == ()
    assert agent.core.request(5, agent.now).disk.highest_attempt == 0


# --- progress -----------------------------------------------------------------------------


def test_progress_is_what_the_training_processes_said_last() -> None:
    agent = Played().running()
    agent.now = 10_000
    agent.says("hello", at=1.0, pid=7)
    agent.says("restore_begin", at=2.0)
    agent.says("restore_end", at=3.0, commit={"attempt": 1, "step": 40}, problems=["gone"])
    agent.says("step", at=4.0, step=41, milliseconds=None)
    agent.says("step", at=5.0, step=43, milliseconds=500)
    agent.says("commit", at=6.0, step=43, step_at=5.0)
    assert agent.run.progress == protocol.Progress(
        sdk=True,
        restore_began_at=2000,
        restore_ended_at=3000,
        restored=Commit(attempt=1, step=40),
        restore_problems=("gone",),
        first_step_at=4000,
        step=43,
        step_at=5000,
        step_milliseconds=500,
        committed=Commit(attempt=1, step=43),
        committed_step_at=5000,
        committed_stall_milliseconds=0,
    )


def test_of_its_processes_the_one_that_stood_still_longest_counts() -> None:
    agent = Played().running()
    agent.says("step", step=1, milliseconds=None, rank=2, stalled={"data": 300})
    agent.says("step", step=1, milliseconds=None, rank=3, stalled={"data": 200, "checkpoint": 50})
    progress = agent.run.progress
    assert progress.data_stall_milliseconds == 300
    assert progress.checkpoint_stall_milliseconds == 50


def test_a_process_that_is_started_anew_counts_on_from_its_predecessor() -> None:
    agent = Played().running()
    for total in (1000, 1500, 20, 400):
        agent.says("stall", rank=2, stalled={"data": total})
    assert agent.run.progress.data_stall_milliseconds == 1900


def test_a_commit_knows_how_long_training_had_stood_still_before_it() -> None:
    agent = Played().running()
    agent.says("stall", rank=3, stalled={"data": 700})
    agent.says(
        "commit",
        rank=2,
        step=9,
        step_at=1.0,
        stalled={"data": 500, "checkpoint": 4000},
        since=4000,
    )
    progress = agent.run.progress
    assert progress.committed_stall_milliseconds == 700
    assert progress.checkpoint_stall_milliseconds == 4000


@pytest.mark.parametrize(
    "stalled", [{"data": -1}, {"data": float("nan")}, {"data": 2**60}, {"data": "1"}, 7]
)
def test_a_stall_that_makes_no_sense_changes_nothing(stalled: object) -> None:
    agent = Played().running()
    agent.says("stall", rank=2, stalled=stalled)
    assert agent.run.progress.data_stall_milliseconds is None


def restored(agent: Played, step: int, *, attempt: int = 1, **more: object) -> bool:
    commit = {"attempt": attempt, "step": step}
    return agent.says("restore_end", 2, commit=commit, problems=[], **more)


def test_processes_that_restored_different_commits_are_told_of_at_once() -> None:
    agent = Played().running(2)
    restored(agent, 40)
    assert restored(agent, 30)
    assert restored(agent, 40)
    progress = agent.run.progress
    assert (progress.restore_apart, progress.restored) == (True, Commit(1, 30))


def test_a_process_that_cannot_read_what_was_named_is_told_of_at_once() -> None:
    agent = Played().running(2)
    restored(agent, 30)
    assert restored(agent, 30, apart=True)
    assert agent.run.progress.restore_apart


def test_processes_that_restart_within_an_attempt_go_on_from_its_own_commits() -> None:
    agent = Played().running(2)
    restored(agent, 40)
    restored(agent, 50, attempt=2)
    progress = agent.run.progress
    assert (progress.restore_apart, progress.restored) == (False, Commit(2, 50))


def test_a_commit_the_first_restore_and_the_first_step_are_urgent_and_others_are_not() -> None:
    agent = Played().running()
    assert agent.says("restore_end", commit=None, problems=[])
    assert not agent.says("restore_end", commit=None, problems=[])
    assert agent.says("step", step=1, milliseconds=100)
    assert not agent.says("step", step=2, milliseconds=100)
    assert agent.says("commit", step=1, step_at=1.0)
    assert not agent.says("commit", step=1, step_at=1.0)


def test_an_older_step_never_overrides_a_newer_one() -> None:
    agent = Played().running()
    agent.says("step", step=9, milliseconds=100)
    agent.says("step", step=8, milliseconds=100)
    assert agent.run.progress.step == 9


def test_the_step_time_is_the_median_of_the_recent_ones() -> None:
    agent = Played().running()
    for step, milliseconds in enumerate([100, 9000, 110, 120, 105]):
        agent.says("step", step=step, milliseconds=milliseconds)
    assert agent.run.progress.step_milliseconds == 110


def test_words_of_a_former_attempt_are_passed_over() -> None:
    agent = Played().running(2)
    assert not agent.says("commit", attempt=1, step=9, step_at=1.0)
    assert agent.run.progress == protocol.Progress()


def test_progress_begins_anew_with_each_attempt() -> None:
    agent = Played().running(1)
    agent.says("step", step=9, milliseconds=100)
    agent.ended(1).running(2)
    assert agent.run.progress == protocol.Progress()


def test_a_time_in_the_future_is_taken_as_now() -> None:
    agent = Played().running()
    agent.says("step", at=1e12, step=1, milliseconds=1)
    assert agent.run.progress.step_at == agent.now


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"kind": "step"}',
        b'{"kind": "step", "attempt": 1, "at": "soon"}',
        b'{"kind": "step", "attempt": 1, "at": NaN}',
        b'{"kind": "step", "attempt": 1, "at": Infinity}',
        b'{"kind": "step", "attempt": true, "at": 1, "step": 4, "milliseconds": 1}',
        b'{"kind": "step", "attempt": 1, "at": 1}',
        b'{"kind": "step", "attempt": 1, "at": 1, "step": -1, "milliseconds": 1}',
        b'{"kind": "step", "attempt": 1, "at": 1, "step": 1e400, "milliseconds": 1}',
        b'{"kind": "step", "attempt": 1, "at": 1, "step": 1, "milliseconds": []}',
        b'{"kind": "commit", "attempt": 1, "at": 1, "step": 1, "step_at": null}',
        b'{"kind": "restore_end", "attempt": 1, "at": 1, "commit": {"step": 1}, "problems": []}',
        b'{"kind": "restore_end", "attempt": 1, "at": 1, "commit": null, "problems": 4}',
        b'{"kind": ["step"], "attempt": 1, "at": 1}',
        b"[" * 8000,
    ],
)
def test_a_datagram_that_is_not_understood_is_passed_over(datagram: bytes) -> None:
    agent = Played().running()
    assert agent.core.heard(datagram, agent.now) == ()
    assert agent.run.progress == protocol.Progress()


def test_the_tracker_step_keeps_the_time_at_which_it_was_first_seen() -> None:
    agent = Played().running()
    agent.core.tracked(100, 2000)
    agent.core.tracked(100, 7000)
    progress = agent.run.progress
    assert (progress.tracker_step, progress.tracker_step_at) == (100, 2000)


def test_the_training_processes_learn_the_newest_durable_commit_once() -> None:
    agent = Played().running()
    durable = Commit(attempt=1, step=43)
    assert agent.answered(protocol.HOLD, durable=durable) == (Publish(1, durable),)
    assert agent.answered(protocol.HOLD, durable=durable) == ()
    agent.ended(1)
    assert Publish(2, durable) in agent.told_to_run(2)


def test_a_report_holds_at_most_eight_ends_and_survives_the_wire() -> None:
    agent = Played().running_many()
    for rank in range(64, 128):
        agent.exited(rank, 1, exception="x" * 5000)
    request = agent.core.request(5, agent.now)
    assert request.run is not None
    assert (len(request.run.exits), request.run.failed) == (8, 64)
    assert protocol.SyncRequest.from_json(request.to_json()) == request


def test_the_training_processes_learn_that_they_are_to_save_and_that_they_are_not() -> None:
    agent = Played()
    agent.told_to_run(1)
    asked = {"world": world(1), "attempt": 1}
    assert agent.answered(protocol.RUN, **asked, save_step=12) == (Publish(1, None, 12),)
    assert agent.answered(protocol.RUN, **asked, save_step=12) == ()
    assert agent.answered(protocol.RUN, **asked) == (Publish(1, None, None),)


def test_a_question_to_save_ends_with_the_attempt_it_was_asked_of() -> None:
    agent = Played()
    agent.told_to_run(1)
    agent.answered(protocol.RUN, world=world(1), attempt=1, save_step=12)
    for rank in (2, 3):
        agent.core.spawned(1, rank, agent.now)
        agent.core.exited(1, ProcessExit(rank=rank, at=agent.now, exit_code=1), agent.now)
    agent.core.emptied(agent.now)
    assert Publish(2, None) in agent.told_to_run(2)
