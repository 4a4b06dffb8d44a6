"""What happened in a simulated world, in order: writes, lives, commits, harms.

Plain values and no judgement; `oracle` reads them. Times are seconds on the virtual clock.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from goodput.protocol import Commit

Json = dict[str, Any]

SOMEBODY = "somebody"
"""The actor of what no part of the cluster and no operator does: a user, or a scenario."""


@dataclass(frozen=True, slots=True)
class Write:
    """A change of what is stored, or what an operator asked for and did not get.

    Attributes:
        actor: who did it: `operator-1`, `kubelet`, `scheduler`, `somebody` ...
        verb: create, update or delete.
        body: what an operator sent; None for all others.
        before, after: the object; None where there is none.
        code: the HTTP status of the answer.
    """

    at: float
    actor: str
    verb: str
    plural: str
    namespace: str
    name: str
    subresource: str = ""
    body: Json | None = None
    before: Json | None = None
    after: Json | None = None
    code: int = 200

    @property
    def by_operator(self) -> bool:
        return self.actor.startswith("operator-")

    @property
    def accepted(self) -> bool:
        return self.code < 400


@dataclass(frozen=True, slots=True)
class Started:
    """A training process begins.

    Attributes:
        run_id: names the job and the attempt; all processes of one world have it.
        master: where its ranks meet.
        beside: attempts whose processes live now where nothing keeps them from doing harm.
    """

    at: float
    pod_uid: str
    pod: str
    run_id: str
    attempt: int
    rank: int
    workers: int
    master: str = ""
    beside: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Ended:
    """A training process ends.

    Attributes:
        cause: `itself`, `told` (a signal of its agent), `peers` (they failed), `torn` (its
            container or machine is gone) or `done` (all is trained).
    """

    at: float
    pod_uid: str
    pod: str
    run_id: str
    rank: int
    exit_code: int
    cause: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The gang of an attempt went on from this commit; None: from nothing."""

    at: float
    attempt: int
    commit: Commit | None


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint was published."""

    at: float
    commit: Commit


@dataclass(frozen=True, slots=True)
class Pruned:
    """A process of `attempt` deleted a checkpoint."""

    at: float
    attempt: int
    commit: Commit


@dataclass(frozen=True, slots=True)
class Harm:
    """The world did something that is not in the plan.

    Attributes:
        kind: one word, such as `NodeLost`.
        hurts: training cannot go on through it, so it may cost an incident.
    """

    at: float
    kind: str
    what: str = ""
    hurts: bool = False


@dataclass(frozen=True, slots=True)
class Led:
    """A replica leads from now on."""

    at: float
    replica: str


@dataclass(frozen=True, slots=True)
class Died:
    """A replica does nothing more."""

    at: float
    replica: str


@dataclass(frozen=True, slots=True)
class Visited:
    """A pass ended, in the work queue's words: ok, conflict, api_error, error or bug."""

    at: float
    replica: str
    result: str


@dataclass(frozen=True, slots=True)
class Reported:
    """A report that no agent sent when it should have: forged, or sent again, or too late."""

    at: float
    pod_uid: str
    result: str


@dataclass(frozen=True, slots=True)
class Rest:
    """From here on nothing happens in the world."""

    at: float


Entry = (
    Write
    | Started
    | Ended
    | Restored
    | Committed
    | Pruned
    | Harm
    | Led
    | Died
    | Visited
    | Reported
    | Rest
)
E = TypeVar("E", bound=Entry)


@dataclass(slots=True)
class History:
    """All of it, oldest first."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)

    def of(self, kind: type[E]) -> Iterator[E]:
        """All entries of one kind."""
        return (entry for entry in self.entries if isinstance(entry, kind))

    @property
    def ends_at(self) -> float:
        return self.entries[-1].at if self.entries else 0.0

    def told(self, upto: int | None = None) -> str:
        """The history in words, one line each, up to and with the entry at this position."""
        shown = self.entries if upto is None else self.entries[: upto + 1]
        return "\n".join(line for entry in shown if (line := _line(entry)))


def clock() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


def _line(entry: Entry) -> str:
    at = f"{entry.at:9.3f}"
    match entry:
        case Write():
            answer = "" if entry.accepted else f" -> {entry.code}"
            name = " ".join(filter(None, [entry.verb, entry.plural, entry.name, entry.subresource]))
            return f"{at} {entry.actor}: {name}{answer}{_change(entry)}"
        case Visited(result="ok"):
            return ""
        case _:
            values = [getattr(entry, name) for name in entry.__slots__ if name != "at"]
            return f"{at} {type(entry).__name__} {' '.join(str(value) for value in values)}"


def _change(write: Write) -> str:
    """What of the object is worth a word."""
    if write.plural == "trainingjobs":
        status = (write.after or {}).get("status") or {}
        attempt, recovery = status.get("attempt") or {}, status.get("recovery") or {}
        slots = [f"{one['slot']}-{one.get('incarnation', 0)}" for one in status.get("slots") or ()]
        words = [attempt.get("number"), attempt.get("state"), attempt.get("reason")]
        return f" {words} incidents {recovery.get('total', 0)} slots {slots}"
    if write.plural == "pods" and write.after is not None:
        spec, status = write.after["spec"], write.after.get("status") or {}
        ending = "ending" if write.after["metadata"].get("deletionTimestamp") else ""
        return f" {[spec.get('nodeName', ''), status.get('phase', ''), ending]}"
    return ""
