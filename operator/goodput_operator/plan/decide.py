"""Decide what a job needs now: the whole plan of one pass, as one value.

Pure. `reconcile` carries it out: first the status is written, then the agents are answered
and the pods created and deleted, then metrics and events follow from the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from goodput.protocol import SyncAnswer
from goodput_operator.api.spec import CleanPodPolicy, TrainingJobSpec
from goodput_operator.api.status import AttemptState, AttemptStatus, TrainingJobStatus
from goodput_operator.diagnose.examine import examine
from goodput_operator.errors import GoodputError
from goodput_operator.observe.agents import Vigil
from goodput_operator.observe.snapshot import JobSnapshot, PodView
from goodput_operator.plan.answers import answers
from goodput_operator.plan.attempt import stopped, stuck
from goodput_operator.plan.incidents import ends_told
from goodput_operator.plan.members import fit_sizes, size_problems, sizes_of
from goodput_operator.plan.project import next_status, observe_reports, worth_writing
from goodput_operator.plan.rest import impatient_at, vigil_of
from goodput_operator.plan.rules import RULES, next_deadline
from goodput_operator.plan.view import PlaceFunction, Step, Timing, View, is_finished, leave_by

MAX_STEPS = 16
"""Rules that follow one another in a pass; more would mean that two of them disagree."""


class RulesDisagreeError(GoodputError):
    """The rules found no rest: a bug. Nothing is done in such a pass."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and why.

    Attributes:
        status: the status to persist before anything else.
        write: whether it must be written in this pass.
        decisions: (reason, message) of each step that was taken, in order, and of each incident
            that is over.
        create: slot, incarnation and node (None: the scheduler chooses) of each missing pod.
        delete: the pods to delete.
        answers: what each pod's agent is told of the status as persisted, by pod UID.
        delete_job: its time to live is over.
        recheck_at: when time alone could change the plan.
        vigil: whose silence could; None where `recheck_at` reckons with it.
    """

    status: TrainingJobStatus
    write: bool
    decisions: tuple[tuple[str, str], ...]
    create: tuple[tuple[int, int, str | None], ...]
    delete: tuple[PodView, ...]
    answers: Mapping[str, SyncAnswer]
    delete_job: bool
    recheck_at: datetime | None
    vigil: Vigil | None = None


def decide(
    spec: TrainingJobSpec,
    status: TrainingJobStatus,
    snapshot: JobSnapshot,
    *,
    now: datetime,
    place: PlaceFunction,
    pinned: bool,
    accelerators: int,
    processes: int,
    timing: Timing,
    template_problems: Sequence[str] = (),
) -> Plan:
    """Return the plan for one job.

    Args:
        spec: what the user wants.
        status: what was persisted last.
        snapshot: the world, seated by `status.slots`.
        now: the present.
        place: finds room for missing workers; a pure look at the book of capacity.
        pinned: pods are created on nodes of our choice, and only when all fit.
        accelerators: of one worker, for the ledger; 1 for a worker without any.
        processes: training processes of one worker.
        timing: see `Timing`.
        template_problems: what is wrong with the template, found without the API server.

    Raises:
        RulesDisagreeError: a bug in the rules.
    """
    diagnosis = examine(snapshot, status.attempt, now)
    sizes = sizes_of(spec, processes)
    view = View(
        spec=spec,
        status=observe_reports(status, snapshot.workers, diagnosis, now),
        snapshot=snapshot,
        diagnosis=diagnosis,
        now=now,
        place=place,
        pinned=pinned,
        accelerators=accelerators,
        processes=processes,
        timing=timing,
        template_problems=(*template_problems, *size_problems(spec, sizes)),
        sizes=fit_sizes(sizes, status.elastic),
    )
    vigil = vigil_of(view)
    if vigil is not None:
        view = replace(view, diagnosis=replace(diagnosis, recheck_at=impatient_at(view)))
    seen = view
    view, last, decisions, ended = _follow_rules(seen, status.attempt)
    after = next_status(status, seen, view, ended, last.message)
    write, flush_at = worth_writing(status, after, now, timing)
    recounted = after.ledger.accelerators != status.ledger.accelerators
    if view.unheard and not decisions and not recounted:
        # What the first ones have said is not yet what all will have.
        write, flush_at = False, view.patient_until
    done = after.finished_at if is_finished(after) else None
    due = None if done else next_deadline(view)
    times = [
        time for time in (last.recheck_at, flush_at, due.at if due else None) if time is not None
    ]
    return Plan(
        status=after,
        write=write,
        decisions=(*decisions, *ends_told(status, after)),
        create=tuple(
            (worker.slot, worker.incarnation, view.room[worker.slot])
            for worker in view.snapshot.workers
            if worker.pod is None and worker.slot in view.room
        ),
        delete=(
            *_to_delete(spec, view.snapshot, done, now, timing),
            *_stuck(view),
        ),
        # An agent prunes by what it is told: nothing is acknowledged that a restart would forget.
        answers=answers(
            after if write else status, view.snapshot, processes, timing, spec.parallelism
        ),
        delete_job=(
            done is not None
            and spec.ttl_seconds_after_finished is not None
            and now >= done + timedelta(seconds=spec.ttl_seconds_after_finished)
        ),
        recheck_at=min(times, default=None),
        vigil=vigil,
    )


def _follow_rules(
    view: View, attempt: AttemptStatus | None
) -> tuple[View, Step, tuple[tuple[str, str], ...], AttemptStatus | None]:
    decisions: list[tuple[str, str]] = []
    for _ in range(MAX_STEPS):
        step = next(answer for rule in RULES if (answer := rule(view)) is not None)
        if step.status == view.status and step.room is None:
            return view, step, tuple(decisions), attempt
        if step.status != view.status:
            decisions.append((step.reason, step.message))
        view = view.becomes(step.status)
        if step.room is not None:
            view = replace(view, room=step.room)
        current = step.status.attempt
        if attempt is not None and current is not None and current.number == attempt.number:
            attempt = current
    raise RulesDisagreeError(
        f"no rest after {MAX_STEPS} steps: {[reason for reason, _ in decisions]}"
    )


def _stuck(view: View) -> tuple[PodView, ...]:
    """Return the pods whose agents do not say that they have stopped: the kubelet will."""
    attempt = view.status.attempt
    if attempt is None or attempt.state is not AttemptState.STOPPING or not stuck(view):
        return ()
    return tuple(
        worker.pod
        for worker in view.snapshot.workers
        if worker.pod and not worker.pod.deleting and not stopped(worker, attempt.number)
    )


def _to_delete(
    spec: TrainingJobSpec,
    snapshot: JobSnapshot,
    finished_at: datetime | None,
    now: datetime,
    timing: Timing,
) -> tuple[PodView, ...]:
    """Return the pods that stand for nothing, and a finished job's by its policy.

    A dead pod that holds nothing stays for its logs until the job is finished.
    """
    if finished_at is None:
        suspended = spec.suspend
        return tuple(
            pod for pod in snapshot.strays if not pod.deleting and (suspended or not pod.terminal)
        )
    if now < leave_by(finished_at, snapshot, timing):
        return ()
    pods = [*snapshot.strays, *(worker.pod for worker in snapshot.workers if worker.pod)]
    if spec.clean_pod_policy is CleanPodPolicy.NONE:
        return ()
    every = spec.clean_pod_policy is CleanPodPolicy.ALL
    return tuple(pod for pod in pods if not pod.deleting and (every or not pod.terminal))
