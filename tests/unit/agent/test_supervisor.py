"""The whole agent as a process: a real operator's wire, real signals, real training processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goodput import protocol
from goodput.agent import supervisor
from goodput.agent.build import build_zipapp
from goodput.agent.supervisor import Complaints, free_port
from goodput.protocol import Commit, Run, SyncAnswer, SyncRequest, World
from tests.unit.agent.pythons import interpreter

AGENT = """
import os, sys
from goodput.agent.link import Credentials
from goodput.agent.output import Output
from goodput.agent.settings import Settings
from goodput.agent.supervisor import Files, Supervisor
directory = sys.argv[1]
files = Files(
    run_dir=directory + "/run",
    zipapp=directory + "/agent.pyz",
    credentials=Credentials(directory + "/token", directory + "/ca.crt"),
    termination_log=directory + "/termination-log",
)
output = Output()
agent = Supervisor(Settings.from_environ(os.environ), sys.argv[2:], os.environ, files, output)
code = agent.run()
output.close()
os._exit(code)
"""
TRAIN = "import time; print('training', flush=True); time.sleep(600)"


class Pod:
    """One agent under test."""

    def __init__(self, directory: Path, root: Path, url: str, operator: Any) -> None:
        self.directory = directory
        self.operator = operator
        self.revision = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(root),
            "GOODPUT_SLOT": "3",
            "GOODPUT_INCARNATION": "2",
            "GOODPUT_POD_IP": "127.0.0.1",
            "GOODPUT_LAUNCHER": "Command",
            "GOODPUT_OPERATOR_URL": url,
            "GOODPUT_TERMINATION_GRACE_SECONDS": "0.3",
        }

    def start(
        self,
        *command: str,
        python: str = sys.executable,
        agent: str = AGENT,
        inside: tuple[str, ...] = (),
        **environ: str,
    ) -> None:
        with self.path("log").open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, python, "-c", agent, str(self.directory), *command],
                env={**self.environ, **environ},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def train(self, code: str = TRAIN, **options: Any) -> None:
        self.start(sys.executable, "-c", code, **options)

    def order(self, kind: str, **fields: Any) -> None:
        self.revision += 1
        self.operator.order(SyncAnswer(kind=kind, revision=str(self.revision), **fields))

    def run(self, attempt: int, processes: int = 1) -> None:
        world = World(
            attempt=attempt,
            run_id=f"uid-{attempt}",
            workers=1,
            worker_rank=0,
            processes=processes,
            world_size=processes,
            rank_offset=0,
            master_address="127.0.0.1",
            master_port=29500,
        )
        self.order(protocol.RUN, world=world)

    def saw(self, what: Callable[[Run], bool]) -> Run:
        request = self.operator.saw(lambda one: one.run is not None and what(one.run))
        assert request.run is not None
        return request.run

    def path(self, name: str) -> Path:
        return self.directory / name

    @property
    def log(self) -> str:
        return self.path("log").read_text()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in [*children_of(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(30)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.fixture
def pod(
    tmp_path: Path, source_root: Path, certificates: Any, serve: Any, operator: Any
) -> Iterator[Pod]:
    (tmp_path / "token").write_text("secret")
    shutil.copyfile(certificates.ca, tmp_path / "ca.crt")
    one = Pod(tmp_path, source_root, serve(operator.respond).url, operator)
    yield one
    one.close()


@pytest.mark.parametrize("old", [False, True], ids=["this Python", "Python 3.8"])
def test_from_start_to_success(pod: Pod, old: bool) -> None:
    pod.train("print('hello')", python=interpreter("3.8") if old else sys.executable)
    idle = pod.operator.saw(lambda _: True)
    assert (idle.slot, idle.incarnation, idle.run, idle.address) == (3, 2, None, "127.0.0.1")
    assert 20_000 <= idle.free_port < 30_000
    pod.run(1)
    run = pod.saw(lambda run: run.succeeded and run.alive == 0)
    assert [end.reason for end in run.exits] == ["Completed"]
    pod.order(protocol.EXIT, exit_code=0)
    assert pod.wait() == 0
    assert "hello\n" in pod.log
    assert pod.path("termination-log").read_text() == "the operator ended this worker\n"


def test_a_failure_is_known_and_the_next_attempt_started_within_a_second(pod: Pod) -> None:
    pod.train("import os, time; os.environ['GOODPUT_ATTEMPT'] == '1' or time.sleep(600); 1 / 0")
    pod.operator.saw(lambda _: True)
    pod.run(1)
    failed = pod.saw(lambda run: run.failed == 1 and run.alive == 0)
    assert failed.exits[0].exception == "ZeroDivisionError: division by zero"
    began = time.monotonic()
    pod.run(2)
    started = pod.saw(lambda run: run.attempt == 2 and run.started_at is not None)
    assert started.alive == 1
    assert time.monotonic() - began < 1.0


def test_a_stop_takes_all_descendants_and_only_then_says_so(pod: Pod, eventually: Any) -> None:
    stubborn = f"import os, signal; os.setsid(); signal.signal(15, signal.SIG_IGN); {TRAIN}"
    pod.train(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])")
    pod.run(1)
    pod.saw(lambda run: run.started_at is not None)
    eventually(lambda: "training" in pod.log)
    pod.order(protocol.STOP, attempt=1, grace_seconds=0.3)
    pod.saw(lambda run: run.stopping)
    run = pod.saw(lambda run: not run.stopping and run.alive == 0)
    assert run.failed == 0
    assert pod.process is not None
    assert children_of(pod.process.pid) == []


def test_the_deletion_of_the_pod_stops_reports_and_leaves_with_143(
    pod: Pod, eventually: Any
) -> None:
    pod.train(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {TRAIN}")
    pod.run(1)
    eventually(lambda: "training" in pod.log)
    assert pod.process is not None
    pod.process.terminate()
    assert pod.wait() == 143
    last: SyncRequest = pod.operator.requests[-1]
    assert last.run is not None
    assert (last.run.alive, last.run.exits[0].signal) == (0, 9)
    assert "the pod was deleted" in pod.path("termination-log").read_text()


def test_other_signals_reach_the_training_process(pod: Pod, eventually: Any) -> None:
    pod.train(
        "import signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('saving', flush=True))\n"
        f"{TRAIN}"
    )
    pod.run(1)
    eventually(lambda: "training" in pod.log)
    assert pod.process is not None
    pod.process.send_signal(signal.SIGUSR1)
    eventually(lambda: "saving" in pod.log)


def test_the_agent_starts_one_process_per_rank_where_it_is_the_launcher(pod: Pod) -> None:
    code = "import os; print(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"
    pod.train(code, GOODPUT_LAUNCHER="Processes")
    pod.run(1, processes=3)
    pod.saw(lambda run: run.succeeded)
    pod.order(protocol.EXIT)
    pod.wait()
    assert {"[0] 0 of 3", "[1] 1 of 3", "[2] 2 of 3"} <= set(pod.log.splitlines())


PID_NAMESPACE = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


def may_make_a_pid_namespace() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*PID_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not may_make_a_pid_namespace(), reason="no PID namespaces here")
def test_pid_1_reaps_all_orphans_and_leaves_nothing_behind(pod: Pod, eventually: Any) -> None:
    orphan = f"import os; os.setsid(); {TRAIN}"
    pod.train(
        "import os, subprocess, sys, time\n"
        "print('parent', os.getppid(), flush=True)\n"
        "for _ in range(20):\n"
        "    subprocess.Popen(['sh', '-c', 'sleep 0 & sleep 0 & exit 0'])\n"
        f"subprocess.Popen([sys.executable, '-c', {orphan!r}])\n"
        "time.sleep(600)",
        inside=PID_NAMESPACE,
    )
    pod.run(1)
    eventually(lambda: "training" in pod.log)
    assert "parent 1\n" in pod.log
    pod.order(protocol.STOP, attempt=1, grace_seconds=5)
    pod.saw(lambda run: not run.stopping and run.alive == 0)
    pod.order(protocol.EXIT, exit_code=7)
    assert pod.wait() == 7


def test_a_command_that_does_not_exist_is_a_start_error(pod: Pod) -> None:
    pod.start("no-such-trainer")
    pod.run(1)
    run = pod.saw(lambda run: run.failed == 1 and run.alive == 0)
    assert (run.exits[0].reason, run.exits[0].exit_code) == ("StartError", 127)
    assert run.started_at is None
    assert "no-such-trainer: command not found" in pod.log


def test_a_trainer_with_the_sdk_tells_its_steps_and_learns_what_is_durable(pod: Pod) -> None:
    pod.train(
        "import json, os, time\n"
        "from goodput import session\n"
        "session.current().say('commit', step=7, step_at=time.monotonic())\n"
        "path = os.path.join(os.path.dirname(os.environ['GOODPUT_AGENT']), 'state.json')\n"
        "while json.load(open(path))['durable'] != {'attempt': 1, 'step': 7}: time.sleep(0.01)\n"
    )
    pod.run(1)
    run = pod.saw(lambda run: run.progress.committed is not None)
    assert run.progress.sdk
    pod.order(protocol.HOLD, durable=run.progress.committed)
    pod.saw(lambda run: run.succeeded)
    assert run.progress.committed == Commit(attempt=1, step=7)


def test_training_goes_on_while_the_operator_is_away(pod: Pod, serve: Any, eventually: Any) -> None:
    pod.train("import time; print('training', flush=True); time.sleep(1); print('done')")
    pod.run(1)
    eventually(lambda: "training" in pod.log)
    pod.operator.respond_with = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    eventually(lambda: "attempt 1 has succeeded" in pod.log)
    assert pod.process is not None
    assert pod.process.poll() is None
    pod.operator.respond_with = None
    pod.saw(lambda run: run.succeeded)


@pytest.mark.parametrize("old", [False, True], ids=["this Python", "Python 3.8"])
def test_import_goodput_works_in_an_image_with_nothing_installed(
    pod: Pod, source_root: Path, old: bool
) -> None:
    build_zipapp(source_root, pod.path("agent.pyz"))
    python = interpreter("3.8") if old else sys.executable
    pod.environ["PYTHONPATH"] = ""
    agent = "import sys; sys.path.insert(0, sys.argv[1] + '/agent.pyz')\n" + AGENT
    train = "import goodput.session; print(goodput.__file__); print(goodput.session.attempt())"
    pod.start(python, "-c", train, python=python, agent=agent)
    pod.run(1)
    pod.saw(lambda run: run.succeeded)
    pod.order(protocol.EXIT)
    pod.wait()
    assert f"{pod.path('agent.pyz')}/goodput/__init__.py\n1\n" in pod.log


def test_what_the_survey_finds_is_in_the_first_report(pod: Pod) -> None:
    checkpoints = pod.path("checkpoints")
    (checkpoints / "step-00001200.attempt-00007").mkdir(parents=True)
    pod.train(GOODPUT_CHECKPOINT_DIR=str(checkpoints))
    assert pod.operator.saw(lambda _: True).disk.highest_attempt == 7


def test_an_absent_operator_is_a_line_in_the_log_now_and_then() -> None:
    complaints = Complaints(now=0.0)
    said = [(now, complaints.about("401", float(now))) for now in range(400)]
    assert [now for now, line in said if line] == [15, 75, 195]
    assert said[15][1] == "the operator does not answer (401); what runs goes on"
    assert complaints.about("", 400.0) == "the operator is back"
    assert complaints.about("", 401.0) == ""


def test_a_short_absence_is_not_worth_a_line() -> None:
    complaints = Complaints(now=0.0)
    lines = [complaints.about("cut" if now % 10 else "", float(now)) for now in range(200)]
    assert "".join(lines) == ""


def test_the_port_for_rank_zero_lies_below_those_of_outgoing_connections() -> None:
    ports = {free_port() for _ in range(20)}
    assert all(20_000 <= port < 30_000 for port in ports)
    assert len(ports) > 1


def test_an_image_with_a_goodput_of_its_own_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipapp = tmp_path / "agent.pyz"
    monkeypatch.setattr(sys, "path", [str(zipapp)])
    assert not supervisor._importable_elsewhere(str(zipapp))
    (tmp_path / "site" / "goodput").mkdir(parents=True)
    (tmp_path / "site" / "goodput" / "__init__.py").write_text("")
    sys.path.append(str(tmp_path / "site"))
    assert supervisor._importable_elsewhere(str(zipapp))


def test_without_a_writable_run_directory_another_one_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    used = Path(supervisor._usable(str(tmp_path / "file" / "run")))
    assert used.is_dir()
    used.rmdir()
