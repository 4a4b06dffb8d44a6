"""Why a job is not productive now, in words, with what a person can do."""

from typing import Any

import pytest

from goodput_operator.cli.explain import Verdict, explain_page, incident_words, verdict
from goodput_operator.cli.job import Event, Pod, read_job
from goodput_operator.cli.page import plain
from tests.unit.cli.conftest import NOW, at, attempt, condition, incident, job, raw_job

NEVER_VISITED = read_job({k: v for k, v in raw_job().items() if k != "status"})


def judged(*pods: Pod, **changes: Any) -> Verdict:
    return verdict(job(**changes), pods, NOW)


def waiting(reason: str, message: str) -> list[dict[str, Any]]:
    return [condition("Admitted", "False", reason, message)]


CASES: tuple[Any, ...] = (
    pytest.param(
        {}, True, "4 of 4 workers train; step 1,410, finished 2.0 s ago.", "", id="trains"
    ),
    pytest.param(
        {"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}},
        None,
        "spec.managedBy is kueue.x-k8s.io/multikueue: Goodput leaves this job alone.",
        "",
        id="another's",
    ),
    pytest.param(
        {"conditions": [condition("Degraded", "True", "CannotBeRead", "spec.workers: what?")]},
        False,
        "The operator cannot read it: spec.workers: what?",
        "Mend the field",
        id="cannot be read",
    ),
    pytest.param(
        {
            "conditions": [
                condition("Failed", "True", "ProcessFailed", "11 failures exceed maxRestarts=10")
            ],
            "finishedAt": at(-120),
            "phase": "Failed",
        },
        False,
        "It has failed for good 2 min ago (ProcessFailed): 11 failures exceed maxRestarts=10",
        "the training itself has failed",
        id="failed",
    ),
    pytest.param(
        {"conditions": [condition("Suspended", "True", "SpecSuspend")], "phase": "Suspended"},
        False,
        "It was suspended by its user, 1 min ago, and holds nothing.",
        'kubectl -n lab patch gtj/gpt --type merge -p \'{"spec":{"suspend":false}}\'',
        id="suspended",
    ),
    pytest.param(
        {"spec": {"suspend": True}, "attempt": attempt(saveBy=at(90))},
        False,
        "It is about to be suspended. The training is asked to save, and has 1 min 30 s left",
        "",
        id="about to be suspended",
    ),
    pytest.param(
        {
            "conditions": [condition("TemplateValid", "False", "Invalid", "no such volume")],
            "phase": "Invalid",
        },
        False,
        "Its template cannot work, so nothing is created: no such volume",
        "mend spec.template",
        id="a template that cannot work",
    ),
    pytest.param(
        {
            "phase": "Queued",
            "conditions": waiting("DoesNotFit", "4 workers need 8 nvidia.com/gpu each"),
        },
        False,
        "It waits for room for its gang of 4 workers, queued 1 h ago: DoesNotFit: 4 workers need",
        "Free or add nodes, lower spec.workers",
        id="no room",
    ),
    pytest.param(
        {"phase": "Queued", "conditions": waiting("CreateRefused", "exceeded quota: gpus")},
        False,
        "CreateRefused: exceeded quota: gpus.",
        "mostly a quota or a policy",
        id="a quota",
    ),
    pytest.param(
        {
            "phase": "Queued",
            "conditions": waiting("StartTimeout", "2 of 4 workers were not connected"),
            "recovery": {"notBefore": at(45)},
        },
        False,
        "It waits 45 s more before it is tried again, because it failed before: StartTimeout",
        "spec.gang.startTimeoutSeconds",
        id="backs off",
    ),
    pytest.param(
        {
            "phase": "Queued",
            "conditions": waiting("DoesNotFit", "no room"),
            "exclusions": [{"node": "node3"}, {"node": "node7"}],
        },
        False,
        "It avoids for a while: node3, node7.",
        "Free or add nodes",
        id="avoids nodes",
    ),
    pytest.param(
        {
            "phase": "Starting",
            "conditions": [condition("Running", "False", "Forming", "attempt 1 is forming")],
            "workers": {"wanted": 4, "bound": 2},
            "attempt": attempt(state="Forming", publishedAt=None, runningAt=None, number=1),
        },
        False,
        "2 of 4 workers have a node; all start together.",
        "",
        id="pods without a node",
    ),
    pytest.param(
        {
            "phase": "Starting",
            "workers": {"wanted": 4, "bound": 4, "connected": 1},
            "attempt": attempt(state="Forming", publishedAt=None, runningAt=None, number=1),
        },
        False,
        "All 4 workers have a node, the agents of 1 are connected: images are pulled",
        "",
        id="images",
    ),
    pytest.param(
        {
            "phase": "Starting",
            "attempt": attempt(state="Starting", runningAt=None, number=1),
        },
        False,
        "The processes of attempt 1 are being started.",
        "",
        id="processes start",
    ),
    pytest.param(
        {"phase": "Starting", "attempt": None, "workers": {}},
        False,
        "No attempt has been opened yet.",
        "",
        id="no attempt",
    ),
    pytest.param(
        {
            "phase": "Stopping",
            "attempt": attempt(state="Stopping", reason="NodeLost", message="node3 is gone"),
            "conditions": [condition("Running", "False", "NodeLost", "node3 is gone")],
        },
        False,
        "Attempt 2 is being stopped: NodeLost: node3 is gone.",
        "have it repaired",
        id="being stopped",
    ),
    pytest.param(
        {
            "phase": "Recovering",
            "attempt": attempt(state="Stopping", reason="NodeLost", message="node3 is gone"),
            "conditions": [
                condition(
                    "Running", "False", "WaitingForConfirmedDeath", "waits: it may still run"
                ),
                condition("Recovering", "True", "NodeLost", "node3 is gone"),
            ],
        },
        False,
        "The next one waits: it may still run.",
        "node.kubernetes.io/out-of-service",
        id="a death to be confirmed",
    ),
    pytest.param(
        {
            "phase": "Recovering",
            "attempt": attempt(state="Forming", publishedAt=None, runningAt=None),
            "workers": {"wanted": 4, "bound": 3},
            "conditions": [condition("Recovering", "True", "NodeLost", "worker 1: node3 is gone")],
        },
        False,
        "It recovers since 1 min from: NodeLost: worker 1: node3 is gone.",
        "the job avoids it",
        id="recovers",
    ),
    pytest.param(
        {
            "phase": "Recovering",
            "attempt": attempt(state="Forming", publishedAt=None, runningAt=None),
            "conditions": [
                *waiting("DoesNotFit", "one worker does not fit"),
                condition("Recovering", "True", "NodeLost", "worker 1: node3 is gone"),
            ],
        },
        False,
        "It recovers since 1 min from: NodeLost: worker 1: node3 is gone.",
        "Free or add nodes",
        id="waits for room to recover",
    ),
    pytest.param(
        {
            "conditions": [
                condition("Progressing", "False", "StandsStill", "no step for more than a minute")
            ],
            "progress": {"step": 1410, "observedAt": at(-400)},
        },
        False,
        "Its processes run, but no step for more than a minute; the newest is step 1,410, "
        "finished 6 min 40 s ago.",
        "a rank that hangs",
        id="stands still",
    ),
    pytest.param(
        {
            "attempt": attempt(firstStepAt=None, runningAt=at(-30)),
            "conditions": [condition("Progressing", "Unknown", "NoSignal")],
        },
        False,
        "It comes back from ProcessFailed, which ended attempt 1.",
        "",
        id="before its first step, and its steps can be seen",
    ),
    pytest.param(
        {
            "attempt": attempt(firstStepAt=None, runningAt=at(-30), restoreStep=None),
            "conditions": [condition("Progressing", "Unknown", "NoSignal")],
            "progress": {},
            "incidents": [],
        },
        None,
        "or show nothing of what they do.",
        "use the goodput SDK",
        id="nothing shows whether it trains",
    ),
    pytest.param(
        {
            "attempt": attempt(firstStepAt=None),
            "conditions": [condition("Progressing", "True", "StepsFinished")],
            "progress": {},
        },
        True,
        "4 of 4 workers train, and save.",
        "",
        id="a tracker file shows that it saves",
    ),
    pytest.param(
        {
            "conditions": [
                condition("Progressing", "True"),
                condition("Degraded", "True", "ShrunkToFit", "3 of 4 workers train"),
            ],
        },
        True,
        "But not all is well: ShrunkToFit: 3 of 4 workers train.",
        "taken in when that pays",
        id="smaller than wanted",
    ),
    pytest.param(
        {"ledger": {"acceleratorMilliseconds": {}, "accountedUntil": at(-900)}},
        None,
        "The operator wrote the last of this 15 min ago",
        "kubectl get pods -A -l app.kubernetes.io/name=goodput-operator",
        id="the operator is away",
    ),
    pytest.param(
        {"phase": "Dreaming", "reason": "Sheep"},
        None,
        "Its phase is Dreaming: Sheep.",
        "",
        id="a phase of a newer operator",
    ),
)


@pytest.mark.parametrize(("changes", "productive", "why", "remedy"), CASES)
def test_the_verdict_says_why_and_what_to_do(
    changes: dict[str, Any], productive: bool | None, why: str, remedy: str
) -> None:
    found = judged(**changes)
    assert found.productive is productive
    assert why in " ".join(found.why)
    assert remedy in " ".join(found.remedies)
    assert bool(remedy) == bool(found.remedies)


def test_a_job_that_has_succeeded_is_done() -> None:
    changes = {
        "conditions": [condition("Succeeded", "True", "Completed", "all ended with exit code 0")],
        "finishedAt": at(-60),
        "phase": "Succeeded",
    }
    assert judged(**changes).why == ("It has succeeded 1 min ago: all ended with exit code 0.",)
    text = plain(explain_page(job(**changes), [], [], [], NOW))
    assert text.startswith("lab/gpt is done.\n")
    assert "What you can do" not in text


def test_a_job_that_no_operator_has_seen_leads_to_the_operator() -> None:
    found = verdict(NEVER_VISITED, [], NOW)
    assert found.why == ("No operator has looked at it yet.",)
    assert "kubectl get pods -A" in found.remedies[0]


def test_a_job_that_is_being_deleted_is_not_asked_more() -> None:
    raw = raw_job()
    raw["metadata"]["deletionTimestamp"] = at(-1)
    assert verdict(read_job(raw), [], NOW).why == ("It is being deleted, and its pods with it.",)


@pytest.mark.parametrize("directory", ["/checkpoints", ""])
def test_a_failed_job_is_told_whether_it_would_go_on(directory: str) -> None:
    checkpoint = {"directory": directory} if directory else None
    found = judged(
        spec={"checkpoint": checkpoint}, conditions=[condition("Failed", "True", "NoAttemptLeft")]
    )
    assert ("it goes on from" if directory else "it would go on from") in found.remedies[-1]


def test_pods_in_trouble_are_named_but_not_all_of_a_thousand() -> None:
    pods = [Pod(f"gpt-{n}-0", "Pending", "", "has no node: 0/9 nodes") for n in range(1000)]
    found = judged(
        *pods,
        phase="Starting",
        workers={"wanted": 1000, "bound": 0},
        attempt=attempt(state="Forming", publishedAt=None, runningAt=None),
    )
    assert "Pod gpt-0-0 has no node: 0/9 nodes" in found.why
    assert "995 more pods are in trouble." in found.why
    assert len(found.why) < 10


# --- the whole page -------------------------------------------------------------------------


def test_the_whole_page_of_a_job_that_recovers() -> None:
    events = [
        Event("uid-gpt", NOW, True, "ProcessFailed", "rank 3 ended with exit code 1"),
        Event("another", NOW, True, "NodeLost", "of a former job of this name"),
    ]
    down = job(
        attempt=attempt(firstStepAt=None, runningAt=at(-30)),
        conditions=[condition("Progressing", "Unknown", "NoSignal")],
        incidents=[
            incident(
                firstStepAt=None,
                caughtUpAt=None,
                faultAt=at(-33),
                decidedAt=at(-32),
                scheduledAt=at(-32),
                publishedAt=at(-31),
                runningAt=at(-30),
            )
        ],
    )
    page = explain_page(down, [], events, ["the right to list pods is missing"], NOW)
    assert plain(page) == (
        "lab/gpt is not productive now.\n"
        "  The processes of attempt 2 run since 30 s, and have not finished a step yet: they "
        "import, compile or read a checkpoint.\n"
        "  It comes back from ProcessFailed, which ended attempt 1.\n"
        "  It goes on from step 100.\n"
        "\n"
        "The last interruption\n"
        "  ProcessFailed ended attempt 1 33 s ago. It counts against spec.recovery.maxRestarts.\n"
        "  First cause: rank 3, worker 1, pod gpt-1-0, node node3.\n"
        "  rank 3 ended with exit code 1\n"
        "  RuntimeError: NCCL\n"
        "  Decision: RestartProcesses: all 4 workers have kept their pods.\n"
        "  Its course: known and decided after 1.0 s, all pods had a node after 1.0 s, the next "
        "world was formed after 2.0 s, all processes ran after 3.0 s.\n"
        "  Its price: 28.0 s of accelerator time and 5 steps to be trained again (lost_work "
        "16.0 s, recovery 8.0 s, detection 4.0 s).\n"
        "\n"
        "All in all\n"
        "  90.0% of its 2.8 h of accelerator time was productive. Most of the rest is lost_work "
        "(60.0%): steps that were lost and trained again.\n"
        "\n"
        "The newest events\n"
        "  just now   ProcessFailed   rank 3 ended with exit code 1\n"
        "\n"
        "(the right to list pods is missing)\n"
    )


def test_a_job_that_trains_is_told_what_to_do_about_its_last_incident() -> None:
    text = plain(explain_page(job(), [], [], [], NOW))
    assert text.startswith("lab/gpt is productive now.\n")
    assert "About ProcessFailed: Read the message and the worker's log" in text


def test_a_job_without_an_interruption_says_so() -> None:
    text = plain(explain_page(job(incidents=[]), [], [], [], NOW))
    assert "The last interruption\n  There was none.\n" in text


def test_only_the_newest_events_are_shown() -> None:
    events = [Event("uid-gpt", None, False, "Old", "never")] + [
        Event("uid-gpt", NOW.replace(minute=minute), False, f"R{minute}", "x")
        for minute in range(9)
    ]
    text = plain(explain_page(job(), [], events, [], NOW))
    assert [f"R{n}" in text for n in range(9)] == [False] * 4 + [True] * 5
    assert "Old" not in text


@pytest.mark.parametrize(
    ("changes", "told", "not_told"),
    [
        ({"planned": True, "charged": False}, "as was asked for", "counts against"),
        ({"slot": None, "rank": None, "pod": "", "node": ""}, "ended attempt 1", "First cause"),
        ({"decision": "", "why": ""}, "ended attempt 1", "Decision"),
        ({"stepsLost": 0}, "Its price", "trained again"),
        ({"stepsLost": 1}, "1 step to be trained again", "steps"),
        ({"acceleratorMilliseconds": {}, "stepsLost": None}, "Its course", "Its price"),
        ({"faultAt": None}, "ended attempt 1.", "Its course"),
        ({"message": ""}, "First cause", "RuntimeError"),
        ({"slot": 0, "rank": 0}, "rank 0, worker 0", "None"),
    ],
)
def test_an_incident_says_what_is_known_and_no_more(
    changes: dict[str, Any], told: str, not_told: str
) -> None:
    [one] = job(incidents=[incident(**changes)]).incidents
    text = "\n".join(incident_words(one, NOW))
    assert told in text
    assert not_told not in text


def test_what_a_pod_said_last_cannot_steer_the_terminal() -> None:
    hostile = job(incidents=[incident(message="\x1b]0;owned\x07 \x1b[2J\nnext\rline")])
    text = plain(explain_page(hostile, [], [], [], NOW))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "\x07" not in text
