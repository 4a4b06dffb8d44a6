"""Recorded failures of nodes: when each node of a cluster could not be used.

A trace is read from the files that its authors published; nothing of it is kept here.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from random import Random

DAY_MILLISECONDS = 86_400_000


@dataclass(frozen=True, slots=True, order=True)
class Outage:
    """From `begin` until `end` (milliseconds of the trace, end excluded) `node` is of no use."""

    node: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened to a cluster.

    Attributes:
        name: of the recording.
        nodes: every node that ever was.
        wanted: nodes that a job would like to have at any time.
        milliseconds: length of the recording; it begins at 0.
        outages: by node and time; those of one node neither overlap nor touch.
        spot: its nodes are spot instances, which are expected to be reclaimed soon.
    """

    name: str
    nodes: tuple[str, ...]
    wanted: int
    milliseconds: int
    outages: tuple[Outage, ...]
    spot: bool = False

    def superposed(self, copies: int, seed: int) -> "Trace":
        """Return a cluster on which `copies` recordings come down at once: a k-fold fault rate.

        The first is the recording itself. In each other one the nodes are permuted and the time
        is turned by a random amount: what leaves at the end comes in again at the beginning. A
        node is of use only while none of its outages lasts.
        """
        random = Random(seed)  # noqa: S311 – a seed is wanted, not a secret
        outages = list(self.outages)
        for _ in range(copies - 1):
            shuffled = list(self.nodes)
            random.shuffle(shuffled)
            name = dict(zip(self.nodes, shuffled, strict=True))
            turn = random.randrange(self.milliseconds)
            for outage in self.outages:
                outages += self._turned(replace(outage, node=name[outage.node]), turn)
        return replace(self, outages=merged(outages))

    def milliseconds_by_healthy(self) -> dict[int, int]:
        """Return for how long how many nodes were of use."""
        change = Counter[int]()
        for outage in self.outages:
            change[outage.begin] -= 1
            change[outage.end] += 1
        healthy, since, result = len(self.nodes), 0, Counter[int]()
        for at in sorted(change):
            result[healthy] += at - since
            healthy, since = healthy + change[at], at
        result[healthy] += self.milliseconds - since
        return {number: lasted for number, lasted in result.items() if lasted}

    def _turned(self, outage: Outage, turn: int) -> list[Outage]:
        begin = (outage.begin + turn) % self.milliseconds
        end = begin + outage.end - outage.begin
        if end <= self.milliseconds:
            return [Outage(outage.node, begin, end)]
        return [
            Outage(outage.node, begin, self.milliseconds),
            Outage(outage.node, 0, end - self.milliseconds),
        ]


def merged(outages: Iterable[Outage]) -> tuple[Outage, ...]:
    """Return the same downtime, sorted, as outages that neither overlap nor touch."""
    result: list[Outage] = []
    for _, of_node in groupby(sorted(outages), key=attrgetter("node")):
        last: Outage | None = None
        for outage in of_node:
            if last is not None and outage.begin <= last.end:
                last = replace(last, end=max(last.end, outage.end))
                result[-1] = last
            elif outage.end > outage.begin:
                last = outage
                result.append(last)
    return tuple(result)


def read_infinitehbd(folder: Path) -> Trace:
    """Read 400 servers of a pre-training cluster, 349 days (InfiniteHBD, SIGCOMM'25).

    Times are in days. A node with two open faults is back when the last is repaired. Nodes
    without a fault are not listed; they are numbered here.
    """
    events = json.loads((folder / "fault_trace.json").read_text())
    events.sort(key=lambda event: (event["event_time"], event["event_type"] == "fault_end"))
    length = round(max(event["event_time"] for event in events) * DAY_MILLISECONDS)
    open_since: dict[str, list[int]] = {}
    outages = []
    for event in events:
        node, at = event["node_id"], round(event["event_time"] * DAY_MILLISECONDS)
        begun = open_since.setdefault(node, [])
        if event["event_type"] == "fault_start":
            begun.append(at)
        else:
            outages.append(Outage(node, begun.pop(0), at))
    outages += [Outage(node, at, length) for node, begun in open_since.items() for at in begun]
    listed = sorted(open_since)
    unharmed = [f"unharmed-{number}" for number in range(400 - len(listed))]
    return Trace("infinitehbd", (*listed, *unharmed), 400, length, merged(outages))


def read_spot_bamboo(folder: Path) -> Trace:
    """Read spot instances that came and went on AWS p3 within 11 hours (Bamboo, NSDI'23)."""
    with (folder / "p3-trace.csv").open(newline="") as file:
        events = [(int(at), kind, node) for at, kind, node in csv.reader(file)]
    length = max(at for at, _, _ in events)
    nodes = sorted({node for _, _, node in events})
    gone_since = dict.fromkeys(nodes, 0)
    outages, present, most = [], 0, 0
    for at, kind, node in events:
        if kind == "add":
            outages.append(Outage(node, gone_since.pop(node), at))
        else:
            gone_since[node] = at
        present += 1 if kind == "add" else -1
        most = max(most, present)
    outages += [Outage(node, at, length) for node, at in gone_since.items()]
    return Trace("spot-bamboo", tuple(nodes), most, length, merged(outages), spot=True)


READERS = {"infinitehbd": read_infinitehbd, "spot-bamboo": read_spot_bamboo}
"""How each trace is read, by the name of its folder."""
