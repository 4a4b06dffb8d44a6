"""`spec` of a TrainingJob: what a user asks for. `crds/` is generated from here.

The docstring under a field is what `kubectl explain` prints, and the rules beside a model are
what the API server refuses, so that no controller has to.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from goodput_operator import names
from goodput_operator.api.base import ApiModel, Rule, list_set, rule, rules
from goodput_operator.api.template import outside_reserved_paths, template_schema

MAX_WORKERS = 10_000
MAX_PROCESSES = 131_072
MAX_PROCESSES_PER_WORKER = 1024
MAX_SPARES = 1000
SNOOZE_SECONDS = 600
GRACEFUL_SECONDS = 600
AUTO: Literal["auto"] = "auto"
MAX_EXACT = 2**53 - 1
"""The largest number that is exact everywhere in JSON."""
MAX_JOB_NAME_LENGTH = 63 - len(names.pod_name("", MAX_WORKERS - 1, names.MAX_INCARNATION))
"""A pod's name is also its host name: one DNS label, for every slot and incarnation."""

Seconds = Annotated[int, Field(ge=0, le=2_147_483_647)]


class Launcher(StrEnum):
    """Who starts the ranks."""

    COMMAND = "Command"
    """The container's command runs once per pod; it (torchrun, a script) starts the ranks."""
    PROCESSES = "Processes"
    """The agent runs the command `processesPerWorker` times, one rank each."""


class Admission(StrEnum):
    """When a gang's pods are created."""

    WHEN_FITS = "WhenFits"
    ALWAYS = "Always"


class CleanPodPolicy(StrEnum):
    """Which pods go when the job has finished."""

    RUNNING = "Running"
    ALL = "All"
    NONE = "None"


class GangSpec(ApiModel):
    """How the workers come to start together: all of them, or none."""

    admission: Admission = Admission.WHEN_FITS
    """When the pods are created. WhenFits: once the whole gang has a place, which is then fixed
    for each pod; a gang that does not fit holds nothing. Always: at once and with no place
    fixed, for clusters where an autoscaler or preemption must see the pods."""
    start_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    """How long, in seconds, from the creation of the pods until all agents have connected. A
    gang that takes longer is released, so that it blocks nobody, and tried again later; of an
    elastic job those that have connected begin, where they are enough."""


_directory_rules = rules(
    rule(
        "self.startsWith('/') && !self.matches('//|(^|/)[.][.]?(/|$)') && self != '/'",
        "spec.checkpoint.directory must be an absolute path without '//', '.' and '..'; "
        "use the path at which the template mounts the shared volume, such as /checkpoints",
    ),
    outside_reserved_paths(
        "spec.checkpoint.directory lies where Goodput mounts its own; "
        "choose a directory on a shared volume, such as /checkpoints"
    ),
)


class CheckpointSpec(ApiModel):
    """Where the job keeps its checkpoints, and how many of them."""

    directory: Annotated[
        str, Field(min_length=1, max_length=1024, json_schema_extra=_directory_rules)
    ]
    """Absolute path in the training container, on a volume that all workers share. The job
    looks here for the checkpoint to go on from, also for those of a former job."""
    keep: Annotated[int, Field(ge=2, le=1000)] = 2
    """How many good checkpoints stay on disk. Nothing is deleted before a newer one is known to
    be durable. At least two, so that a damaged one is never the only one."""


class RecoverySpec(ApiModel):
    """How often, how soon and how long a job is brought back after a failure."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.backoffSeconds <= self.maxBackoffSeconds",
                "spec.recovery.maxBackoffSeconds must not be below backoffSeconds; "
                "raise maxBackoffSeconds or lower backoffSeconds",
                field=".maxBackoffSeconds",
            )
        )
    )

    max_restarts: Annotated[int, Field(ge=0, le=999)] = 10
    """How many restarts the training's own failures may cost within windowSeconds; one more
    fails the job. Faults of nodes, preemptions and changes of
    size are not counted. 0: the first failure fails
    the job."""
    window_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 21_600
    """Length, in seconds, of the sliding window in which maxRestarts counts (21600: six
    hours)."""
    max_restarts_without_progress: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many of the training's own failures in a row, with no new step between them, fail the
    job. Counts only where the job's progress can be seen."""
    backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 5
    """Seconds to wait before the second restart without progress, at least one; the first is
    immediate, and each further one waits twice as long."""
    max_backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """The longest wait, in seconds, before a restart."""


_elastic_rules = rules(
    rule(
        "self.minWorkers <= self.maxWorkers",
        "spec.elastic.minWorkers must not exceed maxWorkers; lower minWorkers or raise maxWorkers",
        field=".minWorkers",
    ),
    rule(
        "!has(self.workerSizes) "
        "|| self.workerSizes.all(size, self.minWorkers <= size && size <= self.maxWorkers)",
        "spec.elastic.workerSizes must lie between minWorkers and maxWorkers; "
        "take the others out or widen the range",
        field=".workerSizes",
    ),
)


_priority_rules = rules(
    rule(
        "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$')",
        "spec.elastic.extraPriorityClassName must be the name of a PriorityClass, in lower-case "
        "letters, digits, '-' and '.'; mend it or leave it out",
    )
)


class ElasticSpec(ApiModel):
    """How the gang may change its size: it shrinks when it must and grows when that pays."""

    model_config = ConfigDict(json_schema_extra=_elastic_rules)

    min_workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)]
    """The smallest gang that may train. With fewer healthy workers the job waits."""
    max_workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)]
    """The largest gang that workers may ask for."""
    worker_sizes: list[Annotated[int, Field(ge=1, le=MAX_WORKERS)]] = Field(
        default_factory=list, max_length=64, json_schema_extra=list_set()
    )
    """The only sizes that the gang may have, for a training that cannot run at all of those
    that parallelism allows. Empty: all of them. One that parallelism does not allow is passed
    over."""
    faulty_scale_down_timeout_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60
    """How long, in seconds, a gang that has lost workers waits at most for their replacements
    before it goes on smaller."""
    scale_up_snooze_time_seconds: Annotated[int, Field(ge=1, le=86_400)] = SNOOZE_SECONDS
    """Seconds until the next try to grow after one has failed. So long, too, workers are held that
    wait for others without whom no larger size is legal."""
    graceful_shutdown_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = GRACEFUL_SECONDS
    """How long, in seconds, the training may take to save before a change of size or a
    suspension, once it is asked to; then the change comes anyway."""
    extra_priority_class_name: Annotated[
        str, Field(max_length=253, json_schema_extra=_priority_rules)
    ] = ""
    """PriorityClass of the workers beyond minWorkers, lower than the template's own: who preempts
    takes those first. Empty: all workers have the template's."""


class ParallelismSpec(ApiModel):
    """How the training splits its model and its batch over the ranks; 1 means not at all."""

    tensor: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Ranks that share each layer's matrices."""
    pipeline: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Ranks that the layers are dealt to."""
    context: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Ranks that share each sequence."""
    expert: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Ranks, of those with different data, that the experts are dealt to."""
    global_batch_size: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Samples in each optimizer step over all ranks, the same at every size of the gang. Absent:
    the batch restricts no size, and the training is not told of one."""
    micro_batch_size: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Samples in each forward pass of one replica of the model. With globalBatchSize it says how
    many passes make a step."""


_work_rules = rules(
    rule(
        "has(self.flopsPerToken) == has(self.acceleratorPeakTeraflops)",
        "spec.work.flopsPerToken and acceleratorPeakTeraflops are of use only together; "
        "add the other one or leave out both",
        field=".flopsPerToken",
    ),
)


class WorkSpec(ApiModel):
    """How much work a step is: what throughput and utilization are reckoned from."""

    model_config = ConfigDict(json_schema_extra=_work_rules)

    tokens_per_step: Annotated[int, Field(ge=1, le=MAX_EXACT)]
    """Tokens in each optimizer step over all ranks, the same at every size of the gang. Samples,
    frames or whatever, for a model that knows no tokens."""
    flops_per_token: Annotated[int, Field(ge=1, le=MAX_EXACT)] | None = None
    """Floating-point operations that the model needs for one token, forward and backward; of a
    transformer about 6 × its parameters, and what attention adds. Recomputation is none of it."""
    accelerator_peak_teraflops: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """What one accelerator can do at its peak in the precision of the training, in 10¹²
    floating-point operations a second, as its data sheet says for dense matrices: 989 for
    bfloat16 on an H100 SXM."""


def _holds(workers: str) -> str:
    """Return the CEL condition that so many workers can hold what parallelism asks for.

    It says what `plan.sizing.legal_sizes` says.
    """
    world, shards = f"({workers} * self.processesPerWorker)", _SHARDS
    degree, parallel = f"({world} / {shards})", "self.parallelism"
    micro = f"(has({parallel}.microBatchSize) ? {parallel}.microBatchSize : 1)"
    return (
        f"({world} % {shards} == 0 && {degree} % {parallel}.expert == 0 "
        f"&& (!has({parallel}.globalBatchSize) "
        f"|| {parallel}.globalBatchSize % ({micro} * {degree}) == 0))"
    )


_SHARDS = "(self.parallelism.tensor * self.parallelism.pipeline * self.parallelism.context)"


def legal_size(field: str) -> Rule:
    """Return the rule that a size at this path below `spec` can hold what parallelism asks for.

    It cannot name the nearest size that would do: the API server takes no rule that makes text
    of a number, for it cannot tell beforehand what that costs.
    """
    size = f"self.{field}"
    given = "!has(self.elastic) || " if field.startswith("elastic.") else ""
    return rule(
        f"{given}!has(self.parallelism) || !has(self.processesPerWorker) || {_holds(size)}",
        f"spec.{field} × spec.processesPerWorker must be a multiple of spec.parallelism: "
        "tensor × pipeline × context, with a data-parallel degree that expert divides and that, "
        "times microBatchSize, divides globalBatchSize; choose another size",
        field=f".{field}",
    )


_spec_rules = rules(
    rule(
        f"self.workers * self.?processesPerWorker.orValue(1) <= {MAX_PROCESSES}",
        "spec.workers × spec.processesPerWorker must not exceed "
        f"{MAX_PROCESSES} processes; lower one of them",
        field=".processesPerWorker",
    ),
    rule(
        "!has(self.elastic) "
        "|| self.elastic.minWorkers <= self.workers && self.workers <= self.elastic.maxWorkers",
        "spec.workers must lie between spec.elastic.minWorkers and maxWorkers; "
        "change workers or widen the range",
        field=".workers",
    ),
    rule(
        "!has(self.elastic) || !has(self.elastic.workerSizes) "
        "|| size(self.elastic.workerSizes) == 0 || self.workers in self.elastic.workerSizes",
        "spec.workers must be one of spec.elastic.workerSizes; choose one of them or add it",
        field=".workers",
    ),
    rule(
        "!has(self.parallelism) || has(self.processesPerWorker)",
        "spec.processesPerWorker is required beside spec.parallelism; "
        "set it to the number of ranks in each worker",
        reason="FieldValueRequired",
        field=".processesPerWorker",
    ),
    legal_size("workers"),
    legal_size("elastic.minWorkers"),
    legal_size("elastic.maxWorkers"),
)
_spares_rule = rule(
    f"type(self) == int ? self >= 0 && self <= {MAX_SPARES} : self == '{AUTO}'",
    f"spec.spares must be a number from 0 to {MAX_SPARES}, or {AUTO}; choose one of them",
)
Spares = Annotated[
    Annotated[int, Field(ge=0, le=MAX_SPARES)] | Literal["auto"],
    WithJsonSchema({"x-kubernetes-int-or-string": True, **rules(_spares_rule)}),
]
_managed_by_rules = rules(
    rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/_.~-]+$')",
        "spec.managedBy must be a domain, a slash and a path, such as " + names.MANAGED_BY,
    ),
    rule(
        "self == oldSelf",
        "spec.managedBy cannot change; delete the job and create it anew",
        reason="FieldValueForbidden",
    ),
)

_SHAPE = ("processesPerWorker", "launcher", "template", "checkpoint", "parallelism")


def shape_rules() -> tuple[Rule, ...]:
    """Return the rules, of the whole object, that pods of two shapes never stand side by side.

    It is not enough that `spec.suspend` was true: the operator must have seen it, or a job that
    is suspended, changed and resumed in one breath would go on with its old pods. A job without
    an attempt has no pods yet, for an attempt is written down before any pod is made.
    """
    suspended = (
        "oldSelf.spec.suspend && (!has(oldSelf.status) || !has(oldSelf.status.attempt) "
        "|| has(oldSelf.status.conditions) && oldSelf.status.conditions"
        ".exists(c, c.type == 'Suspended' && c.status == 'True'))"
    )

    def same(field: str) -> str:
        one, other = f"self.spec.{field}", f"oldSelf.spec.{field}"
        return f"has({one}) == has({other}) && (!has({one}) || {one} == {other})"

    def kept(field: str, expression: str, exception: str = "") -> Rule:
        return rule(
            f"({suspended}) || ({expression})",
            f"spec.{field} can change only while the job is suspended{exception}: set "
            "spec.suspend to true, wait for the condition Suspended, and change it then",
            reason="FieldValueForbidden",
            field=f".spec.{field}",
        )

    elastic = "has(self.spec.elastic) && has(oldSelf.spec.elastic)"
    return (
        kept("workers", f"{elastic} || {same('workers')}", " or elastic"),
        *(kept(field, same(field)) for field in _SHAPE),
        kept(
            "elastic",
            "has(self.spec.elastic) == has(oldSelf.spec.elastic)",
            ", though its parts may change at any time",
        ),
    )


class TrainingJobSpec(ApiModel):
    """What is to be trained, where its checkpoints are, and how failures are answered."""

    model_config = ConfigDict(json_schema_extra=_spec_rules)

    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)]
    """Number of worker pods that are wanted. All of them train together, or none does; only with
    elastic may they be fewer for a while. Changes only while the job is suspended, or at any
    time with elastic."""
    processes_per_worker: Annotated[int, Field(ge=1, le=MAX_PROCESSES_PER_WORKER)] | None = None
    """Training processes (ranks) in each worker. Absent: as many as the accelerators that one
    pod asks for, else 1. Changes only while the job is suspended."""
    launcher: Launcher = Launcher.COMMAND
    """Who starts the ranks. Command: the container's command runs once per pod and starts them
    itself (torchrun, a script). Processes: the agent runs the command processesPerWorker times,
    one rank each, and no launcher is needed. Changes only while the job is suspended."""
    template: Annotated[dict[str, Any], Field(json_schema_extra=template_schema())]
    """The worker's pod (a PodTemplateSpec), the same for all workers. The training runs in the
    container named trainer, or in the only one. Changes only while the job is suspended."""
    gang: GangSpec = GangSpec()
    """How the workers come to start together: all of them, or none."""
    spares: Spares = 0
    """Workers that stand ready beside the gang, with a node and without a process, to take the
    place of a lost one at once. They are created with the gang where they fit, else when they do,
    and made anew when they have been used. auto: as many as pay for themselves, by what this
    job's interruptions have cost."""
    elastic: ElasticSpec | None = None
    """How the gang may change its size. Absent: it trains with all workers, or not at all. Comes
    and goes only while the job is suspended."""
    parallelism: ParallelismSpec | None = None
    """How the training splits its model and batch, from which follow the sizes that it can run
    at. Absent: any size. Changes only while the job is suspended."""
    work: WorkSpec | None = None
    """How much work a step is. Nothing is decided by it: it is for the figures of throughput and
    utilization, which are unknown without it."""
    checkpoint: CheckpointSpec | None = None
    """Where the job keeps its checkpoints. Absent: the training's own business; a restart then
    begins wherever the training itself begins. Changes only while the job is suspended."""
    recovery: RecoverySpec = RecoverySpec()
    """How often, how soon and how long the job is brought back after a failure."""
    suspend: bool = False
    """True ends the training and frees all its pods; false starts it again from the newest
    checkpoint. One that saves by goodput.checkpoint, or an elastic one with a tracker file, saves
    first, for which it has elastic.gracefulShutdownTimeoutSeconds, or 600 seconds without elastic;
    any other is stopped at once."""
    managed_by: Annotated[
        str, Field(min_length=1, max_length=63, json_schema_extra=_managed_by_rules)
    ] = names.MANAGED_BY
    """The controller that runs this job. With any other value than the default, Goodput leaves
    the job alone. Never changes."""
    start_deadline_seconds: Seconds | None = None
    """Seconds within which a new job must have begun to train, else it fails; counted anew after
    a suspension. Absent: it may wait for ever."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Seconds that the job may be active, interruptions included, before it fails; counted anew
    after a suspension. Absent: no limit."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds after which a finished job is deleted with its pods. Absent: it stays."""
    clean_pod_policy: CleanPodPolicy = CleanPodPolicy.RUNNING
    """Which pods are deleted when the job has finished. Running: those that still run. All: all
    of them, and their logs. None: none, so that sidecars go on."""
