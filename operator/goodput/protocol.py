"""The words that an agent and the operator exchange, and those between a trainer and its agent.

Both sides import this module, so it needs nothing but Python 3.8. One call exists,
`POST /v1/sync`: the agent says *what is* (never what happened since last time), and the
operator answers what to do. Both are whole states: the same message twice changes nothing,
a lost one is made good by the next, and an operator that was away for an hour learns
everything from the first report after its return.

Clocks: every time in a request is on the agent's monotonic clock, in milliseconds, and so
is `sent_at`. The receiver turns it into its own time by age (`sent_at - at`), so that a
wrong wall clock on a node harms nothing.

Compatibility: unknown fields are ignored, missing ones take their default, a field never
changes its meaning. A change that breaks this rule gets a new path.
"""

import json
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property, lru_cache
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    TypeVar,
)

PROTOCOL_VERSION = 1
SYNC_PATH = "/v1/sync"
TOKEN_AUDIENCE = "goodput.training/agent"
SERVER_NAME = "operator.goodput.training"
"""The one TLS name that every replica's certificate carries, whatever its address."""

MAX_REQUEST_BYTES = 64 * 1024
HOLD_SECONDS = 5.0
"""How long a poll is held when there is nothing new: also the rhythm of the heartbeat."""

EXIT_CODE_DO_NOT_REQUEUE = 93
EXIT_CODE_PYTHON_TOO_OLD = 97

# The environment of the agent: set by the operator on the container, for the agent alone.
ENV_JOB = "GOODPUT_JOB"
ENV_JOB_UID = "GOODPUT_JOB_UID"
ENV_NAMESPACE = "GOODPUT_NAMESPACE"
ENV_SLOT = "GOODPUT_SLOT"
ENV_INCARNATION = "GOODPUT_INCARNATION"
ENV_POD_IP = "GOODPUT_POD_IP"
ENV_PROCESSES_PER_WORKER = "GOODPUT_PROCESSES_PER_WORKER"
ENV_LAUNCHER = "GOODPUT_LAUNCHER"
ENV_OPERATOR_URL = "GOODPUT_OPERATOR_URL"
ENV_CHECKPOINT_DIR = "GOODPUT_CHECKPOINT_DIR"
ENV_CHECKPOINT_KEEP = "GOODPUT_CHECKPOINT_KEEP"
ENV_TERMINATION_GRACE = "GOODPUT_TERMINATION_GRACE_SECONDS"
"""Optional: what the agent gives the processes when the pod is deleted; less than the kubelet
gives the agent (terminationGracePeriodSeconds)."""

# What the training process finds besides the names of torch, JAX and Slurm.
ENV_ATTEMPT = "GOODPUT_ATTEMPT"
ENV_WORLD_SIZE = "GOODPUT_WORLD_SIZE"
ENV_RESTORE_STEP = "GOODPUT_RESTORE_STEP"
ENV_LINEAGE = "GOODPUT_LINEAGE"
"""JSON list of `Ancestor`, newest first."""
ENV_GLOBAL_BATCH_SIZE = "GOODPUT_GLOBAL_BATCH_SIZE"
ENV_GRADIENT_ACCUMULATION_STEPS = "GOODPUT_GRADIENT_ACCUMULATION_STEPS"
ENV_DATA_PARALLEL_DEGREE = "GOODPUT_DATA_PARALLEL_DEGREE"
ENV_DATA_PARALLEL_RANK = "GOODPUT_DATA_PARALLEL_RANK"
ENV_AGENT = "GOODPUT_AGENT"
"""Path of the agent's Unix datagram socket; `state.json` lies beside it."""

AGENT_MOUNT = "/goodput"
"""The one path we reserve in the trainer's container (an emptyDir)."""
AGENT_ZIPAPP = "/goodput/agent.pyz"
AGENT_RUN_DIR = "/goodput/run"
CREDENTIALS_MOUNT = "/var/run/goodput"
TOKEN_PATH = "/var/run/goodput/token"
CA_PATH = "/var/run/goodput/ca.crt"

M = TypeVar("M", bound="Message")
Read = Callable[[str, Any], Any]
"""Takes a field's name and value in JSON; returns what the class holds, or ProtocolError."""


class ProtocolError(ValueError):
    """A message is not what this module describes; sending it again cannot help."""


def _no_constant(name: str) -> Any:
    raise ValueError("{} is no number of JSON".format(name))


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_json(text: bytes) -> Any:
    """Return what the JSON text says, if it can be read in one way only.

    Python would also take UTF-16, NaN, and of a name that stands twice the last value.

    Raises:
        ProtocolError: it is not UTF-8, not JSON, or two things at once.
    """
    try:
        return _STRICT.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON: {}".format(error)) from error


class _Item(NamedTuple):
    """A field in JSON: where it goes, how it is read, and whether it is left out when empty."""

    attribute: str
    read: Read
    may_be_empty: bool


_EMPTY = (0, "", ())
"""Equal to 0 are 0.0 and False, too."""


@dataclass(frozen=True)
class Message:
    """A value with a JSON form in camelCase.

    Left out are fields that are None, and those that are empty (0, false, "", no entry) where that
    is their default: most of what an agent at rest would say.
    """

    _nested: ClassVar[Mapping[str, Type["Message"]]] = {}
    _nested_lists: ClassVar[Mapping[str, Type["Message"]]] = {}

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON object, without what is left out."""
        shown = {}
        for name, item in self._shape().items():
            value = getattr(self, item.attribute)
            if value is None or (not value and item.may_be_empty):
                continue
            said = _plain(value)
            if said or not item.may_be_empty:
                shown[name] = said
        return shown

    def to_json(self) -> bytes:
        """Return the compact UTF-8 JSON text."""
        return json.dumps(self.to_dict(), separators=(",", ":")).encode("utf-8")

    @classmethod
    def from_json(cls: Type[M], text: bytes) -> M:
        """Read a message.

        Raises:
            ProtocolError: not JSON, not an object, a field missing or of the wrong type.
        """
        return cls.from_dict(read_json(text))

    @classmethod
    def from_dict(cls: Type[M], value: Any) -> M:
        """Read a message from a decoded JSON object; see `from_json`."""
        if not isinstance(value, dict):
            raise ProtocolError("{}: an object is wanted".format(cls.__name__))
        shape, held = cls._shape(), dict(cls._defaults())
        for name, given in value.items():
            item = shape.get(name)
            if item is not None and given is not None:
                held[item.attribute] = item.read(name, given)
        if len(held) != len(shape):
            missing = sorted(name for name in shape if shape[name].attribute not in held)
            raise ProtocolError("{}: missing: {}".format(cls.__name__, ", ".join(missing)))
        # What __init__ does, in a third of its time: a frozen class sets its fields one by one.
        made = cls.__new__(cls)
        made.__dict__.update(held)
        return made

    @classmethod
    @lru_cache(maxsize=None)
    def _defaults(cls) -> Dict[str, Any]:
        """Return what the attributes hold that nothing is said of; all of it is immutable."""
        held = {}
        for item in fields(cls):
            if item.default_factory is not MISSING:
                held[item.name] = item.default_factory()
            elif item.default is not MISSING:
                held[item.name] = item.default
        return held

    @classmethod
    @lru_cache(maxsize=None)
    def _shape(cls) -> Dict[str, _Item]:
        """Return what each field is in JSON, by its name there.

        Worked out once for each class: a thousand agents send two hundred requests a second.
        """
        return {
            _camel(item.name): _Item(
                attribute=item.name,
                read=cls._reader(item),
                may_be_empty=item.default_factory is not MISSING or item.default in _EMPTY,
            )
            for item in fields(cls)
        }

    @classmethod
    def _reader(cls, item: "Field[Any]") -> Read:
        if item.name in cls._nested:
            nested = cls._nested[item.name]
            return lambda _, value: nested.from_dict(value)
        if item.name in cls._nested_lists:
            one = cls._nested_lists[item.name]
            return lambda name, value: tuple(one.from_dict(part) for part in _list(name, value))
        text = item.type if isinstance(item.type, str) else str(item.type)
        if "Tuple[str" in text:
            return _strings
        if "bool" in text:
            return _boolean
        if "float" in text:
            return _number
        return _integer if "int" in text else _string


@dataclass(frozen=True)
class Ancestor(Message):
    """One link of a lineage: `attempt` went on from `step` of the earlier attempt `origin`.

    A commit belongs to the lineage when its attempt is `origin` and its step at most `step`,
    for some link; or when its attempt is the newest link's own.
    """

    attempt: int
    origin: int
    step: int


@dataclass(frozen=True)
class Commit(Message):
    """A published checkpoint: of which attempt, at which step."""

    attempt: int
    step: int


@dataclass(frozen=True)
class ProcessExit(Message):
    """How one training process ended, with the evidence that its agent could find.

    Attributes:
        at: when, on the agent's clock, in milliseconds.
        exit_code: as a shell would show it (128 + signal for a killed process).
        signal: the signal that ended it, 0 when none did.
        reason: one CamelCase word: Completed, Error, Killed, OutOfMemory, StartError.
        exception: the last line of a Python traceback, or torchelastic's error message.
        last_lines: the end of the process's output; only on the first failure of a worker.
    """

    rank: int
    at: int
    exit_code: int
    signal: int = 0
    reason: str = "Error"
    exception: str = ""
    last_lines: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress(Message):
    """What the trainer said of itself during the current attempt. Times: agent clock, ms.

    Attributes:
        sdk: a process of this attempt speaks through the SDK.
        restore_began_at, restore_ended_at: the restore of this attempt, as far as it went. One
            who restores by the SDK saves by it, too: the checkpoints are fenced.
        restored: the commit that was restored; None when there was none, or it failed.
        restore_apart: the processes cannot go on from one commit: one could not read what the
            world named and has given up, or they restored different ones. `restored` is then
            the oldest of what they could.
        restore_problems: commits that were passed over, each with its reason (at most 4).
        first_step_at: the end of the first step of this attempt.
        step, step_at: the newest finished step and when it was finished.
        step_milliseconds: the duration of a recent step (a running median).
        committed: the newest commit that this worker *published* in this attempt.
        committed_step_at: when the committed step had been finished (work before it is safe).
        checkpoint_stall_milliseconds, data_stall_milliseconds: how long training has stood still
            since its first step, for a checkpoint and for want of data; of the rank of this
            worker that has stood longest.
        committed_stall_milliseconds: what both together were when the committed step had been
            finished.
        tracker_step: for trainers without the SDK, the step in their tracker file.
        tracker_step_at: when the agent first saw that step.
    """

    sdk: bool = False
    restore_began_at: Optional[int] = None
    restore_ended_at: Optional[int] = None
    restored: Optional[Commit] = None
    restore_apart: bool = False
    restore_problems: Tuple[str, ...] = ()
    first_step_at: Optional[int] = None
    step: Optional[int] = None
    step_at: Optional[int] = None
    step_milliseconds: Optional[int] = None
    committed: Optional[Commit] = None
    committed_step_at: Optional[int] = None
    checkpoint_stall_milliseconds: Optional[int] = None
    data_stall_milliseconds: Optional[int] = None
    committed_stall_milliseconds: Optional[int] = None
    tracker_step: Optional[int] = None
    tracker_step_at: Optional[int] = None

    _nested = {"restored": Commit, "committed": Commit}


@dataclass(frozen=True)
class Run(Message):
    """The newest attempt whose processes this agent has started (or tried to start).

    Attributes:
        started_at: when all processes of this worker had been started; None before.
        alive: how many of its processes still live, zombies of the kernel not counted.
        stopping: a stop order is being carried out.
        exits: of the processes that ended, failures first, at most 8.
        failed: how many ended other than with exit code 0 without having been told to stop.
        succeeded: all processes ended with exit code 0.
    """

    attempt: int
    started_at: Optional[int] = None
    alive: int = 0
    stopping: bool = False
    exits: Tuple[ProcessExit, ...] = ()
    failed: int = 0
    succeeded: bool = False
    progress: Progress = field(default_factory=Progress)

    _nested = {"progress": Progress}
    _nested_lists = {"exits": ProcessExit}


@dataclass(frozen=True)
class Disk(Message):
    """What the agent found in the checkpoint directory when it started, before any attempt.

    Attributes:
        highest_attempt: of any commit or unfinished data found there, 0 when there is none.
        newest: the commit with the highest attempt, and of these with the highest step.
        problem: why the directory cannot be used ("not writable: ..."), empty when it can.
    """

    highest_attempt: int = 0
    newest: Optional[Commit] = None
    problem: str = ""

    _nested = {"newest": Commit}


@dataclass(frozen=True)
class SyncRequest(Message):
    """What an agent says: who it is, what it runs.

    Attributes:
        sequence: grows with each request of this agent; an older one changes nothing.
        seen_revision: the revision of the newest answer that this agent has taken in.
        hold_seconds: how long the operator may hold the answer when there is nothing new.
        sent_at: the agent's monotonic clock when this was sent, in milliseconds.
        address: the pod's IP.
        free_port: a TCP port of this pod that was free a moment ago, for rank 0's use.
        ends_at: the pod is being ended, and its processes have time to save until then, on the
            agent's clock; None while nobody has told the agent so.
    """

    slot: int
    incarnation: int
    sequence: int
    sent_at: int
    protocol: int = PROTOCOL_VERSION
    agent_version: str = ""
    seen_revision: str = ""
    hold_seconds: float = 0.0
    address: str = ""
    free_port: int = 0
    ends_at: Optional[int] = None
    disk: Disk = field(default_factory=Disk)
    run: Optional[Run] = None

    _nested = {"disk": Disk, "run": Run}


@dataclass(frozen=True)
class World(Message):
    """The part of an attempt's world that one agent needs: O(1), whatever the gang's size.

    Attributes:
        run_id: the rendezvous id; unique to (job UID, attempt).
        workers: pods in the gang.
        worker_rank: this worker's place among them (PET_NODE_RANK, GROUP_RANK).
        processes: training processes of this worker.
        world_size: training processes of the gang.
        rank_offset: global rank of this worker's first process.
        lineage: newest first; its first link is this attempt's own.
        restore_step: the step to go on from, None for a start from nothing.
        global_batch_size: samples in each optimizer step, the same at every size of the gang.
        accumulation_steps: forward passes that make an optimizer step at this size.
        data_parallel_degree: replicas of the model in this world; None where nobody has said how
            the training is split.
        ranks_alike: how many consecutive ranks see the same samples (tensor × context).
    """

    attempt: int
    run_id: str
    workers: int
    worker_rank: int
    processes: int
    world_size: int
    rank_offset: int
    master_address: str
    master_port: int
    restore_step: Optional[int] = None
    lineage: Tuple[Ancestor, ...] = ()
    global_batch_size: Optional[int] = None
    accumulation_steps: Optional[int] = None
    data_parallel_degree: Optional[int] = None
    ranks_alike: int = 1

    _nested_lists = {"lineage": Ancestor}


HOLD = "hold"
RUN = "run"
STOP = "stop"
EXIT = "exit"


@dataclass(frozen=True)
class SyncAnswer(Message):
    """What the operator says.

    Attributes:
        revision: names this answer's content; the agent sends it back as `seen_revision`.
        kind: `hold` go on with what you do (train, or wait);
            `run` run `world.attempt`, unless you have already run it or a later one;
            `stop` end the processes of `attempt` and of any earlier one, then report;
            `exit` end everything and leave with `exit_code`.
        grace_seconds: between SIGTERM and SIGKILL, for `stop` and `exit`.
        durable: the newest commit that the operator has *persisted* as durable: what lies
            behind it (beyond `keep`) may be pruned, nothing else may.
        save_step: with `run`: the training is asked to save after this step, because its attempt
            is to end; None: it is not, or not any more.
    """

    kind: str
    revision: str = ""
    protocol: int = PROTOCOL_VERSION
    attempt: int = 0
    world: Optional[World] = None
    grace_seconds: float = 0.0
    exit_code: int = 0
    durable: Optional[Commit] = None
    save_step: Optional[int] = None

    _nested = {"world": World, "durable": Commit}

    @cached_property
    def text(self) -> bytes:
        """The JSON text, made once: most answers are sent again with every heartbeat."""
        return self.to_json()


@dataclass(frozen=True)
class Misdirected(Message):
    """The body of a 421: this replica does not lead.

    `leader` is `host:port` of the replica that does, empty while nobody is known to; the
    agent connects there under the same TLS name, and comes back here when that fails.
    """

    leader: str = ""


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _plain(value: Any) -> Any:
    """Turn messages into objects and tuples into lists, all the way down."""
    if isinstance(value, Message):
        return value.to_dict()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


_NUMBER_LIMIT = 2**53


def _integer(name: str, value: Any) -> int:
    if type(value) is not int:
        raise ProtocolError("{}: int is wanted".format(name))
    if not -_NUMBER_LIMIT < value < _NUMBER_LIMIT:
        raise ProtocolError("{}: out of range".format(name))
    return value


def _number(name: str, value: Any) -> float:
    if type(value) is not int and type(value) is not float:
        raise ProtocolError("{}: float is wanted".format(name))
    if not -_NUMBER_LIMIT < value < _NUMBER_LIMIT:  # NaN fails this too
        raise ProtocolError("{}: out of range".format(name))
    return value


def _boolean(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ProtocolError("{}: bool is wanted".format(name))
    return value


def _string(name: str, value: Any) -> str:
    if type(value) is not str:
        raise ProtocolError("{}: str is wanted".format(name))
    return value


def _strings(name: str, value: Any) -> Tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ProtocolError("{}: a list of strings is wanted".format(name))
    return tuple(value)


def _list(name: str, value: Any) -> List[Any]:
    if not isinstance(value, list):
        raise ProtocolError("{}: a list is wanted".format(name))
    return value


# --- between a training process and its agent -------------------------------------------
#
# Up: one JSON object a datagram, to the Unix socket ENV_AGENT, never waited for. Every one has
# "kind", "rank", "attempt" and "at" (time.monotonic(), seconds, the kernel's one clock):
#   hello    {pid}                          the SDK is in use
#   restore_begin {}                        a restore begins
#   restore_end   {commit: {attempt, step} | null, problems: [text], apart: bool}
#                                           apart: it could not read what the world named, and
#                                           gives up; commit: the newest that it could
#   step     {step, milliseconds, stalled}  a step has been finished (rate-limited by the SDK)
#   commit   {step, step_at, stalled, since}    this process published the manifest of `step`
#   stall    {stalled}                      it has stood still for a checkpoint
# stalled: {"checkpoint": ms, "data": ms}, how long this process has stood still in all since its
# first step; absent: never. since: how many of these milliseconds since `step` was finished.
# Down: the agent replaces STATE_FILE (beside the socket) by rename:
#   {"attempt": n, "durable": {"attempt": a, "step": s} | null, "save": step (when asked to)}
STATE_FILE = "state.json"
MAX_DATAGRAM_BYTES = 8 * 1024
