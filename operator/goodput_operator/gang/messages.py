"""Say why a gang does not fit, in the words of whoever can change that. Pure."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from goodput_operator.gang.nodes import Account, Eligible, Node
from goodput_operator.gang.placement import GangRequest
from goodput_operator.observe.resources import PODS, format_quantity, is_accelerator

_NODES_NAMED = 3


def explain(request: GangRequest, eligible: Eligible, fits: int, now: datetime) -> str:
    """Return what is needed, how much of it fits, and what is in the way.

    Args:
        request: of the gang.
        eligible: the nodes that its constraints allow.
        fits: how many of the missing workers find room.
        now: the present, for the exclusions.
    """
    allowed = [pair for pair in eligible.accounts if not request.avoids(pair[0].name, now)]
    excluded = len(eligible.accounts) - len(allowed)
    if not allowed:
        return _no_node(request, eligible, excluded)
    name = _constraint(request, allowed)
    parts = [f"needs {_needed(request, name)}", f"{fits} {'fits' if fits == 1 else 'fit'}"]
    largest = max(node.allocatable.get(name, 0) for node, _ in allowed)
    if largest < request.requests[name]:
        parts.append(f"no node is that large: the largest has {_amount(name, largest)}")
    elif request.constraints.one_per_node and len(allowed) < len(request.slots):
        parts.append(f"one worker a node ({request.constraints.one_per_node})")
    elif room := _best(request, allowed, name):
        parts.append(room)
    if excluded:
        parts.append(f"{excluded} excluded after failures")
    return "; ".join(parts)


def _no_node(request: GangRequest, eligible: Eligible, excluded: int) -> str:
    refusals = Counter(eligible.refusals)
    if excluded:
        refusals["excluded after failures"] = excluded
    total = sum(refusals.values())
    if not total:
        return "there are no nodes"
    reasons = sorted(refusals.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{request.constraints.wanted()} ({total} {_plural('node', total)}: {counts})"


def _needed(request: GangRequest, name: str) -> str:
    workers = len(request.slots)
    more = "more " if request.bound else ""
    if name == PODS:
        return f"{workers} {more}{_plural('worker', workers)}"
    return f"{workers} {more}{_plural('worker', workers)} × {_amount(name, request.requests[name])}"


def _constraint(request: GangRequest, allowed: Iterable[tuple[Node, Account]]) -> str:
    """Return the resource that runs out first on most nodes; of equals, an accelerator."""
    first = Counter(
        min(
            request.requests,
            key=lambda name: (
                account.free(name) // request.requests[name],
                not is_accelerator(name),
                name,
            ),
        )
        for _, account in allowed
    )
    return min(first, key=lambda name: (-first[name], not is_accelerator(name), name))


def _best(request: GangRequest, allowed: Iterable[tuple[Node, Account]], name: str) -> str:
    """Return the nodes that come closest to holding a worker, with what they have."""
    full = [
        (-account.free(name), node.name)
        for node, account in allowed
        if account.free(name) < request.requests[name]
    ]
    close = sorted(pair for pair in full if pair[0] < 0)[:_NODES_NAMED]
    if close:
        return ", ".join(f"{node} has {format_quantity(name, -free)} free" for free, node in close)
    return f"{len(full)} {_plural('node', len(full))} without free {name}" if full else ""


def _amount(name: str, amount: int) -> str:
    return f"{format_quantity(name, amount)} {name}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
