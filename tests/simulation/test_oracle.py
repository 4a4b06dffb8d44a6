"""The oracle must be able to say no: each promise is shown a history that breaks it."""

from typing import Any

import pytest

from goodput.protocol import Commit
from tests.simulation import oracle
from tests.simulation.history import (
    Committed,
    Ended,
    Entry,
    Harm,
    History,
    Json,
    Led,
    Pruned,
    Reported,
    Rest,
    Restored,
    Started,
    Visited,
    Write,
)
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import simulate

MIDNIGHT = "2026-01-01T00:00:00Z"
TEMPLATE = {"spec": {"containers": [{"name": "trainer", "image": "train:1"}]}}
FIRST = {"slot": 0, "incarnation": 0, "rank": 0}


def attempt(number: int, state: str, **more: Any) -> Json:
    return {
        "number": number,
        "state": state,
        "openedAt": MIDNIGHT,
        "publishedAt": MIDNIGHT,
        "runId": f"job-uid-{number}",
        **more,
    }


def job(version: int = 1, spec: Json | None = None, **status: Any) -> Json:
    metadata = {
        "namespace": "lab",
        "name": "job",
        "uid": "job-uid",
        "generation": 1,
        "resourceVersion": str(version),
        "creationTimestamp": MIDNIGHT,
    }
    whole = {"workers": 1, "template": TEMPLATE, **(spec or {})}
    return {"metadata": metadata, "spec": whole, "status": {"observedGeneration": 1, **status}}


def pod(name: str, uid: str = "pod-uid", owner: str = "job-uid", image: str = "train:1") -> Json:
    owners = [{"kind": "TrainingJob", "uid": owner}] if owner else []
    labels = {"goodput.training/job": "job"}
    return {
        "metadata": {"name": name, "uid": uid, "ownerReferences": owners, "labels": labels},
        "spec": {"nodeName": "node-0", "containers": [{"name": "trainer", "image": image}]},
        "status": {"phase": "Running"},
    }


def wrote(before: Json, after: Json, at: float = 1.0, sent: str | None = None) -> Write:
    """An operator writes the status."""
    version = before["metadata"]["resourceVersion"] if sent is None else sent
    body = {**after, "metadata": {**after["metadata"], "resourceVersion": version}}
    return Write(
        at=at,
        actor="operator-1",
        verb="update",
        plural="trainingjobs",
        namespace="lab",
        name="job",
        subresource="status",
        body=body,
        before=before,
        after=after,
    )


def made(
    obj: Json, actor: str = "somebody", plural: str = "trainingjobs", at: float = 0.0
) -> Write:
    name = obj["metadata"]["name"]
    body = obj if actor.startswith("operator") else None
    return Write(at, actor, "create", plural, "lab", name, body=body, after=obj)


def deleted(obj: Json, uid: str | None = "", actor: str = "operator-1") -> Write:
    """A pod is deleted; `uid`: the precondition, by default the right one."""
    wanted = obj["metadata"]["uid"] if uid == "" else uid
    body = {"preconditions": {"uid": wanted}} if wanted else {}
    return Write(2.0, actor, "delete", "pods", "lab", obj["metadata"]["name"], "", body, obj)


def started(number: int = 1, rank: int = 0, at: float = 1.0, **more: Any) -> Started:
    known: dict[str, Any] = {"workers": 1, "beside": frozenset({number}), **more}
    return Started(
        at, f"pod-uid-{rank}", f"job-{rank}-0", f"job-uid-{number}", number, rank, **known
    )


def ended(cause: str, code: int = 1, number: int = 1, at: float = 2.0) -> Ended:
    return Ended(at, "pod-uid-0", "job-0-0", f"job-uid-{number}", 0, code, cause)


def incident(number: int, **more: Any) -> Json:
    at = MIDNIGHT
    return {"attempt": number, "reason": "Evicted", "faultAt": at, "decidedAt": at, **more}


def recovered(note: str) -> Write:
    """An operator tells the end of an incident."""
    body = {"reason": "Recovered", "note": note, "regarding": {"uid": "job-uid"}}
    return Write(1.0, "operator-1", "create", "events", "lab", "job.1", body=body)


def broken(*entries: Entry) -> dict[str, list[str]]:
    """What the oracle has to say, by promise."""
    found: dict[str, list[str]] = {}
    for violation in oracle.examine(History(list(entries))):
        found.setdefault(violation.promise, []).append(violation.message)
    return found


ONE, RUNNING = job(), job(2, attempt=attempt(1, "Running"), slots=[FIRST])
HEALED = job(
    3, attempt=attempt(2, "Forming", runId=""), slots=[FIRST], recovery={"total": 1, "restarts": []}
)
LEFT_ALONE = [made(ONE), wrote(ONE, RUNNING), started()]


@pytest.mark.parametrize(
    ("promise", "entries", "message"),
    [
        pytest.param(
            "I1",
            [Committed(1, Commit(1, 3)), Restored(2, 2, Commit(1, 9))],
            r"restored Commit\(attempt=1, step=9\), which is not there",
            id="a checkpoint is restored that nobody wrote",
        ),
        pytest.param(
            "I1",
            [
                Committed(1, Commit(1, 3)),
                Restored(2, 2, Commit(1, 3)),
                Committed(3, Commit(1, 6)),
                Restored(4, 3, Commit(1, 6)),
            ],
            "written after attempt 1 had been left at step 3",
            id="what a zombie committed is restored",
        ),
        pytest.param(
            "I1",
            [Committed(1, Commit(1, 3)), Restored(2, 2, Commit(1, 3)), Pruned(3, 1, Commit(1, 3))],
            "deleted what 2 descends from",
            id="a zombie deletes its successor's restore point",
        ),
        pytest.param(
            "I1",
            [started(2, beside=frozenset({1, 2}))],
            r"attempts \[1, 2\] can do harm at once",
            id="two attempts run without a fence",
        ),
        pytest.param(
            "I2",
            [Led(0, "operator-1"), started(workers=2), Rest(500)],
            r"\[0\] of run job-uid-1 ran without the others",
            id="half a gang trains on and on",
        ),
        pytest.param(
            "I2",
            [started(workers=2), started(workers=2)],
            "has rank 0 twice",
            id="a rank is given twice",
        ),
        pytest.param(
            "I2",
            [started(master="a:1"), ended("told"), started(master="b:1")],
            "has two worlds",
            id="a world changes while it runs",
        ),
        pytest.param(
            "I2",
            [made(pod(f"job-0-{one}"), "operator-1", "pods") for one in range(9)],
            "pods were created for 1 reasons",
            id="pods are created without end",
        ),
        pytest.param(
            "I3",
            [wrote(RUNNING, job(3, attempt=attempt(1, "Running"), recovery={"total": 1}))],
            "counted though no attempt was left",
            id="an incident is counted twice",
        ),
        pytest.param(
            "I3",
            [wrote(RUNNING, job(3, attempt=attempt(2, "Forming")))],
            "left and no incident was counted",
            id="an incident is not counted",
        ),
        pytest.param(
            "I3",
            [
                Harm(0.5, "NodeLost", "node-0", hurts=True),
                wrote(
                    RUNNING,
                    job(
                        3,
                        attempt=attempt(2, "Forming"),
                        recovery={
                            "total": 1,
                            "restarts": [
                                {
                                    "attempt": 1,
                                    "at": MIDNIGHT,
                                    "reason": "NodeLost",
                                    "charged": True,
                                }
                            ],
                        },
                    ),
                ),
            ],
            r"\[1\] are charged, but only 0 processes failed",
            id="a lost node is charged to the user",
        ),
        pytest.param(
            "I3",
            [
                wrote(
                    RUNNING,
                    job(
                        3,
                        attempt=attempt(1, "Closed", reason="ProcessFailed"),
                        recovery={"total": 1},
                        conditions=[
                            {
                                "type": "Failed",
                                "status": "True",
                                "reason": "ProcessFailed",
                                "lastTransitionTime": MIDNIGHT,
                            }
                        ],
                    ),
                )
            ],
            "failed .ProcessFailed. before its limit",
            id="a job fails while it has budget",
        ),
        pytest.param(
            "I3",
            [
                ended("itself"),
                wrote(
                    job(2, {"recovery": {"maxRestarts": 0}}, attempt=attempt(1, "Running")),
                    job(
                        3,
                        {"recovery": {"maxRestarts": 0}},
                        attempt=attempt(2, "Forming"),
                        recovery={
                            "total": 1,
                            "restarts": [
                                {"attempt": 1, "at": MIDNIGHT, "reason": "Error", "charged": True}
                            ],
                        },
                    ),
                ),
            ],
            "goes on beyond its limit",
            id="a job goes on without budget",
        ),
        pytest.param(
            "I3",
            [
                wrote(
                    job(2, attempt=attempt(1, "Stopping", endedAt=MIDNIGHT)),
                    job(
                        3,
                        attempt=attempt(2, "Forming"),
                        recovery={"total": 1, "withoutProgress": 2, "notBefore": MIDNIGHT},
                    ),
                )
            ],
            "failure 2 without progress calls for no back-off",
            id="a crash loop spins",
        ),
        pytest.param(
            "I3",
            [
                wrote(
                    job(2, attempt=attempt(2, "Forming")),
                    job(
                        3,
                        attempt=attempt(2, "Starting"),
                        recovery={"notBefore": "2026-01-01T00:00:05Z"},
                    ),
                )
            ],
            "attempt 2 began before its back-off was over",
            id="a back-off is not kept",
        ),
        pytest.param(
            "I4",
            [
                Committed(1, Commit(1, 3)),
                wrote(
                    RUNNING,
                    job(
                        3,
                        attempt=attempt(1, "Running"),
                        checkpoint={"lastDurableStep": 3, "lastDurableAttempt": 1},
                    ),
                ),
                Pruned(2, 1, Commit(1, 3)),
            ],
            "the newest durable one, was deleted",
            id="the newest durable checkpoint is deleted",
        ),
        pytest.param(
            "I4",
            [
                Committed(1, Commit(1, 3)),
                Committed(1, Commit(1, 6)),
                wrote(
                    RUNNING,
                    job(
                        3,
                        attempt=attempt(2, "Starting"),
                        recovery={"total": 1},
                        checkpoint={"lastDurableStep": 6, "lastDurableAttempt": 1},
                    ),
                ),
                Restored(2, 2, Commit(1, 3)),
            ],
            r"went on from 3, not Commit\(attempt=1, step=6\)",
            id="an older checkpoint than the newest is restored",
        ),
        pytest.param(
            "I5",
            [made(pod("job-0-0"), "operator-1", "pods"), Rest(9)],
            "outlives its job",
            id="a pod outlives its job",
        ),
        pytest.param(
            "I5",
            [*LEFT_ALONE, made(pod("job-0-7"), plural="pods"), Rest(9)],
            "stands for no slot",
            id="a pod stands for nothing",
        ),
        pytest.param(
            "I5",
            [
                made(pod("job-0-0", "pod-uid-0"), plural="pods"),
                made(ONE),
                started(),
                wrote(ONE, job(2, attempt=attempt(1, "Closed"))),
                Rest(9),
            ],
            "a process of job-uid-1 in pod job-0-0 goes on",
            id="a process goes on without an attempt",
        ),
        pytest.param(
            "I6",
            [made(ONE), Rest(9)],
            "at rest: it does not train",
            id="a job that could train does not",
        ),
        pytest.param(
            "I6",
            [Rest(1), made(pod("job-0-0"), "operator-1", "pods", at=2)],
            "create pods job-0-0 at rest",
            id="something is done where nothing is to be done",
        ),
        pytest.param(
            "I7",
            [wrote(ONE, RUNNING, sent="")],
            "written without its resourceVersion",
            id="a status is written whatever it was",
        ),
        pytest.param(
            "I7",
            [made(ONE), made(pod("job-0-0"), "operator-1", "pods")],
            "created before its slot was persisted",
            id="a pod comes before the intent",
        ),
        pytest.param(
            "I7",
            [wrote(ONE, RUNNING), deleted(pod("job-0-0"))],
            "deleted while it stood for its slot",
            id="a member is deleted",
        ),
        pytest.param(
            "I7",
            [started(3)],
            "runs job-uid-3, which nobody persisted",
            id="a world is given out before it is persisted",
        ),
        pytest.param(
            "I8",
            [wrote(RUNNING, job(3, attempt=attempt(1, "Starting")))],
            "attempt 1 went from Running to Starting",
            id="an attempt goes back",
        ),
        pytest.param(
            "I8",
            [wrote(HEALED, RUNNING)],
            "attempt 1 follows 2",
            id="an attempt's number goes back",
        ),
        pytest.param(
            "I8",
            [
                wrote(
                    job(2, ledger={"acceleratorMilliseconds": {"productive": 9}}),
                    job(3, ledger={"acceleratorMilliseconds": {"productive": 8}}),
                )
            ],
            "the ledger's productive went back",
            id="a counter goes back",
        ),
        pytest.param(
            "I8",
            [
                wrote(
                    ONE,
                    job(
                        2,
                        ledger={
                            "acceleratorMilliseconds": {"queued": 999},
                            "accelerators": 1,
                            "accountedUntil": "2026-01-01T00:00:01.000000Z",
                        },
                    ),
                )
            ],
            "the ledger has 999 ms of 1000 × 1",
            id="a millisecond is lost",
        ),
        pytest.param(
            "I9",
            [made(job(observedGeneration=0)), Rest(9)],
            "answers generation 0, not 1",
            id="an edit is not taken notice of",
        ),
        pytest.param(
            "I9",
            [made(RUNNING), made(pod("job-0-0", image="train:0"), plural="pods"), Rest(9)],
            "train:0",
            id="a worker runs an old template",
        ),
        pytest.param(
            "I10",
            [made(ONE), deleted(pod("job-0-0", owner=""))],
            "delete of pod job-0-0, which is not ours",
            id="a foreign pod is deleted",
        ),
        pytest.param(
            "I10",
            [made(ONE), deleted(pod("job-0-0"), uid=None)],
            "deleted by name alone",
            id="a namesake could be deleted",
        ),
        pytest.param(
            "I10",
            [wrote(job(spec={"managedBy": "a/b"}), job(2, {"managedBy": "a/b"}))],
            "which another controller manages",
            id="another controller's job is written",
        ),
        pytest.param(
            "I11",
            [Visited(1, "operator-1", "bug")],
            "a visit of operator-1 ended in: bug",
            id="a pass raises",
        ),
        pytest.param(
            "I12",
            [wrote(ONE, ONE, at=one / 10) for one in range(99)],
            "status writes, though only 0 things happened",
            id="each report costs a write",
        ),
        pytest.param(
            "I13",
            [*LEFT_ALONE, wrote(RUNNING, HEALED, at=400)],
            "attempt 1 was ended and nothing had hurt it",
            id="a healthy gang is restarted",
        ),
        pytest.param(
            "I13",
            [*LEFT_ALONE, Harm(2, "AllCutOff"), wrote(RUNNING, HEALED, at=400)],
            "attempt 1 was ended and nothing had hurt it",
            id="a gang is restarted because nobody can be heard",
        ),
        pytest.param(
            "I14",
            [Reported(1, "pod-uid", "Accepted")],
            "a false report of pod pod-uid was accepted",
            id="an old report counts",
        ),
        pytest.param(
            "I15",
            [wrote(ONE, job(2, ledger={"acceleratorMilliseconds": {"recovery": 7}}))],
            "incidents have paid 0 of 7 ms of recovery",
            id="a loss that no incident has cost",
        ),
        pytest.param(
            "I15",
            [
                wrote(
                    ONE,
                    job(
                        2,
                        ledger={"acceleratorMilliseconds": {"startup": 7}},
                        incidents=[
                            incident(2, acceleratorMilliseconds={"startup": 4}),
                            incident(1, acceleratorMilliseconds={"startup": 4}),
                        ],
                    ),
                )
            ],
            "incidents have paid 8 of 7 ms of startup",
            id="incidents that cost more than was lost",
        ),
        pytest.param(
            "I15",
            [wrote(ONE, job(2, incidents=[incident(1), incident(1)]))],
            r"the incidents are those of attempts \[1, 1\]",
            id="an attempt with two incidents",
        ),
        pytest.param(
            "I15",
            [recovered("attempt 1 ended (Evicted)"), recovered("attempt 1 ended (Evicted); late")],
            "attempt 1 is told twice",
            id="the end of an incident is told twice",
        ),
    ],
)
def test_a_broken_promise_is_noticed(promise: str, entries: list[Entry], message: str) -> None:
    found = broken(*entries)
    assert promise in found, found
    with pytest.raises(oracle.BrokenPromiseError, match=message):
        oracle.check(History(entries))


def test_every_promise_is_shown_a_breach() -> None:
    [marks] = [
        mark for mark in test_a_broken_promise_is_noticed.pytestmark if mark.name == "parametrize"
    ]
    assert {case.values[0] for case in marks.args[1]} == set(oracle.PROMISES)


def test_what_a_breach_does_not_concern_is_not_accused() -> None:
    assert set(broken(Visited(1, "operator-1", "bug"))) == {"I11"}
    assert set(broken(wrote(ONE, RUNNING, sent=""))) == {"I7"}
    assert set(broken(Restored(2, 2, Commit(1, 9)))) == {"I1"}


def test_the_history_is_told_up_to_the_first_breach() -> None:
    entries = [Committed(1, Commit(1, 3)), Visited(2, "operator-1", "bug"), Rest(3)]
    with pytest.raises(oracle.BrokenPromiseError) as caught:
        oracle.check(History(entries))
    assert "Committed" in str(caught.value)
    assert "Rest" not in str(caught.value)


@pytest.mark.parametrize("name", ["node_lost", "suspend_resume"])
def test_a_good_history_is_acquitted_and_a_write_taken_out_of_it_is_missed(name: str) -> None:
    """The checks look at what really is recorded: without a status write others make no sense."""
    history = simulate(SCENARIOS[name]).history
    assert oracle.examine(history) == []
    writes = [
        position
        for position, entry in enumerate(history.entries)
        if isinstance(entry, Write) and entry.by_operator and entry.plural == "trainingjobs"
    ]
    first = writes[0]
    gone = History(history.entries[:first] + history.entries[first + 1 :])
    assert {one.promise for one in oracle.examine(gone)} >= {"I7"}
