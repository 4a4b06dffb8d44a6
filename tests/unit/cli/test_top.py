"""The jobs that have lost most come first."""

from goodput_operator.cli.page import plain
from goodput_operator.cli.top import biggest_cause, top_page
from tests.unit.cli.conftest import job


def ledger(**buckets: int) -> dict[str, object]:
    return {"acceleratorMilliseconds": buckets, "accelerators": 1}


def test_a_table_of_jobs_by_lost_time_and_their_sum() -> None:
    jobs = [
        job("small", ledger=ledger(productive=90_000, queued=10_000)),
        job("large", ledger=ledger(productive=3_000_000, lost_work=600_000, recovery=900_000)),
    ]
    assert plain(top_page(jobs, "lab")) == (
        "JOB     PHASE     WORKERS   GOODPUT       LOST         OF   RESTARTS   MOST OF IT\n"
        "large   Running       4/4     66.6%   25.0 min   75.0 min          1   "
        "recovery, 60.0%: from a decision until all processes ran again\n"
        "small   Running       4/4     90.0%     10.0 s    100.0 s          1   "
        "queued, 100.0%: waiting for room\n"
        "\n"
        "2 jobs: 67.1% of 76.7 min of accelerator time was productive, 25.2 min was lost; "
        "0.0 s is not settled before the next checkpoint.\n"
    )


def test_of_all_namespaces_each_is_shown_and_ties_are_by_name() -> None:
    jobs = [job("b"), job("a"), job("z", namespace="art")]
    rows = [one.text.split()[:2] for one in top_page(jobs, None)[1:4]]
    assert rows == [["art", "z"], ["lab", "a"], ["lab", "b"]]
    assert top_page(jobs, None)[0].text.startswith("NAMESPACE   JOB")


def test_a_job_that_has_not_been_visited_is_in_it_too() -> None:
    new = job("new", phase="", ledger={}, workers={}, recovery={})
    assert top_page([new], "lab")[1].text.split() == [
        *("new", "-", "0/4", "-", "0.0", "s", "0.0", "s", "0", "-")
    ]


def test_a_job_that_has_lost_nothing_has_no_cause() -> None:
    assert biggest_cause(job(ledger=ledger(productive=5))) == "-"


def test_no_jobs_are_no_table() -> None:
    assert plain(top_page([], "lab")) == "There are no TrainingJobs in namespace lab.\n"
    assert plain(top_page([], None)) == "There are no TrainingJobs.\n"
