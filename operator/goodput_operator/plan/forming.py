"""The rules for an attempt that is forming: no process runs, and no half gang is kept.

They come after all others in `plan.rules`, in the order in which they stand here.
"""

from datetime import datetime, timedelta

from goodput.protocol import Disk
from goodput_operator.api.status import MAX_ATTEMPT, ConditionType, TrainingJobStatus
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS, Kind, where
from goodput_operator.gang.placement import NoRoom, Placement
from goodput_operator.observe.snapshot import NodeHealth, Worker
from goodput_operator.plan.attempt import avoiding, publish, start_failed
from goodput_operator.plan.elastic import (
    can_go_on,
    replacements_due,
    size_change,
    snoozed_until,
    with_new_world,
    with_snooze,
)
from goodput_operator.plan.members import chosen, is_ready
from goodput_operator.plan.reasons import UNSCHEDULABLE
from goodput_operator.plan.sizing import largest_legal
from goodput_operator.plan.steps import earliest, fail, set_condition
from goodput_operator.plan.view import Step, View, next_incarnation


def cannot_start(view: View) -> Step | None:
    """Fail a job whose image can never run the agent."""
    for finding in view.diagnosis.findings:
        if finding.kind is Kind.CANNOT_START:
            return fail(view, finding.reason, finding.message)
    return None


def release_refused(view: View) -> Step | None:
    """Release the gang when the API server refuses one of its pods: no half gang is kept.

    Survivors keep their pods until the start time-out, as while a replacement waits for room:
    often the very pod that is being replaced still counts against the quota.
    """
    if not view.snapshot.refusal:
        return None
    message = f"a worker pod was refused: {view.snapshot.refusal}"
    opened_at = view.attempt.opened_at.replace(microsecond=0)  # as precise as a pod's creation
    survivors = any(w.pod and w.pod.created_at < opened_at for w in view.snapshot.workers)
    patience = timedelta(seconds=view.spec.gang.start_timeout_seconds)
    if not can_go_on(view) and (not survivors or view.now >= opened_at + patience):
        return _release(view, "CreateRefused", message)
    status = _failed_to_start(view, view.status)
    status = set_condition(view, status, ConditionType.ADMITTED, False, "CreateRefused", message)
    return Step(status, "CreateRefused", message)


def replace_dead(view: View) -> Step | None:
    """Give the slots whose pods have died while the gang formed a new pod each."""
    dead = [
        worker
        for worker in view.snapshot.workers
        if worker.pod is not None
        and (
            worker.pod.dead
            or worker.notice is not None
            or worker.node is NodeHealth.GONE
            or (
                worker.node is NodeHealth.NOT_READY
                and worker.silent_seconds > SILENCE_LIMIT_SECONDS
            )
        )
    ]
    if not dead:
        return None
    failed = [w for w in dead if w.pod and w.pod.ended is not None and not w.pod.deleting]
    status = view.status.model_copy(
        update={
            "slots": next_incarnation(view.status.slots, frozenset(w.slot for w in dead)),
            "exclusions": avoiding(
                view,
                [w.pod.node for w in dead if w.pod and _node_to_blame(w)],
                "WorkerDied",
                view.timing.exclusion_seconds,
            ),
        }
    )
    message = f"{where(dead[0])} died before the gang was complete"
    if dead[0].notice is not None:
        message = f"{where(dead[0])} is replaced before it goes: {dead[0].notice.why}"
    if failed:
        status = _failed_to_start(view, status, gone=len(dead))
        ended = failed[0].pod.ended if failed[0].pod else None
        if ended:
            message += f" (exit code {ended.exit_code} {ended.reason}: {ended.message[:300]})"
    status = set_condition(view, status, ConditionType.ADMITTED, False, "WorkerDied", message)
    return Step(status, "ReplaceWorker", message)


def _node_to_blame(worker: Worker) -> bool:
    """Return whether another node should be tried: the kubelet turned the pod away, or is gone."""
    if worker.node in (NodeHealth.GONE, NodeHealth.NOT_READY):
        return True
    return bool(worker.pod and worker.pod.ended and worker.pod.ended.exit_code == -1)


def displace(view: View) -> Step | None:
    """Place a pinned pod elsewhere that the scheduler refuses where the book put it.

    With a back-off from the second time on: what only the scheduler can judge, such as a claim
    that no volume is bound to, may refuse every node, however many there are.
    """
    refused = [w for w in view.snapshot.workers if w.pod is not None and w.pod.unschedulable]
    if not view.pinned or not refused:
        return None
    status = view.status.model_copy(
        update={
            "slots": next_incarnation(view.status.slots, frozenset(w.slot for w in refused)),
            "exclusions": avoiding(
                view,
                [w.pod.pinned for w in refused if w.pod],
                UNSCHEDULABLE,
                view.timing.unschedulable_seconds,
            ),
        }
    )
    status = _failed_to_start(view, status, gone=len(refused))
    first = refused[0].pod
    message = f"{where(refused[0])} is placed again: {first.unschedulable if first else ''}"
    status = set_condition(view, status, ConditionType.ADMITTED, False, "Displaced", message)
    return Step(status, "Displaced", message)


def admit(view: View) -> Step | None:
    """Create what is missing when the whole gang fits; else say what is missing."""
    empty = [worker.slot for worker in view.snapshot.workers if worker.pod is None]
    held = len(view.snapshot.workers) - len(empty)
    missing = empty[: max(0, view.wanted + view.spares - held)]
    if not missing or view.room:
        return None
    if view.backing_off_until is not None:
        return Step(view.status, "BackOff", recheck_at=view.backing_off_until)
    if can_go_on(view) and snoozed_until(view) is not None:
        return None
    if view.pinned:
        room = _find_largest_room(view, missing)
        if isinstance(room, NoRoom):
            return None if can_go_on(view) else _no_room(view, room)
        nodes: dict[int, str | None] = dict(room.nodes)
        size = len(room.nodes) + held
        all_of = f"all {view.wanted}" if size >= view.wanted else f"{size} of {view.wanted}"
        message = f"{all_of} workers fit"
        message += f", and {size - view.wanted} spares" if size > view.wanted else ""
    else:
        nodes = dict.fromkeys(missing)
        message = "the workers are created without a reservation"
    status = set_condition(view, view.status, ConditionType.ADMITTED, True, "Admitted", message)
    return Step(status, "Admitted", message, room=nodes)


def _find_largest_room(view: View, missing: list[int]) -> Placement | NoRoom:
    """Look for room for all that are missing, else for the largest legal size that fits.

    Where there is none either, the answer is about the smallest gang that could start, because
    for that one the job waits.
    """
    bound = {w.slot: w.pod.node for w in view.snapshot.workers if w.pod is not None and w.pod.node}
    held = sum(1 for worker in view.snapshot.workers if worker.pod is not None)
    count = len(missing)
    while True:
        room = _find_room(view, missing[:count], bound)
        if not isinstance(room, NoRoom):
            return room
        size = largest_legal(view.sizes, held + min(room.fits, count - 1)) or view.sizes[0]
        if not held < size < held + count:
            return room
        count = size - held


def _find_room(view: View, missing: list[int], bound: dict[int, str]) -> Placement | NoRoom:
    """Look for room away from excluded nodes, then on them: one that failed is better than none.

    Not where the scheduler has refused a pod: it would refuse the next one at once. Nor for a
    gang that can do without.
    """
    exclusions, priority = view.status.exclusions, view.status.priority
    refused = [one for one in exclusions if one.reason == UNSCHEDULABLE]
    room = view.place(missing, bound, exclusions, priority)
    if can_go_on(view):
        return room
    if isinstance(room, NoRoom) and len(refused) < len(exclusions):
        return view.place(missing, bound, refused, priority)
    return room


def _no_room(view: View, room: NoRoom) -> Step:
    held = [worker for worker in view.snapshot.workers if worker.pod is not None]
    if held and not view.holds(ConditionType.RECOVERING):
        return _release(view, "DoesNotFit", room.message)
    late = start_timeout(view)
    if late is not None:
        return late
    status = set_condition(
        view, view.status, ConditionType.ADMITTED, False, "DoesNotFit", room.message
    )
    recheck, limit = view.now + timedelta(seconds=30), _start_limit(view)
    if held and limit > view.now:
        recheck = min(recheck, limit)
    return Step(status, "Waiting", room.message, recheck_at=recheck)


def start_timeout(view: View) -> Step | None:
    """Release a gang that is not connected, or cannot use its directory, in time."""
    held = [worker for worker in view.snapshot.workers if worker.pod is not None]
    if not held or view.now < _start_limit(view):
        return None
    missing = [worker for worker in view.gang if not is_ready(worker)]
    unusable = _unusable_directory(view)
    if not unusable and largest_legal(view.sizes, len(view.gang) - len(missing)) is not None:
        return None
    trouble = next((w.pod.trouble for w in missing if w.pod and w.pod.trouble), None)
    within = f"within spec.gang.startTimeoutSeconds={view.spec.gang.start_timeout_seconds}"
    message = (
        f"{len(missing)} of {len(view.gang)} workers were not connected {within}"
        if missing
        else f"not mended {within}: {unusable}"
    )
    if trouble:
        message += f": {trouble[0]}: {trouble[1]}"
    elif missing:
        unschedulable = next((w.pod.unschedulable for w in missing if w.pod), "")
        message += f": {where(missing[0])} {unschedulable}".rstrip()
    return _release(view, "StartTimeout", message)


def _start_limit(view: View) -> datetime:
    created = [w.pod.created_at for w in view.snapshot.workers if w.pod is not None]
    begin = max([view.attempt.opened_at, *([min(created)] if created else [])])
    begin = max(begin, view.status.recovery.not_before or begin)  # the back-off is our wish
    limit = begin + timedelta(seconds=view.spec.gang.start_timeout_seconds)
    return max(limit, view.patient_until) if view.awaits(view.gang) else limit


def forming(view: View) -> Step | None:
    """Publish the world once every worker of the gang is there and idle.

    An elastic gang starts with the largest legal part of it that is, when the others have had
    their time: until the start time-out, or what it is worth to wait for replacements.
    """
    limit = _start_limit(view)
    ready = [worker for worker in view.gang if is_ready(worker)]
    size = largest_legal(view.sizes, min(len(ready), view.wanted))
    hoped = largest_legal(view.sizes, min(len(view.gang), view.wanted))
    if view.awaits(view.survivors if size == hoped else view.gang):
        return Step(view.status, "Forming", recheck_at=earliest(view, view.patient_until))
    if size is None or size != hoped:
        wait_until = None if size is None else replacements_due(view, size)
        if wait_until is not None:
            limit = min(limit, wait_until)
        if size is None or view.now < limit:
            return Step(view.status, "Forming", recheck_at=earliest(view, limit))
    unusable = _unusable_directory(view)
    if unusable:
        status = set_condition(
            view, view.status, ConditionType.CHECKPOINT_FRESH, False, "DirectoryUnusable", unusable
        )
        return Step(status, "DirectoryUnusable", unusable, recheck_at=earliest(view, limit))
    if view.backing_off_until is not None:
        return Step(view.status, "BackOff", recheck_at=view.backing_off_until)
    members = chosen(ready, size, view.elastic.benched)
    status = publish(view, members)
    assert status.attempt is not None
    message = f"the world of attempt {status.attempt.number} is fixed"
    if not view.flexible:
        return Step(status, "Published", message)
    reason = size_change(view.elastic.workers, size, view.wanted)
    if view.elastic.swaps and reason == "Published":
        reason = "SpareSwappedIn"
        message += f", with {view.elastic.swaps} spares in the places of lost workers"
    message += f": {size} of {view.wanted} workers train"
    return Step(with_new_world(status, view, members), reason, message)


def _unusable_directory(view: View) -> str:
    """Return which worker cannot use the checkpoint directory, and why; empty when all can."""
    for worker in view.gang:
        problem = _disk_problem(worker)
        if problem and view.spec.checkpoint:
            directory = view.spec.checkpoint.directory
            return f"{where(worker)} cannot use spec.checkpoint.directory={directory}: {problem}"
    return ""


def _disk_problem(worker: Worker) -> str:
    disk = worker.agent.request.disk if worker.agent else Disk()
    if disk.highest_attempt < MAX_ATTEMPT:
        return disk.problem
    return f"it holds something of attempt {disk.highest_attempt}, which no job has had; remove it"


def _failed_to_start(view: View, status: TrainingJobStatus, *, gone: int = 0) -> TrainingJobStatus:
    """Return the status with one more failure before the gang ran, and when to try again.

    A gang that can go on without those that failed does: from the second time on, only its
    growth waits. `gone` workers of those that have a pod are the failed ones.
    """
    if view.status.recovery.start_failures and can_go_on(view, without=gone):
        return with_snooze(status, view)
    return start_failed(status, view.spec.recovery, view.now)


def _release(view: View, reason: str, message: str) -> Step:
    holding = frozenset(w.slot for w in view.snapshot.workers if w.pod is not None)
    status = view.status.model_copy(update={"slots": next_incarnation(view.status.slots, holding)})
    status = start_failed(status, view.spec.recovery, view.now)
    status = set_condition(view, status, ConditionType.ADMITTED, False, reason, message)
    return Step(status, reason, message)
