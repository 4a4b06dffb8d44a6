"""A shared file system that keeps what POSIX promises, and not a bit more.

What was not fsynced may be gone after a power cut, or torn: the content of files, and apart
from it the names in directories. Hosts may see names late, as NFS lets them: each keeps the
names of a directory for a while, and sees only its own changes at once. An opened file is
always read as its last writer closed it (close-to-open).

`test_disk.py` compares it with the real thing.
"""

from __future__ import annotations

import errno
import functools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Node = "File | Directory"


@dataclass(eq=False)
class File:
    """A file: what it holds now, and what it would hold after a power cut (None: nothing)."""

    data: bytes = b""
    durable: bytes | None = None


@dataclass(eq=False)
class Directory:
    """A directory: its names now, and those that a power cut leaves."""

    entries: dict[str, File | Directory] = field(default_factory=dict)
    durable: dict[str, File | Directory] = field(default_factory=dict)
    removed: bool = False


class Disk:
    """The file system as its server knows it.

    Attributes:
        capacity: bytes of all files together; more is ENOSPC.
    """

    def __init__(self, root: Directory | None = None) -> None:
        self.root = root or Directory()
        self.capacity: int | None = None

    def clone(self) -> Disk:
        """Return an independent copy, with what is volatile in it."""
        copies: dict[int, File | Directory] = {}

        def copy(node: File | Directory) -> File | Directory:
            made = copies.get(id(node))
            if made is not None:
                return made
            if isinstance(node, File):
                made = copies[id(node)] = File(node.data, node.durable)
                return made
            made = copies[id(node)] = Directory(removed=node.removed)
            made.entries = {name: copy(child) for name, child in node.entries.items()}
            made.durable = {name: copy(child) for name, child in node.durable.items()}
            return made

        root = copy(self.root)
        assert isinstance(root, Directory)
        copied = Disk(root)
        copied.capacity = self.capacity
        return copied

    def after_power_cut(self, dice: random.Random | None) -> Disk:
        """Return what is left: without dice nothing that was not fsynced, else any part of it."""
        made: dict[int, File | Directory] = {}

        def leave(node: File | Directory) -> File | Directory:
            known = made.get(id(node))
            if known is not None:
                return known
            if isinstance(node, File):
                content = _torn(node, dice)
                left: File | Directory = File(content, content)
                made[id(node)] = left
                return left
            left = made[id(node)] = Directory()
            for name in sorted({*node.entries, *node.durable}):
                now, safe = node.entries.get(name), node.durable.get(name)
                kept = safe if now is safe or dice is None else dice.choice([now, safe])
                if kept is not None:
                    left.entries[name] = leave(kept)
            left.durable = dict(left.entries)
            return left

        root = leave(self.root)
        assert isinstance(root, Directory)
        return Disk(root)

    def used(self) -> int:
        return sum(len(node.data) for _, node in self.files())

    def files(self, top: str = "/") -> Iterator[tuple[str, File]]:
        """Yield path and file of all files, in order."""
        node = self.at(top)
        pending = [(top.rstrip("/"), node)]
        while pending:
            path, one = pending.pop()
            if isinstance(one, File):
                yield path, one
            elif one is not None:
                pending += [(f"{path}/{name}", one.entries[name]) for name in sorted(one.entries)]

    def at(self, path: str) -> File | Directory | None:
        """Return what lies at a path, None for nothing."""
        node: File | Directory | None = self.root
        for part in _parts(path):
            if not isinstance(node, Directory):
                return None
            node = node.entries.get(part)
        return node

    def put(self, path: str, data: bytes) -> None:
        """Put a file there, durable, with the directories above it: no process does this."""
        node = self.root
        *parents, name = _parts(path)
        for part in parents:
            child = node.entries.setdefault(part, Directory())
            assert isinstance(child, Directory)
            node.durable.setdefault(part, child)
            node = child
        node.entries[name] = node.durable[name] = File(data, data)

    def make(self, path: str) -> None:
        """Make a durable directory, with those above it."""
        self.put(f"{path}/.", b"")
        node = self.at(path)
        assert isinstance(node, Directory)
        del node.entries["."], node.durable["."]

    def remove(self, path: str) -> None:
        """Take away what is there, durably."""
        parent, name = self.at(os.path.dirname(path)), os.path.basename(path)  # noqa: PTH119, PTH120
        assert isinstance(parent, Directory)
        del parent.entries[name]
        parent.durable.pop(name, None)


class View:
    """The file system as one host sees it.

    Args:
        disk: the server.
        clock: seconds.
        names_kept_seconds: how long the host believes what it has seen of a directory.
    """

    def __init__(
        self, disk: Disk, clock: Callable[[], float], names_kept_seconds: float = 0.0
    ) -> None:
        self.disk = disk
        self.read_only = False
        self._clock = clock
        self._kept_seconds = names_kept_seconds
        self._seen: dict[Directory, tuple[float, dict[str, File | Directory]]] = {}

    def names(self, path: str) -> list[str]:
        return list(self._entries(self._directory(path)))

    def find(self, path: str) -> File | Directory:
        """Return what the host sees at a path; raises OSError."""
        node: File | Directory = self.disk.root
        late = self._kept_seconds > 0
        for part in _parts(path):
            if not isinstance(node, Directory):
                raise _error(errno.ENOTDIR, path)
            child = (self._entries(node) if late else node.entries).get(part)
            if child is None:
                raise _error(errno.ENOENT, path)
            if late and node.entries.get(part) is not child:
                raise _error(errno.ESTALE, path)
            node = child
        return node

    def mkdir(self, path: str) -> None:
        parent, name = self._parent(path)
        if name in parent.entries:
            self._set(parent, name, parent.entries[name])  # the server has said so
            raise _error(errno.EEXIST, path)
        self._writable(path)
        self._set(parent, name, Directory())

    def create(self, path: str) -> File:
        """Open a file for writing, empty."""
        parent, name = self._parent(path)
        self._writable(path)
        node = parent.entries.get(name)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        if node is None:
            node = File()
        node.data = b""
        self._set(parent, name, node)
        return node

    def write(self, path: str, file: File, data: bytes) -> None:
        """Append; a full disk takes what fits."""
        self._writable(path)
        if self.disk.capacity is not None:
            room = max(0, self.disk.capacity - self.disk.used())
            if len(data) > room:
                file.data += data[:room]
                raise _error(errno.ENOSPC, path)
        file.data += data

    def rename(self, source: str, target: str) -> None:
        old_parent, old_name = self._parent(source)
        parent, name = self._parent(target)
        node = self.find(source)
        there = parent.entries.get(name)
        self._writable(source)
        if isinstance(there, Directory):
            if not isinstance(node, Directory):
                raise _error(errno.EISDIR, target)
            if there.entries:
                raise _error(errno.ENOTEMPTY, target)
        elif there is not None and isinstance(node, Directory):
            raise _error(errno.ENOTDIR, target)
        self._set(old_parent, old_name, None)
        self._set(parent, name, node)

    def unlink(self, path: str) -> None:
        parent, name = self._parent(path)
        if isinstance(self.find(path), Directory):
            raise _error(errno.EISDIR, path)
        self._writable(path)
        self._set(parent, name, None)

    def rmdir(self, path: str) -> None:
        parent, name = self._parent(path)
        node = self.find(path)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR, path)
        self._writable(path)
        if node.entries:
            raise _error(errno.ENOTEMPTY, path)
        node.removed = True
        self._set(parent, name, None)

    @staticmethod
    def sync(node: File | Directory) -> None:
        """Put on disk what `node` holds: of a directory its names, not what they stand for."""
        if isinstance(node, File):
            node.durable = node.data
        else:
            node.durable = dict(node.entries)

    # --- inside

    def _entries(self, directory: Directory) -> dict[str, File | Directory]:
        if not self._kept_seconds:
            return directory.entries
        until, seen = self._seen.get(directory, (0.0, {}))
        if self._clock() >= until:
            seen = dict(directory.entries)
            self._seen[directory] = (self._clock() + self._kept_seconds, seen)
        return seen

    def _directory(self, path: str) -> Directory:
        node = self.find(path)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        *parents, name = _parts(path)
        parent = self._directory("/" + "/".join(parents))
        if parent.removed:
            raise _error(errno.ENOENT, path)
        return parent, name

    def _set(self, parent: Directory, name: str, node: File | Directory | None) -> None:
        seen = self._seen.get(parent)
        for entries in (parent.entries, seen[1] if seen else {}):
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node

    def _writable(self, path: str) -> None:
        if self.read_only:
            raise _error(errno.EROFS, path)


def _torn(file: File, dice: random.Random | None) -> bytes:
    safe = file.durable or b""
    if dice is None or safe == file.data:
        return safe
    cut = dice.randrange(len(file.data) + 1)
    zeros = bytes(len(file.data) - cut)
    return dice.choice([safe, file.data, file.data[:cut], file.data[:cut] + zeros])


@functools.lru_cache(maxsize=4096)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
