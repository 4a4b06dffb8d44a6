"""One synchronous training over all workers of a job, told of as the SDK tells of it.

What is imagined is the arithmetic only. A step ends when every member has finished it; the
members save after the step that they are asked to (`goodput.session`), each by what its own agent
has told it by then, and rest; the manifest is published, by rank 0, when all have saved. A member
that hears of it too late has not saved, and so nobody has.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from goodput.protocol import Commit, World

STEP_SECONDS = 0.5


class Member(Protocol):
    """Who trains: the processes of one worker."""

    save_step: int | None
    """The step after which its agent has been asked to save."""

    def say(self, kind: str, **what: Any) -> None:
        """Tell the agent something, as the SDK does."""


@dataclass(slots=True)
class Training:
    """The training of all attempts.

    Attributes:
        restored: the step that each attempt went on from; 0 for a start from nothing.
        finished: when each attempt had finished which steps, in their order; monotonic seconds.
    """

    restored: dict[int, int] = field(default_factory=dict)
    finished: dict[int, dict[int, float]] = field(default_factory=dict)
    _members: dict[int, Member] = field(default_factory=dict)
    _attempt: int = 0
    _steps: asyncio.Task[None] | None = None

    def join(self, member: Member, world: World) -> None:
        """Begin with an attempt; training itself begins when all of its world have."""
        if world.attempt > self._attempt:
            self._end()
            self._attempt = world.attempt
        if world.attempt < self._attempt:
            return
        self._members[world.worker_rank] = member
        member.say("hello", pid=1)
        member.say("restore_begin")
        if len(self._members) == world.workers:
            self._steps = asyncio.create_task(self._train(world))

    def left(self, attempt: int) -> None:
        """A member of this attempt is dead: its peers finish no step any more."""
        if attempt == self._attempt:
            self._end()

    def last_step(self, attempt: int) -> int:
        """Return the newest step that an attempt has finished."""
        return max(self.finished[attempt], default=self.restored[attempt])

    def _end(self) -> None:
        self._members.clear()
        if self._steps is not None:
            self._steps.cancel()
            self._steps = None

    async def _train(self, world: World) -> None:
        step = world.restore_step or 0
        commit = Commit(world.lineage[0].origin, step).to_dict() if step else None
        self.restored[world.attempt] = step
        finished = self.finished[world.attempt] = {}
        members = [self._members[rank] for rank in sorted(self._members)]
        for member in members:
            member.say("restore_end", commit=commit, problems=[], apart=False)
        resting = False
        while not resting:
            await asyncio.sleep(STEP_SECONDS)
            step += 1
            finished[step] = time.monotonic()
            saved = [one.save_step is not None and step >= one.save_step for one in members]
            for member in members:
                member.say("step", step=step, milliseconds=int(STEP_SECONDS * 1000))
            if all(saved):
                members[0].say("commit", step=step, step_at=finished[step])
            resting = any(saved)
