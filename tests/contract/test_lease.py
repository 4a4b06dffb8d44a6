"""A real API server lets one replica lead, and keeps one certificate authority for all."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from e2e.cluster.cluster import Cluster
from goodput_operator.effects.certificates import load_authority
from goodput_operator.effects.gateway import LEASES, Gateway
from goodput_operator.effects.lease import Election, LeaseLostError, LeaseTiming

Test = Callable[[Gateway], Awaitable[None]]


@pytest.fixture
def talk(cluster: Cluster) -> Callable[[Test], None]:
    async def run(test: Test) -> None:
        gateway = await Gateway.connect(kubeconfig=str(cluster.kubeconfig))
        try:
            await test(gateway)
        finally:
            await gateway.close()

    return lambda test: asyncio.run(run(test))


def election(gateway: Gateway, namespace: str, name: str) -> Election:
    return Election(
        gateway,
        namespace=namespace,
        name="goodput-operator",
        identity=f"{name}_1",
        address=f"{name}:8443",
        rng=random.Random(1),
        timing=LeaseTiming(duration_seconds=3, renew_seconds=0.5),
    )


def test_the_lease_passes_from_one_replica_to_the_next(
    talk: Callable[[Test], None], namespace: str
) -> None:
    async def test(gateway: Gateway) -> None:
        first, second = (election(gateway, namespace, name) for name in ("a", "b"))
        leader = asyncio.create_task(first.run())
        await asyncio.wait_for(first.acquired.wait(), 30)
        standby = asyncio.create_task(second.run())
        while not second.leader_address:  # noqa: ASYNC110 - it has looked once by then
            await asyncio.sleep(0.05)
        assert second.leader_address == "a:8443"
        leader.cancel()
        await asyncio.wait_for(second.acquired.wait(), 30)
        assert not first.leads
        lease = await gateway.get(LEASES, namespace, "goodput-operator")
        assert lease["spec"]["holderIdentity"] == "b_1"
        assert lease["spec"]["leaseTransitions"] >= 1
        standby.cancel()
        await asyncio.gather(leader, standby, return_exceptions=True)
        lease = await gateway.get(LEASES, namespace, "goodput-operator")
        assert lease["spec"]["holderIdentity"] == ""

    talk(test)


def test_a_lease_that_another_has_written_is_lost(
    talk: Callable[[Test], None], namespace: str
) -> None:
    async def test(gateway: Gateway) -> None:
        first = election(gateway, namespace, "a")
        leader = asyncio.create_task(first.run())
        await asyncio.wait_for(first.acquired.wait(), 30)
        lease = await gateway.get(LEASES, namespace, "goodput-operator")
        lease["spec"]["holderIdentity"] = "somebody"
        await gateway.replace(LEASES, namespace, lease)
        with pytest.raises(LeaseLostError):
            await asyncio.wait_for(leader, 30)

    talk(test)


def test_replicas_that_start_together_find_one_authority(
    talk: Callable[[Test], None], namespace: str
) -> None:
    async def test(gateway: Gateway) -> None:
        now = datetime.now(UTC)
        found = await asyncio.gather(*(load_authority(gateway, namespace, now) for _ in range(3)))
        assert len({authority.bundle for authority in found}) == 1

    talk(test)
