"""Tokens of a real API server, and forged ones: signed with its own key, with others, with none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator import names

from .api_tier import OPERATOR_NAMESPACE, Client, Object

API_AUDIENCE = "https://kubernetes.default.svc.cluster.local"
ELSEWHERE = "elsewhere"


async def request_token(
    api: Client,
    bound: Mapping[str, str] | None = None,
    *,
    namespace: str = "default",
    account: str = "default",
    audience: str = TOKEN_AUDIENCE,
) -> str:
    """Return a token that the API server has signed; unbound without `bound`."""
    spec: Object = {"audiences": [audience], "expirationSeconds": 3600}
    if bound is not None:
        spec["boundObjectRef"] = {"apiVersion": "v1", **bound}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    answer = await api.call("POST", path, review)
    return str(answer["status"]["token"])


@dataclass(frozen=True, slots=True)
class Mint:
    """Makes tokens with the API server's own key, which is more than any intruder has.

    Attributes:
        keys: the directory of `sa.key` and `sa.pub`.
        genuine: the victim's token, whose claims the made ones have unless told otherwise.
    """

    keys: Path
    genuine: str

    def claims(self) -> Object:
        """Return what the genuine token says."""
        found: Object = json.loads(_decoded(self.genuine.split(".")[1]))
        return found

    def signed(self, **changes: Any) -> str:
        """Return a token with other claims and a good signature of this cluster."""
        return self._sign(self._own_key(), changes)

    def foreign(self) -> str:
        """Return a token with the victim's claims, signed with a key of our own."""
        return self._sign(ec.generate_private_key(ec.SECP256R1()), {})

    def unsigned(self) -> str:
        """Return a token that says of itself that it has no signature."""
        header = {"alg": "none", "typ": "JWT"}
        return f"{_encoded(header)}.{_encoded(self._renamed({}))}."

    def confused(self) -> str:
        """Return a token whose signature is made with the public key, as if it were a secret."""
        header = {**self._header(), "alg": "HS256"}
        text = f"{_encoded(header)}.{_encoded(self._renamed({}))}"
        secret = (self.keys / "sa.pub").read_bytes()
        return f"{text}.{_base64(hmac.digest(secret, text.encode(), hashlib.sha256))}"

    def patched(self, signature_of: str, **changes: Any) -> str:
        """Return the victim's claims, some changed, under the signature of another token."""
        claims = self._renamed(changes)
        return f"{self.genuine.split('.')[0]}.{_encoded(claims)}.{signature_of.split('.')[2]}"

    def cut(self) -> str:
        """Return the victim's claims without any signature."""
        return f"{self.genuine.split('.')[0]}.{_encoded(self._renamed({}))}."

    def of_another_pod(self) -> str:
        """Return a well-signed token of a pod of this name and another UID."""
        named = self.claims()["kubernetes.io"]
        pod = {**named["pod"], "uid": secrets.token_hex(16)}
        return self.signed(**{"kubernetes.io": {**named, "pod": pod}})

    def _sign(self, key: ec.EllipticCurvePrivateKey, changes: Mapping[str, Any]) -> str:
        text = f"{_encoded(self._header())}.{_encoded(self._renamed(changes))}"
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _own_key(self) -> ec.EllipticCurvePrivateKey:
        text = (self.keys / "sa.key").read_bytes()
        key = serialization.load_pem_private_key(text, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _header(self) -> Object:
        found: Object = json.loads(_decoded(self.genuine.split(".")[0]))
        return found

    def _renamed(self, changes: Mapping[str, Any]) -> Object:
        """Return the claims under a name of their own, so that no kept answer fits."""
        return {**self.claims(), "jti": secrets.token_hex(16), **changes}


async def forged_tokens(api: Client, mint: Mint, neighbour: str) -> dict[str, Callable[[], str]]:
    """Return a maker of tokens for each of `forgeries.FORGED_TOKENS`."""
    for name in (ELSEWHERE,):
        await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        await _account(api, name, "trainer")
    await _account(api, OPERATOR_NAMESPACE, "goodput-operator")
    await api.call("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}})
    claims, now = mint.claims(), int(time.time())
    pod = {"kind": "Pod", "name": claims["kubernetes.io"]["pod"]["name"]}
    pod["uid"] = claims["kubernetes.io"]["pod"]["uid"]
    elsewhere = await _pod(api, "elsewhere", ELSEWHERE)
    bystander = await _pod(api, "bystander")
    gone = await _pod(api, "gone-0-0", ours=True)
    first = await _pod(api, "again-0-0", ours=True)
    kept = {
        "of the wrong audience": await request_token(api, pod, audience=API_AUDIENCE),
        "of a pod in another namespace": await request_token(
            api, elsewhere, namespace=ELSEWHERE, account="trainer"
        ),
        "of a pod that is no worker": await request_token(api, bystander),
        "of a pod that is gone": await request_token(api, gone),
        "of a pod whose name another one bears now": await request_token(api, first),
        "of the service account alone": await request_token(api),
        "of the service account, for the API server": await request_token(
            api, audience=API_AUDIENCE
        ),
        "of the operator's own account": await request_token(
            api, namespace=OPERATOR_NAMESPACE, account="goodput-operator"
        ),
        "that is bound to a secret": await request_token(api, {"kind": "Secret", "name": "s"}),
    }
    for name in ("gone-0-0", "again-0-0"):
        path = f"/api/v1/namespaces/default/pods/{name}"
        await api.call("DELETE", path, {"gracePeriodSeconds": 0})
    await _pod(api, "again-0-0", ours=True)
    past = {"iat": now - 7200, "nbf": now - 7200, "exp": now - 60}
    later = {"iat": now, "nbf": now + 7200, "exp": now + 14_400}
    return {
        **{name: partial(str, text) for name, text in kept.items()},
        "of another UID than the pod's": mint.of_another_pod,
        "that has expired": partial(mint.signed, **past),
        "that is not valid yet": partial(mint.signed, **later),
        "of another cluster": partial(mint.signed, iss="https://another.cluster"),
        "signed with another key": mint.foreign,
        "signed with nothing (alg none)": mint.unsigned,
        "signed with the public key (alg HS256)": mint.confused,
        "with another pod's claims": partial(mint.patched, neighbour),
        "with a later expiry than was signed": partial(
            mint.patched, mint.genuine, exp=claims["exp"] + 86_400
        ),
        "without its signature": mint.cut,
    }


async def _account(api: Client, namespace: str, name: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    await api.call("POST", path, {"metadata": {"name": name}})


async def _pod(
    api: Client, name: str, namespace: str = "default", *, ours: bool = False
) -> dict[str, str]:
    """Create a pod that never starts; return how a token is bound to it."""
    labels = {
        names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
        names.LABEL_JOB: "nobody",
        names.LABEL_SLOT: "0",
        names.LABEL_INCARNATION: "0",
    }
    account = "default" if namespace == "default" else "trainer"
    body = {
        "metadata": {"name": name, "labels": labels if ours else {}},
        "spec": {
            "serviceAccountName": account,
            "schedulingGates": [{"name": "goodput.training/never"}],
            "containers": [{"name": "x", "image": "none"}],
        },
    }
    made = await api.call("POST", f"/api/v1/namespaces/{namespace}/pods", body)
    return {"kind": "Pod", "name": name, "uid": made["metadata"]["uid"]}


def _encoded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
