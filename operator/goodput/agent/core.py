"""Decide what the agent does next. Pure: no clock, no I/O, no threads.

The supervisor (or a simulation) tells the core each event with the time at which it happened,
and carries out the commands that come back, in their order. Every time is an integer number of
milliseconds on the agent's monotonic clock.

The rules, in one place:
- Only attempts that the operator named are run, each at most once, in growing order.
- The operator's silence kills nothing and starts nothing.
- An attempt is over when nothing of it is left alive, grandchildren included; the next one
  starts only then.
- Processes that save by the SDK are not ended at once when their pod is: the operator gets the
  time to have the whole gang save, if it asks for that.
"""

import json
import signal
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple, Union

from goodput import protocol
from goodput.agent.settings import COMMAND, Settings
from goodput.protocol import (
    Commit,
    Disk,
    ProcessExit,
    Progress,
    Run,
    SyncAnswer,
    SyncRequest,
    World,
)

SURVEY_TIMEOUT_MS = 60_000
"""How long the first report waits for the checkpoint directory."""
REMAINS_GRACE_MS = 5_000
"""Between SIGTERM and SIGKILL for what a finished attempt has left behind."""
KILL_AGAIN_MS = 500
"""A fork may slip past a SIGKILL, so it is repeated as long as something lives."""
LEAVE_ANYWAY_MS = 5_000
"""After SIGKILL, how long an agent that must leave waits for what the kernel cannot end."""
SILENCE_AFTER_SUCCESS_MS = 600_000
END_GRACE_MS = 5_000
"""Of the time that a pod has to end, so much is left to its processes after SIGTERM."""
ASKED_WITHIN_MS = 5_000
"""How long an agent whose pod is being ended waits to be asked for a checkpoint."""

MAX_EXITS = 8
MAX_EXCEPTION_CHARACTERS = 500
MAX_RESTORE_PROBLEMS = 4
MAX_PROBLEM_CHARACTERS = 300
RECENT_STEPS = 15
STALLS = ("checkpoint", "data")
"""What a process may stand still for."""


@dataclass(frozen=True)
class Start:
    """Start this worker's processes of the attempt `world.attempt`."""

    world: World


@dataclass(frozen=True)
class Signal:
    """Send a signal to the training processes.

    Attributes:
        everyone: to all that they have started, too; else only to those that we started.
    """

    number: int
    everyone: bool


@dataclass(frozen=True)
class Report:
    """Tell the operator at once, besides the poll that it may be holding."""


@dataclass(frozen=True)
class Publish:
    """Replace the file that the training processes read."""

    attempt: int
    durable: Optional[Commit]
    save_step: Optional[int] = None


@dataclass(frozen=True)
class Say:
    """A line for the user who reads the container's log."""

    text: str


@dataclass(frozen=True)
class Leave:
    """Report once more and end the agent."""

    exit_code: int
    message: str


Command = Union[Start, Signal, Report, Publish, Say, Leave]
Commands = Tuple[Command, ...]


@dataclass
class _Stalls:
    """How long each process of this worker has stood still, by what for, in milliseconds.

    A process that was started anew within the attempt counts from nothing: what its predecessor
    said last is added.
    """

    said: Dict[int, Dict[str, int]] = field(default_factory=dict)
    before: Dict[int, Dict[str, int]] = field(default_factory=dict)

    def hear(self, rank: int, said: Any) -> None:
        if not isinstance(said, dict):
            raise TypeError("an object is wanted")
        now = {what: _natural(said.get(what, 0)) for what in STALLS}
        known = self.said.get(rank, {})
        if any(now[what] < known.get(what, 0) for what in STALLS):
            base = self.before.get(rank, {})
            self.before[rank] = {one: base.get(one, 0) + known.get(one, 0) for one in STALLS}
        self.said[rank] = now

    def longest(self, what: str) -> int:
        """Return how long the process has stood that has done so longest."""
        return max(
            (
                said[what] + self.before.get(rank, {}).get(what, 0)
                for rank, said in self.said.items()
            ),
            default=0,
        )


@dataclass
class _Attempt:
    """The attempt whose processes were started last."""

    world: World
    expected: int
    spawned: Set[int] = field(default_factory=set)
    exits: Dict[int, ProcessExit] = field(default_factory=dict)
    started_at: Optional[int] = None
    ended_at: Optional[int] = None
    failed: int = 0
    completed: int = 0
    start_failed: bool = False
    stopping: bool = False
    empty: bool = False
    kill_at: Optional[int] = None
    progress: Progress = field(default_factory=Progress)
    durations: List[int] = field(default_factory=list)
    stalls: _Stalls = field(default_factory=_Stalls)

    @property
    def number(self) -> int:
        return self.world.attempt

    @property
    def living(self) -> int:
        return len(self.spawned - set(self.exits))

    @property
    def over(self) -> bool:
        """Every process that we started, or ever will for this attempt, has ended."""
        return self.living == 0 and (self.start_failed or len(self.exits) >= self.expected)

    @property
    def succeeded(self) -> bool:
        return self.completed == self.expected

    @property
    def alive(self) -> int:
        return max(self.living, 0 if self.empty else 1)

    def kill_by(self, at: int) -> None:
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)


class Core:
    """The state of one agent. Each event method returns the commands to carry out, in order."""

    def __init__(self, settings: Settings, now: int, agent_version: str = "") -> None:
        self._settings = settings
        self._agent_version = agent_version
        self._disk = Disk()
        self._free_port = 0
        self._ready = not settings.checkpoint_directory
        self._survey_by = now + SURVEY_TIMEOUT_MS
        self._sequence = 0
        self._answered = 0
        self._seen_revision = ""
        self._heard_at = now
        self._fence = 0  # attempts up to this one have been run, ordered or stopped
        self._run: Optional[_Attempt] = None
        self._pending: Optional[World] = None
        self._durable: Optional[Commit] = None
        self._save_step: Optional[int] = None
        self._tracker: Optional[Tuple[int, int]] = None
        self._leaving: Optional[Leave] = None
        self._leave_by: Optional[int] = None
        self._left = False
        self._ends_at: Optional[int] = None
        self._asked_by = 0

    # --- what the supervisor asks ---------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is something to report: the disk has been looked at."""
        return self._ready

    @property
    def attempt(self) -> int:
        """The attempt whose processes were started last; 0 before the first."""
        return self._run.number if self._run else 0

    @property
    def occupied(self) -> bool:
        """Whether something of an attempt may still be alive."""
        return self._run is not None and not self._run.empty

    def request(self, hold_seconds: float, now: int) -> SyncRequest:
        """Return the next request: all that is so now."""
        self._sequence += 1
        return SyncRequest(
            slot=self._settings.slot,
            incarnation=self._settings.incarnation,
            sequence=self._sequence,
            sent_at=now,
            agent_version=self._agent_version,
            seen_revision=self._seen_revision,
            hold_seconds=hold_seconds,
            address=self._settings.address,
            free_port=self._free_port,
            ends_at=self._ends_at,
            disk=self._disk,
            run=self._run_report(),
        )

    def wake_at(self) -> Optional[int]:
        """Return when `ticked` has something to do, None for never."""
        times: List[Optional[int]] = [self._leave_by, self._end_due_at()]
        if not self._ready:
            times.append(self._survey_by)
        if self._run:
            times.append(self._run.kill_at)
            times.append(self._silence_ends_at(self._run))
        return None if self._left else min((at for at in times if at is not None), default=None)

    # --- events ---------------------------------------------------------------------------

    def surveyed(self, disk: Disk, _now: int) -> Commands:
        """The checkpoint directory has been looked at.

        A survey that comes after the time-out still counts, as long as nothing has run: what
        it found was there before any attempt.
        """
        if self._run is not None or (self._ready and disk == self._disk):
            return ()
        late, self._ready, self._disk = self._ready, True, disk
        commands: List[Command] = []
        if disk.problem:
            commands.append(Say("the checkpoint directory cannot be used: " + disk.problem))
        if late:
            commands.append(Report())
        return tuple(commands)

    def port_found(self, port: int) -> None:
        """A TCP port of this pod that is free at present."""
        self._free_port = port

    def answered(self, answer: SyncAnswer, sequence: int, now: int) -> Commands:
        """The operator has answered our request number `sequence`."""
        self._heard_at = now
        if sequence < self._answered:
            return ()
        self._answered = sequence
        self._seen_revision = answer.revision
        commands = self._learn_answer(answer)
        if self._leaving:
            return tuple(commands)
        grace_ms = max(0, int(answer.grace_seconds * 1000))
        if answer.kind == protocol.RUN and answer.world is not None:
            commands += self._ordered_to_run(answer.world, grace_ms, now)
        elif answer.kind == protocol.STOP:
            commands += self._ordered_to_stop(answer.attempt, grace_ms, now)
        elif answer.kind == protocol.EXIT:
            leave = Leave(answer.exit_code, "the operator ended this worker")
            commands += self._leave(leave, grace_ms, now)
        return tuple(commands)

    def spawned(self, attempt: int, rank: int, now: int) -> Commands:
        """A training process has been exec'ed."""
        run = self._run
        if run is None or run.number != attempt:
            return ()
        run.spawned.add(rank)
        if len(run.spawned) < run.expected or run.started_at is not None:
            return ()
        run.started_at = now
        return (Report(),)

    def exited(self, attempt: int, end: ProcessExit, now: int) -> Commands:
        """A training process has ended, or could not be started (reason StartError)."""
        run = self._run
        if run is None or run.number != attempt or end.rank in run.exits:
            return ()
        failed = end.exit_code != 0 and not run.stopping
        run.exits[end.rank] = replace(
            end,
            exception=end.exception[:MAX_EXCEPTION_CHARACTERS],
            last_lines=end.last_lines if failed and not run.failed else (),
        )
        run.start_failed = run.start_failed or end.reason == "StartError"
        commands: List[Command] = []
        if failed:
            run.failed += 1
            commands += [Say(_describe(attempt, end)), Report()]
        elif not run.stopping:
            run.completed += 1
            commands.append(Report())
        if run.over:
            run.ended_at = now
            if run.succeeded:
                commands.append(Say("attempt {} has succeeded".format(attempt)))
            if not run.stopping:
                run.kill_by(now + REMAINS_GRACE_MS)
                commands.append(Signal(signal.SIGTERM, everyone=True))
        return tuple(commands)

    def emptied(self, now: int) -> Commands:
        """Nothing that an attempt has started is alive any more."""
        run = self._run
        if run is None or run.empty or not (run.over or run.stopping):
            return ()
        commands: List[Command] = []
        if run.stopping:
            commands.append(Say("attempt {} has been stopped".format(run.number)))
        run.empty, run.stopping, run.kill_at = True, False, None
        commands.append(Report())
        if self._leaving:
            return (*commands, *self._gone())
        if self._ends_at is not None:
            return (*commands, *self._end(now))
        if self._pending:
            commands += self._begin(self._pending, now)
        return tuple(commands)

    def heard(self, datagram: bytes, now: int) -> Commands:
        """A training process has said something; what is not understood is passed over."""
        run = self._run
        try:
            message = json.loads(datagram)
            kind, attempt = message["kind"], message["attempt"]
            at = min(now, max(0, int(message["at"] * 1000)))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return ()
        if run is None or attempt != run.number or type(attempt) is not int:
            return ()
        try:
            return self._learn(run, kind, message, at, now)
        except (ValueError, TypeError, KeyError, OverflowError):
            return ()

    def tracked(self, step: int, now: int) -> None:
        """The user's tracker file names this step."""
        if self._tracker is None or self._tracker[0] != step:
            self._tracker = (step, now)

    def signalled(self, number: int, now: int) -> Commands:
        """The agent has received a signal. SIGTERM: the pod is being deleted."""
        if number != signal.SIGTERM:
            return (Signal(number, everyone=False),) if self.occupied else ()
        if self._leaving or self._ends_at is not None:
            return ()
        grace_ms = int(self._settings.termination_grace_seconds * 1000)
        self._ends_at = now + max(0, grace_ms - END_GRACE_MS)
        self._asked_by = now + ASKED_WITHIN_MS
        if not self._can_save() or self._ends_at <= now:
            return tuple(self._end(now, grace_ms))
        return (Say("the pod is being ended; the training may save before"), Report())

    def ticked(self, now: int) -> Commands:
        """Time has passed."""
        commands: List[Command] = []
        if not self._ready and now >= self._survey_by:
            problem = "did not answer within {} s".format(SURVEY_TIMEOUT_MS // 1000)
            commands += self.surveyed(Disk(problem=problem), now)
        run = self._run
        if run is not None and run.kill_at is not None and now >= run.kill_at:
            run.kill_at = now + KILL_AGAIN_MS
            commands.append(Signal(signal.SIGKILL, everyone=True))
        if self._leave_by is not None and now >= self._leave_by:
            commands += self._gone()
        end_due_at = self._end_due_at()
        if end_due_at is not None and now >= end_due_at:
            commands += self._end(now)
        silence_ends_at = self._silence_ends_at(run) if run else None
        if silence_ends_at is not None and now >= silence_ends_at:
            message = "all processes succeeded and the operator was silent for 10 minutes"
            self._leaving = Leave(0, message)
            commands += self._gone()
        return tuple(commands)

    # --- orders ---------------------------------------------------------------------------

    def _ordered_to_run(self, world: World, grace_ms: int, now: int) -> List[Command]:
        if world.attempt <= self._fence or world.processes < 1 or self._ends_at is not None:
            return []
        self._fence = world.attempt
        if not self.occupied:
            return self._begin(world, now)
        self._pending = world
        return self._stop(grace_ms, now)

    def _ordered_to_stop(self, attempt: int, grace_ms: int, now: int) -> List[Command]:
        self._fence = max(self._fence, attempt)
        if self._pending and self._pending.attempt <= attempt:
            self._pending = None
        if self._run is None or self._run.number > attempt:
            return []
        return self._stop(grace_ms, now)

    def _begin(self, world: World, _now: int) -> List[Command]:
        self._pending = None
        expected = 1 if self._settings.launcher == COMMAND else world.processes
        self._run = _Attempt(world, expected)
        step = world.restore_step
        where = "from nothing" if step is None else "from step {}".format(step)
        text = "attempt {}: worker {} of {}, world size {}, {}".format(
            world.attempt, world.worker_rank, world.workers, world.world_size, where
        )
        self._save_step = None
        return [Say(text), Publish(world.attempt, self._durable), Start(world)]

    def _stop(self, grace_ms: int, now: int) -> List[Command]:
        run = self._run
        if run is None or run.empty:
            return []
        run.kill_by(now + grace_ms)
        if run.stopping:
            return []
        run.stopping = True
        return [
            Say("stopping attempt {}".format(run.number)),
            Signal(signal.SIGTERM, everyone=True),
        ]

    def _leave(self, leave: Leave, grace_ms: int, now: int) -> List[Command]:
        self._leaving = leave
        self._pending = None
        if not self.occupied:
            return self._gone()
        self._leave_by = now + grace_ms + LEAVE_ANYWAY_MS
        return self._stop(grace_ms, now)

    def _can_save(self) -> bool:
        """Whether the training can be asked to save, as far as we have heard."""
        run = self._run
        if run is None or run.living == 0 or run.stopping:
            return False
        return run.progress.restore_began_at is not None and run.progress.step is not None

    def _end_due_at(self) -> Optional[int]:
        """Return when the processes of a pod that is being ended must end, too."""
        if self._ends_at is None or self._leaving:
            return None
        asked = self._save_step is not None
        return self._ends_at if asked else min(self._ends_at, self._asked_by)

    def _end(self, now: int, grace_ms: int = END_GRACE_MS) -> List[Command]:
        leave = Leave(128 + signal.SIGTERM, "the pod was deleted or its node is shutting down")
        return self._leave(leave, grace_ms, now)

    def _gone(self) -> List[Command]:
        self._left = True
        return [self._leaving] if self._leaving else []

    def _silence_ends_at(self, run: _Attempt) -> Optional[int]:
        if not run.succeeded or run.ended_at is None or self._leaving:
            return None
        return max(self._heard_at, run.ended_at) + SILENCE_AFTER_SUCCESS_MS

    # --- what the training processes say ----------------------------------------------------

    def _learn_answer(self, answer: SyncAnswer) -> List[Command]:
        durable, save_step = answer.durable or self._durable, self._save_step
        if answer.kind == protocol.RUN and answer.attempt == self.attempt:
            save_step = answer.save_step
        if (durable, save_step) == (self._durable, self._save_step):
            return []
        self._durable, self._save_step = durable, save_step
        return [Publish(self.attempt, durable, save_step)]

    def _learn(
        self, run: _Attempt, kind: str, message: Mapping[str, Any], at: int, now: int
    ) -> Commands:
        known = run.progress
        news: Dict[str, Any] = {"sdk": True}
        urgent = False
        if kind == "restore_begin":
            if known.restore_began_at is None or at < known.restore_began_at:
                news["restore_began_at"] = at
        elif kind == "restore_end":
            news.update(self._restore_news(run, message, at))
            urgent = known.restore_ended_at is None or news["restore_apart"]
        elif kind == "step":
            urgent = known.first_step_at is None  # what is counted before it is heard is `startup`
            news.update(self._step_news(run, _natural(message["step"]), message, at))
            news.update(self._stall_news(run, message))
        elif kind == "stall":
            news.update(self._stall_news(run, message))
        elif kind == "commit":
            step = _natural(message["step"])
            stalls = self._stall_news(run, message)
            news.update(stalls)
            if known.committed is None or step > known.committed.step:
                urgent = True
                finished_at = min(now, max(0, int(message["step_at"] * 1000)))
                news["committed"] = Commit(attempt=run.number, step=step)
                news["committed_step_at"] = finished_at
                since = _natural(message.get("since", 0))
                news["committed_stall_milliseconds"] = max(0, sum(stalls.values()) - since)
        elif kind != "hello":
            return ()
        run.progress = replace(known, **news)
        return (Report(),) if urgent else ()

    @staticmethod
    def _restore_news(run: _Attempt, message: Mapping[str, Any], at: int) -> Dict[str, Any]:
        known, given = run.progress, message["commit"]
        restored = None if given is None else Commit.from_dict(given)
        apart = known.restore_apart or message.get("apart") is True
        before = known.restored
        # Processes that were restarted within the attempt may go on from its own commits.
        if before and restored and run.number not in (before.attempt, restored.attempt):
            apart = apart or before != restored
            restored = min(before, restored, key=lambda one: (one.attempt, one.step))
        return {
            "restore_ended_at": max(at, known.restore_ended_at or 0),
            "restored": restored,
            "restore_apart": apart,
            "restore_problems": _merged(known.restore_problems, message["problems"]),
        }

    @staticmethod
    def _step_news(run: _Attempt, step: int, message: Mapping[str, Any], at: int) -> Dict[str, Any]:
        known = run.progress
        news: Dict[str, Any] = {}
        if message.get("milliseconds") is not None:
            run.durations.append(_natural(int(message["milliseconds"])))
            del run.durations[:-RECENT_STEPS]
            news["step_milliseconds"] = sorted(run.durations)[len(run.durations) // 2]
        if known.first_step_at is None:
            news["first_step_at"] = at
        if known.step is None or step > known.step:
            news.update(step=step, step_at=at)
        return news

    @staticmethod
    def _stall_news(run: _Attempt, message: Mapping[str, Any]) -> Dict[str, int]:
        said, rank, world = message.get("stalled"), message["rank"], run.world
        if said is not None:
            mine = range(world.rank_offset, world.rank_offset + world.processes)
            run.stalls.hear(rank if rank in mine else mine.start, said)
        if not run.stalls.said:
            return {}
        return {what + "_stall_milliseconds": run.stalls.longest(what) for what in STALLS}

    # --- the report -------------------------------------------------------------------------

    def _run_report(self) -> Optional[Run]:
        run = self._run
        if run is None:
            return None
        # Failures in their order, the first with its lines; then the last who ended well, whose
        # end is that of the work.
        exits = sorted(
            run.exits.values(), key=lambda end: float("-inf") if end.exit_code else -end.at
        )
        progress = run.progress
        if self._tracker:
            step, at = self._tracker
            progress = replace(progress, tracker_step=step, tracker_step_at=at)
        return Run(
            attempt=run.number,
            started_at=run.started_at,
            alive=run.alive,
            stopping=run.stopping,
            exits=tuple(exits[:MAX_EXITS]),
            failed=run.failed,
            succeeded=run.succeeded,
            progress=progress,
        )


def _describe(attempt: int, end: ProcessExit) -> str:
    how = "signal {}".format(end.signal) if end.signal else "exit code {}".format(end.exit_code)
    why = ": " + end.exception if end.exception else ""
    return "attempt {}: rank {} failed, {} ({}){}".format(attempt, end.rank, how, end.reason, why)


def _natural(value: Any) -> int:
    """Return a step or a duration as it may stand on the wire."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError("a natural number is wanted")
    return value


def _merged(known: Tuple[str, ...], given: Any) -> Tuple[str, ...]:
    if not isinstance(given, list):
        raise TypeError("a list is wanted")
    texts = [str(text)[:MAX_PROBLEM_CHARACTERS] for text in given]
    return tuple(dict.fromkeys((*known, *texts)))[:MAX_RESTORE_PROBLEMS]
