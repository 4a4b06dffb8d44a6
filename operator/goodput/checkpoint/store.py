"""A checkpoint directory as one training process uses it: save, restore, prune.

The order of the writes is the whole of the safety. A save goes to a directory of its own; a
rank writes into a staging directory there, then checksums, fsyncs and moves its files, then
leaves its `Part`; when all parts are there rank 0 writes the manifest, by rename, last. Killed
at any point, a process leaves a save without a manifest, and the older ones untouched. A
delete goes the other way round.
"""

import contextlib
import datetime
import errno
import itertools
import json
import logging
import operator
import os
import pathlib
import shutil
import sys
import time
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple, TypeVar

from goodput import protocol
from goodput.checkpoint import files, group, layout, prune
from goodput.checkpoint.errors import CheckpointError
from goodput.checkpoint.group import Group
from goodput.checkpoint.layout import CorruptError, Manifest, Part, Place
from goodput.checkpoint.lineage import Lineage, links_after
from goodput.protocol import Ancestor, Commit, ProtocolError
from goodput.session import CHECKPOINT, Session

T = TypeVar("T")

log = logging.getLogger("goodput.checkpoint")

_LONGEST_POLL_SECONDS = 0.25
_PROBLEMS_SAID = 4
_PROBLEM_CHARACTERS = 400
_MAY_PASS = (errno.ENOENT, errno.ESTALE, errno.EIO)
"""What a shared file system says of that which another host has just written, or in trouble."""
PATIENCE_SECONDS = 75.0
"""How long a restore waits for such an error to pass: NFS keeps names for 60 s."""


@dataclass(frozen=True)
class Restored:
    """The checkpoint to go on from.

    Attributes:
        step: the last step that is in it; training goes on with the next.
        attempt: the attempt that saved it.
        path: the directory with the files of all its ranks, to be read only.
        world_size: how many ranks have saved it.
    """

    step: int
    attempt: int
    path: pathlib.Path
    world_size: int = 1


@dataclass(frozen=True)
class Offer:
    """A save that might be restored; without a manifest, only a problem to note."""

    place: Optional[Place] = None
    manifest: Optional[Manifest] = None
    problem: str = ""


class Store:
    """One directory, one process, one attempt."""

    def __init__(
        self,
        directory: str,
        environ: Mapping[str, str],
        told: Session,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.directory = directory
        self._patience_seconds = patience_seconds
        self._told = told
        self._managed = told.attempt is not None
        self._attempt = told.attempt
        self._job_uid = environ.get(protocol.ENV_JOB_UID, "")
        self._links = _links(environ.get(protocol.ENV_LINEAGE, ""))
        keep = environ.get(protocol.ENV_CHECKPOINT_KEEP, "")
        self._keep = int(keep) if keep.isdigit() else prune.MINIMUM_KEPT
        agent = environ.get(protocol.ENV_AGENT, "")
        self._state_path = agent and os.path.join(os.path.dirname(agent), protocol.STATE_FILE)
        self._restored: Optional[Manifest] = None
        self._origin: Optional[Commit] = None
        self._patient_until = 0.0
        self._saves: Dict[int, int] = {}

    # --- save

    @contextlib.contextmanager
    def saving(self, step: int, timeout_seconds: float) -> Iterator[pathlib.Path]:
        """See `goodput.checkpoint.saving`; for so long training stands still."""
        try:
            with self._told.stalled(CHECKPOINT), self._saving(step, timeout_seconds) as path:
                yield path
        finally:
            self._told.say_stalls()

    @contextlib.contextmanager
    def _saving(self, step: int, timeout_seconds: float) -> Iterator[pathlib.Path]:
        step = _checked(step)
        finished_at = self._told.finished_at(step)
        ranks = group.current(self._told)
        place = self._open(step, ranks)
        path = os.path.join(self.directory, place.name)
        staging = os.path.join(path, layout.staging_name(ranks.rank))
        try:
            try:
                if ranks.talks and ranks.rank:  # this host may not see yet what rank 0 has made
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(path)
                os.mkdir(staging)
                yield pathlib.Path(staging)
                self._secure(place, staging, ranks)
            except OSError as error:
                raise CheckpointError.of(error, "saving step {}".format(step), path) from error
        except Exception as error:
            self._abandon(place, ranks, str(error) or type(error).__name__)
            raise
        problems = _said(ranks.gather(""))
        if problems:
            self._sweep(place, ranks)
            raise CheckpointError("saving step {} failed: {}".format(step, problems), path)
        ranks.share(lambda: self._publish(place, ranks, timeout_seconds))
        if ranks.rank == 0:
            stalls = self._told.stalls_since(step)
            self._told.say("commit", step=step, step_at=finished_at, **stalls)
            self._prune(place)
            self._told.rest_after_save(step)

    def _open(self, step: int, ranks: Group) -> Place:
        attempt = self._own_attempt(ranks)
        if ranks.talks or ranks.size == 1:
            return ranks.share(lambda: self._fresh(attempt, step))
        # Ranks that cannot talk count alike, because all of them make the same saves.
        retry = self._saves.get(step, 0)
        self._saves[step] = retry + 1
        place = Place(attempt, step, retry)
        path = os.path.join(self.directory, place.name)
        part = os.path.join(path, layout.part_name(ranks.rank))
        try:
            files.make_directories(path)
            if os.path.exists(part):  # an earlier process of this attempt: never mix the two
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), part)
        except OSError as error:
            raise CheckpointError.of(error, "saving step {}".format(step), path) from error
        return place

    def _fresh(self, attempt: int, step: int) -> Place:
        try:
            files.make_directories(self.directory)
            for retry in itertools.count():
                place = Place(attempt, step, retry)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.join(self.directory, place.name))
                    break
            files.sync_directory(self.directory)
        except OSError as error:
            doing = "saving step {}".format(step)
            raise CheckpointError.of(error, doing, self.directory) from error
        return place

    def _own_attempt(self, ranks: Group) -> int:
        """Outside a cluster every run is an attempt of its own, above all found on disk."""
        if self._attempt is None:
            if ranks.size > 1 and not ranks.talks:
                raise CheckpointError(
                    "several ranks and nobody to number their runs: initialise torch.distributed "
                    "first, or set {} to a number that grows with each start".format(
                        protocol.ENV_ATTEMPT
                    )
                )
            self._attempt = ranks.share(lambda: self._highest_attempt() + 1)
        return self._attempt

    def _highest_attempt(self) -> int:
        try:
            return max((place.attempt for place in layout.places(self.directory)), default=0)
        except OSError as error:
            raise CheckpointError.of(error, "reading checkpoints", self.directory) from error

    def _secure(self, place: Place, staging: str, ranks: Group) -> None:
        path = os.path.dirname(staging)
        for name in os.listdir(staging):
            if layout.reserved(name):
                raise CheckpointError("{!r} is a name of ours: choose another".format(name), path)
        moved = files.move_in(staging, path)
        part = Part(place.attempt, place.step, ranks.rank, ranks.size, moved, self._origin)
        files.write(os.path.join(path, layout.part_name(ranks.rank)), layout.seal(part))

    def _abandon(self, place: Place, ranks: Group, problem: str) -> None:
        """Tell the other ranks that this save has failed, and free its space."""
        path = os.path.join(self.directory, place.name)
        shutil.rmtree(os.path.join(path, layout.staging_name(ranks.rank)), ignore_errors=True)
        if ranks.rank != 0 and not ranks.talks:
            part = Part(place.attempt, place.step, ranks.rank, ranks.size, problem=problem)
            with contextlib.suppress(OSError):  # rank 0 then learns it by its own time-out
                files.write(os.path.join(path, layout.part_name(ranks.rank)), layout.seal(part))
        ranks.gather("rank {}: {}".format(ranks.rank, problem))
        self._sweep(place, ranks)

    def _sweep(self, place: Place, ranks: Group) -> None:
        with contextlib.suppress(OSError):  # what may be published stays
            if ranks.rank == 0 and not layout.published(self.directory, place):
                shutil.rmtree(os.path.join(self.directory, place.name), ignore_errors=True)

    def _publish(self, place: Place, ranks: Group, timeout_seconds: float) -> None:
        if ranks.rank != 0:
            return
        path = os.path.join(self.directory, place.name)
        try:
            parts = _await_parts(path, place, ranks.size, timeout_seconds)
            _compare_origins(parts, path)
            manifest = Manifest(
                attempt=place.attempt,
                step=place.step,
                world_size=ranks.size,
                files=_all_files(parts, path),
                lineage=self._lineage_links(place.attempt),
                job_uid=self._job_uid,
                created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
            )
            files.write(os.path.join(path, layout.MANIFEST), layout.seal(manifest))
        except OSError as error:
            self._sweep(place, ranks)
            doing = "publishing step {}".format(place.step)
            raise CheckpointError.of(error, doing, path) from error
        except CheckpointError:
            self._sweep(place, ranks)
            raise

    def _lineage_links(self, attempt: int) -> Tuple[Ancestor, ...]:
        return self._links if self._restored is None else links_after(attempt, self._restored)

    # --- prune

    def _prune(self, newest: Place) -> None:
        durable = self._durable() if self._managed else newest.commit
        if durable is None:
            return
        lineage = self._lineage(newest.attempt)
        lineage.learn(self._lineage_links(newest.attempt))
        restored = self._restored
        in_use = Commit(restored.attempt, restored.step) if restored else None
        try:
            found = [
                prune.Found(place, files.is_good(self.directory, place))
                for place in layout.places(self.directory)
            ]
            for place in prune.doomed(
                found,
                lineage=lineage,
                attempt=newest.attempt,
                durable=durable,
                keep=self._keep,
                in_use=in_use,
            ):
                files.delete(self.directory, place)
        except OSError as error:  # the checkpoint itself is safe: a full disk will say the rest
            log.warning("%s", CheckpointError.of(error, "deleting old saves", self.directory))

    def _durable(self) -> Optional[Commit]:
        """Return the newest commit that the operator has acknowledged to this attempt."""
        try:
            with open(self._state_path, "rb") as file:
                state = json.loads(file.read())
            if state["attempt"] != self._attempt or state["durable"] is None:
                return None
            return Commit.from_dict(state["durable"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no agent, or none that has heard anything: nothing may be deleted

    # --- restore

    def restore(self) -> Optional[Restored]:
        """See `goodput.checkpoint.restore`."""
        self._told.say("restore_begin")
        self._patient_until = time.monotonic() + (self._patience_seconds if self._managed else 0)
        problems: List[str] = []
        chosen: Optional[Manifest] = None
        refusal = ""
        apart = False
        path = self.directory
        try:
            ranks = group.current(self._told)
            attempt = self._own_attempt(ranks)
            for offer in _led(self._offers(attempt), ranks):
                found = self._problems(offer, ranks)
                if not found and offer.place is not None:
                    chosen, path = offer.manifest, os.path.join(path, offer.place.name)
                    break
                problems.extend(found)
            if chosen is not None and ranks.size > 1 and not ranks.talks:
                refusal, apart = self._refusal(chosen, attempt, problems)
        finally:
            commit = chosen and Commit(chosen.attempt, chosen.step).to_dict()
            said = [problem[:_PROBLEM_CHARACTERS] for problem in problems[:_PROBLEMS_SAID]]
            self._told.say("restore_end", commit=commit, problems=said, apart=apart)
        for problem in problems if ranks.rank == 0 else []:
            log.warning("checkpoint passed over: %s", problem)
        if chosen is None and problems:
            raise CheckpointError(
                "no checkpoint in {} can be restored: {}; to begin from nothing, give the job an "
                "empty directory".format(self.directory, "; ".join(problems)),
                self.directory,
            )
        if refusal:
            raise CheckpointError(refusal, self.directory)
        self._origin = layout.NOTHING
        if chosen is None:
            return None
        self._origin = Commit(chosen.attempt, chosen.step)
        self._restored = chosen
        return Restored(chosen.step, chosen.attempt, pathlib.Path(path), chosen.world_size)

    def _refusal(self, chosen: Manifest, attempt: int, problems: List[str]) -> Tuple[str, bool]:
        """Say why this rank must not go on from `chosen`, and whether others may go on elsewhere.

        Ranks that cannot talk all take what the operator named, or give up: one that fell back
        by itself, because it alone cannot read, would train from another state than the rest.
        """
        own = self._named(attempt)
        if chosen.attempt == attempt:
            return (
                "the processes were restarted within attempt {}, which has saved already, and "
                "without torch.distributed they cannot agree on one checkpoint: initialise it "
                "before the restore, or give each start an attempt of its own ({})".format(
                    attempt, protocol.ENV_ATTEMPT
                ),
                False,
            )
        if own is not None and (chosen.attempt, chosen.step) == (own.attempt, own.step):
            return "", False
        return (
            "{}: not every rank may see that, and without torch.distributed they cannot agree: "
            "this attempt ends, so that the next goes on from {}. With torch.distributed "
            "initialised before the restore no restart is needed".format(
                "; ".join(problems), _named_text(Commit(chosen.attempt, chosen.step))
            ),
            True,
        )

    def _offers(self, attempt: int) -> Iterator[Offer]:
        """Yield the published saves of the lineage, newest first.

        Each manifest may make known further ancestors, whose saves then follow.
        """
        lineage = self._lineage(attempt)
        seen: Set[Place] = set()
        named = self._named(attempt)
        if named:
            self._await(named)
        for place in iter(lambda: self._next(lineage, seen), None):
            seen.add(place)
            if named and place <= named:
                if place.commit != named.commit:
                    yield _missing(named)
                named = None
            try:
                manifest = self._manifest(place)
            except (CorruptError, OSError) as error:
                name = "{}/{}".format(place.name, layout.MANIFEST)
                reason = error.strerror if isinstance(error, OSError) else error
                yield Offer(problem="{}: {}".format(name, reason))
                continue
            lineage.learn(manifest.lineage)
            if place.attempt == attempt and manifest.job_uid != self._job_uid:
                yield Offer(problem="{}: of another job in this directory".format(place.name))
                continue
            yield Offer(place, manifest)
        if named:
            yield _missing(named)

    def _named(self, attempt: int) -> Optional[Place]:
        """Return the restore point that the operator named, as its newest possible retry."""
        own = self._links[0] if self._links else None
        if own is None or own.attempt != attempt:
            return None
        return Place(own.origin, own.step, sys.maxsize)

    def _lineage(self, attempt: int) -> Lineage:
        return Lineage(attempt if self._managed else None, self._links)

    def _next(self, lineage: Lineage, seen: Set[Place]) -> Optional[Place]:
        try:
            places = self._patiently(lambda: layout.places(self.directory))
        except OSError as error:
            raise CheckpointError.of(error, "reading checkpoints", self.directory) from error
        for place in places:
            if place in seen or not lineage.holds(place):
                continue
            with contextlib.suppress(OSError):  # then reading it will say what is wrong
                if not layout.published(self.directory, place):
                    continue
            return place
        return None

    def _problems(self, offer: Offer, ranks: Group) -> List[str]:
        """Check a save, the ranks that can talk sharing the reading."""
        if offer.place is None or offer.manifest is None:
            return [offer.problem]
        problem = ""
        for number, file in enumerate(offer.manifest.files):
            deep = not ranks.talks or number % ranks.size == ranks.rank
            problem = self._problem_with(offer.place, file, deep)
            if problem:
                break
        return _unique(ranks.gather(problem))

    def _manifest(self, place: Place) -> Manifest:
        return self._patiently(lambda: layout.read_manifest(self.directory, place))

    def _problem_with(self, place: Place, file: layout.File, deep: bool) -> str:
        try:
            problem = self._patiently(lambda: files.problem_with(self.directory, place, file, deep))
        except OSError as error:
            problem = error.strerror or type(error).__name__
        return problem and "{}/{}: {}".format(place.name, file.name, problem)

    def _await(self, named: Place) -> None:
        """Wait until the checkpoint that the operator named is to be seen here."""

        def look() -> None:
            for place in layout.places(self.directory):
                if place.commit == named.commit and layout.published(self.directory, place):
                    return
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

        with contextlib.suppress(OSError):  # the walk over the saves will say it
            self._patiently(look)

    def _patiently(self, look: Callable[[], T]) -> T:
        """Look again, for a time, where a shared file system may not show everything yet."""
        pause_seconds = 0.05
        while True:
            try:
                return look()
            except OSError as error:
                if error.errno not in _MAY_PASS or time.monotonic() >= self._patient_until:
                    raise
            time.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _LONGEST_POLL_SECONDS)


def _missing(named: Place) -> Offer:
    text = "attempt {0.attempt} step {0.step}: the restore point is not there"
    return Offer(problem=text.format(named))


def _led(offers: Iterator[Offer], ranks: Group) -> Iterator[Offer]:
    """Let all ranks that can talk see what rank 0 finds, step by step."""
    while True:
        offer = ranks.share(lambda: next(offers, None))
        if offer is None:
            return
        yield offer


def _await_parts(path: str, place: Place, world_size: int, timeout_seconds: float) -> List[Part]:
    """Wait until every rank has left its part; without torch.distributed this is the barrier.

    Raises:
        CheckpointError: a rank has failed, or not come within `timeout_seconds`.
        OSError: the parts cannot be read.
    """
    deadline = time.monotonic() + timeout_seconds
    parts: Dict[int, Part] = {}
    poll_seconds = 0.001
    while True:
        names = set(os.listdir(path))
        for rank in range(world_size):
            name = layout.part_name(rank)
            if rank not in parts and name in names:
                parts[rank] = _read_part(os.path.join(path, name), place, rank, world_size)
        if len(parts) == world_size:
            return [parts[rank] for rank in range(world_size)]
        if time.monotonic() > deadline:
            missing = [str(rank) for rank in range(world_size) if rank not in parts]
            raise CheckpointError(
                "step {} was not saved by rank {} within {} s: does every rank save, and into "
                "the same directory?".format(place.step, ", ".join(missing), timeout_seconds),
                path,
            )
        time.sleep(poll_seconds)
        poll_seconds = min(poll_seconds * 2, _LONGEST_POLL_SECONDS)


def _read_part(path: str, place: Place, rank: int, world_size: int) -> Part:
    with open(path, "rb") as file:
        text = file.read()
    try:
        part = layout.unseal(Part, text)
    except CorruptError as error:
        raise CheckpointError("{}: {}".format(path, error), path) from error
    if part.problem:
        raise CheckpointError("rank {}: {}".format(rank, part.problem), path)
    if (part.attempt, part.step, part.rank, part.world_size) != (
        place.attempt,
        place.step,
        rank,
        world_size,
    ):
        raise CheckpointError("{}: it is not of this save".format(path), path)
    return part


def _compare_origins(parts: List[Part], path: str) -> None:
    """Refuse to publish what ranks have made from different states.

    Raises:
        CheckpointError: ranks went on from different checkpoints.
    """
    first: Dict[Commit, int] = {}
    for part in parts:
        if part.restored is not None:
            first.setdefault(part.restored, part.rank)
    if len(first) > 1:
        went_on = ", ".join(
            "rank {} from {}".format(rank, _named_text(commit)) for commit, rank in first.items()
        )
        raise CheckpointError(
            "the ranks went on from different checkpoints ({}): start them all anew, with "
            "torch.distributed initialised before the restore".format(went_on),
            path,
        )


def _named_text(commit: Commit) -> str:
    if commit == layout.NOTHING:
        return "nothing"
    return "attempt {0.attempt} step {0.step}".format(commit)


def _all_files(parts: List[Part], path: str) -> Tuple[layout.File, ...]:
    owner: Dict[str, int] = {}
    for part in parts:
        for file in part.files:
            first = owner.setdefault(file.name, part.rank)
            if first != part.rank:
                raise CheckpointError(
                    "ranks {} and {} both wrote {!r}: put the rank into the name".format(
                        first, part.rank, file.name
                    ),
                    path,
                )
    return tuple(file for part in parts for file in part.files)


def _links(text: str) -> Tuple[Ancestor, ...]:
    """Read the lineage that the operator gave.

    Raises:
        CheckpointError: it is damaged; going on without it could restore a zombie's work.
    """
    if not text:
        return ()
    try:
        return tuple(
            link
            for link in (Ancestor.from_dict(value) for value in json.loads(text))
            if link.origin > 0
        )
    except (ValueError, TypeError, ProtocolError) as error:
        raise CheckpointError("{}: {}".format(protocol.ENV_LINEAGE, error)) from error


def _checked(step: int) -> int:
    """Return the step as a plain number, whatever kind of integer it was.

    Raises:
        CheckpointError: a directory's name cannot tell it.
    """
    step = operator.index(step)
    if not 0 <= step < layout.STEP_LIMIT:
        raise CheckpointError("step {} is not between 0 and {}".format(step, layout.STEP_LIMIT))
    return step


def _said(problems: List[str]) -> str:
    return "; ".join(_unique(problems))


def _unique(problems: List[str]) -> List[str]:
    return list(dict.fromkeys(problem for problem in problems if problem))
