"""Processes that are ours to kill: the product's own code over a file system of ours.

The modules of `goodput.checkpoint` get an `os`, `shutil`, `open` and `time` from here; a call
that is not modelled is an AttributeError, so that no I/O of theirs escapes. Every operation is
numbered, may be refused, and may be the last one of its process. Threads stand for processes;
one runs at a time, and dice say which goes on after each operation.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import random
import stat
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from goodput.checkpoint import files, layout, store
from tests.durability.disk import Directory, File, View

PURE = ("O_RDONLY", "R_OK", "W_OK", "X_OK", "strerror", "sep", "fsdecode", "getuid")
PURE_PATH = ("join", "dirname", "basename", "relpath", "abspath")
CHANGES = frozenset({"mkdir", "create", "write", "fsync", "rename", "unlink", "rmdir"})


class Killed(BaseException):
    """SIGKILL: nothing of the process tidies up."""


@dataclass(frozen=True)
class Operation:
    """One call on the file system."""

    process: str
    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.process}: {self.kind} {self.path}"


class Process:
    """One training process."""

    def __init__(self, name: str, view: View, body: Callable[[], None]) -> None:
        self.name = name
        self.view = view
        self.body = body
        self.dead = False
        self.done = False
        self.pausable = False
        self.paused = False
        self.wake_at = 0.0
        self.error: BaseException | None = None
        self.descriptors: dict[int, tuple[str, File | Directory]] = {}
        self.turn = threading.Semaphore(0)
        self.thread: threading.Thread | None = None


class Machine:
    """All hosts and their processes, on one clock.

    Attributes:
        history: every operation, in order.
        before: is asked about each operation before it happens; may raise.
        eager: how likely another process goes on after an operation.
    """

    def __init__(self, dice: random.Random) -> None:
        self.now = 1000.0
        self.history: list[Operation] = []
        self.before: Callable[[Process, Operation], None] = lambda _process, _operation: None
        self.eager = dice.choice([0.0, 0.0, 0.1])
        self.current: Process | None = None
        self._dice = dice
        self._processes: list[Process] = []
        self._rest = threading.Semaphore(0)
        self._numbers = 100

    def clock(self) -> float:
        return self.now

    # --- processes

    def run(self, processes: list[Process]) -> None:
        """Let processes run until each has ended or is paused."""
        new = [one for one in processes if one.thread is None]
        self._processes = [one for one in self._processes if not one.done] + new
        if len(self._processes) == 1 and new and not new[0].pausable:
            self._alone(new[0])
            return
        for one in new:
            one.thread = threading.Thread(target=self._live, args=(one,), daemon=True)
            one.thread.start()
        following = self._next()
        if following is not None:
            following.turn.release()
            self._rest.acquire()
        for one in self._processes:
            if one.done and one.thread is not None:
                one.thread.join()

    def _alone(self, process: Process) -> None:
        self.current = process
        try:
            process.body()
        except BaseException as error:  # noqa: BLE001 - judged by the caller
            process.error = error
        process.done = True

    def _live(self, process: Process) -> None:
        process.turn.acquire()
        self.current = process
        try:
            process.body()
        except BaseException as error:  # noqa: BLE001 - judged by the caller
            process.error = error
        process.done = True
        self._pass_on(self._next())

    def _pass_on(self, following: Process | None) -> None:
        (self._rest if following is None else following.turn).release()

    def _next(self) -> Process | None:
        waiting = [one for one in self._processes if not one.done and not one.paused]
        ready = [one for one in waiting if one.wake_at <= self.now]
        if not ready and waiting:
            self.now = min(one.wake_at for one in waiting)
            ready = [one for one in waiting if one.wake_at <= self.now]
        return self._dice.choice(ready) if ready else None

    def _switch(self) -> None:
        process = self.current
        assert process is not None
        if process.thread is None:
            self.now = max(self.now, process.wake_at)
            return
        following = self._next()
        if following is process:
            return
        self._pass_on(following)
        process.turn.acquire()
        self.current = process

    def sleep(self, seconds: float) -> None:
        process = self.process
        process.wake_at = self.now + seconds
        self._switch()
        self._live_on(process)

    @property
    def process(self) -> Process:
        assert self.current is not None
        return self.current

    # --- operations

    def step(self, kind: str, path: str) -> View:
        """Begin an operation of the running process."""
        process = self.process
        self._live_on(process)
        operation = Operation(process.name, kind, path)
        self.before(process, operation)
        self._live_on(process)
        self.history.append(operation)
        if process.thread is not None and (process.paused or self._dice.random() < self.eager):
            process.wake_at = self.now
            self._switch()
            self._live_on(process)
        return process.view

    @staticmethod
    def _live_on(process: Process) -> None:
        if process.dead:
            raise Killed

    def descriptor(self, path: str, node: File | Directory) -> int:
        self._numbers += 1
        self.process.descriptors[self._numbers] = (path, node)
        return self._numbers


class OpenFile:
    """What `open` returns; nothing is buffered, so a kill loses no more than the rest."""

    def __init__(self, machine: Machine, path: str, mode: str) -> None:
        self._machine = machine
        self._path = path
        self._position = 0
        if mode == "wb":
            self._file = machine.step("create", path).create(path)
        elif mode == "rb":
            node = machine.step("open", path).find(path)
            if isinstance(node, Directory):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._file = node
        else:
            raise AttributeError(mode)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        for part in (data[:half], data[half:]):
            if part:
                self._machine.step("write", self._path).write(self._path, self._file, part)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        self._machine.step("read", self._path)
        end = len(self._file.data) if size < 0 else self._position + size
        data = self._file.data[self._position : end]
        self._position += len(data)
        return data

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._machine.descriptor(self._path, self._file)


class Path:
    """`os.path`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        if name not in PURE_PATH:
            raise AttributeError(f"os.path.{name} is not modelled")
        return getattr(posixpath, name)

    def exists(self, path: str) -> bool:
        return self._look(path) is not None

    lexists = exists

    def isdir(self, path: str) -> bool:
        return isinstance(self._look(path), Directory)

    def islink(self, path: str) -> bool:
        self._look(path)
        return False

    def getsize(self, path: str) -> int:
        node = self._machine.step("stat", path).find(path)
        return len(node.data) if isinstance(node, File) else 0

    def _look(self, path: str) -> File | Directory | None:
        try:
            return self._machine.step("stat", path).find(path)
        except OSError:
            return None


class Os:
    """`os`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path = Path(machine)
        for name in PURE:
            setattr(self, name, getattr(os, name))

    def mkdir(self, path: str) -> None:
        self._machine.step("mkdir", path).mkdir(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        parent = posixpath.dirname(path)
        if parent != path and not self.path.exists(parent):
            self.makedirs(parent, exist_ok=True)
        try:
            self.mkdir(path)
        except FileExistsError:
            if not exist_ok or not self.path.isdir(path):
                raise

    def listdir(self, path: str) -> list[str]:
        return self._machine.step("listdir", path).names(path)

    def stat(self, path: str) -> types.SimpleNamespace:
        node = self._machine.step("stat", path).find(path)
        if isinstance(node, File):
            return types.SimpleNamespace(st_size=len(node.data), st_mode=stat.S_IFREG)
        return types.SimpleNamespace(st_size=0, st_mode=stat.S_IFDIR)

    lstat = stat

    def access(self, path: str, _mode: int) -> bool:
        return self.path.exists(path)

    def walk(
        self, top: str, onerror: Callable[[OSError], None]
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        try:
            names = self.listdir(top)
        except OSError as error:
            onerror(error)
            return
        directories = [name for name in names if self.path.isdir(posixpath.join(top, name))]
        yield top, directories, [name for name in names if name not in directories]
        for name in directories:
            yield from self.walk(posixpath.join(top, name), onerror)

    def open(self, path: str, _flags: int) -> int:
        node = self._machine.step("open", path).find(path)
        return self._machine.descriptor(path, node)

    def close(self, descriptor: int) -> None:
        self._machine.process.descriptors.pop(descriptor, None)

    def fsync(self, descriptor: int) -> None:
        path, node = self._machine.process.descriptors[descriptor]
        self._machine.step("fsync", path).sync(node)

    def rename(self, source: str, target: str) -> None:
        self._machine.step("rename", target).rename(source, target)

    replace = rename

    def unlink(self, path: str) -> None:
        self._machine.step("unlink", path).unlink(path)

    def rmdir(self, path: str) -> None:
        self._machine.step("rmdir", path).rmdir(path)


class Shutil:
    """`shutil`."""

    def __init__(self, fake: Os, dice: random.Random) -> None:
        self._os = fake
        self._dice = dice

    def rmtree(self, path: str, ignore_errors: bool = False) -> None:
        try:
            names = self._os.listdir(path)
            self._dice.shuffle(names)  # a directory has no order
            for name in names:
                self._remove(posixpath.join(path, name), ignore_errors)
            self._os.rmdir(path)
        except OSError:
            if not ignore_errors:
                raise

    def _remove(self, path: str, ignore_errors: bool) -> None:
        if self._os.path.isdir(path):
            self.rmtree(path, ignore_errors)
            return
        try:
            self._os.unlink(path)
        except OSError:
            if not ignore_errors:
                raise


class Distributed(types.ModuleType):
    """`torch.distributed`: collectives that fail when a rank is gone."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("torch.distributed")
        self._machine = machine
        self.ranks: dict[Process, int] = {}
        self._values: dict[int, dict[int, Any]] = {}
        self._rounds: dict[int, int] = {}

    def begin(self, ranks: list[Process]) -> None:
        """These processes, and no others, are a process group now."""
        self.ranks = {process: rank for rank, process in enumerate(ranks)}
        self._values, self._rounds = {}, {}

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self._machine.process in self.ranks

    def get_rank(self) -> int:
        return self.ranks[self._machine.process]

    def get_world_size(self) -> int:
        return len(self.ranks)

    def all_gather_object(self, values: list[Any], value: Any) -> None:
        gathered = self._exchange(value)
        for rank in range(len(values)):
            values[rank] = gathered[rank]

    def broadcast_object_list(self, values: list[Any], src: int) -> None:
        values[:] = self._exchange(list(values))[src]

    def _exchange(self, value: Any) -> dict[int, Any]:
        rank = self.get_rank()
        number = self._rounds[rank] = self._rounds.get(rank, 0) + 1
        values = self._values.setdefault(number, {})
        values[rank] = value
        pause_seconds = 0.001
        while len(values) < len(self.ranks):
            missing = [one for one, rank in self.ranks.items() if rank not in values]
            if any(one.dead or one.done for one in missing):
                raise RuntimeError("Connection closed by peer")
            self._machine.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 1.0)
        return values


@contextlib.contextmanager
def inhabited(machine: Machine, dice: random.Random) -> Iterator[Distributed]:
    """Give the product this machine for the real one."""
    fake = Os(machine)
    shutil = Shutil(fake, dice)
    distributed = Distributed(machine)

    def open_(path: Any, mode: str = "r", buffering: int = -1) -> OpenFile:
        return OpenFile(machine, str(path), mode)

    time = types.SimpleNamespace(monotonic=machine.clock, sleep=machine.sleep)
    given: list[tuple[Any, dict[str, Any]]] = [
        (files, {"os": fake, "shutil": shutil, "open": open_}),
        (layout, {"os": fake, "open": open_}),
        (store, {"os": fake, "shutil": shutil, "open": open_, "time": time}),
    ]
    before = [(module, {name: vars(module).get(name) for name in names}) for module, names in given]
    torch = sys.modules.get("torch.distributed")
    for module, names in given:
        vars(module).update(names)
    sys.modules["torch.distributed"] = distributed
    try:
        yield distributed
    finally:
        for module, names in before:
            for name, value in names.items():
                if value is None:
                    del vars(module)[name]
                else:
                    setattr(module, name, value)
        if torch is None:
            del sys.modules["torch.distributed"]
        else:
            sys.modules["torch.distributed"] = torch
