"""The promises, each a function over the whole history of a world: what it yields is broken.

Pure: it knows no world, only what was recorded, and it says of each breach at which entry of
the history it came about. `test_oracle` shows each function a history that breaks its promise.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from goodput.protocol import Commit
from goodput_operator import names
from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.api.status import AttemptState, Bucket, ConditionType, TrainingJobStatus
from goodput_operator.ledger.accounting import total
from goodput_operator.plan.reasons import DO_NOT_REQUEUE, PLANNED, PUBLISHED
from goodput_operator.plan.view import find_condition, is_finished, is_true
from tests.simulation.history import (
    SOMEBODY,
    Committed,
    Died,
    Ended,
    Harm,
    History,
    Json,
    Led,
    Pruned,
    Reported,
    Rest,
    Restored,
    Started,
    Visited,
    Write,
)

Breach = tuple[int, str]
"""At which entry of the history, and what is wrong."""
Promise = Callable[[History], Iterator[Breach]]

BLAME_SECONDS = 2
"""A truer cause may put the end of an attempt, from which its back-off counts, so much earlier."""
PARTIAL_GANG_SECONDS = 120.0
"""So long may some of a gang run without the others while an operator leads."""
BLAME_SECONDS = 120.0
"""So long before an attempt was published may lie what ended it: a node that died unnoticed."""
LOSSES = (Bucket.LOST_WORK, Bucket.DETECTION, Bucket.RECOVERY, Bucket.UNKNOWN)
"""What only an interruption can cost; of other buckets it may be the cause."""
RESULTS_OF_BUGS = ("bug", "error")
BUDGET_FREE = frozenset(
    {"DeadlineExceeded", "StartDeadlineExceeded", "ImageLacksPython", DO_NOT_REQUEUE}
)
"""Why a job may fail whatever budget it has left."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise.

    Attributes:
        promise: its name, such as `I3`.
        entry: the position in the history at which it was broken.
    """

    promise: str
    entry: int
    message: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.message}"


class BrokenPromiseError(AssertionError):
    """Tells what was broken, and the history up to there."""

    def __init__(self, history: History, violations: list[Violation]) -> None:
        self.history = history
        self.violations = violations
        first = min(violations, key=lambda one: one.entry)
        said = "\n".join(str(one) for one in violations)
        super().__init__(f"{said}\n{history.told(first.entry)}")


def examine(history: History) -> list[Violation]:
    """Return every breach of every promise, in the order of the promises."""
    return [
        Violation(name, entry, message)
        for name, promise in PROMISES.items()
        for entry, message in promise(history)
    ]


def check(history: History) -> None:
    """Raise `BrokenPromiseError` if any promise is broken."""
    violations = examine(history)
    if violations:
        raise BrokenPromiseError(history, violations)


# --- the promises -----------------------------------------------------------------------------


def commits_survive(history: History) -> Iterator[Breach]:
    """I1: what an attempt commits is never lost, restored wrongly or deleted by another's
    processes, though both may run.

    An attempt goes on from a commit of its own history: of its predecessor, or of an earlier one
    up to the step from which it was left. No process runs beside one of another attempt that
    could still do harm, and the SDK's fence is the only reason to let one live.
    """
    published: set[Commit] = set()
    chain: dict[int, int] = {}
    newest = 0
    for position, entry in enumerate(history.entries):
        match entry:
            case Started() if entry.beside - {entry.attempt}:
                beside = sorted(entry.beside)
                yield position, f"processes of attempts {beside} can do harm at once"
            case Committed():
                published.add(entry.commit)
            case Pruned():
                published.discard(entry.commit)
                if entry.attempt < newest and entry.commit.step == chain.get(entry.commit.attempt):
                    yield position, f"attempt {entry.attempt} deleted what {newest} descends from"
            case Restored(commit=None):
                chain, newest = {}, entry.attempt
            case Restored(commit=Commit() as commit):
                if commit not in published:
                    yield position, f"attempt {entry.attempt} restored {commit}, which is not there"
                limit = chain.get(commit.attempt)
                if limit is not None and commit.step > limit:
                    why = f"written after attempt {commit.attempt} had been left at step {limit}"
                    yield position, f"attempt {entry.attempt} restored {commit}, {why}"
                chain = {one: step for one, step in chain.items() if one < commit.attempt}
                chain[commit.attempt] = commit.step
                newest = entry.attempt


def no_partial_gang_trains(history: History) -> Iterator[Breach]:
    """I2: no gang runs in part for long, none has a rank twice or two worlds, and pods are
    created for a reason only.
    """
    worlds: dict[str, tuple[int, str]] = {}
    living: dict[str, dict[int, str]] = defaultdict(dict)
    begun: dict[str, tuple[int, float]] = {}
    complete: set[str] = set()
    led = _LedTime()
    for position, entry in enumerate(history.entries):
        led.hear(entry)
        for run, (start, since) in list(begun.items()):
            if run in complete or not living[run]:
                del begun[run]
            elif led.seconds - since > PARTIAL_GANG_SECONDS:
                del begun[run]
                yield start, f"{sorted(living[run])} of run {run} ran without the others"
        match entry:
            case Started():
                world = entry.workers, entry.master
                if worlds.setdefault(entry.run_id, world) != world:
                    yield position, f"run {entry.run_id} has two worlds"
                if entry.rank in living[entry.run_id]:
                    yield position, f"run {entry.run_id} has rank {entry.rank} twice"
                living[entry.run_id][entry.rank] = entry.pod_uid
                begun.setdefault(entry.run_id, (position, led.seconds))
                if len(living[entry.run_id]) == entry.workers:
                    complete.add(entry.run_id)
            case Ended():
                living[entry.run_id].pop(entry.rank, None)
    yield from _bounded_creations(history)


def incidents_count_once(history: History) -> Iterator[Breach]:
    """I3: each incident is counted exactly once, when its attempt is left, and charged only where
    the user's process failed by itself; the job fails exactly at its limit, and waits before it
    tries again.
    """
    faults_of_users = 0
    for position, entry in enumerate(history.entries):
        match entry:
            case Ended(cause="itself") if entry.exit_code:
                faults_of_users += 1
            case Write():
                if (change := _status_change(entry)) is not None:
                    yield from ((position, why) for why in _miscounts(change, faults_of_users))


def newest_checkpoint_stays(history: History) -> Iterator[Breach]:
    """I4: the newest durable checkpoint is never deleted, and an attempt goes on from it or a
    newer one; an older one only where it was spoiled.
    """
    good: set[Commit] = set()
    durable: dict[int, Commit] = {}
    known: Commit | None = None
    for position, entry in enumerate(history.entries):
        match entry:
            case Committed():
                good.add(entry.commit)
            case Harm(kind="Spoiled"):
                good = {one for one in good if str(one) != entry.what}
            case Pruned():
                good.discard(entry.commit)
                if entry.commit == known:
                    yield position, f"{entry.commit}, the newest durable one, was deleted"
            case Write() if (change := _status_change(entry)) is not None:
                checkpoint, attempt = change.after.checkpoint, change.after.attempt
                known = None
                if checkpoint.last_durable_attempt and checkpoint.last_durable_step is not None:
                    known = Commit(checkpoint.last_durable_attempt, checkpoint.last_durable_step)
                if attempt and known and attempt.state is AttemptState.STARTING:
                    durable.setdefault(attempt.number, known)
            case Restored():
                wanted = durable.get(entry.attempt)
                step = entry.commit.step if entry.commit else -1
                if wanted in good and wanted is not None and step < wanted.step:
                    yield position, f"attempt {entry.attempt} went on from {step}, not {wanted}"


def nothing_is_orphaned(history: History) -> Iterator[Breach]:
    """I5: at rest there is no pod without its job, none that stands for nothing, and no process
    that can be reached without an attempt that wants it.
    """
    for position, scene in _rests(history):
        wanted = {
            names.pod_name(job["metadata"]["name"], slot.slot, slot.incarnation)
            for job, status in scene.jobs
            for slot in status.slots
        }
        uids = {job["metadata"]["uid"] for job, _ in scene.jobs}
        for pod in scene.pods:
            name = pod["metadata"]["name"]
            owner = _owner(pod)
            if owner is None:
                continue
            if owner not in uids and not _ending(pod):
                yield position, f"pod {name} outlives its job"
            elif not _ended(pod) and not _ending(pod) and name not in wanted:
                yield position, f"pod {name} stands for no slot"
        current = {
            status.attempt.run_id
            for _, status in scene.jobs
            if status.attempt and status.attempt.state in PUBLISHED and not is_finished(status)
        }
        for process in scene.processes:
            if process.run_id not in current and process.pod_uid not in scene.lost_pods:
                yield position, f"a process of {process.run_id} in pod {process.pod} goes on"


def wanted_state_is_reached(history: History) -> Iterator[Breach]:
    """I6: at rest each job is as its user wants it, and nothing is written but the ledger."""
    for position, scene in _rests(history):
        for job, status in scene.jobs:
            if not _managed(job):
                continue
            why = _not_as_wanted(job, status, scene)
            if why:
                yield position, f"{job['metadata']['name']} at rest: {why}"
    resting = False
    for position, entry in enumerate(history.entries):
        if isinstance(entry, Rest | Harm):
            resting = isinstance(entry, Rest)
        elif resting and isinstance(entry, Write) and entry.by_operator:
            flush = entry.plural == names.PLURAL and entry.subresource == "status"
            told = entry.plural == "events" and (entry.body or {}).get("reason") == "Recovered"
            if not ((flush or told) and entry.accepted):
                yield position, f"{entry.verb} {entry.plural} {entry.name} at rest"


def status_is_fenced(history: History) -> Iterator[Breach]:
    """I7: a status is written only onto the state it was made for, and nothing is done that a
    persisted status did not say before: pods, worlds and ends follow the intent.
    """
    seats: dict[str, set[str]] = defaultdict(set)
    left: dict[str, set[str]] = defaultdict(set)
    runs: dict[str, TrainingJobStatus] = {}
    for position, entry in enumerate(history.entries):
        match entry:
            case Write() if entry.by_operator and entry.verb == "update" and entry.accepted:
                sent = (entry.body or {})["metadata"].get("resourceVersion")
                if entry.before and sent != entry.before["metadata"]["resourceVersion"]:
                    yield position, f"{entry.name} was written without its resourceVersion"
                if (change := _status_change(entry)) is not None:
                    _note_seats(change, seats, left)
                    if change.after.attempt and change.after.attempt.run_id:
                        runs[change.after.attempt.run_id] = change.after
            case Write(plural="pods", verb="create") if entry.by_operator:
                owner = _owner(entry.body or {})
                if owner is not None and entry.name not in seats[owner]:
                    yield position, f"pod {entry.name} was created before its slot was persisted"
            case Write(plural="pods", verb="delete", before=dict() as pod) if entry.by_operator:
                owner, marked = _owner(pod), names.LABEL_JOB in _labels(pod)
                if marked and owner is not None and entry.name in seats[owner] - left[owner]:
                    yield position, f"pod {entry.name} was deleted while it stood for its slot"
            case Started():
                status = runs.get(entry.run_id)
                if status is None:
                    yield position, f"{entry.pod} runs {entry.run_id}, which nobody persisted"
                elif (status.attempt and status.attempt.number) != entry.attempt:
                    yield position, f"{entry.pod} runs attempt {entry.attempt} as {entry.run_id}"


def status_moves_forward(history: History) -> Iterator[Breach]:
    """I8: an attempt's life, the counters and the ledger only go forward, a finished job stays
    finished, and the ledger sums to wall time.
    """
    for position, entry in enumerate(history.entries):
        if isinstance(entry, Write) and (change := _status_change(entry)) is not None:
            yield from ((position, why) for why in _steps_back(change))


def latest_spec_wins(history: History) -> Iterator[Breach]:
    """I9: at rest the status answers the newest spec, and every worker runs its template."""
    for position, scene in _rests(history):
        for job, status in scene.jobs:
            if not _managed(job):
                continue
            name, generation = job["metadata"]["name"], job["metadata"].get("generation")
            if generation is not None and status.observed_generation != generation:
                seen = status.observed_generation
                yield position, f"{name} answers generation {seen}, not {generation}"
            wanted = {
                one["name"]: one.get("image")
                for one in job["spec"]["template"]["spec"]["containers"]
            }
            for pod in scene.pods:
                if _owner(pod) != job["metadata"]["uid"] or _ended(pod) or _ending(pod):
                    continue
                has = {one["name"]: one.get("image") for one in pod["spec"]["containers"]}
                if not wanted.items() <= has.items():
                    yield position, f"{pod['metadata']['name']} runs {has}, not {wanted}"


def hands_off(history: History) -> Iterator[Breach]:
    """I10: what is not ours is not touched, and what is deleted is named by its UID."""
    jobs: dict[str, Json] = {}
    for position, entry in enumerate(history.entries):
        if not isinstance(entry, Write):
            continue
        if entry.plural == names.PLURAL and entry.after is not None:
            jobs[entry.after["metadata"]["uid"]] = entry.after
        if not entry.by_operator:
            continue
        target = entry.before or entry.after or entry.body or {}
        if entry.verb == "delete":
            asked = ((entry.body or {}).get("preconditions") or {}).get("uid")
            if not asked:
                yield position, f"{entry.plural} {entry.name} was deleted by name alone"
        if entry.plural == "pods" and _owner(target) not in jobs and entry.accepted:
            yield position, f"{entry.verb} of pod {entry.name}, which is not ours"
        elif entry.plural == names.PLURAL and entry.accepted and not _managed(entry.before or {}):
            yield position, f"{entry.verb} of {entry.name}, which another controller manages"
        elif entry.plural not in ("pods", names.PLURAL, "events", "leases", "secrets"):
            yield position, f"{entry.verb} {entry.plural} {entry.name}"


def no_visit_fails(history: History) -> Iterator[Breach]:
    """I11: no pass ends in a bug or in an error that no retry can help."""
    for position, entry in enumerate(history.entries):
        if isinstance(entry, Visited) and entry.result in RESULTS_OF_BUGS:
            yield position, f"a visit of {entry.replica} ended in: {entry.result}"


def writes_are_few(history: History) -> Iterator[Breach]:
    """I12: writes follow what happens to a job, not how many workers report how often."""
    happened, written = 0, 0
    for position, entry in enumerate(history.entries):
        match entry:
            case Write() if entry.by_operator:
                written += entry.plural == names.PLURAL and entry.accepted
                happened += not entry.accepted
            case Write(actor=actor) if actor == SOMEBODY:
                happened += 1
            case Harm() | Led():
                happened += 1
            case Ended(cause="itself" | "done"):
                happened += 1
        if written > 20 + 15 * happened + entry.at / 10:
            yield position, f"{written} status writes, though only {happened} things happened"
            return


def no_restart_without_fault(history: History) -> Iterator[Breach]:
    """I13: no attempt is ended but for a fault in its time, and the silence of all is none."""
    hurt_at: list[float] = []
    for position, entry in enumerate(history.entries):
        if _hurts(entry):
            hurt_at.append(entry.at)
        if not isinstance(entry, Write) or (change := _status_change(entry)) is None:
            continue
        attempt = change.before.attempt
        if change.after.recovery.total <= change.before.recovery.total or attempt is None:
            continue
        begun = _seconds(change.job, attempt.published_at or attempt.opened_at)
        if not any(moment >= begun - BLAME_SECONDS for moment in hurt_at):
            yield position, f"attempt {attempt.number} was ended and nothing had hurt it"


def forgeries_change_nothing(history: History) -> Iterator[Breach]:
    """I14: forged, replayed and old reports are not accepted."""
    for position, entry in enumerate(history.entries):
        if isinstance(entry, Reported) and entry.result == "Accepted":
            yield position, f"a false report of pod {entry.pod_uid} was accepted"


def prices_are_losses(history: History) -> Iterator[Breach]:
    """I15: what the incidents have cost is what the ledger has lost, to the millisecond; no attempt
    has two incidents, and the end of each is told once.
    """
    told: Counter[tuple[str, str]] = Counter()
    for position, entry in enumerate(history.entries):
        match entry:
            case Write(plural="events", verb="create") if entry.by_operator and entry.accepted:
                body = entry.body or {}
                if body.get("reason") == "Recovered":
                    incident = body["regarding"]["uid"], body["note"].partition(" ended")[0]
                    told[incident] += 1
                    if told[incident] > 1:
                        yield position, f"{incident[1]} is told twice"
            case Write() if (change := _status_change(entry)) is not None:
                yield from ((position, why) for why in _mispriced(change.after))


PROMISES: Mapping[str, Promise] = {
    "I1": commits_survive,
    "I2": no_partial_gang_trains,
    "I3": incidents_count_once,
    "I4": newest_checkpoint_stays,
    "I5": nothing_is_orphaned,
    "I6": wanted_state_is_reached,
    "I7": status_is_fenced,
    "I8": status_moves_forward,
    "I9": latest_spec_wins,
    "I10": hands_off,
    "I11": no_visit_fails,
    "I12": writes_are_few,
    "I13": no_restart_without_fault,
    "I14": forgeries_change_nothing,
    "I15": prices_are_losses,
}


# --- what they look at ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """A status that an operator wrote, and the one before it."""

    job: Json
    before: TrainingJobStatus
    after: TrainingJobStatus
    spec: TrainingJobSpec


@dataclass(frozen=True, slots=True)
class _Scene:
    """The world at one moment, as far as the history tells."""

    jobs: list[tuple[Json, TrainingJobStatus]]
    pods: list[Json]
    processes: list[Started]
    lost_pods: frozenset[str]
    down_nodes: frozenset[str]


class _LedTime:
    """Seconds during which some operator led."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._leaders: set[str] = set()
        self._heard_at = 0.0

    def hear(self, entry: Any) -> None:
        if self._leaders:
            self.seconds += entry.at - self._heard_at
        self._heard_at = entry.at
        match entry:
            case Led():
                self._leaders.add(entry.replica)
            case Died():
                self._leaders.discard(entry.replica)


def _status_change(write: Write) -> _Change | None:
    if not (write.by_operator and write.accepted and write.subresource == "status"):
        return None
    if write.before is None or write.after is None:
        return None
    return _Change(
        job=write.after,
        before=_status(write.before),
        after=_status(write.after),
        spec=TrainingJobSpec.model_validate(write.after["spec"]),
    )


def _status(job: Json) -> TrainingJobStatus:
    return TrainingJobStatus.model_validate(job.get("status") or {})


def _hurts(entry: Any) -> bool:
    """Whether training cannot go on through it."""
    match entry:
        case Harm():
            return entry.hurts
        case Ended(cause="itself"):
            return entry.exit_code != 0
        case Write(plural="pods", before=dict() as pod) if not entry.by_operator:
            if entry.after is None or _ending(entry.after):
                return not _ending(pod)
            return _labels(entry.after) != _labels(pod)  # nobody believes its agent any more
    return False


def _scene(history: History, upto: int) -> _Scene:
    objects: dict[tuple[str, str, str], Json] = {}
    processes: dict[tuple[str, int], Started] = {}
    down: set[str] = set()
    for entry in history.entries[:upto]:
        match entry:
            case Write() if entry.accepted:
                key = entry.plural, entry.namespace, entry.name
                if entry.after is None:
                    objects.pop(key, None)
                else:
                    objects[key] = entry.after
            case Started():
                processes[entry.pod_uid, entry.rank] = entry
            case Ended():
                processes.pop((entry.pod_uid, entry.rank), None)
            case Harm(kind="NodeLost" | "NodeCutOff"):
                down.add(entry.what)
            case Harm(kind="NodeHealed"):
                down.discard(entry.what)
    pods = [obj for (plural, _, _), obj in objects.items() if plural == "pods"]
    reachable = {pod["metadata"]["uid"] for pod in pods if pod["spec"].get("nodeName") not in down}
    unreachable = {one.pod_uid for one in processes.values()} - reachable
    return _Scene(
        jobs=[
            (obj, _status(obj)) for (plural, _, _), obj in objects.items() if plural == names.PLURAL
        ],
        pods=pods,
        processes=list(processes.values()),
        lost_pods=frozenset(unreachable),
        down_nodes=frozenset(down),
    )


def _rests(history: History) -> Iterator[tuple[int, _Scene]]:
    """The world at each moment at which it was said to be at rest, and at the end of that rest."""
    last = None
    for position, entry in enumerate(history.entries):
        if isinstance(entry, Rest):
            yield position, _scene(history, position)
            last = position
        elif isinstance(entry, Harm):
            last = None
    if last is not None:
        yield len(history.entries) - 1, _scene(history, len(history.entries))


def _owner(pod: Mapping[str, Any]) -> str | None:
    """The UID of the TrainingJob that owns a pod; None where none does."""
    owners = (pod.get("metadata") or {}).get("ownerReferences") or ()
    return next((one["uid"] for one in owners if one.get("kind") == names.KIND), None)


def _managed(job: Mapping[str, Any]) -> bool:
    by = (job.get("spec") or {}).get("managedBy", names.MANAGED_BY)
    return bool(by == names.MANAGED_BY)


def _labels(pod: Json) -> Json:
    return pod["metadata"].get("labels") or {}


def _ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _ending(pod: Json) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _seconds(job: Json, moment: datetime) -> float:
    """A moment on the virtual clock, which begins on New Year's Day."""
    return (moment - moment.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)) / (
        timedelta(seconds=1)
    )


def _bounded_creations(history: History) -> Iterator[Breach]:
    """Each pod that is created has a reason: the gang's beginning, or something that happened."""
    reasons, created, workers = 1, 0, 1
    for position, entry in enumerate(history.entries):
        match entry:
            case Write(plural="pods", verb="create") if entry.by_operator:
                created += entry.accepted
                reasons += not entry.accepted
            case Write(plural=names.PLURAL):
                if entry.after is not None and not entry.by_operator:
                    spec = entry.after["spec"]
                    workers = max(workers, spec.get("workers", 1) + int(spec.get("spares") or 0))
                    reasons += 1
            case Harm() | Led() | Ended():
                reasons += 1
            case Write() if not entry.by_operator and _hurts(entry):
                reasons += 1
        if created > workers * (reasons + 1):
            yield position, f"{created} pods were created for {reasons} reasons"
            return


def _miscounts(change: _Change, faults_of_users: int) -> Iterator[str]:
    before, after = change.before, change.after
    old, new = before.attempt, after.attempt
    counted = after.recovery.total - before.recovery.total
    if counted not in (0, 1):
        yield f"{counted} incidents were counted at once"
    left = old is not None and old.state is not AttemptState.CLOSED and new is not None
    left = left and (new.number > old.number or new.state is AttemptState.CLOSED)
    if counted and not left:
        yield "an incident was counted though no attempt was left"
    if left and old is not None and new is not None and old.state in PUBLISHED and not counted:
        planned = (
            (new.number == old.number and new.reason in PLANNED)
            or old.reason in PLANNED
            or change.spec.suspend
            or after.recovery.start_failures > before.recovery.start_failures
            or is_finished(after)
        )
        if not planned:
            yield f"attempt {old.number} was left and no incident was counted"
    attempts = [one.attempt for one in after.recovery.restarts]
    if len(attempts) != len(set(attempts)):
        yield f"an attempt is charged twice: {attempts}"
    if len(attempts) > faults_of_users:
        yield f"{attempts} are charged, but only {faults_of_users} processes failed by themselves"
    yield from _limits(change, bool(left and counted))
    yield from _hasty(change, bool(left and counted))


def _limits(change: _Change, counted: bool) -> Iterator[str]:
    policy, recovery = change.spec.recovery, change.after.recovery
    signal = change.after.progress.best_step is not None or change.after.checkpoint.fenced
    over = len(recovery.restarts) > policy.max_restarts or (
        signal and recovery.charged_without_progress >= policy.max_restarts_without_progress
    )
    failed = find_condition(change.after, ConditionType.FAILED)
    new = not is_true(change.before, ConditionType.FAILED)
    if failed is not None and failed.status == "True" and new and not over:
        attempt = change.after.attempt
        asked = attempt is not None and attempt.reason in BUDGET_FREE
        if failed.reason not in BUDGET_FREE and not asked:
            yield f"the job failed ({failed.reason}) before its limit"
    charged = len(recovery.restarts) > len(change.before.recovery.restarts)
    if counted and charged and over and not is_finished(change.after):
        yield "the job goes on beyond its limit"


def _hasty(change: _Change, counted: bool) -> Iterator[str]:
    """The second failure without progress is answered after a while only, and that is kept."""
    recovery, new = change.after.recovery, change.after.attempt
    ended_at = change.before.attempt.ended_at if change.before.attempt else None
    if counted and ended_at is not None and recovery.without_progress >= 2:
        least = change.spec.recovery.backoff_seconds
        wait = timedelta(seconds=max(least / 2, least - BLAME_SECONDS))
        if recovery.not_before is None or recovery.not_before < ended_at + wait:
            yield f"failure {recovery.without_progress} without progress calls for no back-off"
    if new is None or new.state is not AttemptState.STARTING or new.published_at is None:
        return
    if recovery.not_before is not None and new.published_at < recovery.not_before:
        yield f"attempt {new.number} began before its back-off was over"


_ORDER = {state: order for order, state in enumerate(AttemptState)}


def _steps_back(change: _Change) -> Iterator[str]:
    before, after = change.before, change.after
    old, new = before.attempt, after.attempt
    if old is not None and new is None:
        yield f"attempt {old.number} was forgotten"
    if old is not None and new is not None:
        if new.number < old.number:
            yield f"attempt {new.number} follows {old.number}"
        elif new.number == old.number and _ORDER[new.state] < _ORDER[old.state]:
            yield f"attempt {old.number} went from {old.state} to {new.state}"
    if after.recovery.total < before.recovery.total:
        yield "incidents were forgotten"
    incarnations = {one.slot: one.incarnation for one in before.slots}
    for slot in after.slots:
        if slot.incarnation < incarnations.get(slot.slot, 0):
            yield f"slot {slot.slot} went back to incarnation {slot.incarnation}"
    if after.observed_generation < before.observed_generation:
        yield "an older spec is answered than before"
    if is_finished(before):
        ends = (ConditionType.SUCCEEDED, ConditionType.FAILED)
        if any(is_true(before, kind) and not is_true(after, kind) for kind in ends):
            yield "a finished job goes on"
        if old is not None and new is not None and new.number > old.number:
            yield "a finished job has a new attempt"
    yield from _unbalanced(change)


def _unbalanced(change: _Change) -> Iterator[str]:
    before, after = change.before.ledger, change.after.ledger
    for bucket, milliseconds in before.accelerator_milliseconds.items():
        if after.accelerator_milliseconds.get(bucket, 0) < milliseconds:
            yield f"the ledger's {bucket} went back"
    if after.unsettled_milliseconds < 0:
        yield "unsettled work is less than none"
    if after.accounted_until is None:
        return
    if before.accounted_until is not None and after.accounted_until < before.accounted_until:
        yield "the ledger went back in time"
    began = before.accounted_until
    if began is None:
        began = datetime.fromisoformat(change.job["metadata"]["creationTimestamp"])
    # A job that is elastic or has spares counts what it wanted or held until now; else the number
    # never changes.
    counted = before.accelerators if before.accounted_until else after.accelerators
    fixed = change.spec.elastic is None and not change.spec.spares
    if fixed and counted != after.accelerators:
        yield f"the ledger counts {counted} accelerators, then {after.accelerators}"
    wall = (after.accounted_until - began) // timedelta(milliseconds=1)
    spent = total(after) - total(before)
    if spent != wall * counted:
        yield f"the ledger has {spent} ms of {wall} × {counted}"


def _mispriced(status: TrainingJobStatus) -> Iterator[str]:
    ledger = status.ledger
    prices = [one.accelerator_milliseconds for one in status.incidents]
    prices.append(ledger.earlier_incidents_milliseconds)
    for bucket in Bucket:
        paid = sum(price.get(bucket, 0) for price in prices)
        spent = ledger.accelerator_milliseconds.get(bucket, 0)
        if paid > spent or (paid < spent and bucket in LOSSES):
            yield f"incidents have paid {paid} of {spent} ms of {bucket}"
    attempts = [one.attempt for one in status.incidents]
    if attempts != sorted(set(attempts), reverse=True):
        yield f"the incidents are those of attempts {attempts}"


def _note_seats(change: _Change, seats: dict[str, set[str]], left: dict[str, set[str]]) -> None:
    """Remember which pods stand for a slot, and which may be deleted."""
    uid, job = change.job["metadata"]["uid"], change.job["metadata"]["name"]
    held = {names.pod_name(job, one.slot, one.incarnation) for one in change.after.slots}
    attempt = change.after.attempt
    over = is_finished(change.after) or change.spec.suspend
    over = over or (attempt is not None and attempt.state is AttemptState.STOPPING)
    left[uid] |= (seats[uid] - held) | (held if over else set())
    seats[uid] |= held
    if not over:
        left[uid] -= held


def _not_as_wanted(job: Json, status: TrainingJobStatus, scene: _Scene) -> str:
    uid = job["metadata"]["uid"]
    pods = [pod for pod in scene.pods if _owner(pod) == uid]
    living = [pod for pod in pods if not _ended(pod) and not _ending(pod)]
    processes = [one for one in scene.processes if one.pod_uid not in scene.lost_pods]
    ours = [one for one in processes if one.run_id.rpartition("-")[0] == uid]
    slots = Counter(pod["metadata"]["name"].rsplit("-", 1)[0] for pod in living)
    doubled = [slot for slot, many in slots.items() if many > 1]
    if doubled:
        return f"two pods stand for {doubled}"
    wanted = job["spec"].get("workers", 1)
    least = (job["spec"].get("elastic") or {}).get("minWorkers", wanted)
    most = wanted + int(job["spec"].get("spares") or 0)
    if living and not least <= len(living) <= most:
        return f"{len(living)} of {wanted} pods live"
    if is_finished(status):
        return f"finished, but {len(ours)} processes go on" if ours else ""
    if job["spec"].get("suspend"):
        return "suspended, but it has pods" if living or ours else ""
    attempt = status.attempt
    running = is_true(status, ConditionType.RUNNING)
    if attempt is None or attempt.state is not AttemptState.RUNNING or not running:
        return f"it does not train: {status.phase} {status.reason}"
    gang = sum(slot.rank >= 0 for slot in status.slots)
    if gang < least or sorted(one.rank for one in ours) != list(range(gang)):
        return f"ranks {sorted(one.rank for one in ours)} of {wanted} run"
    return ""
