"""A small world in which plans are carried out at once: pods bind, agents obey when told to.

It is the planner's own test bench: a real status goes in, a real plan comes out, and what the
plan says is done. Time stands still until a test moves it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from goodput.protocol import (
    EXIT,
    RUN,
    STOP,
    Commit,
    Disk,
    ProcessExit,
    Progress,
    Run,
    SyncAnswer,
    SyncRequest,
)
from goodput_operator import names
from goodput_operator.api.base import format_time
from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.api.status import (
    AttemptStatus,
    Bucket,
    Condition,
    ConditionType,
    TrainingJobStatus,
)
from goodput_operator.gang.placement import NoRoom, Placement
from goodput_operator.ledger.accounting import total
from goodput_operator.observe.agents import AgentView
from goodput_operator.observe.snapshot import TemplateAnswer, observe
from goodput_operator.plan.decide import Plan, decide
from goodput_operator.plan.view import Timing, find_condition

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
LOSSES = (Bucket.LOST_WORK, Bucket.DETECTION, Bucket.RECOVERY, Bucket.UNKNOWN)
"""What only an interruption can cost."""


@dataclass
class Agent:
    """One worker's agent and its trainer."""

    pod: dict[str, Any]
    seen: str = ""
    run: Run | None = None
    sequence: int = 0
    heard_at: datetime = CREATED
    first_seen_at: datetime = CREATED
    answer: SyncAnswer | None = None
    silent: bool = False
    ends_at: int | None = None
    disk: Disk = field(default_factory=Disk)


@dataclass
class World:
    """One TrainingJob, its pods and agents, and the nodes' health."""

    spec: dict[str, Any]
    now: datetime = CREATED
    status: TrainingJobStatus = field(default_factory=TrainingJobStatus)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    free_nodes: list[str] = field(default_factory=list)
    writes: int = 0
    plans: list[Plan] = field(default_factory=list)
    refusal: str = ""
    agents_connect: bool = True
    pinned: bool = True
    template_answer: TemplateAnswer | None = field(default_factory=TemplateAnswer)
    problems: tuple[str, ...] = ()
    sdk: bool = True
    free_port: int = 29500
    disk: Disk = field(default_factory=Disk)
    listening_since: datetime = CREATED
    deleted: list[str] = field(default_factory=list)
    asked_with: set[int] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    """Pods whose agents never connect."""

    # --- the operator -------------------------------------------------------------------

    def visit(self) -> Plan:
        """Make one pass and carry it out."""
        job = {
            "metadata": {
                "namespace": "default",
                "name": "job",
                "uid": "job-uid",
                "generation": 1,
                "creationTimestamp": format_time(CREATED),
            },
            "spec": self.spec,
        }
        spec = TrainingJobSpec.model_validate({"template": {}, **self.spec})
        snapshot = observe(
            job,
            self.status.slots,
            [self.pods[name] for name in sorted(self.pods)],
            self.nodes if self.pinned else None,
            {uid: self._view(agent) for uid, agent in self.agents.items() if agent.sequence},
            listening_since=self.listening_since,
            now=self.now,
            refusal=self.refusal,
            template_answer=self.template_answer,
        )
        self.refusal = ""
        plan = decide(
            spec,
            self.status,
            snapshot,
            now=self.now,
            place=self._place,
            pinned=self.pinned,
            accelerators=spec.workers and 1,
            processes=spec.processes_per_worker or 1,
            timing=Timing(),
            template_problems=self.problems,
        )
        self.plans.append(plan)
        if plan.write:
            self.writes += 1
            text = plan.status.model_dump_json(by_alias=True)
            self.status = TrainingJobStatus.model_validate_json(text)
        for slot, incarnation, node in plan.create:
            self._create(slot, incarnation, node)
        for pod in plan.delete:
            self.delete_pod(pod.name)
        for uid, answer in plan.answers.items():
            if uid in self.agents:
                self.agents[uid].answer = answer
        return plan

    def settle(self, rounds: int = 40) -> None:
        """Let operator and agents go on until nothing changes any more."""
        for _ in range(rounds):
            before = self._state()
            self.visit()
            self.obey()
            if before == self._state():
                return
        raise AssertionError(f"no rest: {[plan.decisions for plan in self.plans[-4:]]}")

    def obey(self) -> None:
        """Let the agents do as they were told last."""
        for agent in list(self.agents.values()):
            self._obey(agent)

    def obey_of(self, slot: int) -> None:
        """Let one agent do as it was told last."""
        self._obey(self.agent(slot))

    def pass_time(self, seconds: float, every: float = 5.0) -> None:
        """Let time pass, with heartbeats and passes in between."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now = min(self.now + timedelta(seconds=every), end)
            for agent in self.agents.values():
                self._heartbeat(agent)
            self.settle()

    def silence(self, slot: int) -> None:
        """The worker is not heard of from now on."""
        self.agent(slot).silent = True

    def speak(self, slot: int) -> None:
        """The worker is heard of, again."""
        agent = self.agent(slot)
        agent.silent = False
        if agent.sequence == 0:
            agent.first_seen_at = self.now
        self._heartbeat(agent)

    def jump(self, seconds: float) -> None:
        """Let time pass in which nobody says anything."""
        self.now += timedelta(seconds=seconds)

    # --- the workers --------------------------------------------------------------------

    def agent(self, slot: int) -> Agent:
        """The agent of the slot's newest pod."""
        pods = [
            pod
            for pod in self.pods.values()
            if int(pod["metadata"]["name"].rsplit("-", 2)[1]) == slot
        ]
        newest = max(pods, key=lambda pod: int(pod["metadata"]["name"].rsplit("-", 1)[1]))
        return self.agents[newest["metadata"]["uid"]]

    def train(
        self,
        step: int,
        *,
        seconds_per_step: float = 1.0,
        commit: int | None = None,
        stalled_seconds: tuple[float, float] = (0, 0),
    ) -> None:
        """All ranks finish `step` now; optionally the commit of an earlier step is published.

        `stalled_seconds`: for how long training has stood still so far, for checkpoints and data.
        """
        checkpoint_ms, data_ms = (int(seconds * 1000) for seconds in stalled_seconds)
        for agent in self.agents.values():
            if agent.run is None or agent.run.alive == 0 or agent.silent:
                continue
            progress = agent.run.progress
            progress = replace(
                progress,
                sdk=self.sdk,
                restore_ended_at=progress.restore_ended_at or self._clock(),
                first_step_at=progress.first_step_at or self._clock(),
                step=step,
                step_at=self._clock(),
                step_milliseconds=int(seconds_per_step * 1000),
                checkpoint_stall_milliseconds=checkpoint_ms or None,
                data_stall_milliseconds=data_ms or None,
            )
            if commit is not None:
                progress = replace(
                    progress,
                    committed=Commit(agent.run.attempt, commit),
                    committed_step_at=self._clock(),
                    committed_stall_milliseconds=checkpoint_ms + data_ms,
                )
            agent.run = replace(agent.run, progress=progress)
            self._heartbeat(agent)

    def track(self, step: int, seconds_ago: float = 0) -> None:
        """A training without the SDK names the step of its newest checkpoint in a tracker file."""
        for agent in self.agents.values():
            assert agent.run is not None
            seen_at = self._clock() - int(1000 * seconds_ago)
            progress = replace(agent.run.progress, tracker_step=step, tracker_step_at=seen_at)
            agent.run = replace(agent.run, progress=progress)
            self._heartbeat(agent)

    def fail(
        self,
        slot: int,
        code: int = 1,
        exception: str = "ValueError: boom",
        last_lines: tuple[str, ...] = (),
        seconds_ago: float = 0,
    ) -> None:
        """The worker's process ends with `code`, or has ended without our hearing of it yet."""
        agent = self.agent(slot)
        assert agent.run is not None
        agent.run = replace(
            agent.run,
            alive=0,
            failed=1,
            exits=(
                ProcessExit(
                    rank=slot,
                    at=self._clock() - int(1000 * seconds_ago),
                    exit_code=code,
                    signal=code - 128 if code > 128 else 0,
                    exception=exception,
                    last_lines=last_lines,
                ),
            ),
        )
        self._heartbeat(agent)

    def finish(self, seconds_ago: float = 0) -> None:
        """All processes end well, or have without our hearing of it yet."""
        for agent in self.agents.values():
            self._finish(agent, seconds_ago)

    def finish_worker(self, slot: int) -> None:
        """The processes of one worker end well."""
        self._finish(self.agent(slot))

    def leave(self, slot: int, at: datetime) -> None:
        """The worker's agent has left with exit code 0, and the kubelet says when."""
        done = {"exitCode": 0, "finishedAt": format_time(at)}
        container = {"name": "trainer", "state": {"terminated": done}}
        self.agent(slot).pod["status"] = {"phase": "Succeeded", "containerStatuses": [container]}
        self.silence(slot)

    def forget(self) -> None:
        """Another operator takes over: it has heard of no agent yet."""
        self.listening_since = self.now
        for agent in self.agents.values():
            agent.sequence = 0

    def delete_pod(self, name: str, *, at_once: bool = True) -> None:
        """Somebody deletes a pod."""
        pod = self.pods[name]
        self.deleted.append(name)
        if at_once:
            del self.pods[name]
            self.agents.pop(pod["metadata"]["uid"], None)
        else:
            pod["metadata"]["deletionTimestamp"] = format_time(self.now)

    def end_pod(self, slot: int, *, seconds: float = 30, why: str = "") -> None:
        """A worker's pod is being deleted, and its agent hears of it; `why`: as its pod says."""
        agent = self.agent(slot)
        self.delete_pod(agent.pod["metadata"]["name"], at_once=False)
        gone_at = self.now + timedelta(seconds=seconds)
        agent.pod["metadata"]["deletionTimestamp"] = format_time(gone_at)
        if why:
            mark = {"type": "DisruptionTarget", "status": "True", "reason": why}
            agent.pod["status"]["conditions"] = (mark,)
        agent.ends_at = self._clock() + int(1000 * max(0.0, seconds - 10))
        self._heartbeat(agent)

    def taint(self, node: str, *keys: str) -> None:
        """A node is tainted with these, and with nothing else."""
        found = self.nodes[node]
        assert found is not None
        found["spec"] = {"taints": tuple({"key": key, "effect": "NoSchedule"} for key in keys)}
        if node in self.free_nodes:
            self.free_nodes.remove(node)

    def lose_node(self, node: str, *, noticed: bool = False) -> None:
        """A node loses its power; `noticed` by the control plane or not yet."""
        for agent in self.agents.values():
            if agent.pod["spec"].get("nodeName") == node:
                agent.silent = True
        if node in self.free_nodes:
            self.free_nodes.remove(node)
        if noticed:
            self.nodes[node] = node_object(node, ready=False)

    # --- what a test asks ---------------------------------------------------------------

    def condition(self, kind: ConditionType) -> Condition:
        """The condition of this type."""
        found = find_condition(self.status, kind)
        assert found is not None, kind
        return found

    def true(self, kind: ConditionType) -> bool:
        """Whether the condition is True."""
        return self.condition(kind).status == "True"

    @property
    def attempt(self) -> AttemptStatus:
        """The newest attempt."""
        assert self.status.attempt is not None
        return self.status.attempt

    def spent(self, bucket: Bucket) -> float:
        """Accelerator-seconds in a bucket."""
        return self.status.ledger.accelerator_milliseconds.get(bucket, 0) / 1000

    def assert_ledger_sums(self) -> None:
        """All buckets and the unsettled rest are the wall time, to the millisecond."""
        until = self.status.ledger.accounted_until
        assert until is not None
        wall = (until - CREATED) // timedelta(milliseconds=1)
        assert total(self.status.ledger) == wall * self.spec["workers"]

    def assert_prices_sum(self) -> None:
        """The incidents' prices are the losses; of other buckets they are no more than is there."""
        ledger = self.status.ledger
        prices = [one.accelerator_milliseconds for one in self.status.incidents]
        prices.append(ledger.earlier_incidents_milliseconds)
        for bucket in Bucket:
            paid = sum(price.get(bucket, 0) for price in prices)
            spent = ledger.accelerator_milliseconds.get(bucket, 0)
            assert paid == spent if bucket in LOSSES else paid <= spent, bucket

    # --- inside -------------------------------------------------------------------------

    def _finish(self, agent: Agent, seconds_ago: float = 0) -> None:
        if agent.run is not None and agent.run.alive:
            at = self._clock() - int(1000 * seconds_ago)
            ended = (ProcessExit(rank=0, at=at, exit_code=0, reason="Completed"),)
            agent.run = replace(agent.run, alive=0, succeeded=True, exits=ended)
            self._heartbeat(agent)

    def _state(self) -> object:
        agents = [(one.run, one.seen, one.sequence) for one in self.agents.values()]
        return self.status, sorted(self.pods), agents

    def _clock(self) -> int:
        return int((self.now - CREATED).total_seconds() * 1000) + 1_000_000

    def _view(self, agent: Agent) -> AgentView:
        request = SyncRequest(
            slot=0,
            incarnation=0,
            sequence=agent.sequence,
            sent_at=int((agent.heard_at - CREATED).total_seconds() * 1000) + 1_000_000,
            seen_revision=agent.seen,
            address="10.0.0.1",
            free_port=self.free_port,
            ends_at=agent.ends_at,
            disk=agent.disk,
            run=agent.run,
        )
        return AgentView(request, agent.heard_at, agent.first_seen_at)

    def _heartbeat(self, agent: Agent) -> None:
        if not agent.silent and (agent.sequence or self.agents_connect):
            agent.sequence += 1
            agent.heard_at = self.now

    def _obey(self, agent: Agent) -> None:
        if agent.silent or not self.agents_connect:
            return
        if agent.sequence == 0:
            agent.first_seen_at = self.now
            self._heartbeat(agent)
        answer = agent.answer
        if answer is None or answer.revision == agent.seen:
            return
        agent.seen = answer.revision
        run = agent.run
        if answer.kind == RUN and answer.world and (run is None or run.attempt < answer.attempt):
            agent.run = Run(
                attempt=answer.attempt,
                started_at=self._clock(),
                alive=1,
                progress=Progress(sdk=self.sdk),
            )
        elif answer.kind == STOP and run is not None:
            agent.run = replace(run, alive=0)
        elif answer.kind == EXIT:
            agent.pod["status"] = {
                "phase": "Succeeded" if answer.exit_code == 0 else "Failed",
                "containerStatuses": [
                    {
                        "name": "trainer",
                        "state": {"terminated": {"exitCode": answer.exit_code, "reason": "Exit"}},
                    }
                ],
            }
            agent.silent = True
        self._heartbeat(agent)

    def _place(
        self, slots: Sequence[int], bound: Mapping[int, str], exclusions: Any, priority: int
    ) -> Placement | NoRoom:
        self.asked_with.add(priority)
        avoid = {one.node for one in exclusions if one.until > self.now}
        used = set(bound.values())
        free = [node for node in self.free_nodes if node not in avoid | used]
        if len(free) < len(slots):
            return NoRoom(f"needs {len(slots)} nodes; {len(free)} fit", len(free))
        return Placement(dict(zip(slots, free, strict=False)))

    def _create(self, slot: int, incarnation: int, node: str | None) -> None:
        name = names.pod_name("job", slot, incarnation)
        assert name not in self.pods, f"{name} is created twice"
        node = node or f"any-{slot}"
        pod = {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "creationTimestamp": format_time(self.now),
                "ownerReferences": ({"uid": "job-uid"},),
            },
            "spec": {"nodeName": node, "pinnedNode": node},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        }
        self.pods[name] = pod
        self.nodes.setdefault(node, node_object(node, ready=True))
        self.agents[pod["metadata"]["uid"]] = Agent(pod, disk=self.disk, silent=name in self.deaf)


def node_object(name: str, *, ready: bool) -> dict[str, Any]:
    """A trimmed node."""
    return {
        "metadata": {"name": name},
        "status": {"conditions": ({"type": "Ready", "status": "True" if ready else "Unknown"},)},
    }


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Make a world with room for one more worker than wanted."""

    def make(workers: int = 4, spare_nodes: int = 1, **spec: Any) -> World:
        nodes = [f"node-{number}" for number in range(workers + spare_nodes)]
        return World(
            spec={"workers": workers, **spec},
            free_nodes=nodes,
            nodes={node: node_object(node, ready=True) for node in nodes},
        )

    return make


@pytest.fixture
def training(make_world: Callable[..., World]) -> Callable[..., World]:
    """Make a world whose gang trains and has finished some steps."""

    def make(
        workers: int = 4,
        *,
        commit: int | None = 10,
        step: int = 12,
        sdk: bool = True,
        **spec: Any,
    ) -> World:
        world = make_world(workers, **spec)
        world.sdk = sdk
        world.settle()
        world.jump(1)
        if commit is not None:
            world.train(commit, commit=commit)
        world.jump(2)
        world.train(step)
        world.settle()
        return world

    return make
