"""An API server answers as the gateway believes: a real one, and the simulated one likewise."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from goodput_operator import errors
from goodput_operator.effects import gateway as api
from goodput_operator.effects.gateway import Gateway
from goodput_operator.observe.agents import TokenIdentity
from tests.contract.conftest import only_real
from tests.contract.tiers import Api, Tier

Test = Callable[[Gateway], Awaitable[None]]
AUDIENCE = "goodput.training/agent"


@pytest.fixture
def talk(tier: Tier) -> Callable[[Test], None]:
    return tier.talk


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod that no node takes."""
    container = {"name": "trainer", "image": "example.com/none:1"}
    nowhere = {"goodput.training/nowhere": "true"}
    return {
        "metadata": {"name": name},
        "spec": {"containers": [container], "nodeSelector": nowhere, **spec},
    }


def test_a_pod_is_created_once_and_a_dry_run_creates_none(
    talk: Callable[[Test], None], place: str
) -> None:
    async def test(gateway: Gateway) -> None:
        tried = await gateway.create_pod(place, pod("a"), dry_run=True)
        assert tried["spec"]["restartPolicy"] == "Always", "the server's defaults are in it"
        with pytest.raises(errors.NotFoundError):
            await gateway.get_pod(place, "a")
        made = await gateway.create_pod(place, pod("a"))
        assert int(made["metadata"]["resourceVersion"]) > 0
        with pytest.raises(errors.AlreadyExistsError, match='"a" already exists'):
            await gateway.create_pod(place, pod("a"))

    talk(test)


@only_real
def test_a_refusal_names_the_field(talk: Callable[[Test], None], place: str) -> None:
    async def test(gateway: Gateway) -> None:
        with pytest.raises(errors.InvalidError, match=r"spec\.activeDeadlineSeconds"):
            await gateway.create_pod(place, pod("a", activeDeadlineSeconds=-5))
        with pytest.raises(errors.InvalidError, match="restartPolicy"):
            await gateway.create_pod(place, pod("a", restartPolicy=7))
        with pytest.raises(errors.NotFoundError, match="namespaces"):
            await gateway.create_pod("no-such-namespace", pod("a"))

    talk(test)


def test_a_quota_says_no_in_its_own_words(
    talk: Callable[[Test], None], api_server: Api, place: str
) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    api_server.call("POST", f"/api/v1/namespaces/{place}/resourcequotas", quota)

    async def test(gateway: Gateway) -> None:
        with pytest.raises(errors.ForbiddenError, match="quota"):
            await gateway.create_pod(place, pod("a"))

    talk(test)


@only_real
def test_a_policy_says_no_in_its_own_words(
    talk: Callable[[Test], None], api_server: Api, place: str
) -> None:
    policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    policy = {
        "metadata": {"name": place},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "no pods on Sundays"}],
        },
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": place}}
    binding = {
        "metadata": {"name": place},
        "spec": {
            "policyName": place,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        },
    }

    async def refusal(gateway: Gateway) -> errors.ApiError:
        while True:  # policies take effect a moment after they are made
            try:
                await gateway.create_pod(place, pod("a"), dry_run=True)
            except errors.ApiError as error:
                return error

    async def test(gateway: Gateway) -> None:
        refused = await asyncio.wait_for(refusal(gateway), 30)
        assert isinstance(refused, errors.InvalidError)
        assert "no pods on Sundays" in str(refused)

    api_server.call("POST", policies, policy)
    api_server.call("POST", bindings, binding)
    try:
        talk(test)
    finally:
        api_server.call("DELETE", f"{bindings}/{place}")
        api_server.call("DELETE", f"{policies}/{place}")


def test_deletion_strikes_the_pod_that_was_meant_and_no_namesake(
    talk: Callable[[Test], None], place: str
) -> None:
    async def test(gateway: Gateway) -> None:
        made = await gateway.create_pod(place, pod("a"))
        await gateway.delete_pod(place, "a", "00000000-0000-0000-0000-000000000000")
        assert "deletionTimestamp" not in (await gateway.get_pod(place, "a"))["metadata"]
        for _ in range(2):
            await gateway.delete_pod(place, "a", made["metadata"]["uid"], grace_seconds=0)
        with pytest.raises(errors.NotFoundError):
            await gateway.get_pod(place, "a")

    talk(test)


def test_a_status_is_written_only_onto_the_state_it_was_made_for(
    talk: Callable[[Test], None], place: str
) -> None:
    container = {"name": "trainer", "image": "a", "command": ["train"]}
    template = {"spec": {"containers": [container]}}
    elsewhere = {"managedBy": "example.com/nobody"}  # an operator that runs here leaves it alone
    spec = {"workers": 2, "template": template, **elsewhere}
    body = {"metadata": {"name": "char-gpt"}, "spec": spec}

    async def test(gateway: Gateway) -> None:
        made = await gateway.create(api.JOBS, place, body)
        assert [job["metadata"]["name"] for job in await gateway.list_jobs(place)] == ["char-gpt"]
        written = await gateway.replace_status({**made, "status": {"phase": "Queued"}})
        assert written["status"]["phase"] == "Queued"
        with pytest.raises(errors.ConflictError):
            await gateway.replace_status({**made, "status": {"phase": "Failed"}})
        key = (place, "char-gpt")
        assert (await gateway.get_job(key))["status"]["phase"] == "Queued"
        for _ in range(2):
            await gateway.delete_job(key, made["metadata"]["uid"])
        with pytest.raises(errors.NotFoundError):
            await gateway.get_job(key)

    talk(test)


def test_of_two_that_replace_a_lease_one_wins(talk: Callable[[Test], None], place: str) -> None:
    async def test(gateway: Gateway) -> None:
        body = {"metadata": {"name": "leader"}, "spec": {"leaseDurationSeconds": 15}}
        lease = await gateway.create(api.LEASES, place, body)
        results = await asyncio.gather(
            *(
                gateway.replace(
                    api.LEASES,
                    place,
                    {**lease, "spec": {**lease["spec"], "holderIdentity": me}},
                )
                for me in ("one", "two", "three")
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(result, errors.ConflictError) for result in results) == 2
        winners = [result["spec"] for result in results if isinstance(result, dict)]
        assert winners == [(await gateway.get(api.LEASES, place, "leader"))["spec"]]

    talk(test)


def test_a_projected_token_names_its_pod_to_its_audience_alone(
    talk: Callable[[Test], None], api_server: Api, place: str
) -> None:
    async def test(gateway: Gateway) -> None:
        made = await gateway.create_pod(place, pod("char-gpt-0-0"))
        uid = made["metadata"]["uid"]
        token = _token(api_server, place, uid)
        assert await gateway.review_token(token, AUDIENCE) == TokenIdentity(
            namespace=place, service_account="default", pod_name="char-gpt-0-0", pod_uid=uid
        )
        assert await gateway.review_token(token, "https://kubernetes.default.svc") is None
        assert await gateway.review_token(token[:-4] + "AAAA", AUDIENCE) is None
        assert await gateway.review_token("nonsense", AUDIENCE) is None
        assert await gateway.review_token("", AUDIENCE) is None

    talk(test)


def test_an_event_is_accepted(talk: Callable[[Test], None], place: str) -> None:
    event = {
        "metadata": {"generateName": "char-gpt-", "namespace": place},
        "eventTime": "2026-11-22T03:00:00.000000Z",
        "reportingController": "goodput.training/operator",
        "reportingInstance": "goodput-operator-0",
        "action": "Restart",
        "reason": "Restarting",
        "note": "rank 3 was killed",
        "type": "Warning",
        "regarding": {"kind": "TrainingJob", "namespace": place, "name": "char-gpt"},
    }
    talk(lambda gateway: gateway.create_event(event))


def test_lists_come_in_pages_of_one_moment(talk: Callable[[Test], None], place: str) -> None:
    async def test(gateway: Gateway) -> None:
        for name in "abcde":
            await gateway.create_pod(place, pod(name))
        page = await gateway.list_page(api.PODS, place, limit=3)
        version = page["metadata"]["resourceVersion"]
        await gateway.create_pod(place, pod("f"))
        rest = await gateway.list_page(
            api.PODS, place, limit=3, continue_=page["metadata"]["continue"]
        )
        names = [one["metadata"]["name"] for one in page["items"] + rest["items"]]
        assert names == list("abcde")
        assert rest["metadata"]["resourceVersion"] == version
        events = gateway.watch(api.PODS, place, resource_version=version)
        async for event in events:  # the scheduler writes on the others
            if event["object"]["metadata"]["name"] == "f":
                assert event["type"] == "ADDED"
                break
        await events.aclose()

    talk(test)


def test_a_watch_ends_in_time_and_with_a_bookmark(talk: Callable[[Test], None], place: str) -> None:
    async def test(gateway: Gateway) -> None:
        page = await gateway.list_page(api.PODS, place)
        await gateway.create_pod(place, pod("a"))
        version = page["metadata"]["resourceVersion"]
        events = gateway.watch(api.PODS, place, resource_version=version, timeout_seconds=6)
        kinds = [event["type"] async for event in events]
        assert kinds[0] == "ADDED"
        assert "BOOKMARK" in kinds

    talk(test)


def test_a_watch_from_long_ago_has_expired(talk: Callable[[Test], None], tier: Tier) -> None:
    tier.expire_watches()

    async def test(gateway: Gateway) -> None:
        events = gateway.watch(api.PODS, resource_version="1", timeout_seconds=1)
        try:
            remembered = [event async for event in events]
        except errors.ExpiredError:
            return
        pytest.skip(f"this API server is young: it remembers all {len(remembered)} events")

    talk(test)


def _token(api_server: Api, place: str, uid: str) -> str:
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "char-gpt-0-0", "uid": uid}
    answer = api_server.call(
        "POST",
        f"/api/v1/namespaces/{place}/serviceaccounts/default/token",
        {"spec": {"audiences": [AUDIENCE], "boundObjectRef": bound, "expirationSeconds": 600}},
    )
    return str(answer["status"]["token"])
