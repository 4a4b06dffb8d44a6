"""The recording rules and alerts, as plain Prometheus wants them.

**Slices.** Every `SLICE`, what each counter has gained since the slice before is recorded, with
the job's queue, team and accelerator beside it, and summed by queue, team and cluster. Those sums
outlive the jobs, so a month's goodput of a team counts jobs that are long deleted; and they are
few, so a month of them is cheap to read. The gain is a difference of two looks at the counter,
not an `increase()`: that extrapolates, and our counters jump (work turns productive all at once,
when a checkpoint is durable). One that was not seen for a while (`MEMORY`) goes on from where it
was; one that was never seen counts whole, if its job is so young.

**Ratios.** `goodput` is productive time by all time that is settled; `goodput_held` leaves out
the time in which the job held no accelerator (`queued`, `suspended`). A window should be longer
than the time between two checkpoints, for work counts when a checkpoint has made it durable.

**Settings.** What an installation chooses (the target, prices) are recorded values, too; so the
other rules are the same everywhere, and a price that has changed is known for its own time. The
chart writes that group from its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Rule = dict[str, Any]
Group = dict[str, Any]

SETTINGS = "goodput.settings"
TARGET = "goodput:target:ratio"
PRICE = "goodput:accelerator_hour:price"
DEFAULT_TARGET = 0.85
RUNBOOK = "docs/runbook.md"
LEVELS = {"queue": "queue", "team": "team", "cluster": ""}
"""Above the job: the name, and the label that it is summed by."""
NOT_HELD = "queued|suspended"
"""Buckets of a time in which a job holds no accelerator."""
_COUNTER = "goodput_accelerator_seconds_total"
_DELTA = "goodput_accelerator_seconds:delta"
_JOB = "namespace, job"


@dataclass(frozen=True, slots=True)
class Times:
    """The lengths of time that rules go by; tests have no month to wait.

    Attributes:
        slice: between two looks at the counters.
        memory: how long a counter that is not seen is remembered.
        windows: of the ratios: the name in the rule's name, and the length.
        evaluation: how often the alerts are looked at.
        patience: an alert waits for as long as it should before it fires.
    """

    slice: str = "5m"
    memory: str = "1h"
    windows: dict[str, str] = field(default_factory=lambda: {"1h": "1h", "1d": "1d", "30d": "30d"})
    evaluation: str = "1m"
    patience: bool = True

    @property
    def slice_seconds(self) -> int:
        """Return the length of a slice."""
        return _in_seconds(self.slice)


def rule_file(times: Times = Times()) -> dict[str, Any]:
    """Return the whole file."""
    recorded = {
        "name": "goodput.recorded",
        "interval": times.slice,
        "rules": slices(times) + ratios(times),  # in one group: the latter see the former
    }
    return {"groups": [settings(), recorded, alerts(times)]}


def settings() -> Group:
    """Return what an installation chooses; the chart replaces it."""
    return {
        "name": SETTINGS,
        "rules": [{"record": TARGET, "expr": f"vector({DEFAULT_TARGET})"}],
    }


def slices(times: Times) -> list[Rule]:
    """Return the rules that record what each counter has gained."""
    now = f"max by ({_JOB}, bucket) ({_COUNTER})"
    before = (
        f"max by ({_JOB}, bucket) (last_over_time({_COUNTER}[{times.memory}] offset {times.slice}))"
    )
    young = (
        "max by (namespace, job) (goodput_job_created_timestamp_seconds)"
        f" > time() - {_in_seconds(times.memory) + 2 * _in_seconds(times.slice)}"
    )
    info = f"max by ({_JOB}, queue, team, accelerator) (goodput_job_info)"
    gained = (
        f"(({now} - {before}) >= 0 or ({now} and on ({_JOB}) ({young})))\n"
        f"* on ({_JOB}) group_left (queue, team, accelerator) {info}"
    )
    rules: list[Rule] = [{"record": f"job:{_DELTA}", "expr": gained}]
    for level, label in LEVELS.items():
        by = f"{label}, bucket" if label else "bucket"
        rules.append({"record": f"{level}:{_DELTA}", "expr": f"sum by ({by}) (job:{_DELTA})"})
    priced = f"job:{_DELTA} / 3600 * on (accelerator) group_left () {PRICE}"
    rules.append({"record": "team:goodput_cost:delta", "expr": f"sum by (team, bucket) ({priced})"})
    return rules


def ratios(times: Times) -> list[Rule]:
    """Return the rules that record goodput over each window, by job, queue, team and cluster."""
    rules = []
    for name, window in times.windows.items():
        for metric, buckets in (("goodput", ""), ("goodput_held", f'bucket!~"{NOT_HELD}"')):
            productive = _gained_by_job('bucket="productive"', window)
            rules.append(
                {
                    "record": f"job:{metric}:ratio_{name}",
                    "expr": f"{productive}\n/\n({_gained_by_job(buckets, window)} > 0)",
                }
            )
            for level, label in LEVELS.items():
                productive = _gained_by_level(level, label, 'bucket="productive"', window)
                rules.append(
                    {
                        "record": f"{level}:{metric}:ratio_{name}",
                        "expr": f"{productive}\n/\n"
                        f"({_gained_by_level(level, label, buckets, window)} > 0)",
                    }
                )
    return rules


def _gained_by_level(level: str, label: str, buckets: str, window: str) -> str:
    return f"sum by ({label}) (sum_over_time({level}:{_DELTA}{{{buckets}}}[{window}]))"


def _gained_by_job(buckets: str, window: str) -> str:
    """From the counters themselves, as they have the job's whole life."""
    now = f"sum by ({_JOB}) (max by ({_JOB}, bucket) ({_COUNTER}{{{buckets}}}))"
    then = f"sum by ({_JOB}) (max by ({_JOB}, bucket) ({_COUNTER}{{{buckets}}} offset {window}))"
    old = f"goodput_job_created_timestamp_seconds <= time() - {_in_seconds(window)}"
    return f"(({now} - {then}) and on ({_JOB}) ({old}) or {now})"


def alerts(times: Times) -> Group:
    """Return the alerts; each has a place of its own in the runbook."""
    lost = (
        f"max by ({_JOB}, bucket) "
        f'(increase({_COUNTER}{{bucket!~"productive|{NOT_HELD}"}}[{times.windows["1h"]}]))'
    )
    hour_seconds = _in_seconds(times.windows["1h"])
    share = (
        f"sum by ({_JOB}) ({lost}) / ({hour_seconds} * max by ({_JOB}) (goodput_job_accelerators))"
    )
    accelerator = f"max by ({_JOB}, accelerator) (goodput_job_info)"
    wanted = (
        f"max by ({_JOB}) (goodput_job_accelerators) "
        f"* on ({_JOB}) group_left (accelerator) {accelerator}"
    )
    free = "max by (accelerator) (goodput_cluster_accelerators_free)"
    running = f'on ({_JOB}) goodput_job_phase{{phase="Running"}}'
    unsaved = (
        "goodput_unsettled_accelerator_seconds / on (namespace, job) (goodput_job_accelerators > 0)"
    )
    leads = "goodput_operator_leader == 1"
    passes = "goodput_operator_passes_total"
    rules = [
        _alert(
            "GoodputBelowTarget",
            f"topk by ({_JOB}) (1, {lost})\n"
            f"and on ({_JOB}) ({share} > on () group_left () (1 - {TARGET}))",
            "10m",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} loses time to {{ $labels.bucket }}",
            "In the last hour it has lost more of the time of its accelerators than the target "
            "allows, most of it, {{ $value | humanizeDuration }} × accelerator, to "
            "{{ $labels.bucket }}.",
        ),
        _alert(
            "GoodputRestartStorm",
            f"max by ({_JOB}) (increase(goodput_job_restarts_total[30m])) >= 3",
            "",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} restarts again and again",
            "{{ $value | humanize }} attempts have ended by an incident within half an hour.",
        ),
        _alert(
            "GoodputStalledProgress",
            f'max by ({_JOB}) (goodput_job_condition{{type="Progressing"}}) == 0\nand {running}',
            "10m",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} runs and finishes no step",
            "All its processes live, and no step has been finished for more than ten minutes.",
        ),
        _alert(
            "GoodputCheckpointStale",
            f"max by ({_JOB}) ({unsaved}) > 7200\nand on ({_JOB}) goodput_job_durable_step",
            "5m",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} has not saved for "
            "{{ $value | humanizeDuration }}",
            "All the work since its newest durable checkpoint is lost if a fault comes now.",
        ),
        _alert(
            "GoodputGangWaitsBesideFreeCapacity",
            f"({wanted} <= on (accelerator) group_left () {free})\n"
            f'and on ({_JOB}) goodput_job_phase{{phase="Queued"}}',
            "15m",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} waits though there are accelerators enough",
            "It wants {{ $value | humanize }} of {{ $labels.accelerator }}; as many are free, but "
            "not where it may go, or another gang comes first.",
        ),
        _alert(
            "GoodputRestartBudgetNearlyUsed",
            f"max by ({_JOB}) (goodput_job_restarts_charged "
            f"/ on ({_JOB}) (goodput_job_restarts_allowed > 0)) >= 0.8\n"
            f'unless on ({_JOB}) goodput_job_phase{{phase=~"Succeeded|Failed"}}',
            "",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} has used "
            "{{ $value | humanizePercentage }} of its restarts",
            "When all are used inside spec.recovery.windowSeconds, the next failure of the "
            "training ends the job.",
        ),
        _alert(
            "GoodputSparesExhausted",
            f'max by ({_JOB}) (goodput_job_workers{{state="spare"}}) == 0\nand {running}',
            "10m",
            "warning",
            "{{ $labels.namespace }}/{{ $labels.job }} wants spares and has none",
            "The next worker that is lost has to be replaced by a new pod, or the gang goes on "
            "smaller or waits.",
        ),
        _alert(
            "GoodputOperatorHasNoLeader",
            f"absent({leads})",
            "2m",
            "critical",
            "no replica of the operator leads",
            "Training goes on, but nothing is started, recovered or accounted for.",
        ),
        _alert(
            "GoodputOperatorNotWatching",
            f"max by (resource) (goodput_operator_watch_age_seconds and on (instance) ({leads}))"
            " > 300",
            "2m",
            "critical",
            "the operator has not heard of {{ $labels.resource }} for "
            "{{ $value | humanizeDuration }}",
            "It decides nothing while what it knows may be old.",
        ),
        _alert(
            "GoodputOperatorPassesFail",
            f'sum(rate({passes}{{result!~"ok|conflict"}}[10m])) / sum(rate({passes}[10m])) > 0.1',
            "15m",
            "warning",
            "{{ $value | humanizePercentage }} of the operator's passes fail",
            "Jobs are looked after late or not at all; its log says why.",
        ),
    ]
    if not times.patience:
        rules = [{key: value for key, value in rule.items() if key != "for"} for rule in rules]
    return {"name": "goodput.alerts", "interval": times.evaluation, "rules": rules}


def _alert(  # noqa: PLR0917
    name: str, expression: str, patience: str, severity: str, summary: str, description: str
) -> Rule:
    rule: Rule = {"alert": name, "expr": expression}
    if patience:
        rule["for"] = patience
    return rule | {
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{RUNBOOK}#{name.lower()}",
        },
    }


def _in_seconds(length: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    return int(length[:-1]) * units[length[-1]]
