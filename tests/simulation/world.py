"""A whole world on a virtual clock: the operator as it is, an API server, nodes, workers.

The operator's own code runs unchanged: reconciler, gateway, caches, stores, queue, endpoint.
Replaced are the HTTP connections (`apiserver`), the cluster (`cluster`) and the processes
(`workers`, round the agent's real core). A scenario does harm by the verbs below.
"""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

from goodput.protocol import Commit
from goodput.protocol import World as GangWorld
from goodput_operator import names
from goodput_operator.api.status import ConditionType, TrainingJobStatus
from goodput_operator.ledger.accounting import total
from goodput_operator.observe.agents import JobKey
from goodput_operator.plan.view import find_condition, is_finished
from goodput_operator.reports.replies import Reply
from tests.simulation import oracle
from tests.simulation.apiserver import START, ApiServer, Fault, Json, RefusedError, Request
from tests.simulation.cluster import Cluster
from tests.simulation.disk import SharedDisk
from tests.simulation.history import Harm, History, Reported, Rest, Started
from tests.simulation.replica import Replica
from tests.simulation.workers import Gang, Process, Worker
from tests.virtual_time import run

KEY: JobKey = ("lab", "job")
RESTART_SECONDS = 1.5
AWAY_SECONDS = 45.0
"""Longer than any of the operator's own time-outs for what its agents do."""
"""Until another replica leads."""
LEASE_SECONDS = 15.0
"""So long a leader that is cut off may believe that it leads."""
POLL_SECONDS = 0.1
ANSWER_SECONDS = 10.0

Scenario = Callable[["World"], Awaitable[None]]


PRANKS: dict[str, Callable[[Json], Any]] = {
    "labels": lambda pod: pod["metadata"].update(labels={}),
    "annotations": lambda pod: pod["metadata"].pop("annotations", None),
    "finalizer": lambda pod: pod["metadata"].update(finalizers=["example.com/mine"]),
    "owner": lambda pod: pod["metadata"].pop("ownerReferences", None),
}
"""What a monkey does to a pod."""


class World:
    """One TrainingJob `lab/job` and all round it.

    Attributes:
        sdk: the trainer speaks through the SDK.
        disk: the checkpoint directory.
        unreadable: commits that a worker, by the name of its pod, cannot read.
        saves: the trainer saves when it is asked to, and waits for its end.
        mail: every report that the present operator has had, and by whom.
        history: everything that happened; `oracle` judges it.
    """

    def __init__(self, *, workers: int = 2, spare_nodes: int = 1, sdk: bool = True) -> None:
        self.workers = workers
        self.sdk = sdk
        self.history = History()
        self.server = ApiServer(self.history)
        self.disk = SharedDisk(self.history)
        self.unreadable: dict[str, list[Commit]] = {}
        self.gangs: dict[str, Gang] = {}
        self.replicas: list[Replica] = []
        self.cluster = Cluster(self, workers + spare_nodes)
        self.mail: list[tuple[Worker, bytes]] = []
        self.template_refusal = ""
        self.policy = ""
        self.priority_classes: set[str] = set()
        self.away_seconds = RESTART_SECONDS
        self._read = "", TrainingJobStatus()
        self._labels: dict[str, Json] = {}
        self.saves = True
        self.server.admission = self._admit

    # --- verbs ----------------------------------------------------------------------------------

    async def start_operator(self, *, queue: bool = True) -> None:
        self.mail.clear()
        self.replicas.append(Replica(self, f"operator-{len(self.replicas) + 1}"))
        await self.operator.start(queue=queue)

    def create_job(self, **spec: Any) -> None:
        container = {
            "name": "trainer",
            "image": "train",
            "command": ["train"],
            "resources": {"requests": {"cpu": "1"}},
        }
        whole = {
            "workers": self.workers,
            "template": {"spec": {"containers": [container]}},
            "checkpoint": {"directory": "/checkpoints"},
            **spec,
        }
        metadata = {"namespace": KEY[0], "name": KEY[1]}
        self.server.store("trainingjobs", {"metadata": metadata, "spec": whole})

    def edit_spec(self, **changes: Any) -> None:
        self.server.change("trainingjobs", *KEY, lambda job: job["spec"].update(changes))

    def edit_image(self, image: str) -> None:
        """Change the template's image; the API allows it while the job is suspended."""

        def change(job: Json) -> None:
            job["spec"]["template"]["spec"]["containers"][0]["image"] = image

        self.server.change("trainingjobs", *KEY, change)

    def delete_job(self) -> None:
        self.server.delete("trainingjobs", *KEY)

    def kill_process(self, slot: int, exit_code: int = 1) -> None:
        [process] = self.worker(slot).living()
        process.end(exit_code)

    def hide_newer_commits(self, slot: int) -> tuple[Commit, int]:
        """A worker can read the oldest commit only; return that, and how many it cannot."""
        oldest, *newer = self.disk
        self.unreadable[self.pod(slot)["metadata"]["name"]] = newer
        for commit in newer:
            self.history.add(Harm(self.clock(), "Spoiled", str(commit)))
        return oldest, len(newer)

    def delete_pod(self, slot: int, *, force: bool = False) -> None:
        name = self.pod(slot)["metadata"]["name"]
        self.server.delete("pods", KEY[0], name, grace=0 if force else None)

    def foreign_pod(self, name: str) -> Json:
        """Somebody creates a pod that has a name of ours; nobody runs it."""
        metadata = {"namespace": KEY[0], "name": name}
        spec = {"schedulingGates": [{"name": "a/gate"}], "containers": [{"name": "x"}]}
        return self.server.store(
            "pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
        )

    def node_of(self, slot: int) -> str:
        node: str = self.pod(slot)["spec"]["nodeName"]
        return node

    def finish(self) -> None:
        """The training comes to its end."""
        self.gang().finish()

    def crash_operator(
        self, *, away_seconds: float = RESTART_SECONDS, after_write: int | None = None
    ) -> None:
        """Kill the operator; `after_write`: not now, but when it has made so many more writes."""
        self.away_seconds = away_seconds
        if after_write is None:
            self.operator.crash()
        else:
            self.server.faults[len(self.server.writes) + after_write] = Fault.CRASH_AFTER

    async def change_leader(self, *, late_seconds: float = 3.0) -> None:
        """Another replica leads; the old one, cut off, still writes and answers for a while."""
        old = self.operator
        self.harm("LeaderCutOff", old.name)
        old.fall_behind(late_seconds)
        asyncio.get_running_loop().call_later(LEASE_SECONDS, partial(old.crash, for_good=True))
        await self.start_operator()

    def skew_clock(self, seconds: float) -> None:
        """Put the clock of the operator's machine forward, or back."""
        self.harm("ClockSkewed", f"{seconds} s")
        self.operator.skew_seconds += seconds

    def partition(self, slot: int) -> str:
        """Cut off a worker's node; return its name, for `heal`."""
        node = self.node_of(slot)
        self.cluster.cut_off(node)
        return node

    def heal(self, node: str) -> None:
        self.cluster.heal(node)

    async def silence_all(self, seconds: float) -> None:
        """For a while nobody can be heard; all are well."""
        nodes = [self.node_of(slot) for slot in range(self.workers)]
        for node in nodes:
            self.cluster.cut_off(node, hurts=False)
        await asyncio.sleep(seconds)
        for node in nodes:
            self.cluster.heal(node)

    def evict(self, slot: int) -> None:
        """A drain evicts a worker: its pod is marked, then deleted."""
        name = self.pod(slot)["metadata"]["name"]
        mark = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        marked = {"conditions": [mark]}
        self.server.change("pods", KEY[0], name, lambda pod: pod["status"].update(marked))
        self.server.delete("pods", KEY[0], name)

    def cordon(self, node: str, *, off: bool = False) -> None:
        """Somebody keeps new pods off a node; `off`: no longer."""
        wanted = {"unschedulable": not off}
        self.server.change("nodes", "", node, lambda one: one["spec"].update(wanted))

    def drain(self, slot: int) -> None:
        """Somebody drains a worker's node, as kubectl does: a cordon, then an eviction."""
        self.cordon(self.node_of(slot))
        self.evict(slot)

    def announce(self, node: str, taint: str) -> None:
        """A node says by a taint that it is about to go."""
        self.harm("NodeAnnounced", node, hurts=True)
        taints = [{"key": taint, "effect": "NoSchedule"}]
        self.server.change("nodes", "", node, lambda one: one["spec"].update(taints=taints))

    def lost_steps(self) -> int:
        """Steps that were trained twice, over all attempts."""
        return sum(
            max(0, one.step - (after.world.restore_step or 0))
            for one, after in pairwise(self.gangs.values())
        )

    def monkey(self, slot: int, prank: str) -> None:
        """Somebody deletes or edits a pod of ours; `prank`: a key of PRANKS."""
        metadata = self.pod(slot)["metadata"]
        name = metadata["name"]
        self.harm(f"Monkey:{prank}", name)
        self._labels.setdefault(metadata["uid"], metadata["labels"])
        self.server.change("pods", KEY[0], name, PRANKS[prank])

    def give_labels_back(self) -> None:
        """Who has taken labels off pods of ours puts them back."""
        for pod in self.pods:
            name, labels = pod["metadata"]["name"], self._labels.get(pod["metadata"]["uid"])
            if labels is not None:
                self.harm("LabelsBack", name)
                metadata = {**pod["metadata"], "labels": labels}
                self.server.change(
                    "pods", KEY[0], name, lambda pod, to=metadata: pod.update(metadata=to)
                )
        self._labels.clear()

    def occupy(self, node: str) -> None:
        """Somebody else's pod takes a node's room."""
        metadata = {"namespace": "others", "name": f"on-{node}"}
        resources = {"requests": {"cpu": "1"}}
        spec = {"nodeName": node, "containers": [{"name": "x", "resources": resources}]}
        whole = {"metadata": metadata, "spec": spec, "status": {"phase": "Running"}}
        self.server.store("pods", whole)

    def vacate(self, node: str) -> None:
        self.server.remove("pods", "others", f"on-{node}")

    def harm(self, kind: str, what: str = "", *, hurts: bool = False) -> None:
        """Write down what is done to the world."""
        self.history.add(Harm(self.clock(), kind, what, hurts))

    def replay(self, *, newest: int = 20) -> None:
        """Somebody sends old reports again, as they were, and under other pods' names."""
        mail = self.mail[-newest:]
        for worker, body in mail:
            self._forge(worker.token(), worker.uid, body)
        for (worker, _), (other, body) in zip(mail, reversed(mail), strict=True):
            if other is not worker:
                self._forge(worker.token(), worker.uid, body)
            self._forge(other.token(uid="forged"), other.uid, body)

    def _forge(self, token: str, uid: str, body: bytes) -> None:
        def respond(reply: Reply) -> None:
            self.history.add(Reported(self.clock(), uid, reply.result))

        self.operator.parts.handler.receive(token, "forger", body, respond)

    async def visit(self) -> float | None:
        """Make one pass by hand, where the queue was not started."""
        return await self.operator.parts.reconciler.visit(KEY)

    @property
    def max_pods(self) -> int | None:
        """How many pods the job's namespace may have."""
        return self.server.quotas.get(KEY[0])

    @max_pods.setter
    def max_pods(self, limit: int | None) -> None:
        self.server.quotas.pop(KEY[0], None)
        if limit is not None:
            self.server.quotas[KEY[0]] = limit

    def wake(self) -> None:
        self.operator.parts.queue.wake(KEY)

    # --- what is so -----------------------------------------------------------------------------

    @property
    def operator(self) -> Replica:
        return self.replicas[-1]

    @property
    def job(self) -> Json | None:
        return self.server.get("trainingjobs", *KEY)

    @property
    def status(self) -> TrainingJobStatus:
        job = self.job
        if job is None:
            return TrainingJobStatus()
        version = job["metadata"]["resourceVersion"]
        if self._read[0] != version:
            self._read = version, TrainingJobStatus.model_validate(job.get("status") or {})
        return self._read[1]

    @property
    def pods(self) -> list[Json]:
        """The pods of the job's namespace."""
        return [pod for pod in self.server.all("pods") if pod["metadata"]["namespace"] == KEY[0]]

    @property
    def living(self) -> list[Json]:
        """Those of them that have not ended."""
        return [pod for pod in self.pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]

    def pod(self, slot: int) -> Json:
        """The newest pod of a slot."""
        of_slot = [one for one in self.pods if one["metadata"]["name"].split("-")[1] == str(slot)]
        return max(of_slot, key=lambda one: int(one["metadata"]["name"].split("-")[2]))

    def worker(self, slot: int) -> Worker:
        uid = self.pod(slot)["metadata"]["uid"]
        [found] = [worker for worker in self.cluster.workers() if worker.uid == uid]
        return found

    def gang(self) -> Gang:
        """The newest gang."""
        return list(self.gangs.values())[-1]

    def gang_of(self, world: GangWorld) -> Gang:
        return self.gangs.setdefault(world.run_id, Gang(self, world))

    def is_true(self, kind: ConditionType) -> bool:
        found = find_condition(self.status, kind)
        return found is not None and found.status == "True"

    def reason(self, kind: ConditionType) -> str:
        found = find_condition(self.status, kind)
        return found.reason if found else ""

    def message(self, kind: ConditionType) -> str:
        found = find_condition(self.status, kind)
        return found.message if found else ""

    def trains(self, attempt: int) -> bool:
        """Whether this attempt runs and steps, the job has a checkpoint, and the job says so."""
        gang, status = next(reversed(self.gangs.values()), None), self.status
        return bool(
            gang
            and (gang.world.attempt, gang.broken) == (attempt, False)
            and gang.step > (gang.world.restore_step or 0)
            and status.attempt
            and (status.attempt.first_step_at or not self.sdk)
            and (self.is_true(ConditionType.CHECKPOINT_FRESH) or not self.sdk)
            and self.is_true(ConditionType.RUNNING)
            and not self.is_true(ConditionType.RECOVERING)
        )

    async def until(self, holds: Callable[[], bool], seconds: float = 240.0) -> None:
        """Let time pass until something holds."""
        end = self.clock() + seconds
        while not holds():
            assert self.clock() < end, f"in vain: {self.describe()}"
            await asyncio.sleep(POLL_SECONDS)

    async def until_trains(self, attempt: int) -> None:
        await self.until(lambda: self.trains(attempt))

    async def until_true(self, kind: ConditionType) -> None:
        await self.until(lambda: self.is_true(kind))

    @staticmethod
    def clock() -> float:
        return asyncio.get_running_loop().time()

    def describe(self) -> str:
        status = self.status
        said = {one.type: f"{one.status} {one.reason}" for one in status.conditions}
        pods = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in self.pods}
        visits = [dict(replica.results) for replica in self.replicas]
        return f"{status.phase} {status.attempt} {said} {pods} {visits} {self.server.writes}"

    # --- what must hold -------------------------------------------------------------------------

    def check(self, *, created_once: bool = True) -> None:
        """Assert what must hold in the end, whatever has happened.

        Args:
            created_once: no pod's name was used twice; so it is where none was forced to go.
        """
        oracle.check(self.history)
        self.check_ledger()
        living: dict[str, list[str]] = {}
        for pod in self.pods:
            name = pod["metadata"]["name"]
            ended = pod["status"]["phase"] in ("Succeeded", "Failed")
            if not ended and "deletionTimestamp" not in pod["metadata"]:
                living.setdefault(name.split("-")[1], []).append(name)
        assert all(len(names_) == 1 for names_ in living.values()), f"two pods at once: {living}"
        spec = (self.job or {}).get("spec", {})
        least = (spec.get("elastic") or {}).get("minWorkers") or self.workers
        legal = range(least, self.workers + (spec.get("spares") or 0) + 1)
        assert len(living) in (0, *legal), f"half a gang: {living}"
        for name, times in self.server.created.items():
            assert times == 1 or not created_once, f"{name} was created {times} times"

    def check_ledger(self) -> None:
        """All buckets and the unsettled rest are workers × time, to the millisecond.

        Of a gang whose wanted size has changed the oracle knows more.
        """
        job, ledger = self.job, self.status.ledger
        if job is None or job["spec"].get("spares"):
            return
        if job["spec"].get("elastic") and job["metadata"]["generation"] > 1:
            return
        assert ledger.accounted_until is not None
        created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        wall = (ledger.accounted_until - created) // timedelta(milliseconds=1)
        assert total(ledger) == wall * self.workers
        if is_finished(self.status):
            succeeded = self.is_true(ConditionType.SUCCEEDED)
            ended = self.status.attempt if succeeded else None
            assert ledger.accounted_until == (ended.ended_at if ended else self.status.finished_at)

    async def check_rest(self, seconds: float = 20.0) -> None:
        """Assert that nothing is written where nothing happens, but the ledger now and then."""
        await asyncio.sleep(12)  # a finished job's pods are cleaned up after ten seconds
        self.history.add(Rest(self.clock()))
        begin = len(self.server.writes)
        await asyncio.sleep(seconds)
        written = self.server.writes[begin:]
        flushes = [one for one in written if one == f"update {names.PLURAL} {KEY[1]} status"]
        others = [one for one in written if one not in (*flushes, "create events Recovered")]
        assert not others, f"written at rest: {written}"
        quiet = self.job is None or is_finished(self.status)
        quiet = quiet or self.is_true(ConditionType.SUSPENDED)
        # A new durable commit is acknowledged within a quarter of a minute.
        assert len(flushes) <= (0 if quiet else seconds / 15 + 1), flushes

    def outcome(self, *, tries: bool = True) -> dict[str, Any]:
        """What came of it, without what may differ from run to run: times and addresses.

        Args:
            tries: how many pods each slot has had matters, too.
        """
        status, attempt = self.status, self.status.attempt
        # One that failed, and stands for no slot any more, may stay for its logs.
        held = {names.pod_name(KEY[1], one.slot, one.incarnation) for one in status.slots}
        return {
            "there": self.job is not None,
            "phase": status.phase,
            "attempt": attempt and (attempt.number, attempt.state, attempt.reason),
            "slots": [(s.slot, tries and s.incarnation, s.rank) for s in status.slots],
            "incidents": status.recovery.total,
            "charged": [(one.attempt, one.reason) for one in status.recovery.restarts],
            "excluded": [one.node for one in status.exclusions],
            "conditions": {one.type: (one.status, one.reason) for one in status.conditions},
            "pods": {
                pod["metadata"]["name"].rsplit("-", 0 if tries else 1)[0]: (
                    pod["status"]["phase"],
                    "deletionTimestamp" in pod["metadata"],
                )
                for pod in self.pods
                if pod["metadata"]["name"] in held or pod["status"]["phase"] != "Failed"
            },
        }

    # --- inside ---------------------------------------------------------------------------------

    async def sync(self, worker: Worker, body: bytes, hold_seconds: float) -> bytes:
        """Carry a report to the operator; raises ConnectionError when no answer comes."""
        await asyncio.sleep(0.002)
        replica = self.operator
        if not worker.reachable or replica.ended.is_set():
            raise ConnectionError
        self.mail.append((worker, body))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def respond(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        replica.parts.handler.receive(worker.token(), worker.name, body, respond)
        ended = asyncio.create_task(replica.ended.wait())
        futures: set[asyncio.Future[Any]] = {answer, ended}
        limit_seconds = hold_seconds + ANSWER_SECONDS
        await asyncio.wait(futures, timeout=limit_seconds, return_when=FIRST_COMPLETED)
        ended.cancel()
        if not answer.done():
            raise ConnectionError
        reply = answer.result()
        await asyncio.sleep(0.002)
        if not worker.reachable or replica.ended.is_set() or reply.status != 200:
            raise ConnectionError
        return reply.body

    def process_starts(self, process: Process) -> None:
        """Write down that it does, and which attempts' processes can still do harm.

        Behind a fence they cannot: in a worker that nobody can reach or that is being ended, if
        what they write is fenced by the SDK.
        """
        beside = set()
        for worker in self.cluster.workers():
            pod = self.server.get("pods", KEY[0], worker.name)
            lost = not worker.reachable or pod is None or "deletionTimestamp" in pod["metadata"]
            if not (self.sdk and lost and worker is not process.worker):
                beside |= {other.world.attempt for other in worker.living()}
        world, worker = process.world, process.worker
        self.history.add(
            Started(
                at=self.clock(),
                pod_uid=worker.uid,
                pod=worker.name,
                run_id=world.run_id,
                attempt=world.attempt,
                rank=world.worker_rank,
                workers=world.workers,
                master=f"{world.master_address}:{world.master_port}",
                beside=frozenset(beside),
            )
        )

    def replica_died(self) -> None:
        away = Fault.AWAY in self.server.fired.values()
        seconds = AWAY_SECONDS if away else self.away_seconds
        asyncio.get_running_loop().call_later(seconds, self._restart)

    def _restart(self) -> None:
        self._starting = asyncio.get_running_loop().create_task(self.start_operator())

    def _admit(self, request: Request) -> None:
        if request.plural != "pods":
            return
        if self.template_refusal:
            raise RefusedError(422, "Invalid", self.template_refusal)
        if self.policy:
            raise RefusedError(403, "Forbidden", self.policy)
        wanted = (request.body or {}).get("spec", {}).get("priorityClassName", "")
        if wanted and wanted not in self.priority_classes:
            raise RefusedError(403, "Forbidden", f"no PriorityClass with name {wanted} was found")


def simulate(
    scenario: Scenario, *, faults: Mapping[int, Fault] | None = None, **world: Any
) -> World:
    """Play a scenario to its end, with faults at these writes; return the world."""

    async def play() -> World:
        made = World(**world)
        made.server.faults.update(faults or {})
        await scenario(made)
        return made

    return run(play())


__all__ = ["KEY", "START", "Fault", "Scenario", "World", "simulate"]
