"""A control plane of the benchmark's own, beside any other cluster, with nodes that no one runs."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from e2e.cluster import binaries, packages
from e2e.cluster.api import Api
from e2e.cluster.controlplane import SERVICE_ADDRESS, ControlPlane, Ports
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.progress import step, wait_until
from e2e.cluster.run import run

Object = dict[str, Any]

GPUS_PER_NODE = 8
JOBS = "/apis/goodput.training/v1alpha1/namespaces/default/trainingjobs"
PODS = "/api/v1/namespaces/default/pods"
NODES = "/api/v1/nodes"
OPERATOR_NAMESPACE = "goodput-system"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
CONNECTIONS = 64
_NODE_GRACE_SECONDS = 1_000_000  # nobody speaks for these nodes
_CRD = REPOSITORY / "crds" / "goodput.training_trainingjobs.yaml"


@contextmanager
def api_tier(nodes: int) -> Iterator[ControlPlane]:
    """Run etcd, API server, controller manager and scheduler, with `nodes` Ready fake nodes.

    Raises:
        ClusterError: a component did not come up.
    """
    packages.install(packages.missing(packages.API_PROGRAMS))
    tools = binaries.ensure(binaries.API_TOOLS)
    with tempfile.TemporaryDirectory(prefix="goodput-bench-") as directory:
        plane = ControlPlane(Path(directory), "127.0.0.1", Ports.free())
        try:
            with step("starting a control plane"):
                plane.pki.create([SERVICE_ADDRESS])
                plane.pki.kubeconfig("admin", plane.url, plane.kubeconfig)
                plane.start(tools, _NODE_GRACE_SECONDS)
                plane.wait_ready()
                _install_api(tools["kubectl"], plane)
            with step(f"creating {nodes} nodes"):
                asyncio.run(_create_nodes(plane, nodes))
            yield plane
        finally:
            plane.stop()


def node_name(number: int) -> str:
    """Return the name of a fake node."""
    return f"fake-{number:04}"


class Client:
    """The API server for the harness: raw objects, at most so many calls at once."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self._url = plane.url
        self._session = session

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Return the decoded answer.

        Raises:
            ClusterError: the status is 400 or above.
        """
        status, text = await self.ask(method, path, body, content_type)
        if status >= 400:
            raise ClusterError(f"{method} {path}: {status} {text[:300]!r}")
        return json.loads(text)

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        """Return the status and the text of the answer, whatever it is."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        while True:
            try:
                async with self._session.request(
                    method, self._url + path, data=data, headers=headers
                ) as answer:
                    return answer.status, await answer.read()
            except aiohttp.ClientConnectorError:  # too many at once: nothing was sent
                await asyncio.sleep(0.1)

    async def items(self, path: str) -> list[Object]:
        """Return the objects of a collection."""
        listed: list[Object] = (await self.call("GET", path))["items"]
        return listed

    async def version(self, path: str) -> str:
        """Return the resourceVersion of a collection as it is now."""
        listed = await self.call("GET", f"{path}?limit=1")
        return str(listed["metadata"]["resourceVersion"])

    async def watch(self, path: str, query: str, version: str) -> AsyncIterator[Object]:
        """Yield what happens in a collection after `version`, without end.

        An API server hangs up on a client that was too busy to read; then the watch goes on
        where it was.
        """
        limits = aiohttp.ClientTimeout(total=None)
        while True:
            url = f"{self._url}{path}?watch=1&resourceVersion={version}&{query}"
            async with self._session.get(url, timeout=limits) as answer:
                pending = b""
                while chunk := await answer.content.read(256 * 1024):
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        version = event["object"]["metadata"]["resourceVersion"]
                        yield event


@asynccontextmanager
async def client(plane: ControlPlane, connections: int = CONNECTIONS) -> AsyncIterator[Client]:
    """Connect as the administrator, by at most `connections` connections."""
    directory = plane.pki.directory
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    context.load_cert_chain(str(directory / "admin.crt"), str(directory / "admin.key"))
    connector = aiohttp.TCPConnector(limit=connections, ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(plane, session)


def _install_api(kubectl: Path, plane: ControlPlane) -> None:
    """Apply the CRD and make the operator's namespace."""
    with_config = [str(kubectl), f"--kubeconfig={plane.kubeconfig}"]
    run([*with_config, "create", "namespace", OPERATOR_NAMESPACE])
    run([*with_config, "apply", "--server-side", "-f", str(_CRD)])
    wait_until(lambda: _is_served(plane.api()), "the TrainingJob API to be served", 30)


def _is_served(api: Api) -> bool:
    try:
        api.call("GET", JOBS)
    except (ClusterError, OSError):
        return False
    return True


async def create_nodes(api: Client, numbers: Iterable[int]) -> None:
    """Create these fake nodes, and return when a pod can be bound to each."""
    amounts = {"cpu": "128", "memory": "1Ti", "pods": "250", "nvidia.com/gpu": str(GPUS_PER_NODE)}

    async def create(number: int) -> None:
        name = node_name(number)
        labels = {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/rack": f"rack-{number // 16}",
        }
        await api.call("POST", NODES, {"metadata": {"name": name, "labels": labels}})
        ready = {"type": "Ready", "status": "True", "reason": "Fake", "message": ""}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        await api.call("PATCH", f"{NODES}/{name}/status", {"status": status}, MERGE_PATCH)

    await asyncio.gather(*(create(number) for number in numbers))
    # The controller manager takes the taint off a little later.
    while any(node["spec"].get("taints") for node in await api.items(NODES)):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def _create_nodes(plane: ControlPlane, nodes: int) -> None:
    async with client(plane) as api:
        await create_nodes(api, range(nodes))
