"""The published figures, shown as they are, and as unknown where nobody can know them."""

import json
from fractions import Fraction
from typing import Any

import pytest

from goodput_operator.cli.figures import (
    Throughput,
    badput_rows,
    figure_lines,
    figures_of_job,
    throughput_of,
    useful_steps,
)
from goodput_operator.cli.job import MOST_LINEAGE
from goodput_operator.cli.page import plain
from goodput_operator.cli.status import status_json
from tests.unit.cli.conftest import NOW, condition, job

GPU = {"resources": {"limits": {"nvidia.com/gpu": 8}}}
TEMPLATE = {"spec": {"containers": [{"name": "trainer", **GPU}, {"name": "sidecar"}]}}
WORK = {"tokensPerStep": 1_000_000, "flopsPerToken": 10**10, "acceleratorPeakTeraflops": 1000}
"""Ten petaflops a step; 32 accelerators do 32 in a second at their peak."""


def known(**changes: Any) -> Any:
    """1,000 steps were kept in 32,000 productive accelerator-seconds, 1,000 s on 32 of them."""
    checkpoint = kept(lastDurableStep=1100, lineage=[link(2, 1000), link(1, 100)])
    ledger = {
        "acceleratorMilliseconds": {
            "productive": 32_000_000,
            "queued": 4_000_000,
            "startup": 4_000_000,
        },
        "accelerators": 32,
    }
    spec = {"work": WORK, "template": TEMPLATE}
    return {"spec": spec, "checkpoint": checkpoint, "ledger": ledger} | changes


def kept(**checkpoint: Any) -> dict[str, Any]:
    """A checkpoint of the SDK."""
    return {"verified": True, **checkpoint}


def link(attempt: int, step: int) -> dict[str, int]:
    return {"attempt": attempt, "origin": attempt - 1, "step": step}


def test_all_figures_of_a_job_that_says_what_a_step_is() -> None:
    assert plain(figure_lines(job(**known()))) == (
        "\n"
        "What others call it\n"
        "ETTR                     80.0%   training ÷ time that was not suspended (Meta)\n"
        "ETTR without queue       88.8%   the same since it had its machines (ByteRobust)\n"
        "scheduling goodput       90.0%   time allocated ÷ time wanted\n"
        "runtime goodput          88.8%   productive ÷ time allocated\n"
        "program goodput          31.2%   ideal time at the peak of FLOPs ÷ productive\n"
        "MPG                      25.0%   the product of these three (Google)\n"
        "throughput           2,000,000   tokens/s at this pace\n"
        "kept throughput         31,250   tokens/s of an accelerator, while productive\n"
        "MFU                      62.5%   part of the peak of FLOPs at this pace (PaLM)\n"
    )


def test_what_nobody_says_is_unknown() -> None:
    text = plain(figure_lines(job()))
    assert max(len(line) for line in text.splitlines()) <= 80
    for name in ("program goodput", "MPG", "throughput", "MFU"):
        assert f"\n{name:<18}   unknown   " in text
    assert "needs spec.work.flopsPerToken" in text
    assert "needs spec.work.tokensPerStep" in text


def test_a_job_without_any_time_has_no_figures() -> None:
    assert figure_lines(job(ledger={})) == ()


def test_the_batch_is_a_throughput_too() -> None:
    found = throughput_of(job(**known(spec={"parallelism": {"globalBatchSize": 512}})))
    assert found == Throughput("samples", Fraction(1024), Fraction(16), None)


def test_of_a_smaller_gang_those_who_train_count() -> None:
    three = {"wanted": 4, "bound": 3, "training": 3}
    found = throughput_of(job(**known(workers=three)))
    assert found is not None
    assert found.utilization == Fraction(20, 24)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"phase": "Recovering"}, id="one that does not train now"),
        pytest.param({"progress": {"step": 5}}, id="one whose steps were not timed"),
        pytest.param({"progress": {"step": 5, "stepMilliseconds": 0}}, id="one without a pace"),
    ],
)
def test_without_a_present_pace_there_is_no_present_throughput(changes: dict[str, Any]) -> None:
    found = throughput_of(job(**known(**changes)))
    assert found is not None
    assert (found.now, found.utilization) == (None, None)
    assert found.kept == 31_250


def test_amounts_that_nobody_can_read_are_no_accelerators() -> None:
    odd = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "many"}}}]}}
    found = throughput_of(job(**known(spec={"work": WORK, "template": odd})))
    assert found is not None
    assert found.utilization is None


def test_steps_of_a_former_job_are_not_this_ones() -> None:
    assert useful_steps(job(**known())) == 1000


def test_what_a_success_has_made_last_counts() -> None:
    done = {"conditions": [condition("Succeeded", "True")], "progress": {"step": 1105}}
    assert useful_steps(job(**known(phase="Succeeded", **done))) == 1005


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(kept(lastDurableStep=9), id="the beginning is not known"),
        pytest.param(kept(lineage=[link(1, 0)]), id="nothing durable is known"),
        pytest.param(
            kept(
                lastDurableStep=900,
                lineage=[link(n, n) for n in range(MOST_LINEAGE + 1, 1, -1)],
            ),
            id="the beginning is forgotten",
        ),
        pytest.param(kept(lastDurableStep=9, lineage=[link(1, 10)]), id="it fell back below it"),
        pytest.param(
            {"lastDurableStep": 9, "lineage": [link(1, 0)]}, id="only a tracker file tells"
        ),
    ],
)
def test_without_useful_steps_the_program_goodput_is_unknown(checkpoint: dict[str, Any]) -> None:
    told = job(**known(checkpoint=checkpoint))
    assert useful_steps(told) is None
    assert figures_of_job(told).program is None
    assert figures_of_job(told).mpg is None


def test_the_badput_types_are_told_greatest_first() -> None:
    assert badput_rows({"productive": 6, "queued": 1, "lost_work": 3}) == [
        ("WASTED_PROGRESS_FROM_DISRUPTION", "30.0%"),
        ("OTHER", "10.0%"),
    ]


def test_programs_get_all_of_it_under_stable_names() -> None:
    told = json.loads(
        status_json(job(**known(), annotations={"goodput.training/total-steps": "2000"}), NOW)
    )
    assert told["figures"] == {
        "goodput": 0.8,
        "ettr": 0.8,
        "ettrWithoutQueue": 0.888889,
        "schedulingGoodput": 0.9,
        "runtimeGoodput": 0.888889,
        "programGoodput": 0.3125,
        "mpg": 0.25,
        "badput": {"OTHER": 0.1, "PROGRAM_STARTUP": 0.1},
        "throughput": {
            "unit": "tokens",
            "perSecond": 2_000_000,
            "keptPerAcceleratorSecond": 31_250,
        },
        "modelFlopsUtilization": 0.625,
    }
    assert told["eta"] == "2026-01-02T12:04:53.000Z"
    assert told["ledger"]["acceleratorMilliseconds"]["queued"] == 4_000_000


def test_programs_see_what_is_unknown() -> None:
    told = json.loads(status_json(job(phase="Recovering", attempt={}), NOW))
    assert (told["eta"], told["totalSteps"], told["attempt"]) == (None, None, None)
    assert told["figures"]["mpg"] is None
    assert told["figures"]["throughput"] is None
