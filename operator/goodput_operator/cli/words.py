"""How this command line speaks of amounts, times and causes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from goodput_operator.cli.page import Style

MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Cause:
    """One bucket of the ledger, for people.

    Attributes:
        words: what the accelerators did.
        remedy: what a person can do to lose less of it; empty where there is nothing.
    """

    words: str
    remedy: str = ""


PRODUCTIVE: Final = "productive"
CAUSES: Final[Mapping[str, Cause]] = {
    PRODUCTIVE: Cause("training that a checkpoint keeps"),
    "queued": Cause("waiting for room", "free or add nodes, or let the job be elastic"),
    "scheduling": Cause("waiting for the scheduler", "look at the pods that have no node"),
    "pod_start": Cause(
        "pods starting", "make the image smaller, or pull it to the nodes beforehand"
    ),
    "startup": Cause(
        "from the start of the processes to the first step",
        "import less, compile ahead, cache what is compiled",
    ),
    "restore": Cause("reading a checkpoint", "keep checkpoints on faster storage, or shard them"),
    "checkpoint_stall": Cause(
        "training held up by saving", "save asynchronously, or less often, or to faster storage"
    ),
    "data_stall": Cause("training held up by its data", "add loader workers, or cache the data"),
    "straggler": Cause("waiting for the slowest rank", "look for the rank that is slow"),
    "degraded": Cause("workers that are wanted and not there", "free or add nodes"),
    "spare": Cause("workers that stood by for a lost one's place", "keep fewer spares"),
    "lost_work": Cause("steps that were lost and trained again", "save more often"),
    "detection": Cause("from a fault until it was known"),
    "recovery": Cause(
        "from a decision until all processes ran again",
        "see the incidents: what ends attempts, and what they waited for",
    ),
    "suspended": Cause("suspended by wish"),
    "unknown": Cause(
        "work of which nobody can say whether it was kept",
        "use the goodput SDK, or a tracker file, so that checkpoints can be seen",
    ),
}
"""Every bucket of the ledger, in its order."""


def cause_of(bucket: str) -> Cause:
    """Return a bucket's words; one that a newer operator has made is called by its name."""
    return CAUSES.get(bucket, Cause(bucket))


def duration(seconds: float) -> str:
    """Return a length of time as people say it: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def amount(milliseconds: int) -> str:
    """Return accelerator-milliseconds as accelerator-seconds, -minutes or -hours."""
    if milliseconds < 120_000:
        return f"{milliseconds / 1000:.1f} s"
    if milliseconds < 120 * 60_000:
        return f"{milliseconds / 60_000:.1f} min"
    return f"{milliseconds / 3_600_000:,.1f} h"


def share(part: int, whole: int) -> str:
    """Return a part in per cent, cut and not rounded: 100.0% is all of it; "-" of nothing."""
    return f"{part * 1000 // whole / 10:.1f}%" if whole > 0 else "-"


def clock(moment: datetime) -> str:
    """Return a moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def stamp(moment: datetime | None) -> str | None:
    """Return a moment for programs (RFC 3339 with milliseconds)."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was; clocks differ, so one that is to come is "just now"."""
    seconds = (now - moment).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 1 else "just now"


def count(number: int, what: str) -> str:
    """Return "1 step" or "2 steps"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def style_of_goodput(productive: int, whole: int) -> Style:
    """Return how a share of goodput is coloured: 90 % is good, less than 70 % is bad."""
    if whole <= 0:
        return "dim"
    if productive * 10 >= whole * 9:
        return "good"
    return "warn" if productive * 10 >= whole * 7 else "bad"


PHASES: Final[Mapping[str, str]] = {
    "": "not looked at by an operator yet",
    "Invalid": "refused: its template cannot work",
    "Queued": "waits for room for its whole gang",
    "Starting": "its pods start",
    "Running": "trains",
    "Recovering": "comes back after a fault",
    "Stopping": "its processes are being stopped",
    "Suspended": "is suspended and holds nothing",
    "Succeeded": "has succeeded",
    "Failed": "has failed for good",
}

REMEDIES: Final[Mapping[str, str]] = {
    "ProcessFailed": "Read the message and the worker's log: the training itself has failed.",
    "OutOfMemory": "Ask for more memory in the template, or use less: the kernel killed it.",
    "DoNotRequeue": "The process asked not to be tried again (exit code 93): its log says why.",
    "NodeLost": "The node has gone silent: have it repaired; the job avoids it for a while.",
    "NodeGone": "The node was deleted. Nothing is to be done, unless that was no intention.",
    "WorkerSilent": "Its agent was not heard of: look at the node and at the network to it.",
    "Evicted": "The node ran out of memory or disk, or was shut down: `kubectl describe` it.",
    "Preempted": "A pod of higher priority took its place: raise the job's priority class.",
    "PodDeleted": "Somebody or something deleted the pod: the audit log tells who.",
    "PodGone": "Somebody or something deleted the pod: the audit log tells who.",
    "PodFailed": "`kubectl describe` the pod: the kubelet has ended it.",
    "RestoredApart": "The workers do not see the same checkpoints: is the volume shared?",
    "ImageLacksPython": "The image needs Python 3.8 or newer for the agent.",
    "WaitingForConfirmedDeath": "Once you know that its node is down, delete the node, or taint it "
    "node.kubernetes.io/out-of-service.",
    "DoesNotFit": "Free or add nodes, lower spec.workers, or add spec.elastic so that it can start "
    "smaller.",
    "CreateRefused": "The API server refuses its pods: mostly a quota or a policy; its words are "
    "above.",
    "StartTimeout": "Its pods did not come up in time: `kubectl describe` the one that is named, "
    "or raise spec.gang.startTimeoutSeconds.",
    "TemplateInvalid": "Suspend the job, mend spec.template, and resume it; or create it anew.",
    "Invalid": "Suspend the job, mend spec.template, and resume it; or create it anew.",
    "DirectoryUnusable": "Make spec.checkpoint.directory writable for the container's user on a "
    "volume that all workers share.",
    "CannotBeRead": "Mend the field that is named, or delete the job and create it anew.",
    "DeadlineExceeded": "Raise spec.activeDeadlineSeconds and create the job anew: it goes on from "
    "its checkpoints.",
    "StartDeadlineExceeded": "Raise spec.startDeadlineSeconds, or free room, and create the job "
    "anew.",
    "StandsStill": "No step is finished: an evaluation, a save, or a rank that hangs. Look at the "
    "newest lines of each worker's log (py-spy dump shows where a process is).",
    "NoSignal": "Nothing shows its progress: use the goodput SDK, or let the trainer write a "
    "tracker file.",
    "NoCheckpoint": "Save one: until then every fault costs all that was trained.",
    "FellBack": "The newest checkpoint was damaged, an older one was taken: look at the storage.",
    "ShrunkToFit": "Free or add nodes: the missing workers are taken in when that pays.",
}
"""What a person can do about a reason of a condition, an incident or an event."""
