"""Where a checkpoint lies in its directory, and what its manifest says.

```
/checkpoints/
  step-00001200.attempt-00003/       one save: never written again, never shared by attempts
    model.pt  shard/0.bin  ...       the data, as the trainer named it
    .rank-00002/                     what rank 2 is still writing
    rank-00002.json                  `Part`: rank 2 has written and fsynced its files
    manifest.json                    `Manifest`: published, by rename, after everything else
  step-00001200.attempt-00003.retry-00001/      the same step saved again
```

A directory without a manifest is unfinished. Names that this module would not have written
belong to somebody else: nothing here reads, counts or deletes them. The names are plain
numbers in fixed width, so that `ls` shows them in order.

Used by the SDK, and by the agent, which reports `survey` before the first attempt. Reads
directories and manifests, writes nothing.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple, Type, TypeVar

from goodput.protocol import Ancestor, Commit, Disk, Message, ProtocolError

MANIFEST = "manifest.json"
VERSION = 1
LINEAGE_LIMIT = 64
"""Links that a manifest remembers, newest first: older ancestors are pruned long before."""

NOTHING = Commit(attempt=0, step=0)
"""What a rank has restored that began from nothing."""

STEP_LIMIT = 10**15
"""Steps are below this: the names have so many digits."""

_NAME = re.compile(r"step-([0-9]{8,15})\.attempt-([0-9]{5,15})(?:\.retry-([0-9]{5,15}))?")
_PART_NAME = re.compile(r"rank-[0-9]{5,}\.json")

S = TypeVar("S", bound=Message)


class CorruptError(ValueError):
    """A manifest, or a file that it names, is not what was written."""


@dataclass(frozen=True, order=True)
class Place:
    """The directory of one save. The order is that of the training: attempt, then step.

    Attributes:
        retry: counts the saves of the same step in the same attempt, from 0.
    """

    attempt: int
    step: int
    retry: int = 0

    @property
    def name(self) -> str:
        """The directory's name."""
        name = "step-{:08d}.attempt-{:05d}".format(self.step, self.attempt)
        return name + (".retry-{:05d}".format(self.retry) if self.retry else "")

    @property
    def commit(self) -> Commit:
        """The checkpoint in the operator's words."""
        return Commit(attempt=self.attempt, step=self.step)

    @classmethod
    def parse(cls, name: str) -> Optional["Place"]:
        """Return the place that `name` names, None when the name is not one of ours."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        step, attempt, retry = (int(group or 0) for group in match.groups())
        place = cls(attempt=attempt, step=step, retry=retry)
        return place if place.name == name else None


@dataclass(frozen=True)
class File(Message):
    """A data file of a checkpoint.

    Attributes:
        name: relative to the directory of the save, with `/` between its parts.
        checksum: `algorithm:value`, see `checksum`.
    """

    name: str
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Part(Message):
    """What one rank says when its files of a save are safe.

    Attributes:
        restored: what the rank's state was made from, `NOTHING` when it began anew, None when
            it never asked.
        problem: why they are not, and the save has failed; empty when they are.
    """

    attempt: int
    step: int
    rank: int
    world_size: int
    files: Tuple[File, ...] = ()
    restored: Optional[Commit] = None
    problem: str = ""

    _nested: ClassVar[Mapping[str, Type[Message]]] = {"restored": Commit}
    _nested_lists: ClassVar[Mapping[str, Type[Message]]] = {"files": File}


@dataclass(frozen=True)
class Manifest(Message):
    """What makes a save a checkpoint: it is complete, and this is what it consists of.

    Attributes:
        lineage: what the state was made from, newest first, own link first: at most
            `LINEAGE_LIMIT` links. Tells the ancestors of a job that was applied anew over
            the directory, whose operator knows one link only.
        job_uid: of the TrainingJob, empty outside a cluster.
        created_at: UTC, for people; nothing depends on it.
    """

    attempt: int
    step: int
    world_size: int
    files: Tuple[File, ...] = ()
    lineage: Tuple[Ancestor, ...] = ()
    job_uid: str = ""
    created_at: str = ""

    _nested_lists: ClassVar[Mapping[str, Type[Message]]] = {"files": File, "lineage": Ancestor}


def part_name(rank: int) -> str:
    """The name of a rank's `Part`."""
    return "rank-{:05d}.json".format(rank)


def staging_name(rank: int) -> str:
    """The name of the directory into which a rank writes before its files are safe."""
    return ".rank-{:05d}".format(rank)


def reserved(name: str) -> bool:
    """Whether a data file must not have this name."""
    return name == MANIFEST or _PART_NAME.fullmatch(name) is not None


def seal(message: Message) -> bytes:
    """Return the JSON text of a manifest or part, with a checksum over its content."""
    body: Dict[str, Any] = {"version": VERSION, **message.to_dict()}
    body["checksum"] = _checksum_of(body)
    return (json.dumps(body, indent=1) + "\n").encode("ascii")


def unseal(kind: Type[S], text: bytes) -> S:
    """Read what `seal` wrote.

    Raises:
        CorruptError: it is damaged, or of a version that this code does not know.
    """
    try:
        body = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CorruptError("not JSON") from error
    if not isinstance(body, dict):
        raise CorruptError("not a JSON object")
    if body.get("version") != VERSION:
        raise CorruptError("version {!r}, this code reads {}".format(body.get("version"), VERSION))
    if body.pop("checksum", None) != _checksum_of(body):
        raise CorruptError("its own checksum does not match")
    try:
        return kind.from_dict(body)
    except ProtocolError as error:
        raise CorruptError(str(error)) from error


def places(directory: str) -> List[Place]:
    """Return all saves in `directory`, published or not, newest first.

    A directory that does not exist holds none. Raises OSError when it cannot be listed.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = (Place.parse(name) for name in names)
    return sorted((place for place in found if place is not None), reverse=True)


def published(directory: str, place: Place) -> bool:
    """Whether the save has a manifest, good or bad. Raises OSError when that cannot be told."""
    try:
        os.stat(os.path.join(directory, place.name, MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_manifest(directory: str, place: Place) -> Manifest:
    """Read the manifest of a published save.

    Raises:
        CorruptError: it is damaged, or describes another save than its directory's name.
        OSError: it cannot be read.
    """
    with open(os.path.join(directory, place.name, MANIFEST), "rb") as file:
        manifest = unseal(Manifest, file.read())
    if (manifest.attempt, manifest.step) != (place.attempt, place.step):
        raise CorruptError("it describes attempt {0.attempt} step {0.step}".format(manifest))
    for item in manifest.files:
        parts = item.name.split("/")
        if item.bytes < 0 or "\0" in item.name or not {"", ".", ".."}.isdisjoint(parts):
            raise CorruptError("it names {!r} of {} bytes".format(item.name, item.bytes))
    return manifest


def survey(directory: str) -> Disk:
    """Say what lies in a checkpoint directory: what an agent reports when it starts.

    Unfinished data counts for the highest attempt, so that no number is ever given twice.
    A directory that does not exist yet is fine when it can be made in its parent.
    """
    problem = _problem(directory)
    try:
        found = places(directory)
    except OSError as error:
        return Disk(problem=problem or "not readable: {}".format(error.strerror))
    return Disk(
        highest_attempt=max((place.attempt for place in found), default=0),
        newest=next(_readable(directory, found), None),
        problem=problem,
    )


def _readable(directory: str, found: List[Place]) -> Iterator[Commit]:
    for place in found:
        try:
            read_manifest(directory, place)
        except (OSError, CorruptError):
            continue
        yield place.commit


def _problem(directory: str) -> str:
    path = directory
    if not os.path.lexists(path):
        path = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(path):
            return "no such directory: mount a volume at {}".format(directory)
    if not os.path.isdir(path):
        return "not a directory: {}".format(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return "not writable: {} for uid {}".format(path, os.getuid())
    return ""


def checksum(path: str) -> str:
    """Return the checksum of a file's content: `crc32:` and eight hexadecimal digits.

    CRC-32 (as in zip and PNG) guards against accident, not against forgery. It was chosen
    for its speed: a save stalls the training, and it takes half the time of SHA-256.
    """
    value = 0
    with open(path, "rb", buffering=0) as file:
        block = file.read(_BLOCK_BYTES)
        while block:
            value = zlib.crc32(block, value)
            block = file.read(_BLOCK_BYTES)
    return _crc32(value)


_BLOCK_BYTES = 1 << 20


def _checksum_of(body: Dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return _crc32(zlib.crc32(text.encode("ascii")))


def _crc32(value: int) -> str:
    return "crc32:{:08x}".format(value)
