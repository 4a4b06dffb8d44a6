"""Who is speaking: believe a report only from the pod that its bearer token names.

The order of the checks keeps what a stranger can cost us small: what the token *claims* is
compared with the pods that we know before the API server is asked whether it is genuine
(TokenReview), and that answer is kept. Every request, kept answer or not, is checked
against the token's expiry and the life of the pod.

An API server that does not answer silences nobody who was recognised before: such a token
goes on working until it expires.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from goodput.protocol import TOKEN_AUDIENCE
from goodput_operator.errors import ApiError
from goodput_operator.observe.agents import PodIdentity, TokenIdentity
from goodput_operator.reports.replies import RefusedError

KnownPod = Callable[[str, str], PodIdentity | None]
"""Namespace and name → the living worker pod of ours, from the pod cache."""
Review = Callable[[str], Awaitable[TokenIdentity | None]]
"""Ask the API server about a token for our audience; raises ApiError when it cannot say."""

MAX_TOKEN_CHARACTERS = 8 * 1024
REVIEW_LIFETIME_SECONDS = 600
DENIAL_LIFETIME_SECONDS = 10
REVIEW_RETRY_SECONDS = 30
CONCURRENT_REVIEWS = 16
MAX_KEPT_REVIEWS = 50_000
MAX_KEPT_DENIALS = 4_096

POD_REQUESTS_PER_SECOND, POD_BURST = 10.0, 30
"""A healthy agent sends one request every few seconds, and a handful when its processes end."""
FAILURES_PER_SECOND, FAILURE_BURST = 1.0, 20
"""Requests of strangers that one address may have refused before it is not listened to."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself; not to be believed before it has been reviewed."""

    namespace: str
    pod_name: str
    pod_uid: str
    expires_at: float


def read_claims(token: str, audience: str = TOKEN_AUDIENCE) -> Claims | None:
    """Return the claims of a pod-bound token for `audience`; None for anything else.

    The signature is not looked at (RFC 7519; the private claims are those of KEP-1205).
    """
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        payload = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        named = payload["kubernetes.io"]
        claims = Claims(
            namespace=named["namespace"],
            pod_name=named["pod"]["name"],
            pod_uid=named["pod"]["uid"],
            expires_at=float(payload["exp"]),
        )
        audiences = payload["aud"]
    except (binascii.Error, ValueError, RecursionError, KeyError, TypeError, OverflowError):
        return None
    names = (claims.namespace, claims.pod_name, claims.pod_uid)
    if not all(isinstance(name, str) for name in names):
        return None
    listed = audiences if isinstance(audiences, list) else [audiences]
    return claims if audience in listed else None


class RateLimiter:
    """Requests per second and key, with bursts, in one number a key (GCRA, ITU-T I.371).

    That number is the time at which the key's whole burst is available again. Forgets the
    least recently charged key when there are too many.
    """

    def __init__(self, per_second: float, burst: int, max_keys: int = 65_536) -> None:
        self._interval_seconds = 1 / per_second
        self._burst_seconds = burst / per_second
        self._max_keys = max_keys
        self._full_at: dict[str, float] = {}

    def wait_seconds(self, key: str, now: float) -> float:
        """Return how long until the key has one request left, 0 when it has."""
        full_at = self._known(key, now)
        return max(0.0, full_at + self._interval_seconds - now - self._burst_seconds)

    def charge(self, key: str, now: float) -> None:
        """Count one request."""
        full_at = max(self._known(key, now), now) + self._interval_seconds
        self._full_at.pop(key, None)
        self._full_at[key] = min(full_at, now + self._burst_seconds)
        if len(self._full_at) > self._max_keys:
            del self._full_at[next(iter(self._full_at))]

    def _known(self, key: str, now: float) -> float:
        full_at = self._full_at.get(key, now)
        # No charge reaches beyond the burst: the clock was put back, and must not lock anyone out.
        return full_at if full_at <= now + self._burst_seconds else now


@dataclass(slots=True)
class _Recognised:
    claims: Claims
    review_at: float


class Gate:
    """Turns bearer tokens into pods. All calls come from one event loop.

    Args:
        known_pod: the pods that may speak.
        review: asks the API server about a token.
        now: the operator's clock; it may be put back.
    """

    def __init__(self, known_pod: KnownPod, review: Review, now: Callable[[], datetime]) -> None:
        self._known_pod = known_pod
        self._review = review
        self._clock = now
        self._recognised: dict[bytes, _Recognised] = {}
        self._denied: dict[bytes, float] = {}
        self._asking: dict[bytes, asyncio.Task[TokenIdentity | None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_REVIEWS)
        self._by_pod = RateLimiter(POD_REQUESTS_PER_SECOND, POD_BURST)
        self._failures = RateLimiter(FAILURES_PER_SECOND, FAILURE_BURST)

    def recognise(self, token: str, peer: str) -> PodIdentity | None:
        """Return whose token this is; None when only the API server can say: `ask`.

        Raises:
            RefusedError: 401 or 429.
        """
        digest, now = sha256(token.encode()).digest(), self._seconds()
        known = self._recognised.get(digest)
        if known is None:
            self._check_claims(token, digest, peer, now)
            return None
        pod = self._living(known.claims, now)
        if pod is None:
            del self._recognised[digest]
            raise self._refused(peer, now)
        self._limit(pod, now)
        if not now < known.review_at <= now + REVIEW_LIFETIME_SECONDS:
            known.review_at = now + REVIEW_RETRY_SECONDS
            self._start_review(token, digest)
        return pod

    async def ask(self, token: str, peer: str) -> PodIdentity:
        """Have the API server say whose token this is, which `recognise` could not.

        Raises:
            RefusedError: 401, 429, or 503 when the API server gives no answer.
        """
        claims = read_claims(token)
        try:
            task = self._start_review(token, sha256(token.encode()).digest())
            identity = await asyncio.shield(task)
        except ApiError as error:
            seconds = max(1, round(error.retry_after_seconds))
            message = "the token cannot be reviewed at the moment"
            raise RefusedError(503, "ReviewUnavailable", message, seconds) from None
        now = self._seconds()
        pod = None
        if claims is not None and identity is not None and _agree(claims, identity):
            pod = self._living(claims, now)
        if pod is None:
            raise self._refused(peer, now)
        self._limit(pod, now)
        return pod

    async def close(self) -> None:
        """Ask no further."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _seconds(self) -> float:
        """Since the epoch, as in a token's `exp`."""
        return self._clock().timestamp()

    def _check_claims(self, token: str, digest: bytes, peer: str, now: float) -> None:
        """Refuse what cannot be the token of a pod of ours, before anyone is asked."""
        wait_seconds = self._failures.wait_seconds(peer, now)
        if wait_seconds > 0:
            raise _too_many(wait_seconds)
        claims = read_claims(token)
        if claims is None or self._living(claims, now) is None:
            raise self._refused(peer, now)
        if now < self._denied.get(digest, 0.0) <= now + DENIAL_LIFETIME_SECONDS:
            raise self._refused(peer, now)

    def _living(self, claims: Claims, now: float) -> PodIdentity | None:
        if not claims.expires_at > now:
            return None
        pod = self._known_pod(claims.namespace, claims.pod_name)
        return pod if pod is not None and pod.uid == claims.pod_uid else None

    def _limit(self, pod: PodIdentity, now: float) -> None:
        wait_seconds = self._by_pod.wait_seconds(pod.uid, now)
        if wait_seconds > 0:
            raise _too_many(wait_seconds)
        self._by_pod.charge(pod.uid, now)

    def _refused(self, peer: str, now: float) -> RefusedError:
        """Charge a stranger; whatever was wrong, it hears the same."""
        self._failures.charge(peer, now)
        return RefusedError(401, "Unauthorized", "a valid token of a worker pod is wanted")

    def _start_review(self, token: str, digest: bytes) -> "asyncio.Task[TokenIdentity | None]":
        """Begin a review, or join the one that is under way for this token."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._review_one(token, digest))
            self._asking[digest] = task
            task.add_done_callback(lambda done: self._reviewed(digest, done))
        return task

    async def _review_one(self, token: str, digest: bytes) -> TokenIdentity | None:
        async with self._slots:
            identity = await self._review(token)
        claims, now = read_claims(token), self._seconds()
        self._recognised.pop(digest, None)
        if claims is not None and identity is not None and _agree(claims, identity):
            # Spread over the second half, so that a gang's reviews do not come all at once.
            lifetime_seconds = REVIEW_LIFETIME_SECONDS * (512 - digest[0]) / 512
            self._recognised[digest] = _Recognised(claims, now + lifetime_seconds)
            _drop_oldest(self._recognised, MAX_KEPT_REVIEWS)
        else:
            self._denied[digest] = now + DENIAL_LIFETIME_SECONDS
            _drop_oldest(self._denied, MAX_KEPT_DENIALS)
        return identity

    def _reviewed(self, digest: bytes, task: "asyncio.Task[TokenIdentity | None]") -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it; a renewal is tried again


def _agree(claims: Claims, identity: TokenIdentity) -> bool:
    return (claims.namespace, claims.pod_name, claims.pod_uid) == (
        identity.namespace,
        identity.pod_name,
        identity.pod_uid,
    )


def _too_many(wait_seconds: float) -> RefusedError:
    return RefusedError(429, "TooManyRequests", "too many requests", int(wait_seconds) + 1)


def _drop_oldest(kept: dict[bytes, Any], limit: int) -> None:
    while len(kept) > limit:
        del kept[next(iter(kept))]
