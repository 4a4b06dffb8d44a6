"""kopf tells us of every job on a real API server, and leaves no trace on any of them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from goodput_operator.controller.jobs import JobStore
from goodput_operator.controller.watch import JobWatch
from goodput_operator.effects.gateway import JOBS, Gateway

SPEC = {
    "workers": 1,
    "suspend": True,
    "managedBy": "example.com/nobody",
    "template": {"spec": {"containers": [{"name": "trainer", "image": "a", "command": ["b"]}]}},
}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - the API server is the one who knows
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("everywhere", [True, False])
def test_jobs_come_and_go_and_nothing_is_written_on_them(
    cluster: Cluster, trainingjobs: None, namespace: str, everywhere: bool
) -> None:
    async def test() -> None:
        gateway = await Gateway.connect(kubeconfig=str(cluster.kubeconfig))
        jobs = JobStore()
        watch = JobWatch(
            lambda job, deleted: jobs.observe(job, deleted=deleted),
            namespaces=() if everywhere else (namespace,),
            kubeconfig=str(cluster.kubeconfig),
        )
        body: dict[str, Any] = {"metadata": {"name": "before"}, "spec": SPEC}
        before = await gateway.create(JOBS, namespace, body)
        task = asyncio.create_task(watch.run())
        await until(lambda: jobs.get((namespace, "before")) is not None)

        body["metadata"]["name"] = "after"
        after = await gateway.create(JOBS, namespace, body)
        await until(lambda: jobs.get((namespace, "after")) is not None)
        for job in (before, after):
            key = (namespace, job["metadata"]["name"])
            now = await gateway.get_job(key)
            assert now["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]
            await gateway.delete_job(key, job["metadata"]["uid"])
        await until(lambda: all(key[0] != namespace for key in jobs.keys()))  # noqa: SIM118
        assert watch.silence_seconds() < 30
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gateway.close()

    asyncio.run(test())
