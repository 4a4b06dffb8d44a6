"""One elastic gang on a recorded cluster: what the operator would decide, and what it costs.

Event-driven: nothing happens between two events of the trace and the gang's own deadlines. The
gang sees no event before its time (a notice is an event of its own). Sizes, growth, waiting and
failure rate are those of `plan.sizing`; the cluster and the training are simulated. Times are
milliseconds of the trace, amounts worker-milliseconds, both whole, so that the buckets sum
exactly.

Simplified: a fault of a member stops the whole gang at once; a node that returns is connected
after `Costs.join`; a lost node is noticed after `Costs.detection`, and whatever else falls until
then is part of the same episode; a restore takes no longer for many lost steps than for few. A
node that has said that it will go is out of the next world at its end, or at once where a world
is just being started; the checkpoint before its end costs a stall, and the change was prepared.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum, StrEnum
from itertools import groupby
from operator import itemgetter

from goodput_operator.plan import sizing
from goodput_operator.simulate.trace import Trace

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Costs:
    """What the cluster and the training take, in milliseconds.

    Attributes:
        restart: from the decision until training goes on, after an unavoidable end.
        planned_restart: the same when it was prepared while the gang trained.
        detection: from a fault until it is certain.
        stall: training stands still for a checkpoint that a lost node does not take along.
        join: from a node's return until its agent is connected.
        notice: how long before its end a node says so; 0: never.
        faulty_scale_down: the longest wait for a replacement.
    """

    restart: int = 60_000
    planned_restart: int = 15_000
    detection: int = 10_000
    stall: int = 200
    join: int = 45_000
    notice: int = 0
    faulty_scale_down: int = 60_000


class Spent(StrEnum):
    """Where the wanted workers' time went; all of it is in exactly one."""

    USEFUL = "useful"
    LOST_WORK = "lost_work"
    CHECKPOINT_STALL = "checkpoint_stall"
    DETECTION = "detection"
    RECOVERY = "recovery"
    RESIZE = "resize"
    """Members stand still for a growth by choice."""
    WAITING = "waiting"
    """Healthy members without a legal size."""
    JOINABLE = "joinable"
    """Healthy nodes that a growth would take in."""
    UNUSABLE = "unusable"
    """Healthy nodes that no legal size can use."""
    MISSING = "missing"
    """Nodes that are down, and could not be used by anybody."""


class Growth(Enum):
    """When capacity that could join is taken in by choice."""

    BY_COST = "by cost"
    """The operator's rule."""
    AT_ONCE = "at once"
    """The naive rule, to compare with."""


class _State(Enum):
    TRAINING = "training"
    DETECTING = "detecting"
    RESTARTING = "restarting"
    RESIZING = "resizing"
    WAITING = "waiting"


_STANDING = {
    _State.DETECTING: Spent.DETECTION,
    _State.RESTARTING: Spent.RECOVERY,
    _State.RESIZING: Spent.RESIZE,
    _State.WAITING: Spent.WAITING,
}


class _Kind(IntEnum):
    """What a node does; of one time, in this order."""

    DOWN = 0
    NOTICE = 1
    UP = 2
    CONNECTED = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a gang.

    Attributes:
        spent: worker-milliseconds by where they went; they sum to wanted × length.
        allowed: worker-milliseconds that the healthy nodes allowed at legal sizes.
        faults: unavoidable restarts.
        growths: restarts by choice.
    """

    spent: dict[Spent, int]
    allowed: int
    faults: int
    growths: int

    @property
    def of_capacity(self) -> float:
        """Useful ÷ wanted capacity."""
        return self.spent[Spent.USEFUL] / sum(self.spent.values())

    @property
    def of_oracle(self) -> float:
        """Useful ÷ what the healthy nodes allowed: an oracle that changes size for nothing."""
        return self.spent[Spent.USEFUL] / self.allowed if self.allowed else 0.0


def simulate(
    trace: Trace, sizes: Sequence[int], costs: Costs, growth: Growth = Growth.BY_COST
) -> Outcome:
    """Return what becomes of a gang with these legal sizes; one size only: a fixed gang."""
    gang = _Gang(trace, tuple(sizes), costs, growth)
    gang.run()
    return Outcome(gang.spent, gang.allowed, gang.faults, gang.growths)


def _events(trace: Trace, costs: Costs) -> list[tuple[int, _Kind, str]]:
    """Return what the nodes do, in order; it begins with those that are there at time 0."""
    down = {node: [0] for node in trace.nodes}
    for outage in trace.outages:
        down[outage.node] += [outage.begin, outage.end]
    events = []
    for node, borders in down.items():
        edges = [*borders, trace.milliseconds]
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if begin == end:
                continue
            connected = begin + costs.join if begin else begin
            events += [(begin, _Kind.UP, node)]
            if connected < end:
                events.append((connected, _Kind.CONNECTED, node))
            if end < trace.milliseconds:
                events.append((end, _Kind.DOWN, node))
                if costs.notice:
                    events.append((max(begin, end - costs.notice), _Kind.NOTICE, node))
    return sorted(events)


def _checkpoint_interval(stall: float, mean_to_restart: float) -> int:
    """Return how long the training goes on between two checkpoints: √(2 w M).

    After Young (1974) and Daly (2006): half an interval is lost with each restart, and each
    interval costs one stall w; their sum is least there. No shorter than the stall.
    """
    return round(max(math.sqrt(2 * stall * mean_to_restart), stall))


@dataclass(slots=True)
class _Gang:
    trace: Trace
    sizes: tuple[int, ...]
    costs: Costs
    growth: Growth
    now: int = 0
    state: _State = _State.WAITING
    due: int | None = None
    """When the state ends by itself."""
    wanted: int = 0
    """While it waits for a replacement: the members it waits to have."""
    up: set[str] = field(default_factory=set)
    connected: set[str] = field(default_factory=set)
    doomed: set[str] = field(default_factory=set)
    """Nodes that have said that they will go: no capacity for a new world."""
    members: set[str] = field(default_factory=set)
    trained_since: int = 0
    interval: int = 0
    idle: sizing.Idle = field(default_factory=lambda: sizing.Idle.since_restart(0, _EPOCH))
    history: sizing.FailureHistory = field(init=False)
    planned_restarts: list[float] = field(default_factory=list)
    spent: dict[Spent, int] = field(default_factory=lambda: dict.fromkeys(Spent, 0))
    allowed: int = 0
    faults: int = 0
    growths: int = 0

    def __post_init__(self) -> None:
        spot = self.trace.spot
        prior = sizing.SPOT_FAULTS_PER_NODE_SECOND if spot else sizing.STEADY_FAULTS_PER_NODE_SECOND
        self.history = sizing.FailureHistory.begin(_EPOCH, prior)

    def run(self) -> None:
        """Live through the whole trace."""
        react = {
            _Kind.DOWN: self._goes_down,
            _Kind.NOTICE: self._says_it_will_go,
            _Kind.UP: self.up.add,
            _Kind.CONNECTED: self.connected.add,
        }
        for at, together in groupby(_events(self.trace, self.costs), key=itemgetter(0)):
            self._pass_time(at)
            for _, kind, node in together:
                react[kind](node)
            self._look_at_capacity()
        self._pass_time(self.trace.milliseconds)
        if self.state is _State.TRAINING:
            self._stop_training(saved=True)

    # --- time ----------------------------------------------------------------------------------

    def _pass_time(self, until: int) -> None:
        while self.due is not None and self.due <= until:
            self._account(self.due)
            self._reach_deadline()
        self._account(until)

    def _account(self, until: int) -> None:
        """Account for all but what the members train, which is known when they stop."""
        elapsed, self.now = until - self.now, until
        if not elapsed:
            return
        healthy = len(self.up)
        allowed = sizing.largest_legal(self.sizes, healthy) or 0
        used = min(allowed, len(self.members))
        self.allowed += allowed * elapsed
        self.spent[Spent.MISSING] += (self.trace.wanted - healthy) * elapsed
        self.spent[Spent.UNUSABLE] += (healthy - allowed) * elapsed
        self.spent[Spent.JOINABLE] += (allowed - used) * elapsed
        if self.state is not _State.TRAINING:
            self.spent[_STANDING[self.state]] += used * elapsed

    def _stop_training(self, *, saved: bool) -> None:
        """Account for what the members trained: work, stalls, and what no checkpoint covers."""
        cycles, tail = divmod(self.now - self.trained_since, self.interval + self.costs.stall)
        work = min(tail, self.interval)
        stall = cycles * self.costs.stall + tail - work
        useful, lost = cycles * self.interval, work
        if saved:
            last = min(self.costs.stall, work)
            useful, lost, stall = useful + work - last, 0, stall + last
        for spent, each in (
            (Spent.USEFUL, useful),
            (Spent.LOST_WORK, lost),
            (Spent.CHECKPOINT_STALL, stall),
        ):
            self.spent[spent] += each * len(self.members)

    # --- what nodes do -------------------------------------------------------------------------

    def _goes_down(self, node: str) -> None:
        self.up.remove(node)
        self.connected.discard(node)
        warned = node in self.doomed
        self.doomed.discard(node)
        if node not in self.members:
            return
        running = self.state not in {_State.DETECTING, _State.WAITING}
        if running:
            self._end_world(saved=warned)
        self.members.remove(node)
        if running and warned:
            self._form(self.costs.planned_restart, self._next_world())
        elif running:
            self._enter(_State.DETECTING, self.costs.detection)

    def _says_it_will_go(self, node: str) -> None:
        self.doomed.add(node)
        if node in self.members and self.state in {_State.RESTARTING, _State.RESIZING}:
            self._form(self.costs.restart, self._next_world())  # nothing of it was prepared

    # --- what the operator does ----------------------------------------------------------------

    def _reach_deadline(self) -> None:
        if self.state is _State.DETECTING:
            self._wait_or_shrink()
        elif self.state is _State.WAITING:
            self._form(self.costs.restart, self._next_world())
        elif self.state is _State.TRAINING:
            self._grow()
        else:
            self._train()

    def _end_world(self, *, saved: bool) -> None:
        if self.state is _State.TRAINING:
            self._stop_training(saved=saved)
        self._live()
        self.history = self.history.interrupted(self._time)
        self.faults += 1
        self.wanted = len(self.members)

    def _wait_or_shrink(self) -> None:
        coming = bool(self.up - self.connected - self.doomed)
        world = self._next_world()
        shrunk = len(world)
        waiting_seconds = sizing.wait_seconds(
            replacement_seconds=self.costs.join / 1000 if coming else None,
            restart_seconds=sizing.planned_restart_seconds(self.planned_restarts),
            lost_workers=self.wanted - shrunk,
            workers=self.wanted,
            mean_seconds_to_restart=self.history.mean_seconds_to_restart(self.wanted, self._time),
            limit_seconds=self.costs.faulty_scale_down / 1000,
        )
        if shrunk < self.wanted and waiting_seconds > 0:
            self._enter(_State.WAITING, round(waiting_seconds * 1000))
        else:
            self._form(self.costs.restart, world)

    def _form(self, restart: int, world: Collection[str]) -> None:
        """Begin this world, or wait for capacity where there is none that is legal."""
        self._live()
        if not world:
            self._enter(_State.WAITING, None)
            return
        self.members = set(world)
        self._enter(_State.RESTARTING, restart)

    def _next_world(self) -> list[str]:
        """Return who trains after an unavoidable restart; empty if no legal size can be filled.

        Everybody pays the restart anyway, so all healthy connected capacity comes along.
        """
        return self._largest(self.members - self.doomed)

    def _largest(self, members: set[str]) -> list[str]:
        """Return the largest world: the members first, for they hold the state, then idle ones."""
        idle = self.connected - self.members - self.doomed
        healthy = [*sorted(members), *sorted(idle)]
        return healthy[: sizing.largest_legal(self.sizes, len(healthy)) or 0]

    def _grow(self) -> None:
        self._stop_training(saved=True)
        self._live()
        self.members = set(self._largest(self.members))
        self.growths += 1
        self.planned_restarts = [*self.planned_restarts, self.costs.planned_restart / 1000][-5:]
        self._enter(_State.RESIZING, self.costs.planned_restart)

    def _train(self) -> None:
        self._live()
        self.trained_since = self.now
        mean_seconds = self.history.mean_seconds_to_restart(len(self.members), self._time)
        self.interval = _checkpoint_interval(self.costs.stall, mean_seconds * 1000)
        self.idle = sizing.Idle.since_restart(0, self._time)
        self._enter(_State.TRAINING, None)
        self._look_at_capacity()

    def _look_at_capacity(self) -> None:
        """See what more or less of it means for the present state."""
        if self.state is _State.WAITING:
            world = self._next_world()
            if world and (self.due is None or len(world) >= self.wanted):
                self._form(self.costs.restart, world)
            return
        if self.state is not _State.TRAINING:
            return
        workers = len(self.members)
        reachable = workers + len(self.connected - self.members - self.doomed)
        joinable = (sizing.largest_legal(self.sizes, reachable) or workers) - workers
        self.idle = self.idle.changed(joinable, self._time)
        self.due = self._growth_due()

    def _growth_due(self) -> int | None:
        if self.growth is Growth.AT_ONCE:
            return self.now if self.idle.joinable else None
        price = sizing.restart_price(
            workers=len(self.members),
            restart_seconds=sizing.planned_restart_seconds(self.planned_restarts),
            stall_seconds=self.costs.stall / 1000,
        )
        due_at = self.idle.due_at(price, self._time)
        return None if due_at is None else -(-(due_at - _EPOCH) // _MILLISECOND)

    def _enter(self, state: _State, lasts: int | None) -> None:
        self.state = state
        self.due = None if lasts is None else self.now + lasts

    def _live(self) -> None:
        self.history = self.history.lived(len(self.members), self._time)

    @property
    def _time(self) -> datetime:
        return _EPOCH + self.now * _MILLISECOND
