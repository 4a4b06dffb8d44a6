"""The newest checkpoint of the lineage that is whole is restored, and nothing else."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

from goodput import checkpoint
from goodput.checkpoint import CheckpointError, layout
from goodput.checkpoint import store as store_module
from goodput.checkpoint.layout import Manifest, Place
from goodput.checkpoint.store import Store
from goodput.protocol import Ancestor
from goodput.session import Session


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def delete(path: pathlib.Path) -> None:
    path.unlink()


def lengthen(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes() + b"{}")


@pytest.mark.parametrize("damage", [flip, truncate, delete, lengthen])
@pytest.mark.parametrize("name", ["model", "shards/0", layout.MANIFEST])
def test_a_damaged_checkpoint_is_passed_over_for_the_next_older(
    trainer, agent, checkpoints: pathlib.Path, damage: Callable[[pathlib.Path], None], name: str
) -> None:
    trainer(1).save(10, 20)
    damage(checkpoints / Place(1, 20).name / name)
    agent.heard()
    assert trainer(2, (2, 1, 20)).restored() == (1, 10)
    end = agent.heard()[-1]
    assert end["kind"] == "restore_end"
    assert end["commit"] == {"attempt": 1, "step": 10}
    (problem,) = end["problems"]
    missing = damage is delete and name == layout.MANIFEST  # an unfinished save, to all appearance
    assert ("step 20: the restore point is not there" if missing else name) in problem


def test_what_ranks_note_beside_the_data_may_be_lost(trainer, checkpoints: pathlib.Path) -> None:
    trainer(1).save(10)
    (checkpoints / Place(1, 10).name / layout.part_name(0)).unlink()
    assert trainer(2, (2, 1, 10)).restored() == (1, 10)


def test_nothing_is_begun_anew_where_only_damaged_checkpoints_lie(
    trainer, checkpoints: pathlib.Path
) -> None:
    trainer(1).save(10, 20)
    for step in (10, 20):
        flip(checkpoints / Place(1, step).name / "model")
    with pytest.raises(CheckpointError, match=r"step-00000010.*checksum.*empty directory"):
        trainer(2, (2, 1, 20)).restored()


def test_a_restore_point_that_is_gone_is_not_passed_over_in_silence(trainer) -> None:
    with pytest.raises(CheckpointError, match="attempt 1 step 20: the restore point is not there"):
        trainer(2, (2, 1, 20)).restored()


def test_a_first_attempt_begins_from_nothing(trainer, agent) -> None:
    assert trainer(1).restored() is None
    assert [message["kind"] for message in agent.heard()] == [
        "hello",
        "restore_begin",
        "restore_end",
    ]


def test_what_a_zombie_commits_after_its_successor_opened_is_never_read(trainer) -> None:
    zombie = trainer(1)
    zombie.save(10)
    successor = trainer(2, (2, 1, 10))
    zombie.save(20)
    assert successor.restored() == (1, 10)
    zombie.save(30)
    successor.save(11)
    zombie.save(40)
    assert trainer(3, (3, 2, 11), (2, 1, 10)).restored() == (2, 11)


def test_an_ancestor_that_only_manifests_tell_of_counts(trainer, checkpoints) -> None:
    trainer(1).save(10)
    second = trainer(2, (2, 1, 10))
    second.restored()
    second.save(20)
    third = trainer(3, (3, 2, 20))
    third.restored()
    third.save(30)
    for attempt, step in [(3, 30), (2, 20)]:
        flip(checkpoints / Place(attempt, step).name / "model")
    applied_anew = trainer(9, (9, 3, 30))  # its operator knows one link only
    assert applied_anew.restored() == (1, 10)


def test_the_manifest_tells_what_was_really_restored(trainer, checkpoints) -> None:
    trainer(1).save(10, 20)
    flip(checkpoints / Place(1, 20).name / "model")
    second = trainer(2, (2, 1, 20))
    second.restored()
    second.save(21)
    manifest = layout.read_manifest(str(checkpoints), Place(2, 21))
    assert manifest.lineage == (Ancestor(2, 1, 10),)
    assert manifest.job_uid == "uid"


def test_processes_restarted_within_an_attempt_go_on_from_its_own(trainer) -> None:
    trainer(1).save(10)
    trainer(2, (2, 1, 10)).save(20)
    assert trainer(2, (2, 1, 10)).restored() == (2, 20)


def test_another_job_in_the_same_directory_is_noticed(trainer) -> None:
    trainer(1, job_uid="mine").save(10)
    with pytest.raises(CheckpointError, match="of another job"):
        trainer(1, job_uid="yours").restored()


def test_a_manifest_in_the_wrong_directory_is_not_believed(trainer, checkpoints) -> None:
    trainer(1).save(10, 20)
    shutil.copytree(checkpoints / Place(1, 20).name, checkpoints / Place(1, 30).name)
    assert trainer(2, (2, 1, 30)).restored() == (1, 20)


def test_a_manifest_that_leads_out_of_its_directory_is_not_followed(trainer, checkpoints) -> None:
    trainer(1).save(10, 20)
    path = checkpoints / Place(1, 20).name / layout.MANIFEST
    secret = layout.File("../../run/secret", 0, "crc32:00000000")
    path.write_bytes(layout.seal(Manifest(1, 20, 1, (secret,))))
    assert trainer(2, (2, 1, 20)).restored() == (1, 10)


def test_a_damaged_lineage_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, checkpoints: pathlib.Path
) -> None:
    monkeypatch.setenv("GOODPUT_CHECKPOINT_DIR", str(checkpoints))
    monkeypatch.setenv("GOODPUT_LINEAGE", json.dumps([{"attempt": 2}]))
    with pytest.raises(CheckpointError, match="GOODPUT_LINEAGE"):
        checkpoint.restore()


def test_somebody_must_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOODPUT_CHECKPOINT_DIR", raising=False)
    with pytest.raises(CheckpointError, match=r"spec\.checkpoint\.directory"):
        checkpoint.restore()


def test_many_problems_fit_into_one_datagram(trainer, agent, checkpoints) -> None:
    first = trainer(1)
    first.save(*range(1, 41))
    for step in range(2, 41):
        flip(checkpoints / Place(1, step).name / "model")
    agent.heard()
    assert trainer(2, (2, 1, 40)).restored() == (1, 1)
    assert len(agent.heard()[-1]["problems"]) == 4


def test_on_a_laptop_each_run_goes_on_from_the_newest(trainer) -> None:
    first = trainer()
    assert first.restored() is None
    first.save(10, 20)
    second = trainer()
    assert second.restored() == (1, 20)
    second.save(30)
    assert trainer().restored() == (2, 30)


def rank(checkpoints: pathlib.Path, number: int, attempt: int, *links: tuple[int, int, int]):
    """One of two ranks that cannot talk, and what it tells its agent."""
    environ = {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "GOODPUT_JOB_UID": "uid",
        "GOODPUT_ATTEMPT": str(attempt),
        "GOODPUT_LINEAGE": json.dumps([Ancestor(*link).to_dict() for link in links]),
    }
    session = Session(environ)
    said: list[dict[str, object]] = []
    session.say = lambda kind, at=None, **what: said.append({"kind": kind, **what})
    return Store(str(checkpoints), environ, session, patience_seconds=0), said


def test_ranks_that_cannot_talk_all_take_what_was_named_or_give_up(trainer, checkpoints) -> None:
    trainer(1).save(10, 20)
    good, _ = rank(checkpoints, 0, 2, (2, 1, 20))
    assert good.restore().step == 20
    flip(checkpoints / Place(1, 20).name / "model")
    bad, said = rank(checkpoints, 1, 2, (2, 1, 20))
    with pytest.raises(CheckpointError, match="the next goes on from attempt 1 step 10"):
        bad.restore()
    assert said[-1]["commit"] == {"attempt": 1, "step": 10}
    assert said[-1]["apart"] is True
    again, said = rank(checkpoints, 1, 3, (3, 1, 10))
    assert again.restore().step == 10
    assert said[-1]["apart"] is False


def test_ranks_that_cannot_talk_do_not_go_on_within_an_attempt(trainer, checkpoints) -> None:
    trainer(2, (2, 1, 10)).save(20)
    restarted, said = rank(checkpoints, 0, 2, (2, 1, 10))
    with pytest.raises(CheckpointError, match=r"restarted within attempt 2.*GOODPUT_ATTEMPT"):
        restarted.restore()
    assert said[-1]["apart"] is False


def test_what_ranks_have_made_from_different_states_is_not_published(trainer, checkpoints) -> None:
    trainer(1).save(10, 20)
    ranks = [rank(checkpoints, 1, 2, (2, 1, 10))[0], rank(checkpoints, 0, 2, (2, 1, 20))[0]]
    for store in ranks:
        store.restore()
    with ranks[0].saving(30, timeout_seconds=1) as path:
        (path / "a").write_text("a")
    with (
        pytest.raises(
            CheckpointError, match="rank 0 from attempt 1 step 20, rank 1 from attempt 1"
        ),
        ranks[1].saving(30, timeout_seconds=1) as path,
    ):
        (path / "b").write_text("b")
    assert trainer(3, (3, 1, 20)).restored() == (1, 20)


class LateDirectory:
    """A host that sees the newest save only when it has waited for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_named_checkpoint_that_is_seen_late_is_waited_for(
    trainer, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(1).save(10, 20)
    newest = checkpoints / Place(1, 20).name
    hidden = checkpoints / "hidden"
    newest.rename(hidden)
    late = LateDirectory()
    monkeypatch.setattr(store_module, "time", late)
    waiting, _ = rank(checkpoints, 0, 2, (2, 1, 20))
    waiting._patience_seconds = 75.0
    sleep = late.sleep

    def appear(seconds: float) -> None:
        sleep(seconds)
        if late.seconds > 60 and hidden.exists():
            hidden.rename(newest)

    late.sleep = appear
    assert waiting.restore().step == 20
    assert 60 < late.seconds < 75


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(layout.File("model\0", 0, "crc32:00000000"), id="a name that no file has"),
        pytest.param(layout.File("model", -1, "crc32:00000000"), id="a negative size"),
        pytest.param(layout.File("model", 2**52, "crc32:00000000"), id="an immense size"),
        pytest.param(layout.File("/etc/passwd", 1, "crc32:00000000"), id="an absolute path"),
        pytest.param(layout.File("x" * 5000, 1, "crc32:00000000"), id="a name too long"),
        pytest.param(layout.File("\udcff", 1, "crc32:00000000"), id="not UTF-8"),
    ],
)
def test_a_manifest_that_names_nonsense_is_passed_over(
    trainer, checkpoints, file, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")  # a name that is no UTF-8 would not go into pytest's own report
    trainer(1).save(10, 20)
    path = checkpoints / Place(1, 20).name / layout.MANIFEST
    path.write_bytes(layout.seal(Manifest(1, 20, 1, (file,))))
    assert trainer(2, (2, 1, 20)).restored() == (1, 10)


def test_a_manifest_that_cannot_be_looked_at_is_not_taken_for_a_missing_one(
    trainer, checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(1).save(10, 20)
    stat = os.stat

    def fail(path, **how):
        if str(path).endswith(layout.MANIFEST):
            raise OSError(5, "Input/output error", str(path))
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", fail)
    assert trainer(2, (2, 1, 20)).restored() == (1, 20)
