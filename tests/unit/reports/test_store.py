"""What is kept of an agent's words, whom they wake, and how long an answer is held."""

from dataclasses import replace
from datetime import timedelta

import pytest

from goodput.protocol import (
    Commit,
    Disk,
    ProcessExit,
    Progress,
    Run,
    SyncAnswer,
    SyncRequest,
)
from goodput_operator import names
from goodput_operator.observe.agents import AgentView, JobKey, PodIdentity, Vigil, pod_identity
from goodput_operator.reports.store import AgentStore
from tests.unit.reports.agents import KEY, START, pod, request

RUN = SyncAnswer(kind="run", revision="r1")
STOP = SyncAnswer(kind="stop", revision="r2")
WORKER = pod()


class Store(AgentStore):
    """A store that remembers whom it woke."""

    def __init__(self) -> None:
        self.woken: list[JobKey] = []
        super().__init__(self.woken.append)


def reported(*requests: SyncRequest) -> Store:
    store = Store()
    for one in requests:
        store.report(pod(one.slot), one, START)
    store.woken.clear()
    return store


def running(**changes: object) -> Run:
    return replace(Run(attempt=3, started_at=500, alive=8), **changes)


def test_the_first_word_of_an_agent_wakes_its_job() -> None:
    store = Store()
    assert store.report(pod(), request(), START)
    assert store.woken == [KEY]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(request(2), id="a heartbeat"),
        pytest.param(request(2, seen_revision="r9", hold_seconds=5.0), id="a poll"),
        pytest.param(request(2, free_port=4001), id="another free port"),
        pytest.param(
            request(2, run=running(progress=Progress(step=7, step_at=9, step_milliseconds=4))),
            id="a step",
        ),
        pytest.param(
            request(2, run=running(progress=Progress(tracker_step_at=9))), id="a tracker's time"
        ),
        pytest.param(
            request(
                2,
                run=running(
                    progress=Progress(
                        checkpoint_stall_milliseconds=9,
                        data_stall_milliseconds=9,
                        committed_stall_milliseconds=9,
                    )
                ),
            ),
            id="how long the training has stood still",
        ),
    ],
)
def test_nobody_is_woken_by(second: SyncRequest) -> None:
    store = reported(request(1))
    assert store.report(pod(), second, START)
    assert store.views(KEY)[pod().uid].request is second
    assert not store.woken


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(request(2, run=running(alive=7)), id="a process that died"),
        pytest.param(
            request(2, run=running(exits=(ProcessExit(rank=0, at=900, exit_code=1),))),
            id="an exit's evidence",
        ),
        pytest.param(request(2, run=running(attempt=4)), id="the next attempt"),
        pytest.param(request(2, run=running(stopping=True)), id="a stop under way"),
        pytest.param(request(2, run=running(succeeded=True)), id="success"),
        pytest.param(
            request(2, run=running(progress=Progress(committed=Commit(3, 100)))), id="a commit"
        ),
        pytest.param(
            request(2, run=running(progress=Progress(first_step_at=900))), id="the first step"
        ),
        pytest.param(
            request(2, run=running(progress=Progress(tracker_step=8))), id="a tracker's step"
        ),
        pytest.param(request(2, free_port=0), id="the loss of its free port"),
        pytest.param(request(2, disk=Disk(problem="read-only")), id="a bad disk"),
        pytest.param(request(2, address="10.0.0.8"), id="another address"),
    ],
)
def test_the_job_is_woken_by(second: SyncRequest) -> None:
    store = reported(request(1))
    store.report(pod(), second, START)
    assert store.woken == [KEY]


def test_the_start_of_the_first_attempt_wakes_the_job() -> None:
    store = reported(request(1, run=None))
    store.report(pod(), request(2), START)
    assert store.woken == [KEY]


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(request(4, run=running(alive=0)), id="an older request"),
        pytest.param(request(5, run=running(alive=0)), id="the same sequence number again"),
        pytest.param(request(6, run=running(attempt=2, alive=0)), id="an older attempt"),
        pytest.param(request(6, run=None), id="no attempt after one"),
    ],
)
def test_old_news_changes_nothing(old: SyncRequest) -> None:
    store = reported(request(5))
    before = dict(store.views(KEY))
    assert not store.report(pod(), old, START + timedelta(seconds=60))
    assert store.views(KEY) == before
    assert not store.woken


def test_an_attempt_that_nobody_has_ordered_is_not_believed_and_silences_nobody() -> None:
    store = reported(request(5))
    store.set_answers(KEY, {pod().uid: replace(RUN, attempt=3)})
    before = dict(store.views(KEY))
    assert not store.report(pod(), request(6, run=running(attempt=4, alive=0)), START)
    assert store.views(KEY) == before
    assert store.report(pod(), request(7), START)
    ordered = replace(RUN, revision="r4", attempt=4)
    store.set_answers(KEY, {pod().uid: ordered})
    assert store.report(pod(), request(8, run=running(attempt=4)), START)


def test_the_age_of_a_report_counts_from_the_newest_one_and_contact_from_the_first() -> None:
    store = Store()
    store.report(pod(), request(1), START)
    store.report(pod(), request(2), START + timedelta(seconds=5))
    view = store.views(KEY)[pod().uid]
    assert (view.first_seen_at, view.received_at) == (START, START + timedelta(seconds=5))


def test_a_report_from_before_the_clock_was_put_back_is_as_new_as_can_be() -> None:
    store = Store()
    store.report(pod(), request(1), START)
    store.heard_by(KEY, START - timedelta(hours=1))
    view = store.views(KEY)[pod().uid]
    assert view.first_seen_at == view.received_at == START - timedelta(hours=1)
    store.heard_by(KEY, START)
    assert store.views(KEY)[pod().uid] == view, "it grows old from here"


@pytest.mark.parametrize(
    ("at_ms", "age_seconds"),
    [
        pytest.param(9_000, 1, id="is its age before the report"),
        pytest.param(99_000, 0, id="is never after the report"),
        pytest.param(-(2**53), 0, id="is the report's when no machine can be that old"),
    ],
)
def test_the_time_of_an_event_on_the_agents_clock(at_ms: int, age_seconds: int) -> None:
    view = AgentView(request(10), received_at=START, first_seen_at=START)
    assert view.time_of(at_ms) == START - timedelta(seconds=age_seconds)


def test_agents_of_other_jobs_are_not_seen() -> None:
    store = reported(request())
    assert store.views(("lab", "other")) == {}


# --- held polls ---------------------------------------------------------------------------


class Poller:
    """An agent that waits for news."""

    def __init__(self, store: AgentStore, who: PodIdentity = WORKER) -> None:
        self.store, self.who, self.heard = store, who, list[SyncAnswer]()

    def poll(self, sequence: int, seen: str = "", hold_seconds: float = 5.0) -> "Poller":
        what = request(sequence, slot=self.who.slot, seen_revision=seen, hold_seconds=hold_seconds)
        self.store.report(self.who, what, START)
        due = self.store.hold(self.who, what, START, self.heard.append)
        if due is not None:
            self.heard.append(due)
        return self


def test_an_answer_that_was_not_seen_is_given_at_once() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    assert Poller(store).poll(1).heard == [RUN]


def test_a_poll_that_has_seen_its_answer_is_held_until_another_is_due() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    poller = Poller(store).poll(1, seen="r1")
    assert poller.heard == []
    store.set_answers(KEY, {pod().uid: STOP})
    assert poller.heard == [STOP]


def test_before_anything_is_decided_a_poll_is_held_and_then_told_to_hold() -> None:
    store = Store()
    poller = Poller(store).poll(1, seen="from the operator before")
    store.expire(START + timedelta(seconds=4.9))
    assert poller.heard == []
    store.expire(START + timedelta(seconds=5))
    assert [answer.kind for answer in poller.heard] == ["hold"]
    store.expire(START + timedelta(seconds=60))
    assert len(poller.heard) == 1


def test_nobody_is_held_longer_than_five_seconds_whatever_he_asks() -> None:
    store = Store()
    poller = Poller(store).poll(1, hold_seconds=3600)
    store.expire(START + timedelta(seconds=5))
    assert len(poller.heard) == 1


def test_a_request_that_does_not_want_to_wait_does_not() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    assert Poller(store).poll(1, seen="r1", hold_seconds=0).heard == [RUN]


def test_an_acknowledgement_of_the_same_revision_wakes_nobody_and_travels_later() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    poller = Poller(store).poll(1, seen="r1")
    acknowledged = replace(RUN, durable=Commit(3, 100))
    store.set_answers(KEY, {pod().uid: acknowledged})
    assert poller.heard == []
    store.expire(START + timedelta(seconds=5))
    assert poller.heard == [acknowledged]


def test_a_newer_request_of_the_pod_releases_the_poll() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    poller = Poller(store).poll(1, seen="r1")
    urgent = Poller(store).poll(2, hold_seconds=0)
    assert poller.heard == [RUN]
    assert urgent.heard == [RUN]


def test_a_late_poll_is_answered_at_once_and_takes_nobodys_place() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    poller = Poller(store).poll(2, seen="r1")
    late = Poller(store).poll(1, seen="r1")
    assert late.heard == [RUN]
    assert poller.heard == []


def test_only_the_pods_whose_answer_changed_are_released() -> None:
    store = Store()
    everyone = [pod(slot) for slot in range(3)]
    store.set_answers(KEY, {who.uid: RUN for who in everyone})
    pollers = [Poller(store, who).poll(1, seen="r1") for who in everyone]
    assert store.held_polls == 3
    store.set_answers(KEY, {everyone[0].uid: RUN, everyone[1].uid: STOP})
    assert [poller.heard for poller in pollers] == [[], [STOP], []]
    store.expire(START + timedelta(seconds=5))
    assert pollers[2].heard[0].kind == "hold"  # it was no longer mentioned


def test_a_pod_that_is_gone_is_forgotten_and_its_poll_let_go() -> None:
    store = Store()
    poller = Poller(store).poll(1)
    store.forget(pod().uid)
    store.forget("never heard of")
    assert len(poller.heard) == 1
    assert store.views(KEY) == {}
    assert len(store) == 0


def test_after_a_change_of_leaders_nothing_of_before_is_believed() -> None:
    store = Store()
    store.set_answers(KEY, {pod().uid: RUN})
    poller = Poller(store).poll(1, seen="r1")
    store.clear()
    assert len(poller.heard) == 1
    assert Poller(store).poll(1, seen="r1").heard == []
    assert store.views(KEY)[pod().uid].request.sequence == 1


def test_a_thousand_silent_heartbeats_leave_one_report() -> None:
    store = Store()
    for sequence in range(1, 1001):
        store.report(pod(), request(sequence), START)
    assert len(store) == 1
    assert store.woken == [KEY]


# --- who may speak ------------------------------------------------------------------------

RAW = {
    "metadata": {
        "namespace": "lab",
        "name": "gpt-0-1",
        "uid": "uid-gpt-0-1",
        "labels": {
            names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
            names.LABEL_JOB: "gpt",
            names.LABEL_SLOT: "0",
            names.LABEL_INCARNATION: "1",
        },
    },
    "status": {"phase": "Running"},
}


def labelled(**labels: str) -> dict[str, object]:
    return {**RAW, "metadata": {**RAW["metadata"], "labels": labels}}


def test_a_worker_pod_of_ours_may_speak_even_while_it_is_being_deleted() -> None:
    deleting = {**RAW["metadata"], "deletionTimestamp": "2026-01-02T03:04:05Z"}
    assert pod_identity(RAW) == pod()
    assert pod_identity({**RAW, "metadata": deleting}) == pod()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param({**RAW, "status": {"phase": "Succeeded"}}, id="has succeeded"),
        pytest.param({**RAW, "status": {"phase": "Failed"}}, id="has failed"),
        pytest.param(labelled(), id="has no labels"),
        pytest.param(
            {
                **RAW,
                "metadata": {
                    **RAW["metadata"],
                    "labels": {**RAW["metadata"]["labels"], names.LABEL_SLOT: "first"},
                },
            },
            id="has a slot that is no number",
        ),
    ],
)
def test_no_pod_may_speak_that(raw: dict[str, object]) -> None:
    assert pod_identity(raw) is None


def test_the_first_word_of_an_agent_that_knows_it_must_stop_wakes_the_job() -> None:
    store = reported(request(1))
    store.set_answers(KEY, {WORKER.uid: STOP})
    store.report(WORKER, request(2, seen_revision=STOP.revision), START)
    assert store.woken == [KEY]
    store.report(WORKER, request(3, seen_revision=STOP.revision), START)
    assert store.woken == [KEY]


def watched(*slots: int, limit_seconds: float = 12.0) -> Store:
    """A store over whose agents a vigil is kept; all were heard of at the start."""
    store = reported(*(request(slot=slot) for slot in slots))
    vigil = Vigil(frozenset(pod(slot).uid for slot in slots), limit_seconds)
    store.keep_vigil(KEY, vigil, START)
    return store


def test_an_agent_that_falls_silent_wakes_its_job_once() -> None:
    store = watched(0, 1)
    store.report(pod(0), request(2, slot=0), START + timedelta(seconds=10))
    store.notice_silence(START + timedelta(seconds=12))
    assert store.woken == []
    store.notice_silence(START + timedelta(seconds=12.25))
    store.notice_silence(START + timedelta(seconds=12.5))
    assert store.woken == [KEY]


def test_a_vigil_goes_on_for_as_long_as_all_speak() -> None:
    store = watched(0, 1)
    for second in range(0, 100, 5):
        for slot in (0, 1):
            store.report(
                pod(slot), request(2 + second, slot=slot), START + timedelta(seconds=second)
            )
        store.notice_silence(START + timedelta(seconds=second))
    assert store.woken == []
    store.notice_silence(START + timedelta(seconds=95 + 12.25))
    assert store.woken == [KEY]


@pytest.mark.parametrize("end", ["taken back", "forgotten", "led by another"])
def test_silence_wakes_nobody_when_the_vigil_is_over(end: str) -> None:
    store = watched(0)
    match end:
        case "taken back":
            store.keep_vigil(KEY, None, START)
        case "forgotten":
            store.forget(pod(0).uid)
        case _:
            store.clear()
    store.notice_silence(START + timedelta(seconds=60))
    assert store.woken == []


def test_a_clock_that_is_put_back_does_not_hide_a_silence() -> None:
    store = watched(0)
    store.notice_silence(START + timedelta(seconds=1))
    back = START - timedelta(seconds=600)
    store.notice_silence(back)
    store.notice_silence(back + timedelta(seconds=12.25))
    assert store.woken == [KEY]
