"""What others call it: the published figures, each from our buckets and by its own formula.

Pure. All of them are exact fractions; None stands for a figure that has nothing to divide by. A
bucket is an amount of accelerator time in any one unit, by its name: the command line reckons by
these formulas, too, and starts without the API's models.

Sources:
- Meta: Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters",
  HPCA 2025, arXiv:2410.21680.
- ByteRobust: Wan et al., "Robust LLM Training Infrastructure at ByteDance", SOSP 2025,
  arXiv:2509.16293.
- Google, badput: ml-goodput-measurement (AI-Hypercomputer), `BadputType`; the guide
  `resiliency/goodput_measure` of AI-Hypercomputer/resiliency.
- Google, MPG: Wongpanich et al., "Machine Learning Fleet Efficiency: Analyzing and Optimizing
  Large-Scale Google TPU Systems with ML Productivity Goodput", arXiv:2502.06982.
- MFU: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", arXiv:2204.02311.
"""

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

Buckets = Mapping[str, int]

PRODUCTIVE = "productive"
TRAINING = (PRODUCTIVE, "checkpoint_stall", "data_stall")
"""What both ETTRs take for productive: all of training but what is trained again."""
WAITING = ("queued", "scheduling")
"""Eligible to run, and not placed: Meta's queue time."""
NOT_ALLOCATED = (*WAITING, "suspended", "degraded")
"""No accelerator does anything for the job then, or could."""

BADPUT: Mapping[str, str] = MappingProxyType(
    {
        "queued": "OTHER",
        "scheduling": "OTHER",
        "pod_start": "TPU_INITIALIZATION",
        "startup": "PROGRAM_STARTUP",
        "restore": "UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME",
        "checkpoint_stall": "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME",
        "data_stall": "DATA_LOADING_SYNC",
        "degraded": "OTHER",
        "spare": "OTHER",
        "lost_work": "WASTED_PROGRESS_FROM_DISRUPTION",
        "detection": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
        "recovery": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
        "suspended": "OTHER",
        "unknown": "OTHER",
    }
)
"""Google's badput type of each of our buckets. TRAINING_PREP is in our startup, and
DATA_LOADING_ASYNC is none to Google either: training does not wait for it."""


def goodput(buckets: Buckets) -> Fraction | None:
    """Return productive ÷ all settled time: what `kubectl get` shows as GOODPUT."""
    return _ratio(buckets.get(PRODUCTIVE, 0), sum(buckets.values()))


def ettr(buckets: Buckets, *, queue: bool = True) -> Fraction | None:
    """Return Meta's Effective Training Time Ratio: productive runtime ÷ available wall-clock time.

    Available is the time in which the job ran, or could have run and waited in the queue; what
    its user had suspended is not. Of the time in which it is scheduled, the start of each attempt
    and the work that is trained again are unproductive; training that stands still for a moment,
    to save or for want of data, is not told apart.

    Args:
        buckets: the job's.
        queue: count the time in the queue, as the paper does; else only the time since the job
            was placed.
    """
    left_out = ("suspended",) if queue else ("suspended", *WAITING)
    return _ratio(_all_of(buckets, TRAINING), _all_but(buckets, left_out))


def ettr_of_byterobust(buckets: Buckets) -> Fraction | None:
    """Return ByteRobust's ETTR: productive training time ÷ wall-clock time of the job.

    A job's time begins when it has its machines. Of a ledger's buckets it is the cumulative figure;
    of what they have grown by within an hour, that of the sliding window.
    """
    return _ratio(_all_of(buckets, TRAINING), _all_but(buckets, ("suspended", *WAITING)))


def badput(buckets: Buckets) -> dict[str, Fraction]:
    """Return the share of all time by Google's badput types; with `goodput` they sum to 1."""
    whole = sum(buckets.values())
    shares: dict[str, Fraction] = {}
    for bucket, kind in BADPUT.items():
        if buckets.get(bucket):
            shares[kind] = shares.get(kind, Fraction()) + Fraction(buckets[bucket], whole)
    return shares


def scheduling_goodput(buckets: Buckets) -> Fraction | None:
    """Return MPG's first factor: time with all accelerators allocated ÷ time in which wanted."""
    wanted = _all_but(buckets, ("suspended",))
    return _ratio(_all_but(buckets, NOT_ALLOCATED), wanted)


def runtime_goodput(buckets: Buckets) -> Fraction | None:
    """Return MPG's second factor: time whose progress was saved ÷ time allocated."""
    return _ratio(buckets.get(PRODUCTIVE, 0), _all_but(buckets, NOT_ALLOCATED))


def program_goodput(useful_steps: int, ideal_step: int, productive: int) -> Fraction | None:
    """Return MPG's third factor: the ideal time of what was trained ÷ the time it took.

    Args:
        useful_steps: new steps that are safe.
        ideal_step: time of one at its best: of a roofline, or of the job's own best hour.
        productive: time that they took, in the same unit: × accelerators in both, or in none.
    """
    return _ratio(useful_steps * ideal_step, productive)


def mpg(
    scheduling: Fraction | None, runtime: Fraction | None, program: Fraction | None
) -> Fraction | None:
    """Return Google's ML Productivity Goodput: scheduling × runtime × program."""
    if scheduling is None or runtime is None or program is None:
        return None
    return scheduling * runtime * program


def useful_goodput(useful_steps: int, ideal_step: int, elapsed: int) -> Fraction | None:
    """Return goodput as Google's guide has it: the ideal time of the new steps ÷ all time."""
    return _ratio(useful_steps * ideal_step, elapsed)


def slowdown(useful_steps: int, ideal_step: int, productive: int) -> int:
    """Return the guide's "training slowdown": what the new steps took beyond their ideal time."""
    return max(0, productive - useful_steps * ideal_step)


def throughput(amount: int, seconds: int) -> Fraction | None:
    """Return tokens (or whatever a job counts) by the second of wall-clock time."""
    return _ratio(amount, seconds)


def model_flops_utilization(
    flops: int, seconds: int, accelerators: int, peak_flops: int
) -> Fraction | None:
    """Return MFU: observed throughput ÷ that of a system at its peak.

    Args:
        flops: floating-point operations that the model itself needs; recomputation is none of it.
        seconds: in which they were done.
        accelerators: that took part.
        peak_flops: of one accelerator, by the second.
    """
    return _ratio(flops, seconds * accelerators * peak_flops)


def _all_of(buckets: Buckets, which: tuple[str, ...]) -> int:
    return sum(buckets.get(bucket, 0) for bucket in which)


def _all_but(buckets: Buckets, left_out: tuple[str, ...]) -> int:
    return sum(amount for bucket, amount in buckets.items() if bucket not in left_out)


def _ratio(part: int, whole: int) -> Fraction | None:
    return Fraction(part, whole) if whole > 0 else None
