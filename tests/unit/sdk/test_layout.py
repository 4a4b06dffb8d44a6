"""Names and manifests can be read back, and nothing else is taken for them."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput.checkpoint import layout
from goodput.checkpoint.layout import CorruptError, File, Manifest, Place
from goodput.protocol import Ancestor, Commit, Disk

NUMBERS = st.integers(0, 10**15 - 1)
PLACES = st.builds(Place, attempt=NUMBERS, step=NUMBERS, retry=NUMBERS)
MANIFEST = Manifest(
    attempt=3,
    step=1200,
    world_size=2,
    files=(File("a/b", 7, "crc32:00000000"), File("\udc80ü", 0, "crc32:00000001")),
    lineage=(Ancestor(3, 2, 1000), Ancestor(2, 1, 10)),
    job_uid="f00",
    created_at="2026-01-01T00:00:00+00:00",
)


@given(PLACES)
def test_a_name_tells_its_place(place: Place) -> None:
    assert Place.parse(place.name) == place


@given(st.text() | st.from_regex(r"step-\d+\.attempt-\d+(\.retry-\d+)?"))
def test_a_name_is_ours_only_if_we_would_write_it(name: str) -> None:
    place = Place.parse(name)
    assert place is None or place.name == name


@pytest.mark.parametrize(
    "name",
    [
        "step-1200.attempt-3",
        "step-00001200",
        "step-00001200.attempt-00003.bak",
        "step-00001200.attempt-00003.retry-00000",
        "step-000001200.attempt-00003",
        "lost+found",
    ],
)
def test_foreign_names_are_left_alone(name: str) -> None:
    assert Place.parse(name) is None


def test_names_in_order_are_steps_in_order() -> None:
    steps = [9, 10, 99_999, 100_000, 12_345_678]
    assert [Place(1, step).name for step in steps] == sorted(Place(1, step).name for step in steps)


def test_a_manifest_can_be_read_back() -> None:
    assert layout.unseal(Manifest, layout.seal(MANIFEST)) == MANIFEST


@given(st.data())
def test_a_damaged_manifest_is_never_believed(data: st.DataObject) -> None:
    text = bytearray(layout.seal(MANIFEST))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= data.draw(st.integers(1, 255))
    try:
        read = layout.unseal(Manifest, bytes(text))
    except CorruptError:
        return
    assert read == MANIFEST  # only white space was hit


@given(st.integers(0, len(layout.seal(MANIFEST)) - 3))
def test_a_torn_manifest_is_never_believed(length: int) -> None:
    with pytest.raises(CorruptError):
        layout.unseal(Manifest, layout.seal(MANIFEST)[:length])


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (Manifest(attempt=4, step=1200, world_size=1), "attempt 4 step 1200"),
        (Manifest(attempt=3, step=1300, world_size=1), "attempt 3 step 1300"),
        (Manifest(3, 1200, 1, (File("../../etc/passwd", 1, ""),)), "etc/passwd"),
        (Manifest(3, 1200, 1, (File("/etc/passwd", 1, ""),)), "etc/passwd"),
        (Manifest(3, 1200, 1, (File("model", -1, ""),)), "-1 bytes"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    checkpoints: pathlib.Path, manifest: Manifest, reason: str
) -> None:
    publish(checkpoints, Place(3, 1200), manifest)
    with pytest.raises(CorruptError, match=reason):
        layout.read_manifest(str(checkpoints), Place(3, 1200))


def test_a_manifest_of_a_newer_version_is_refused(checkpoints: pathlib.Path) -> None:
    publish(checkpoints, Place(3, 1200), MANIFEST)
    path = checkpoints / Place(3, 1200).name / layout.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(CorruptError, match="version 2, this code reads 1"):
        layout.read_manifest(str(checkpoints), Place(3, 1200))


def test_a_survey_finds_the_newest_commit_and_the_highest_number(
    checkpoints: pathlib.Path,
) -> None:
    for attempt, step in [(2, 900), (3, 100), (3, 200)]:
        publish(checkpoints, Place(attempt, step), Manifest(attempt, step, 1))
    (checkpoints / Place(5, 210).name).mkdir()  # unfinished: its number is used up all the same
    (checkpoints / "step-00000001.attempt-99999.old").mkdir()
    publish(checkpoints, Place(4, 205), Manifest(1, 1, 1))  # cannot be gone on from
    assert layout.survey(str(checkpoints)) == Disk(5, Commit(3, 200))


def test_a_survey_of_nothing_finds_nothing(tmp_path: pathlib.Path) -> None:
    assert layout.survey(str(tmp_path)) == Disk()
    assert layout.survey(str(tmp_path / "to be made")) == Disk()


def test_a_survey_says_why_a_directory_cannot_be_used(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    missing = str(tmp_path / "not" / "mounted")
    assert layout.survey(missing).problem == f"no such directory: mount a volume at {missing}"
    assert layout.survey(str(tmp_path / "file")).problem == f"not a directory: {tmp_path}/file"


def publish(directory: pathlib.Path, place: Place, manifest: Manifest) -> None:
    (directory / place.name).mkdir()
    (directory / place.name / layout.MANIFEST).write_bytes(layout.seal(manifest))
