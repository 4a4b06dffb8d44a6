"""The rules by which a gang that trains comes to another size, or to spares.

Whoever may join is made ready while the others train on: its pod placed and created, its agent
connected. It costs them nothing, and what fails of it, fails alone. Only then does the attempt
change, after the training has been asked to save where it can be.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from goodput_operator.api.base import truncate
from goodput_operator.api.status import (
    AttemptState,
    Exclusion,
    SlotStatus,
    TrainingJobStatus,
)
from goodput_operator.diagnose.examine import SILENCE_LIMIT_SECONDS, where
from goodput_operator.gang.placement import LEFT_OVER, NoRoom
from goodput_operator.observe.snapshot import NodeHealth, Worker
from goodput_operator.plan.attempt import avoiding, stop
from goodput_operator.plan.elastic import (
    idle,
    remembering,
    restart_seconds,
    snoozed_until,
    with_joinable,
    with_snooze,
    with_starts_measured,
)
from goodput_operator.plan.members import by_age, is_ready
from goodput_operator.plan.reasons import RESIZED, UNSCHEDULABLE
from goodput_operator.plan.saving import ask, can_ask, has_saved, question, unasked
from goodput_operator.plan.sizing import grow_due, largest_legal, restart_price
from goodput_operator.plan.view import Step, View, next_incarnation

NOTICE_SECONDS = 60.0
"""A node that lost a worker is taken for what it says of itself again after so long: by then
the control plane has noticed; sooner if it has become Ready since."""


def joiners(view: View) -> tuple[Worker, ...]:
    """Return who has a pod and no rank in the world that there is."""
    return tuple(one for one in view.snapshot.workers if one.rank < 0 and one.pod is not None)


def release_surplus(view: View) -> Step | None:
    """Let go of the workers beyond the wanted size, the newest first."""
    attempt = view.status.attempt
    if not view.flexible or attempt is None:
        return None
    if attempt.state not in (AttemptState.STARTING, AttemptState.RUNNING):
        return None
    waiting = by_age(joiners(view))
    surplus = waiting[max(0, view.wanted + view.spares - len(view.gang)) :]
    if not surplus:
        return None
    message = f"{len(surplus)} workers beyond the {view.wanted} that are wanted are let go"
    return Step(_without(view, surplus), "SurplusReleased", message)


def resize(view: View) -> Step | None:
    """Watch over the size of a gang that trains, and over its spares."""
    attempt = view.status.attempt
    if not view.flexible or attempt is None or attempt.state is not AttemptState.RUNNING:
        return None
    rules = (
        _growth_failed,
        _more_slots,
        _wish_taken_back,
        _joinable,
        _make_joiners,
        _change,
        _idle_joiners,
    )
    for rule in rules:
        step = rule(view)
        if step is not None:
            return step
    return Step(view.status, "Training", recheck_at=_recheck_at(view))


# --- joiners ------------------------------------------------------------------------------------


def _growth_failed(view: View) -> Step | None:
    """Let go of joiners that came to nothing, and leave growth alone for a while.

    Where it was the node's fault, or somebody took the pod away, the next may do better at once.
    """
    if view.snapshot.refusal:
        message = f"a worker pod was refused: {view.snapshot.refusal}"
        return Step(with_snooze(view.status, view), "GrowthFailed", message)
    failed = [one for one in joiners(view) if _failure(view, one)]
    if not failed:
        return None
    status = _without(view, failed)
    nodes = [one.pod.node for one in failed if one.pod and _node_failed(one)]
    refused = [one.pod.pinned for one in failed if one.pod and one.pod.unschedulable]
    exclusions = avoiding(view, nodes, "WorkerDied", view.timing.exclusion_seconds)
    status = status.model_copy(update={"exclusions": exclusions})
    exclusions = avoiding(
        view.becomes(status), refused, UNSCHEDULABLE, view.timing.unschedulable_seconds
    )
    status = status.model_copy(update={"exclusions": exclusions})
    if any(not _taken_away(one) for one in failed):
        status = with_snooze(status, view)
    message = f"{where(failed[0])} cannot join: {_failure(view, failed[0])}"
    if len(failed) > 1:
        message += f"; nor can {len(failed) - 1} others"
    return Step(status, "GrowthFailed" if len(view.gang) < view.wanted else "SpareLost", message)


def _failure(view: View, worker: Worker) -> str:
    """Return why this joiner will not join; empty while it may."""
    pod = worker.pod
    assert pod is not None
    if pod.ended is not None:
        ended = pod.ended
        return f"exit code {ended.exit_code} {ended.reason} {ended.message.strip()[:300]}".rstrip()
    if worker.notice is not None:
        return worker.notice.why
    if _node_failed(worker):
        return "its node is gone" if worker.node is NodeHealth.GONE else "its node is not ready"
    if pod.unschedulable and view.pinned:
        return pod.unschedulable
    if not is_ready(worker) and view.now >= _start_limit(view, worker):
        why = f"{pod.trouble[0]}: {pod.trouble[1]}" if pod.trouble else pod.unschedulable
        return f"not connected within spec.gang.startTimeoutSeconds {why}".rstrip()
    return ""


def _node_failed(worker: Worker) -> bool:
    silent = worker.silent_seconds > SILENCE_LIMIT_SECONDS
    return worker.node is NodeHealth.GONE or (worker.node is NodeHealth.NOT_READY and silent)


def _taken_away(worker: Worker) -> bool:
    return _node_failed(worker) or worker.notice is not None


def _start_limit(view: View, worker: Worker) -> datetime:
    assert worker.pod is not None
    limit = worker.pod.created_at + timedelta(seconds=view.spec.gang.start_timeout_seconds)
    return max(limit, view.patient_until) if view.awaits([worker]) else limit


def _more_slots(view: View) -> Step | None:
    """Give a job that wants to be larger than ever the slots for it."""
    slots, wanted = view.status.slots, view.wanted + view.spares
    if len(slots) >= wanted:
        return None
    more = [SlotStatus(slot=number) for number in range(len(slots), wanted)]
    status = view.status.model_copy(update={"slots": [*slots, *more]})
    return Step(status, "MoreSlots", f"{view.wanted} workers and {view.spares} spares are wanted")


def _wish_taken_back(view: View) -> Step | None:
    """Note that a size is not wanted any more: who asks for it again has a new wish."""
    if view.spec.workers >= view.elastic.wanted:
        return None
    status = remembering(view.status, wanted=view.spec.workers)
    return Step(status, "WishTakenBack", f"no more than {view.spec.workers} workers are wanted")


def _joinable(view: View) -> Step | None:
    """Count what could join at once, and from when on."""
    count = _gain(view)
    elastic = view.elastic
    if count == elastic.joinable or (count < elastic.joinable and view.awaits(joiners(view))):
        return None
    status = with_joinable(view.status, count, view.now)
    if count > elastic.joinable:
        began = view.attempt.published_at or view.attempt.opened_at
        new = [one for one in _ready(view) if one.pod and one.pod.created_at >= began]
        status = with_starts_measured(status, by_age(new)[-1:], view.now)
    return Step(status, "Joinable", f"{count} workers could join")


def _ready(view: View) -> tuple[Worker, ...]:
    return tuple(one for one in joiners(view) if is_ready(one))


def _gain(view: View) -> int:
    """Return by how many workers the gang could grow at once."""
    size = len(view.gang)
    reachable = min(size + len(_ready(view)), view.wanted)
    return max(0, (largest_legal(view.sizes, reachable) or 0) - size)


def _make_joiners(view: View) -> Step | None:
    """Create the pods of those that are missing, if they find room that nobody waits for."""
    empty = [one.slot for one in view.snapshot.workers if one.pod is None]
    held = len(view.snapshot.workers) - len(empty)
    missing = empty[: max(0, view.wanted + view.spares - held)]
    if not missing or view.room or view.attempt.save_by is not None or view.spec.suspend:
        return None
    if snoozed_until(view) is not None:
        return None
    nodes: dict[int, str | None] = dict.fromkeys(missing)
    if view.pinned:
        bound = {w.slot: w.pod.node for w in view.snapshot.workers if w.pod and w.pod.node}
        count = len(missing)
        while True:
            room = view.place(missing[:count], bound, _avoided(view), LEFT_OVER)
            if not isinstance(room, NoRoom):
                nodes = dict(room.nodes)
                break
            size = held + min(room.fits, count - 1)
            if size < view.wanted:
                size = largest_legal(view.sizes, size) or 0
            if size <= held or size <= len(view.gang):
                return None
            count = size - held
    message = f"{len(nodes)} workers are made ready beside the {len(view.gang)} that train"
    return Step(view.status, "Joining", message, room=nodes)


def _avoided(view: View) -> list[Exclusion]:
    """Return the nodes that a joiner avoids: it risks nothing on one that has come back."""
    return [
        one
        for one in view.status.exclusions
        if one.reason == UNSCHEDULABLE or view.now < _forgiven_at(view, one)
    ]


def _forgiven_at(view: View, exclusion: Exclusion) -> datetime:
    began = exclusion.until - timedelta(seconds=view.timing.exclusion_seconds)
    if view.snapshot.ready_since.get(exclusion.node, began) > began:
        return began  # the control plane has seen it go and come back
    return min(exclusion.until, began + timedelta(seconds=NOTICE_SECONDS))


def _idle_joiners(view: View) -> Step | None:
    """Let go of joiners who have waited long for others without whom no larger size is legal."""
    if not _held_for_nothing(view) or view.now < _idle_until(view):
        return None
    waiting = _beyond_spares(view)
    status = with_snooze(_without(view, waiting), view)
    message = f"{len(waiting)} workers have waited in vain for enough others to join with"
    return Step(status, "SurplusReleased", message)


def _beyond_spares(view: View) -> list[Worker]:
    return by_age(joiners(view))[view.spares :]


def _held_for_nothing(view: View) -> bool:
    all_ready = len(_ready(view)) == len(joiners(view))
    return bool(_beyond_spares(view)) and not view.elastic.joinable and all_ready


def _idle_until(view: View) -> datetime:
    newest = max(one.pod.created_at for one in joiners(view) if one.pod)
    return max(newest, view.attempt.running_at or view.now) + view.snooze


def _without(view: View, workers: list[Worker] | tuple[Worker, ...]) -> TrainingJobStatus:
    gone = frozenset(one.slot for one in workers)
    return view.status.model_copy(update={"slots": next_incarnation(view.status.slots, gone)})


# --- the change ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Another size is due at some moment, with its reason in words."""

    at: datetime
    message: str


def _due(view: View) -> Change | None:
    """Return the change of size that is coming, None when there is nothing to wait for."""
    elastic, size = view.elastic, len(view.gang)
    if view.wanted < size:
        return Change(_settled_at(view), f"from {size} workers to {view.wanted}, as spec says")
    gain = elastic.joinable
    if not gain:
        return _back_to_legal(view)
    ready = len(_ready(view))
    all_ready = ready == len(joiners(view)) and not view.room
    enough = all_ready or size + ready >= view.wanted
    wish = view.spec.workers > elastic.wanted and enough
    if wish or size not in view.sizes:
        return Change(_settled_at(view), f"from {size} workers to {size + gain}, as spec says")
    price = restart_price(
        workers=size, restart_seconds=restart_seconds(elastic), stall_seconds=0
    )  # the save is part of what a restart was measured to take
    known = idle(elastic, view.now)
    due_at = known.due_at(price, view.now)
    assert due_at is not None
    waited = known.worker_seconds(max(view.now, due_at))
    message = (
        f"from {size} workers to {size + gain}: {waited:.0f} worker-seconds have stood idle, "
        f"and the restart costs {price:.0f}"
    )
    if grow_due(
        idle_worker_seconds=known.worker_seconds(view.now),
        workers=size,
        restart_seconds=restart_seconds(elastic),
        stall_seconds=0,
    ):
        due_at = view.now
    return Change(due_at, message)


def _back_to_legal(view: View) -> Change | None:
    """Return the change of a gang whose size is not legal any more, and that cannot grow."""
    size = len(view.gang)
    smaller = largest_legal(view.sizes, size)
    if smaller is None or smaller == size:
        return None  # below the smallest it trains on: that is better than to stand
    if view.room or len(_ready(view)) < len(joiners(view)):
        return None  # with those who come it may be legal
    return Change(_settled_at(view), f"from {size} workers to {smaller}, as spec says")


def _settled_at(view: View) -> datetime:
    """Return when a wish is followed: not before the last one has been worth its restart.

    So one who changes his mind all the time costs the job half of its time at most.
    """
    known = view.elastic.planned_restart_milliseconds
    began = view.attempt.running_at or view.now
    return began + timedelta(seconds=restart_seconds(view.elastic) if known else 0)


def _change(view: View) -> Step | None:
    """Change the size when that is due, after the training has saved or had its time to."""
    change, attempt = _due(view), view.attempt
    asked = attempt.save_by is not None
    if view.spec.suspend:
        return None
    concerned = view.gang if view.wanted < len(view.gang) else view.snapshot.workers
    if not asked and view.awaits(concerned):
        return None
    if change is None or change.at > view.now:
        if asked:
            return Step(unasked(view), "SaveWithdrawn", "the size stays as it is after all")
        return None
    if not asked and can_ask(view):
        return Step(ask(view), "SaveAsked", f"{change.message}; {question(view)}")
    if asked and not has_saved(view):
        return None
    status = stop(view, reason=RESIZED, message=change.message, charged=False, ended_at=view.now)
    status = remembering(status, resize_began_at=truncate(_stands_since(view)))
    return Step(status, RESIZED, change.message)


def _stands_since(view: View) -> datetime:
    """Return since when the gang has done no step: who has saved as asked rests from then on."""
    progress, save_step = view.diagnosis.progress, view.attempt.save_step
    if progress.committed is None or progress.committed_step_at is None or save_step is None:
        return view.now
    rests = progress.committed.step >= save_step
    return min(view.now, progress.committed_step_at) if rests else view.now


def _recheck_at(view: View) -> datetime | None:
    """Return when time alone could change what `resize` says."""
    times = [view.diagnosis.recheck_at, snoozed_until(view), view.attempt.save_by]
    change = _due(view)
    if change is not None and view.attempt.save_by is None:
        times.append(change.at)
    times += [_start_limit(view, one) for one in joiners(view) if not is_ready(one)]
    if view.awaits(view.snapshot.workers):
        times.append(view.patient_until)
    if _held_for_nothing(view):
        times.append(_idle_until(view))
    if len(view.gang) + len(joiners(view)) < view.wanted + view.spares:
        times += [_forgiven_at(view, one) for one in view.status.exclusions]
    return min((time for time in times if time is not None and time > view.now), default=None)
