"""How far a job is, how fast, and where its time went."""

from datetime import timedelta
from typing import Any

import pytest

from goodput_operator.cli.page import plain
from goodput_operator.cli.status import eta, stale, status_page
from goodput_operator.cli.words import PHASES
from tests.unit.cli.conftest import NOW, at, attempt, condition, job


def shown(*, steps: int | None = None, **changes: Any) -> str:
    return plain(status_page(job(**changes), NOW, steps))


def test_the_whole_status_of_a_job_that_trains() -> None:
    assert shown(steps=2000) == (
        "lab/gpt trains (AllProcessesStarted)\n"
        "\n"
        "Workers     4 of 4 train\n"
        "Attempt     2, Running since 2026-01-02 11:55:02 (4 min 58 s ago), from step 100\n"
        "Step        1,410 of 2,000, 500 ms each (2.0/s), finished 2.0 s ago\n"
        "            ████████████████████████████░░░░░░░░░░░░ 70.5%\n"
        "ETA         2026-01-02 12:04:53, in 4 min 53 s at this pace if nothing breaks\n"
        "Checkpoint  step 1,400, 12 s ago (verified); a fault now would cost 10 steps\n"
        "Restarts    1; the last interruption: ProcessFailed in attempt 1\n"
        "\n"
        "Where the time went\n"
        "90.0% of 2.8 h was productive (4 accelerators × time since its creation)\n"
        "████████████████████████████████████       90.0%      2.5 h   productive   "
        "training that a checkpoint keeps\n"
        "██                                          6.0%   10.0 min   lost_work    "
        "steps that were lost and trained again\n"
        "█                                           3.0%    5.0 min   recovery     "
        "from a decision until all processes ran again\n"
        "▏                                           1.0%    100.0 s   queued       "
        "waiting for room\n"
        "40.0 s more is settled by the next checkpoint.\n"
    )


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_told_in_words(phase: str) -> None:
    assert shown(phase=phase).startswith(f"lab/gpt {PHASES[phase]}")


def test_a_phase_of_a_newer_operator_is_told_as_it_is() -> None:
    assert shown(phase="Dreaming", reason="").startswith("lab/gpt is Dreaming\n")


def test_without_the_number_of_steps_the_eta_says_what_is_missing() -> None:
    text = shown()
    assert "Step        1,410, 500 ms each (2.0/s), finished 2.0 s ago\n" in text
    assert "not known: say --steps N, or annotate goodput.training/total-steps=N\n" in text
    assert "goodput.training/total-steps=N" in text
    assert "░" not in text


def test_the_number_of_steps_is_said_by_the_flag_before_the_annotation() -> None:
    annotations = {"goodput.training/total-steps": "2820"}
    assert "1,410 of 2,820" in shown(annotations=annotations)
    assert "1,410 of 5,640" in shown(annotations=annotations, steps=5640)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"phase": "Recovering"}, "not known while no step is finished", id="down"),
        pytest.param(
            {"conditions": [condition("Progressing", "False", "StandsStill")]},
            "not known while no step is finished",
            id="it stands still",
        ),
        pytest.param(
            {"progress": {"step": 5}}, "not known before a step was timed", id="no pace yet"
        ),
        pytest.param(
            {"progress": {"step": 5, "stepMilliseconds": -1}},
            "not known before a step was timed",
            id="a pace that is none",
        ),
        pytest.param({"progress": {"step": 2000}}, "all steps are done", id="at its end"),
        pytest.param({"progress": {"step": 10**9}}, "all steps are done", id="past its end"),
        pytest.param({"finishedAt": at(-5)}, "finished 2026-01-02 11:59:55", id="finished"),
        pytest.param(
            {"progress": {"step": -(10**15), "stepMilliseconds": 10**6}},
            "not in this age of the world",
            id="never",
        ),
    ],
)
def test_an_eta_is_told_or_why_there_is_none(changes: dict[str, Any], words: str) -> None:
    assert eta(job(**changes), 2000, NOW) == words


@pytest.mark.parametrize(
    ("milliseconds", "pace"),
    [
        (1, "1 ms each (1000.0/s)"),
        (999, "999 ms each (1.0/s)"),
        (1000, "1.0 s each (1.0/s)"),
        (90_000, "1 min 30 s each (40/h)"),
    ],
)
def test_a_pace_is_told_both_ways(milliseconds: int, pace: str) -> None:
    assert pace in shown(progress={"step": 1, "stepMilliseconds": milliseconds})


def test_a_job_that_has_shown_nothing_says_so() -> None:
    text = shown(progress={}, checkpoint={}, attempt=None, ledger={}, incidents=[], recovery={})
    assert "Attempt     none yet\n" in text
    assert "Step        none has been reported\n" in text
    assert "Checkpoint  none is known to be durable\n" in text
    assert "Restarts    0\n" in text
    assert text.endswith("Where the time went\nNothing is accounted for yet.\n")


def test_before_it_trains_what_counts_is_who_has_a_node() -> None:
    text = shown(workers={"wanted": 4, "bound": 3, "connected": 2, "training": 0})
    assert "Workers     3 of 4 have a node, 2 are connected\n" in text


def test_an_attempt_that_has_ended_does_not_run_on() -> None:
    ended = attempt(state="Closed", endedAt=at(-60), reason="Succeeded")
    text = shown(attempt=ended, finishedAt=at(-60), phase="Succeeded")
    assert "Attempt     2, ended 1 min ago (Succeeded)\n" in text


def test_a_checkpoint_of_a_tracker_file_is_not_called_verified() -> None:
    text = shown(checkpoint={"lastDurableStep": 1410}, progress={"step": 1410})
    assert "Checkpoint  step 1,410 (seen in a tracker file, not verified)\n" in text


def test_an_operator_that_writes_no_more_is_told_of() -> None:
    ledger = {"acceleratorMilliseconds": {"productive": 1}, "accountedUntil": at(-600)}
    assert "The operator wrote the last of this 10 min ago: is it running?" in shown(ledger=ledger)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="it has just written"),
        pytest.param({"phase": "Queued"}, id="of a job that waits nothing is written"),
        pytest.param({"ledger": {}}, id="nothing was ever written"),
        pytest.param({"spec": {"managedBy": "a/b"}}, id="the job is not ours"),
    ],
)
def test_an_operator_that_has_nothing_to_write_is_not_blamed(changes: dict[str, Any]) -> None:
    old = {"acceleratorMilliseconds": {}, "accountedUntil": at(-600)}
    known = {"ledger": old} if changes and "ledger" not in changes else {}
    assert stale(job(**{**known, **changes}), NOW) == ""


def test_a_clock_that_is_behind_the_clusters_does_no_harm() -> None:
    behind = NOW - timedelta(hours=1)
    text = plain(status_page(job(), behind, 2000))
    assert "finished just now" in text
    assert "-" not in text.split("Where")[0].replace("2026-01-02", "")


@pytest.mark.parametrize("step", [-5, 0, 2000, 10**12])
def test_a_bar_stays_in_its_frame_whatever_step_is_told(step: int) -> None:
    bars = [one for one in shown(steps=2000, progress={"step": step}).splitlines() if "%" in one]
    assert bars[0].strip().split()[0].replace("█", "").replace("░", "") == ""


def test_on_a_narrow_terminal_the_causes_go_without_their_words() -> None:
    many = {"productive": 9, "checkpoint_stall": 80_000_000_000, "lost_work": 5}
    page = status_page(job(ledger={"acceleratorMilliseconds": many}), NOW, 2000, room=80)
    ledger = plain(page).partition("Where the time went")[2]
    assert "checkpoint_stall" in ledger
    assert "training held up" not in ledger
    assert all(len(one) <= 80 for one in plain(page).splitlines())
    assert "training held up" in plain(
        status_page(job(ledger={"acceleratorMilliseconds": many}), NOW)
    )
