"""The one door to the API server: raw objects in and out, a time-out on every call.

The only user of the `kubernetes` client, of which it takes the configuration, the
authentication and the connection pool, but not its models: they refuse unknown fields in
bodies, drop them from answers, and cost thirty times what `json` does. It never repeats a
call on its own: whether to try again is the caller's decision, after looking again. (aiohttp
sends a read, an update or a deletion a second time when its connection broke before an answer
came. That is harmless: updates carry a resourceVersion and deletions a UID.)
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config.config_exception import ConfigException

from goodput_operator import errors, names
from goodput_operator.observe.agents import JobKey, TokenIdentity

Json = dict[str, Any]

MOST_REQUESTS_AT_ONCE: Final = 64
"""Past this, more connections only wait in the API server's own queue."""

SILENCE: Final = "Silence"
"""The reason of the error that ends a watch on which nothing came, not even a bookmark."""

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_EXTRA: Final = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API server keeps it."""

    plural: str
    group_version: str
    kind: str

    def path(self, namespace: str | None, *rest: str) -> str:
        """Return the URL path of the collection (of one namespace, or of all), or below it."""
        root = "/api/" if self.group_version == "v1" else "/apis/"
        within = ["namespaces", namespace] if namespace else []
        return root + "/".join([self.group_version, *within, self.plural, *rest])


PODS: Final = Resource("pods", "v1", "Pod")
NODES: Final = Resource("nodes", "v1", "Node")
SECRETS: Final = Resource("secrets", "v1", "Secret")
SERVICES: Final = Resource("services", "v1", "Service")
LEASES: Final = Resource("leases", "coordination.k8s.io/v1", "Lease")
EVENTS: Final = Resource("events", "events.k8s.io/v1", "Event")
JOBS: Final = Resource(names.PLURAL, names.API_VERSION, names.KIND)
_TOKEN_REVIEWS: Final = Resource("tokenreviews", "authentication.k8s.io/v1", "TokenReview")


class Gateway:
    """A connection to one API server; make it with `connect`, in the loop that uses it.

    Every method raises `errors.ApiError`: one of its subclasses, with the server's own words.
    At most `MOST_REQUESTS_AT_ONCE` calls run at once, watches not counted; the others wait.

    Attributes:
        requests: how many calls were made, by (verb, resource, HTTP status; 0: no answer); a
            dry run, which persists nothing, is counted under the verb "try".
    """

    def __init__(
        self, configuration: client.Configuration, request_timeout_seconds: float = 10.0
    ) -> None:
        configuration.connection_pool_maxsize = 0  # no limit: ours counts calls, watches apart
        # Python 3.13 verifies strictly by default, and many clusters' CAs lack a key identifier.
        configuration.disable_strict_ssl_verification = True
        # `trust_env` reads ~/.netrc and looks for proxies, in a thread, at every single call.
        configuration.client_session_kwargs = {"trust_env": False}
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self._timeout_seconds = request_timeout_seconds
        self._configuration = configuration
        self._client = client.ApiClient(configuration)
        self._turn = asyncio.Semaphore(MOST_REQUESTS_AT_ONCE)

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None,
        request_timeout_seconds: float = 10.0,
        credentials_seconds: float = 60.0,
    ) -> Self:
        """Return a gateway; nothing is sent yet.

        Args:
            kubeconfig: whose current context says where and as whom; None: the pod's own account.
            request_timeout_seconds: how long one call may take; a watch: to begin.
            credentials_seconds: how long a kubeconfig's token is good for; then it is read again,
                for plug-ins and rotation make new ones. The pod's own: the client's one minute.

        Raises:
            UnavailableError: there is no usable configuration.
        """
        configuration = client.Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                await _load_kubeconfig(kubeconfig, configuration)
                configuration.refresh_api_key_hook = _reloader(  # type: ignore[assignment]
                    kubeconfig, credentials_seconds
                )
        except (ConfigException, OSError) as error:
            raise errors.UnavailableError(str(error), reason="NoConfiguration") from error
        return cls(configuration, request_timeout_seconds)

    async def close(self) -> None:
        """Close all connections; calls that are under way fail."""
        await self._client.close()  # type: ignore[no-untyped-call]

    # --- TrainingJobs -------------------------------------------------------------------

    async def get_job(self, key: JobKey) -> Json:
        """Return a TrainingJob as it is now."""
        return await self.get(JOBS, *key)

    async def list_jobs(self, namespace: str | None) -> list[Json]:
        """Return all TrainingJobs of a namespace, or of all namespaces."""
        return [job async for job in self._items(JOBS, namespace)]

    async def replace_status(self, job: Mapping[str, Any]) -> Json:
        """Write `job["status"]` if the job is still at the resourceVersion that it carries.

        Raises:
            ConflictError: it is not; look again.
        """
        metadata = job["metadata"]
        path = JOBS.path(metadata["namespace"], metadata["name"], "status")
        return await self._call(_Request("update", f"{JOBS.plural}/status", path, body=job))

    async def delete_job(self, key: JobKey, uid: str) -> None:
        """Delete this very TrainingJob, and in the background all that it owns; see `delete`."""
        await self.delete(JOBS, *key, uid, {"propagationPolicy": "Background"})

    # --- Pods ---------------------------------------------------------------------------

    async def get_pod(self, namespace: str, name: str) -> Json:
        """Return a pod as it is now, whole."""
        return await self.get(PODS, namespace, name)

    async def create_pod(
        self, namespace: str, pod: Mapping[str, Any], dry_run: bool = False
    ) -> Json:
        """Create a pod, or ask whether it would be accepted; return it with all defaults."""
        return await self.create(PODS, namespace, pod, dry_run)

    async def delete_pod(
        self, namespace: str, name: str, uid: str, grace_seconds: int | None = None
    ) -> Json | None:
        """Delete this very pod; None leaves it its own grace period. See `delete`."""
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        return await self.delete(PODS, namespace, name, uid, options)

    # --- Others -------------------------------------------------------------------------

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event of events.k8s.io/v1."""
        await self.create(EVENTS, event["metadata"]["namespace"], event)

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        """Ask whose service-account token this is (KEP-1205); None when it is not good.

        Not good is one that is forged, expired, for another audience, of an object that is gone,
        or no service account's at all. No error says more about a bad token than that.
        """
        if not token:
            return None  # the API server calls it a bad review, not a bad token
        review = await self.create(
            _TOKEN_REVIEWS, None, {"spec": {"token": token, "audiences": [audience]}}
        )
        status = review.get("status") or {}
        user = status.get("user") or {}
        username: str = user.get("username") or ""
        namespace, _, account = username.removeprefix(_SERVICE_ACCOUNT).partition(":")
        if (
            not status.get("authenticated")
            or audience not in (status.get("audiences") or ())
            or not (username.startswith(_SERVICE_ACCOUNT) and account)
        ):
            return None
        extra = user.get("extra") or {}
        return TokenIdentity(
            namespace=namespace,
            service_account=account,
            pod_name=next(iter(extra.get(f"{_EXTRA}pod-name") or ()), ""),
            pod_uid=next(iter(extra.get(f"{_EXTRA}pod-uid") or ()), ""),
        )

    # --- Any resource -------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """Return one object."""
        path = resource.path(namespace, name)
        return await self._call(_Request("get", resource.plural, path))

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        body: Mapping[str, Any],
        dry_run: bool = False,
    ) -> Json:
        """Create an object and return it with all defaults; kind and apiVersion are filled in.

        Raises:
            AlreadyExistsError: an object of this name is there.
            InvalidError, ForbiddenError: it is refused; the message says by whom and why.
        """
        verb, query = ("try", {"dryRun": "All"}) if dry_run else ("create", {})
        whole = {"apiVersion": resource.group_version, "kind": resource.kind, **body}
        path = resource.path(namespace)
        return await self._call(_Request(verb, resource.plural, path, query, whole))

    async def replace(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> Json:
        """Replace an object if it is still at the resourceVersion that `body` carries.

        Raises:
            ConflictError: it is not; look again.
        """
        path = resource.path(namespace, body["metadata"]["name"])
        whole = {"apiVersion": resource.group_version, "kind": resource.kind, **body}
        return await self._call(_Request("update", resource.plural, path, body=whole))

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str,
        options: Mapping[str, Any] | None = None,
    ) -> Json | None:
        """Begin the deletion of this very object; that it is gone already is success too.

        Returns:
            The object while it still has to end, with its `deletionTimestamp`; else None.
        """
        body = {"preconditions": {"uid": uid}, **(options or {})}
        path = resource.path(namespace, name)
        try:
            answer = await self._call(_Request("delete", resource.plural, path, body=body))
        except errors.NotFoundError:
            return None
        except errors.ConflictError:
            if await self._uid_of(resource, namespace, name) == uid:
                raise
            return None
        metadata = answer.get("metadata") or {}
        # One that was deleted before and is gone by this comes back as it was, of no version.
        still_there = metadata.get("deletionTimestamp") and metadata.get("resourceVersion")
        return answer if still_there else None

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 100,
        continue_: str = "",
    ) -> Json:
        """Return one page of a consistent list, raw: `metadata.continue` leads to the next.

        Raises:
            ExpiredError: the next page came too late; begin again.
        """
        query = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": str(limit),
            "continue": continue_,
        }
        path = resource.path(namespace)
        return await self._call(_Request("list", resource.plural, path, query))

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
        silence_seconds: float = 90.0,
    ) -> AsyncGenerator[Json]:
        """Yield what changed after `resource_version`, oldest first, bookmarks (each minute) too.

        Ends when the server has had enough, at the latest after `timeout_seconds`. Other calls
        get their turn after every 64 KiB, however much is waiting.

        Raises:
            ExpiredError: `resource_version` is too old; list again.
            UnavailableError: the connection was cut, or nothing came for `silence_seconds`
                (reason `SILENCE`).
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "timeoutSeconds": str(timeout_seconds),
        }
        limits = aiohttp.ClientTimeout(
            total=timeout_seconds + silence_seconds, sock_read=silence_seconds
        )
        request = _Request("watch", resource.plural, resource.path(namespace), query)
        with _errors_mapped(request):
            async with await self._send(request, limits) as answer:
                try:
                    async for line in _lines(answer.content):
                        yield _event(line)
                finally:
                    _hang_up(answer)

    # --- How ----------------------------------------------------------------------------

    async def _items(self, resource: Resource, namespace: str | None) -> AsyncIterator[Json]:
        continue_ = ""
        while True:
            page = await self.list_page(resource, namespace, continue_=continue_)
            for item in page["items"]:
                yield item
            continue_ = page["metadata"].get("continue") or ""
            if not continue_:
                return

    async def _uid_of(self, resource: Resource, namespace: str, name: str) -> str | None:
        try:
            uid: str = (await self.get(resource, namespace, name))["metadata"]["uid"]
        except errors.NotFoundError:
            return None
        return uid

    async def _call(self, request: "_Request") -> Json:
        limits = aiohttp.ClientTimeout(total=self._timeout_seconds)
        async with self._turn:
            with _errors_mapped(request):
                async with await self._send(request, limits) as answer:
                    decoded: Json = json.loads(await answer.read())
                    return decoded

    async def _send(
        self, request: "_Request", limits: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Return a good answer, its body still to be read; raise a refusal."""
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # packing costs both sides more than a near network
            "User-Agent": names.OPERATOR_NAME,
        }
        code = 0
        try:
            async with asyncio.timeout(self._timeout_seconds):
                token = await self._configuration.get_api_key_with_prefix("BearerToken")
                if token:
                    headers["Authorization"] = token
                response = await self._client.call_api(
                    _METHODS[request.verb],
                    self._configuration.host + request.url,
                    headers,
                    request.body,
                    _request_timeout=limits,
                    _preload_content=False,
                )
            code = response.status
        finally:
            self.requests[request.verb, request.resource, code] += 1
        answer: aiohttp.ClientResponse = response.response
        if code >= HTTPStatus.BAD_REQUEST:
            async with answer:
                raise refusal(code, await answer.read(), answer.headers.get("Retry-After", ""))
        return answer


_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "try": "POST",
    "update": "PUT",
    "delete": "DELETE",
}


@dataclass(frozen=True, slots=True)
class _Request:
    """One call. `resource` is the name it is counted under; empty query parts are left out."""

    verb: str
    resource: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    @property
    def url(self) -> str:
        given = {key: value for key, value in self.query.items() if value}
        return self.path + ("?" + urlencode(given) if given else "")


@contextmanager
def _errors_mapped(request: _Request) -> Iterator[None]:
    """Turn all that can happen to a connection into the one error that callers know."""
    what = f"{request.verb} {request.path}"
    try:
        yield
    except aiohttp.SocketTimeoutError as error:
        raise errors.UnavailableError(
            f"{what}: the API server fell silent", reason=SILENCE
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError, ConfigException, ValueError) as error:
        reason = type(error).__name__
        raise errors.UnavailableError(f"{what}: {error or reason}", reason=reason) from error


def refusal(code: int, body: bytes, retry_after: str = "") -> errors.ApiError:
    """Return the error for an answer of 400 or above, in the words of its Status object."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):  # not the API server's: a proxy before it
        status = {"message": body[:500].decode(errors="replace")}
    wish = retry_after or (status.get("details") or {}).get("retryAfterSeconds") or 0
    try:
        retry_after_seconds = float(wish)
    except ValueError:  # a date: a proxy's again
        retry_after_seconds = 0.0
    reason = status.get("reason") or ""
    return _kind_of_error(code, reason)(
        status.get("message") or f"HTTP status {code}",
        code=code,
        reason=reason,
        retry_after_seconds=retry_after_seconds,
    )


def _kind_of_error(code: int, reason: str) -> type[errors.ApiError]:
    match code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return errors.ForbiddenError
        case HTTPStatus.NOT_FOUND:
            return errors.NotFoundError
        case HTTPStatus.CONFLICT:
            already = reason == "AlreadyExists"
            return errors.AlreadyExistsError if already else errors.ConflictError
        case HTTPStatus.GONE:
            return errors.ExpiredError
        case HTTPStatus.REQUEST_TIMEOUT | HTTPStatus.TOO_MANY_REQUESTS:
            return errors.UnavailableError
        case _ if HTTPStatus.BAD_REQUEST <= code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return errors.InvalidError
    return errors.UnavailableError


def _hang_up(answer: aiohttp.ClientResponse) -> None:
    """Cut a connection whose answer has not ended: TLS's farewell could outlive the loop."""
    if answer.connection is not None and answer.connection.transport is not None:
        answer.connection.transport.abort()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines of any length; what a cut leaves of the last one is dropped."""
    pending = b""
    while chunk := await content.read(64 * 1024):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line
        await asyncio.sleep(0)  # a full buffer is read without waiting, and would starve the rest


def _event(line: bytes) -> Json:
    """Decode an event of a watch; one of type ERROR is raised."""
    event: Json = json.loads(line)
    if event["type"] == "ERROR":
        raise refusal(event["object"].get("code") or 0, json.dumps(event["object"]).encode())
    return event


async def _load_kubeconfig(path: str, configuration: client.Configuration) -> None:
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        path, client_configuration=configuration, persist_config=False
    )


def _reloader(
    kubeconfig: str, credentials_seconds: float
) -> Callable[[client.Configuration], Awaitable[None]]:
    """Return the client's hook before each call."""
    loaded_at = time.monotonic()

    async def reload(configuration: client.Configuration) -> None:
        nonlocal loaded_at
        if time.monotonic() - loaded_at >= credentials_seconds:
            loaded_at = time.monotonic()
            await _load_kubeconfig(kubeconfig, configuration)

    return reload
