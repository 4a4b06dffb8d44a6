"""The report endpoint under fire: forged reports, and as many valid ones as it can be asked for.

A real operator process, real TLS, tokens and TokenReviews of a real API server; three jobs of
100 workers whose agents connect, start their attempt, and are then played by one cheap thread.

- `forged`: tries of `kinds` kinds of forgery, each of which says that a process of the victim
  has failed. `forged_accepted` counts those that were answered 200 though they must not be, and
  all that had any effect: the operator's own count of the reports that it took must be that of
  the valid ones, the victim's job must still be in its first attempt.
- `unfired`: tries that were not answered as their kind is; any would mean that something else
  refused them.
- `valid`, `valid_rejected`: reports of the played agents in all, and those refused.
- `per_second`, `p99_ms`: under `LOAD_PER_SECOND` for `LOAD_SECONDS`, from the moment at which
  each report was due; the generator runs on the same processors.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import say
from goodput.protocol import HOLD_SECONDS, SERVER_NAME

from . import api_writes
from .harness import report
from .harness.agents import Seat
from .harness.api_tier import JOBS, Client, api_tier, client
from .harness.forgeries import Forgery, Kind, Loot, kinds, message
from .harness.load import Load, percentile
from .harness.operator_process import OperatorProcess, operator
from .harness.tokens import Mint, forged_tokens

GANGS, WORKERS, NODES = 3, 100, 80
SERIES, TRIES = 21, 6
CONCURRENT = 16
HEARTBEAT_SECONDS = 4.0
LOAD_PER_SECOND, LOAD_SECONDS = 2_050, 60
ANSWER_SECONDS, ENLIST_SECONDS = 30.0, 240.0
LEASE_SECONDS = 60
LATER = 10**8
"""The second load's sequence numbers begin so much later than the first one's."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_RESULT = re.compile(r'^goodput_operator_reports_total\{result="(\w+)"\} (\S+)$', re.MULTILINE)
_REVIEWS = re.compile(
    r'^goodput_operator_api_requests_total\{.*resource="tokenreviews".*\} (\S+)$', re.MULTILINE
)


@dataclass(slots=True)
class Fire:
    """What came of the forgeries."""

    forged: int = 0
    accepted: int = 0
    stale: int = 0
    unfired: Counter[str] = field(default_factory=Counter)


class Intruder:
    """Sends forgeries: a few of a kind from one address, as one that guesses is soon not heard.

    Whom they harm changes, too: a pod that shouts is told to wait before it is read.
    """

    def __init__(
        self, port: int, context: ssl.SSLContext, loot: Loot, seats: Sequence[Seat]
    ) -> None:
        self.fire = Fire()
        self._port, self._context, self._loot = port, context, loot
        self._seats = seats
        self._turn = 0
        self._few = asyncio.Semaphore(CONCURRENT)

    async def attack(self, every: Mapping[str, Kind], series: int, tries: int) -> None:
        """Send of each kind so many series of so many tries, all kinds mixed."""
        number = 0
        async with asyncio.TaskGroup() as group:
            for _ in range(series):
                for name, kind in every.items():
                    number += 1
                    source = (
                        f"127.{100 + number // 60_000}.{number // 250 % 250}.{1 + number % 250}"
                    )
                    if not kind(self._loot).answers:  # it takes its time
                        for _ in range(tries):
                            group.create_task(self._series(name, kind, 1, source))
                        continue
                    await self._few.acquire()
                    task = group.create_task(self._series(name, kind, tries, source))
                    task.add_done_callback(lambda _: self._few.release())
                fire = self.fire
                said = f"{fire.accepted} accepted, {fire.unfired.total()} unfired"
                say(f"{fire.forged} forgeries, {said}")

    async def guess(self, tries: int) -> Counter[int]:
        """Send forged tokens from one address; return how often which answer came."""
        made = kinds()["a token signed with another key"]
        found: Counter[int] = Counter()
        connection = await self._connect("127.99.9.9", tls=True)
        for _ in range(tries):
            statuses, _ = await _answers(connection, made(self._loot))
            found[statuses[0]] += 1
        connection[1].transport.abort()
        return found

    async def _series(self, name: str, kind: Kind, tries: int, source: str) -> None:
        """Send tries of one kind, on one connection while the operator leaves it open."""
        connection: Connection | None = None
        for _ in range(tries):
            forgery, keep = kind(self._next_loot(name)), False
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    connection = connection or await self._connect(source, forgery.tls)
                    found, keep = await _answers(connection, forgery)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                found = ()
                if forgery.answers:
                    self.fire.unfired[f"{name}: {type(error).__name__}"] += 1
            self._count(name, forgery, found)
            if connection is not None and not keep:
                connection[1].transport.abort()
                connection = None
        if connection is not None:
            connection[1].transport.abort()

    def _count(self, name: str, forgery: Forgery, found: tuple[int, ...]) -> None:
        self.fire.forged += 1
        self.fire.stale += found.count(200)
        if found.count(200) > forgery.answers.count(200):
            self.fire.accepted += 1
        elif found and found != forgery.answers:
            self.fire.unfired[f"{name}: {found} instead of {forgery.answers}"] += 1

    def _next_loot(self, name: str) -> Loot:
        if name.removeprefix("a token ") in self._loot.tokens:
            return self._loot  # those are made for its victim
        self._turn += 1
        seat, other = (
            self._seats[(self._turn + away) % len(self._seats)] for away in (0, WORKERS // 2)
        )
        return replace(
            self._loot,
            slot=seat.slot,
            incarnation=seat.incarnation,
            own=seat.token,
            neighbour=other.token,
        )

    async def _connect(self, source: str, tls: bool) -> Connection:
        return await asyncio.open_connection(
            *("127.0.0.1", self._port),
            ssl=self._context if tls else None,
            server_hostname=SERVER_NAME if tls else None,
            local_addr=(source, 0),
        )


async def _answers(connection: Connection, forgery: Forgery) -> tuple[tuple[int, ...], bool]:
    """Send a forgery; return the status of each answer, and whether the connection goes on."""
    reader, writer = connection
    writer.write(forgery.sent)
    if not forgery.answers:
        return ((200,) if b" 200 " in await reader.read() else ()), False
    found, closes = [], False
    for _ in forgery.answers:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        found.append(int(head[9:12]))
        closes = closes or b"Connection: close" in head
    return tuple(found), not closes


def results(process: OperatorProcess) -> Counter[str]:
    """Return the operator's own count of what it made of the reports."""
    return Counter({name: int(float(n)) for name, n in _RESULT.findall(process.metrics())})


def reviews(process: OperatorProcess) -> int:
    """Return how many tokens the API server was asked about."""
    return sum(int(float(count)) for count in _REVIEWS.findall(process.metrics()))


async def enlist(api: Client, process: OperatorProcess) -> tuple[list[Seat], ssl.SSLContext]:
    """Have all gangs start with real agents; return what those knew, and be in their place."""
    async with asyncio.timeout(ENLIST_SECONDS):
        crew = await api_writes.start(api, process, GANGS, WORKERS)
    agents = [crew.agents[name] for name in sorted(crew.agents)]
    await crew.stop()
    # The polls that they left behind are still held, and counted when they are let go.
    await asyncio.sleep(HOLD_SECONDS + 1)
    return [agent.seat for agent in agents], agents[0].context


async def loot_of(api: Client, plane: ControlPlane, seats: Sequence[Seat]) -> tuple[Loot, Mint]:
    """Return what the intruder knows of the first worker of the first gang."""
    victim = seats[0]
    neighbour = next(seat for seat in seats[1:] if seat.slot != victim.slot)
    mint = Mint(plane.pki.directory, victim.token)
    loot = Loot(
        slot=victim.slot,
        incarnation=victim.incarnation,
        attempt=1,
        sequence=1,  # every agent that runs has sent it
        own=victim.token,
        neighbour=neighbour.token,
        tokens=await forged_tokens(api, mint, neighbour.token),
    )
    return loot, mint


async def check_mint(intruder: Intruder, loot: Loot, mint: Mint) -> None:
    """Assert that what the mint makes is refused for its claims, not for how it is made."""
    good = Forgery(message(loot.lie(sequence=0), token=mint.signed()), (200,))
    await intruder.attack({"a token as the API server makes it": lambda _: good}, 1, 1)
    if intruder.fire.unfired:
        raise ClusterError(f"the tokens of the harness prove nothing: {intruder.fire.unfired}")
    intruder.fire.forged = 0


async def check_jobs(api: Client) -> list[str]:
    """Return which jobs are not as they were when their agents had just started."""
    wrong = []
    for job in await api.items(JOBS):
        status = job["status"]
        total = (status.get("recovery") or {}).get("total", 0)
        if (status["attempt"]["number"], status["attempt"]["state"], total) != (1, "Running", 0):
            wrong.append(f"{job['metadata']['name']}: {status['attempt']}")
    return wrong


async def measure(plane: ControlPlane) -> dict[str, Any]:
    """Return the figures."""
    async with client(plane) as api:
        with operator(plane, LEASE_SECONDS) as process:
            seats, context = await enlist(api, process)
            say(f"{len(seats)} agents run; their reports go on while forged ones come")
            before, asked = results(process), reviews(process)
            heartbeats = Load(seats, context, per_second=len(seats) / HEARTBEAT_SECONDS)
            heartbeats.start()
            loot, mint = await loot_of(api, plane, seats)
            intruder = Intruder(process.agent_port, context, loot, seats)
            await check_mint(intruder, loot, mint)
            every = kinds()
            await intruder.attack(every, SERIES, TRIES)
            guesses = await intruder.guess(60)
            asked = reviews(process) - asked
            say(f"{asked} tokens were reviewed; who guesses from one address hears {guesses}")
            wrong = await check_jobs(api)
            await asyncio.to_thread(heartbeats.stop)

            say(f"{LOAD_PER_SECOND} valid reports per second for {LOAD_SECONDS} s")
            load = Load(
                seats,
                context,
                per_second=LOAD_PER_SECOND,
                seconds=LOAD_SECONDS,
                first_sequence=LATER,
            )
            used = process.cpu_seconds()
            load.start()
            await asyncio.to_thread(load.join)
            used = process.cpu_seconds() - used
            load.stop()
            taken = results(process) - before
            wrong += await check_jobs(api)
    log = (plane.state / "logs" / "operator.log").read_text()
    fire = intruder.fire
    valid = heartbeats.answered + load.answered
    # Whatever was taken beyond the valid ones was forged.
    effects = abs(taken["Accepted"] - valid[200]) + abs(taken["Stale"] - fire.stale) + len(wrong)
    for line in [*wrong, *map(str, fire.unfired.items())]:
        say(f"WRONG: {line}")
    say(f"the operator's own count: {dict(taken)}; answers to valid reports: {dict(valid)}")
    return {
        "bench": "reports",
        "forged": fire.forged,
        "kinds": len(every),
        "forged_accepted": fire.accepted + effects + guesses[200],
        "unfired": fire.unfired.total(),
        "reviews": asked,
        "limited_guesses": guesses[429],
        "valid": valid.total(),
        "valid_rejected": valid.total() - valid[200],
        "per_second": load.answered[200] / load.elapsed_seconds,
        "p50_ms": 1000 * percentile(load.latencies, 0.5),
        "p99_ms": 1000 * percentile(load.latencies, 0.99),
        "max_ms": 1000 * max(load.latencies),
        "operator_core_percent": 100 * used / load.elapsed_seconds,
        "tracebacks": log.count("Traceback"),
    }


def main() -> None:
    report.begin("reports")
    with api_tier(NODES) as plane:
        report.finish(asyncio.run(measure(plane)))


if __name__ == "__main__":
    main()
