"""The plans: one fault each, at one operation, and what must come of it."""

from __future__ import annotations

import errno
import functools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.durability.job import DIRECTORY, VOLUME, Job, Life
from tests.durability.machine import CHANGES, Killed, Operation, Process, inhabited

BEFORE, FIRST, LATER = [10, 20], [30, 40, 50], [60, 70]
"""The steps saved before the fault, in the attempt that it hits, and after it."""

KILLS = ("gang", "alone", "power", "torn", "zombie")
REFUSALS = ("ENOSPC", "EROFS", "EIO", "EIO-for-good")
"""EIO-for-good: one rank cannot read or write this save any more; EIO: once."""


_SAVE_PARTS = len(f"{DIRECTORY}/save".split("/"))


@dataclass(frozen=True, order=True)
class Plan:
    """One run.

    Attributes:
        ranks: of the attempt that is hit.
        talks: torch.distributed is initialised before the restore.
        keep: spec.checkpoint.keep.
        fault: what happens; empty for the reference run.
        number: at which operation of the attempt, from 1.
        names_kept_seconds: how long hosts believe what they have seen of a directory.
    """

    ranks: int
    talks: bool
    keep: int = 2
    fault: str = ""
    number: int = 0
    names_kept_seconds: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        kind = "talks" if self.talks else "mute"
        return (
            f"{self.ranks}:{kind}:{self.keep}:{self.fault or '-'}:{self.number}:"
            f"{self.names_kept_seconds:g}:{self.seed}"
        )

    @classmethod
    def parse(cls, text: str) -> Plan:
        ranks, kind, keep, fault, number, kept, seed = text.split(":")
        return cls(
            int(ranks),
            kind == "talks",
            int(keep),
            "" if fault == "-" else fault,
            int(number),
            float(kept),
            int(seed),
        )


@dataclass
class Outcome:
    """What a run has shown.

    Attributes:
        operations: of the attempt that is hit, in the order of the run.
        fired: the fault has happened.
    """

    plan: Plan
    operations: list[Operation]
    fired: bool
    violations: list[str]


SHAPES = (
    (Plan(1, talks=False), 1),
    (Plan(2, talks=False), 1),
    (Plan(2, talks=True), 1),
    (Plan(2, talks=False, keep=3), 6),
    (Plan(3, talks=False), 4),
    (Plan(3, talks=True, keep=3), 4),
    (Plan(4, talks=False, keep=3), 8),
    (Plan(4, talks=True), 8),
)
"""Each with the n for which each n-th operation is one to be killed at."""
REFUSED_SHARE = 2


def play(plan: Plan) -> Outcome:
    """Play one plan from an empty disk to the end, and judge it."""
    dice = random.Random(f"{plan.ranks} {plan.talks} {plan.keep} {plan.seed}")
    job = _begun(replace(plan, fault="", number=0)).fork(dice)
    fault = _Fault(plan, job)
    with inhabited(job.machine, dice) as distributed:
        job.distributed = distributed
        try:
            fault.hit(job.open(plan.ranks, talks=plan.talks))
            fault.aftermath()
        except Exception as error:  # noqa: BLE001 - a bug of the product's or of ours: loud
            job.wrong(f"{type(error).__name__}: {error}")
        finally:
            for life in job.lives:
                job.end(life)
    return Outcome(plan, job.machine.history, fault.fired, job.violations)


@functools.lru_cache(maxsize=4)
def _begun(plan: Plan) -> Job:
    """Return a job whose first attempt has saved; it is not to be touched, but forked."""
    dice = random.Random(f"{plan}")
    job = Job(dice, keep=plan.keep, names_kept_seconds=plan.names_kept_seconds)
    if plan.names_kept_seconds:
        job.timeout_seconds = 3 * plan.names_kept_seconds
    with inhabited(job.machine, dice) as distributed:
        job.distributed = distributed
        job.check_restored(job.live(job.open(plan.ranks, talks=plan.talks), BEFORE))
        job.check_saved(job.current, BEFORE)
    return job


class _Fault:
    """What happens to the second attempt of a job, and afterwards."""

    def __init__(self, plan: Plan, job: Job) -> None:
        self.fired = not plan.fault
        self._plan = plan
        self._job = job
        self._count = 0
        self._sick: Process | None = None
        self._sick_path = ""
        self._life: Life | None = None
        self._dice = random.Random(f"{plan}")

    def hit(self, life: Life) -> None:
        self._life = life
        self._job.interfere = self._interfere
        self._job.live(life, FIRST, pausable=self._plan.fault == "zombie")
        if self._plan.fault in KILLS:
            self._judge_what_was_restored(life)
        elif not self._plan.fault:
            self._job.check_restored(life)
            self._job.check_saved(life, FIRST)
        else:
            self._judge_errors(life)

    def aftermath(self) -> None:
        job, plan, life = self._job, self._plan, self._life
        assert life is not None
        if plan.fault != "zombie":
            job.interfere = lambda _process, _operation: None
            job.end(life)
        if plan.fault == "power":
            job.disk = job.disk.after_power_cut(None)
        elif plan.fault == "torn":
            job.disk = job.disk.after_power_cut(self._dice)
        ranks = self._dice.choice([1, 1, 1, 2, 3])
        talks = ranks > 1 and self._dice.random() < 0.5
        steps = [step + 100 * len(job.lives) for step in LATER]
        following = job.open(ranks, talks=talks, look=self._dice.random() < 0.5)
        job.live(following, steps)
        job.check_restored(following)
        job.check_saved(following, steps)
        if plan.fault == "zombie":
            job.interfere = lambda _process, _operation: None
            job.resume(life)
            job.end(life)
        last = job.open(1, talks=False, look=self._dice.random() < 0.5)
        job.live(last, [step + 500 for step in steps])
        job.check_restored(last)
        job.check_saved(last, steps[:0])

    def _interfere(self, process: Process, operation: Operation) -> None:
        plan, life = self._plan, self._life
        assert life is not None
        if process not in life.processes:
            return
        self._count += 1
        if plan.fault == "EROFS" and self._count >= plan.number:
            for one in life.processes:
                one.view.read_only = True
            if operation.kind in CHANGES:
                self.fired = True
            return
        sick = process is self._sick and operation.path.startswith(self._sick_path)
        if plan.fault == "EIO-for-good" and sick:
            raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)
        if self._count != plan.number or not plan.fault:
            return
        if plan.fault in KILLS:
            self._kill(process, operation, life)
        elif plan.fault.startswith("EIO"):
            self.fired, self._sick = True, process
            self._sick_path = "/".join(operation.path.split("/")[:_SAVE_PARTS])
            self._job.unreadable = plan.fault == "EIO-for-good"
            raise OSError(errno.EIO, os.strerror(errno.EIO), operation.path)
        elif plan.fault == "ENOSPC":
            self.fired = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)

    def _kill(self, process: Process, operation: Operation, life: Life) -> None:
        self.fired = True
        if self._plan.fault == "zombie":
            for one in life.processes:
                one.paused = True
            return
        for one in life.processes if self._plan.fault != "alone" else [process]:
            one.dead = True
        raise Killed

    def _judge_what_was_restored(self, life: Life) -> None:
        self._job.check_restored(life, exactly=False)
        for rank, error in life.failed.items():
            if not isinstance(error, (Killed, RuntimeError)):
                self._job.wrong(f"rank {rank} fails of another's death: {error!r}")

    def _judge_errors(self, life: Life) -> None:
        """Nobody goes on from anything but the named checkpoint unless all do; errors help."""
        job = self._job
        values = set(life.restored.values())
        if len(values) > 1:
            job.wrong(f"ranks went on from {sorted(map(str, values))}")
        for error in [*life.errors, *life.failed.values()]:
            text = str(error)
            if isinstance(error, RuntimeError) and "closed by peer" in text:
                continue
            if type(error).__name__ != "CheckpointError":
                job.wrong(f"a user would see {error!r}")
            elif VOLUME not in f"{text} {getattr(error, 'path', '')}":
                job.wrong(f"the error names no directory: {text}")
            elif ";" not in text and ":" not in text:
                job.wrong(f"the error names no remedy: {text}")


def fault_plans(seed: int) -> Iterator[Plan]:
    """Yield for each shape the run without a fault, the kills, and what is refused.

    The ways to die take turns, and begin elsewhere with another seed.
    """
    for form, share in SHAPES:
        shape = replace(form, seed=seed)
        reference = play(shape)
        yield shape
        operations = enumerate(_of_the_second(reference), 1)
        for number, operation in operations:
            if (number + seed) % share == 0:
                fault = KILLS[(3 * number // share + seed) % len(KILLS)]
                yield replace(shape, fault=fault, number=number)
            if (number + seed) % (REFUSED_SHARE * share) == 0:
                grows = operation.kind in CHANGES - {"unlink", "rmdir"}
                fits = (*REFUSALS, "ENOSPC") if grows else REFUSALS[2:]
                fault = fits[(number // share) // REFUSED_SHARE % len(fits)]
                yield replace(shape, fault=fault, number=number)


def stale_plans(seed: int) -> Iterator[Plan]:
    """Yield reference runs and kills on hosts that see names late."""
    for ranks in (2, 3):
        for talks in (False, True):
            for kept in (1.0, 60.0):
                yield Plan(ranks, talks, 2, "", 0, kept, seed)


def _of_the_second(outcome: Outcome) -> list[Operation]:
    return [one for one in outcome.operations if one.process.startswith("attempt 2 ")]
