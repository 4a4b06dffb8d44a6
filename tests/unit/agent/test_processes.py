"""Real processes: started, signalled, reaped, and their end explained."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goodput.agent.output import Output
from goodput.agent.processes import Launch, Processes, find_members
from goodput.protocol import ProcessExit

KILL_SELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WAIT = "import time; print('ready', flush=True); time.sleep(600)"


class Container:
    """The processes of one worker, and the files into which their words go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "stdout"
        self.err = directory / "stderr"
        self.oom = directory / "memory.events"
        self.count_oom_kills(0)
        self._files = [self.out.open("wb"), self.err.open("wb")]
        self.output = Output(*(file.fileno() for file in self._files))
        self.processes = Processes(self.output, [str(self.oom)])
        self.ends: list[ProcessExit] = []

    def count_oom_kills(self, number: int) -> None:
        self.oom.write_text(f"low 0\nhigh 0\noom {number}\noom_kill {number}\n")

    def start(self, *command: str, rank: int = 0, alone: bool = True) -> ProcessExit | None:
        environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": self.error_file(rank)}
        launch = Launch(rank, command, environment, self.error_file(rank), alone)
        return self.processes.start(launch, 5)

    def python(self, code: str, rank: int = 0, alone: bool = True) -> None:
        assert self.start(sys.executable, "-c", code, rank=rank, alone=alone) is None

    def error_file(self, rank: int) -> str:
        return str(self.directory / f"error-{rank}.json")

    def reap(self) -> list[ProcessExit]:
        self.ends += self.processes.reap(7)
        return self.ends

    def is_empty(self) -> bool:
        self.reap()
        return self.processes.empty()

    def close(self) -> None:
        self.processes.signal(signal.SIGKILL, everyone=True)
        self.output.close()
        for file in self._files:
            file.close()


@pytest.fixture
def container(tmp_path: Path, eventually: Callable[..., None]) -> Iterator[Container]:
    one = Container(tmp_path)
    yield one
    one.processes.signal(signal.SIGKILL, everyone=True)
    eventually(one.is_empty)
    one.close()


def end_of(container: Container, eventually: Callable[..., None]) -> ProcessExit:
    eventually(container.reap)
    return container.ends[0]


def test_success_needs_no_evidence(container: Container, eventually: Callable[..., None]) -> None:
    container.python("print('hello')")
    end = end_of(container, eventually)
    assert end == ProcessExit(rank=0, at=7, exit_code=0, reason="Completed")


def test_a_failure_brings_its_code_its_exception_and_its_last_lines(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python("print('step 1'); raise ValueError('no such shard\\nat all')", rank=4)
    end = end_of(container, eventually)
    assert (end.rank, end.exit_code, end.signal, end.reason) == (4, 1, 0, "Error")
    assert end.exception == "ValueError: no such shard"
    assert end.last_lines[0] == "step 1"
    assert end.last_lines[-2:] == ("ValueError: no such shard", "at all")


def test_a_killed_process_names_its_signal(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python(KILL_SELF)
    end = end_of(container, eventually)
    assert (end.exit_code, end.signal, end.reason) == (137, 9, "Killed")


def test_a_kill_while_the_kernels_counter_rose_was_for_memory(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.count_oom_kills(3)
    container.python("import time; time.sleep(600)", alone=False)
    container.count_oom_kills(4)
    container.processes.signal(signal.SIGKILL, everyone=True)
    assert end_of(container, eventually).reason == "OutOfMemory"


def test_kills_for_memory_before_this_attempt_explain_nothing(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.count_oom_kills(3)
    container.python(KILL_SELF)
    assert end_of(container, eventually).reason == "Killed"


@pytest.mark.parametrize(("alone", "reason"), [(True, "OutOfMemory"), (False, "Error")])
def test_a_launcher_whose_child_was_killed_for_memory_says_so_only_where_it_is_alone(
    container: Container, eventually: Callable[..., None], alone: bool, reason: str
) -> None:
    container.python("import sys; sys.stdin.read(); sys.exit(1)", alone=alone)
    container.count_oom_kills(1)
    assert end_of(container, eventually).reason == reason


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-trainer", 127, "no-such-trainer: command not found"),
        (os.devnull, 126, f"{os.devnull}: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_started_says_why(
    container: Container, command: str, code: int, message: str
) -> None:
    end = container.start(command, rank=2)
    assert end == ProcessExit(rank=2, at=5, exit_code=code, reason="StartError", exception=message)
    assert container.is_empty()


def test_what_torchelastic_recorded_is_worth_more_than_the_last_traceback(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python(
        "import os; open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write("
        '\'{"message": {"message": "RuntimeError: NCCL timeout", "extraInfo": {}}}\');'
        "raise SystemExit(1)"
    )
    assert end_of(container, eventually).exception == "RuntimeError: NCCL timeout"


def test_a_grandchild_that_holds_the_pipe_holds_up_nobody(
    container: Container, eventually: Callable[..., None]
) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {WAIT!r}]); 1 / 0"
    container.python(code)
    assert end_of(container, eventually).exception == "ZeroDivisionError: division by zero"
    assert not container.is_empty()


def test_an_orphan_is_ours_until_it_has_been_reaped(
    container: Container, eventually: Callable[..., None]
) -> None:
    detached = f"import os; os.setsid(); {WAIT}"
    container.python(
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {detached!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()"
    )
    assert end_of(container, eventually).exit_code == 0
    assert not container.is_empty()
    container.processes.signal(signal.SIGTERM, everyone=True)
    eventually(container.is_empty)


def test_a_process_that_goes_on_after_sigterm_ends_with_sigkill(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python(
        f"import signal; signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True)); {WAIT}"
    )
    eventually(lambda: b"ready" in container.out.read_bytes())
    container.processes.signal(signal.SIGTERM, everyone=True)
    eventually(lambda: b"no" in container.out.read_bytes())
    assert container.reap() == []
    container.processes.signal(signal.SIGKILL, everyone=True)
    assert end_of(container, eventually).signal == signal.SIGKILL


def test_stop_reaches_all_groups_and_kill_leaves_nothing(
    container: Container, eventually: Callable[..., None]
) -> None:
    ignores = "import os, signal; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{ignores}; {WAIT}"
    for rank in range(3):
        container.python(
            "import subprocess, sys, time\n"
            f"subprocess.Popen([sys.executable, '-c', {stubborn!r}])\n"
            "time.sleep(600)",
            rank=rank,
            alone=False,
        )
    eventually(lambda: container.out.read_bytes().count(b"ready") == 3)
    assert len(container.processes.members()) == 6
    container.processes.signal(signal.SIGTERM, everyone=True)
    eventually(lambda: len(container.reap()) == 3)
    assert len(container.processes.members()) == 3
    container.processes.signal(signal.SIGKILL, everyone=True)
    eventually(container.is_empty)
    assert container.processes.members() == []


def test_what_neither_descends_from_us_nor_shares_our_sessions_is_not_ours(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}])")
    container.python(WAIT, rank=1)
    eventually(lambda: container.out.read_bytes().count(b"ready") == 2)
    parent, sibling = sorted(m.pid for m in container.processes.members() if m.pid == m.group)
    (child,) = find_members(parent, set())
    assert child.session == parent
    with_sibling = {member.pid for member in find_members(parent, {sibling})}
    assert with_sibling == {sibling, child.pid}


def test_one_process_speaks_as_it_is(container: Container, eventually: Callable[..., None]) -> None:
    container.python("import sys; sys.stdout.write('10%\\r20%\\r'); sys.stderr.write('no end')")
    end_of(container, eventually)
    eventually(lambda: container.out.read_bytes() == b"10%\r20%\r")
    eventually(lambda: container.err.read_bytes() == b"no end")


def test_of_several_processes_each_line_names_its_rank(
    container: Container, eventually: Callable[..., None]
) -> None:
    for rank in (2, 3):
        container.python("print('one\\ntwo')", rank=rank, alone=False)
    eventually(container.is_empty)
    container.output.close()
    lines = container.out.read_text().splitlines()
    assert sorted(lines) == ["[2] one", "[2] two", "[3] one", "[3] two"]
    assert [line for line in lines if "[2]" in line] == ["[2] one", "[2] two"]


def test_our_own_words_never_stand_inside_a_line(
    container: Container, eventually: Callable[..., None]
) -> None:
    container.python("import sys; sys.stderr.write('half a line')")
    end_of(container, eventually)
    container.output.say("attempt 1 has succeeded")
    container.output.close()
    assert container.err.read_text() == "half a line\ngoodput: attempt 1 has succeeded\n"


def test_a_log_that_nobody_reads_any_more_does_not_stop_the_training(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output(write, write)
    processes = Processes(output, [])
    code = "for _ in range(5000): print('x' * 100)"
    launch = Launch(0, [sys.executable, "-c", code], dict(os.environ), "", alone=True)
    assert processes.start(launch, 1) is None
    ends: list[ProcessExit] = []
    eventually(lambda: ends.extend(processes.reap(1)) or ends)
    assert ends[0].exit_code == 0
    output.close()
    os.close(write)
