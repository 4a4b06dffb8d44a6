"""Build the cluster's programs from the Go module in `e2e/tools`, once, into the cache.

One module for all of them, so that what they share (client-go, gRPC, ...) has one version and
is compiled once.

A directory named by `KUBEBUILDER_ASSETS` is looked at first, as envtest does. What is in
the cache is keyed by everything that the build depends on, so it is never stale.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError
from .paths import REPOSITORY, cache_dir, locked
from .progress import step
from .run import run

KUBERNETES_VERSION = "1.37.1"
# Not 1.27: its encoding/json breaks /openapi/v2, and `kubectl apply` cannot validate then.
GO_TOOLCHAIN = "go1.26.8"
_BUILD_TIMEOUT_SECONDS = 3600
_MODULE = REPOSITORY / "e2e" / "tools"


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its name, and its Go package as seen from `e2e/tools`."""

    name: str
    package: str

    @property
    def built_as(self) -> str:
        """What Go calls the program: the last part of its package's path but for a version."""
        return re.sub(r"/v\d+$", "", self.package).rpartition("/")[2]


def _kubernetes(name: str) -> Tool:
    return Tool(name, f"k8s.io/kubernetes/cmd/{name}")


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Tool("helm", "helm.sh/helm/v3/cmd/helm"),
        Tool("coredns", "./coredns"),
    )
}
API_TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def find(name: str) -> Path | None:
    """Return where a tool lies already, else None."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for candidate in (*([Path(assets) / name] if assets else []), _cached(name)):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    return None


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Return the path of each named tool, building those that are missing.

    Raises:
        ClusterError: there is no Go, or a build failed.
    """
    names = list(names)
    if any(find(name) is None for name in names):
        with locked(cache_dir() / "build.lock", "building the binaries", _BUILD_TIMEOUT_SECONDS):
            missing = [TOOLS[name] for name in names if find(name) is None]
            if missing:
                _build(missing)
    return {name: found for name in names if (found := find(name)) is not None}


def can_build() -> bool:
    """Tell whether a Go tool chain is there."""
    return shutil.which("go") is not None


def _build(tools: Sequence[Tool]) -> None:
    """Build tools in one go: while one is linked, the next is compiled."""
    names = ", ".join(tool.name for tool in tools)
    if not can_build():
        raise ClusterError(f"no {names} in the cache, and there is no `go` to build it")
    home = _cached(tools[0].name).parent
    home.mkdir(parents=True, exist_ok=True)
    argv = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", _ldflags()]
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": GO_TOOLCHAIN, "GOWORK": "off"}
    with (
        step(f"building {names} (minutes the first time)"),
        tempfile.TemporaryDirectory(dir=home, prefix="partial-") as partial,
    ):
        run(
            [*argv, "-o", partial, *(tool.package for tool in tools)],
            cwd=_MODULE,
            env=env,
            timeout_seconds=_BUILD_TIMEOUT_SECONDS,
        )
        for tool in tools:
            Path(partial, tool.built_as).replace(_cached(tool.name))


def _cached(name: str) -> Path:
    digest = hashlib.sha256(f"{GO_TOOLCHAIN} {os.uname().machine} {_ldflags()}".encode())
    for file in sorted(path for path in _MODULE.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(_MODULE)}".encode() + b"\0" + file.read_bytes())
    return cache_dir() / "bin" / digest.hexdigest()[:16] / name


def _ldflags() -> str:
    flags = "-s -w"
    major, minor, _ = KUBERNETES_VERSION.split(".")
    # Without a version, features are off and clients misjudge the server.
    values = {
        "gitVersion": f"v{KUBERNETES_VERSION}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "unknown",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        flags += "".join(f" -X {package}.{key}={value}" for key, value in values.items())
    return flags
