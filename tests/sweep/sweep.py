"""Every write of every scenario, every way for it to fail, on a real API server.

First each scenario is played without any fault: its writes are the points of the sweep, and how
it ends is what every other run must come to. Then the plans are played, several side by side,
each by an operator process of its own in a namespace of its own.
"""

import asyncio
import contextlib
import json
import random
import socket
import ssl
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import aiohttp

from e2e.bench.harness.api_tier import Client, api_tier
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import say
from goodput_operator import names
from tests.faultproxy.operators import Nursery
from tests.faultproxy.proxy import AT_A_WRITE, ON_A_WATCH, Fault, FaultProxy, Harm
from tests.sweep.memory import Memory
from tests.sweep.scenarios import SCENARIOS
from tests.sweep.world import Lane, RealWorld

TRIES = 3
"""A plan is played again when its fault did not fire, and when it came to a bad end in which an
operator had ended that nobody killed: too busy a machine. A fault may not fire because two writes
are one where a pass sees more at once; the last try harms the write at the same position instead,
whatever it is.
"""
FIRE_SECONDS = 30.0
PLANE_TRIES = 5
NOT_FIRED = "the fault did not happen"
FIRST_PORT, LAST_PORT = 21_000, 29_000
"""Below those that the kernel gives to outgoing connections."""
PROGRESS_SECONDS = 20.0
SHOWN_WRITES = 60


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """One scenario and one harm."""

    scenario: str
    fault: Fault | None = None
    point: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, [self.scenario, self.fault or "none", self.point]))

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Return the plan of this name."""
        scenario, fault, point = [*text.split(":"), "", ""][:3]
        return cls(scenario, None if fault in ("", "none") else Fault(fault), point)


@dataclass(slots=True)
class Result:
    """What came of a plan.

    Attributes:
        outcome: how the job ended; of a fault-free run.
        points: its writes, and the watched resources of which there was news.
        history: all counted writes, in words; of a run with violations.
    """

    plan: str
    seconds: float = 0.0
    fired: int = 0
    restarts: int = 0
    own_ends: int = 0
    runs: int = 1
    violations: list[str] = field(default_factory=list)
    outcome: Any = None
    points: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)

    @property
    def inconclusive(self) -> bool:
        """Whether it should be played again."""
        return self.violations == [NOT_FIRED] or bool(self.violations and self.own_ends)


class Sweep:
    """Plays plans on a control plane of its own."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._until = inf
        self._worlds: dict[str, RealWorld] = {}
        self._numbers = iter(range(1, 1_000_000))

    def limit(self, seconds: float) -> None:
        """Begin nothing after so long from now."""
        self._until = time.monotonic() + seconds

    def changed(self, plural: str, event: dict[str, Any]) -> None:
        """Hand an event of the harness's watches to the world that it is of."""
        world = self._worlds.get(event["object"]["metadata"]["namespace"])
        if world is None:
            return
        world.server.take(plural, event["type"], event["object"])
        if plural == "pods":
            world.cluster.changed(event["type"], event["object"])

    async def play(
        self, plans: Iterable[Plan], expected: dict[str, Result]
    ) -> AsyncIterator[Result]:
        """Play all plans, as many at once as there are lanes; yield what came of each."""
        waiting, done = deque(plans), asyncio.Queue[Result | None]()

        async def work(lane: Lane) -> None:
            while waiting and time.monotonic() < self._until:
                plan = waiting.popleft()
                reference = expected.get(plan.scenario)
                result = await self._play_one(lane, plan, reference)
                while result.runs < TRIES and result.inconclusive:
                    last = result.runs == TRIES - 1
                    again = await self._play_one(lane, plan, reference, by_position=last)
                    again.runs += result.runs
                    result = again
                done.put_nowait(result)

        tasks = [asyncio.create_task(work(lane)) for lane in self._lanes]
        everything = asyncio.gather(*tasks)
        everything.add_done_callback(lambda _: done.put_nowait(None))
        try:
            while (result := await done.get()) is not None:
                yield result
            await everything
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _play_one(
        self, lane: Lane, plan: Plan, reference: Result | None, *, by_position: bool = False
    ) -> Result:
        began = time.monotonic()
        result = Result(str(plan))
        namespace = f"plan-{next(self._numbers)}"
        world = self._worlds[namespace] = RealWorld(lane, namespace)
        try:
            points = reference.points if reference else []
            harm = Harm(plan.fault, plan.point)
            if by_position and plan.point in points:
                harm = Harm(plan.fault, position=points.index(plan.point) + 1)
            await world.open(harm)
            await SCENARIOS[plan.scenario](world)
            await self._settle(world, reference.outcome if reference else None, result)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is a finding
            result.violations.append(f"{type(error).__name__}: {error}")
        result.fired = world.proxy.fired
        result.restarts, result.own_ends = world.restarts, world.own_ends
        if plan.fault is not None and not result.fired:
            result.violations.insert(0, NOT_FIRED)
        result.violations += world.problems()
        if result.violations:
            result.history = [str(write) for write in world.proxy.writes[-SHOWN_WRITES:]]
            result.history += [world.describe(), *world.log_tail()]
        try:
            await world.close()
        except (OSError, RuntimeError) as error:
            result.violations.append(f"the harness could not tidy up: {error!r}")
        del self._worlds[namespace]
        if not result.violations:
            world.log.unlink(missing_ok=True)
        result.seconds = round(time.monotonic() - began, 1)
        return result

    async def _settle(self, world: RealWorld, expected: Any, result: Result) -> None:
        """Wait for the end that is expected, or find it out; nothing is written after it."""
        if expected is None:
            await world.check_rest()
            result.points = world.decisions()
            if result.plan.startswith("steady"):
                result.points.append("flush@1")
            result.watched = sorted(kind for kind, n in world.proxy.events.items() if n)
            result.outcome = json.loads(json.dumps(world.described_outcome()))
            return
        with contextlib.suppress(AssertionError):
            await world.until(lambda: world.proxy.fired > 0, FIRE_SECONDS)
        if not world.proxy.fired:
            return

        def ended() -> bool:
            return bool(json.loads(json.dumps(world.described_outcome())) == expected)

        try:
            await world.until(lambda: world.proxy.led and ended())
            await world.check_rest()
            assert ended(), "not for long"
        except AssertionError as error:
            raise AssertionError(f"{_difference(world, expected)}; {error}") from None


def _difference(world: RealWorld, expected: dict[str, Any]) -> str:
    found = json.loads(json.dumps(world.described_outcome()))
    words = [
        f"{name}: {found[name]} instead of {value}"
        for name, value in expected.items()
        if found[name] != value
    ]
    return f"it ends otherwise: {'; '.join(words)}" if words else "it ends well, but"


def plans_of(reference: Result) -> list[Plan]:
    """Return every harm to a scenario that its fault-free run shows."""
    scenario = reference.plan.split(":")[0]
    found = [Plan(scenario, fault, point) for point in reference.points for fault in AT_A_WRITE]
    found += [Plan(scenario, fault, kind) for kind in reference.watched for fault in ON_A_WATCH]
    # Before its certificates' Secret an operator has listed nothing that could be old.
    listed = [point for point in reference.points if not point.startswith("create-secret")]
    found += [Plan(scenario, Fault.STALE_LISTS, point) for point in listed]
    if reference.points:
        found += [Plan(scenario, Fault.SLOW)]
    if scenario != "create":
        found += [Plan(scenario, Fault.CRASH_AT_ONCE)]
    return found


@asynccontextmanager
async def sweeping(plane: ControlPlane, lanes: int, directory: Path) -> AsyncIterator[Sweep]:
    """Run the proxies and the watches of a sweep."""
    pki = plane.pki.directory
    admin = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    admin.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(str(pki / "apiserver.crt"), str(pki / "apiserver.key"))
    nursery = Nursery()
    ports = _free_ports()
    async with AsyncExitStack() as stack:
        stack.callback(nursery.stop)
        connector = aiohttp.TCPConnector(limit=0, ssl=admin)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        api = Client(plane, session)
        made = []
        for number in range(lanes):
            proxy = FaultProxy(session, plane.url, f"lane{number:02}")
            await proxy.open(serving)
            stack.push_async_callback(proxy.close)
            lane = Lane(f"lane{number:02}", api, proxy, nursery, directory)
            lane.agent_port, lane.http_port = next(ports), next(ports)
            url = f"https://127.0.0.1:{proxy.port}"
            plane.pki.kubeconfig("admin", url, lane.kubeconfig)
            made.append(lane)
        await asyncio.gather(*(lane.create_nodes() for lane in made))
        sweep = Sweep(made)
        jobs = f"/apis/{names.API_VERSION}/{names.PLURAL}"
        label = f"labelSelector=app.kubernetes.io%2Fmanaged-by%3D{names.OPERATOR_NAME}"
        group = await stack.enter_async_context(asyncio.TaskGroup())
        watches = [
            group.create_task(_follow(sweep, api, "trainingjobs", jobs, "")),
            group.create_task(_follow(sweep, api, "pods", "/api/v1/pods", label)),
        ]
        try:
            yield sweep
        finally:
            for watch in watches:
                watch.cancel()


async def _follow(sweep: Sweep, api: Client, plural: str, path: str, query: str) -> None:
    version = await api.version(path)
    while True:
        try:
            async for event in api.watch(path, query, version):
                version = event["object"]["metadata"]["resourceVersion"]
                sweep.changed(plural, event)
        except aiohttp.ClientError as cut:
            say(f"the harness's watch of {plural} is opened again: {cut!r}")


def _free_ports() -> Iterator[int]:
    for port in random.sample(range(FIRST_PORT, LAST_PORT), LAST_PORT - FIRST_PORT):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


async def run(
    plane: ControlPlane,
    directory: Path,
    *,
    lanes: int,
    seed: int,
    memory: Memory,
    sample: int = 0,
    limit_seconds: float = inf,
    only: str = "",
) -> dict[str, Any]:
    """Sweep; return the figures.

    Args:
        plane: the control plane; its nodes are made here.
        directory: for the operators' logs.
        lanes: operators side by side.
        seed: of the order, and of what a sample takes.
        memory: what is known of this commit already.
        sample: play so many plans only; 0: all.
        limit_seconds: begin no plan so long after the first one.
        only: names of plans, or their beginnings, with commas between.
    """
    began = time.monotonic()
    async with sweeping(plane, lanes, directory) as sweep:
        chosen = tuple(only.split(","))
        scenarios = {one.partition(":")[0] for one in chosen}
        wanted = [name for name in SCENARIOS if not only or name in scenarios]
        expected, plans, broken, runs = dict[str, Result](), list[Plan](), list[str](), 0
        async for reference in _remembered(sweep, [Plan(name) for name in wanted], {}, memory):
            runs += reference.runs
            name = reference.plan.split(":")[0]
            say(f"{name}: {len(reference.points)} writes: {' '.join(reference.points)}")
            if reference.violations:
                _show(reference)
                broken.append(reference.plan)
                continue
            expected[name] = reference
            plans += plans_of(reference)
        plans = sorted(plan for plan in plans if str(plan).startswith(chosen))
        if only and not plans:
            plans = [Plan.read(one) for one in chosen]
        points = len({(plan.scenario, plan.point) for plan in plans if plan.fault in AT_A_WRITE})
        random.Random(seed).shuffle(plans)
        plans = plans[:sample] if sample else plans
        say(f"{len(plans)} plans, {lanes} at once, seed {seed}")
        tally = Tally(len(plans))
        sweep.limit(limit_seconds)
        async for result in _remembered(sweep, plans, expected, memory):
            tally.add(result)
    return {
        "suite": "sweep",
        "plans": tally.done,
        "runs": runs + tally.runs,
        "fired": tally.fired,
        "violations": len(broken + tally.failed),
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "write_points": points,
        "operator_restarts": tally.restarts,
        "operator_ended_itself": tally.own_ends,
        "by_scenario": dict(sorted(tally.by_scenario.items())),
        "by_fault": dict(sorted(tally.by_fault.items())),
        "failed": sorted(broken + tally.failed),
    }


async def _remembered(
    sweep: Sweep, plans: list[Plan], expected: dict[str, Result], memory: Memory
) -> AsyncIterator[Result]:
    """Yield what is known already, then what is played now."""
    todo = []
    for plan in plans:
        known = memory.get(str(plan))
        if known is None or known["violations"]:
            todo.append(plan)
        else:
            yield Result(**known)
    if len(todo) < len(plans):
        say(f"{len(plans) - len(todo)} of {len(plans)} are remembered")
    async for result in sweep.play(todo, expected):
        memory.put(str(result.plan), asdict(result))
        yield result


class Tally:
    """Counts results and says how far the sweep is."""

    def __init__(self, plans: int) -> None:
        self.plans = plans
        self.done = 0
        self.runs = 0
        self.fired = 0
        self.restarts = 0
        self.own_ends = 0
        self.failed: list[str] = []
        self.by_scenario: Counter[str] = Counter()
        self.by_fault: Counter[str] = Counter()
        self._began = self._said = time.monotonic()

    def add(self, result: Result) -> None:
        """Count a result; show it when something is wrong with it."""
        scenario, fault = result.plan.split(":")[:2]
        self.done += 1
        self.runs += result.runs
        self.fired += result.fired > 0
        self.restarts += result.restarts
        self.own_ends += result.own_ends
        self.by_scenario[scenario] += 1
        self.by_fault[fault] += 1
        if result.violations:
            self.failed.append(result.plan)
            _show(result)
        now = time.monotonic()
        if now - self._said > PROGRESS_SECONDS or self.done == self.plans:
            self._said = now
            say(
                f"{self.done} of {self.plans} plans, {len(self.failed)} with violations, "
                f"{(now - self._began) / self.done:.1f} s per plan"
            )


def _show(result: Result) -> None:
    say(f"VIOLATION in {result.plan} ({result.seconds} s)")
    for line in (*result.violations, *result.history):
        print(f"    {line}", flush=True)
    print(f"    replay: make sweep PLAN={result.plan}", flush=True)


def main_on_own_plane(**options: Any) -> dict[str, Any]:
    """Run on a control plane that is made for the time."""
    with ExitStack() as stack:
        logs = stack.enter_context(tempfile.TemporaryDirectory(prefix="goodput-sweep-"))
        plane = stack.enter_context(_patient_api_tier())
        return asyncio.run(run(plane, Path(logs), **options))


@contextmanager
def _patient_api_tier() -> Iterator[ControlPlane]:
    """Try again where a component gave up because the machine was too busy for another."""
    for left in reversed(range(PLANE_TRIES)):
        with ExitStack() as stack:
            try:
                plane = stack.enter_context(api_tier(0))
            except ClusterError as failed:
                if not left:
                    raise
                say(f"once more: {str(failed).partition(chr(10))[0]}")
                continue
            yield plane
            return
