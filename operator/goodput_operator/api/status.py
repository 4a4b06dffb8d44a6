"""`status` of a TrainingJob: all that a restarted operator must know, and what a user reads.

Three kinds of fields, kept apart: *observed* (recomputable), *intent* (written before the
act) and *ledger* (each span added exactly once).
"""

from collections import Counter
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from goodput_operator import names
from goodput_operator.api.base import ApiModel, Time, list_map

LARGEST = 2**53 - 1
"""The largest number that an agent can be told, and that is exact everywhere in JSON."""
MAX_SLOT = 9_999
MAX_ATTEMPT = 1_000_000_000
MAX_REASONS = 6
"""How many reasons of incidents are counted apart, the last of them being Other."""


def _reckonable(number: int) -> int:
    return max(-LARGEST, min(number, LARGEST))


def _countable(number: int) -> int:
    return max(0, _reckonable(number))


Number = Annotated[int, AfterValidator(_reckonable)]
"""What an agent may say. Read as near to it as can be, should it have been edited by hand: what
comes of it must still be writable."""
Count = Annotated[int, AfterValidator(_countable)]
"""A number that begins with 0; else as `Number`."""


def _nameable(number: int) -> int:
    return min(_countable(number), names.MAX_INCARNATION)


Incarnation = Annotated[int, AfterValidator(_nameable)]
"""As `Count`, and no higher than a pod's name can tell."""


class ConditionType(StrEnum):
    """Every condition that a TrainingJob has; all are set at the first visit."""

    TEMPLATE_VALID = "TemplateValid"
    ADMITTED = "Admitted"
    GANG_SCHEDULED = "GangScheduled"
    RUNNING = "Running"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    RECOVERING = "Recovering"
    CHECKPOINT_FRESH = "CheckpointFresh"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Condition(ApiModel):
    """A condition by the Kubernetes conventions."""

    type: str
    """What the condition speaks of, such as Running."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Count = 0
    """The metadata.generation that it was seen at."""
    last_transition_time: Time
    """When `status` last changed."""
    reason: str
    """Why, in one CamelCase word."""
    message: str = ""
    """Why, in a sentence."""


class WorkersStatus(ApiModel):
    """Observed: how many of the wanted workers are how far."""

    wanted: Count = 0
    """Workers that spec asks for."""
    bound: Count = 0
    """Workers whose pod has a node."""
    connected: Count = 0
    """Workers whose agent reports."""
    training: Count = 0
    """Workers whose processes run."""
    spares: Count = 0
    """Workers that stand ready beside the gang."""
    text: str = ""
    """Printed: training/wanted."""


class AttemptState(StrEnum):
    """Where an attempt is in its life: Forming → Starting → Running → Stopping → Closed."""

    FORMING = "Forming"
    """Pods are placed, agents connect; there is no world yet and no process runs."""
    STARTING = "Starting"
    """The world is published; not every member has confirmed that its processes run."""
    RUNNING = "Running"
    """Every member has confirmed."""
    STOPPING = "Stopping"
    """It has ended or must end; its processes are being stopped."""
    CLOSED = "Closed"
    """No process of it can touch anything that the next attempt reads."""


class AttemptStatus(ApiModel):
    """Intent: the newest attempt, one generation of training processes."""

    number: Count
    """Counts the attempts of the job; it only grows."""
    state: AttemptState
    """Forming: pods are placed and agents connect. Starting: the world is published. Running: every
    worker has confirmed. Stopping: its processes are being ended. Closed: none of them can touch
    anything that the next attempt reads."""
    opened_at: Time
    """When it was opened."""
    published_at: Time | None = None
    """When its world was fixed and told to the agents."""
    running_at: Time | None = None
    """When every worker had confirmed that its processes run."""
    first_step_at: Time | None = None
    """When its first training step was finished."""
    stopping_at: Time | None = None
    """When it was told to stop."""
    ended_at: Time | None = None
    """When training stood still: a success's last process, or the fault, by their own time where
    that is known, else by when they were noticed."""
    run_id: str = ""
    """The rendezvous id, unique to the job and the attempt."""
    world_size: Count = 0
    """Training processes of the gang."""
    master_address: str = ""
    """Address of the pod of rank 0."""
    master_port: Count = 0
    """Port at which rank 0 listens for the others."""
    restore_step: Number | None = None
    """The step that it went on from; absent for a start from nothing."""
    reason: str = ""
    """Why it is stopping or was closed; CamelCase, empty while it is well."""
    message: str = ""
    """The same in a sentence."""
    charged: bool = False
    """Its end counts against the user's budget."""
    save_step: int | None = None
    """The step at which the training is asked to save, so that a planned end loses nothing."""
    save_by: Time | None = None
    """When the planned end comes, saved or not."""
    save_asked_at: Time | None = None
    """When it was asked."""


class SlotStatus(ApiModel):
    """Intent: which pod stands for this place of the gang, and its place in the world."""

    slot: Annotated[int, Field(ge=0, le=MAX_SLOT)]
    """The place in the gang, from 0 on."""
    incarnation: Incarnation = 0
    """How many pods this slot has had before; part of the name of its pod."""
    rank: Number = -1
    """Its place in the published world; -1 when it has none."""
    succeeded: bool = False
    """Its processes of the newest attempt have all ended well, whatever becomes of its pod."""


def _each_once(slots: list[SlotStatus]) -> list[SlotStatus]:
    twice = Counter(one.slot for one in slots).most_common(1)
    if twice and twice[0][1] > 1:
        raise ValueError(f"slot {twice[0][0]} stands twice")
    return slots


class LineageLink(ApiModel):
    """`attempt` went on from `step` of attempt `origin`."""

    attempt: Count
    """The attempt that restored."""
    origin: Number
    """The attempt whose checkpoint it restored."""
    step: Number
    """The step of that checkpoint."""


class CheckpointStatus(ApiModel):
    """Observed, then kept: the newest durable commit, and the chain that a restore may follow."""

    directory: str = ""
    """The directory that all of this is about: spec.checkpoint.directory of the newest attempt."""
    last_durable_step: Number | None = None
    """Step of the newest commit that is known to be durable."""
    last_durable_attempt: Number | None = None
    """The attempt that wrote it."""
    time: Time | None = None
    """When it was seen."""
    verified: bool = False
    """It was committed with a manifest (SDK), not merely seen in a tracker file."""
    fenced: bool = False
    """The processes save and restore by the SDK, so what a zombie writes is never read."""
    lineage: list[LineageLink] = Field(default_factory=list, max_length=64)
    """Which attempt went on from which step of which earlier one, newest first."""


class ProgressStatus(ApiModel):
    """Observed: how far training is."""

    step: Number | None = None
    """The newest finished step."""
    step_milliseconds: Number | None = None
    """How long a recent step took, in milliseconds."""
    observed_at: Time | None = None
    """When that step was finished."""
    best_step: Number | None = None
    """The highest step ever finished; progress means to pass it."""


class ElasticStatus(ApiModel):
    """Intent: what a restarted operator must know to decide on the gang's size as before.

    Nothing in it moves with time alone: what grows or decays is kept as of a moment.
    """

    legal_sizes: list[int] = Field(default_factory=list, max_length=64)
    """The sizes that the gang may have, ascending; of many, the largest."""
    workers: int = 0
    """The size of the newest world."""
    wanted: int = 0
    """The size that spec.workers asked for when that world was fixed, or a smaller one that it has
    asked for since."""
    idle_worker_milliseconds: int = 0
    """How long workers that could join have stood idle since the last restart, as of
    joinableSince."""
    joinable: int = 0
    """How many workers the gang could grow by at once."""
    joinable_since: Time | None = None
    """Since when there have been so many."""
    planned_restart_milliseconds: list[int] = Field(default_factory=list, max_length=5)
    """How long training stood still for each of the last changes of size, newest last."""
    unfit_sizes: list[int] = Field(default_factory=list, max_length=64)
    """Sizes at which the training could not load its checkpoint; tried again after a suspension."""
    economic_spares: int = 0
    """How many spares would pay for themselves, by what is measured here."""
    benched: list[int] = Field(default_factory=list, max_length=1000)
    """Slots of workers that stood by when the newest attempt ended, and still do."""
    swaps: int = 0
    """How many lost workers' places were then taken by spares."""
    interrupted_at: Time | None = None
    """Since when training stands still for a fault."""
    prompt: bool = False
    """All workers were at hand for the attempt that follows it, and it is no smaller."""
    prompt_restart_milliseconds: list[int] = Field(default_factory=list, max_length=5)
    """How long training stood still for each of the last faults that were so, newest last."""
    other_restart_milliseconds: list[int] = Field(default_factory=list, max_length=5)
    """How long for those for which a worker was lacking: a new pod came, or the gang shrank."""
    pod_start_milliseconds: list[int] = Field(default_factory=list, max_length=20)
    """How long it took from a pod's creation until its agent was ready, newest last."""
    resize_began_at: Time | None = None
    """Since when training stands still for a change of size."""
    snoozed_until: Time | None = None
    """When growth may be tried again after it has failed."""
    interruptions: int = 0
    """How often a fault has ended an attempt."""
    episodes_micro: int = 0
    """Faults that have ended an attempt, in millionths; a week old, one counts half. As of
    exposedUntil."""
    exposed_worker_seconds_micro: int = 0
    """Worker-seconds in which such a fault could have happened, in millionths, halved every week.
    As of exposedUntil."""
    exposed_until: Time | None = None
    """The moment as of which both are counted."""


class RestartRecord(ApiModel):
    """One incident that ended an attempt."""

    attempt: Count
    """The attempt that ended."""
    at: Time
    """When."""
    reason: str
    """Why, in one CamelCase word."""
    charged: bool
    """It counts against the budget."""


class RecoveryStatus(ApiModel):
    """Intent: the used budget and the back-off."""

    total: Count = 0
    """Incidents that ended an attempt; suspensions and changes of size are none."""
    by_reason: dict[str, Count] = Field(default_factory=dict, max_length=MAX_REASONS)
    """The same by reason; whatever has no place of its own is under Other."""
    restarts: list[RestartRecord] = Field(default_factory=list, max_length=1000)
    """The charged ones inside the window, oldest first."""
    without_progress: Count = 0
    """Failures, one after the other, between which no new step was finished."""
    charged_without_progress: Count = 0
    """Those of them that count against the budget."""
    start_failures: Count = 0
    """Gangs released or formed again, one after the other, without ever having run."""
    not_before: Time | None = None
    """When the next attempt may be opened."""


class Exclusion(ApiModel):
    """Intent: a node that this job's workers avoid for a while."""

    node: str
    """The node."""
    until: Time
    """When it may be used again."""
    reason: str
    """Why it is avoided."""


class Bucket(StrEnum):
    """Where an accelerator's time went. Their sum, and the unsettled rest, is all of it."""

    PRODUCTIVE = "productive"
    QUEUED = "queued"
    SCHEDULING = "scheduling"
    POD_START = "pod_start"
    STARTUP = "startup"
    RESTORE = "restore"
    CHECKPOINT_STALL = "checkpoint_stall"
    DATA_STALL = "data_stall"
    DEGRADED = "degraded"
    SPARE = "spare"
    LOST_WORK = "lost_work"
    DETECTION = "detection"
    RECOVERY = "recovery"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


class Decision(StrEnum):
    """How an interruption was answered."""

    RESTART_PROCESSES = "RestartProcesses"
    """The next attempt runs in the same pods."""
    REPLACE_WORKERS = "ReplaceWorkers"
    """Lost workers have got new pods, the others have kept theirs."""
    SWAP_SPARES = "SwapSpares"
    """Spares have taken the places of lost workers."""
    RECREATE = "Recreate"
    """No pod was left to keep."""
    SHRINK = "Shrink"
    """The gang goes on with fewer workers, because no more are to be had."""
    GROW = "Grow"
    """It goes on with more."""
    SCALE_DOWN = "ScaleDown"
    """It goes on with fewer, as asked for."""
    SUSPEND = "Suspend"
    """Nothing is held until the job is resumed."""
    FAIL = "Fail"
    """The job is given up."""


class Incident(ApiModel):
    """One interruption: what ended an attempt, what was decided, and what it has cost."""

    attempt: Count
    """The attempt that it ended; no attempt has two."""
    reason: str
    """What happened, in one CamelCase word."""
    planned: bool = False
    """It was asked for: a suspension, or a change of size."""
    charged: bool = False
    """It counts against the user's budget of restarts."""
    slot: int | None = None
    """The worker that is the first cause, where there is one."""
    rank: int | None = None
    """The training process of it that failed first, where one did."""
    pod: str = ""
    """The pod of that worker."""
    node: str = ""
    """The node of that pod."""
    message: str = ""
    """The evidence: how it ended, and its last lines."""
    decision: Decision | None = None
    """What was decided; absent until that follows from what is left of the gang."""
    why: str = ""
    """Why, and what else there was, in words."""
    fault_at: Time
    """When training stood still: the fault's own time where it is known."""
    decided_at: Time
    """When the operator knew of it, and decided that the attempt ends."""
    scheduled_at: Time | None = None
    """When every worker of the next attempt had a node."""
    published_at: Time | None = None
    """When the world of the next attempt was formed and told to the agents."""
    running_at: Time | None = None
    """When all of its processes had been started."""
    first_step_at: Time | None = None
    """When its first step was finished."""
    caught_up_at: Time | None = None
    """When the best step of before was reached again."""
    step: Number | None = None
    """The newest step that the ended attempt had finished."""
    best_step: Number | None = None
    """The newest step that any attempt had finished."""
    restore_step: Number | None = None
    """The step that the next attempt went on from; absent for a start from nothing."""
    steps_lost: Count | None = None
    """Steps of the ended attempt that have to be trained again."""
    accelerator_milliseconds: dict[Bucket, Count] = Field(default_factory=dict)
    """Its price so far: milliseconds × accelerators, by the bucket in which they are counted."""


class LedgerStatus(ApiModel):
    """Ledger: accelerator-milliseconds (worker-milliseconds for a job without accelerators)."""

    accelerator_milliseconds: dict[Bucket, Count] = Field(default_factory=dict)
    """Milliseconds × accelerators, by where they went."""
    unsettled_milliseconds: Count = 0
    """Work since the last durable commit: productive at the next, lost when the attempt dies."""
    accelerators: Count = 0
    """How many accelerators are counted at present."""
    accounted_until: Time | None = None
    """Time up to here is in the ledger."""
    stalled_attempt: Count = 0
    """The attempt that stalledMilliseconds speaks of."""
    stalled_milliseconds: dict[Bucket, Count] = Field(default_factory=dict)
    """For how long its training has stood still, in all, as far as that is in the ledger."""
    earlier_incidents_milliseconds: dict[Bucket, Count] = Field(default_factory=dict)
    """The price of the incidents that status.incidents has no room for any more. With theirs it
    is all of detection, recovery, lost_work and unknown, and of other buckets what interruptions
    have put there."""


class TrainingJobStatus(ApiModel):
    """What the operator has seen and decided; absent until it has visited the job."""

    observed_generation: Count = 0
    """The metadata.generation that this status answers."""
    phase: str = ""
    """Printed, and derived from the conditions; programs read those."""
    reason: str = ""
    """Printed beside the phase: why it is so."""
    conditions: list[Condition] = Field(
        default_factory=list, max_length=16, json_schema_extra=list_map("type")
    )
    """What is true of the job, by the Kubernetes conventions."""
    selector: str = ""
    """Label selector of the pods."""
    workers: WorkersStatus = WorkersStatus()
    """How many of the wanted workers are how far."""
    attempt: AttemptStatus | None = None
    """The newest attempt: one generation of training processes."""
    # One value, not merged by its keys: the API server would note who owns each field of each slot,
    # and take twice as long for a write of a thousand.
    slots: Annotated[list[SlotStatus], AfterValidator(_each_once)] = Field(
        default_factory=list, max_length=10_000
    )
    """The places of the gang, and the pod that stands for each."""
    progress: ProgressStatus = ProgressStatus()
    """How far training is."""
    checkpoint: CheckpointStatus = CheckpointStatus()
    """The newest durable checkpoint, and the chain that a restore may follow."""
    recovery: RecoveryStatus = RecoveryStatus()
    """The used budget and the back-off."""
    elastic: ElasticStatus | None = None
    """What decides on the size of an elastic gang, and on spares; absent without either."""
    exclusions: list[Exclusion] = Field(default_factory=list, max_length=64)
    """Nodes that the workers avoid for a while."""
    ledger: LedgerStatus = LedgerStatus()
    """Where the accelerators' time went."""
    incidents: list[Incident] = Field(default_factory=list, max_length=10)
    """The last interruptions, newest first."""
    goodput: str = ""
    """Printed: productive share of all accounted time, as "93.4%"."""
    priority: int = 0
    """The priority of the pods, by their class: who waits for room is served by it."""
    queued_since: Time | None = None
    """Since when the job waits for a place."""
    started_at: Time | None = None
    """When the first attempt ran."""
    active_since: Time | None = None
    """The active deadline counts from here: the start, or the last resume."""
    finished_at: Time | None = None
    """When the operator noted that the job has succeeded or failed."""
