"""Agents trust the operator, and nobody else, through every change of its keys."""

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from goodput.protocol import SERVER_NAME
from goodput_operator.effects.certificates import (
    AUTHORITY_LIFE,
    CERTIFICATE_LIFE,
    SECRET_NAME,
    Authority,
    CertificateError,
    ServingCertificate,
    issue,
    load_authority,
    new_authority,
    rotated,
)
from goodput_operator.effects.gateway import SECRETS, Gateway
from tests.unit.effects.apiserver import ApiServer

NOW = datetime.now(UTC)
"""TLS libraries look at the real clock; the ages of keys are told from here."""
LONG_AGO = NOW - AUTHORITY_LIFE * 0.9

Test = Callable[[ApiServer, Gateway], Awaitable[None]]


@pytest.fixture
def talk(tmp_path: Path) -> Callable[[Test], None]:
    async def run(test: Test) -> None:
        server = ApiServer()
        async with server.serving(tmp_path) as kubeconfig:
            gateway = await Gateway.connect(kubeconfig=str(kubeconfig))
            try:
                await test(server, gateway)
            finally:
                await gateway.close()

    return lambda test: asyncio.run(run(test))


def shake_hands(server: ssl.SSLContext, trusted: str, name: str = SERVER_NAME) -> str:
    """Connect as an agent that trusts these certificates; return the TLS version.

    Raises:
        ssl.SSLCertVerificationError: the agent refuses.
    """
    agent = ssl.create_default_context(cadata=trusted)
    to_server, to_agent = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = server.wrap_bio(to_server, to_agent, server_side=True)
    outside = agent.wrap_bio(to_agent, to_server, server_hostname=name)
    done = 0
    for _ in range(10):
        for side in (outside, inside):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
        if done >= 2:
            break
    return str(outside.version())


def test_an_agent_that_has_the_authority_trusts_the_operator() -> None:
    authority = new_authority(NOW)
    serving = ServingCertificate(authority, NOW)
    assert shake_hands(serving.context, authority.bundle) == "TLSv1.3"


def test_it_trusts_nobody_elses_certificate_and_no_other_name() -> None:
    authority = new_authority(NOW)
    serving = ServingCertificate(authority, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(serving.context, new_authority(NOW).bundle)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(serving.context, authority.bundle, name="example.com")


def test_old_tls_is_not_spoken() -> None:
    serving = ServingCertificate(new_authority(NOW), NOW)
    assert serving.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_node_whose_clock_is_almost_an_hour_slow_accepts_a_fresh_certificate() -> None:
    authority = new_authority(NOW)
    chain, _ = issue(authority, NOW)
    for certificate in (authority.trusted[0], x509.load_pem_x509_certificate(chain.encode())):
        assert certificate.not_valid_before_utc <= NOW - timedelta(minutes=59)


def test_a_serving_certificate_is_short_lived_and_outlives_not_its_authority() -> None:
    assert ServingCertificate(new_authority(NOW), NOW).expires_at <= NOW + CERTIFICATE_LIFE
    old = new_authority(NOW - AUTHORITY_LIFE + timedelta(days=1))
    serving = ServingCertificate(old, NOW)
    assert serving.expires_at == old.trusted[0].not_valid_after_utc


def test_it_is_issued_anew_in_place_when_half_used() -> None:
    authority = new_authority(NOW)
    serving = ServingCertificate(authority, NOW)
    first = serving.expires_at
    assert not serving.refresh(authority, NOW + CERTIFICATE_LIFE * 0.4)
    assert serving.expires_at == first
    assert serving.refresh(authority, NOW + CERTIFICATE_LIFE * 0.6)
    assert serving.expires_at > first


@pytest.mark.parametrize("knows", ["the old", "both", "the new"])
def test_a_new_authority_cuts_no_agent_off(knows: str) -> None:
    old = new_authority(LONG_AGO)
    serving = ServingCertificate(old, NOW)
    new = rotated(old, NOW)
    assert serving.refresh(new, NOW)
    only_new = Authority(new.trusted[:1], new.key)
    bundle = {"the old": old, "both": new, "the new": only_new}[knows].bundle
    assert shake_hands(serving.context, bundle) == "TLSv1.3"


def test_even_two_rotations_on_the_newest_is_trusted() -> None:
    first = new_authority(LONG_AGO)
    third = rotated(rotated(first, NOW), NOW)
    serving = ServingCertificate(third, NOW)
    assert shake_hands(serving.context, third.bundle) == "TLSv1.3"


def test_an_authority_that_has_ended_is_no_longer_handed_out() -> None:
    ended = new_authority(NOW - AUTHORITY_LIFE - timedelta(days=1))
    new = rotated(ended, NOW)
    assert len(new.trusted) == 1
    chain, _ = issue(new, NOW)
    assert chain.count("BEGIN CERTIFICATE") == 1, "nor is its word for the new one"


def test_the_first_replica_writes_the_authority_and_the_next_reads_it(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        first = await load_authority(gateway, "ops", NOW)
        second = await load_authority(gateway, "ops", NOW)
        assert second.bundle == first.bundle
        shake_hands(ServingCertificate(second, NOW).context, first.bundle)
        stored = server.objects["secrets", "ops", SECRET_NAME]
        assert base64.b64decode(stored["data"]["ca.crt"]).decode() == first.bundle

    talk(test)


def test_replicas_that_start_together_agree(talk: Callable[[Test], None]) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        found = await asyncio.gather(*(load_authority(gateway, "ops", NOW) for _ in range(5)))
        assert len({authority.bundle for authority in found}) == 1

    talk(test)


def test_an_authority_in_the_last_third_of_its_life_gets_a_successor_once(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        old = await load_authority(gateway, "ops", LONG_AGO)
        found = await asyncio.gather(*(load_authority(gateway, "ops", NOW) for _ in range(3)))
        assert len({authority.bundle for authority in found}) == 1
        assert found[0].trusted[1:] == old.trusted
        shake_hands(ServingCertificate(found[0], NOW).context, old.bundle)
        again = await load_authority(gateway, "ops", NOW)
        shake_hands(ServingCertificate(again, NOW).context, old.bundle)

    talk(test)


def test_a_secret_that_was_deleted_under_a_running_operator_is_written_again(
    talk: Callable[[Test], None],
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        known = await load_authority(gateway, "ops", NOW)
        server.delete("secrets", "ops", SECRET_NAME)
        assert (await load_authority(gateway, "ops", NOW, known)).bundle == known.bundle
        assert (await load_authority(gateway, "ops", NOW)).bundle == known.bundle

    talk(test)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param({"ca.key": None}, "ca.key", id="the key is missing"),
        pytest.param({"ca.crt": "bm8="}, "cannot be used", id="the certificate is none"),
        pytest.param({"ca.key": "bm8="}, "cannot be used", id="the key is none"),
        pytest.param({"ca.crt": "%"}, "cannot be used", id="not even base64"),
        pytest.param({"ca.key": "other"}, "does not belong", id="the key of another"),
    ],
)
def test_a_secret_that_makes_no_sense_is_named_and_left_alone(
    talk: Callable[[Test], None], data: dict[str, str | None], words: str
) -> None:
    async def test(server: ApiServer, gateway: Gateway) -> None:
        await load_authority(gateway, "other", NOW)
        await load_authority(gateway, "ops", NOW)
        stored = await gateway.get(SECRETS, "ops", SECRET_NAME)
        for name, value in data.items():
            if value is None:
                del stored["data"][name]
            elif value == "other":
                other = server.objects["secrets", "other", SECRET_NAME]
                stored["data"][name] = other["data"][name]
            else:
                stored["data"][name] = value
        broken = await gateway.replace(SECRETS, "ops", stored)
        with pytest.raises(CertificateError, match=f"ops/{SECRET_NAME}.*{words}"):
            await load_authority(gateway, "ops", NOW)
        assert await gateway.get(SECRETS, "ops", SECRET_NAME) == broken

    talk(test)
