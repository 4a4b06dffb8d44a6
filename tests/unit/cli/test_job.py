"""What is read from a job is what the operator writes; and what anybody else may have."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator import names
from goodput_operator.api.base import format_time
from goodput_operator.api.status import (
    AttemptState,
    AttemptStatus,
    Bucket,
    CheckpointStatus,
    Condition,
    Decision,
    Exclusion,
    Incident,
    LedgerStatus,
    ProgressStatus,
    RecoveryStatus,
    TrainingJobStatus,
    WorkersStatus,
)
from goodput_operator.cli import job as read
from goodput_operator.cli.explain import explain_page
from goodput_operator.cli.job import read_event, read_job, read_pod
from goodput_operator.cli.page import plain
from goodput_operator.cli.status import status_page
from goodput_operator.cli.timeline import timeline_csv, timeline_json, timeline_of, timeline_page
from goodput_operator.cli.top import top_page
from goodput_operator.cli.waterfall import timeline_html
from tests.unit.cli.conftest import NOW, raw_job

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

WRITTEN = TrainingJobStatus(
    phase="Running",
    reason="Why",
    conditions=[
        Condition(type="Running", status="True", last_transition_time=WHEN, reason="R", message="m")
    ],
    workers=WorkersStatus(wanted=8, bound=7, connected=6, training=5),
    attempt=AttemptStatus(
        number=3,
        state=AttemptState.RUNNING,
        opened_at=WHEN,
        published_at=WHEN,
        running_at=WHEN,
        first_step_at=WHEN,
        ended_at=WHEN,
        world_size=64,
        restore_step=1200,
        reason="R",
        message="m",
        save_by=WHEN,
    ),
    progress=ProgressStatus(step=1410, step_milliseconds=412, observed_at=WHEN, best_step=1500),
    checkpoint=CheckpointStatus(last_durable_step=1400, time=WHEN, verified=True),
    recovery=RecoveryStatus(total=2, not_before=WHEN),
    exclusions=[Exclusion(node="node1", until=WHEN, reason="NodeLost")],
    ledger=LedgerStatus(
        accelerator_milliseconds={bucket: 1 + n for n, bucket in enumerate(Bucket)},
        unsettled_milliseconds=40,
        accelerators=64,
        accounted_until=WHEN,
    ),
    incidents=[
        Incident(
            attempt=2,
            reason="NodeLost",
            planned=True,
            charged=True,
            slot=1,
            rank=9,
            pod="p",
            node="n",
            message="m",
            decision=Decision.SHRINK,
            why="w",
            fault_at=WHEN,
            decided_at=WHEN,
            scheduled_at=WHEN,
            published_at=WHEN,
            running_at=WHEN,
            first_step_at=WHEN,
            caught_up_at=WHEN,
            step=5,
            restore_step=4,
            steps_lost=1,
            accelerator_milliseconds={Bucket.RECOVERY: 7},
        )
    ],
    queued_since=WHEN,
    started_at=WHEN,
    finished_at=WHEN,
)


def written() -> read.Job:
    dumped = WRITTEN.model_dump(mode="json", by_alias=True)
    return read_job({"metadata": {}, "spec": {}, "status": dumped})


def test_all_that_the_operator_writes_is_read_by_its_names() -> None:
    job = written()
    assert (job.phase, job.reason) == ("Running", "Why")
    assert job.conditions == {"Running": read.Condition("True", "R", "m", WHEN)}
    assert (job.wanted, job.bound, job.connected, job.training) == (8, 7, 6, 5)
    assert job.attempt == read.Attempt(
        3, "Running", WHEN, WHEN, WHEN, WHEN, WHEN, 64, 1200, "R", "m", WHEN
    )
    assert (job.step, job.step_milliseconds, job.step_at, job.best_step) == (1410, 412, WHEN, 1500)
    assert (job.durable_step, job.durable_at, job.verified) == (1400, WHEN, True)
    assert (job.restarts, job.not_before, job.excluded) == (2, WHEN, ("node1",))
    assert (job.queued_since, job.started_at, job.finished_at) == (WHEN, WHEN, WHEN)


def test_the_ledger_is_read_to_the_millisecond() -> None:
    ledger = written().ledger
    assert list(ledger.buckets) == [bucket.value for bucket in Bucket]
    assert ledger.settled == sum(range(1, len(Bucket) + 1))
    assert (ledger.productive, ledger.unsettled) == (1, 40)
    assert (ledger.accelerators, ledger.accounted_until) == (64, WHEN)
    assert ledger.lost == ledger.settled - 1
    assert ledger.losses[0] == (list(Bucket)[-1].value, len(Bucket))


def test_an_incident_is_read_whole() -> None:
    assert written().incidents == (
        read.Incident(
            *(2, "NodeLost", True, True, 1, 9, "p", "n", "m", "Shrink", "w"),
            *(WHEN, WHEN, WHEN, WHEN, WHEN, WHEN, WHEN),
            *(5, 4, 1, {"recovery": 7}),
        ),
    )
    assert written().incidents[0].cost == 7


def test_a_job_that_was_never_visited_is_one() -> None:
    job = read_job({"metadata": {"name": "a", "namespace": "b"}, "spec": {"workers": 3}})
    assert not job.visited
    assert (job.wanted, job.training, job.incidents, job.ledger.settled) == (3, 0, (), 0)
    assert job.condition("Running").status == "Unknown"


def test_buckets_of_a_newer_operator_come_last_and_count() -> None:
    job = read_job(
        raw_job(ledger={"acceleratorMilliseconds": {"zz_new": 5, "productive": 3, "aa_new": 2}})
    )
    assert list(job.ledger.buckets) == ["productive", "aa_new", "zz_new"]
    assert job.ledger.settled == 10


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1000", 1000),
        (" 1000 ", 1000),
        ("1e3", None),
        ("-1", None),
        ("", None),
        ("٣", None),
        ("9" * 40, None),
    ],
)
def test_the_number_of_steps_is_an_annotation(text: str, steps: int | None) -> None:
    job = read_job(raw_job(annotations={"goodput.training/total-steps": text}))
    assert job.total_steps == steps


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01", "0001-01-01T00:00:00+23:00"]
)
def test_a_time_that_is_none_is_nothing(text: str) -> None:
    assert read_job(raw_job(startedAt=text)).started_at is None


def test_whose_job_it_is() -> None:
    assert read_job(raw_job()).ours
    assert read_job(raw_job(spec={"managedBy": names.MANAGED_BY})).ours
    assert not read_job(raw_job(spec={"managedBy": "kueue.x-k8s.io/multikueue"})).ours


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        pytest.param({"phase": "Running"}, "", id="one that runs has none"),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available",
                    }
                ]
            },
            "has no node: 0/3 nodes are available",
            id="no node",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {
                        "name": "trainer",
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}},
                    }
                ]
            },
            "container trainer: ImagePullBackOff: no such",
            id="no image",
        ),
        pytest.param(
            {"containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]},
            "",
            id="its init containers run",
        ),
        pytest.param(
            {
                "initContainerStatuses": [
                    {"name": "goodput-agent", "state": {"waiting": {"reason": "ErrImagePull"}}}
                ]
            },
            "container goodput-agent: ErrImagePull",
            id="no image of the agent",
        ),
        pytest.param(
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            "Evicted: low on memory",
            id="evicted",
        ),
        pytest.param({"phase": "Failed"}, "has failed", id="failed without a word"),
    ],
)
def test_a_pod_says_what_keeps_it_from_running(status: dict[str, Any], trouble: str) -> None:
    assert read_pod({"metadata": {"name": "a"}, "status": status}).trouble == trouble


def test_an_event_of_any_age_is_read() -> None:
    old = {
        "lastTimestamp": "2026-01-02T12:00:00Z",
        "type": "Warning",
        "reason": "R",
        "message": "m",
    }
    new = {"eventTime": "2026-01-02T12:00:00.000000Z", "involvedObject": {"uid": "u"}}
    assert read_event(old) == read.Event("", NOW, True, "R", "m")
    assert read_event(new) == read.Event("u", NOW, False, "", "")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(format_time(WHEN))
    | st.sampled_from(["Running", "True", "Forming", "Queued", "Recovering", "Failed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KNOWN = WRITTEN.model_dump(mode="json", by_alias=True)


def spoiled(value: Any) -> st.SearchStrategy[Any]:
    """Something of the shape of `value`, of which any part may be something else."""
    if isinstance(value, dict):
        fields = {name: spoiled(part) for name, part in value.items()}
        return st.fixed_dictionaries({}, optional=fields) | JSON
    if isinstance(value, list):
        return st.lists(spoiled(value[0]), max_size=3) | JSON if value else JSON
    return st.just(value) | JSON


@given(st.fixed_dictionaries({}, optional={"spec": JSON, "status": spoiled(KNOWN)}))
def test_whatever_stands_in_a_job_there_is_something_to_say_of_it(raw: dict[str, Any]) -> None:
    job = read_job({"metadata": {"name": "gpt", "namespace": "lab"}, **raw})
    pages = (
        status_page(job, NOW),
        status_page(job, NOW, 10**6),
        explain_page(job, [], [], [], NOW),
        top_page([job], None),
        timeline_page(timeline_of(job, NOW)),
    )
    for page in pages:
        assert plain(page).encode()
    timeline = timeline_of(job, NOW)
    for text in (timeline_json(timeline), timeline_csv(timeline), timeline_html(timeline)):
        assert text.encode("utf-8", "surrogatepass")


@given(JSON, JSON)
def test_whatever_a_pod_or_an_event_is_it_is_read(one: Any, other: Any) -> None:
    read_pod({"metadata": one, "status": other, "spec": one})
    read_event({"series": one, "involvedObject": other, "message": one})
