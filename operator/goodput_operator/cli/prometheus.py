"""What a Prometheus says: instant queries over its HTTP API, and clear words where it is not."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from typing import Any

from goodput_operator.errors import GoodputError

TIMEOUT_SECONDS = 60

Labels = tuple[str, ...]


class PrometheusError(GoodputError):
    """Prometheus is not there, or does not answer what it was asked."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus, or what speaks its API (Thanos, Mimir, VictoriaMetrics).

    Attributes:
        url: where it is, such as http://localhost:9090; a path before /api/v1 is kept.
        token: a bearer token, empty for none.
    """

    url: str
    token: str = ""

    def ask(self, query: str, at: datetime, labels: Labels) -> dict[Labels, float]:
        """Return the values of a query at a moment, by the values of these labels.

        What is not a finite number is left out.

        Raises:
            PrometheusError: there is no good answer; the message says what to look at.
        """
        asked = urllib.parse.urlencode({"query": query, "time": f"{at.timestamp():.3f}"})
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        where = f"{self.url.rstrip('/')}/api/v1/query"
        try:
            request = urllib.request.Request(  # noqa: S310 - main takes http and https only
                where, data=asked.encode(), headers=headers
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(error.code, error.read()) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise PrometheusError(
                f"Prometheus does not answer at {self.url}: {reason}. Is it up, and can it be "
                "reached from here? In the cluster: kubectl port-forward"
            ) from error
        return _values(self._decoded(body), labels)

    def _refusal(self, code: int, body: bytes) -> PrometheusError:
        if code in (401, 403):
            return PrometheusError(
                f"Prometheus at {self.url} wants to know who asks (HTTP status {code}): give a "
                "token in a file by --prometheus-token-file"
            )
        try:
            words = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            return PrometheusError(
                f"{self.url} answers with HTTP status {code}: is that the address of a Prometheus?"
            )
        return PrometheusError(f"Prometheus at {self.url} refuses the query: {words}")

    def _decoded(self, body: bytes) -> list[Any]:
        try:
            answer = json.loads(body)
            if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
                raise PrometheusError(f"Prometheus at {self.url} says: {answer.get('error')}")
            result: list[Any] = answer["data"]["result"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PrometheusError(
                f"what {self.url} answers is not of Prometheus: is the address right?"
            ) from error
        return result


def _values(result: list[Any], labels: Labels) -> dict[Labels, float]:
    values: dict[Labels, float] = {}
    for series in result:
        metric: Mapping[str, str] = series.get("metric") or {}
        value = float(series["value"][1])
        if math.isfinite(value):
            values[tuple(metric.get(name, "") for name in labels)] = value
    return values
