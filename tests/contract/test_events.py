"""The events that we write are ones that the API server takes."""

import asyncio
from datetime import UTC, datetime

from e2e.cluster import Cluster
from goodput_operator.effects.gateway import Gateway
from goodput_operator.reconcile import event


def test_the_api_server_takes_our_events_and_describe_finds_them(
    cluster: Cluster, namespace: str
) -> None:
    job = {"metadata": {"name": "a-job", "namespace": namespace, "uid": "1234"}}

    async def tell() -> None:
        gateway = await Gateway.connect(kubeconfig=str(cluster.kubeconfig))
        try:
            await gateway.create_event(
                event(job, "NodeLost", "worker 1: gone", datetime.now(UTC), warning=True)
            )
        finally:
            await gateway.close()

    asyncio.run(tell())
    told = cluster.kubectl(
        *("get", "events", "-n", namespace),
        *("--field-selector", "involvedObject.kind=TrainingJob,involvedObject.name=a-job"),
    )
    assert "NodeLost" in told
    assert "worker 1: gone" in told
