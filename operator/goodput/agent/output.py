"""The words of the training processes: passed on at once, the last ones kept as evidence.

One thread reads all pipes and is the only writer of our stdout and stderr. The supervisor is
never blocked by a log that nobody drains, and a pipe that a grandchild holds open hinders
nobody: no end of file is ever waited for.
"""

import contextlib
import os
import re
import select
import selectors
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

TAIL_BYTES = 8 * 1024
TAIL_LINE_BYTES = 1024
PARTIAL_LINE_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
READS_PER_SETTLE = 64

_TRACEBACK = re.compile(rb"^(.*?)Traceback \(most recent call last\):")
_OF_A_LAUNCHER = re.compile(rb"^\S*\.?(ChildFailedError|SignalException)\b")


class Tail:
    """The end of one process's output, stdout and stderr together, and its last exception."""

    def __init__(self) -> None:
        self._lines: Deque[bytes] = deque()
        self._bytes = 0
        self._inside: Optional[bytes] = None  # of a traceback: what stands before each line
        self.exception = ""

    def feed(self, line: bytes) -> None:
        """Take in a line, without its end."""
        line = line.rsplit(b"\r", 1)[-1] if b"\r" in line.rstrip(b"\r") else line.rstrip(b"\r")
        self._look_for_exception(line)
        line = line[:TAIL_LINE_BYTES]
        self._lines.append(line)
        self._bytes += len(line) + 1
        while self._bytes > TAIL_BYTES:
            self._bytes -= len(self._lines.popleft()) + 1

    def last_lines(self) -> Tuple[str, ...]:
        """Return the lines that are still known, oldest first."""
        return tuple(line.decode("utf-8", "replace") for line in self._lines)

    def _look_for_exception(self, line: bytes) -> None:
        """Follow tracebacks: the first line that is not indented tells the exception.

        torch sets `[rank0]: ` before each line, an exception group `  | `. What a launcher
        raises about its children says less than what they have said themselves.
        """
        start = _TRACEBACK.match(line) if b"Traceback (" in line else None
        if start:
            before = start.group(1)
            self._inside = b"  | " if b"Exception Group" in before else before
        elif self._inside is not None and line.startswith(self._inside):
            rest = line[len(self._inside) :]
            if rest.strip() and not rest.startswith((b" ", b"\t")):
                self._inside = None
                if not _OF_A_LAUNCHER.match(rest):
                    self.exception = rest.decode("utf-8", "replace").strip()


class _Stream:
    """One pipe of one process."""

    def __init__(self, source: int, target: int, tail: Tail, prefix: bytes) -> None:
        self.source = source
        self.target = target
        self.tail = tail
        self._prefix = prefix
        self._partial = b""

    def take(self, data: bytes) -> bytes:
        """Return what is to be written now: whole lines where a prefix tells processes apart."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > PARTIAL_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self.tail.feed(line)
        if not self._prefix:
            return data
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def close(self) -> bytes:
        """Return what is still to be written after the end of the pipe."""
        rest, self._partial = self._partial, b""
        if not rest:
            return b""
        self.tail.feed(rest)
        return self._prefix + rest + b"\n" if self._prefix else b""


class Output:
    """Reads the pipes of all processes and writes to `stdout` and `stderr` (descriptors)."""

    def __init__(self, stdout: int = 1, stderr: int = 2) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._line_open: Dict[int, bool] = {}
        self._selector = selectors.DefaultSelector()
        self._jobs: Deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def attach(self, stdout: int, stderr: int, prefix: str = "") -> Tail:
        """Read these two pipes from now on, and close them at their end."""
        tail = Tail()
        for source, target in ((stdout, self._stdout), (stderr, self._stderr)):
            os.set_blocking(source, False)
            stream = _Stream(source, target, tail, prefix.encode())
            self._do(lambda stream=stream: self._register(stream))  # type: ignore[misc]
        return tail

    def settle(self, tail: Tail, timeout_seconds: float = 0.5) -> None:
        """Wait until what a dead process had written is in its tail, or the time is over."""
        done = threading.Event()
        self._do(lambda: self._drain(tail, done))
        done.wait(timeout_seconds)

    def say(self, text: str) -> None:
        """Write a line of our own to stderr, never into the middle of another one."""
        data = "goodput: {}\n".format(text.replace("\n", " ")).encode("utf-8", "replace")
        self._do(lambda: self._write_line(data))

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what has arrived until now and stop."""

        def drain_all() -> None:
            for stream in self._streams():
                self._read(stream, READS_PER_SETTLE)
            self._closing = True

        self._do(drain_all)
        self._thread.join(timeout_seconds)

    # --- below: the thread's own --------------------------------------------------------------

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._closing:
            try:
                self._round()
            except Exception as error:  # noqa: BLE001 - unread pipes would stop the training
                self._write_line("goodput: internal error: {!r}\n".format(error).encode())
                time.sleep(0.1)

    def _round(self) -> None:
        for key, _ in self._selector.select():
            if key.fileobj == self._wake_read:
                self._work()
            elif isinstance(key.data, _Stream) and key.fd in self._selector.get_map():
                self._read(key.data, 1)

    def _work(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._jobs:
            self._jobs.popleft()()

    def _streams(self) -> List[_Stream]:
        keys = list(self._selector.get_map().values())
        return [key.data for key in keys if isinstance(key.data, _Stream)]

    def _register(self, stream: _Stream) -> None:
        self._selector.register(stream.source, selectors.EVENT_READ, stream)

    def _drain(self, tail: Tail, done: threading.Event) -> None:
        for stream in self._streams():
            if stream.tail is tail:
                self._read(stream, READS_PER_SETTLE)
        done.set()

    def _read(self, stream: _Stream, times: int) -> None:
        for _ in range(times):
            try:
                data = os.read(stream.source, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._selector.unregister(stream.source)
                os.close(stream.source)
                self._write(stream.target, stream.close())
                return
            self._write(stream.target, stream.take(data))

    def _write_line(self, data: bytes) -> None:
        self._write(self._stderr, b"\n" + data if self._line_open.get(self._stderr) else data)

    def _write(self, target: int, data: bytes) -> None:
        if not data:
            return
        self._line_open[target] = not data.endswith(b"\n")
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(target, view) :]
            except BlockingIOError:  # a child may have made the shared descriptor non-blocking
                select.select([], [target], [], 1.0)
            except OSError:
                return  # nobody reads the log any more: the processes must not notice
