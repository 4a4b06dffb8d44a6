"""The network of the nodes: one bridge on the host, one network namespace per node.

Nothing here needs rules in the host's firewall: nodes reach each other through the bridge,
each routes its own pods, and everything vanishes with the namespaces and the bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import packages
from .paths import cluster_number, numbered
from .run import run

_NAMESPACES = Path("/run/netns")
_ALL = "goodput"


def host_address() -> str:
    """Return the host's address on the bridge."""
    return f"10.88.{cluster_number() - 1}.1"


def node_address(index: int) -> str:
    """Return the address of the node with this number, which counts from 1."""
    return f"10.88.{cluster_number() - 1}.{10 + index}"


def all_pods() -> str:
    """Return the range that all pods take their addresses from."""
    return f"10.{243 + cluster_number()}.0.0/16"


def pod_range(index: int) -> str:
    """Return the range that the node's pods take their addresses from."""
    return f"10.{243 + cluster_number()}.{index}.0/24"


def namespace(name: str) -> Path:
    """Return the file that names a node's network namespace."""
    return _NAMESPACES / _inside(name)


def create_bridge() -> None:
    """Make the bridge and give the host its address on it."""
    _ip("link", "add", _bridge(), "type", "bridge")
    _ip("addr", "add", f"{host_address()}/24", "dev", _bridge())
    _ip("link", "set", _bridge(), "up")


def create_node(index: int, count: int) -> None:
    """Make the namespace of node `index` of `count`, with routes to all other nodes' pods."""
    name, inside = f"node{index}", _inside(f"node{index}")
    _ip("netns", "add", inside)
    _ip("link", "add", _link(name), "type", "veth", "peer", "name", "eth0", "netns", inside)
    _ip("link", "set", _link(name), "master", _bridge(), "up")
    commands = [
        "link set lo up",
        f"addr add {node_address(index)}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {host_address()}",
    ]
    commands += [
        f"route add {pod_range(other)} via {node_address(other)}"
        for other in range(1, count + 1)
        if other != index
    ]
    run([_program(), "-n", inside, "-batch", "-"], input_text="\n".join(commands) + "\n")
    _ip("route", "add", pod_range(index), "via", node_address(index), "dev", _bridge())
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
    run(["nsenter", f"--net={namespace(name)}", "sh", "-c", forward])


def set_link(name: str, up: bool) -> None:
    """Plug a node's cable in, or pull it out at the host's end, which keeps its routes."""
    _ip("link", "set", _link(name), "up" if up else "down")


def drop(name: str, addresses: Sequence[str]) -> None:
    """Let nothing that the node or its pods send to these addresses arrive."""
    for address in addresses:
        _ip("-n", _inside(name), "route", "replace", "blackhole", address)


def drop_nothing(name: str) -> None:
    """End what `drop` began."""
    _ip("-n", _inside(name), "route", "flush", "type", "blackhole")


def remove() -> None:
    """Remove all namespaces and the bridge; does nothing where there are none."""
    if packages.which("ip") is None:
        return
    for file in sorted(_NAMESPACES.glob(_inside("node*"))):
        _ip("netns", "del", file.name)
    for device in sorted(Path("/sys/class/net").glob(_link("node*"))):
        # A namespace that still dies holds its link for a moment longer.
        run([_program(), "link", "del", device.name], check=False)
    if Path("/sys/class/net", _bridge()).exists():
        _ip("link", "del", _bridge())


def is_used() -> bool:
    """Tell whether any cluster of this machine has a node."""
    return any(_NAMESPACES.glob(f"{_ALL}*node*"))


def _bridge() -> str:
    return f"{_ALL}{cluster_number() - 1}"


def _inside(name: str) -> str:
    return f"{numbered(_ALL)}-{name}"


def _link(name: str) -> str:
    return f"gp{cluster_number()}{name}"


def _program() -> str:
    return packages.which("ip") or "ip"


def _ip(*arguments: str) -> None:
    run([_program(), *arguments], timeout_seconds=20)
