"""The simulated file system does what the real one does, and forgets what POSIX lets it forget."""

# What is compared are the calls of os.
# ruff: noqa: PTH104, PTH208, PTH123

import errno
import os
import pathlib
import random
from collections.abc import Callable

import pytest

from tests.durability.disk import Directory, Disk, File, View

NAMES = ("a", "b", "a/c", "a/d", "b/c", "a/c/e", "b/c/e")


def real(top: pathlib.Path, call: str, path: str, other: str) -> object:
    whole, target = f"{top}/{path}", f"{top}/{other}"
    if call == "create":
        with open(whole, "wb") as file:
            return file.write(other.encode())
    if call == "rename":
        return os.rename(whole, target)
    if call == "names":
        return sorted(os.listdir(whole))
    if call == "read":
        with open(whole, "rb") as file:
            return file.read()
    done: object = getattr(os, call)(whole)
    return done


def simulated(view: View, call: str, path: str, other: str) -> object:
    whole = f"/{path}"
    if call == "create":
        view.write(whole, view.create(whole), other.encode())
        return len(other)
    if call == "rename":
        return view.rename(whole, f"/{other}")
    if call == "names":
        return sorted(view.names(whole))
    if call == "read":
        node = view.find(whole)
        if isinstance(node, Directory):
            raise IsADirectoryError(21, "")
        return node.data
    done: object = getattr(view, call)(whole)
    return done


def outcome(act: Callable[..., object], *arguments: object) -> object:
    try:
        return act(*arguments)
    except OSError as error:
        return error.errno and errno.errorcode[error.errno]


@pytest.mark.parametrize("seed", range(20))
def test_every_call_ends_as_on_a_real_file_system(tmp_path: pathlib.Path, seed: int) -> None:
    dice, view = random.Random(seed), View(Disk(), lambda: 0.0)
    calls = ("mkdir", "mkdir", "create", "create", "rename", "unlink", "rmdir", "names", "read")
    for _ in range(300):
        call, path, other = dice.choice(calls), dice.choice(NAMES), dice.choice(NAMES)
        if call == "rename" and os.path.commonpath([path, other]) in (path, other):
            continue  # into itself, or over what it lies in: nobody here does that
        ends = [
            outcome(real, tmp_path, call, path, other),
            outcome(simulated, view, call, path, other),
        ]
        assert ends[0] == ends[1], (call, path, other)


def written(disk: Disk, path: str, data: bytes) -> File:
    view = View(disk, lambda: 0.0)
    file = view.create(path)
    view.write(path, file, data)
    return file


def test_what_was_not_fsynced_is_gone_after_a_power_cut() -> None:
    disk = Disk()
    written(disk, "/lost", b"1")
    View.sync(written(disk, "/without-a-name", b"2"))
    View.sync(disk.root)
    without_content = written(disk, "/torn", b"3")
    disk.root.durable["torn"] = without_content
    View.sync(written(disk, "/safe", b"4"))
    View.sync(disk.root)
    written(disk, "/late", b"5")
    left = dict(disk.after_power_cut(None).files())
    assert {path: file.data for path, file in left.items()} == {
        "/lost": b"",
        "/without-a-name": b"2",
        "/torn": b"",
        "/safe": b"4",
    }


def test_a_torn_file_is_old_or_new_or_a_part_of_it() -> None:
    found = set()
    for seed in range(50):
        disk = Disk()
        View.sync(written(disk, "/file", b"old"))
        View.sync(disk.root)
        written(disk, "/file", b"fresh")
        left = disk.after_power_cut(random.Random(seed)).at("/file")
        assert isinstance(left, File)
        found.add(left.data)
    assert {b"old", b"fresh"} < found
    assert all(one == b"old" or b"fresh".startswith(one.rstrip(b"\0")) for one in found)


def test_a_host_sees_the_names_of_others_late_and_its_own_at_once() -> None:
    now = 0.0
    disk = Disk()
    late, other = View(disk, lambda: now, 30.0), View(disk, lambda: now)
    assert late.names("/") == []
    other.mkdir("/theirs")
    late.mkdir("/ours")
    assert late.names("/") == ["ours"]
    with pytest.raises(FileNotFoundError):
        late.find("/theirs")
    with pytest.raises(FileExistsError):
        late.mkdir("/theirs")
    other.rmdir("/theirs")
    with pytest.raises(OSError, match="Stale"):
        late.find("/theirs")
    now = 31.0
    assert late.names("/") == ["ours"]


def test_a_full_disk_takes_what_fits() -> None:
    disk = Disk()
    disk.capacity = 3
    view = View(disk, lambda: 0.0)
    file = view.create("/file")
    with pytest.raises(OSError, match="No space left"):
        view.write("/file", file, b"12345")
    assert file.data == b"123"
