"""Who is believed, what is refused, and what an outage of the API server does to agents."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from goodput.protocol import Misdirected, ProcessExit, Run, SyncAnswer
from goodput_operator.errors import ForbiddenError, UnavailableError
from goodput_operator.observe.agents import TokenIdentity
from goodput_operator.reports.auth import Gate, RateLimiter, read_claims
from goodput_operator.reports.handler import SyncHandler
from tests.unit.reports.agents import (
    KEY,
    PEER,
    START,
    World,
    answer_of,
    claims,
    pod,
    request,
    settle,
    token,
)

ME = pod(0)
OTHER = pod(1)
RUN = SyncAnswer(kind="run", revision="r1", attempt=3)


def scenario(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def known(world: World, slot: int = 0) -> bool:
    return pod(slot).uid in world.store.views(KEY)


def test_a_report_of_a_worker_is_kept_and_answered() -> None:
    async def story() -> None:
        world = World(ME)
        world.store.set_answers(KEY, {ME.uid: RUN})
        assert answer_of(await world.ask(ME, request(hold_seconds=5.0))) == RUN
        assert world.store.views(KEY)[ME.uid].received_at == START
        assert world.woken == [KEY]

    scenario(story)


FORGED_CLAIMS = {
    "of another audience": claims(ME, aud=["https://kubernetes.default.svc"]),
    "of no audience": claims(ME, aud=None),
    "that has expired": claims(ME, exp=int(START.timestamp())),
    "that expires at no number": claims(ME, exp="never"),
    "that never expires": claims(ME, exp=None),
    "that expires at NaN": claims(ME, exp=float("nan")),
    "of a pod that is not there": claims(pod(7)),
    "of an earlier pod of that name": claims(pod(0, uid="its-predecessor")),
    "of a pod in another namespace": claims(
        ME, **{"kubernetes.io": {"namespace": "x", "pod": {"name": ME.name, "uid": ME.uid}}}
    ),
    "of no pod": claims(ME, **{"kubernetes.io": {"namespace": "lab"}}),
    "of a pod whose name is no text": claims(
        ME, **{"kubernetes.io": {"namespace": "lab", "pod": {"name": [], "uid": {}}}}
    ),
    "of a service account": claims(ME, **{"kubernetes.io": None}),
    "that is a list": [],
    "that is a number": 17,
}
GARBAGE = {
    "no token at all": "x",
    "two parts": "a.b",
    "no base64": "a.???.c",
    "no JSON": "a.bm90IGpzb24.c",
    "deep JSON": f"a.{'W1tb' * 1000}.c",
    "a very long token": token(claims(ME, padding="x" * 20_000)),
    "letters from afar": "a.größe.c",
}


@pytest.mark.parametrize(
    "text",
    [
        *(pytest.param(token(payload), id=name) for name, payload in FORGED_CLAIMS.items()),
        *(pytest.param(text, id=name) for name, text in GARBAGE.items()),
    ],
)
def test_without_asking_the_api_server_nobody_believes_a_token(text: str) -> None:
    async def story() -> None:
        world = World(ME)
        reply = await world.ask(ME, request(), text)
        assert (reply.status, reply.result) == (401, "Unauthorized")
        assert not world.reviews
        assert not known(world)
        assert world.handler.results == {"Unauthorized": 1}

    scenario(story)


def test_a_forged_signature_is_found_out_once_and_then_remembered() -> None:
    async def story() -> None:
        world, forged = World(ME), token(claims(ME), signature="forged")
        for _ in range(3):
            assert (await world.ask(ME, request(), forged)).status == 401
        assert len(world.reviews) == 1
        world.later(11)
        assert (await world.ask(ME, request(), forged)).status == 401
        assert len(world.reviews) == 2
        assert not known(world)

    scenario(story)


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(TokenIdentity("lab", "default", OTHER.name, OTHER.uid), id="another pod's"),
        pytest.param(TokenIdentity("lab", "default", ME.name, "another"), id="a namesake's"),
        pytest.param(TokenIdentity("x", "default", ME.name, ME.uid), id="of another namespace"),
        pytest.param(TokenIdentity("lab", "default", "", ""), id="of no pod"),
    ],
)
def test_a_token_is_not_believed_that_the_api_server_says_is(identity: TokenIdentity) -> None:
    async def story() -> None:
        world = World(ME, OTHER)

        async def review(_: str) -> TokenIdentity:
            return identity

        gate = Gate(lambda namespace, name: world.pods.get((namespace, name)), review, world.clock)
        world.handler = SyncHandler(world.store, gate, world.clock)
        world.handler.lead()
        for _ in range(2):
            assert (await world.ask(ME, request())).status == 401
        assert not known(world)

    scenario(story)


def test_all_refusals_of_a_token_look_the_same_to_its_bearer() -> None:
    async def story() -> None:
        world = World(ME)
        bodies = {
            (await world.ask(ME, request(), text)).body
            for text in (
                token(claims(ME), signature="forged"),
                token(claims(pod(7))),
                token(claims(ME, aud=["x"])),
                "x",
            )
        }
        assert len(bodies) == 1

    scenario(story)


def test_nobody_speaks_for_another_slot() -> None:
    async def story() -> None:
        world = World(ME, OTHER)
        reply = await world.ask(ME, request(slot=1))
        assert (reply.status, reply.result) == (403, "WrongSlot")
        assert (await world.ask(ME, request(incarnation=2))).status == 403
        assert not known(world, 0)
        assert not known(world, 1)

    scenario(story)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"[" * 60_000, id="deep JSON"),
        pytest.param(b'{"a":' * 10_000, id="deep objects"),
        pytest.param(b"\xff\xfe\xfd", id="bytes that are no text"),
        pytest.param(b"{}", id="an object without its fields"),
        pytest.param(b'{"slot":NaN,"incarnation":1,"sequence":1,"sentAt":1}', id="NaN"),
        pytest.param(b'{"slot":1e999,"incarnation":1,"sequence":1,"sentAt":1}', id="infinity"),
        pytest.param(
            b'{"slot":0,"incarnation":1,"sequence":%s,"sentAt":1}' % (b"9" * 5000),
            id="a number of 5,000 digits",
        ),
        pytest.param(
            b'{"slot":0,"incarnation":1,"sequence":%d,"sentAt":1}' % 2**60, id="a huge number"
        ),
        pytest.param(
            b'{"slot":0,"incarnation":1,"sequence":1,"sentAt":1,"holdSeconds":NaN}',
            id="a hold of NaN seconds",
        ),
        pytest.param(
            request(run=Run(3, exits=(ProcessExit(0, 1, 1),) * 65)).to_json(),
            id="more exits than anyone has processes",
        ),
    ],
)
def test_a_body_that_is_no_report_changes_nothing(body: bytes) -> None:
    async def story() -> None:
        world = World(ME)
        reply = await world.ask(ME, body)
        assert (reply.status, reply.result) == (400, "Malformed")
        assert "Traceback" not in reply.body.decode()
        assert json.loads(reply.body)["message"]
        assert not known(world)

    scenario(story)


def test_words_that_no_utf8_can_hold_are_made_writable() -> None:
    async def story() -> None:
        world = World(ME)
        end = ProcessExit(0, 1, 1, exception="half of \ud83d and a whole \U0001f600")
        await world.ask(ME, request(run=Run(3, exits=(end,))))
        run = world.store.views(KEY)[ME.uid].request.run
        assert run is not None
        assert run.exits[0].exception == "half of ? and a whole \U0001f600"

    scenario(story)


@pytest.mark.parametrize(
    "replayed",
    [
        pytest.param(request(4), id="an older request"),
        pytest.param(request(5), id="the same request"),
        pytest.param(request(9, run=Run(attempt=2, alive=8)), id="a report of an older attempt"),
    ],
)
def test_a_replay_changes_nothing_and_is_answered_at_once(replayed: object) -> None:
    async def story() -> None:
        world = World(ME)
        await world.ask(ME, request(5))
        before = dict(world.store.views(KEY))
        world.later(3)
        reply = await world.ask(ME, replayed)  # type: ignore[arg-type]
        assert (reply.status, reply.result) == (200, "Stale")
        assert world.store.views(KEY) == before
        assert world.woken == [KEY]

    scenario(story)


# --- what the API server is asked --------------------------------------------------------


def test_the_api_server_is_asked_once_about_a_token_for_minutes() -> None:
    async def story() -> None:
        world = World(ME)
        for sequence in range(1, 50):
            assert (await world.ask(ME, request(sequence), token(claims(ME)))).status == 200
            world.later(5)
        assert len(world.reviews) == 1

    scenario(story)


def test_a_kept_review_is_renewed_behind_the_scenes_within_ten_minutes() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME))
        await world.ask(ME, request(1), mine)
        world.later(600)
        assert (await world.ask(ME, request(2), mine)).status == 200
        await settle()
        assert len(world.reviews) == 2

    scenario(story)


def test_a_token_that_is_no_longer_good_is_refused_after_its_renewal() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME), signature="good")
        await world.ask(ME, request(1), mine)
        world.later(600)

        async def revoked(_text: str) -> None:
            return None

        world.gate._review = revoked
        await world.ask(ME, request(2), mine)
        await settle()
        assert (await world.ask(ME, request(3), mine)).status == 401

    scenario(story)


def test_many_requests_with_one_new_token_ask_once() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME))
        world.api_waits = asyncio.Event()
        replies = [world.send(ME, request(sequence), mine) for sequence in range(1, 6)]
        await settle()
        world.api_waits.set()
        await settle()
        assert [one.status for [one] in replies] == [200] * 5
        assert len(world.reviews) == 1

    scenario(story)


def test_a_token_dies_with_its_pod_at_once() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME))
        await world.ask(ME, request(1), mine)
        world.pods.clear()
        assert (await world.ask(ME, request(2), mine)).status == 401
        world.pods = World(pod(0, uid="its-successor")).pods
        assert (await world.ask(ME, request(3), mine)).status == 401
        assert len(world.reviews) == 1

    scenario(story)


def test_a_pod_that_dies_while_its_token_is_reviewed_is_not_believed() -> None:
    async def story() -> None:
        world = World(ME)
        world.api_waits = asyncio.Event()
        replies = world.send(ME, request())
        await settle()
        world.pods.clear()
        world.api_waits.set()
        await settle()
        assert [one.status for one in replies] == [401]
        assert not known(world)

    scenario(story)


def test_a_kept_review_ends_with_the_token() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME, exp=int(START.timestamp()) + 60))
        assert (await world.ask(ME, request(1), mine)).status == 200
        world.later(59)
        assert (await world.ask(ME, request(2), mine)).status == 200
        world.later(1)
        assert (await world.ask(ME, request(3), mine)).status == 401

    scenario(story)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UnavailableError("down", retry_after_seconds=7), id="that is down"),
        pytest.param(ForbiddenError("no right"), id="that lets us ask nothing"),
    ],
)
def test_an_api_server_silences_no_agent_that_was_recognised(error: Exception) -> None:
    async def story() -> None:
        world, mine = World(ME, OTHER), token(claims(ME))
        await world.ask(ME, request(1), mine)
        world.api_error = error
        for sequence in range(2, 100):
            assert (await world.ask(ME, request(sequence), mine)).status == 200
            world.later(30)
        stranger = await world.ask(OTHER, request(slot=1))
        assert (stranger.status, stranger.result) == (503, "ReviewUnavailable")
        assert stranger.retry_after_seconds >= 1
        world.api_error = None
        assert (await world.ask(OTHER, request(slot=1))).status == 200

    scenario(story)


# --- how much -----------------------------------------------------------------------------


def test_a_pod_that_shouts_is_told_to_wait_and_is_heard_again() -> None:
    async def story() -> None:
        world, mine = World(ME, OTHER), token(claims(ME))
        replies = [await world.ask(ME, request(sequence), mine) for sequence in range(1, 100)]
        refused = [one for one in replies if one.status == 429]
        assert 60 < len(refused) < 80
        assert all(one.retry_after_seconds >= 1 for one in refused)
        assert (await world.ask(OTHER, request(slot=1))).status == 200
        world.later(refused[-1].retry_after_seconds)
        assert (await world.ask(ME, request(200), mine)).status == 200

    scenario(story)


def test_who_guesses_tokens_is_no_longer_listened_to_but_his_neighbours_are() -> None:
    async def story() -> None:
        world, mine = World(ME), token(claims(ME))
        await world.ask(ME, request(1), mine)
        forged = [token(claims(ME), signature=f"forged-{i}") for i in range(100)]
        statuses = [(await world.ask(ME, request(2), text)).status for text in forged]
        assert statuses.count(429) == 80
        assert len(world.reviews) == 21
        assert (await world.ask(ME, request(3), mine)).status == 200  # from the same address

    scenario(story)


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    limiter = RateLimiter(per_second=2.0, burst=3)
    for _ in range(3):
        assert limiter.wait_seconds(PEER, 0.0) == 0
        limiter.charge(PEER, 0.0)
    assert limiter.wait_seconds(PEER, 0.0) == pytest.approx(0.5)
    assert limiter.wait_seconds(PEER, 0.5) == pytest.approx(0)
    limiter.charge(PEER, 1000.0)
    limiter.charge(PEER, 1000.0)
    assert limiter.wait_seconds(PEER, 1000.0) == pytest.approx(0)
    limiter.charge(PEER, 1000.0)
    assert limiter.wait_seconds(PEER, 1000.0) == pytest.approx(0.5)


def test_nobody_is_locked_out_by_a_clock_that_is_put_back() -> None:
    limiter = RateLimiter(per_second=2.0, burst=3)
    for _ in range(3):
        limiter.charge("pod", 5000.0)
    assert limiter.wait_seconds("pod", 5000.0) > 0
    assert limiter.wait_seconds("pod", 1400.0) == 0
    for _ in range(3):
        limiter.charge("pod", 1400.0)
    assert limiter.wait_seconds("pod", 1400.0) > 0, "the limit holds all the same"


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1, max_keys=10)
    for number in range(1000):
        limiter.charge(f"10.0.{number}", 0.0)
    assert limiter.wait_seconds("10.0.999", 0.0) > 0
    assert limiter.wait_seconds("10.0.0", 0.0) == 0


def test_claims_are_read_from_a_token_whose_audience_is_one_word() -> None:
    named = read_claims(token(claims(ME, aud="goodput.training/agent")))
    assert named is not None
    assert (named.namespace, named.pod_name, named.pod_uid) == (ME.namespace, ME.name, ME.uid)


# --- who leads ----------------------------------------------------------------------------


def test_a_standby_names_the_leader_and_asks_nobody_for_a_token() -> None:
    async def story() -> None:
        world = World(ME)
        world.handler.follow("10.0.0.1:8443")
        reply = await world.ask(ME, b"", "x")
        assert reply.status == 421
        assert Misdirected.from_json(reply.body) == Misdirected("10.0.0.1:8443")
        assert not world.reviews

    scenario(story)


def test_who_loses_the_lead_sends_everyone_on_who_waits() -> None:
    async def story() -> None:
        world = World(ME, OTHER)
        held = world.send(ME, request(hold_seconds=5.0))
        await settle()
        world.api_waits = asyncio.Event()
        introduced = world.send(OTHER, request(slot=1))
        await settle()
        assert (held, introduced) == ([], [])
        world.handler.follow("10.0.0.1:8443")
        assert [one.status for one in held] == [421]
        world.api_waits.set()
        await settle()
        assert [one.status for one in introduced] == [421]
        assert len(world.store) == 0

    scenario(story)


def test_who_stops_answers_everyone_who_waits() -> None:
    async def story() -> None:
        world = World(ME, OTHER)
        held = world.send(ME, request(hold_seconds=5.0))
        await settle()
        world.api_waits = asyncio.Event()
        introduced = world.send(OTHER, request(slot=1))
        await settle()
        await world.handler.close()
        assert [one.status for one in held + introduced] == [503, 503]
        assert (await world.ask(ME, request(2))).status == 503
        assert world.handler.results == {"Stopping": 3}

    scenario(story)


def test_a_held_poll_is_answered_when_its_time_is_over() -> None:
    async def story() -> None:
        world = World(ME)
        held = world.send(ME, request(hold_seconds=5.0))
        await settle()
        world.later(4.9)
        assert held == []
        world.later(0.1)
        assert [answer_of(one).kind for one in held] == ["hold"]

    scenario(story)
