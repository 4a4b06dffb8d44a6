"""What an elastic job remembers, and what it therefore thinks worth waiting for. Pure.

Everything is in `status.elastic`, as of a moment, so an operator that was restarted in between
decides the same. The arithmetic is `plan.sizing`; the rules are in `plan.forming` (who starts)
and `plan.resize` (while the gang trains).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

from goodput_operator.api.base import truncate
from goodput_operator.api.spec import MAX_SPARES
from goodput_operator.api.status import (
    AttemptState,
    ConditionType,
    ElasticStatus,
    TrainingJobStatus,
)
from goodput_operator.observe.snapshot import Worker
from goodput_operator.plan.members import MAX_SIZES_SHOWN, is_ready
from goodput_operator.plan.sizing import (
    MEASURED_RESTARTS,
    SPOT_FAULTS_PER_NODE_SECOND,
    STEADY_FAULTS_PER_NODE_SECOND,
    Decaying,
    FailureHistory,
    Idle,
    economic_spares,
    largest_legal,
    percentile_90,
    planned_restart_seconds,
    wait_seconds,
)
from goodput_operator.plan.steps import set_condition
from goodput_operator.plan.view import View

MEASURED_STARTS = 20
START_SLACK, START_SLACK_SECONDS = 1.5, 5.0
"""A pod's start takes so much longer than the few that were measured, at worst: whoever gives up
a moment too early has waited in vain."""
MILLISECOND = timedelta(milliseconds=1)


def can_go_on(view: View, *, without: int = 0) -> bool:
    """Return whether the workers that have a pod, less some, are enough for a legal size."""
    if not view.flexible:
        return False
    return largest_legal(view.sizes, len(view.gang) - without) is not None


def size_change(before: int, now: int, wanted: int) -> str:
    """Return the name of the decision for a world of size `now` after one of `before` (0: none)."""
    if before in (0, now):
        return "Published" if before or now == wanted else "StartedSmaller"
    if now > before:
        return "Grown"
    return "ScaledDown" if now == wanted else "Shrunk"


# --- snoozing -----------------------------------------------------------------------------------


def snoozed_until(view: View) -> datetime | None:
    """Return when growth may be tried again, None when it may now."""
    until = view.elastic.snoozed_until
    if until is None or not view.flexible:
        return None
    return until if view.now < until <= view.now + view.snooze else None


def with_snooze(status: TrainingJobStatus, view: View) -> TrainingJobStatus:
    """Return the status in which growth has failed and is left alone for a while."""
    return remembering(status, snoozed_until=truncate(view.now + view.snooze))


# --- what is measured ---------------------------------------------------------------------------


def restart_seconds(elastic: ElasticStatus) -> float:
    """Return R_g + w, what a change of size costs in seconds of the whole gang's time.

    What was measured lasts from the last step before the gang saved to the first one after.
    """
    return planned_restart_seconds([one / 1000 for one in elastic.planned_restart_milliseconds])


def with_restart_measured(status: TrainingJobStatus, until: datetime) -> TrainingJobStatus:
    """Return the status with the interruption that has ended at `until` measured."""
    elastic = status.elastic
    if elastic is not None and elastic.interrupted_at is not None:
        return _with_fault_measured(status, elastic, until - elastic.interrupted_at)
    if elastic is None or elastic.resize_began_at is None:
        return status
    cost = max(0, (until - elastic.resize_began_at) // MILLISECOND)
    known = [*elastic.planned_restart_milliseconds, cost][-MEASURED_RESTARTS:]
    return remembering(status, planned_restart_milliseconds=known, resize_began_at=None)


def _with_fault_measured(
    status: TrainingJobStatus, elastic: ElasticStatus, stood: timedelta
) -> TrainingJobStatus:
    cost = max(0, stood // MILLISECOND)
    if elastic.prompt:
        known = [*elastic.prompt_restart_milliseconds, cost][-MEASURED_RESTARTS:]
        return remembering(status, prompt_restart_milliseconds=known, interrupted_at=None)
    known = [*elastic.other_restart_milliseconds, cost][-MEASURED_RESTARTS:]
    return remembering(status, other_restart_milliseconds=known, interrupted_at=None)


def saved_by_spare_seconds(elastic: ElasticStatus) -> float:
    """Return ΔR, by how much a fault stands in the way for less time where a spare is at hand.

    0 until a fault without one has been measured. A restart for which all workers were at hand
    costs what a swap does; where there was none yet, a change of size tells, or a pod's start.
    """
    slow = elastic.other_restart_milliseconds
    if not slow:
        return 0.0
    prompt = elastic.prompt_restart_milliseconds or elastic.planned_restart_milliseconds
    if prompt:
        return max(0.0, median(slow) - median(prompt)) / 1000
    starts = elastic.pod_start_milliseconds
    return min(median(slow), median(starts)) / 1000 if starts else 0.0


def with_economy(status: TrainingJobStatus, view: View) -> TrainingJobStatus:
    """Return the status that says how many spares would pay for themselves."""
    elastic = status.elastic
    if elastic is None or not elastic.workers:
        return status
    count = economic_spares(
        workers=elastic.workers,
        saved_seconds=saved_by_spare_seconds(elastic),
        mean_seconds_to_restart=_mean_seconds_to_restart(view, elastic),
        one_by_one=_goes_by_one(view),
    )
    return remembering(status, economic_spares=min(count, MAX_SPARES))


def _goes_by_one(view: View) -> bool:
    """Return whether a size beside the wanted one is legal, or no other size is at all."""
    return len(view.sizes) < 2 or any(view.wanted + step in view.sizes for step in (-1, 1))


def with_starts_measured(
    status: TrainingJobStatus, started: Sequence[Worker], now: datetime
) -> TrainingJobStatus:
    """Return the status with the slowest of these pods' starts measured; of none, nothing."""
    elastic = status.elastic or ElasticStatus()
    ages = [(now - one.pod.created_at) // MILLISECOND for one in started if one.pod]
    if not ages:
        return status
    known = [*elastic.pod_start_milliseconds, max(0, *ages)][-MEASURED_STARTS:]
    return remembering(status, pod_start_milliseconds=known)


def _mean_seconds_to_restart(view: View, elastic: ElasticStatus) -> float:
    """Return M for the gang that there was last, on the nodes that its workers are on now."""
    past = replace(history(elastic, view.now), faults_per_node_second=_faults_expected(view))
    attempt = view.status.attempt
    if attempt is not None and attempt.state is AttemptState.RUNNING:
        past = past.lived(elastic.workers, view.now)
    return past.mean_seconds_to_restart(elastic.workers, view.now)


def _faults_expected(view: View) -> float:
    """Return λ0 of the nodes that the workers are on, in faults per node-second."""
    spot = [one.spot for one in view.gang if one.pod and one.pod.node]
    share = sum(spot) / len(spot) if spot else 0.0
    return share * SPOT_FAULTS_PER_NODE_SECOND + (1 - share) * STEADY_FAULTS_PER_NODE_SECOND


def history(elastic: ElasticStatus, now: datetime) -> FailureHistory:
    """Return what the job has suffered so far, and for how long."""
    as_of = elastic.exposed_until or now
    return FailureHistory(
        episodes=Decaying(elastic.episodes_micro, as_of),
        worker_seconds=Decaying(elastic.exposed_worker_seconds_micro, as_of),
        interruptions=max(0, elastic.interruptions),  # it may have been edited by hand
    )


def with_exposure(
    status: TrainingJobStatus, workers: int, now: datetime, *, interrupted: bool = False
) -> TrainingJobStatus:
    """Return the status in which so many workers could fail since it was last said, until now."""
    if status.elastic is None:
        return status
    lived = history(status.elastic, now).lived(workers, now)
    lived = lived.interrupted(now) if interrupted else lived
    return remembering(
        status,
        interruptions=lived.interruptions,
        episodes_micro=lived.episodes.plus(0, now).micro,
        exposed_worker_seconds_micro=lived.worker_seconds.micro,
        exposed_until=truncate(now),
    )


# --- waiting ------------------------------------------------------------------------------------


def replacements_due(view: View, size: int) -> datetime | None:
    """Return until when a gang that could go on with `size` workers waits for more.

    None for a gang without survivors: nobody is kept waiting but those who start with it.
    """
    elastic, opened_at = view.elastic, view.attempt.opened_at
    if view.spec.elastic is None or not any(is_ready(one) for one in view.survivors):
        return None
    before = elastic.workers
    usual = None
    if any(not is_ready(one) and not (one.pod and one.pod.unschedulable) for one in view.gang):
        usual = percentile_90([one / 1000 for one in elastic.pod_start_milliseconds])
    wait = wait_seconds(
        replacement_seconds=None if usual is None else usual * START_SLACK + START_SLACK_SECONDS,
        restart_seconds=restart_seconds(elastic),
        lost_workers=max(0, before - size),
        workers=before,
        mean_seconds_to_restart=_mean_seconds_to_restart(view, elastic),
        limit_seconds=view.spec.elastic.faulty_scale_down_timeout_seconds,
    )
    return opened_at + timedelta(seconds=wait)


# --- the world ----------------------------------------------------------------------------------


def with_new_world(
    status: TrainingJobStatus, view: View, members: Sequence[Worker]
) -> TrainingJobStatus:
    """Return the status that knows the size of the world that is being published."""
    size, began = len(members), view.attempt.opened_at.replace(microsecond=0)
    new = [one for one in members if one.pod and one.pod.created_at >= began]
    status = with_starts_measured(status, new, view.now)
    prompt = not new and size >= view.elastic.workers
    status = remembering(
        status,
        prompt=prompt,
        workers=size,
        wanted=_wish_met(view, size),
        idle_worker_milliseconds=0,
        joinable=0,
        joinable_since=None,
    )
    if view.holds(ConditionType.ADMITTED):
        return status
    message = f"{size} of {view.wanted} workers can train"
    return set_condition(view, status, ConditionType.ADMITTED, True, "Admitted", message)


def _wish_met(view: View, size: int) -> int:
    """Return the size whose wish a world of `size` has answered.

    A fault while joiners are made ready answers none, where the gang has lost nobody by it.
    """
    elastic = view.elastic
    by_fault = elastic.workers > 0 and elastic.resize_began_at is None
    if by_fault and elastic.workers == size < view.wanted:
        return min(elastic.wanted, view.spec.workers)
    return view.spec.workers


def with_legal_sizes(status: TrainingJobStatus, view: View) -> TrainingJobStatus:
    """Return the status that says which sizes the gang may have; of a fixed one nothing."""
    shown = list(view.sizes)[-MAX_SIZES_SHOWN:]
    known = status.elastic.legal_sizes if status.elastic else []
    if view.spec.elastic is None or known == shown:
        return status
    return remembering(status, legal_sizes=shown)


def idle(elastic: ElasticStatus, now: datetime) -> Idle:
    """Return how long workers that could join have stood idle."""
    since = elastic.joinable_since or now
    return Idle(elastic.idle_worker_milliseconds, elastic.joinable, since)


def with_joinable(status: TrainingJobStatus, joinable: int, now: datetime) -> TrainingJobStatus:
    """Return the status in which the gang could grow by `joinable` workers from now on."""
    changed = idle(status.elastic or ElasticStatus(), now).changed(joinable, now)
    return remembering(
        status,
        idle_worker_milliseconds=changed.worker_milliseconds,
        joinable=changed.joinable,
        joinable_since=truncate(changed.as_of),
    )


def remembering(status: TrainingJobStatus, **what: object) -> TrainingJobStatus:
    """Return the status that remembers this, too."""
    elastic = status.elastic or ElasticStatus()
    return status.model_copy(update={"elastic": elastic.model_copy(update=what)})
