"""The command line of the local cluster: `python -m e2e.cluster --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import binaries, images, packages, preflight
from .cluster import Cluster
from .errors import ClusterError
from .progress import step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 on failure, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except ClusterError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `down` removes what is half done", file=sys.stderr)
        return 130
    return 0


def _up(options: argparse.Namespace) -> None:
    cluster = Cluster.up(
        options.nodes, options.provider, options.node_grace_seconds, options.gpus_per_node
    )
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    found = [binaries.find(name) for name in ("kubectl", "helm")]
    folders = dict.fromkeys(str(program.parent) for program in found if program is not None)
    print(f"export PATH={':'.join(folders)}:$PATH")


def _down(_: argparse.Namespace) -> None:
    Cluster.down()


def _status(_: argparse.Namespace) -> None:
    cluster = Cluster.attach()
    broken = cluster.unhealthy_reason()
    print(f"{cluster.shape}\nkubeconfig {cluster.kubeconfig}\nAPI server {cluster.api_url}")
    if broken is not None:
        raise ClusterError(broken)
    print("healthy")


def _kill_process(options: argparse.Namespace) -> None:
    cluster = Cluster.attach()
    namespace, pod = options.namespace, options.pod
    if options.match is None:
        pids = cluster.kill_pid1(namespace, pod, options.container, options.signal)
    else:
        pids = cluster.kill_process(
            namespace, pod, options.match, options.signal, options.container
        )
    print(" ".join(map(str, pids)))


def _load_image(options: argparse.Namespace) -> None:
    cluster = Cluster.attach()
    for archive in options.archives or images.build_all():
        cluster.load_image(archive)


def _build(options: argparse.Namespace) -> None:
    if preflight.unavailable_reason("node") is None:
        packages.install(packages.missing(packages.NODE_PROGRAMS, cni=True))
    for path in binaries.ensure(binaries.TOOLS).values():
        print(path)
    for path in images.build_all():
        print(path)
    if options.torch:
        print(images.torch_site())


def _fault(options: argparse.Namespace) -> None:
    with step(f"{options.command} {options.node}"):
        getattr(Cluster.attach(), options.command.replace("-", "_"))(options.node)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    up = commands.add_parser("up", help="make a cluster, or use the one that is up")
    up.set_defaults(act=_up)
    up.add_argument("--nodes", type=int, default=3, help="0: the control plane alone")
    up.add_argument("--provider", choices=("kind", "namespaces"), help="default: kind if there")
    up.add_argument("--node-grace-seconds", type=int, default=12)
    up.add_argument("--gpus-per-node", type=int, default=8)

    commands.add_parser("down", help="remove the cluster").set_defaults(act=_down)
    commands.add_parser("status", help="exit 0 if healthy").set_defaults(act=_status)

    build = commands.add_parser("build", help="fill the cache: binaries and images")
    build.set_defaults(act=_build)
    build.add_argument("--torch", action="store_true", help="torch too, some gigabytes")

    load = commands.add_parser("load-image", help="bring images to all nodes")
    load.set_defaults(act=_load_image)
    load.add_argument("archives", nargs="*", type=Path, help="default: build all of ours")

    kill = commands.add_parser("kill-process", help="signal processes of a pod")
    kill.set_defaults(act=_kill_process)
    kill.add_argument("pod")
    kill.add_argument("-n", "--namespace", default="default")
    kill.add_argument("-c", "--container")
    kill.add_argument("--match", help="a regular expression; default: process 1 of the pod")
    kill.add_argument("--signal", type=int, default=9)

    for name, text in (
        ("lose-node", "take a node's power away"),
        ("restore-node", "boot a lost node"),
        ("partition", "cut a node off the network"),
        ("heal", "end a partition"),
    ):
        fault = commands.add_parser(name, help=text)
        fault.set_defaults(act=_fault)
        fault.add_argument("node")
    return parser


if __name__ == "__main__":
    sys.exit(main())
