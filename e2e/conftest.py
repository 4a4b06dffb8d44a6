"""A real cluster with the operator of this checkout, and a namespace for each test.

`cluster` is the one that is up, else one made for the session. `namespace` keeps evidence
of a failed test outside the checkout and prints where.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.cluster import Cluster, unavailable_reason
from e2e.cluster.api import ApiError
from e2e.cluster.errors import WaitTimeoutError
from e2e.cluster.images import build_static_images
from e2e.support.evidence import collect
from e2e.support.installation import Operator
from e2e.support.job import Job
from e2e.support.suite import is_up

FAILED = pytest.StashKey[bool]()
URGENT = 1000
"""The priority of the class that `urgent` makes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let each worker of pytest-xdist have a cluster of its own, for tests that share none."""
    parser.addoption(
        "--clusters-from",
        type=int,
        metavar="N",
        help="worker 0 of -n uses this machine's cluster N, worker 1 the next, and so on",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the worker's cluster, before anything asks for it."""
    first = config.getoption("--clusters-from")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if first is not None and worker:
        os.environ["GOODPUT_CLUSTER"] = str(first + int(worker.removeprefix("gw")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that are marked as long."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with real nodes and the images of training pods."""
    made = not is_up()
    if made:
        reason = unavailable_reason("node")
        if reason is not None:
            pytest.skip(reason)
    running = Cluster.up() if made else Cluster.attach()
    for archive in build_static_images():
        running.load_image(archive)
    yield running
    if made:
        Cluster.down()


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Operator:
    """The operator of this checkout, two replicas, both Ready."""
    return Operator.install(cluster)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own; it is empty of pods when the next test begins."""
    with _namespace(cluster, request.node) as name:
        yield name


@pytest.fixture
def other_namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Another namespace of the test's own."""
    with _namespace(cluster, request.node) as name:
        yield name


@contextmanager
def _namespace(cluster: Cluster, test: pytest.Item) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.api.call("POST", "/api/v1/namespaces", body)
    yield name
    if test.stash.get(FAILED, False):
        print(collect(cluster, name, test.name))
    _empty(cluster, name)
    cluster.api.call("DELETE", f"/api/v1/namespaces/{name}")
    shutil.rmtree(cluster.shared_dir / name, ignore_errors=True)


@pytest.fixture
def job(operator: Operator, namespace: str) -> Job:
    """A job that is not applied yet, with a checkpoint directory of its own."""
    return Job(operator.cluster, namespace)


@pytest.fixture
def urgent(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A priority class of the test's own, for pods that may take the place of others."""
    path = "/apis/scheduling.k8s.io/v1/priorityclasses"
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": namespace},
        "value": URGENT,
    }
    cluster.api.call("POST", path, body)
    yield namespace
    cluster.api.call("DELETE", f"{path}/{namespace}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Say after each test how long it took: these are the long ones."""
    began = time.monotonic()
    result = yield
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    ours = item.path.is_relative_to(Path(__file__).parent)  # called for other folders' tests, too
    if ours and reporter is not None and item.config.get_verbosity() == 0:
        reporter.ensure_newline()
        reporter.write_line(f"{time.monotonic() - began:7.1f} s  {item.name}")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember, for the fixtures' ends, that a test has failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests have measured: what they gave to `record_property`."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    figures = [
        f"{report.nodeid}: {name}: {value}"
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
    ]
    if figures:
        terminalreporter.section("measured")
        for figure in figures:
            terminalreporter.line(figure)


def _empty(cluster: Cluster, namespace: str) -> None:
    """Delete jobs and pods, and wait until those have given their accelerators back."""
    jobs = f"/apis/goodput.training/v1alpha1/namespaces/{namespace}/trainingjobs"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    try:
        cluster.api.call("DELETE", jobs, {"propagationPolicy": "Background"})
        cluster.api.call("DELETE", pods)
        cluster.wait_until(
            lambda: not cluster.api.call("GET", pods)["items"], f"pods of {namespace} to go", 20
        )
    except (ApiError, WaitTimeoutError) as late:
        print(f"{namespace} is deleted as it is: {late}")
