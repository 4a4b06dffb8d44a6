"""The book of capacity: what each node has left, what is promised, and who waits for room.

The shell feeds it with every change of a node or pod and asks it for placements; it makes no
call and knows no clock. A gang is placed and promised in one go, without anything else running
in between; so two gangs never count on the same room, and one that does not fit holds nothing.

The free capacity of a node is what it can allocate, less the requests of all pods on it that
have not ended, less what is promised to pods of ours that are not to be seen on it yet. All
memory is in the API server: a restarted operator rebuilds the book from its caches, where a
pending worker still shows the node that it is pinned to.

**Who is served first.** Gangs wait in order: higher priority first, then the longest waiting. A
younger gang may take room that an older one could use (backfill), but only until the older has
waited `patience_seconds`. From then on, the nodes that the older one could use are closed to
gangs behind it, so that what its elders leave adds up until it fits: a large gang is never
starved by small ones. Six things follow from what we can and cannot know:

- Nobody is preempted.
- Room is kept only for a gang that would fit if all workers of ours left: what other programs'
  pods hold does not come back by our waiting.
- A gang that replaces lost workers is not held back: while it waits, the nodes that it keeps
  stand idle, and it takes no more than what it had.
- A gang that trains and would like to grow takes what is left over: the room that any waiting
  gang could start in is closed to it, and its own waiting closes nothing to anybody.
- A gang that has trained and lacks workers counts as waiting since its job was queued: what it
  still holds stands idle, so it comes before whoever was queued since.
- The caller says `leave` for a gang that no longer wants to start; a forgotten one would keep
  others waiting.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from goodput_operator.gang.constraints import Constraints
from goodput_operator.gang.messages import explain
from goodput_operator.gang.nodes import (
    Account,
    Claim,
    Eligible,
    PodKey,
    has_ended,
    read_claim,
    read_node,
)
from goodput_operator.gang.placement import (
    LEFT_OVER,
    GangRequest,
    JobKey,
    NoRoom,
    Placement,
    Room,
    choose,
)
from goodput_operator.observe.resources import Resources, is_accelerator

PATIENCE_SECONDS = 300
PROMISE_SECONDS = 120
"""How long a promise outlives the silence about its pod: far longer than a cache lags behind."""

_CONSTRAINTS_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Promise:
    job: JobKey
    claim: Claim
    until: datetime
    predecessor: str
    """UID of the pod that bore the name when the promise was made: its end settles nothing."""


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    """A gang on the waiting list; they compare in the order in which they are served."""

    precedence: int
    since: datetime
    key: JobKey
    request: GangRequest = field(compare=False)


class Book:
    """What is free and promised on each node, and the gangs that wait. See the module."""

    def __init__(
        self,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        promise_seconds: float = PROMISE_SECONDS,
    ) -> None:
        self._patience = timedelta(seconds=patience_seconds)
        self._promise_time = timedelta(seconds=promise_seconds)
        self._accounts: dict[str, Account] = {}
        self._pods: dict[PodKey, Claim] = {}
        self._promises: dict[PodKey, _Promise] = {}
        self._waiting: dict[JobKey, _Waiting] = {}
        self._eligible: dict[Constraints, Eligible] = {}

    # --- what the caches see ------------------------------------------------------------

    def node_changed(self, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
        """Take in a node's change; None for none. Return whether there may be more room now."""
        name = (new or old or {})["metadata"]["name"]
        account = self._accounts.setdefault(name, Account())
        before, account.node = account.node, read_node(new) if new else None
        self._tidy(name)
        if before == account.node:
            return False
        self._eligible.clear()
        return account.node is not None

    def pod_changed(self, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
        """Take in a pod's change; None for none. Return whether there may be more room now."""
        metadata = (new or old or {})["metadata"]
        key = (metadata["namespace"], metadata["name"])
        claim = read_claim(new) if new else None
        before = self._pods.pop(key, None)
        if before:
            self._charge(before, -1)
        freed = before is not None and claim is None
        promise = self._promises.get(key)
        settled = claim is not None or new is None or has_ended(new)
        if promise and settled and metadata.get("uid", "") != promise.predecessor:
            freed = self.release(*key) and claim is None
        if claim:
            self._pods[key] = claim
            self._charge(claim, 1)
        return freed

    # --- what the reconciler asks and tells ---------------------------------------------

    def place(self, key: JobKey, request: GangRequest, now: datetime) -> Placement | NoRoom:
        """Return a node for each missing slot, or why there is none. Promises nothing.

        What the gang was promised before and has not used is no obstacle to it: those are the
        very slots that it asks for again.
        """
        self._expire(now)
        unused = [one.claim for one in self._promises.values() if one.job == key]
        for claim in unused:
            self._charge(claim, -1)
        try:
            return self._place(key, request, now)
        finally:
            for claim in unused:
                self._charge(claim, 1)

    def _place(self, key: JobKey, request: GangRequest, now: datetime) -> Placement | NoRoom:
        rooms: Sequence[Room] = self._rooms(request, now)
        fits = sum(room.workers for room in rooms)
        if fits < len(request.slots):
            return NoRoom(explain(request, self._eligible_for(request), fits, now), fits)
        if not request.bound or request.priority == LEFT_OVER:
            for elder in self._elders(key, request, now):
                rooms = self._not_kept_for(elder, rooms, now)
                fits = sum(room.workers for room in rooms)
                if fits < len(request.slots):
                    return NoRoom(_behind(elder.key, self._patience), fits, elder.key)
        return choose(request.slots, rooms, self._racks_in_use(request))

    def promise(
        self, key: JobKey, nodes: Mapping[str, str], requests: Resources, now: datetime
    ) -> None:
        """Hold the nodes of a placement for pods about to be created; the gang waits no more.

        Args:
            key: the job.
            nodes: the node of each pod name.
            requests: what one of the pods asks for.
            now: the present; a promise whose pod never shows up ends by itself.
        """
        self._expire(now)
        self.leave(key)
        for name, node in nodes.items():
            pod = (key[0], name)
            self.release(*pod)
            before = self._pods.get(pod)
            claim = Claim(node, dict(requests), ours=True)
            self._promises[pod] = _Promise(
                key, claim, now + self._promise_time, before.uid if before else ""
            )
            self._charge(claim, 1)

    def release(self, namespace: str, pod_name: str) -> bool:
        """Take a promise back: its pod was not created. Return whether there was one."""
        promise = self._promises.pop((namespace, pod_name), None)
        if promise:
            self._charge(promise.claim, -1)
        return promise is not None

    def wait(self, key: JobKey, request: GangRequest, since: datetime) -> None:
        """Put a gang that has no room since `since` on the waiting list, or renew its needs."""
        self._waiting[key] = _Waiting(-request.priority, since, key, request)

    def leave(self, key: JobKey) -> None:
        """Take a gang off the waiting list: placed, suspended, finished or deleted."""
        self._waiting.pop(key, None)

    def waiting(self) -> tuple[JobKey, ...]:
        """Return the waiting gangs in the order in which they are to be served."""
        return tuple(gang.key for gang in sorted(self._waiting.values()))

    def free(self, node: str) -> dict[str, int]:
        """Return what a node has left, less than 0 where it is overcommitted."""
        account = self._accounts.get(node, Account())
        offered = account.node.allocatable if account.node else {}
        return {name: account.free(name) for name in offered}

    def accelerators(self) -> dict[str, tuple[int, int]]:
        """Return how many accelerators the nodes that take workers have and have left, by name."""
        found: dict[str, tuple[int, int]] = {}
        for account in self._accounts.values():
            if account.node is None or account.node.closed:
                continue
            for name, amount in account.node.allocatable.items():
                if is_accelerator(name):
                    there, left = found.get(name, (0, 0))
                    found[name] = there + amount, left + max(0, account.free(name))
        return found

    def used(self) -> dict[str, dict[str, int]]:
        """Return what is held or promised on each node."""
        return {name: dict(one.used) for name, one in sorted(self._accounts.items())}

    # --- inside -------------------------------------------------------------------------

    def _charge(self, claim: Claim, sign: int) -> None:
        self._accounts.setdefault(claim.node, Account()).charge(claim, sign)
        self._tidy(claim.node)

    def _tidy(self, name: str) -> None:
        account = self._accounts[name]
        if account.node is None and not account.used:
            del self._accounts[name]

    def _expire(self, now: datetime) -> None:
        """Drop promises whose pods never showed up; they stand in the order of their ends."""
        while self._promises:
            pod, promise = next(iter(self._promises.items()))
            if promise.until > now:
                return
            self.release(*pod)

    def _eligible_for(self, request: GangRequest) -> Eligible:
        """Return the nodes that the constraints allow; kept until some node changes."""
        found = self._eligible.get(request.constraints)
        if found is None:
            accounts = []
            refusals: Counter[str] = Counter()
            for account in self._accounts.values():
                if account.node is None:
                    continue
                refusal = request.constraints.refusal(account.node)
                if refusal:
                    refusals[refusal] += 1
                else:
                    accounts.append((account.node, account))
            if len(self._eligible) >= _CONSTRAINTS_KEPT:
                self._eligible.clear()
            found = self._eligible[request.constraints] = Eligible(
                tuple(accounts), frozenset(node.name for node, _ in accounts), refusals
            )
        return found

    def _rooms(
        self, request: GangRequest, now: datetime, *, without_ours: bool = False
    ) -> list[Room]:
        counted = [name for name in request.requests if is_accelerator(name)]
        alone = bool(request.constraints.one_per_node)
        taken = set(request.bound.values()) if alone else set()
        rooms = []
        for node, account in self._eligible_for(request).accounts:
            workers = account.holds(request.requests, without_ours=without_ours)
            if workers and node.name not in taken and not request.avoids(node.name, now):
                rooms.append(
                    Room(
                        name=node.name,
                        rack=node.labels.get(request.topology_key, ""),
                        workers=1 if alone else workers,
                        accelerators=sum(account.free(name) for name in counted),
                    )
                )
        return rooms

    def _racks_in_use(self, request: GangRequest) -> Iterable[str]:
        for node in request.bound.values():
            account = self._accounts.get(node)
            if account and account.node:
                yield account.node.labels.get(request.topology_key, "")

    def _elders(self, key: JobKey, request: GangRequest, now: datetime) -> Iterable[_Waiting]:
        """Return the gangs for which room is kept from this one, first served first.

        One who takes what is left over comes after all others, however short they have waited.
        """
        own = self._waiting.get(key)
        place = _Waiting(-request.priority, own.since if own else now, key, request)
        patient_until = now if request.priority == LEFT_OVER else now - self._patience
        return sorted(
            gang
            for gang in self._waiting.values()
            if gang.key != key and gang < place and gang.since <= patient_until
        )

    def _not_kept_for(
        self, elder: _Waiting, rooms: Sequence[Room], now: datetime
    ) -> Sequence[Room]:
        """Return the rooms that an elder cannot use; all, if it would not fit without ours."""
        if self._eligible_for(elder.request).names.isdisjoint(room.name for room in rooms):
            return rooms
        wanted = self._rooms(elder.request, now, without_ours=True)
        if sum(room.workers for room in wanted) < _whole_size(elder.request):
            return rooms
        kept = {room.name for room in wanted}
        return [room for room in rooms if room.name not in kept]


def _whole_size(request: GangRequest) -> int:
    """Return how many workers need room if all of ours left; those bound keep theirs if alone."""
    alone = request.constraints.one_per_node
    return len(request.slots) + (0 if alone else len(request.bound))


def _behind(elder: JobKey, patience: timedelta) -> str:
    return (
        f"there is room, but it is kept for {elder[0]}/{elder[1]}, which comes first "
        f"and was queued more than {patience.total_seconds():.0f} s ago"
    )
