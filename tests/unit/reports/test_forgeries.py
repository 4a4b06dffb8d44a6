"""Every kind of forgery, sent once to the server; the benchmark `reports` sends thousands."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from e2e.bench.harness.forgeries import FORGED_TOKENS, Forgery, Loot, kinds
from goodput.protocol import SyncAnswer
from goodput_operator.observe.agents import PodIdentity
from tests.unit.reports.agents import KEY, START, claims, pod, request, token
from tests.unit.reports.test_server import Client, Endpoint, endpoint, report, run

ME, NEIGHBOUR = pod(0), pod(1)
SUCCESSOR, STRANGER = pod(0, uid="uid-of-the-next"), pod(7)
RUN = SyncAnswer(kind="run", revision="r1", attempt=3)


def forged_tokens() -> dict[str, Callable[[], str]]:
    """What the API server of `agents.World` finds wrong is in the signature, the rest in claims."""

    def made(of: PodIdentity = ME, signature: str = "good", **changes: object) -> str:
        return token(claims(of, jti=secrets.token_hex(8), **changes), signature)

    past = int((START - timedelta(seconds=1)).timestamp())
    elsewhere = PodIdentity("other", ME.name, "uid-elsewhere", "gpt", 0, 1)
    unbound = {"namespace": "lab", "serviceaccount": {"name": "default", "uid": "sa"}}
    to_secret = {**unbound, "secret": {"name": "s", "uid": "uid-s"}}
    api = ["https://kubernetes.default.svc"]
    return {
        "of the wrong audience": partial(made, aud=api),
        "of a pod in another namespace": partial(made, elsewhere),
        "of a pod that is no worker": partial(made, STRANGER),
        "of another UID than the pod's": partial(made, pod(0, uid="other")),
        "of a pod that is gone": partial(made, pod(0, 0)),
        "of a pod whose name another one bears now": partial(made, SUCCESSOR),
        "of the service account alone": partial(made, **{"kubernetes.io": unbound}),
        "of the service account, for the API server": partial(
            made, aud=api, **{"kubernetes.io": unbound}
        ),
        "of the operator's own account": partial(made, STRANGER, aud=api),
        "that is bound to a secret": partial(made, **{"kubernetes.io": to_secret}),
        "that has expired": partial(made, exp=past),
        **{
            name: partial(made, signature="forged")
            for name in (
                "that is not valid yet",
                "of another cluster",
                "signed with another key",
                "signed with nothing (alg none)",
                "signed with the public key (alg HS256)",
                "with another pod's claims",
                "with a later expiry than was signed",
            )
        },
        "without its signature": partial(made, signature=""),
    }


def loot() -> Loot:
    return Loot(
        slot=ME.slot,
        incarnation=ME.incarnation,
        attempt=3,
        sequence=10,
        own=token(claims(ME)),
        neighbour=token(claims(NEIGHBOUR)),
        tokens=forged_tokens(),
    )


async def send(one: Endpoint, forgery: Forgery) -> Client:
    if forgery.tls:
        client = await one.connect()
    else:
        client = Client(*await asyncio.open_connection("127.0.0.1", one.server.port))
        one.clients.append(client)
    client.send(forgery.sent)
    return client


def test_there_is_a_token_of_every_kind() -> None:
    assert tuple(forged_tokens()) == FORGED_TOKENS


@pytest.mark.parametrize("kind", kinds())
def test_a_forgery_changes_nothing(kind: str) -> None:
    forgery = kinds()[kind](loot())
    patience = {} if forgery.answers else {"request_seconds": 0.3}

    async def story() -> None:
        async with endpoint(**patience) as one:
            world = one.world
            world.pods[NEIGHBOUR.namespace, NEIGHBOUR.name] = NEIGHBOUR
            world.store.set_answers(KEY, {ME.uid: RUN, NEIGHBOUR.uid: RUN})
            assert (await (await one.connect()).ask(report(10))).status == 200
            known, woken = world.store.views(KEY), list(world.woken)

            client = await send(one, forgery)
            answered = [(await client.answer()).status for _ in forgery.answers]

            assert tuple(answered) == forgery.answers
            assert forgery.answers or await client.is_closed()
            assert world.store.views(KEY) == known
            assert world.woken == woken
            assert world.handler.results["Accepted"] == 1
            assert (await (await one.connect()).ask(report(11))).status == 200
            assert world.store.views(KEY)[ME.uid].request == request(11)

    run(story)
