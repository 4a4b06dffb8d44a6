"""Two of three machines are 10 and 20 minutes behind the time of day."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from e2e.cluster import Cluster, packages
from e2e.support.job import Job

STEPS = 120
CHECKPOINT_EVERY = 20
LIBRARY = "behind.so"
BEHIND = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long behind(void) {
    const char *minutes = getenv("MINUTES_BEHIND");
    return minutes ? 60 * atol(minutes) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec -= behind();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *given) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (given) *given = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""A machine has one time of day for all; so it is shifted for the programs of a container."""
SLOT_LABEL = "metadata.labels['goodput.training/slot']"
ENV = [
    {"name": "SLOT", "valueFrom": {"fieldRef": {"fieldPath": SLOT_LABEL}}},
    {"name": "MINUTES_BEHIND", "value": "$(SLOT)0"},
    {"name": "LD_PRELOAD", "value": f"/checkpoints/{LIBRARY}"},
]
SAY_THE_TIME = ("python3", "-c", "import time; print(time.time())")


@pytest.fixture
def clocks_behind(job: Job, tmp_path: Path) -> None:
    """The library that puts a program behind lies where the job's pods see it."""
    if packages.which("cc") is None and packages.can_install():
        packages.install(["gcc", "libc6-dev"])
    if packages.which("cc") is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "behind.c"
    source.write_text(BEHIND)
    job.checkpoints.mkdir(parents=True)
    library = job.checkpoints / LIBRARY
    argv = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(argv, check=True)


@pytest.mark.usefixtures("clocks_behind")
def test_recovery_and_ledger_are_the_same_as_with_clocks_that_agree(
    cluster: Cluster, job: Job
) -> None:
    job.apply(
        steps=STEPS,
        step_seconds=0.05,
        checkpoint_every=CHECKPOINT_EVERY,
        container={"env": ENV},
    )
    job.wait_step(CHECKPOINT_EVERY + 5)
    before = job.pods()
    assert [_minutes_behind(cluster, job, slot) for slot in range(3)] == [0, 10, 20]

    job.kill_rank(2)
    job.wait_attempt(2)
    job.wait_phase("Succeeded")

    job.assert_pods_untouched(before)
    job.assert_succeeded(STEPS)
    job.assert_losses_agree()
    job.assert_every_second_is_accounted_for()
    assert job.status()["attempt"]["number"] == 2
    spent = job.ledger()
    assert spent["detection"] + spent["recovery"] < 3 * 60, "ten minutes of nobody's clock"
    (charge,) = job.status()["recovery"]["restarts"]
    assert charge["reason"] == "ProcessFailed"


def _minutes_behind(cluster: Cluster, job: Job, slot: int) -> int:
    pod = job.pod(slot)["metadata"]["name"]
    exec_in = ("exec", "-n", job.namespace, pod, "-c", "trainer", "--")
    theirs = float(cluster.kubectl(*exec_in, *SAY_THE_TIME))
    ours = float(cluster.kubectl(*exec_in, "env", "-u", "LD_PRELOAD", *SAY_THE_TIME))
    return round((ours - theirs) / 60)
