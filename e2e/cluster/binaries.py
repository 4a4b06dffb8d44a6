"""Build the Kubernetes programs from the Go modules in `e2e/tools`, once, into the cache.

A directory named by `KUBEBUILDER_ASSETS` is looked at first, as envtest does. What is in
the cache is keyed by everything that the build depends on, so it is never stale.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from .errors import ClusterError
from .paths import REPOSITORY, cache_dir, locked
from .progress import step
from .run import run

KUBERNETES_VERSION = "1.37.1"
# Not 1.27: its encoding/json breaks /openapi/v2, and `kubectl apply` cannot validate then.
GO_TOOLCHAIN = "go1.26.8"
_BUILD_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its name, its module's folder in `e2e/tools`, its Go package."""

    name: str
    module: str
    package: str


def _kubernetes(name: str) -> Tool:
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Tool("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
        Tool("coredns", "coredns", "."),
    )
}
API_TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE_TOOLS = (*API_TOOLS, "kubelet", "kube-proxy", "coredns")


def find(name: str) -> Path | None:
    """Return where a tool lies already, else None."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for candidate in (*([Path(assets) / name] if assets else []), _cached(TOOLS[name])):
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
            for _, tools in itertools.groupby(missing, key=attrgetter("module")):
                _build(list(tools))
    return {name: found for name in names if (found := find(name)) is not None}


def can_build() -> bool:
    """Tell whether a Go tool chain is there."""
    return shutil.which("go") is not None


def _build(tools: Sequence[Tool]) -> None:
    """Build tools of one module in one go: while one is linked, the next is compiled."""
    names = ", ".join(tool.name for tool in tools)
    if not can_build():
        raise ClusterError(f"no {names} in the cache, and there is no `go` to build it")
    home = _cached(tools[0]).parent
    home.mkdir(parents=True, exist_ok=True)
    argv = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", _ldflags(tools[0])]
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": GO_TOOLCHAIN, "GOWORK": "off"}
    with (
        step(f"building {names} (minutes the first time)"),
        tempfile.TemporaryDirectory(dir=home, prefix="partial-") as partial,
    ):
        # Go names a program by its package's path; of a lone one we say the name.
        out = Path(partial, tools[0].name) if len(tools) == 1 else Path(partial)
        run(
            [*argv, "-o", str(out), *(tool.package for tool in tools)],
            cwd=_module(tools[0]),
            env=env,
            timeout_seconds=_BUILD_TIMEOUT_SECONDS,
        )
        for tool in tools:
            Path(partial, tool.name).replace(_cached(tool))


def _module(tool: Tool) -> Path:
    return REPOSITORY / "e2e" / "tools" / tool.module


def _cached(tool: Tool) -> Path:
    digest = hashlib.sha256(f"{GO_TOOLCHAIN} {os.uname().machine} {_ldflags(tool)}".encode())
    for file in sorted(_module(tool).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return cache_dir() / "bin" / f"{tool.module}-{digest.hexdigest()[:16]}" / tool.name


def _ldflags(tool: Tool) -> str:
    flags = "-s -w"
    if tool.module != "kubernetes":
        return flags
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
