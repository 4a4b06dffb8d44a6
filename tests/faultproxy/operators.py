"""The operator as real processes that start fast: forked from one that has imported everything.

Each is a process of its own with its own memory, sockets and threads, and dies by SIGKILL. What
is saved is the second of processor time that the imports take.
"""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from e2e.cluster.paths import REPOSITORY


class Nursery:
    """Where operators come from; make one per process, before any is started."""

    def __init__(self) -> None:
        # The fork server finds its modules by this only.
        paths = [str(REPOSITORY / "operator"), str(REPOSITORY)]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faultproxy.warm"])
        self._alive: list[Operator] = []

    def start(self, arguments: Sequence[str], log: Path) -> "Operator":
        """Start a replica; its standard output and error are appended to `log`."""
        process = self._context.Process(target=_live, args=(tuple(arguments), str(log)))
        process.start()
        self._alive = [one for one in self._alive if not one.ended.is_set()]
        self._alive.append(Operator(process))
        return self._alive[-1]

    def stop(self) -> None:
        """Kill all replicas that still live."""
        for one in self._alive:
            one.signal()


class Operator:
    """One replica.

    Attributes:
        ended: set when the process is dead, and so its sockets are closed.
    """

    def __init__(self, process: ForkServerProcess) -> None:
        self.ended = asyncio.Event()
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(process.sentinel, self._has_ended)

    async def kill(self) -> None:
        """End it by SIGKILL; return when it is dead."""
        self.signal()
        await self.ended.wait()

    def signal(self) -> None:
        """Send SIGKILL, if it lives."""
        if not self.ended.is_set():
            self._process.kill()

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._process.close()
        self.ended.set()


def _live(arguments: Sequence[str], log: str) -> None:
    """The whole life of a replica, in its process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["goodput-operator", *arguments]
    from goodput_operator.__main__ import main

    main()
