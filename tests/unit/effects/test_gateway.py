"""The gateway speaks the API server's language and hides none of its words."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from goodput_operator import errors
from goodput_operator.effects import gateway as api
from goodput_operator.effects.gateway import Gateway
from goodput_operator.observe.agents import TokenIdentity
from tests.unit.effects import apiserver
from tests.unit.effects.apiserver import ApiServer

POD = {"metadata": {"name": "char-gpt-0-0"}, "spec": {"containers": [], "newInV99": True}}
JOB = {"metadata": {"name": "char-gpt", "namespace": "ml"}, "spec": {"workers": 4}}

Test = Callable[[ApiServer, Gateway], Awaitable[None]]


@pytest.fixture
def talk(tmp_path: Path) -> Callable[[Test], None]:
    """Run a test with a server and a gateway that is connected to it."""

    async def run(test: Test) -> None:
        server = ApiServer()
        async with server.serving(tmp_path) as kubeconfig:
            gateway = await Gateway.connect(kubeconfig=str(kubeconfig), request_timeout_seconds=0.5)
            try:
                await test(server, gateway)
            finally:
                await gateway.close()

    return lambda test: asyncio.run(run(test))


def test_what_is_created_comes_back_whole(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        made = await gateway.create_pod("ml", POD)
        assert made["kind"] == "Pod"
        assert made["apiVersion"] == "v1"
        assert made["spec"]["newInV99"] is True, "fields that no client knows survive"
        assert await gateway.get_pod("ml", "char-gpt-0-0") == made

    talk(test)


def test_a_dry_run_creates_nothing(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        assert (await gateway.create_pod("ml", POD, dry_run=True))["metadata"]["namespace"] == "ml"
        assert server.objects == {}
        assert gateway.requests == {("try", "pods", 201): 1}

    talk(test)


@pytest.mark.parametrize(
    ("code", "fields", "expected"),
    [
        (400, {"reason": "BadRequest"}, errors.InvalidError),
        (401, {"reason": "Unauthorized"}, errors.ForbiddenError),
        (403, {"reason": "Forbidden"}, errors.ForbiddenError),
        (404, {"reason": "NotFound"}, errors.NotFoundError),
        (409, {"reason": "AlreadyExists"}, errors.AlreadyExistsError),
        (409, {"reason": "Conflict"}, errors.ConflictError),
        (410, {"reason": "Expired"}, errors.ExpiredError),
        (413, {"reason": "RequestEntityTooLarge"}, errors.InvalidError),
        (422, {"reason": "Invalid"}, errors.InvalidError),
        (429, {"reason": "TooManyRequests"}, errors.UnavailableError),
        (500, {"reason": "InternalError"}, errors.UnavailableError),
        (503, {"reason": "ServiceUnavailable"}, errors.UnavailableError),
        (504, {"reason": "Timeout"}, errors.UnavailableError),
    ],
)
def test_each_refusal_says_whether_a_retry_can_help(
    talk: Callable[[Test], None],
    code: int,
    fields: dict[str, Any],
    expected: type[errors.ApiError],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        words = 'admission webhook "policy.example.com" denied the request: no root'
        server.fail("create", (code, {**fields, "message": words}))
        with pytest.raises(errors.ApiError) as caught:
            await gateway.create_pod("ml", POD)
        assert type(caught.value) is expected
        assert str(caught.value) == words
        assert (caught.value.code, caught.value.reason) == (code, fields["reason"])
        assert gateway.requests == {("create", "pods", code): 1}

    talk(test)


def test_the_servers_wish_to_be_left_alone_is_passed_on(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.fail(
            "get",
            (429, {}, {"Retry-After": "7"}),
            (504, {"details": {"retryAfterSeconds": 3}}),
            (503, {}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        )
        for seconds in (7.0, 3.0, 0.0):
            with pytest.raises(errors.UnavailableError) as caught:
                await gateway.get_pod("ml", "a")
            assert caught.value.retry_after_seconds == seconds

    talk(test)


def test_words_of_a_proxy_are_passed_on_too() -> None:
    error = api.refusal(502, b"<html>Bad Gateway</html>")
    assert isinstance(error, errors.UnavailableError)
    assert "Bad Gateway" in str(error)
    assert "413" in str(api.refusal(413, b""))


def test_an_answer_that_never_comes_ends_in_the_time_out(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.fail("get", apiserver.HANG)
        with pytest.raises(errors.UnavailableError) as caught:
            await gateway.get_pod("ml", "a")
        assert caught.value.code == 0
        assert gateway.requests == {("get", "pods", 0): 1}

    talk(test)


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async def test() -> None:
        async with ApiServer().serving(tmp_path) as kubeconfig:
            pass
        gateway = await Gateway.connect(kubeconfig=str(kubeconfig))
        with pytest.raises(errors.UnavailableError, match="get /api/v1/namespaces/ml/pods/a"):
            await gateway.get_pod("ml", "a")
        await gateway.close()

    asyncio.run(test())


def test_without_a_configuration_nothing_is_connected(tmp_path: Path) -> None:
    with pytest.raises(errors.UnavailableError):
        asyncio.run(Gateway.connect(kubeconfig=str(tmp_path / "none")))
    with pytest.raises(errors.UnavailableError, match="Service host"):
        asyncio.run(Gateway.connect(kubeconfig=None))


def test_a_status_is_written_only_onto_the_state_it_was_made_for(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.store("trainingjobs", JOB)
        old = await gateway.get_job(("ml", "char-gpt"))
        new = await gateway.replace_status({**old, "status": {"phase": "Running"}})
        assert new["status"] == {"phase": "Running"}
        with pytest.raises(errors.ConflictError):
            await gateway.replace_status({**old, "status": {"phase": "Failed"}})
        assert (await gateway.get_job(("ml", "char-gpt")))["status"] == {"phase": "Running"}
        assert gateway.requests["update", "trainingjobs/status", 409] == 1

    talk(test)


def test_deletion_strikes_the_pod_that_was_meant_and_no_namesake(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        pod = await gateway.create_pod("ml", POD)
        await gateway.delete_pod("ml", "char-gpt-0-0", "another-uid")
        assert await gateway.get_pod("ml", "char-gpt-0-0") == pod
        await gateway.delete_pod("ml", "char-gpt-0-0", pod["metadata"]["uid"], grace_seconds=0)
        await gateway.delete_pod("ml", "char-gpt-0-0", pod["metadata"]["uid"])
        assert server.objects == {}

    talk(test)


def test_what_a_second_deletion_takes_away_is_gone_though_the_answer_shows_it(
    talk: Callable[[Test], None],
) -> None:
    """The API server answers with the last state, its deletionTimestamp, and no version."""

    async def test(server: ApiServer, gateway: Gateway) -> None:
        pod = await gateway.create_pod("ml", POD)
        uid = pod["metadata"]["uid"]
        last = {"metadata": {"name": "char-gpt-0-0", "uid": uid, "deletionTimestamp": "2026-01-01"}}
        server.fail("delete", (200, last))
        assert await gateway.delete_pod("ml", "char-gpt-0-0", uid) is None

    talk(test)


def test_a_deletion_refused_for_another_reason_is_no_success(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        pod = await gateway.create_pod("ml", POD)
        server.fail("delete", (409, {"reason": "Conflict", "message": "try again"}))
        with pytest.raises(errors.ConflictError):
            await gateway.delete_pod("ml", "char-gpt-0-0", pod["metadata"]["uid"])

    talk(test)


def test_a_deleted_job_takes_its_pods_along_in_the_background(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        job = server.store("trainingjobs", JOB)
        await gateway.delete_job(("ml", "char-gpt"), job["metadata"]["uid"])
        await gateway.delete_job(("ml", "char-gpt"), job["metadata"]["uid"])
        assert server.objects == {}

    talk(test)


def test_lists_are_read_to_the_last_page(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        for number in range(303):
            metadata = {"name": f"job-{number}", "namespace": "ml" if number % 2 else "other"}
            server.store("trainingjobs", {"metadata": metadata})
        assert len(await gateway.list_jobs(None)) == 303
        assert len(await gateway.list_jobs("ml")) == 151
        assert server.count("list") == 4 + 2

    talk(test)


def _reviewer(answer: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda spec: answer if spec == {"token": "t", "audiences": ["agents"]} else {}


USER = {
    "username": "system:serviceaccount:ml:trainer",
    "extra": {
        "authentication.kubernetes.io/pod-name": ["char-gpt-0-0"],
        "authentication.kubernetes.io/pod-uid": ["1234"],
    },
}
GOOD = {"authenticated": True, "audiences": ["agents"], "user": USER}


@pytest.mark.parametrize(
    ("status", "identity"),
    [
        pytest.param(GOOD, TokenIdentity("ml", "trainer", "char-gpt-0-0", "1234"), id="good"),
        pytest.param(
            {**GOOD, "user": {"username": USER["username"]}},
            TokenIdentity("ml", "trainer", "", ""),
            id="good, but of no pod",
        ),
        pytest.param({"authenticated": False, "error": "expired"}, None, id="expired"),
        pytest.param({}, None, id="no word"),
        pytest.param({**GOOD, "audiences": ["others"]}, None, id="for others"),
        pytest.param({**GOOD, "audiences": None}, None, id="a server that ignores audiences"),
        pytest.param({**GOOD, "user": {"username": "admin"}}, None, id="a person"),
    ],
)
def test_a_token_speaks_for_a_service_account_or_for_nobody(
    talk: Callable[[Test], None], status: dict[str, Any], identity: TokenIdentity | None
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.review = _reviewer(status)
        assert await gateway.review_token("t", "agents") == identity

    talk(test)


def test_an_event_lands_in_its_namespace(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        event = {"metadata": {"name": "e", "namespace": "ml"}, "reason": "Restarted"}
        await gateway.create_event(event)
        stored = server.objects["events", "ml", "e"]
        assert (stored["kind"], stored["apiVersion"]) == ("Event", "events.k8s.io/v1")
        assert server.asked[0][1] == "/apis/events.k8s.io/v1/namespaces/ml/events"

    talk(test)


def test_a_burst_is_sent_by_a_bounded_number_of_connections(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        pods = [{"metadata": {"name": f"p-{number}"}} for number in range(300)]
        await asyncio.gather(*(gateway.create_pod("ml", pod) for pod in pods))
        assert len(server.objects) == 300
        assert server.most_at_once <= api.MOST_REQUESTS_AT_ONCE
        assert gateway.requests == {("create", "pods", 201): 300}

    talk(test)


async def _watch(gateway: Gateway, version: int, **more: Any) -> list[str]:
    events = gateway.watch(api.PODS, resource_version=str(version), **more)
    return [event["type"] async for event in events]


def test_a_watch_tells_what_happened_since(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        first = server.store("pods", {"metadata": {"name": "a", "namespace": "ml"}})
        events = gateway.watch(api.PODS, resource_version=first["metadata"]["resourceVersion"])
        server.store("pods", {"metadata": {"name": "ü" * 300_000, "namespace": "ml"}})
        told = await anext(events)
        assert told["type"] == "ADDED"
        assert told["object"]["metadata"]["name"] == "ü" * 300_000, "longer than any buffer"
        opening = anext(events)
        server.bookmark()
        assert (await opening)["type"] == "BOOKMARK"
        await events.aclose()

    talk(test)


def test_a_cut_or_broken_watch_is_unavailable(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.store("pods", {"metadata": {"name": "a", "namespace": "ml"}})
        for fault in (apiserver.CUT, apiserver.GARBAGE):
            server.fail("watch", fault)
            with pytest.raises(errors.UnavailableError) as caught:
                await _watch(gateway, 1)
            assert caught.value.reason != api.SILENCE

    talk(test)


def test_a_watch_on_which_nothing_comes_is_ended(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.fail("watch", apiserver.SILENT)
        with pytest.raises(errors.UnavailableError) as caught:
            await _watch(gateway, 1, silence_seconds=0.05)
        assert caught.value.reason == api.SILENCE

    talk(test)


def test_a_watch_that_is_too_late_has_expired(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        server.compact()
        with pytest.raises(errors.ExpiredError, match="too old"):
            await _watch(gateway, 1)
        server.fail("watch", {"code": 410, "reason": "Expired", "message": "compacted"})
        with pytest.raises(errors.ExpiredError, match="compacted"):
            await _watch(gateway, server.version)

    talk(test)


def test_a_token_that_was_rotated_is_read_again(tmp_path: Path) -> None:
    async def test() -> None:
        server = ApiServer()
        async with server.serving(tmp_path) as kubeconfig:
            gateway = await Gateway.connect(kubeconfig=str(kubeconfig), credentials_seconds=0)
            await gateway.list_jobs(None)
            settings = json.loads(kubeconfig.read_text())
            settings["users"][0]["user"]["token"] = "rotated"
            kubeconfig.write_text(json.dumps(settings))
            await gateway.list_jobs(None)
            await gateway.close()
        said = [headers["Authorization"] for headers in server.headers]
        assert said == ["Bearer secret", "Bearer rotated"]

    asyncio.run(test())
