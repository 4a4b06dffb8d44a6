"""The operator's own certificate authority, and the certificate that it serves agents with.

Agents trust this authority and nothing else (its certificate reaches them through an
annotation of their pod), and every replica's certificate carries one fixed server name, so
neither cert-manager nor a DNS name is needed. The authority lives in a Secret of the
operator's namespace: `ca.crt` (what to trust, newest first), `ca.key` (the newest one's
key) and `cross.crt` (the newest one's certificate by its predecessor, if there is one).

Rotation needs nobody's help: when less than a third of the authority's life is left, a new
one is made and *cross-signed* by the old one. Served along, the cross certificate lets an
agent that only knows the old authority verify what the new one has issued.

Private keys are loaded through a memory file (Linux), so a read-only root file system is
enough and no key touches a disk.
"""

import base64
import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from goodput.protocol import SERVER_NAME
from goodput_operator import names
from goodput_operator.effects.gateway import SECRETS, Gateway
from goodput_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    GoodputError,
    NotFoundError,
)

logger = logging.getLogger(__name__)

SECRET_NAME = "goodput-operator-ca"  # noqa: S105 - a name, not a secret
AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=30)
BACKDATE = timedelta(hours=1)
"""A node whose clock is behind by less accepts a fresh certificate."""

_WRITE_TRIES = 5


class CertificateError(GoodputError):
    """The Secret of the authority cannot be used; a person must look at it."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority.

    Attributes:
        trusted: certificates that verify what we issue, newest first; the first is ours.
        key: the private key of the first.
        cross: the first one's certificate by its predecessor.
    """

    trusted: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey
    cross: x509.Certificate | None = None

    @property
    def bundle(self) -> str:
        """Return the PEM text that agents are to trust."""
        return "".join(_pem(certificate) for certificate in self.trusted)

    def is_due(self, now: datetime) -> bool:
        """Tell whether less than a third of its life is left."""
        return _is_worn(self.trusted[0], now, fraction=2 / 3)


def new_authority(now: datetime) -> Authority:
    """Make an authority that nobody trusts yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _authority_name(now)
    return Authority((_authority_certificate(name, key, name, key, now),), key)


def rotated(old: Authority, now: datetime) -> Authority:
    """Make a successor that those who trust `old` trust too."""
    new = new_authority(now)
    living = tuple(one for one in old.trusted if one.not_valid_after_utc > now)
    if old.trusted[0] not in living:
        return new
    subject, issuer = new.trusted[0].subject, old.trusted[0].subject
    cross = _authority_certificate(
        subject, new.key, issuer, old.key, now, not_after=old.trusted[0].not_valid_after_utc
    )
    return Authority((*new.trusted, *living), new.key, cross)


def issue(authority: Authority, now: datetime) -> tuple[str, str]:
    """Issue a serving certificate for `protocol.SERVER_NAME`.

    Returns:
        The PEM chain (with the cross certificate while it lives), and the private key's PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(SERVER_NAME), key, authority.trusted[0].subject, authority.key, now)
        .not_valid_after(min(now + CERTIFICATE_LIFE, authority.trusted[0].not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    cross = authority.cross
    chain = [certificate, *([cross] if cross and cross.not_valid_after_utc > now else [])]
    return "".join(_pem(one) for one in chain), _key_pem(key)


async def load_authority(
    gateway: Gateway, namespace: str, now: datetime, known: Authority | None = None
) -> Authority:
    """Read the authority from its Secret; make one, or its successor, when it is time.

    Replicas may race: the first write wins and the others read it.

    `known` is what this process has used so far: if the Secret has been deleted meanwhile it is
    written again, so that the agents that trust it are not cut off.

    Raises:
        CertificateError: the Secret is there but cannot be understood.
        ApiError: it could not be read or written.
    """
    for _ in range(_WRITE_TRIES):
        try:
            secret = await gateway.get(SECRETS, namespace, SECRET_NAME)
        except NotFoundError:
            authority = known or new_authority(now)
            try:
                await gateway.create(SECRETS, namespace, _secret(authority, {}))
            except AlreadyExistsError:
                continue
            logger.info("wrote the certificate authority to Secret %s/%s", namespace, SECRET_NAME)
            return authority
        authority = _read(secret)
        if not authority.is_due(now):
            return authority
        authority = rotated(authority, now)
        try:
            await gateway.replace(SECRETS, namespace, _secret(authority, secret["metadata"]))
        except (ConflictError, NotFoundError):
            continue
        logger.info("rotated the certificate authority in Secret %s/%s", namespace, SECRET_NAME)
        return authority
    raise CertificateError(f"Secret {namespace}/{SECRET_NAME} is being changed all the time")


class ServingCertificate:
    """A TLS context whose certificate is kept fresh; new connections get the newest one."""

    def __init__(self, authority: Authority, now: datetime) -> None:
        self.authority = authority
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._certificate = self._load(now)

    @property
    def expires_at(self) -> datetime:
        """When what is served now ends."""
        return self._certificate.not_valid_after_utc

    def refresh(self, authority: Authority, now: datetime) -> bool:
        """Issue anew when half used or when the authority is another; tell whether we did."""
        if authority == self.authority and not _is_worn(self._certificate, now, fraction=1 / 2):
            return False
        self.authority = authority
        self._certificate = self._load(now)
        return True

    def _load(self, now: datetime) -> x509.Certificate:
        chain, key = issue(self.authority, now)
        descriptor = os.memfd_create("serving-certificate")
        try:
            os.write(descriptor, (chain + key).encode())
            self.context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return x509.load_pem_x509_certificate(chain.encode())


def _read(secret: Mapping[str, Any]) -> Authority:
    metadata, data = secret["metadata"], secret.get("data") or {}
    try:
        trusted = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
        key = serialization.load_pem_private_key(base64.b64decode(data["ca.key"]), password=None)
        text = base64.b64decode(data.get("cross.crt", ""))
        cross = x509.load_pem_x509_certificate(text) if text else None
    except (KeyError, ValueError, TypeError) as error:
        raise _unusable(metadata, f"{type(error).__name__}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(metadata, "ca.key is not an elliptic-curve key")
    if key.public_key() != trusted[0].public_key():
        raise _unusable(metadata, "ca.key does not belong to the first certificate of ca.crt")
    return Authority(tuple(trusted), key, cross)


def _unusable(metadata: Mapping[str, Any], why: str) -> CertificateError:
    return CertificateError(
        f"Secret {metadata['namespace']}/{metadata['name']} cannot be used: {why}. "
        "Restore it, or delete it to get a new authority; running agents then lose touch "
        "until their pods are replaced, training goes on."
    )


def _secret(authority: Authority, metadata: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"ca.crt": authority.bundle, "ca.key": _key_pem(authority.key)}
    if authority.cross is not None:
        texts["cross.crt"] = _pem(authority.cross)
    labels = {**(metadata.get("labels") or {}), names.LABEL_MANAGED_BY: names.OPERATOR_NAME}
    return {
        "type": "Opaque",
        "metadata": {**metadata, "name": SECRET_NAME, "labels": labels},
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()},
    }


def _authority_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    *,
    not_after: datetime | None = None,
) -> x509.Certificate:
    return (
        _builder(subject, key, issuer, issuer_key, now)
        .not_valid_after(not_after or now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_may_sign(), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.CertificateBuilder:
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    subject_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .add_extension(subject_id, critical=False)
        .add_extension(issuer_id, critical=False)
    )


def _may_sign() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_name(now: datetime) -> x509.Name:
    """Return a name of its own for each authority, or chains could not be told apart."""
    return _name(f"goodput-operator CA {now.astimezone(UTC):%Y%m%dT%H%M%S} {os.urandom(4).hex()}")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _is_worn(certificate: x509.Certificate, now: datetime, *, fraction: float) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_before_utc + life * fraction


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
