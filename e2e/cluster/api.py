"""A few calls to the API server, without the price of a kubectl process each."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import ClusterError

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


class ApiError(ClusterError):
    """The API server refused; `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The API server as its administrator; one connection per call."""

    def __init__(self, url: str, ca: Path, certificate: Path, key: Path) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.load_cert_chain(str(certificate), str(key))

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = 10,
    ) -> Any:
        """Return the decoded JSON answer, or the text where the answer is not JSON.

        Raises:
            ApiError: the status is 400 or above.
            OSError: the server cannot be reached.
        """
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout_seconds, context=self._context
        )
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": content_type})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as broken:
            raise ConnectionError(f"{method} {path}: {broken!r}") from broken
        finally:
            connection.close()
        is_json = answer.getheader("Content-Type", "").startswith("application/json")
        decoded = json.loads(text) if is_json else text
        if answer.status >= 400:
            said = decoded.get("message", text) if isinstance(decoded, dict) else text[:500]
            raise ApiError(answer.status, f"{method} {path}: {answer.status}, {said}")
        return decoded

    def ready(self) -> bool:
        """Tell whether the server answers and says that it is ready."""
        try:
            return bool(self.call("GET", "/readyz", timeout_seconds=5) == "ok")
        except (OSError, ApiError):
            return False

    def node_is_ready(self, name: str, since: str = "") -> bool:
        """Tell whether a node is Ready by a heartbeat later than `since` (RFC 3339)."""
        try:
            node = self.call("GET", f"/api/v1/nodes/{name}")
        except (OSError, ApiError):
            return False
        return any(
            condition["type"] == "Ready"
            and condition["status"] == "True"
            and condition["lastHeartbeatTime"] > since
            for condition in node["status"].get("conditions", [])
        )

    def heartbeat(self, name: str) -> str:
        """Return the time (RFC 3339) of a node's last Ready heartbeat; empty without one."""
        node = self.call("GET", f"/api/v1/nodes/{name}")
        for condition in node["status"].get("conditions", []):
            if condition["type"] == "Ready":
                return str(condition["lastHeartbeatTime"])
        return ""

    def dress_node(self, name: str, rack: str, gpus: int) -> None:
        """Give a node its rack label and its accelerators, which no device backs."""
        path = f"/api/v1/nodes/{name}"
        labels = {"topology.kubernetes.io/rack": rack}
        self.call("PATCH", path, {"metadata": {"labels": labels}}, MERGE_PATCH)
        patch = [
            {"op": "add", "path": f"/status/{kind}/nvidia.com~1gpu", "value": str(gpus)}
            for kind in ("capacity", "allocatable")
        ]
        self.call("PATCH", f"{path}/status", patch, JSON_PATCH)
