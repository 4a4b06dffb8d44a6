"""The caches follow an API server: a real one, and the simulated one likewise."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from goodput_operator.effects import caches
from goodput_operator.effects.caches import Cache
from goodput_operator.effects.gateway import Gateway
from tests.contract.tiers import Api, Tier

NOWHERE = {"goodput.training/nowhere": "true"}
Test = Callable[[Gateway, Cache], Awaitable[None]]


@pytest.fixture
def follow(tier: Tier, place: str) -> Callable[..., None]:
    """Run a test beside a cache: of our pods in the test's namespace, unless it makes another."""

    def follow(
        test: Test,
        make: Callable[[Gateway], Cache] = lambda gateway: caches.worker_pods(gateway, [place]),
    ) -> None:
        async def run(gateway: Gateway) -> None:
            cache = make(gateway)
            task = asyncio.create_task(cache.run())
            try:
                async with asyncio.timeout(60):
                    await cache.wait_synced()
                    await test(gateway, cache)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

        tier.talk(run)

    return follow


async def until(cache: Cache, predicate: Callable[[], bool]) -> None:
    """Return when a change in the cache has made something so."""
    changed = asyncio.Event()
    cache.on_change(lambda *_: changed.set())
    while not predicate():
        changed.clear()
        await changed.wait()


def pod(name: str, labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    container = {
        "name": "trainer",
        "image": "example.com/none:1",
        "resources": {"requests": {"cpu": "1m"}},
    }
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "nodeSelector": NOWHERE, **spec},
    }


def test_our_pods_are_followed_from_creation_to_end(
    follow: Callable[..., None], place: str, pod_labels: dict[str, str]
) -> None:
    async def test(gateway: Gateway, cache: Cache) -> None:
        heard: list[tuple[str, str]] = []
        cache.on_change(
            lambda kind, old, new: heard.append((kind, (new or old)["metadata"]["name"]))
        )
        made = await gateway.create_pod(place, pod("char-gpt-0-0", pod_labels))
        cache.put(made)
        assert len(cache.by_job((place, "char-gpt"))) == 1, "before the watch has told it"
        await gateway.create_pod(place, pod("char-gpt-1-0", pod_labels))
        await gateway.create_pod(place, pod("foreign", {}))
        await until(cache, lambda: len(cache.by_job((place, "char-gpt"))) == 2)
        assert heard.count(("ADDED", "char-gpt-0-0")) == 1
        await gateway.delete_pod(place, "char-gpt-0-0", made["metadata"]["uid"], 0)
        await until(cache, lambda: len(cache.all()) == 1)
        cache.put(made)
        assert [one["metadata"]["name"] for one in cache.all()] == ["char-gpt-1-0"]

    follow(test)


def test_a_pod_whose_label_was_taken_away_leaves(
    follow: Callable[..., None], api_server: Api, place: str, pod_labels: dict[str, str]
) -> None:
    async def test(gateway: Gateway, cache: Cache) -> None:
        cache.put(await gateway.create_pod(place, pod("char-gpt-0-0", pod_labels)))
        path = f"/api/v1/namespaces/{place}/pods/char-gpt-0-0"
        patch = {"metadata": {"labels": dict.fromkeys(pod_labels)}}
        api_server.call("PATCH", path, patch, "application/merge-patch+json")
        await until(cache, lambda: cache.all() == ())

    follow(test)


def test_a_foreign_pod_counts_while_it_holds_a_place_on_a_node(
    follow: Callable[..., None], api_server: Api, place: str, pod_labels: dict[str, str]
) -> None:
    node = f"contract-{uuid.uuid4().hex[:8]}"

    async def test(gateway: Gateway, cache: Cache) -> None:
        await gateway.create_pod(place, pod("waiting", {}))
        await gateway.create_pod(place, pod("ours", pod_labels, nodeName=node))
        bound = pod("bound", {}, nodeName=node, nodeSelector=None)
        await gateway.create_pod(place, bound)
        await until(cache, lambda: cache.get(place, "bound") is not None)
        held = cache.get(place, "bound")
        assert held is not None
        assert held["spec"]["nodeName"] == node
        assert held["spec"]["requests"] == {"cpu": 1, "pods": 1}
        assert cache.get(place, "waiting") is None
        assert cache.get(place, "ours") is None
        path = f"/api/v1/namespaces/{place}/pods/bound/status"
        ended = {"status": {"phase": "Failed"}}
        api_server.call("PATCH", path, ended, "application/merge-patch+json")
        await until(cache, lambda: cache.get(place, "bound") is None)

    api_server.call("POST", "/api/v1/nodes", {"metadata": {"name": node}})
    try:
        follow(test, caches.foreign_pods)
    finally:
        api_server.call("DELETE", f"/api/v1/nodes/{node}")


def test_a_node_is_followed_from_joining_to_leaving(
    follow: Callable[..., None], api_server: Api
) -> None:
    name = f"contract-{uuid.uuid4().hex[:8]}"
    path = f"/api/v1/nodes/{name}"
    merge = "application/merge-patch+json"

    async def test(gateway: Gateway, cache: Cache) -> None:
        labels = {"topology.kubernetes.io/rack": "r1"}
        api_server.call("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        room = {"status": {"allocatable": {"nvidia.com/gpu": "8", "memory": "1Gi"}}}
        api_server.call("PATCH", f"{path}/status", room, merge)
        api_server.call("PATCH", path, {"spec": {"unschedulable": True}}, merge)

        def cordoned() -> bool:
            node = cache.get("", name)
            return node is not None and node["spec"].get("unschedulable") is True

        await until(cache, cordoned)
        node = cache.get("", name)
        assert node is not None
        assert node["metadata"]["labels"]["topology.kubernetes.io/rack"] == "r1"
        assert node["status"]["allocatable"] == {"nvidia.com/gpu": 8, "memory": 2**30}
        api_server.call("DELETE", path)
        await until(cache, lambda: cache.get("", name) is None)

    follow(test, caches.nodes)


def test_a_hundred_pods_come_in_whole_in_pages(
    follow: Callable[..., None], place: str, pod_labels: dict[str, str]
) -> None:
    async def test(gateway: Gateway, cache: Cache) -> None:
        bodies = [pod(f"char-gpt-{slot}-0", pod_labels) for slot in range(130)]
        await asyncio.gather(*(gateway.create_pod(place, body) for body in bodies))
        await until(cache, lambda: len(cache.all()) == 130)
        late = caches.worker_pods(gateway, [place])
        task = asyncio.create_task(late.run())
        await late.wait_synced()
        assert len(late.by_job((place, "char-gpt"))) == 130
        assert gateway.requests["list", "pods", 200] == 1 + 2
        await gateway.create_pod(place, pod("char-gpt-130-0", pod_labels))
        await until(late, lambda: len(late.all()) == 131)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    follow(test)
