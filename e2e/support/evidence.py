"""Keep what explains a failed test, before its namespace goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_dir
from e2e.support.installation import Operator


def collect(cluster: Cluster, namespace: str, test: str) -> str:
    """Write all that is known into a folder of its own; return where, and the essentials.

    Never fails: what could not be had is said in its place.
    """
    safe = re.sub(r"[^\w.-]+", "-", test).strip("-")[-80:]
    folder = cache_dir() / "evidence" / f"{time.strftime('%Y%m%d-%H%M%S')}-{safe}"
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, *args: str) -> str:
        said = _try(lambda: cluster.kubectl(*args, check=False))
        (folder / name).write_text(said)
        return said

    overview = keep("overview.txt", "get", "gtj,pods", "-n", namespace, "-o", "wide")
    keep("objects.yaml", "get", "gtj,pods,events", "-n", namespace, "-o", "yaml")
    keep("describe.txt", "describe", "gtj,pods", "-n", namespace)
    keep("nodes.txt", "describe", "nodes")
    (folder / "operator.log").write_text(_try(lambda: Operator(cluster).logs()))
    names = keep("pods.txt", "get", "pods", "-n", namespace, "-o", "name").split()
    for name in names:
        _keep_log(keep, folder, namespace, name)
    conditions = keep("conditions.txt", "get", "gtj", "-n", namespace, "-o", _CONDITIONS)
    said = _tail(folder / "operator.log", 8)
    return f"evidence: {folder}\n{overview}\n{conditions}\nthe operator's last words:\n{said}"


_CONDITIONS = (
    'jsonpath={range .items[*]}{.metadata.name}{"\\n"}{range .status.conditions[*]}'
    '  {.type}={.status} {.reason}: {.message}{"\\n"}{end}{end}'
)


def _keep_log(keep: Callable[..., str], folder: Path, namespace: str, pod: str) -> None:
    name = pod.rpartition("/")[2] + ".log"
    keep(name, "logs", "-n", namespace, pod, "--all-containers", "--prefix")
    if not (folder / name).stat().st_size:
        (folder / name).unlink()


def _tail(path: Path, lines: int) -> str:
    return "\n".join(line[:300] for line in path.read_text().splitlines()[-lines:])


def _try(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except (ClusterError, OSError) as failed:
        return f"(could not be had: {failed})\n"
