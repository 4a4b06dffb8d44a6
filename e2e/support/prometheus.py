"""A real Prometheus beside the tests: Debian's, unpacked into the cache and not installed.

Where `prometheus` and `promtool` are on the path, as of any other version, those are taken.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import packages
from e2e.cluster.errors import ClusterError, log_tail
from e2e.cluster.paths import cache_dir, locked
from e2e.cluster.progress import step, wait_until
from e2e.cluster.run import run

PROGRAMS = ("prometheus", "promtool")
JOB_SERIES = "()goodput_(?:accelerator|unsettled|job)_.+"
"""The series that are a TrainingJob's; what names a replica is replaced by the empty group."""
_PACKAGE = "prometheus"
_READY_SECONDS = 30
Series = dict[str, Any]


def unavailable_reason() -> str | None:
    """Return why no Prometheus can be had here, in a sentence for a skipped test, or None."""
    if _find() is not None or packages.which("apt-get") is not None:
        return None
    return "there is no prometheus on the path, and no apt-get to fetch Debian's"


def ensure() -> dict[str, Path]:
    """Return the paths of `prometheus` and `promtool`, fetched if they are not here.

    Raises:
        ClusterError: the package could not be had.
    """
    found = _find()
    if found is not None:
        return found
    with locked(cache_dir() / "prometheus.lock", "fetching Prometheus", 600):
        if _find() is None:
            _fetch()
    found = _find()
    if found is None:
        raise ClusterError("Debian's package prometheus has no programs for this machine")
    return found


def _find() -> dict[str, Path] | None:
    there = {name: packages.which(name) for name in PROGRAMS}
    known = {name: Path(path) for name, path in there.items() if path is not None}
    if len(known) == len(PROGRAMS):
        return known
    cached = {name: _cached() / name for name in PROGRAMS}
    return cached if all(os.access(path, os.X_OK) for path in cached.values()) else None


def _cached() -> Path:
    return cache_dir() / "bin" / "prometheus-debian"


def _fetch() -> None:
    """Download the package and unpack its programs; the system stays as it is."""
    with tempfile.TemporaryDirectory(prefix="goodput-prometheus-") as directory:
        where = Path(directory)
        with step("fetching Prometheus"):
            download = ["apt-get", "download", "-qq", _PACKAGE]
            # The lists of packages may be old, or not be there at all.
            if run(download, cwd=where, timeout_seconds=300, check=False).returncode != 0:
                run(["apt-get", "update", "-qq"], timeout_seconds=300)
                run(download, cwd=where, timeout_seconds=300)
            (archive,) = where.glob("*.deb")
            run(["dpkg-deb", "-x", str(archive), "unpacked"], cwd=where, timeout_seconds=120)
        target = _cached()
        target.mkdir(parents=True, exist_ok=True)
        for name in PROGRAMS:
            partial = target / f"{name}.partial"
            partial.write_bytes((where / "unpacked" / "usr" / "bin" / name).read_bytes())
            partial.chmod(0o755)
            partial.replace(target / name)


def promtool(*arguments: str, cwd: Path | None = None) -> str:
    """Run promtool and return what it says.

    Raises:
        ClusterError: it found fault, which is in the message.
    """
    done = run([str(ensure()["promtool"]), *arguments], cwd=cwd, timeout_seconds=300, check=False)
    if done.returncode != 0:
        raise ClusterError(f"promtool {arguments[0]}: {done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs; `serving` made it."""

    url: str

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Return what an expression gives now, or at a time: its labels and one value each.

        Raises:
            ClusterError: Prometheus refused it; its own words are in the message.
        """
        told = {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"})
        answer: list[Series] = self.ask("query", told)["result"]
        return answer

    def query_range(
        self, expression: str, begin: float, end: float, step_seconds: float
    ) -> list[Series]:
        """Return what an expression gives over a time: its labels and many values each."""
        told = {
            "query": expression,
            "start": f"{begin:.3f}",
            "end": f"{end:.3f}",
            "step": f"{step_seconds:g}",
        }
        answer: list[Series] = self.ask("query_range", told)["result"]
        return answer

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression; None when there is none."""
        found = self.query(expression)
        if not found:
            return None
        (one,) = found
        return float(one["value"][1])

    def alerts(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {
            one["labels"]["alertname"]
            for one in self.ask("alerts", {})["alerts"]
            if one["state"] == "firing"
        }

    def ask(self, what: str, told: Mapping[str, str]) -> Any:
        """Return the data of one answer of its HTTP API."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(told)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            said = refused.read().decode(errors="replace")
            raise ClusterError(f"{told}: {said}") from refused


def configuration(
    targets: Sequence[str], rules: Sequence[Path], interval: str = "1s"
) -> dict[str, Any]:
    """Return a configuration that scrapes replicas as the chart's ServiceMonitor does."""
    dropped = [
        {"source_labels": ["__name__"], "regex": JOB_SERIES, "target_label": label}
        for label in ("instance", "pod")
    ]
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": "goodput-operator",
                "honor_labels": True,
                "static_configs": [{"targets": list(targets)}],
                "metric_relabel_configs": dropped,
            }
        ],
    }


@contextmanager
def serving(
    configured: Mapping[str, Any], data: Path | None = None, lookback: str = "5m"
) -> Iterator[Prometheus]:
    """Run Prometheus with this configuration; what it keeps is removed, unless in `data`.

    Raises:
        ClusterError: it did not start; with the end of its log.
    """
    program = ensure()["prometheus"]
    with tempfile.TemporaryDirectory(prefix="goodput-prometheus-") as directory:
        where = Path(directory)
        config, log = where / "prometheus.yaml", where / "log"
        config.write_text(yaml.safe_dump(dict(configured)))
        port = _free_port()
        argv = [
            *(str(program), f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"),
            *(f"--storage.tsdb.path={data or where / 'data'}", "--log.level=warn"),
            *("--storage.tsdb.retention.time=10y", f"--query.lookback-delta={lookback}"),
        ]
        with log.open("ab") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output)
        server = Prometheus(f"http://127.0.0.1:{port}")
        try:
            wait_until(
                lambda: process.poll() is not None or _is_ready(server),
                "Prometheus",
                _READY_SECONDS,
            )
            if process.poll() is not None:
                raise ClusterError(f"Prometheus ended; {log_tail(log)}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(server: Prometheus) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
