"""The three dashboards: where the fleet's time went, what one job does, how the operator is."""

from __future__ import annotations

from monitoring.panels import Dashboard, Kind, Panel, Query, Unit, Variable
from monitoring.rules import NOT_HELD, Times

_COUNTER = "goodput_accelerator_seconds_total"
_LOST = f'bucket!~"productive|{NOT_HELD}"'
RECOVERY = ("detection", "recovery", "restore", "startup", "lost_work")
"""The buckets that a recovery goes through, in their order: the last is paid by catching up."""
_OF_JOB = 'namespace="$namespace", job="$job"'


def _waterfall() -> str:
    """Return what each incident has cost of each bucket, in seconds of the gang.

    While the gang runs, its counters have all that the incidents so far have cost and nothing of
    the next one's. So the number of restarts becomes a label, and what a counter had come to while
    that number was one less is taken away.
    """
    runs = f'goodput_job_phase{{{_OF_JOB}, phase=~"Running|Succeeded"}}'
    of_gang = (
        f'(sum by (bucket) ({_COUNTER}{{{_OF_JOB}, bucket=~"{"|".join(RECOVERY)}"}}) '
        f"and on () {runs})"
    )
    number = f"max(goodput_job_restarts_total{{{_OF_JOB}}})"
    parts = [
        f'last_over_time(({of_gang} * on () group_left (incident) count_values("incident", '
        f"{number}{shift}))[$__range:$__interval])"
        for shift in ("", " + 1")
    ]
    size = f"max(max_over_time(goodput_job_accelerators{{{_OF_JOB}}}[$__range]))"
    return f"({parts[0]}\n- on (incident, bucket) {parts[1]})\n/ on () group_left () {size} > 0"


def fleet(slice_seconds: int = 300) -> Dashboard:
    """Return the fleet's dashboard, for rules that record a slice every so many seconds."""
    delta = "goodput_accelerator_seconds:delta"
    return Dashboard(
        uid="goodput-fleet",
        title="Goodput / Fleet",
        about="Where did the accelerators' time go: by cause, by team and by queue, and in money.",
        panels=(
            Panel(
                "Goodput, last day",
                Kind.STAT,
                (Query("cluster:goodput:ratio_1d", "of all time"),),
                "Productive share of all the time that jobs wanted or held accelerators.",
                Unit.SHARE,
                width=4,
                height=4,
            ),
            Panel(
                "Goodput while held, last day",
                Kind.STAT,
                (Query("cluster:goodput_held:ratio_1d", "of the time held"),),
                "The same without the time in which jobs were queued or suspended.",
                Unit.SHARE,
                width=4,
                height=4,
            ),
            Panel(
                "Goodput while held, 30 days",
                Kind.STAT,
                (Query("cluster:goodput_held:ratio_30d", "of the time held"),),
                "Jobs that were deleted since are part of it.",
                Unit.SHARE,
                width=4,
                height=4,
            ),
            Panel(
                "Accelerators",
                Kind.STAT,
                (
                    Query("sum(max by (accelerator) (goodput_cluster_accelerators))", "there"),
                    Query("sum(max by (accelerator) (goodput_cluster_accelerators_free))", "free"),
                ),
                "Of the nodes that take workers.",
                width=6,
                height=4,
            ),
            Panel(
                "Jobs",
                Kind.STAT,
                (Query("count by (phase) (goodput_job_phase)", "{{phase}}"),),
                "How many jobs are in which phase.",
                width=6,
                height=4,
            ),
            Panel(
                "Where the accelerators are",
                Kind.TIMESERIES,
                (Query(f"cluster:{delta} / {slice_seconds}", "{{bucket}}"),),
                "Accelerators by what their time went to, on average over each slice. Work shows "
                "as productive at the checkpoint that covers it, so it comes in steps.",
                width=16,
                height=9,
                stacked=True,
            ),
            Panel(
                "Lost, by cause",
                Kind.BARS,
                (
                    Query(
                        "sort_desc(sum by (bucket) "
                        f"(sum_over_time(cluster:{delta}{{{_LOST}}}[$__range])) > 0)",
                        "{{bucket}}",
                    ),
                ),
                "Accelerator time held and not productive, in the time shown.",
                Unit.SECONDS,
                width=8,
                height=9,
            ),
            Panel(
                "Goodput while held, by team",
                Kind.TIMESERIES,
                (Query("team:goodput_held:ratio_1h", "{{team}}"),),
                "Over the hour before. Jobs without the team's label are one team.",
                Unit.SHARE,
                width=8,
            ),
            Panel(
                "Goodput while held, by queue",
                Kind.TIMESERIES,
                (Query("queue:goodput_held:ratio_1h", "{{queue}}"),),
                "Over the hour before.",
                Unit.SHARE,
                width=8,
            ),
            Panel(
                "Accelerators waited for, by queue",
                Kind.TIMESERIES,
                (
                    Query(
                        "sum by (queue) (goodput_job_accelerators "
                        '* on (namespace, job) group_left () (goodput_job_phase{phase="Queued"}) '
                        "* on (namespace, job) group_left (queue) goodput_job_info)",
                        "{{queue}}",
                    ),
                ),
                "What gangs that do not fit ask for.",
                width=8,
                stacked=True,
            ),
            Panel(
                "Money lost, by team and cause",
                Kind.BARS,
                (
                    Query(
                        "topk(12, sum by (team, bucket) "
                        f"(sum_over_time(team:goodput_cost:delta{{{_LOST}}}[$__range])) > 0)",
                        "{{team}}: {{bucket}}",
                    ),
                ),
                "In the time shown, at the chart's prices per accelerator-hour; empty without.",
                Unit.MONEY,
                width=8,
                height=9,
            ),
            Panel(
                "Incidents of the present jobs",
                Kind.BARS,
                (Query("sort_desc(sum by (reason) (goodput_job_incidents_total))", "{{reason}}"),),
                "What has ended attempts, over the life of the jobs that are there.",
                width=8,
                height=9,
            ),
            Panel(
                "Jobs that lose most",
                Kind.TABLE,
                (
                    Query(
                        "topk(15, sum by (namespace, job) "
                        f"(increase({_COUNTER}{{{_LOST}}}[$__range])) > 0)"
                    ),
                ),
                "Accelerator time held and not productive, in the time shown.",
                Unit.SECONDS,
                width=8,
                height=9,
            ),
        ),
    )


def job() -> Dashboard:
    """Return one job's dashboard."""
    return Dashboard(
        uid="goodput-job",
        title="Goodput / Job",
        about="What one job does, and what each of its interruptions cost.",
        span="now-6h",
        variables=(
            Variable("namespace", "label_values(goodput_job_info, namespace)"),
            Variable("job", 'label_values(goodput_job_info{namespace="$namespace"}, job)'),
        ),
        annotations=(("incident", f"changes(goodput_job_restarts_total{{{_OF_JOB}}}[1m]) > 0"),),
        panels=(
            Panel(
                "Phase",
                Kind.STAT,
                (Query(f"goodput_job_phase{{{_OF_JOB}}}", "{{phase}}"),),
                "The one word for where the job is in its life.",
                width=4,
                height=4,
                named=True,
            ),
            Panel(
                "Goodput",
                Kind.STAT,
                (
                    Query(
                        f'sum({_COUNTER}{{{_OF_JOB}, bucket="productive"}}) '
                        f"/ sum({_COUNTER}{{{_OF_JOB}}})",
                        "of all settled time",
                    ),
                ),
                "Over the job's life, as `kubectl get` prints it.",
                Unit.SHARE,
                width=4,
                height=4,
            ),
            Panel(
                "Attempt",
                Kind.STAT,
                (Query(f"goodput_job_attempt{{{_OF_JOB}}}", "newest"),),
                "Each restart, planned or not, opens another.",
                width=4,
                height=4,
            ),
            Panel(
                "Restarts charged, of those allowed",
                Kind.STAT,
                (
                    Query(f"goodput_job_restarts_charged{{{_OF_JOB}}}", "charged"),
                    Query(f"goodput_job_restarts_allowed{{{_OF_JOB}}}", "allowed"),
                ),
                "Inside the window of spec.recovery.",
                width=6,
                height=4,
            ),
            Panel(
                "Newest durable checkpoint",
                Kind.STAT,
                (Query(f"goodput_job_checkpoint_timestamp_seconds{{{_OF_JOB}}} * 1000", "saved"),),
                "All work since then is lost if a fault comes now.",
                Unit.TIME_AGO,
                width=6,
                height=4,
            ),
            Panel(
                "Steps",
                Kind.TIMESERIES,
                (
                    Query(f"goodput_job_step{{{_OF_JOB}}}", "finished"),
                    Query(f"goodput_job_durable_step{{{_OF_JOB}}}", "durable"),
                ),
                "A step back is work that was lost and is done again.",
                width=12,
            ),
            Panel(
                "Workers",
                Kind.TIMESERIES,
                (Query(f"goodput_job_workers{{{_OF_JOB}}}", "{{state}}"),),
                "Wanted, bound to nodes, training; and spares, where they are wanted, standing by.",
                width=12,
            ),
            Panel(
                "Phases",
                Kind.STATES,
                (Query(f"goodput_job_phase{{{_OF_JOB}}}", "{{phase}}"),),
                "When the job was in which phase.",
                width=24,
                height=6,
            ),
            Panel(
                "What each interruption cost",
                Kind.TIMESERIES,
                (
                    Query(
                        f"sum by (bucket) (increase({_COUNTER}{{{_OF_JOB}, {_LOST}}}"
                        "[$__rate_interval])) > 0",
                        "{{bucket}}",
                    ),
                ),
                "Accelerator time lost around each moment: the fault is noticed (detection), the "
                "work since the checkpoint is lost (lost_work), the gang comes back (recovery, "
                "restore, startup).",
                Unit.SECONDS,
                width=16,
                height=9,
                stacked=True,
            ),
            Panel(
                "Lost so far, by cause",
                Kind.BARS,
                (
                    Query(
                        "sort_desc(sum by (bucket) "
                        f'({_COUNTER}{{{_OF_JOB}, bucket!="productive"}}) > 0)',
                        "{{bucket}}",
                    ),
                ),
                "Over the job's life.",
                Unit.SECONDS,
                width=8,
                height=9,
            ),
            Panel(
                "Waterfall of each recovery",
                Kind.WATERFALL,
                (Query(_waterfall(), "{{incident}} {{bucket}}"),),
                "Seconds of the gang by incident, in the time shown: until the fault is noticed "
                "(detection), until all processes run again (recovery), until the checkpoint is "
                "read (restore) and the first step is done (startup), and what has to be trained "
                "again (lost_work). The times to the millisecond are in status.incidents.",
                Unit.SECONDS,
                width=24,
            ),
            Panel(
                "Work not saved yet",
                Kind.TIMESERIES,
                (
                    Query(
                        f"goodput_unsettled_accelerator_seconds{{{_OF_JOB}}} "
                        f"/ (goodput_job_accelerators{{{_OF_JOB}}} > 0)",
                        "of each accelerator",
                    ),
                ),
                "It turns productive at the next checkpoint, or lost when a fault comes first.",
                Unit.SECONDS,
                width=8,
            ),
            Panel(
                "Duration of a step",
                Kind.TIMESERIES,
                (Query(f"goodput_job_step_duration_seconds{{{_OF_JOB}}}", "recent"),),
                "Of the gang, as its ranks report it.",
                Unit.SECONDS,
                width=8,
            ),
            Panel(
                "Incidents",
                Kind.BARS,
                (
                    Query(
                        f"sort_desc(sum by (reason) (goodput_job_incidents_total{{{_OF_JOB}}}))",
                        "{{reason}}",
                    ),
                ),
                "What has ended attempts.",
                width=8,
            ),
        ),
    )


def operator() -> Dashboard:
    """Return the operator's own dashboard."""
    passes = "goodput_operator_pass_duration_seconds_bucket"
    return Dashboard(
        uid="goodput-operator",
        title="Goodput / Operator",
        about="How the operator itself is.",
        span="now-6h",
        panels=(
            Panel(
                "Leaders",
                Kind.STAT,
                (Query("sum(goodput_operator_leader)", "leading"),),
                "One, always; none for a few seconds when a replica has died.",
                width=4,
                height=4,
            ),
            Panel(
                "Jobs known",
                Kind.STAT,
                (Query("max(goodput_operator_jobs)", "jobs"),),
                "TrainingJobs, finished ones included.",
                width=4,
                height=4,
            ),
            Panel(
                "Agents",
                Kind.STAT,
                (Query("max(goodput_operator_agents)", "agents"),),
                "Agents that have reported, and whose pods live.",
                width=4,
                height=4,
            ),
            Panel(
                "Jobs due for a pass",
                Kind.TIMESERIES,
                (Query("max(goodput_operator_queue_depth)", "waiting"),),
                "Seldom more than a few; growth means that passes take too long.",
                width=12,
                height=8,
            ),
            Panel(
                "Duration of a pass",
                Kind.TIMESERIES,
                tuple(
                    Query(
                        f"histogram_quantile({share}, sum by (le) (rate({passes}"
                        "[$__rate_interval])))",
                        name,
                    )
                    for share, name in ((0.5, "median"), (0.99, "99th percentile"))
                ),
                "Its calls to the API server included.",
                Unit.SECONDS,
            ),
            Panel(
                "Passes, by how they ended",
                Kind.TIMESERIES,
                (
                    Query(
                        "sum by (result) (rate(goodput_operator_passes_total[$__rate_interval]))",
                        "{{result}}",
                    ),
                ),
                "A conflict is tried again at once; api_error, error and bug are in the log.",
                Unit.PER_SECOND,
                stacked=True,
            ),
            Panel(
                "Requests to the API server",
                Kind.TIMESERIES,
                (
                    Query(
                        "sum by (verb, code) "
                        "(rate(goodput_operator_api_requests_total[$__rate_interval])) > 0",
                        "{{verb}} {{code}}",
                    ),
                ),
                "Code 0: no answer came.",
                Unit.PER_SECOND,
                stacked=True,
            ),
            Panel(
                "Reports of agents, by result",
                Kind.TIMESERIES,
                (
                    Query(
                        "sum by (result) "
                        "(rate(goodput_operator_reports_total[$__rate_interval])) > 0",
                        "{{result}}",
                    ),
                ),
                "All but Accepted were turned away.",
                Unit.PER_SECOND,
                stacked=True,
            ),
            Panel(
                "Age of what it knows",
                Kind.TIMESERIES,
                (
                    Query(
                        "max by (resource) (goodput_operator_watch_age_seconds)",
                        "{{resource}}",
                    ),
                ),
                "Since the last sign of life of each watch; the API server gives one a minute.",
                Unit.SECONDS,
            ),
            Panel(
                "Memory",
                Kind.TIMESERIES,
                (
                    Query(
                        "process_resident_memory_bytes and on (instance) goodput_operator_leader",
                        "{{instance}}",
                    ),
                ),
                "Resident, by replica.",
                Unit.BYTES,
            ),
        ),
    )


def dashboards(times: Times = Times()) -> tuple[Dashboard, ...]:  # noqa: B008
    """Return all of them."""
    return fleet(times.slice_seconds), job(), operator()
