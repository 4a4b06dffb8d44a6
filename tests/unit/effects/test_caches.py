"""A cache holds what the API server holds, whatever happens on the way."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goodput_operator import names
from goodput_operator.effects import caches
from goodput_operator.effects import gateway as api
from goodput_operator.effects.caches import Cache, Source, Timing
from goodput_operator.effects.gateway import Gateway
from goodput_operator.observe.trim import trim_own_pod
from tests.unit.effects import apiserver
from tests.unit.effects.apiserver import ApiServer

QUICK = Timing(backoff_seconds=0.001, max_backoff_seconds=0.01, page_limit=2)
KEY = ("ml", "char-gpt")


class Bench:
    """A server, one cache of it, and what its listener heard."""

    def __init__(self, server: ApiServer, gateway: Gateway) -> None:
        self.server = server
        self.gateway = gateway
        self.now = 0.0
        self.heard: list[tuple[str, str]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.cache = self.start()

    def start(self, timing: Timing = QUICK, namespaces: tuple[str, ...] = ()) -> Cache:
        """Start (another) cache of our pods; it becomes `cache`."""
        self.cache = Cache(
            Source(
                self.gateway,
                api.PODS,
                trim_own_pod,
                label_selector=f"{names.LABEL_MANAGED_BY}={names.OPERATOR_NAME}",
                timing=timing,
                monotonic=lambda: self.now,
                chance=lambda: 0.5,
            ),
            namespaces,
        )
        self.cache.on_change(self._hear)
        self._tasks.append(asyncio.create_task(self.cache.run()))
        return self.cache

    def _hear(self, kind: str, old: Any, new: Any) -> None:
        assert (old is None) == (kind == caches.ADDED)
        assert (new is None) == (kind == caches.DELETED)
        self.heard.append((kind, (new or old)["metadata"]["name"]))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def names(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.cache.all())

    async def until_it_holds(self, *wanted: str) -> None:
        await until(lambda: self.names() == sorted(wanted))

    async def until_it_watches(self, times: int = 1) -> None:
        await until(lambda: self.server.watches >= times)


async def until(predicate: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110  there is no one event to wait for
            await asyncio.sleep(0)


def pod(name: str, job: str = "char-gpt", namespace: str = "ml", **status: Any) -> dict[str, Any]:
    labels = {names.LABEL_MANAGED_BY: names.OPERATOR_NAME, names.LABEL_JOB: job}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": []},
        "status": status,
    }


Test = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[Test], None]:
    async def run(test: Test) -> None:
        server = ApiServer()
        async with server.serving(tmp_path) as kubeconfig:
            gateway = await Gateway.connect(kubeconfig=str(kubeconfig))
            bench = Bench(server, gateway)
            try:
                await test(bench)
            finally:
                await bench.stop()
                await gateway.close()

    return lambda test: asyncio.run(run(test))


Run = Callable[[Test], None]


def test_it_holds_what_was_there_and_what_comes_and_goes(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        assert not bench.cache.synced
        assert not bench.cache.fresh()
        for name in ("a", "b", "c", "d", "e"):
            bench.server.store("pods", pod(name))
        bench.server.store("pods", {"metadata": {"name": "foreign", "namespace": "ml"}})
        await bench.cache.wait_synced()
        assert bench.names() == ["a", "b", "c", "d", "e"], "three pages"
        assert bench.cache.synced
        assert bench.cache.fresh()
        bench.server.store("pods", pod("a", phase="Running"))
        bench.server.store("pods", pod("f"))
        bench.server.delete("pods", "ml", "e")
        await bench.until_it_holds("a", "b", "c", "d", "f")
        changed = bench.cache.get("ml", "a")
        assert changed is not None
        assert changed["status"] == {"phase": "Running"}
        assert bench.heard[5:] == [("MODIFIED", "a"), ("ADDED", "f"), ("DELETED", "e")]

    bench(test)


def test_pods_are_found_by_their_job_in_the_order_of_names(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        for name, job in (("b", "char-gpt"), ("a", "char-gpt"), ("c", "other")):
            bench.server.store("pods", pod(name, job))
        await bench.cache.wait_synced()
        assert [one["metadata"]["name"] for one in bench.cache.by_job(KEY)] == ["a", "b"]
        await bench.until_it_watches()
        bench.server.store("pods", pod("b", "other"))
        bench.server.delete("pods", "ml", "a")
        await until(lambda: bench.cache.by_job(KEY) == ())
        assert len(bench.cache.by_job(("ml", "other"))) == 2

    bench(test)


def test_a_change_of_nothing_that_is_kept_wakes_nobody(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.server.store("pods", pod("a"))
        await bench.until_it_watches()
        newest = bench.server.store("pods", {**pod("a"), "status": {"qosClass": "Guaranteed"}})
        version = newest["metadata"]["resourceVersion"]
        await until(lambda: bench.cache.all()[0]["metadata"]["resourceVersion"] == version)
        assert bench.heard == [("ADDED", "a")]

    bench(test)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(apiserver.CUT, id="cut in the middle of an event"),
        pytest.param(apiserver.GARBAGE, id="not JSON"),
        pytest.param((429, {"message": "slow down"}, {"Retry-After": "0"}), id="overload"),
        pytest.param((503, {"message": "starting"}), id="a server that starts"),
    ],
)
def test_after_a_cut_the_watch_goes_on_where_it_was(bench: Run, fault: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.server.fail("watch", fault)
        await bench.cache.wait_synced()
        bench.server.store("pods", pod("a"))
        await bench.until_it_holds("a")
        assert bench.server.count("list") == 1
        assert bench.heard == [("ADDED", "a")]

    bench(test)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param((410, {"reason": "Expired"}), id="410"),
        pytest.param({"code": 410, "reason": "Expired"}, id="an ERROR event of 410"),
        pytest.param({"code": 500, "reason": "InternalError"}, id="an ERROR event of 500"),
        pytest.param((504, {"reason": "Timeout"}), id="a resourceVersion from the future"),
        pytest.param((403, {"reason": "Forbidden"}), id="a right that is missing"),
    ],
)
def test_what_a_watch_cannot_tell_any_more_is_listed(bench: Run, fault: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.server.fail("watch", fault)
        bench.server.store("pods", pod("a"))
        await bench.until_it_watches(2 if isinstance(fault, dict) else 1)
        assert bench.server.count("list") == 2
        bench.server.store("pods", pod("b"))
        await bench.until_it_holds("a", "b")

    bench(test)


def test_a_pod_that_vanished_while_nobody_looked_is_deleted_by_the_list(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.server.store("pods", pod("a"))
        bench.server.store("pods", pod("b"))
        await bench.until_it_watches()
        bench.server.forget_silently("pods", "ml", "a")
        bench.server.compact()
        bench.server.end_watches()
        await bench.until_it_holds("b")
        assert bench.heard[2:] == [("DELETED", "a")]

    bench(test)


def test_silence_leads_to_a_list(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.server.fail("watch", apiserver.SILENT, apiserver.SILENT)
        bench.start(replace(QUICK, silence_seconds=0.05))
        await bench.until_it_watches(2)
        bench.server.store("pods", pod("a"))
        await bench.until_it_holds("a")
        assert bench.server.count("list") == 3

    bench(test)


def test_age_counts_from_the_last_word_and_makes_the_view_stale(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.until_it_watches()
        bench.now = 100.0
        assert bench.cache.last_event_age_seconds == 100.0
        assert bench.cache.fresh()
        bench.now = 121.0
        assert not bench.cache.fresh()
        assert bench.cache.synced
        bench.server.bookmark()
        await until(bench.cache.fresh)
        assert bench.cache.last_event_age_seconds == 0.0

    bench(test)


def test_everything_is_listed_again_from_time_to_time(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.server.store("pods", pod("a"))
        await bench.until_it_watches()
        bench.server.forget_silently("pods", "ml", "a")
        bench.server.end_watches()
        await bench.until_it_watches(2)
        assert bench.names() == ["a"], "the watch has nothing to say about it"
        bench.now = 1.1 * QUICK.relist_seconds
        bench.server.end_watches()
        await bench.until_it_holds()

    bench(test)


def test_no_failure_ends_it(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        faults = [(code, {"message": str(code)}) for code in (403, 404, 429, 500, 503, 410, 400)]
        bench.server.fail("list", *faults)
        bench.server.fail("watch", *faults, apiserver.END, apiserver.END)
        bench.start()
        bench.server.store("pods", pod("a"))
        await bench.until_it_holds("a")
        await bench.until_it_watches(2)

    bench(test)


def test_a_listener_that_raises_is_reported_and_survived(
    bench: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(bench: Bench) -> None:
        await bench.until_it_watches()

        def listener(kind: str, old: Any, new: Any) -> None:
            if kind == caches.ADDED:
                raise RuntimeError("a bug of the listener")

        bench.cache.on_change(listener)
        bench.server.store("pods", pod("a"))
        await bench.until_it_watches(2)
        assert bench.names() == ["a"]

    bench(test)
    assert "a bug of the listener" in caplog.text


def test_a_failure_that_lasts_is_said_once(bench: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        bench.server.fail("list", *[(403, {"message": "pods is forbidden"})] * 5)
        await bench.cache.wait_synced()

    bench(test)
    assert caplog.text.count("pods is forbidden") == 1


def test_each_namespace_has_a_stream_of_its_own(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        for namespace in ("ml", "nlp", "other"):
            bench.server.store("pods", pod("a", namespace=namespace))
        bench.start(namespaces=("ml", "nlp"))
        await bench.cache.wait_synced()
        assert len(bench.cache.all()) == 2
        assert bench.cache.get("other", "a") is None
        bench.cache.put(bench.server.store("pods", pod("b", namespace="other")))
        assert bench.cache.get("other", "b") is None, "not ours to keep"
        await bench.until_it_watches(3)
        bench.server.compact()
        bench.server.store("pods", pod("b", namespace="nlp"))
        await until(lambda: len(bench.cache.all()) == 3)

    bench(test)


# --- our own writes -------------------------------------------------------------------------


def test_what_we_wrote_is_there_at_once_and_told_once(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.until_it_watches()
        made = bench.server.store("pods", pod("a"))
        bench.cache.put(made)
        assert bench.names() == ["a"]
        bench.server.store("pods", pod("z"))
        await bench.until_it_holds("a", "z")
        assert bench.heard == [("ADDED", "a"), ("ADDED", "z")]

    bench(test)


def test_a_late_event_does_not_roll_our_write_back(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.until_it_watches()
        for phase in ("Pending", "Running", "Failed"):
            newest = bench.server.store("pods", pod("a", phase=phase))
        bench.cache.put(newest)
        bench.server.store("pods", pod("z"))
        await bench.until_it_holds("a", "z")
        known = bench.cache.get("ml", "a")
        assert known is not None
        assert known["status"] == {"phase": "Failed"}
        assert bench.heard == [("ADDED", "a"), ("ADDED", "z")]

    bench(test)


def test_an_answer_that_the_watch_has_overtaken_revives_nothing(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.until_it_watches()
        made = bench.server.store("pods", pod("a"))
        bench.server.delete("pods", "ml", "a")
        bench.server.store("pods", pod("z"))
        await bench.until_it_holds("z")
        bench.cache.put(made)
        assert bench.names() == ["z"]

    bench(test)


def test_a_write_before_the_first_list_is_kept_and_one_after_a_list_survives_it(
    bench: Run,
) -> None:
    async def test(bench: Bench) -> None:
        early = bench.server.store("pods", pod("early"))

        def create_during_the_list() -> None:
            late = pod("late")
            late["metadata"] |= {"uid": "late", "resourceVersion": str(bench.server.version + 1)}
            bench.cache.put(late)
            bench.cache.put(early)
            assert bench.names() == ["early", "late"]

        bench.server.before_list = create_during_the_list
        await bench.cache.wait_synced()
        assert bench.names() == ["early", "late"]

    bench(test)


def test_what_we_know_to_be_gone_stays_gone(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        made = bench.server.store("pods", pod("a"))
        await bench.until_it_watches()
        uid = made["metadata"]["uid"]
        bench.cache.drop("ml", "a", "another-uid")
        assert bench.names() == ["a"]
        bench.server.store("pods", pod("a", phase="Running"))  # its event is still under way
        bench.server.delete("pods", "ml", "a")
        bench.cache.drop("ml", "a", uid)
        assert bench.names() == []
        newer = {**made, "metadata": {**made["metadata"], "resourceVersion": "999999"}}
        bench.cache.put(newer)
        assert bench.names() == []
        bench.server.store("pods", pod("z"))
        await bench.until_it_holds("z")
        assert bench.heard == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "z")]

    bench(test)


def test_a_namesake_takes_the_place_of_the_pod_that_was_dropped(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        old = bench.server.store("pods", pod("a"))
        await bench.until_it_watches()
        bench.server.delete("pods", "ml", "a")
        bench.cache.drop("ml", "a", old["metadata"]["uid"])
        bench.cache.put(bench.server.store("pods", pod("a", phase="Pending")))
        bench.server.store("pods", pod("z"))
        await bench.until_it_holds("a", "z")
        assert bench.heard[1:] == [("DELETED", "a"), ("ADDED", "a"), ("ADDED", "z")]

    bench(test)


def test_a_namesake_whose_predecessors_end_was_missed_is_another_pod(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.server.store("pods", pod("a"))
        await bench.until_it_watches()
        bench.server.forget_silently("pods", "ml", "a")
        bench.server.store("pods", pod("a"))
        await until(lambda: len(bench.heard) == 3)
        assert bench.heard == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
        assert len(bench.cache.by_job(KEY)) == 1

    bench(test)


def test_a_server_restored_from_a_backup_is_believed(bench: Run) -> None:
    async def test(bench: Bench) -> None:
        kept = bench.server.store("pods", pod("kept", phase="Pending"))
        bench.server.store("pods", pod("kept", phase="Running"))
        bench.server.store("pods", pod("made after the backup"))
        await bench.until_it_watches()
        bench.server.objects = {("pods", "ml", "kept"): kept}
        bench.server.version = int(kept["metadata"]["resourceVersion"])
        bench.server.bookmark()
        await bench.until_it_holds("kept")
        known = bench.cache.get("ml", "kept")
        assert known is not None
        assert known["status"] == {"phase": "Pending"}

    bench(test)
