"""The programs of the distribution that nodes and images need, installed where apt is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import ClusterError
from .progress import step
from .run import run

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
NODE_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "openssl": "openssl",
}
IMAGE_PROGRAMS = {"debootstrap": "debootstrap", "busybox": "busybox-static"}
API_PROGRAMS = {"openssl": "openssl"}
CNI_DIRECTORY = "/usr/lib/cni"
_CNI_PACKAGE = "containernetworking-plugins"


def which(program: str) -> str | None:
    """Return the path of a program, also in the administrator's directories."""
    return shutil.which(program, path=os.environ.get("PATH", "/usr/bin:/bin") + ":" + _SBIN)


def missing(programs: Mapping[str, str], cni: bool = False) -> list[str]:
    """Return the packages, sorted, that are needed for `programs` and not installed."""
    packages = {package for program, package in programs.items() if which(program) is None}
    if cni and not Path(CNI_DIRECTORY, "bridge").exists():
        packages.add(_CNI_PACKAGE)
    return sorted(packages)


def can_install() -> bool:
    """Tell whether missing packages can be installed: root, on a system with apt."""
    return os.geteuid() == 0 and which("apt-get") is not None


def install(packages: Iterable[str]) -> None:
    """Install packages of the distribution; nothing is started by that without systemd.

    Raises:
        ClusterError: this is not root on a Debian or Ubuntu, or apt failed.
    """
    wanted = list(packages)
    if not wanted:
        return
    if not can_install():
        raise ClusterError(f"install these packages first: {' '.join(wanted)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {' '.join(wanted)}"):
        run(["apt-get", "update", "-q"], timeout_seconds=300, env=env)
        argv = ["apt-get", "install", "-qy", "--no-install-recommends", *wanted]
        run(argv, timeout_seconds=900, env=env)
