"""Attempts and interruptions, stage by stage."""

import csv
import io
import json
from typing import Any

import pytest

from goodput_operator.cli.job import Job
from goodput_operator.cli.page import plain
from goodput_operator.cli.timeline import (
    CSV_COLUMNS,
    STAGES,
    WIDTH,
    timeline_csv,
    timeline_json,
    timeline_of,
    timeline_page,
)
from tests.unit.cli.conftest import NOW, at, attempt, condition, incident, job

OPEN: dict[str, Any] = {
    "scheduledAt": None,
    "publishedAt": None,
    "runningAt": None,
    "firstStepAt": None,
    "caughtUpAt": None,
}


def stages(**changes: Any) -> list[tuple[str, float, bool]]:
    [one] = timeline_of(job(incidents=[incident(**changes)]), NOW).interruptions
    return [(stage.name, stage.seconds, stage.open) for stage in one.stages]


def test_each_stage_ends_with_its_time_and_begins_with_the_one_before() -> None:
    assert stages() == [
        ("detection", 1.0, False),
        ("placement", 0.0, False),
        ("forming", 1.0, False),
        ("start", 1.0, False),
        ("first step", 8.0, False),
        ("catching up", 4.0, False),
    ]


def test_what_has_not_ended_yet_lasts_until_now() -> None:
    assert stages(**OPEN, faultAt=at(-12), decidedAt=at(-2)) == [
        ("detection", 10.0, False),
        ("placement", 2.0, True),
    ]


def test_a_stage_that_nobody_timed_is_part_of_the_next() -> None:
    assert stages(scheduledAt=None)[:2] == [("detection", 1.0, False), ("forming", 1.0, False)]


def test_times_that_jump_back_make_no_stage_shorter_than_nothing() -> None:
    found = stages(publishedAt=at(-900))
    assert [seconds for _, seconds, _ in found] == [1.0, 0.0, 0.0, 2.0, 8.0, 4.0]


@pytest.mark.parametrize(
    "ended",
    [
        {"finishedAt": at(-1)},
        {"conditions": [condition("Suspended", "True", "SpecSuspend")]},
    ],
)
def test_of_a_job_that_holds_nothing_no_stage_goes_on(ended: dict[str, Any]) -> None:
    over = job(incidents=[incident(**OPEN)], **ended)
    [one] = timeline_of(over, NOW).interruptions
    assert [stage.open for stage in one.stages] == [False]


def test_only_the_newest_incident_can_go_on() -> None:
    incidents = [incident(attempt=2, **OPEN), incident(attempt=1, **OPEN)]
    old, new = timeline_of(job(incidents=incidents, attempt=attempt(number=3)), NOW).interruptions
    assert [stage.open for stage in old.stages] == [False]
    assert [stage.open for stage in new.stages] == [False, True]


def test_an_attempt_runs_from_its_processes_until_its_fault() -> None:
    runs = timeline_of(job(), NOW).runs
    assert [(run.attempt, run.outcome) for run in runs] == [(1, "ProcessFailed"), (2, "Running")]
    assert [(NOW - run.end).total_seconds() for run in runs] == [301, 0]
    begins = [run.begin for run in runs if run.begin]
    assert [(NOW - begin).total_seconds() for begin in begins] == [3000, 298]


def test_of_the_oldest_of_ten_nobody_remembers_the_begin() -> None:
    incidents = [incident(attempt=number) for number in range(20, 10, -1)]
    timeline = timeline_of(job(incidents=incidents, attempt=attempt(number=21)), NOW)
    assert [run.begin is None for run in timeline.runs] == [True] + [False] * 10
    assert "Older interruptions than the last 10" in plain(timeline_page(timeline))


def test_an_attempt_that_has_just_ended_is_told_once() -> None:
    stopping = attempt(number=1, state="Stopping", endedAt=at(-301), reason="ProcessFailed")
    assert [run.attempt for run in timeline_of(job(attempt=stopping), NOW).runs] == [1]


def test_a_finished_job_ends_when_it_finished() -> None:
    done = job(
        attempt=attempt(state="Closed", endedAt=at(-60), reason="Succeeded"),
        finishedAt=at(-60),
        phase="Succeeded",
    )
    timeline = timeline_of(done, NOW)
    assert (NOW - timeline.end).total_seconds() == 60
    assert timeline.runs[-1].outcome == "Succeeded"


def test_the_waterfall_in_a_terminal() -> None:
    assert plain(timeline_page(timeline_of(job(), NOW))) == (
        "lab/gpt  2026-01-02 11:00:00 to 2026-01-02 12:00:00 UTC (1 h), 1 interruption, "
        "goodput 90.0%\n"
        "\n"
        "Attempts\n"
        "    1  ········████████████████████████████████████····   44 min 59 s  ProcessFailed\n"
        "    2  ············································████    4 min 58 s  Running\n"
        "\n"
        "Interruption of attempt 1: ProcessFailed, 2026-01-02 11:54:59, 15 s\n"
        "  detection   ███·············································  1.0 s\n"
        "  placement   ···█············································  0.0 s\n"
        "  forming     ···███··········································  1.0 s\n"
        "  start       ······████······································  1.0 s\n"
        "  first step  ·········██████████████████████████·············  8.0 s\n"
        "  catching up ···································█████████████  4.0 s\n"
        "  First cause: rank 3, worker 1, pod gpt-1-0, node node3.\n"
        "  rank 3 ended with exit code 1\n"
        "  RuntimeError: NCCL\n"
        "  Decision: RestartProcesses: all 4 workers have kept their pods.\n"
        "  Its price: 28.0 s of accelerator time and 5 steps to be trained again (lost_work "
        "16.0 s, recovery 8.0 s, detection 4.0 s).\n"
    )


def test_a_job_that_has_not_run_leads_to_explain() -> None:
    new = job(attempt=None, incidents=[])
    assert plain(timeline_page(timeline_of(new, NOW))) == (
        "lab/gpt has not run yet: kubectl goodput explain gpt\n"
    )


@pytest.mark.parametrize(
    "broken",
    [
        job(),
        job(incidents=[incident(faultAt=None)]),
        job(incidents=[incident(faultAt=at(10**9))]),
        job(startedAt=None, incidents=[incident(**{field: None for _, field in []})]),
        job(attempt=attempt(runningAt=at(10**8), endedAt=at(0))),
        job(incidents=[incident(caughtUpAt=at(10**9))]),
    ],
)
def test_each_bar_is_in_its_frame_and_at_least_one_wide(broken: Job) -> None:
    for one in timeline_page(timeline_of(broken, NOW)):
        texts = [span.text for span in one.spans if set(span.text) & set("█·")]
        if texts:
            assert len("".join(texts)) == WIDTH
            assert "█" in "".join(texts)


def test_json_is_for_programs() -> None:
    told = json.loads(timeline_json(timeline_of(job(), NOW)))
    assert told["job"] == "gpt"
    assert told["attempts"][1] == {
        "attempt": 2,
        "begin": at(-298),
        "end": at(0),
        "outcome": "Running",
    }
    [one] = told["interruptions"]
    assert one["acceleratorMilliseconds"] == {
        "lost_work": 16000,
        "detection": 4000,
        "recovery": 8000,
    }
    assert one["stages"][0] == {
        "stage": "detection",
        "begin": at(-301),
        "end": at(-300),
        "seconds": 1.0,
    }
    assert told["ledger"]["acceleratorMilliseconds"]["productive"] == 9_000_000


def test_what_goes_on_has_no_end_in_json_and_csv() -> None:
    timeline = timeline_of(job(incidents=[incident(**OPEN)], attempt=None), NOW)
    stage = json.loads(timeline_json(timeline))["interruptions"][0]["stages"][-1]
    assert stage["end"] is None
    assert stage["seconds"] == 300.0
    assert timeline_csv(timeline).splitlines()[-1] == f"1,stage,placement,{at(-300)},,300.000,"


def test_csv_has_a_row_for_each_attempt_interruption_and_stage() -> None:
    rows = list(csv.DictReader(io.StringIO(timeline_csv(timeline_of(job(), NOW)))))
    assert tuple(rows[0]) == CSV_COLUMNS
    kinds = [row["kind"] for row in rows]
    assert kinds == ["attempt"] * 2 + ["interruption"] + ["stage"] * len(STAGES)
    assert rows[2]["accelerator_seconds"] == "28.000"
    assert float(rows[2]["seconds"]) == sum(float(row["seconds"]) for row in rows[3:])


@pytest.mark.parametrize("name", ["=HYPERLINK(0)", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(name: str) -> None:
    text = timeline_csv(timeline_of(job(incidents=[incident(reason=name)]), NOW))
    cells = [row["name"] for row in csv.DictReader(io.StringIO(text))]
    assert f"'{name}" in cells
    assert name not in cells
