"""Whatever becomes of the bytes of a checkpoint: it is restored as it was written, or not at all.

A directory with three checkpoints; in each try the newest (or the two newest) is damaged, and
one rank restores.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from goodput.checkpoint import layout
from goodput.checkpoint.layout import Place
from goodput.protocol import Commit
from tests.durability.disk import Directory, Disk, File
from tests.durability.job import DIRECTORY, Job
from tests.durability.machine import inhabited

STEPS = [10, 20, 30]
GARBAGE_BYTES = 64


@dataclass(frozen=True)
class Corruption:
    """One damage.

    Attributes:
        names: of the files that are damaged, below the newest save.
        how: what is done to it.
        place: at which byte, or how many of them.
        step: of the save.
    """

    name: str
    how: str
    place: int = 0
    step: int = STEPS[-1]

    def __str__(self) -> str:
        return f"{self.step}:{self.name}:{self.how}:{self.place}"

    @classmethod
    def parse(cls, text: str) -> Corruption:
        step, name, how, place = text.split(":")
        return cls(name, how, int(place), int(step))


class Bench:
    """Three checkpoints, to be damaged again and again."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.job = Job(self.dice, keep=3)
        with inhabited(self.job.machine, self.dice) as distributed:
            self.job.distributed = distributed
            self.job.live(self.job.open(2, talks=False), STEPS)
        self.whole, self.status = self.job.disk, self.job.status
        self._contents = {path: file.data for path, file in self.whole.files(DIRECTORY)}

    def corruptions(self) -> Iterator[Corruption]:
        """Yield all of them: each bit, each length, each name, of each file."""
        top = self.path(STEPS[-1])
        for path, content in self._contents.items():
            if not path.startswith(top):
                continue
            name = path[len(top) + 1 :]
            for bit in range(8 * len(content)):
                yield Corruption(name, "flip", bit)
            for length in range(len(content)):
                yield Corruption(name, "truncate", length)
                yield Corruption(name, "zeros", length)
            for number in range(GARBAGE_BYTES):
                yield Corruption(name, "garbage", number)
                yield Corruption(name, "append", number + 1)
            for how in ("remove", "directory", "older", "empty"):
                yield Corruption(name, how)
            for bit in range(0, 8 * len(content), 61):
                yield Corruption(name, "flip-both", bit)
        for how in ("away", "as-newer", "as-other-attempt", "as-retry", "file", "unpublished"):
            yield Corruption("", how)

    def path(self, step: int) -> str:
        return f"{DIRECTORY}/{Place(1, step).name}"

    def judge(self, corruption: Corruption) -> list[str]:
        """Do the damage, restore, and say what is wrong with what came of it."""
        job = self.job
        job.disk = self.whole.clone()
        job.status, job.lives = self.status, job.lives[:1]
        job.violations.clear()
        _damage(job.disk, self.path(corruption.step), corruption)
        if corruption.how == "flip-both":
            _damage(job.disk, self.path(corruption.step - 10), corruption)
        life = job.open(1, talks=False, look=False)
        with inhabited(job.machine, self.dice):
            job.live(life, [])
        found = [f"{corruption}: {one}" for one in job.violations]
        if life.failed:
            return [*found, f"lost: {corruption}: {life.failed[0]!r}"]
        restored = life.restored.get(0)
        expected = Commit(1, self._expected(corruption))
        if restored != expected:
            found.append(f"lost: {corruption}: {restored} instead of {expected}")
        return found

    def _expected(self, corruption: Corruption) -> int:
        newest = self.path(corruption.step)
        if not corruption.name:
            return corruption.step - 10
        if corruption.name == layout.MANIFEST:
            harmed = not _says_the_same(self.whole, self.job.disk, f"{newest}/{layout.MANIFEST}")
        elif layout.reserved(corruption.name):
            harmed = False
        else:
            harmed = bool(self.job.difference(newest))
        if not harmed:
            return corruption.step
        return corruption.step - (20 if corruption.how == "flip-both" else 10)


def _says_the_same(first: Disk, second: Disk, path: str) -> bool:
    nodes = [one.at(path) for one in (first, second)]
    try:
        values = [json.loads(one.data.decode("ascii")) for one in nodes if isinstance(one, File)]
    except ValueError:
        return False
    return len(values) == 2 and bool(values[0] == values[1])


def _damage(disk: Disk, top: str, corruption: Corruption) -> None:
    path, place = f"{top}/{corruption.name}", corruption.place
    if not corruption.name:
        _damage_save(disk, top, corruption.how)
        return
    file = disk.at(path)
    assert isinstance(file, File)
    data = file.data
    if corruption.how.startswith("flip"):
        at = place // 8 % max(1, len(data))
        changed = bytes([data[at] ^ (1 << place % 8)]) if data else b"x"
        disk.put(path, data[:at] + changed + data[at + 1 :])
    elif corruption.how == "truncate":
        disk.put(path, data[:place])
    elif corruption.how == "zeros":
        disk.put(path, data[:place] + bytes(len(data) - place))
    elif corruption.how == "garbage":
        disk.put(path, random.Random(place).randbytes(place))
    elif corruption.how == "append":
        disk.put(path, data + bytes(place))
    elif corruption.how == "empty":
        disk.put(path, b"")
    elif corruption.how == "older":
        older = disk.at(path.replace(f"{corruption.step:08d}", f"{corruption.step - 10:08d}"))
        assert isinstance(older, File)
        disk.put(path, older.data)
    else:
        disk.remove(path)
        if corruption.how == "directory":
            disk.make(path)


def _damage_save(disk: Disk, top: str, how: str) -> None:
    node = disk.at(top)
    assert isinstance(node, Directory)
    if how == "unpublished":
        disk.remove(f"{top}/{layout.MANIFEST}")
        return
    disk.remove(top)
    place = {
        "as-newer": Place(1, 40),
        "as-other-attempt": Place(2, 30),
        "as-retry": None,
        "away": None,
        "file": None,
    }[how]
    if how == "file":
        disk.put(top, b"not a directory")
    elif place is not None:
        parent = disk.at(DIRECTORY)
        assert isinstance(parent, Directory)
        parent.entries[place.name] = parent.durable[place.name] = node
