"""A real API server for the tests that check what we believe of one."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.preflight import unavailable_reason
from goodput_operator import names
from tests.contract.tiers import Api, RealTier, SimulatedTier, Tier

CRD = Path(__file__).resolve().parents[2] / "crds" / "goodput.training_trainingjobs.yaml"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The running cluster, whatever its shape; else a control plane for this session alone."""
    try:
        running = Cluster.attach()
    except ClusterError:
        reason = unavailable_reason("api")
        if reason is not None:
            pytest.skip(reason)
        yield Cluster.up(nodes=0)
        Cluster.down()
        return
    # It may have lost a node on purpose: ours is not to make it anew, nor to take it down.
    running.wait_until(running.api.ready, "the API server of the running cluster", 60)
    yield running


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own; its deletion is begun, not awaited."""
    name = f"contract-{uuid.uuid4().hex[:8]}"
    cluster.api.call(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
    )
    yield name
    cluster.api.call("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def trainingjobs(cluster: Cluster) -> None:
    """The API server serves our TrainingJob as it is in `crds/`."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    cluster.kubectl("wait", "--for=condition=Established", "-f", str(CRD), "--timeout=30s")
    cluster.wait_until(
        lambda: "trainingjobs" in cluster.kubectl("api-resources", "--api-group=goodput.training"),
        "the TrainingJob's API to be served",
        30,
    )


@pytest.fixture
def pod_labels() -> dict[str, str]:
    """The labels of a worker pod of the job `char-gpt`."""
    return {names.LABEL_MANAGED_BY: names.OPERATOR_NAME, names.LABEL_JOB: "char-gpt"}


@pytest.fixture(params=["simulated", "real"])
def tier(request: pytest.FixtureRequest) -> Iterator[Tier]:
    """Both API servers, one after the other."""
    if request.param == "real":
        request.getfixturevalue("trainingjobs")
        yield RealTier(request.getfixturevalue("cluster"))
        return
    simulated = SimulatedTier()
    yield simulated
    simulated.close()


@pytest.fixture
def api_server(tier: Tier) -> Api:
    """The tier's API server as its administrator."""
    return tier.api


@pytest.fixture
def place(tier: Tier) -> Iterator[str]:
    """A namespace of the tier, which takes pods at once."""
    name = tier.namespace()
    yield name
    tier.forget(name)


only_real = pytest.mark.parametrize("tier", ["real"], indirect=True)
