"""Which pods are a job's own, and what its places in the gang are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from goodput_operator.api.status import SlotStatus
from goodput_operator.observe.snapshot import (
    JobSnapshot,
    NodeHealth,
    observe,
    observe_pod,
    reseat,
)
from goodput_operator.observe.trim import trim_node, trim_own_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = {
    "metadata": {
        "namespace": "lab",
        "name": "job",
        "uid": "mine",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
}
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def pod(name: str, *owners: str, node: str = "") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"uid": owner} for owner in owners],
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Running"},
    }


def seen(
    *pods: dict[str, Any], slots: int = 2, incarnation: int = 0, nodes: Any = None
) -> JobSnapshot:
    places = [SlotStatus(slot=number, incarnation=incarnation) for number in range(slots)]
    return observe(
        JOB, places, pods, nodes, {}, listening_since=NOW, now=NOW + timedelta(seconds=7)
    )


def who_stands(snapshot: JobSnapshot) -> list[str | None]:
    return [worker.pod.name if worker.pod else None for worker in snapshot.workers]


def strays(snapshot: JobSnapshot) -> list[str]:
    return [stray.name for stray in snapshot.strays]


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(pod("job-0-0"), id="of nobody"),
        pytest.param(pod("job-0-0", "former"), id="of a former job of the same name"),
        pytest.param(pod("job-x-0", "mine"), id="whose name we would not give"),
    ],
)
def test_a_pod_is_not_ours(stranger: dict[str, Any]) -> None:
    snapshot = seen(stranger, pod("job-1-0", "another", "mine"))
    assert who_stands(snapshot) == [None, "job-1-0"]
    assert strays(snapshot) == []


def test_older_incarnations_and_slots_that_are_gone_stand_for_nothing() -> None:
    pods = [pod(name, "mine") for name in ("job-0-2", "job-1-1", "job-0-1", "job-5-1")]
    snapshot = seen(*pods, incarnation=1)
    assert who_stands(snapshot) == ["job-0-1", "job-1-1"]
    assert strays(snapshot) == ["job-0-2", "job-5-1"]


@pytest.mark.parametrize(
    ("nodes", "health"),
    [
        pytest.param({"n": READY}, NodeHealth.READY, id="ready"),
        pytest.param({"n": {"status": {}}}, NodeHealth.NOT_READY, id="that never said so"),
        pytest.param({"n": None}, NodeHealth.GONE, id="that is not there"),
        pytest.param(
            {"n": {**READY, "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service"}]}}},
            NodeHealth.GONE,
            id="that was declared out of service",
        ),
        pytest.param(None, NodeHealth.UNKNOWN, id="that we may not see"),
    ],
)
def test_a_worker_is_on_a_node(nodes: Any, health: NodeHealth) -> None:
    snapshot = seen(pod("job-0-0", "mine", node="n"), pod("job-1-0", "mine"), nodes=nodes)
    assert [worker.node for worker in snapshot.workers] == [health, NodeHealth.UNKNOWN]


def test_silence_counts_from_when_we_began_to_listen() -> None:
    assert [worker.silent_seconds for worker in seen().workers] == [7.0, 7.0]


def test_a_worker_that_was_never_heard_is_silent_since_its_pod_was_made() -> None:
    young = pod("job-0-0", "mine")
    young["metadata"]["creationTimestamp"] = "2026-01-01T00:00:05Z"
    assert [worker.silent_seconds for worker in seen(young).workers] == [2.0, 7.0]


def test_a_slot_that_has_moved_on_leaves_its_pod_behind() -> None:
    before = seen(pod("job-0-0", "mine"), pod("job-1-0", "mine"))
    after = reseat(
        before, [SlotStatus(slot=1, incarnation=0, rank=1), SlotStatus(slot=0, incarnation=1)]
    )
    assert who_stands(after) == [None, "job-1-0"]
    assert [worker.rank for worker in after.workers] == [-1, 1]
    assert strays(after) == ["job-0-0"]


def test_a_slot_that_is_taken_away_leaves_its_pod_behind() -> None:
    before = seen(pod("job-0-0", "mine"), pod("job-1-0", "mine"))
    after = reseat(before, [SlotStatus(slot=0, incarnation=0)])
    assert who_stands(after) == ["job-0-0"]
    assert strays(after) == ["job-1-0"]


def test_what_the_caches_keep_is_read_once_and_as_if_it_had_come_by_itself() -> None:
    raw, node = pod("job-0-0", "mine", node="node"), {"metadata": {"name": "node"}, **READY}
    for one in (raw, node):
        one["metadata"] |= {"uid": "uid", "resourceVersion": "1"}
    kept, kept_node = trim_own_pod(raw), trim_node(node)
    first, second = (seen(kept, slots=1, nodes={"node": kept_node}) for _ in range(2))
    assert first == second == seen(raw, slots=1, nodes={"node": node})
    assert first.workers[0].pod is second.workers[0].pod
    assert observe_pod(kept, "another's") is None
    raw["status"]["phase"] = "Failed"
    later = seen(trim_own_pod(raw), slots=1, nodes={"node": kept_node})
    assert later.workers[0].pod is not None
    assert later.workers[0].pod.terminal
