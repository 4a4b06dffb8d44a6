"""The cluster as tests use it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import binaries, preflight
from .api import Api
from .errors import ClusterError
from .kind import Kind
from .namespaces import Namespaces
from .paths import locked, state_dir
from .progress import say, step, wait_until
from .provider import Process, Provider, ProviderName, Shape
from .run import run

_BUSY_SECONDS = 900


class Cluster:
    """One running cluster. Make it with `Cluster.up` or find it with `Cluster.attach`."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @staticmethod
    def up(
        nodes: int = 3,
        provider: ProviderName | None = None,
        node_grace_seconds: int = 12,
        gpus_per_node: int = 8,
    ) -> Cluster:
        """Return a healthy cluster of this shape: the running one, else a new one.

        What a crashed run left behind is removed first. `nodes` = 0 is the control plane alone.

        Raises:
            ClusterError: it cannot run here, a healthy cluster of another shape is running, or
                a component did not come up.
        """
        shape = Shape(provider or choose_provider(), nodes, node_grace_seconds, gpus_per_node)
        with _lock():
            running = _recorded()
            if running is not None:
                broken = _provide(running).unhealthy_reason()
                if broken is None and running == shape:
                    return Cluster(_provide(shape))
                if broken is None:
                    raise ClusterError(
                        f"a cluster of another shape is up ({running}); run `down` first"
                    )
                say(f"the cluster that is up is broken ({broken}); making a new one")
                _provide(running).down()
            elif state_dir().exists():
                say("removing what an unfinished run left behind")
                _remove_all(shape)
            if shape.provider == "namespaces":
                reason = preflight.unavailable_reason("node" if nodes else "api")
                if reason is not None:
                    raise ClusterError(reason)
            made = _provide(shape)
            with step(f"starting {shape}"):
                made.up()
            _record().write_text(shape.to_json())
            return Cluster(made)

    @staticmethod
    def attach() -> Cluster:
        """Return the running cluster.

        Raises:
            ClusterError: none is up.
        """
        shape = _recorded()
        if shape is None:
            raise ClusterError("no cluster is up; run `python -m e2e.cluster up`")
        return Cluster(_provide(shape))

    @staticmethod
    def down() -> None:
        """Remove the cluster, or what is left of one; does nothing where there is none."""
        with _lock():
            _remove_all(_recorded())

    @property
    def shape(self) -> Shape:
        """What was asked of `up`."""
        return self._provider.shape

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._provider.kubeconfig

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return self._provider.node_names()

    @property
    def host_address(self) -> str:
        """The address at which pods reach servers of this host."""
        return self._provider.host_address

    @property
    def api_url(self) -> str:
        """The API server's URL, as seen from this host."""
        return self._provider.api().url

    @property
    def api(self) -> Api:
        """A client with the administrator's rights, for calls that are too many for kubectl."""
        return self._provider.api()

    @property
    def shared_dir(self) -> Path:
        """A directory that every node sees at this same path: the shared storage of tests."""
        return state_dir() / "shared"

    def unhealthy_reason(self) -> str | None:
        """Return what is broken, in a few words, else None."""
        return self._provider.unhealthy_reason()

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002  as subprocess calls it
        check: bool = True,
        timeout_seconds: float = 60,
    ) -> str:
        """Run kubectl as the administrator and return its standard output.

        Raises:
            ClusterError: it failed and `check` is true, or it took too long.
        """
        return self._client("kubectl", args, input, check, timeout_seconds)

    def helm(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002  as subprocess calls it
        check: bool = True,
        timeout_seconds: float = 300,
    ) -> str:
        """Run helm as the administrator and return its standard output.

        Raises:
            ClusterError: it failed and `check` is true, or it took too long.
        """
        return self._client("helm", args, input, check, timeout_seconds)

    def pod_pids(
        self, namespace: str, pod: str, container: str | None = None
    ) -> list[tuple[int, str]]:
        """Return pid and command line of a pod's living processes, without its sandbox's.

        The pids are this host's; with kind, the node's.
        """
        found = self._processes(namespace, pod, container)[1]
        return [(process.pid, process.command) for process in found]

    def pids_of(self, pod: dict[str, Any]) -> list[tuple[int, str]]:
        """Return the same by a pod's object, which the API server may have forgotten since."""
        found = self._provider.pod_processes(pod)
        return [(process.pid, process.command) for process in found]

    def kill_process(
        self,
        namespace: str,
        pod: str,
        match: str,
        signal: int = signal.SIGKILL,
        container: str | None = None,
    ) -> list[int]:
        """Signal every process of a pod whose command line `match` is found in; return the pids.

        Raises:
            ClusterError: no process matches the regular expression.
        """
        body, found = self._processes(namespace, pod, container)
        pids = [process.pid for process in found if re.search(match, process.command)]
        if not pids:
            raise ClusterError(f"no process of {namespace}/{pod} matches {match!r}")
        self._provider.signal(body, pids, signal)
        return pids

    def kill_pid1(
        self, namespace: str, pod: str, container: str | None = None, signal: int = signal.SIGKILL
    ) -> list[int]:
        """Signal the first process of each container of a pod; return the pids.

        Raises:
            ClusterError: no container runs.
        """
        body, found = self._processes(namespace, pod, container)
        pids = [process.pid for process in found if process.pid_in_pod == 1]
        if not pids:
            raise ClusterError(f"no container of {namespace}/{pod} runs")
        self._provider.signal(body, pids, signal)
        return pids

    def lose_node(self, node: str) -> None:
        """Take a node's power away: no network, all its processes dead at once."""
        self._provider.lose_node(node)

    def restore_node(self, node: str) -> None:
        """Boot a lost node again and return when it is Ready."""
        self._provider.restore_node(node)

    def partition(self, node: str, addresses: Sequence[str] = ()) -> None:
        """Cut a node off: its processes go on, nobody hears of them (a zombie's maker).

        With `addresses` it is cut off from these only, its pods too.
        """
        self._provider.partition(node, addresses)

    def heal(self, node: str) -> None:
        """End a partition and return when the node is Ready."""
        self._provider.heal(node)

    def load_image(self, tar: Path) -> None:
        """Bring an image of `e2e.cluster.images` to all nodes; at no cost where it is already."""
        self._provider.load_image(tar)

    def wait_until(
        self,
        predicate: Callable[[], object],
        what: str,
        timeout_seconds: float,
        interval_seconds: float = 0.2,
    ) -> None:
        """Return once `predicate` is true.

        Raises:
            WaitTimeoutError: it stayed false for `timeout_seconds`; the message names `what`.
        """
        wait_until(predicate, what, timeout_seconds, interval_seconds)

    def _client(
        self,
        tool: str,
        args: tuple[str, ...],
        input_text: str | None,
        check: bool,
        timeout_seconds: float,
    ) -> str:
        program = binaries.ensure([tool])[tool]
        argv = [str(program), f"--kubeconfig={self.kubeconfig}", *args]
        done = run(argv, input_text=input_text, check=check, timeout_seconds=timeout_seconds)
        return done.stdout

    def _processes(
        self, namespace: str, pod: str, container: str | None
    ) -> tuple[dict[str, Any], list[Process]]:
        body: dict[str, Any] = self.api.call("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")
        found = self._provider.pod_processes(body)
        return body, [p for p in found if container is None or p.container == container]


def choose_provider() -> ProviderName:
    """Return `kind` where it and a Docker engine answer, else `namespaces`."""
    return "kind" if Kind.available() else "namespaces"


def _provide(shape: Shape) -> Provider:
    return (Kind if shape.provider == "kind" else Namespaces)(state_dir(), shape)


def _remove_all(shape: Shape | None) -> None:
    if shape is not None and shape.provider == "kind":
        _provide(shape).down()
    Namespaces(state_dir(), Shape("namespaces", 0)).down()


def _record() -> Path:
    return state_dir() / "cluster.json"


def _recorded() -> Shape | None:
    """Return the shape of the cluster that `up` finished; it is written last."""
    try:
        return Shape.from_json(_record().read_text())
    except (OSError, ValueError, TypeError):
        return None


def _lock() -> Any:
    return locked(state_dir().with_name(state_dir().name + ".lock"), "the cluster", _BUSY_SECONDS)
