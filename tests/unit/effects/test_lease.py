"""At any moment at most one replica acts, and soon after one dies another does."""

import asyncio
import copy
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.effects.gateway import Resource
from goodput_operator.effects.lease import ANNOTATION_ADDRESS, Election, LeaseLostError, LeaseTiming
from goodput_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from tests.virtual_time import VirtualLoop, run

TIMING = LeaseTiming(duration_seconds=10, renew_seconds=2)
TAKE_OVER_SECONDS = 13.0


class Server:
    """The one Lease, as an API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    def write(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(dict(lease))
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class Line:
    """One replica's connection to the server; the same calls as the gateway's.

    `fault` is "" (well), "cut" (nothing arrives), "deaf" (it arrives, the answer does not
    come back) or "hang" (neither, and no error).
    """

    def __init__(self, server: Server, latency_seconds: float = 0.01) -> None:
        self.server = server
        self.latency_seconds = latency_seconds
        self.fault = ""
        self.asked = 0

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        await self._arrive()
        if self.server.lease is None:
            raise NotFoundError("no lease")
        return await self._answer(copy.deepcopy(self.server.lease))

    async def create(
        self, resource: Resource, namespace: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        await self._arrive()
        if self.server.lease is not None:
            raise AlreadyExistsError("there is one")
        return await self._answer(self.server.write(body))

    async def replace(
        self, resource: Resource, namespace: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        await self._arrive()
        if self.server.lease is None:
            raise NotFoundError("no lease")
        if body["metadata"]["resourceVersion"] != str(self.server.version):
            raise ConflictError("modified")
        return await self._answer(self.server.write(body))

    async def _arrive(self) -> None:
        self.asked += 1
        await asyncio.sleep(self.latency_seconds)
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "cut":
            raise UnavailableError("the connection was cut")

    async def _answer(self, value: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(self.latency_seconds)
        if self.fault == "deaf":
            raise UnavailableError("the connection was cut")
        return value


class Replica:
    """An election that runs, over a line of its own."""

    def __init__(
        self, server: Server, name: str, *, clock_error: timedelta = timedelta(), seed: int = 1
    ) -> None:
        self.line = Line(server)
        self.election = Election(
            self.line,  # type: ignore[arg-type]
            namespace="ops",
            name="goodput-operator",
            identity=f"{name}_1",
            address=f"{name}:8443",
            rng=random.Random(seed),
            timing=TIMING,
            wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + clock_error,
        )
        self.task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(self.election.run())
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def leads(self) -> bool:
        return self.election.leads

    async def elected(self) -> float:
        """Wait; return the seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.wait_for(self.election.acquired.wait(), 100)
        return loop.time() - began

    async def die(self) -> None:
        """As by SIGKILL: nothing is said any more."""
        self.line.fault = "cut"
        await self.step_down()

    async def step_down(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def lost(self) -> str:
        with pytest.raises(LeaseLostError) as loss:
            await asyncio.wait_for(self.task, 100)
        return str(loss.value)


async def two() -> tuple[Server, Replica, Replica]:
    """A leader and a standby."""
    server = Server()
    leader = Replica(server, "a")
    await leader.elected()
    standby = Replica(server, "b", seed=2)
    await asyncio.sleep(5)
    return server, leader, standby


def test_one_leads_and_the_other_knows_where() -> None:
    async def test() -> None:
        server, leader, standby = await two()
        await asyncio.sleep(100)
        assert (leader.leads, standby.leads) == (True, False)
        assert standby.election.leader_address == leader.election.leader_address == "a:8443"
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == "a_1"
        assert server.lease["spec"]["leaseTransitions"] == 0

    run(test())


def test_two_that_start_together_do_not_both_lead() -> None:
    async def test() -> None:
        server = Server()
        replicas = [Replica(server, name) for name in ("a", "b", "c")]
        await asyncio.sleep(30)
        assert [replica.leads for replica in replicas].count(True) == 1

    run(test())


@pytest.mark.parametrize("when", [0.0, 0.5, 1.0, 1.5, 1.95])
def test_a_dead_leader_is_replaced_in_time_wherever_death_found_it(when: float) -> None:
    async def test() -> None:
        _, leader, standby = await two()
        await asyncio.sleep(when)
        await leader.die()
        assert await standby.elected() <= TAKE_OVER_SECONDS
        assert standby.election.leader_address == "b:8443"

    run(test())


def test_a_leader_that_steps_down_is_replaced_at_once() -> None:
    async def test() -> None:
        server, leader, standby = await two()
        await leader.step_down()
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == ""
        assert ANNOTATION_ADDRESS not in server.lease["metadata"]["annotations"]
        assert await standby.elected() <= TIMING.renew_seconds + 0.1
        assert server.lease["spec"]["leaseTransitions"] == 1

    run(test())


def test_stepping_down_releases_even_a_renewal_whose_answer_was_not_awaited() -> None:
    async def test() -> None:
        server, leader, _ = await two()
        version = server.version
        for _ in range(3000):
            await asyncio.sleep(0.001)
            if server.version > version:
                break  # its write has arrived, its answer is under way
        await leader.step_down()
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == ""

    run(test())


@pytest.mark.parametrize("when", [0.0, 0.4, 0.8, 1.2, 1.6])
def test_a_leader_that_is_cut_off_stops_before_another_begins(when: float) -> None:
    async def test() -> None:
        _, leader, standby = await two()
        await asyncio.sleep(when)
        leader.line.fault = "cut"
        while leader.leads:
            assert not standby.leads
            await asyncio.sleep(0.01)
        assert "no renewal for 7 s" in await leader.lost()
        assert not standby.leads
        margin_seconds = TIMING.duration_seconds - TIMING.deadline_seconds
        assert await standby.elected() >= 0.9 * margin_seconds

    run(test())


@pytest.mark.parametrize("fault", ["cut", "deaf", "hang"])
def test_a_short_trouble_with_the_server_costs_nothing(fault: str) -> None:
    async def test() -> None:
        _, leader, standby = await two()
        leader.line.fault = fault
        await asyncio.sleep(2.5)
        leader.line.fault = ""
        await asyncio.sleep(60)
        assert (leader.leads, standby.leads) == (True, False)
        assert not leader.task.done()

    run(test())


def test_clocks_that_are_years_apart_do_no_harm() -> None:
    async def test() -> None:
        server = Server()
        leader = Replica(server, "a", clock_error=timedelta(days=-3650))
        await leader.elected()
        standby = Replica(server, "b", clock_error=timedelta(days=3650))
        await asyncio.sleep(100)
        assert (leader.leads, standby.leads) == (True, False)

    run(test())


def test_a_lease_that_was_taken_away_by_hand_is_lost_at_once_and_left_alone() -> None:
    async def test() -> None:
        server, leader, _ = await two()
        assert server.lease is not None
        server.lease["spec"]["holderIdentity"] = "somebody"
        server.write(server.lease)
        assert "somebody holds the lease" in await leader.lost()
        assert not leader.leads
        assert server.lease["spec"]["holderIdentity"] == "somebody"

    run(test())


def test_a_frozen_process_knows_at_its_first_instruction_that_it_may_not_act() -> None:
    async def test() -> None:
        _, leader, _ = await two()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.skip(30)
        assert not leader.leads
        assert "stood still" in await leader.lost()

    run(test())


def test_a_deleted_lease_is_written_again() -> None:
    async def test() -> None:
        server, leader, standby = await two()
        server.lease = None
        await asyncio.sleep(5)
        assert server.lease is not None
        assert [leader.leads, standby.leads].count(True) == 1

    run(test())


def test_of_a_leader_that_has_died_no_address_is_given() -> None:
    async def test() -> None:
        _, leader, standby = await two()
        await leader.die()
        standby.line.fault = "cut"
        assert standby.election.leader_address == "a:8443"
        await asyncio.sleep(TIMING.duration_seconds + 1)
        assert standby.election.leader_address == ""

    run(test())


def test_a_missing_right_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Forbidden(Line):
        async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
            raise ForbiddenError('leases "goodput-operator" is forbidden')

    async def test() -> None:
        server = Server()
        replica = Replica(server, "a")
        replica.election._gateway = Forbidden(server)  # type: ignore[assignment]
        await asyncio.sleep(60)
        assert not replica.leads

    run(test())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        'the lease cannot be read or taken: leases "goodput-operator" is forbidden'
    ]


def test_a_standby_asks_the_server_no_more_often_than_it_must() -> None:
    async def test() -> None:
        _, leader, standby = await two()
        before = standby.line.asked, leader.line.asked
        await asyncio.sleep(100)
        assert standby.line.asked - before[0] <= 100 / (TIMING.renew_seconds * 0.8) + 1
        assert leader.line.asked - before[1] <= 100 / TIMING.renew_seconds + 1

    run(test())


@pytest.mark.parametrize(("duration", "renew"), [(10, 4), (5, 0), (0, 0), (3, 2)])
def test_times_that_cannot_work_are_refused(duration: float, renew: float) -> None:
    with pytest.raises(ValueError, match="three times"):
        LeaseTiming(duration, renew)


@settings(max_examples=60)
@given(
    troubles=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["cut", "deaf", "hang", "", ""]),
            st.integers(1, 120),
        ),
        max_size=12,
    ),
    latency=st.sampled_from([0.0, 0.05, 0.9]),
)
def test_whatever_breaks_two_never_lead_and_in_the_end_one_does(
    troubles: list[tuple[int, str, int]], latency: float
) -> None:
    async def test() -> None:
        server = Server()
        replicas = [Replica(server, name, seed=number) for number, name in enumerate("abc")]
        for replica in replicas:
            replica.line.latency_seconds = latency
        for which, fault, tenths in troubles:
            replicas[which].line.fault = fault
            for _ in range(tenths):
                await asyncio.sleep(0.1)
                assert sum(replica.leads for replica in replicas) <= 1
        for number, replica in enumerate(replicas):
            if replica.task.done():  # as Kubernetes does with a process that has ended
                await asyncio.gather(replica.task, return_exceptions=True)
                replicas[number] = Replica(server, f"again{number}")
            replicas[number].line.fault = ""
        await asyncio.sleep(40)
        assert sum(replica.leads for replica in replicas) == 1

    run(test())
