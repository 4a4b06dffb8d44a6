"""A save is published whole or not at all, and a failed one harms nothing."""

# The calls that are watched here are those of os.
# ruff: noqa: PTH115, PTH116, PTH119, PTH120

import contextlib
import os
import pathlib
import resource
import subprocess
from collections.abc import Iterator

import pytest

from goodput.checkpoint import CheckpointError, layout
from goodput.checkpoint.layout import Place

MEBIBYTE = 1 << 20


def names_in(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_every_save_has_a_directory_of_its_own(trainer, agent, checkpoints) -> None:
    running = trainer(3)
    running.save(1200, 1200)
    running.save(1300)
    assert names_in(checkpoints) == [
        "step-00001200.attempt-00003",
        "step-00001200.attempt-00003.retry-00001",
        "step-00001300.attempt-00003",
    ]
    assert names_in(checkpoints / "step-00001300.attempt-00003") == [
        "manifest.json",
        "model",
        "rank-00000.json",
        "shards",
    ]


def test_a_publication_is_told_to_the_agent(trainer, agent) -> None:
    running = trainer(3)
    running.session.step(7)
    running.save(7)
    hello, step, commit, _ = agent.heard()
    assert (hello["kind"], hello["pid"]) == ("hello", os.getpid())
    assert (commit["kind"], commit["step"], commit["attempt"], commit["rank"]) == (
        "commit",
        7,
        3,
        0,
    )
    assert commit["step_at"] == step["at"] <= commit["at"]


def test_an_error_of_the_trainer_passes_through(trainer, checkpoints) -> None:
    running = trainer(1)
    running.save(10)

    def fail() -> None:
        with running.store.saving(20, 5) as path:
            (path / "model").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names_in(checkpoints) == ["step-00000010.attempt-00001"]
    running.save(20)
    assert trainer(2, (2, 1, 20)).restored() == (1, 20)


@pytest.mark.parametrize("name", ["manifest.json", "rank-00000.json"])
def test_names_of_ours_are_refused(trainer, name: str) -> None:
    with (
        pytest.raises(CheckpointError, match=f"'{name}' is a name of ours"),
        trainer(1).store.saving(10, 5) as path,
    ):
        (path / name).touch()


def test_the_manifest_follows_when_everything_else_is_on_disk(
    trainer, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut would take: names and data that nothing has put on disk yet."""
    volatile: set[str] = set()
    synced: set[int] = set()
    lost_at_publication: list[set[str]] = []
    mkdir, rename, replace, fsync = os.mkdir, os.rename, os.replace, os.fsync

    def noting_mkdir(path, *args, **kwargs) -> None:
        mkdir(path, *args, **kwargs)
        volatile.add(os.path.dirname(path))

    def noting_rename(source, target) -> None:
        rename(source, target)
        volatile.add(os.path.dirname(target))

    def noting_replace(source, target) -> None:
        if os.path.basename(target) == layout.MANIFEST:
            own = os.path.dirname(target)
            files = [path for path in pathlib.Path(own).rglob("*") if path.is_file()]
            lost = {str(path) for path in files if path.stat().st_ino not in synced}
            lost_at_publication.append(lost | volatile)
        replace(source, target)
        volatile.add(os.path.dirname(target))

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)
        volatile.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    running = trainer(1)
    with running.store.saving(10, 5) as path:
        (path / "shards" / "deep").mkdir(parents=True)
        (path / "shards" / "deep" / "0").write_text("shard")
        (path / "model").write_text("model")
        monkeypatch.setattr(os, "mkdir", noting_mkdir)
        monkeypatch.setattr(os, "rename", noting_rename)
        monkeypatch.setattr(os, "replace", noting_replace)
        monkeypatch.setattr(os, "fsync", noting_fsync)
    assert lost_at_publication == [set()]
    assert volatile == set()
    assert os.stat(checkpoints).st_ino not in synced  # its new name was safe before the block


@contextlib.contextmanager
def mounted(path: pathlib.Path, options: str) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_fails_the_save_and_nothing_else(trainer, checkpoints) -> None:
    with mounted(checkpoints, "size=1m"):
        running = trainer(1)
        running.save(10)
        message = r"saving step 20 failed: .*No space left.*; free space on the volume"

        def save_too_much() -> None:
            with running.store.saving(20, 5) as path:
                (path / "half").write_bytes(bytes(MEBIBYTE // 2))
                (path / "model").write_bytes(bytes(MEBIBYTE))

        for _ in range(2):  # the space of the failed save is given back
            with pytest.raises(CheckpointError, match=message) as caught:
                save_too_much()
            assert str(checkpoints) in caught.value.path
        running.save(30)
        assert names_in(checkpoints) == [
            "step-00000010.attempt-00001",
            "step-00000030.attempt-00001",
        ]
        assert trainer(2, (2, 1, 30)).restored() == (1, 30)


def test_a_limit_on_file_sizes_fails_the_save_and_nothing_else(trainer) -> None:
    running = trainer(1)
    running.save(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, hard))
    try:
        with (
            pytest.raises(CheckpointError, match="File too large; raise the file size limit"),
            running.store.saving(20, 5) as path,
        ):
            (path / "model").write_bytes(bytes(2 * MEBIBYTE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert trainer(2, (2, 1, 10)).restored() == (1, 10)


def test_a_read_only_volume_is_said_before_and_when_it_matters(trainer, checkpoints) -> None:
    with mounted(checkpoints, "ro"):
        assert layout.survey(str(checkpoints)).problem.startswith("not writable: ")
        with (
            pytest.raises(
                CheckpointError, match="Read-only file system; mount the volume writable"
            ),
            trainer(1).store.saving(10, 5),
        ):
            pytest.fail("the block must not be entered")


def test_a_directory_is_made_when_it_is_missing(trainer, checkpoints) -> None:
    checkpoints.rmdir()
    running = trainer(1)
    assert running.restored() is None
    running.save(10)
    assert layout.places(str(checkpoints)) == [Place(1, 10)]


def test_a_prune_that_fails_does_not_fail_the_save(
    trainer, checkpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = trainer()
    running.save(10, 20)

    def refuse(path, **_) -> None:
        raise PermissionError(13, "Permission denied", path)

    with running.store.saving(30, 5) as path:
        (path / "model").write_text("model 30")
        monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.undo()
    assert trainer().store.restore().step == 30
    assert "deleting old saves failed" in caplog.text


def test_a_link_is_not_taken_for_the_file_it_leads_to(trainer, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for target in (tmp_path / "elsewhere", tmp_path / "nothing"):
        with (
            pytest.raises(CheckpointError, match=r"it is a link.*; write the content itself"),
            trainer(1).store.saving(10, 5) as path,
        ):
            (path / "model").symlink_to(target)


@pytest.mark.parametrize("step", [-1, 10**15])
def test_a_step_that_no_name_can_tell_is_refused(trainer, checkpoints, step: int) -> None:
    with (
        pytest.raises(CheckpointError, match=f"step {step} is not between"),
        trainer(1).store.saving(step, 5),
    ):
        pytest.fail("the block must not be entered")
    assert names_in(checkpoints) == []


def test_names_that_are_not_utf_8_are_saved_and_restored(trainer, checkpoints) -> None:
    name = os.fsdecode(b"model-\xff")
    with trainer(1).store.saving(10, 5) as path:
        (path / name).write_text("x")
    restored = trainer(2, (2, 1, 10)).store.restore()
    assert (restored.path / name).read_text() == "x"
