"""The agent's ear for the training processes, and the file in which it answers them."""

import contextlib
import json
import os
import socket
import threading
from typing import Any, Callable, Dict, Optional

from goodput import protocol
from goodput.protocol import Commit

SOCKET_NAME = "agent.sock"


class TrainerSocket:
    """A Unix datagram socket that any user of the container may write to."""

    def __init__(self, run_dir: str, heard: Callable[[bytes], None]) -> None:
        """Listen in `run_dir`; `heard` is called on a thread of this object.

        Raises:
            OSError: the directory cannot be written.
        """
        self.path = os.path.join(run_dir, SOCKET_NAME)
        self._heard = heard
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._socket.bind(self.path)
        os.chmod(self.path, 0o777)  # noqa: S103 - the user's command may change its uid
        threading.Thread(target=self._listen, name="trainer", daemon=True).start()

    def close(self) -> None:
        """Stop listening and take the socket away."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _listen(self) -> None:
        while True:
            try:
                datagram = self._socket.recv(protocol.MAX_DATAGRAM_BYTES)
            except OSError:
                return
            if not datagram and self._socket.fileno() < 0:
                return
            self._heard(datagram)


def publish(
    run_dir: str, attempt: int, durable: Optional[Commit], save_step: Optional[int] = None
) -> None:
    """Replace the state file: a reader sees the old or the new one, never a part.

    Raises:
        OSError: the directory cannot be written.
    """
    path = os.path.join(run_dir, protocol.STATE_FILE)
    state: Dict[str, Any] = {"attempt": attempt, "durable": durable and durable.to_dict()}
    if save_step is not None:
        state["save"] = save_step
    with open(path + ".new", "w") as file:
        json.dump(state, file)
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)
