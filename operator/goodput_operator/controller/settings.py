"""What the operator is told when it starts: flags, some of which default to the environment."""

import argparse
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from goodput_operator.controller.queue import QueueTiming
from goodput_operator.effects.lease import LeaseTiming
from goodput_operator.metrics import JobLabels

PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True)
class Settings:
    """See `python -m goodput_operator --help`; the names are the flags'."""

    namespace: str
    pod_name: str
    pod_ip: str
    service_account: str
    watch_namespaces: tuple[str, ...]
    bind_address: str
    agent_port: int
    http_port: int
    agent_image: str
    agent_image_pull_policy: str
    agent_pull_secrets: tuple[str, ...]
    service: str
    agent_url: str
    lease_name: str
    lease: LeaseTiming
    queue: QueueTiming
    workers: int
    job_labels: JobLabels
    kubeconfig: str | None
    log_format: str
    log_level: str

    @property
    def agent_address(self) -> str:
        """Where other replicas send agents while this one leads."""
        return f"{bracketed(self.pod_ip)}:{self.agent_port}"

    @property
    def host(self) -> str | None:
        """What the servers bind to; None: all addresses, of both families."""
        return self.bind_address or None

    def identity(self) -> str:
        """Return a name for this process that no other, not even its successor, has."""
        return f"{self.pod_name}_{secrets.token_hex(4)}"


def bracketed(address: str) -> str:
    """Return an IP address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the command line; exits with a message and status 2 when it makes no sense."""
    parser = _parser(environment)
    given = parser.parse_args(arguments)
    try:
        lease = LeaseTiming(given.lease_duration_seconds, given.lease_renew_seconds)
    except ValueError as error:
        parser.error(str(error))
    return Settings(
        namespace=given.namespace,
        pod_name=given.pod_name,
        pod_ip=given.pod_ip,
        service_account=given.service_account,
        watch_namespaces=tuple(sorted(set(given.watch_namespace))),
        bind_address=given.bind_address,
        agent_port=given.agent_port,
        http_port=given.http_port,
        agent_image=given.agent_image,
        agent_image_pull_policy=given.agent_image_pull_policy,
        agent_pull_secrets=tuple(given.agent_pull_secret),
        service=given.service,
        agent_url=given.agent_url,
        lease_name=given.lease_name,
        lease=lease,
        queue=QueueTiming(resync_seconds=given.resync_seconds),
        workers=given.workers,
        job_labels=JobLabels(queue=given.queue_label, team=given.team_label),
        kubeconfig=given.kubeconfig,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="goodput-operator",
        description="Keeps elastic GPU training jobs productive.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    who = parser.add_argument_group("this replica")
    who.add_argument(
        "--namespace",
        default=environment.get("POD_NAMESPACE", "goodput-system"),
        help="its namespace: of the Lease, the Secret and the Service (POD_NAMESPACE)",
    )
    who.add_argument(
        "--pod-name",
        default=environment.get("POD_NAME") or socket.gethostname(),
        help="its name in the Lease (POD_NAME)",
    )
    who.add_argument(
        "--pod-ip",
        default=environment.get("POD_IP", "127.0.0.1"),
        help="where agents reach this replica when it leads (POD_IP)",
    )
    who.add_argument(
        "--service-account",
        default=environment.get("POD_SERVICE_ACCOUNT", "goodput-operator"),
        help="as which it runs, and no worker may (POD_SERVICE_ACCOUNT)",
    )
    who.add_argument(
        "--kubeconfig", help="outside a cluster: the file; else the pod's service account is used"
    )
    who.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NAMESPACE",
        help="serve the jobs of this namespace only; may be given several times",
    )
    _add_ports(parser)
    _add_agents(parser)
    _add_pace(parser)
    _add_metrics(parser)
    logs = parser.add_argument_group("logs")
    logs.add_argument("--log-format", choices=("text", "json"), default="text", help=" ")
    logs.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help=" "
    )
    return parser


def _add_ports(parser: argparse.ArgumentParser) -> None:
    ports = parser.add_argument_group("what it serves")
    ports.add_argument("--bind-address", default="", help="empty: all addresses")
    ports.add_argument("--agent-port", type=_port, default=8443, help="HTTPS, for the agents")
    ports.add_argument(
        "--http-port", type=_port, default=8080, help="HTTP: /healthz, /readyz, /metrics"
    )


def _add_agents(parser: argparse.ArgumentParser) -> None:
    agents = parser.add_argument_group("the agents")
    agents.add_argument(
        "--agent-image", required=True, help="image of the init container that brings the agent"
    )
    agents.add_argument(
        "--agent-image-pull-policy", choices=PULL_POLICIES, default="IfNotPresent", help=" "
    )
    agents.add_argument(
        "--agent-pull-secret",
        action="append",
        default=[],
        metavar="SECRET",
        help="imagePullSecret added to worker pods; may be given several times",
    )
    agents.add_argument(
        "--service",
        default="goodput-operator",
        help="the Service before the replicas; agents are given its cluster IP",
    )
    agents.add_argument(
        "--agent-url", default="", help="https://host:port to give to agents instead"
    )


def _add_pace(parser: argparse.ArgumentParser) -> None:
    pace = parser.add_argument_group("pace")
    pace.add_argument("--lease-name", default="goodput-operator", help=" ")
    pace.add_argument(
        "--lease-duration-seconds",
        type=float,
        default=LeaseTiming().duration_seconds,
        help="how long a dead leader keeps the lease",
    )
    pace.add_argument(
        "--lease-renew-seconds",
        type=float,
        default=LeaseTiming().renew_seconds,
        help="how often the leader renews it, and a standby looks",
    )
    pace.add_argument("--workers", type=_count, default=16, help="jobs looked after at once")
    pace.add_argument(
        "--resync-seconds",
        type=float,
        default=QueueTiming().resync_seconds,
        help="every job is looked at this often even when nothing happens",
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--queue-label",
        default="kueue.x-k8s.io/queue-name",
        metavar="LABEL",
        help="label of a TrainingJob that goodput_job_info shows as its queue; empty: none",
    )
    metrics.add_argument(
        "--team-label",
        default="team",
        metavar="LABEL",
        help="label that it shows as the team; empty: none",
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1 is wanted")
    return count
