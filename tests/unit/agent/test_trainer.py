"""The agent's ear, and the file in which it answers."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

from goodput.agent import trainer
from goodput.protocol import Commit


def test_datagrams_are_heard_from_any_user_of_the_container(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    heard: list[bytes] = []
    ear = trainer.TrainerSocket(str(tmp_path), heard.append)
    assert Path(ear.path).stat().st_mode & 0o777 == 0o777
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
        for word in (b"one", b"", b"two"):
            mouth.sendto(word, ear.path)
        eventually(lambda: heard == [b"one", b"", b"two"])
    ear.close()
    assert not Path(ear.path).exists()


def test_a_socket_left_over_from_before_is_replaced(tmp_path: Path) -> None:
    (tmp_path / trainer.SOCKET_NAME).write_text("")
    trainer.TrainerSocket(str(tmp_path), lambda _: None).close()


def test_the_state_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    trainer.publish(str(tmp_path), 3, None)
    assert json.loads((tmp_path / "state.json").read_text()) == {"attempt": 3, "durable": None}
    trainer.publish(str(tmp_path), 3, Commit(attempt=2, step=1200))
    assert json.loads((tmp_path / "state.json").read_text()) == {
        "attempt": 3,
        "durable": {"attempt": 2, "step": 1200},
    }
    trainer.publish(str(tmp_path), 3, None, 12)
    assert json.loads((tmp_path / "state.json").read_text())["save"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
