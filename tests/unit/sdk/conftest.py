"""A trainer in one line, gangs of real processes, and the agent that they speak to."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goodput import protocol
from goodput.agent.supervisor import free_port
from goodput.checkpoint.store import Store
from goodput.session import Session

ROOT = pathlib.Path(__file__).parents[3]
SECONDS = 120
INHERITED = {"PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}

Link = tuple[int, int, int]


class Agent:
    """The trainer's side of an agent: its socket, and what it lets the trainer know."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "agent.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def heard(self) -> list[dict[str, Any]]:
        """All datagrams that have come since the last call."""
        messages = []
        while True:
            try:
                messages.append(json.loads(self.socket.recv(protocol.MAX_DATAGRAM_BYTES)))
            except BlockingIOError:
                return messages

    def acknowledge(self, attempt: int, durable: tuple[int, int]) -> None:
        """Pass on what the operator has persisted as durable."""
        state = {"attempt": attempt, "durable": {"attempt": durable[0], "step": durable[1]}}
        (self.path.parent / protocol.STATE_FILE).write_text(json.dumps(state))

    def forget(self) -> None:
        """Begin again as an agent that has heard of no durable checkpoint."""
        (self.path.parent / protocol.STATE_FILE).unlink(missing_ok=True)


@pytest.fixture
def agent(tmp_path: pathlib.Path) -> Iterator[Agent]:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    agent = Agent(run_dir)
    yield agent
    agent.socket.close()


class Trainer:
    """A process of one attempt, alone in its gang, over the directory of the test."""

    def __init__(self, directory: pathlib.Path, environ: dict[str, str]) -> None:
        self.session = Session(environ)
        self.store = Store(str(directory), environ, self.session, patience_seconds=0)
        self.directory = directory

    def save(self, *steps: int) -> None:
        """Save checkpoints of two files that tell their step."""
        for step in steps:
            with self.store.saving(step, timeout_seconds=5) as path:
                (path / "model").write_text(f"model {step}")
                (path / "shards").mkdir()
                (path / "shards" / "0").write_text(f"shard {step}")

    def restored(self) -> tuple[int, int] | None:
        """Restore; return the attempt and step, having looked at the files."""
        restored = self.store.restore()
        if restored is None:
            return None
        assert (restored.path / "model").read_text() == f"model {restored.step}"
        assert (restored.path / "shards" / "0").read_text() == f"shard {restored.step}"
        return restored.attempt, restored.step


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def checkpoints(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


@pytest.fixture
def trainer(checkpoints: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[MakeTrainer]:
    """Make a trainer: in a cluster when it gets an attempt, on a laptop without."""
    made = []

    def make(
        attempt: int | None = None, *links: Link, keep: int = 2, job_uid: str = "uid"
    ) -> Trainer:
        environ = {protocol.ENV_CHECKPOINT_KEEP: str(keep)}
        if attempt is not None:
            lineage = [protocol.Ancestor(*link).to_dict() for link in links]
            environ[protocol.ENV_ATTEMPT] = str(attempt)
            environ[protocol.ENV_LINEAGE] = json.dumps(lineage)
            environ[protocol.ENV_JOB_UID] = job_uid
            environ[protocol.ENV_AGENT] = str(tmp_path / "run" / "agent.sock")
        made.append(Trainer(checkpoints, environ))
        return made[-1]

    yield make
    for trainer in made:
        trainer.session.close()


class Gang:
    """The ranks of one attempt, as an agent starts them."""

    def __init__(
        self, checkpoints: pathlib.Path, size: int, attempt: int, lineage: list, command: list
    ) -> None:
        port = free_port()  # as an agent picks it: not one that a connection may be given
        inherited = {key: value for key, value in os.environ.items() if key in INHERITED}
        common = {
            **inherited,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT / "operator"), os.environ.get("PYTHONPATH", "")]
            ).rstrip(os.pathsep),
            "PYTHONDONTWRITEBYTECODE": "1",
            **{key: value for key, value in os.environ.items() if key.startswith("CHAR_GPT")},
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(size),
            "GOODPUT_ATTEMPT": str(attempt),
            "GOODPUT_LINEAGE": json.dumps([link.to_dict() for link in lineage]),
            "GOODPUT_CHECKPOINT_DIR": str(checkpoints),
        }
        self.ranks = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]

    def wait(self) -> list[str]:
        """Return what each rank said until its end."""
        return [rank.communicate(timeout=SECONDS)[0] for rank in self.ranks]

    def succeed(self) -> list[str]:
        said = self.wait()
        assert [rank.returncode for rank in self.ranks] == [0] * len(self.ranks), "\n".join(said)
        return said

    def end(self) -> None:
        for rank in self.ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait(SECONDS)
            if rank.stdout is not None:
                rank.stdout.close()


StartGang = Callable[..., Gang]


@pytest.fixture
def gang(checkpoints: pathlib.Path) -> Iterator[StartGang]:
    started: list[Gang] = []

    def start(size: int, attempt: int, *command: object, lineage: list | None = None) -> Gang:
        started.append(Gang(checkpoints, size, attempt, lineage or [], list(command)))
        return started[-1]

    yield start
    for one in started:
        one.end()
