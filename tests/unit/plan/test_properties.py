"""What holds in every world, however things go wrong."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from goodput.protocol import RUN
from goodput_operator import names
from goodput_operator.api.status import AttemptState, Bucket, ConditionType, TrainingJobStatus
from goodput_operator.plan.decide import Plan
from goodput_operator.plan.view import is_finished
from tests.unit.plan.conftest import World, node_object

WORKERS = 3
LIVE = (AttemptState.STARTING, AttemptState.RUNNING)
SLOTS = st.integers(0, WORKERS - 1)


class AnyWorld(RuleBasedStateMachine):
    """A job to which anything may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        nodes = [f"node-{number}" for number in range(WORKERS + 2)]
        self.world = World(
            spec={"workers": WORKERS, "recovery": {"maxRestarts": 999}},
            free_nodes=list(nodes),
            nodes={node: node_object(node, ready=True) for node in nodes},
        )
        self.world.settle()
        self.step = 0
        self.attempts = [0]
        self.buckets: dict[Bucket, int] = {}
        self.judged = 0
        self.persisted = TrainingJobStatus()

    @rule(slot=SLOTS, code=st.sampled_from([1, 137, 139]))
    def a_process_fails(self, slot: int, code: int) -> None:
        if self._trains(slot):
            self.world.fail(slot, code)
            self.world.settle()

    @rule(slot=SLOTS, at_once=st.booleans())
    def a_pod_is_deleted(self, slot: int, at_once: bool) -> None:
        name = self._pod(slot)
        if name:
            self.world.delete_pod(name, at_once=at_once)
            self.world.settle()

    @rule(slot=SLOTS, noticed=st.booleans())
    def a_node_is_lost(self, slot: int, noticed: bool) -> None:
        name = self._pod(slot)
        if name:
            self.world.lose_node(self.world.pods[name]["spec"]["nodeName"], noticed=noticed)
            self.world.settle()

    @rule(slot=SLOTS)
    def a_worker_falls_silent(self, slot: int) -> None:
        if self._pod(slot):
            self.world.silence(slot)

    @rule(slot=SLOTS)
    def a_silent_worker_speaks_again(self, slot: int) -> None:
        name = self._pod(slot)
        if name and not self.world.pods[name]["metadata"].get("deletionTimestamp"):
            self.world.agent(slot).silent = False

    @rule()
    def nodes_come_back(self) -> None:
        for number in range(WORKERS + 2):
            node = f"node-{number}"
            self.world.nodes[node] = node_object(node, ready=True)
            if node not in self.world.free_nodes:
                self.world.free_nodes.append(node)
        self.world.settle()

    @rule(seconds=st.sampled_from([1, 20, 90, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds, every=max(5.0, seconds / 20))

    @rule(seconds=st.sampled_from([30, 4000]))
    def the_operator_is_away(self, seconds: float) -> None:
        self.world.jump(seconds)
        self.world.listening_since = self.world.now
        self.world.settle()

    @rule(
        seconds=st.sampled_from([0, 3, 100]),
        order=st.lists(st.integers(0, 3), unique=True),
        apart=st.sampled_from([0, 1, 13]),
    )
    def another_operator_hears_one_after_the_other(
        self, seconds: float, order: list[int], apart: float
    ) -> None:
        self.world.jump(seconds)
        self.world.forget()
        plan = self.world.visit()
        for slot in order:
            self.world.jump(apart)
            if self._pod(slot):
                self.world.speak(slot)
            plan = self.world.visit()
        assert plan.recheck_at is None or plan.recheck_at > self.world.now
        self.world.settle()

    @rule(commit=st.booleans())
    def the_gang_trains(self, commit: bool) -> None:
        self.step += 1
        self.world.jump(1)
        self.world.train(self.step, commit=self.step if commit else None)
        self.world.settle()

    @rule()
    def a_pod_is_refused(self) -> None:
        self.world.refusal = "exceeded quota"
        self.world.settle()

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.spec["suspend"] = suspend
        self.world.settle()

    @precondition(lambda self: self.step > 5)
    @rule()
    def everything_succeeds(self) -> None:
        self.world.finish()
        self.world.settle()

    @invariant()
    def every_millisecond_is_accounted_for_once(self) -> None:
        self.world.assert_ledger_sums()

    @invariant()
    def the_incidents_prices_are_the_losses(self) -> None:
        self.world.assert_prices_sum()

    @invariant()
    def counters_never_go_back(self) -> None:
        ledger = self.world.status.ledger
        for bucket, before in self.buckets.items():
            assert ledger.accelerator_milliseconds.get(bucket, 0) >= before
        assert ledger.unsettled_milliseconds >= 0
        self.buckets = dict(ledger.accelerator_milliseconds)

    @invariant()
    def attempts_only_grow(self) -> None:
        self.attempts.append(self.world.attempt.number)
        assert self.attempts[-1] >= self.attempts[-2]

    @invariant()
    def no_process_runs_outside_the_current_attempt(self) -> None:
        reachable = [one for one in self.world.agents.values() if not one.silent]
        for agent in reachable:
            if agent.run is not None and agent.run.alive:
                assert agent.run.attempt == self.world.attempt.number

    @invariant()
    def no_slot_has_two_living_pods(self) -> None:
        living = [
            name.rsplit("-", 1)[0]
            for name, pod in self.world.pods.items()
            if not pod["metadata"].get("deletionTimestamp") and pod["status"]["phase"] == "Running"
        ]
        assert len(living) == len(set(living)) <= WORKERS

    @invariant()
    def planning_again_gives_nothing(self) -> None:
        plan = self.world.visit()
        assert (plan.write, plan.create, plan.delete) == (False, (), ())

    @invariant()
    def nothing_is_done_that_is_not_persisted(self) -> None:
        for plan in self.world.plans[self.judged :]:
            if plan.write:
                self.persisted = plan.status
            acts_on_intent(plan, self.persisted)
        self.judged = len(self.world.plans)

    @invariant()
    def a_finished_job_never_lives_again(self) -> None:
        if self.world.true(ConditionType.SUCCEEDED) or self.world.true(ConditionType.FAILED):
            assert self.world.attempt.state is AttemptState.CLOSED

    def _pod(self, slot: int) -> str:
        names = [name for name in self.world.pods if name.split("-")[1] == str(slot)]
        return max(names, key=lambda name: int(name.rsplit("-", 1)[1]), default="")

    def _trains(self, slot: int) -> bool:
        if not self._pod(slot):
            return False
        agent = self.world.agent(slot)
        return not agent.silent and agent.run is not None and agent.run.alive > 0


def acts_on_intent(plan: Plan, persisted: TrainingJobStatus) -> None:
    """Every pod and every order follows from what an operator that starts now would read."""
    attempt = persisted.attempt
    seats = {(one.slot, one.incarnation) for one in persisted.slots}
    assert {(slot, incarnation) for slot, incarnation, _ in plan.create} <= seats
    members = {names.pod_name("job", *seat) for seat in seats}
    struck = {pod.name for pod in plan.delete} & members
    stopping = attempt is not None and attempt.state is AttemptState.STOPPING
    assert not struck or stopping or is_finished(persisted)
    for answer in plan.answers.values():
        checkpoint = persisted.checkpoint
        if answer.durable is not None:
            known = checkpoint.last_durable_attempt, checkpoint.last_durable_step
            assert (answer.durable.attempt, answer.durable.step) == known
        if answer.kind == RUN:
            assert attempt is not None
            assert attempt.state in LIVE
            assert answer.world is not None
            assert (answer.attempt, answer.world.run_id) == (attempt.number, attempt.run_id)
            assert answer.world.restore_step == attempt.restore_step


AnyWorld.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestAnyWorld = AnyWorld.TestCase


def test_the_order_of_pods_is_irrelevant(training) -> None:  # type: ignore[no-untyped-def]
    world, mirrored = training(3), training(3)
    mirrored.pods = dict(reversed(mirrored.pods.items()))
    mirrored.agents = dict(reversed(mirrored.agents.items()))
    for one in (world, mirrored):
        one.delete_pod("job-1-0")
        one.settle()
    assert replace(world.plans[-1], answers={}) == replace(mirrored.plans[-1], answers={})


FAULTS = ("a process fails", "a pod is deleted", "a node is lost")


@given(order=st.permutations(FAULTS))
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_order_of_what_is_heard_at_once_is_irrelevant(training, order: list[str]) -> None:  # type: ignore[no-untyped-def]
    worlds = []
    for faults in (FAULTS, order):
        world = training(4)
        for fault in faults:
            if fault == "a process fails":
                world.fail(1)
            elif fault == "a pod is deleted":
                world.delete_pod("job-2-0", at_once=False)
            else:
                world.lose_node(world.pods["job-3-0"]["spec"]["nodeName"], noticed=True)
        world.settle()
        worlds.append(world)
    one, other = worlds
    assert one.status == other.status
    assert replace(one.plans[-1], answers={}) == replace(other.plans[-1], answers={})


@given(silent=st.sets(SLOTS), seconds=st.integers(1, 1200), nodes_known=st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_unknown_never_destroys(
    training, silent: set[int], seconds: int, nodes_known: bool
) -> None:  # type: ignore[no-untyped-def]
    """Workers that say nothing, of a gang that advances or of which nobody says anything."""
    world = training(WORKERS)
    world.pinned = nodes_known
    for slot in silent:
        world.silence(slot)
    begin, step = len(world.plans), 12
    while seconds > 0:
        pause, step = min(5, seconds), step + 1
        world.jump(pause)
        world.train(step)
        world.settle()
        seconds -= pause
    assert not world.deleted
    assert not any(plan.create for plan in world.plans[begin:])
    assert (world.attempt.number, world.attempt.state) == (1, AttemptState.RUNNING)
