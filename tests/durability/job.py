"""One job over one checkpoint directory: its operator, its attempts, and what must hold.

The operator's memory is the product's own status and the functions that plan with it; the
ranks are the product's own `Store`. `Job.violations` is the oracle's word.
"""

from __future__ import annotations

import json
import posixpath
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from goodput import protocol
from goodput.checkpoint import CheckpointError, Restored, layout
from goodput.checkpoint.layout import Place
from goodput.checkpoint.store import Store
from goodput.protocol import Ancestor, Commit, Disk
from goodput.session import Session
from goodput_operator.api.status import AttemptState, AttemptStatus, LineageLink, TrainingJobStatus
from goodput_operator.diagnose.examine import GangProgress
from goodput_operator.plan import attempt as plan
from tests.durability import disk as simulated
from tests.durability.disk import View
from tests.durability.machine import Distributed, Machine, Operation, Process

VOLUME = "/volume"
DIRECTORY = f"{VOLUME}/job/checkpoints"
"""Below the mounted volume, so that the directory itself must be made to last."""
OPENED_AT = datetime(2026, 1, 1, tzinfo=UTC)
STATE = "/run/attempt-{}"


class Told(Session):
    """A session whose agent is the job."""

    def __init__(self, environ: Mapping[str, str], job: Job, process: Process) -> None:
        super().__init__(environ, job.machine.clock)
        self._job = job
        self._process = process

    def say(self, kind: str, at: float | None = None, **what: Any) -> None:
        if not self._process.dead:
            self._job.heard(self.attempt or 0, kind, what)


@dataclass
class Life:
    """One attempt, as it was told to its ranks, and what they made of it.

    Attributes:
        named: the restore point; None for a start from nothing.
        restored: by rank; None for nothing.
        failed: what a rank raised.
    """

    number: int
    named: Commit | None
    links: list[LineageLink]
    ranks: int
    talks: bool
    processes: list[Process] = field(default_factory=list)
    restored: dict[int, Commit | None] = field(default_factory=dict)
    failed: dict[int, BaseException] = field(default_factory=dict)
    errors: list[CheckpointError] = field(default_factory=list)
    said: list[tuple[Commit | None, bool]] = field(default_factory=list)
    committed: list[Commit] = field(default_factory=list)


class Job:
    """A job on a machine.

    Attributes:
        written: what the ranks wrote, by the name of the save and then of the file.
        durable: every commit that the operator has acknowledged, oldest first.
        unreadable: a fault lets some rank not read what is there.
        deaf: the operator hears nothing, and so acknowledges nothing.
    """

    def __init__(
        self, dice: random.Random, *, keep: int = 2, names_kept_seconds: float = 0.0
    ) -> None:
        self.dice = dice
        self.keep = keep
        self.machine = Machine(random.Random(dice.random()))
        self.machine.before = self._before
        self.disk = simulated.Disk()
        self.disk.make(VOLUME)
        self.written: dict[str, dict[str, bytes]] = {}
        self.durable: list[Commit] = []
        self.violations: list[str] = []
        self.status = TrainingJobStatus()
        self.lives: list[Life] = []
        self.deaf = False
        self.unreadable = False
        self.timeout_seconds = 3.0
        self.saved_bytes = 48
        self.names_kept_seconds = names_kept_seconds
        self.interfere: Callable[[Process, Operation], None] = lambda _process, _operation: None
        self.distributed: Distributed | None = None
        self._found: list[Disk] = []

    def fork(self, dice: random.Random) -> Job:
        """Return a job that goes on from here, on a machine of its own."""
        job = Job(dice, keep=self.keep, names_kept_seconds=self.names_kept_seconds)
        job.disk, job.status, job.lives = self.disk.clone(), self.status, list(self.lives)
        job.written = {save: dict(files) for save, files in self.written.items()}
        job.durable, job.violations = list(self.durable), list(self.violations)
        job.timeout_seconds = self.timeout_seconds
        return job

    # --- the operator

    def open(self, ranks: int, *, talks: bool, look: bool = True) -> Life:
        """Publish the world of the next attempt.

        Args:
            ranks: of the gang.
            talks: torch.distributed is initialised before the restore.
            look: new agents look at the directory; else nobody has since the last time.
        """
        if look or not self._found:
            self._found = [self._survey()]
        checkpoint, found = self.status.checkpoint, self._found
        before = self.status.attempt.number if self.status.attempt else 0
        number = max(before + 1, *(disk.highest_attempt + 1 for disk in found))
        named = plan._restore_point(self.status, [disk.newest for disk in found if disk.newest])
        link = LineageLink(
            attempt=number, origin=named.attempt if named else 0, step=named.step if named else 0
        )
        lineage = plan._extended(checkpoint.lineage, link)
        self.status = self.status.model_copy(
            update={
                "attempt": AttemptStatus(
                    number=number, state=AttemptState.RUNNING, opened_at=OPENED_AT
                ),
                "checkpoint": checkpoint.model_copy(update={"lineage": lineage}),
            }
        )
        life = Life(number, named, lineage, ranks, talks)
        self.lives.append(life)
        return life

    @property
    def current(self) -> Life:
        return self.lives[-1]

    def heard(self, attempt: int, kind: str, what: Mapping[str, Any]) -> None:
        """A rank has told its agent something."""
        life = next(one for one in self.lives if one.number == attempt)
        if kind == "commit":
            commit = Commit(attempt, what["step"])
            life.committed.append(commit)
            if life is self.current and not self.deaf:
                self._acknowledge(commit)
        elif kind == "restore_end":
            commit_ = what["commit"] and Commit.from_dict(what["commit"])
            life.said.append((commit_, what["apart"]))
            oldest = min(
                (one for one, _ in life.said if one is not None and one.attempt != attempt),
                key=lambda one: (one.attempt, one.step),
                default=None,
            )
            if life is self.current:
                self.status = plan.with_restored(self.status, GangProgress(restored=oldest))
                if self.unreadable:  # then, and only then, may the newest be passed over
                    lineage = self.status.checkpoint.lineage
                    self.durable = [one for one in self.durable if plan.in_lineage(one, lineage)]

    def _acknowledge(self, commit: Commit) -> None:
        checkpoint = self.status.checkpoint
        if plan.is_newer(commit, checkpoint):
            update = {
                "last_durable_step": commit.step,
                "last_durable_attempt": commit.attempt,
                "verified": True,
            }
            self.status = self.status.model_copy(
                update={"checkpoint": checkpoint.model_copy(update=update)}
            )
            self.durable.append(commit)
        if self.dice.random() < 0.8:  # or the agent hears it a little later
            self.publish(commit)

    def publish(self, durable: Commit) -> None:
        """The agents of the current attempt learn what is durable."""
        state = {"attempt": self.current.number, "durable": durable.to_dict()}
        path = STATE.format(self.current.number)
        self.disk.put(f"{path}/{protocol.STATE_FILE}", json.dumps(state).encode())

    def _survey(self) -> Disk:
        found: list[Disk] = []
        agent = Process("agent", self.view(), lambda: found.append(layout.survey(DIRECTORY)))
        self.machine.run([agent])
        if agent.error is not None:
            raise agent.error
        return found[0]

    # --- the ranks

    def view(self) -> View:
        """A host's view of the disk."""
        return View(self.disk, self.machine.clock, self.names_kept_seconds)

    def live(
        self,
        life: Life,
        steps: list[int],
        *,
        pausable: bool = False,
        views: list[View] | None = None,
    ) -> Life:
        """Run an attempt: restore, then save at each of the steps."""
        views = views or [self.view() for _ in range(life.ranks)]
        for rank in range(life.ranks):
            name = f"attempt {life.number} rank {rank}"
            process = Process(name, views[rank], lambda rank=rank: self._rank(life, rank, steps))
            process.pausable = pausable
            life.processes.append(process)
        assert self.distributed is not None
        if life.talks:
            self.distributed.begin(life.processes)
        if self.status.checkpoint.last_durable_step is not None:
            known = self.status.checkpoint
            assert known.last_durable_step is not None
            assert known.last_durable_attempt is not None
            if life is self.current:
                self.publish(Commit(known.last_durable_attempt, known.last_durable_step))
        self.machine.run(life.processes)
        self._note(life)
        return life

    def _note(self, life: Life) -> None:
        for rank, process in enumerate(life.processes):
            if process.error is not None:
                life.failed[rank] = process.error

    def end(self, life: Life) -> None:
        """SIGKILL to all of its ranks, wherever they are."""
        for process in life.processes:
            process.dead = True
            process.paused = False
        self.machine.run([])
        self._note(life)

    def resume(self, life: Life) -> None:
        """Let ranks go on that stood still, as those of a node that comes back."""
        for process in life.processes:
            process.paused = False
        self.machine.run([])
        self._note(life)

    def _rank(self, life: Life, rank: int, steps: list[int]) -> None:
        links = [Ancestor(one.attempt, one.origin, one.step) for one in life.links]
        environ = {
            protocol.ENV_ATTEMPT: str(life.number),
            protocol.ENV_LINEAGE: json.dumps([link.to_dict() for link in links]),
            protocol.ENV_JOB_UID: "uid",
            protocol.ENV_CHECKPOINT_KEEP: str(self.keep),
            protocol.ENV_AGENT: STATE.format(life.number) + "/agent.sock",
            "RANK": str(rank),
            "WORLD_SIZE": str(life.ranks),
        }
        process = self.machine.process
        store = Store(DIRECTORY, environ, Told(environ, self, process))
        restored = store.restore()
        life.restored[rank] = self._checked(restored, process)
        for step in steps:
            try:
                with store.saving(step, self.timeout_seconds) as path:
                    self._write(str(path), rank)
            except CheckpointError as error:  # the training goes on, and saves a later step
                life.errors.append(error)

    def _write(self, path: str, rank: int) -> None:
        save = posixpath.basename(posixpath.dirname(path))
        size = self.dice.choice([0, 1, self.saved_bytes])
        files = {
            f"model-{rank}": f"{save} rank {rank}".encode(),
            f"shards/{rank}/0": self.dice.randbytes(size),
        }
        for name, content in files.items():
            self.written.setdefault(save, {})[name] = content
            whole = posixpath.join(path, name)
            self._make(posixpath.dirname(whole), path)
            view = self.machine.step("create", whole)
            file = view.create(whole)
            if content:
                self.machine.step("write", whole).write(whole, file, content)

    def _make(self, path: str, top: str) -> None:
        if path != top:
            self._make(posixpath.dirname(path), top)
            self.machine.step("mkdir", path).mkdir(path)

    # --- what must hold

    def wrong(self, text: str) -> None:
        self.violations.append(text)

    def _checked(self, restored: Restored | None, process: Process) -> Commit | None:
        if restored is None:
            return None
        commit = Commit(restored.attempt, restored.step)
        problem = self.difference(str(restored.path))
        if problem:
            self.wrong(f"wrongly restored: {process.name} from {commit}: {problem}")
        return commit

    def difference(self, path: str) -> str:
        """Say how a save differs from what its ranks wrote; empty when it does not."""
        expected = self.written.get(posixpath.basename(path), {})
        found = {
            name: file.data
            for whole, file in self.disk.files(path)
            if not layout.reserved(name := whole[len(path) + 1 :])
            and not name.startswith(".rank-")
            and not name.endswith(".tmp")
        }
        if found == expected:
            return ""
        names = sorted(
            name for name in {*found, *expected} if found.get(name) != expected.get(name)
        )
        return f"{names} of {posixpath.basename(path)} are not what was written"

    def good(self) -> list[Place]:
        """The saves that are published and hold what was written, newest first."""
        node = self.disk.at(DIRECTORY)
        if not isinstance(node, simulated.Directory):
            return []
        found = []
        for name in node.entries:
            place = Place.parse(name)
            path = f"{DIRECTORY}/{name}"
            if place and self.disk.at(f"{path}/{layout.MANIFEST}") and not self.difference(path):
                found.append(place)
        return sorted(found, reverse=True)

    def good_in_lineage(self) -> list[Place]:
        """Those that a restart of the job would take."""
        lineage = self.status.checkpoint.lineage
        held = [place for place in self.good() if plan.in_lineage(place.commit, lineage)]
        ancestors = {link.origin: link.step for link in lineage if link.origin}
        return [
            place
            for place in held
            if place.attempt == lineage[0].attempt or place.step <= ancestors.get(place.attempt, -1)
        ]

    def check_restored(self, life: Life, *, exactly: bool = True) -> None:
        """All ranks have gone on from one commit: the one that the operator named."""
        values = set(life.restored.values())
        if len(values) > 1:
            self.wrong(f"ranks of attempt {life.number} went on from {sorted(map(str, values))}")
        if exactly and len(life.restored) < life.ranks:
            self.wrong(f"attempt {life.number} could not restore: {_texts(life)}")
        if exactly and values - {life.named}:
            self.wrong(f"attempt {life.number} restored {values}, and {life.named} was named")
        newest = self._newest_durable()
        if newest is not None and (
            life.named is None or (life.named.attempt, life.named.step) < newest
        ):
            self.wrong(f"lost: attempt {life.number} was given {life.named}, durable was {newest}")

    def _newest_durable(self) -> tuple[int, int] | None:
        before = [one for one in self.durable if one.attempt < self.current.number]
        return max(((one.attempt, one.step) for one in before), default=None)

    def check_saved(self, life: Life, steps: list[int]) -> None:
        """Every save of the attempt has been published, and at least two good ones are left."""
        if life.errors or life.failed:
            self.wrong(f"attempt {life.number} could not save: {_texts(life)}")
        missing = {Commit(life.number, step) for step in steps} - set(life.committed)
        if missing:
            self.wrong(f"attempt {life.number} did not commit {sorted(map(str, missing))}")
        if len(self.good_in_lineage()) < min(2, len(steps)):
            self.wrong(f"attempt {life.number} leaves {self.good_in_lineage()}")

    def _before(self, process: Process, operation: Operation) -> None:
        if operation.kind == "unlink" and operation.path.startswith(DIRECTORY):
            self._check_deletion(process, operation.path)
        self.interfere(process, operation)

    def _check_deletion(self, process: Process, path: str) -> None:
        save, _, rest = path[len(DIRECTORY) + 1 :].partition("/")
        place, whole = Place.parse(save), f"{DIRECTORY}/{save}"
        if place is None:
            self.wrong(f"{process.name} deletes {path}, which is not ours")
            return
        published = self.disk.at(f"{whole}/{layout.MANIFEST}") is not None
        if not published or rest.startswith(".rank-") or rest.endswith(".tmp"):
            return
        if rest != layout.MANIFEST:
            self.wrong(f"{process.name} deletes {path} of a published checkpoint")
            return
        if self.difference(whole):
            return
        current = self.current
        if process not in current.processes:
            self.wrong(f"{process.name} deletes {save} of a job that has gone on without it")
        durable = self._durable_now()
        if place.commit == durable or place.commit in current.restored.values():
            self.wrong(f"{process.name} deletes {save}, which a restart needs")
        left = [one for one in self.good_in_lineage() if one != place]
        if durable is None or (place in self.good_in_lineage() and len(left) < 2):
            self.wrong(f"{process.name} deletes {save}; left are {left}")

    def _durable_now(self) -> Commit | None:
        known = self.status.checkpoint
        if known.last_durable_attempt is None or known.last_durable_step is None:
            return None
        return Commit(known.last_durable_attempt, known.last_durable_step)


def _texts(life: Life) -> list[str]:
    return [f"{type(error).__name__}: {error}" for error in [*life.failed.values(), *life.errors]]
