"""Nobody is there to decide: both replicas are gone for a while."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from e2e.cluster import Cluster
from e2e.support.installation import Operator
from e2e.support.job import Job

pytestmark = pytest.mark.alone

AWAY_SECONDS = 40
EXIT_SECONDS = 1.5
"""What a trainer takes to leave after its last step."""


@pytest.mark.long
def test_jobs_train_on_and_end_and_vanish_without_the_operator_and_wait_for_it_to_begin(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    long = Job(cluster, namespace, "long").apply(workers=2, steps=600)
    short = Job(cluster, namespace, "short").apply(workers=2, steps=150)
    deleted = Job(cluster, namespace, "deleted").apply(workers=2, steps=2000)
    for job in (long, short, deleted):
        job.wait_step(10)
    before = {job: job.pods() for job in (long, short)}

    with operator.away():
        left_at, seen = time.monotonic(), long.steps(0)[-1].step
        deleted.delete()
        late = Job(cluster, namespace, "late").apply(workers=2, steps=20)
        cluster.wait_until(lambda: not deleted.pods(), "the deleted job's pods to go", 40)
        assert not deleted.exists()
        short.wait_step(150)
        cluster.wait_until(
            lambda: time.monotonic() - left_at > AWAY_SECONDS, "the time to pass", AWAY_SECONDS
        )
        assert long.steps(0)[-1].step > seen + 200
        assert late.pods() == []
        assert late.status() == {}

    late.wait_phase("Succeeded")
    for job, steps in ((short, 150), (long, 600)):
        job.wait_phase("Succeeded")
        job.assert_succeeded(steps)
        job.assert_pods_untouched(before[job])
        assert job.status()["attempt"]["number"] == 1
        assert job.status()["recovery"].get("total", 0) == 0
        job.assert_losses_agree()
        job.assert_every_second_is_accounted_for()
        status = job.status()
        assert status["ledger"]["accountedUntil"] == status["attempt"]["endedAt"]
        ended = datetime.fromisoformat(status["attempt"]["endedAt"]).timestamp()
        assert 0 <= ended - job.steps(0)[-1].at < EXIT_SECONDS
