"""What holds of an elastic job, however things go wrong and whatever size its user wants."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from goodput_operator.api.status import AttemptState
from tests.unit.plan.conftest import World, node_object
from tests.unit.plan.test_properties import WORKERS, AnyWorld

SIZES = (1, 2, 3)


class AnyElasticWorld(AnyWorld):
    """The same, for a gang that may change its size."""

    def __init__(self) -> None:
        super().__init__()
        nodes = [f"node-{number}" for number in range(WORKERS)]
        elastic = {"minWorkers": 1, "maxWorkers": 3, "gracefulShutdownTimeoutSeconds": 30}
        self.world = World(
            spec={"workers": WORKERS, "recovery": {"maxRestarts": 999}, "elastic": elastic},
            free_nodes=list(nodes),
            nodes={node: node_object(node, ready=True) for node in nodes},
        )
        self.world.settle()
        self.attempts, self.buckets, self.scaled = [0], {}, False

    @rule(workers=st.sampled_from(SIZES))
    def the_user_scales(self, workers: int) -> None:
        self.scaled = self.scaled or workers != WORKERS
        self.world.spec["workers"] = workers
        self.world.settle()

    @invariant()
    def every_millisecond_is_accounted_for_once(self) -> None:
        if not self.scaled:
            self.world.assert_ledger_sums()

    @invariant()
    def a_world_is_of_a_legal_size_and_without_a_gap(self) -> None:
        ranks = sorted(slot.rank for slot in self.world.status.slots if slot.rank >= 0)
        assert ranks == list(range(len(ranks)))
        state = self.world.attempt.state
        if state in (AttemptState.STARTING, AttemptState.RUNNING):
            assert len(ranks) in SIZES
            assert self.world.attempt.world_size == len(ranks)


AnyElasticWorld.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestAnyElasticWorld = AnyElasticWorld.TestCase
