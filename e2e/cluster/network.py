"""The network of the nodes: one bridge on the host, one network namespace per node.

Nothing here needs rules in the host's firewall: nodes reach each other through the bridge,
each routes its own pods, and everything vanishes with the namespaces and the bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import packages
from .run import run

BRIDGE = "goodput0"
HOST_ADDRESS = "10.88.0.1"
POD_RANGE = "10.244.0.0/16"
_NAMESPACES = Path("/run/netns")
_PREFIX = "goodput-"


def node_address(index: int) -> str:
    """Return the address of the node with this number, which counts from 1."""
    return f"10.88.0.{10 + index}"


def pod_range(index: int) -> str:
    """Return the range that the node's pods take their addresses from."""
    return f"10.244.{index}.0/24"


def namespace(name: str) -> Path:
    """Return the file that names a node's network namespace."""
    return _NAMESPACES / f"{_PREFIX}{name}"


def create_bridge() -> None:
    """Make the bridge and give the host its address on it."""
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def create_node(index: int, count: int) -> None:
    """Make the namespace of node `index` of `count`, with routes to all other nodes' pods."""
    name, inside = f"node{index}", f"{_PREFIX}node{index}"
    _ip("netns", "add", inside)
    _ip("link", "add", _link(name), "type", "veth", "peer", "name", "eth0", "netns", inside)
    _ip("link", "set", _link(name), "master", BRIDGE, "up")
    commands = [
        "link set lo up",
        f"addr add {node_address(index)}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {HOST_ADDRESS}",
    ]
    commands += [
        f"route add {pod_range(other)} via {node_address(other)}"
        for other in range(1, count + 1)
        if other != index
    ]
    run([_program(), "-n", inside, "-batch", "-"], input_text="\n".join(commands) + "\n")
    _ip("route", "add", pod_range(index), "via", node_address(index), "dev", BRIDGE)
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
    run(["nsenter", f"--net={namespace(name)}", "sh", "-c", forward])


def set_link(name: str, up: bool) -> None:
    """Plug a node's cable in, or pull it out at the host's end, which keeps its routes."""
    _ip("link", "set", _link(name), "up" if up else "down")


def drop(name: str, addresses: Sequence[str]) -> None:
    """Let nothing that the node or its pods send to these addresses arrive."""
    for address in addresses:
        _ip("-n", f"{_PREFIX}{name}", "route", "replace", "blackhole", address)


def drop_nothing(name: str) -> None:
    """End what `drop` began."""
    _ip("-n", f"{_PREFIX}{name}", "route", "flush", "type", "blackhole")


def remove() -> None:
    """Remove all namespaces and the bridge; does nothing where there are none."""
    if packages.which("ip") is None:
        return
    for file in sorted(_NAMESPACES.glob(f"{_PREFIX}*")):
        _ip("netns", "del", file.name)
    for device in sorted(Path("/sys/class/net").glob("gpnode*")):
        # A namespace that still dies holds its link for a moment longer.
        run([_program(), "link", "del", device.name], check=False)
    if Path("/sys/class/net", BRIDGE).exists():
        _ip("link", "del", BRIDGE)


def _link(name: str) -> str:
    return f"gp{name}"


def _program() -> str:
    return packages.which("ip") or "ip"


def _ip(*arguments: str) -> None:
    run([_program(), *arguments], timeout_seconds=20)
