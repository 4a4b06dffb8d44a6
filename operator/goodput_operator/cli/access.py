"""The two doors to the API server: kubectl, and a pod's own account. Read only.

Whoever can `kubectl get` can `kubectl goodput`: the requests are made by the kubectl that is
there, so kubeconfig, contexts, plug-ins for credentials and proxies are its business. Where
there is none, a pod speaks for itself, by the account that its kubelet gives it.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol
from urllib.parse import urlencode

from goodput_operator import names
from goodput_operator.errors import (
    ApiError,
    ForbiddenError,
    GoodputError,
    NotFoundError,
    UnavailableError,
)

TIMEOUT_SECONDS = 20
PAGE = 250
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Json = dict[str, Any]


class Door(Protocol):
    """Something that reads from the API server."""

    def namespace(self) -> str:
        """Return the namespace that is meant when none is said."""
        ...

    def get(self, path: str) -> Json:
        """Return what is at a path of the API server.

        Raises:
            ApiError: it was refused, is not there, or nobody answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl, with the flags that say where and as whom.

    Attributes:
        program: its path.
        flags: such as `--context=prod`.
    """

    program: str
    flags: Sequence[str] = ()

    def namespace(self) -> str:
        """Return the namespace of the context."""
        path = "jsonpath={..namespace}"
        said = self._run("config", "view", "--minify", f"--output={path}")
        if said.returncode == 0 and said.stdout.strip():
            return said.stdout.split()[0].decode()
        if said.returncode != 0 and self.flags:
            raise kubectl_error(said.stderr.decode(errors="replace"))
        return account_namespace(ACCOUNT) or "default"  # in a pod there is no kubeconfig

    def get(self, path: str) -> Json:
        """Return what kubectl gets from this path."""
        said = self._run("get", "--raw", path)
        if said.returncode != 0:
            raise kubectl_error(said.stderr.decode(errors="replace"))
        return _decoded(said.stdout)

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                [self.program, *arguments, *self.flags],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(
                f"kubectl has not answered within {TIMEOUT_SECONDS} s: does it wait for a login?"
            ) from error
        except OSError as error:
            raise UnavailableError(f"{self.program} cannot be run: {error}") from error


_FROM_SERVER = re.compile(r"Error from server \((\w+)\): (.*)", re.DOTALL)


def kubectl_error(text: str) -> ApiError:
    """Return the error that kubectl's words tell of."""
    found = _FROM_SERVER.search(text)
    told = [one for one in text.strip().splitlines() if one.strip()]
    words = (found.group(2) if found else told[-1] if told else "kubectl failed").strip()
    reason = found.group(1) if found else ""
    if reason == "Forbidden":
        return ForbiddenError(words, code=403, reason=reason)
    if reason == "Unauthorized" or "must be logged in" in words:
        return ForbiddenError(f"the API server does not know you: {words}", code=401)
    if words == "error: EOF":  # it has asked for a user name, and nobody was there
        return ForbiddenError("kubectl has no credentials for this cluster: log in first", code=401)
    if reason == "NotFound":
        return NotFoundError(words, code=404, reason=reason)
    return UnavailableError(words.removeprefix("error: "), reason=reason)


@dataclass(frozen=True, slots=True)
class PodAccount:
    """A pod's own service account.

    Attributes:
        server: the API server's URL.
        directory: where the kubelet keeps token, CA and namespace up to date.
    """

    server: str
    directory: Path = ACCOUNT

    def namespace(self) -> str:
        """Return the pod's own namespace."""
        return account_namespace(self.directory) or "default"

    def get(self, path: str) -> Json:
        """Return what the API server has at this path."""
        import ssl  # these cost as much as all the rest, and only a pod needs them
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        try:
            token = (self.directory / "token").read_text().strip()
            trust = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
            trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many clusters' CAs lack a key id
            request = urllib.request.Request(  # noqa: S310 - the scheme is ours
                self.server + path, headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=TIMEOUT_SECONDS, context=trust
            ) as answer:
                return _decoded(answer.read())
        except urllib.error.HTTPError as error:
            raise _refusal(error.code, error.read()) from error
        except (OSError, HTTPException) as error:  # URLError is one of the former
            raise UnavailableError(f"the API server at {self.server}: {error}") from error


def account_namespace(directory: Path) -> str:
    """Return the namespace that a kubelet has written down; empty outside a pod."""
    try:
        return (directory / "namespace").read_text().strip()
    except OSError:
        return ""


def _refusal(code: int, body: bytes) -> ApiError:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {code}"
    kind = {401: ForbiddenError, 403: ForbiddenError, 404: NotFoundError}.get(code)
    return (kind or UnavailableError)(message, code=code)


def _decoded(body: bytes) -> Json:
    try:
        decoded = json.loads(body)
    except ValueError as error:
        raise UnavailableError(
            "the API server's answer is no JSON: is a proxy before it?"
        ) from error
    if not isinstance(decoded, dict):
        raise UnavailableError("the API server's answer is no object: is a proxy before it?")
    return decoded


def find_door(
    environment: Mapping[str, str], kubeconfig: str | None = None, context: str | None = None
) -> Door:
    """Return kubectl where there is one, else the pod's own account.

    Raises:
        UnavailableError: there is neither.
    """
    program = shutil.which("kubectl", path=environment.get("PATH"))
    if program is not None:
        flags = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        flags += [f"--context={context}"] if context else []
        return Kubectl(program, tuple(flags))
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host or kubeconfig or context:
        raise UnavailableError("there is no kubectl in PATH, through which the cluster is read")
    address = f"[{host}]" if ":" in host else host
    return PodAccount(f"https://{address}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}")


_Found = tuple[list[Json], str]
"""What was read, and a note on why it was not."""


class _Meanwhile:
    """Something that is read while other things are; concurrent.futures takes longer to import."""

    def __init__(self, read: Callable[[], _Found]) -> None:
        self._read = read
        self._found: _Found | None = None
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._read()
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            self._error = error

    def result(self) -> _Found:
        """Wait for what was read, and return it; or raise what was raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


class Cluster:
    """What this command line wants to know of a cluster."""

    def __init__(self, door: Door, namespace: str | None) -> None:
        self._door = door
        self.namespace = namespace or door.namespace()

    def job(self, name: str) -> Json:
        """Return a TrainingJob.

        Raises:
            GoodputError: it may not be read, or is not there.
        """
        try:
            return self._door.get(f"{_jobs(self.namespace)}/{name}")
        except NotFoundError as error:
            raise self._not_found(name, error) from error
        except ForbiddenError as error:
            raise refused("get", f"{names.PLURAL}.{names.GROUP}", self.namespace, error) from error

    def jobs(self, everywhere: bool) -> list[Json]:
        """Return all TrainingJobs of the namespace, or of all namespaces.

        Raises:
            GoodputError: they may not be listed.
        """
        namespace = None if everywhere else self.namespace
        try:
            return self._items(_jobs(namespace), {})
        except NotFoundError as error:
            raise _not_installed() from error
        except ForbiddenError as error:
            raise refused("list", f"{names.PLURAL}.{names.GROUP}", namespace, error) from error

    def about(self, name: str) -> tuple[Json, list[Json], list[Json], list[str]]:
        """Return a TrainingJob, its pods, its events, and notes on what may not be read of it.

        Raises:
            GoodputError: the job itself may not be read, or is not there.
        """
        pods, events = _Meanwhile(lambda: self._pods(name)), _Meanwhile(lambda: self._events(name))
        job = self.job(name)
        found = (pods.result(), events.result())
        return job, found[0][0], found[1][0], [note for _, note in found if note]

    def _pods(self, name: str) -> _Found:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return self._if_allowed("pods", path, {"labelSelector": names.selector(name)})

    def _events(self, name: str) -> _Found:
        path = f"/api/v1/namespaces/{self.namespace}/events"  # who may view may read these
        about = f"involvedObject.kind={names.KIND},involvedObject.name={name}"
        return self._if_allowed("events", path, {"fieldSelector": about})

    def _if_allowed(self, what: str, path: str, query: Mapping[str, str]) -> _Found:
        try:
            return self._items(path, query), ""
        except ForbiddenError as error:
            return [], str(refused("list", what, self.namespace, error))
        except ApiError as error:
            return [], f"{what} could not be read: {error}"

    def _items(self, path: str, query: Mapping[str, str]) -> list[Json]:
        items: list[Json] = []
        following = ""
        while True:
            asked = {**query, "limit": str(PAGE)} | ({"continue": following} if following else {})
            page = self._door.get(f"{path}?{urlencode(asked)}")
            items += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                return items

    def _not_found(self, name: str, error: NotFoundError) -> GoodputError:
        if "could not find the requested resource" in str(error) or "page not found" in str(error):
            return _not_installed()
        return NotFoundError(
            f"there is no TrainingJob {name} in namespace {self.namespace} "
            "(kubectl goodput top -A shows all)"
        )


def _jobs(namespace: str | None) -> str:
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.API_VERSION}{within}/{names.PLURAL}"


def _not_installed() -> GoodputError:
    return NotFoundError("this cluster knows no TrainingJobs: install the chart goodput-operator")


def refused(verb: str, what: str, namespace: str | None, error: ForbiddenError) -> ForbiddenError:
    """Return the error that says which right is missing, and who could give it."""
    if error.code == 401:
        return error
    where = "in all namespaces" if namespace is None else f"in namespace {namespace}"
    hint = (
        "; the chart gives it to everybody who has the cluster role view"
        if what.startswith(names.PLURAL)
        else ""
    )
    alone = "; -n NAMESPACE needs it in one only" if namespace is None else ""
    return ForbiddenError(
        f"the right to {verb} {what} {where} is missing{hint}{alone}. The API server says: {error}",
        code=403,
    )


def environment_door(kubeconfig: str | None, context: str | None) -> Door:
    """Return the door that this process's environment offers."""
    return find_door(os.environ, kubeconfig, context)
