"""The operator of this checkout as a process of this machine, and what it costs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError, log_tail
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import wait_until

from .api_tier import OPERATOR_NAMESPACE

_WRITES = ("create", "update", "patch", "delete")
_NOT_COUNTED = ("leases", "tokenreviews")
_REQUEST = re.compile(
    r'^goodput_operator_api_requests_total\{code="2..",resource="(?P<resource>[^"]*)",'
    r'verb="(?P<verb>[^"]*)"\} (?P<count>\S+)',
    re.MULTILINE,
)


class OperatorProcess:
    """A replica that leads; made by `operator`."""

    def __init__(self, pid: int, agent_port: int, http_port: int) -> None:
        self.pid = pid
        self.agent_port = agent_port
        self._http_port = http_port

    @property
    def metrics_address(self) -> str:
        """Return the host and port of /metrics."""
        return f"127.0.0.1:{self._http_port}"

    def metrics(self) -> str:
        """Return the page of /metrics."""
        url = f"http://{self.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            page: bytes = answer.read()
        return page.decode()

    def gauge(self, name: str) -> float:
        """Return the value of a metric without labels; 0 while it is not there."""
        found = re.search(rf"^{name} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def writes(self) -> dict[str, int]:
        """Return the persisted writes so far, by "verb resource", from its own counters.

        The Lease, TokenReviews and dry runs are not among them: the first two are other
        budgets, the last persists nothing.
        """
        return {
            f"{found['verb']} {found['resource']}": int(float(found["count"]))
            for found in _REQUEST.finditer(self.metrics())
            if found["verb"] in _WRITES and found["resource"] not in _NOT_COUNTED
        }

    def rss_kib(self) -> int:
        """Return its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used, its kernel's part included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def lives(self) -> bool:
        """Tell whether it has not ended."""
        stat = Path(f"/proc/{self.pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    def leads(self) -> bool:
        """Tell whether it has taken the lease and looks after jobs."""
        try:
            return self.gauge("goodput_operator_leader") == 1
        except OSError:
            return False


@contextmanager
def operator(plane: ControlPlane, lease_seconds: int = 6) -> Iterator[OperatorProcess]:
    """Run a replica from the moment at which it leads; its log is beside the control plane's.

    Args:
        plane: whose API server it talks to.
        lease_seconds: for how long it leads without a word. Short, for the replica of the round
            before gives the lease back, and is not waited for if it could not; longer where the
            machine is so busy that the API server itself falls silent.

    Raises:
        ClusterError: it ended, or did not come to lead.
    """
    agent_port, http_port = _free_port(), _free_port()
    log = plane.state / "logs" / "operator.log"
    argv = [
        *(sys.executable, "-m", "goodput_operator", f"--kubeconfig={plane.kubeconfig}"),
        *("--namespace", OPERATOR_NAMESPACE, "--agent-image", "agent.example/agent:bench"),
        *("--bind-address", "127.0.0.1", "--agent-port", str(agent_port)),
        *("--http-port", str(http_port), "--agent-url", f"https://127.0.0.1:{agent_port}"),
        *("--lease-duration-seconds", str(lease_seconds), "--lease-renew-seconds", "1"),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "operator")}
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=environment)
    found = OperatorProcess(process.pid, agent_port, http_port)
    try:
        wait_until(lambda: process.poll() is not None or found.leads(), "a leader", 180, 0.05)
        if process.poll() is not None:
            raise ClusterError(f"the operator ended; {log_tail(log)}")
        time.sleep(1)  # the start's own work is no part of any figure
        yield found
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
