"""The API server takes every example as it stands."""

from pathlib import Path

import pytest

from e2e.cluster.cluster import Cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.usefixtures("trainingjobs")
@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/job*.yaml")), ids=lambda one: f"{one.parent.name}/{one.name}"
)
def test_an_example_is_accepted(cluster: Cluster, namespace: str, path: Path) -> None:
    said = cluster.kubectl("apply", "--dry-run=server", "-n", namespace, "-f", str(path))
    assert "created (server dry run)" in said
