"""The pods' insides: the real core of the agent, simulated processes, and what they train.

A gang trains one step a second while every member of its world lives and can be reached; when a
process dies, its peers fail of it, as after a broken collective; when a node is gone, they hang.
Rank 0 commits every few steps, and then deletes old commits as far as it may.
"""

import asyncio
import base64
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from goodput.agent import core
from goodput.agent.core import Core
from goodput.agent.link import backoff_seconds
from goodput.agent.settings import Settings
from goodput.checkpoint.layout import Manifest
from goodput.protocol import (
    ENV_POD_IP,
    HOLD_SECONDS,
    TOKEN_AUDIENCE,
    Commit,
    ProcessExit,
    SyncAnswer,
)
from goodput.protocol import World as GangWorld
from goodput_operator import names
from tests.simulation.apiserver import Json
from tests.simulation.history import Ended, Restored

if TYPE_CHECKING:
    from tests.simulation.world import World

STEP_SECONDS = 1.0
STEPS_PER_COMMIT = 3
SAVE_MILLISECONDS = 200
"""For so long training says that it has stood to save; it takes no time here."""
TERM_SECONDS = 0.2
"""From SIGTERM to the end of a process."""
PEERS_FAIL_SECONDS = 0.5
"""From a process's end to that of its peers."""
BACKOFF_CHANCE = 0.5


@dataclass(eq=False)
class Process:
    """A training process; it belongs to one attempt and one pod."""

    worker: "Worker"
    world: GangWorld
    alive: bool = True

    def end(self, exit_code: int, number: int = 0, cause: str = "itself") -> None:
        """Die, or finish with 0; only once. `cause`: see `history.Ended`."""
        if not self.alive:
            return
        self.over(exit_code, cause)
        self.worker.world.gang_of(self.world).left()
        self.worker.ended(self, exit_code, number)

    def over(self, exit_code: int, cause: str) -> None:
        """Be no more, with nobody told."""
        self.alive = False
        self.worker.world.history.add(
            Ended(
                at=asyncio.get_running_loop().time(),
                pod_uid=self.worker.uid,
                pod=self.worker.name,
                run_id=self.world.run_id,
                rank=self.world.worker_rank,
                exit_code=exit_code,
                cause=cause,
            )
        )

    def say(self, kind: str, **what: Any) -> None:
        """Tell the agent something, as the SDK does."""
        at = asyncio.get_running_loop().time()
        message = {"kind": kind, "rank": self.world.rank_offset, "attempt": self.world.attempt}
        if self.alive and self.worker.world.sdk:
            self.worker.heard(json.dumps({**message, "at": at, **what}).encode())


@dataclass(eq=False)
class Gang:
    """The training of one attempt, over all members of its world."""

    simulation: "World"
    world: GangWorld
    members: dict[int, Process] = field(default_factory=dict)
    step: int = 0
    broken: bool = False
    restored: Manifest | None = None
    resting: bool = False
    saves: int = 0

    def join(self, process: Process) -> None:
        world = process.world
        self.members[world.worker_rank] = process
        process.say("hello", pid=1)
        process.say("restore_begin")
        if len(self.members) == world.workers and not self.broken:
            self._restore()
            asyncio.get_running_loop().call_later(STEP_SECONDS, self._next_step)

    def left(self) -> None:
        """A member has ended: its peers cannot go on."""
        if not self.broken:
            self.broken = True
            asyncio.get_running_loop().call_later(PEERS_FAIL_SECONDS, self._fail)

    def finish(self) -> None:
        """All of it is trained."""
        self.broken = True
        for process in list(self.members.values()):
            process.end(0, cause="done")

    def _fail(self) -> None:
        for process in list(self.members.values()):
            if process.worker.reachable:
                process.end(1, cause="peers")

    def _restore(self) -> None:
        problems: tuple[str, ...] = ()
        if self.simulation.sdk:
            self.restored, problems = self.simulation.disk.restore(self.world)
        commit = None
        if self.restored is not None:
            commit = Commit(self.restored.attempt, self.restored.step)
            self.step = commit.step
        at = asyncio.get_running_loop().time()
        self.simulation.history.add(Restored(at, self.world.attempt, commit))
        for process in list(self.members.values()):
            if commit in self.simulation.unreadable.get(process.worker.name, []):
                self._give_up(process, commit)
            else:
                given = None if commit is None else commit.to_dict()
                process.say("restore_end", commit=given, problems=list(problems), apart=False)

    def _give_up(self, process: Process, commit: Commit) -> None:
        """End a rank that cannot read what the world named, as the SDK does."""
        older = [one for one in self.simulation.disk if one.step < commit.step][-1]
        problems = [f"step {commit.step}: Input/output error"]
        process.say("restore_end", commit=older.to_dict(), problems=problems, apart=True)
        process.end(1)

    def commit(self) -> None:
        """Rank 0 publishes what is trained, and makes room; the peers need not be there."""
        rank_0 = self.members[0]
        if not self.simulation.sdk or not rank_0.alive:
            return
        disk, durable = self.simulation.disk, rank_0.worker.durable_of(self.world.attempt)
        disk.publish(self.world, self.step, self.restored)
        disk.prune(self.world, durable, self.restored)
        at = asyncio.get_running_loop().time()
        self.saves += 1
        stalled = {"checkpoint": self.saves * SAVE_MILLISECONDS}
        rank_0.say("commit", step=self.step, step_at=at, stalled=stalled, since=SAVE_MILLISECONDS)

    def _next_step(self) -> None:
        if self.broken:
            return
        asyncio.get_running_loop().call_later(STEP_SECONDS, self._next_step)
        members = list(self.members.values())
        if not all(process.alive and process.worker.reachable for process in members):
            return
        asked = members[0].worker.save_step
        if self.resting and asked is not None and self.step >= asked:
            return
        self.step += 1
        for process in members:
            process.say("step", step=self.step, milliseconds=int(STEP_SECONDS * 1000))
        asked = members[0].worker.save_step
        self.resting = asked == self.step and self.simulation.saves  # else it was told too late
        if self.step % STEPS_PER_COMMIT == 0 or self.resting:
            self.commit()


class Worker:
    """The trainer's container of one pod: the agent, and below it the processes.

    Attributes:
        reachable: its node has power and network; without, nothing it says arrives.
    """

    def __init__(self, world: "World", pod: Json, left: Callable[[int, str], None]) -> None:
        self.world = world
        self.pod = pod
        self.reachable = True
        self.processes: list[Process] = []
        self.save_step: int | None = None
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._core = Core(Settings.from_environ(_environ(pod)), self._now(), "simulated")
        self._core.port_found(29500)
        self._timer: asyncio.TimerHandle | None = None
        self._urgent = asyncio.Event()
        self._gone = False
        self._durable: tuple[int, Commit | None] = (0, None)
        self._loop.call_later(0.05, self._look_at_disk)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        name: str = self.pod["metadata"]["name"]
        return name

    @property
    def uid(self) -> str:
        uid: str = self.pod["metadata"]["uid"]
        return uid

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def durable_of(self, attempt: int) -> Commit | None:
        """The newest commit that the operator has acknowledged to this attempt."""
        of_attempt, durable = self._durable
        return durable if of_attempt == attempt else None

    def terminate(self) -> None:
        """The kubelet sends SIGTERM."""
        self._event(self._core.signalled(signal.SIGTERM, self._now()))

    def kill(self) -> None:
        """The container, or the machine below it, is gone at once: nothing is said."""
        self._gone = True
        self.reachable = False
        for process in self.living():
            process.over(137, "torn")
        self._end()

    # --- what the processes do --------------------------------------------------------------

    def ended(self, process: Process, exit_code: int, number: int) -> None:
        if self._gone:
            return
        end = ProcessExit(
            rank=process.world.rank_offset,
            at=self._now(),
            exit_code=exit_code,
            signal=number,
            reason="Killed" if number else "Error" if exit_code else "Completed",
        )
        self._event(self._core.exited(process.world.attempt, end, self._now()))

    def heard(self, datagram: bytes) -> None:
        if not self._gone:
            self._event(self._core.heard(datagram, self._now()))

    # --- the supervisor's part --------------------------------------------------------------

    def _event(self, commands: core.Commands) -> None:
        self._carry_out(commands)
        if self._core.occupied and not self.living() and not self._gone:
            self._carry_out(self._core.emptied(self._now()))
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self._core.wake_at()
        if wake_at is not None and not self._gone:
            self._timer = self._loop.call_at(max(self._loop.time(), wake_at / 1000), self._tick)

    def _tick(self) -> None:
        if not self._gone:
            self._event(self._core.ticked(self._now()))

    def _carry_out(self, commands: core.Commands) -> None:
        for command in commands:
            if isinstance(command, core.Start):
                self._start(command.world)
            elif isinstance(command, core.Publish):
                self._durable = command.attempt, command.durable
                self.save_step = command.save_step
            elif isinstance(command, core.Signal):
                self._signal(command.number)
            elif isinstance(command, core.Report):
                self._urgent.set()
            elif isinstance(command, core.Leave):
                self._tasks.append(self._loop.create_task(self._leave(command)))

    def _start(self, world: GangWorld) -> None:
        process = Process(self, world)
        self.processes.append(process)
        self.world.process_starts(process)
        self._event(self._core.spawned(world.attempt, world.rank_offset, self._now()))
        self.world.gang_of(world).join(process)

    def _signal(self, number: int) -> None:
        for process in self.living():
            delay = 0.0 if number == signal.SIGKILL else TERM_SECONDS
            self._loop.call_later(delay, process.end, 128 + number, number, "told")

    async def _leave(self, command: core.Leave) -> None:
        # A farewell that finds nobody does not hold the agent up for long.
        try:
            async with asyncio.timeout(2.0):
                await self._exchange(0.0)
        except (TimeoutError, ConnectionError):
            pass
        if not self._gone:
            self._gone = True
            self._left(command.exit_code, command.message)
            self._end()

    def _end(self) -> None:
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    # --- the link's part ----------------------------------------------------------------------

    def _look_at_disk(self) -> None:
        self._event(self._core.surveyed(self.world.disk.survey(), self._now()))
        self._tasks += [
            self._loop.create_task(self._poll()),
            self._loop.create_task(self._send_urgent()),
        ]

    async def _poll(self) -> None:
        failures = 0
        while True:
            try:
                await self._exchange(HOLD_SECONDS)
            except ConnectionError:
                await asyncio.sleep(0.05 + backoff_seconds(failures, BACKOFF_CHANCE))
                failures += 1
            else:
                failures = 0
                await asyncio.sleep(0.05)

    async def _send_urgent(self) -> None:
        failures = 0
        while True:
            await self._urgent.wait()
            self._urgent.clear()
            try:
                await self._exchange(0.0)
            except ConnectionError:
                self._urgent.set()
                await asyncio.sleep(0.05 + backoff_seconds(failures, BACKOFF_CHANCE))
                failures += 1
            else:
                failures = 0
                await asyncio.sleep(0.05)

    async def _exchange(self, hold_seconds: float) -> None:
        request = self._core.request(hold_seconds, self._now())
        text = await self.world.sync(self, request.to_json(), hold_seconds)
        answer = SyncAnswer.from_json(text)
        if not self._gone:
            self._event(self._core.answered(answer, request.sequence, self._now()))

    def token(self, uid: str = "") -> str:
        """The projected token; its signature is nobody's concern here. `uid`: a forged one."""
        metadata = self.pod["metadata"]
        claims = {
            "aud": [TOKEN_AUDIENCE],
            "exp": 4_000_000_000,
            "kubernetes.io": {
                "namespace": metadata["namespace"],
                "pod": {"name": metadata["name"], "uid": uid or metadata["uid"]},
            },
        }
        text = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return f"e30.{text}.signature"

    def _now(self) -> int:
        return int(self._loop.time() * 1000)


def _environ(pod: Json) -> dict[str, str]:
    containers = pod["spec"]["containers"]
    trainer = next(
        (one for one in containers if one["name"] == names.TRAINER_CONTAINER), containers[0]
    )
    found = {one["name"]: one["value"] for one in trainer["env"] if "value" in one}
    return {**found, ENV_POD_IP: pod["status"]["podIP"]}
