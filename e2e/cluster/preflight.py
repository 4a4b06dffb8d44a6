"""Say whether a cluster can run on this machine, before anything is changed on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from . import binaries, cgroups, packages
from .paths import state_dir

Tier = Literal["api", "node"]
_CAP_SYS_ADMIN = 21
_CAP_NET_ADMIN = 12
_CAP_SYS_RESOURCE = 24


def unavailable_reason(tier: Tier) -> str | None:
    """Return why a tier cannot run here, in one sentence for a skipped test, or None.

    `api` is the control plane alone, `node` has real nodes besides.
    """
    return _api_reason() or (_node_reason() if tier == "node" else None)


def may_raise_limits() -> bool:
    """Tell whether this process may lower the kernel's out-of-memory score of others."""
    return _has_capability(_CAP_SYS_RESOURCE)


def _api_reason() -> str | None:
    if os.uname().sysname != "Linux":
        return "the local cluster needs Linux"
    lacking = [name for name in binaries.API_TOOLS if binaries.find(name) is None]
    if lacking and not binaries.can_build():
        return f"{', '.join(lacking)} must be built first, and there is no Go here"
    if packages.missing(packages.API_PROGRAMS) and not packages.can_install():
        return "openssl is not installed"
    parent = next(path for path in (state_dir(), *state_dir().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        return f"{state_dir()} cannot be written; set GOODPUT_CLUSTER_STATE"
    return None


def _node_reason() -> str | None:
    if os.geteuid() != 0:
        return "real nodes need root"
    if not (_has_capability(_CAP_SYS_ADMIN) and _has_capability(_CAP_NET_ADMIN)):
        return "real nodes need CAP_SYS_ADMIN and CAP_NET_ADMIN"
    for kind in ("net", "mnt"):
        if not Path("/proc/self/ns", kind).exists():
            return f"this kernel has no {kind} namespaces"
    if "overlay" not in Path("/proc/filesystems").read_text() and not _loads("overlay"):
        return "this kernel has no overlay file system"
    if not _cgroups_are_writable():
        return "the cgroup hierarchies below /sys/fs/cgroup cannot be written"
    lacking = packages.missing(packages.NODE_PROGRAMS, cni=True)
    if lacking and not packages.can_install():
        return f"these packages are not installed: {' '.join(lacking)}"
    return None


def _cgroups_are_writable() -> bool:
    if cgroups.version() == 2:
        return os.access(cgroups.ROOT / "cgroup.subtree_control", os.W_OK)
    return all(
        os.access(cgroups.ROOT / controller / "cgroup.procs", os.W_OK)
        for controller in ("cpu", "cpuacct", "cpuset", "memory", "pids")
    )


def _loads(module: str) -> bool:
    modprobe = packages.which("modprobe")
    return modprobe is not None and os.system(f"{modprobe} -q {module}") == 0


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
