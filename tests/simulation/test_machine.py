"""Anything, in any order, in the simulated world: every promise is kept at every step."""

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.simulation import oracle
from tests.simulation.apiserver import Fault
from tests.simulation.world import PRANKS, World
from tests.virtual_time import VirtualLoop

WORKERS = 2
SLOTS = st.integers(0, WORKERS - 1)
PAUSES_SECONDS = st.sampled_from([0.01, 0.1, 1.0, 5.0, 20.0])
SETTLE_SECONDS = 420.0


class AnyHistory(RuleBasedStateMachine):
    """A job of two workers, and hands that know every verb of the world."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.world: World = self.runner.run(self._begin())
        self.down: set[str] = set()

    async def _begin(self) -> World:
        world = World(workers=WORKERS, spare_nodes=2)
        await world.start_operator()
        world.create_job(recovery={"maxRestarts": 999, "maxRestartsWithoutProgress": 1000})
        return world

    @rule(seconds=PAUSES_SECONDS)
    def time_passes(self, seconds: float) -> None:
        self._do(lambda: asyncio.sleep(seconds))

    @rule(slot=SLOTS)
    def a_process_dies(self, slot: int) -> None:
        self._try(lambda: [one.end(1) for one in self.world.worker(slot).living()])

    @rule(slot=SLOTS, force=st.booleans())
    def a_pod_is_deleted(self, slot: int, force: bool) -> None:
        self._try(lambda: self.world.delete_pod(slot, force=force))

    @rule(slot=SLOTS)
    def a_pod_is_evicted(self, slot: int) -> None:
        self._try(lambda: self.world.evict(slot))

    @rule(slot=SLOTS, prank=st.sampled_from(["labels", "annotations"]))
    def somebody_edits_a_pod(self, slot: int, prank: str) -> None:
        assert prank in PRANKS
        self._try(lambda: self.world.monkey(slot, prank))

    @rule(slot=SLOTS, power=st.booleans())
    def a_node_is_lost(self, slot: int, power: bool) -> None:
        cluster = self.world.cluster

        def lose() -> None:
            node = self.world.node_of(slot)
            if node not in self.down:
                (cluster.lose_node if power else cluster.cut_off)(node)
                self.down.add(node)

        self._try(lose)

    @precondition(lambda self: self.down)
    @rule()
    def nodes_come_back(self) -> None:
        self._try(self._bring_back)

    @rule(away_seconds=st.sampled_from([1.5, 25.0]))
    def the_operator_dies(self, away_seconds: float) -> None:
        self._try(lambda: self.world.crash_operator(away_seconds=away_seconds))

    @rule(late_seconds=st.sampled_from([0.5, 4.0]))
    def the_leader_changes(self, late_seconds: float) -> None:
        if not self.world.operator.ended.is_set():
            self._do(lambda: self.world.change_leader(late_seconds=late_seconds))

    @rule(fault=st.sampled_from(list(Fault)), after=st.integers(1, 6))
    def a_write_will_fail(self, fault: Fault, after: int) -> None:
        self.world.server.faults[len(self.world.server.writes) + after] = fault

    @rule(plural=st.sampled_from(["pods", "nodes", "trainingjobs"]), expired=st.booleans())
    def watches_break(self, plural: str, expired: bool) -> None:
        self._try(lambda: self.world.server.break_watches(plural, expired=expired))

    @rule(plural=st.sampled_from(["pods", "nodes", "trainingjobs"]))
    def a_view_grows_old(self, plural: str) -> None:
        self._try(lambda: self.world.server.stick(plural))

    @rule()
    def all_views_are_new(self) -> None:
        self._try(self.world.server.merge)

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self._try(lambda: self.world.edit_spec(suspend=suspend))

    @rule(pods=st.sampled_from([None, 1, WORKERS]))
    def the_quota_changes(self, pods: int | None) -> None:
        self.world.max_pods = pods

    @rule()
    def old_reports_come_again(self) -> None:
        if not self.world.operator.ended.is_set():
            self._try(self.world.replay)

    @invariant()
    def every_promise_is_kept(self) -> None:
        oracle.check(self.world.history)

    def teardown(self) -> None:
        try:
            self._do(self._come_to_rest)
            oracle.check(self.world.history)
        finally:
            self.runner.close()

    async def _come_to_rest(self) -> None:
        world = self.world
        world.server.faults.clear()
        world.server.thaw()
        world.max_pods = None
        self._bring_back()
        world.give_labels_back()  # else rank 0 may have nobody to tell its checkpoints to
        world.edit_spec(suspend=False)
        await world.until(
            lambda: bool(world.status.attempt and world.trains(world.status.attempt.number)),
            seconds=SETTLE_SECONDS,
        )
        await asyncio.sleep(45)
        await world.check_rest()

    def _bring_back(self) -> None:
        for node in sorted(self.down):
            self.world.cluster.heal(node)
        self.down.clear()

    def _do(self, story: Callable[[], Awaitable[object]]) -> None:
        async def play() -> None:
            await story()

        self.runner.run(play())

    def _try(self, harm: Callable[[], object]) -> None:
        """Do harm, and let a moment pass; there may be no such pod, or it has no node yet."""

        async def play() -> None:
            try:
                harm()
            except (ValueError, KeyError):
                return
            await asyncio.sleep(0.01)

        self.runner.run(play())


AnyHistory.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyHistory = AnyHistory.TestCase
