"""A sample of `make sweep`: another one every day, and the same for everybody on that day."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from e2e.cluster.paths import REPOSITORY
from e2e.cluster.preflight import unavailable_reason

PLANS = 20
LANES = 6
LIMIT_SECONDS = 180
"""No plan is begun so long after the first; on two free cores all are."""
SEED = int(os.environ.get("GOODPUT_SWEEP_SEED") or datetime.now(UTC).toordinal())


def test_whatever_fails_at_whichever_write_a_job_comes_to_the_same_end() -> None:
    reason = unavailable_reason("api")
    if reason is not None:
        pytest.skip(reason)
    argv = [sys.executable, "-m", "tests.sweep", f"--lanes={LANES}", f"--sample={PLANS}"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "operator")}
    done = subprocess.run(
        [*argv, f"--seed={SEED}", f"--limit-seconds={LIMIT_SECONDS}"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=1200,
    )
    print(done.stdout)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["violations"] == 0, figures["failed"]
    assert figures["fired"] == figures["plans"] > 0
