"""What a gang has worked, by what its trainers wrote down: the ledger's sums without the ledger.

A finished step has its time and its duration in the trainer's output. Nothing of the operator's,
its agents' or the SDK's goes into this: it is what somebody would find out with a pencil.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from e2e.support.job import TRAINER, Job, Step, steps_of

_KEPT = "/checkpoints/diary"
KEEPS_DIARY: Mapping[str, Any] = {
    "command": [
        *("bash", "-c"),
        f'exec python3 /examples/{TRAINER} "$@" > >(trap "" TERM; exec tee -a {_KEPT}.$HOSTNAME)',
        "bash",
    ]
}
"""Merged over a trainer's container: its output outlives its pod."""


def written(job: Job) -> list[Step]:
    """Return what all trainers of a job that keeps a diary have written so far."""
    files = job.checkpoints.glob(_KEPT.rpartition("/")[2] + ".*")
    return [line for file in files for line in steps_of(file.read_text())]


@dataclass(frozen=True, slots=True)
class Diary:
    """The steps of one rank, in the order of time; all ranks finish a step together.

    Each is the gang's time, that of one worker. The border between start and work is the ledger's:
    the first step of an attempt ends its start, so its own duration is `startup`.
    """

    steps: tuple[Step, ...]

    @staticmethod
    def of(job: Job) -> Diary:
        """Read what rank 0 has written so far."""
        of_rank_0 = (one for one in written(job) if one.rank == 0)
        return Diary(tuple(sorted(of_rank_0, key=lambda one: one.at)))

    @property
    def attempts(self) -> list[list[Step]]:
        """Return the steps of each attempt that has finished any."""
        return [list(steps) for _, steps in groupby(self.steps, lambda one: one.attempt)]

    def kept_seconds(self, until: float = float("inf")) -> float:
        """Return the duration of the steps that count and were finished by a moment."""
        return sum(one.seconds for one in self._sorted()[0] if one.at <= until)

    def lost_seconds(self) -> float:
        """Return the duration of the steps that were done again later."""
        return sum(one.seconds for one in self._sorted()[1])

    def _sorted(self) -> tuple[Sequence[Step], Sequence[Step]]:
        attempts = self.attempts
        goes_on_from = [steps[0].step - 1 for steps in attempts[1:]] + [self.steps[-1].step]
        kept: list[Step] = []
        lost: list[Step] = []
        for steps, last in zip(attempts, goes_on_from, strict=True):
            for one in steps[1:]:
                (kept if one.step <= last else lost).append(one)
        return kept, lost
