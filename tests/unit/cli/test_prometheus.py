"""What a Prometheus says, and clear words where there is none."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from goodput_operator.cli.prometheus import Prometheus, PrometheusError

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
Answer = Callable[[BaseHTTPRequestHandler, dict[str, list[str]]], tuple[int, bytes]]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """An HTTP server; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code, text = answer(self, parse_qs(body.decode()))
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def vector(*series: tuple[dict[str, str], str]) -> bytes:
    result = [{"metric": metric, "value": [1.0, value]} for metric, value in series]
    return json.dumps(
        {"status": "success", "data": {"resultType": "vector", "result": result}}
    ).encode()


def test_a_query_is_asked_at_its_moment_and_read_by_its_labels() -> None:
    asked: list[Any] = []

    def answer(handler: BaseHTTPRequestHandler, form: dict[str, list[str]]) -> tuple[int, bytes]:
        asked.append((handler.path, form, handler.headers["Authorization"]))
        return 200, vector(({"job": "a", "x": "y"}, "1.5"), ({}, "2"), ({"job": "n"}, "NaN"))

    with serving(answer) as url:
        found = Prometheus(f"{url}/prometheus/", "secret").ask("up > 0", AT, ("job", "bucket"))
    assert found == {("a", ""): 1.5, ("", ""): 2.0}
    assert asked == [
        (
            "/prometheus/api/v1/query",
            {"query": ["up > 0"], "time": ["1767323045.678"]},
            "Bearer secret",
        )
    ]


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (200, b"<html>hello", "is not of Prometheus: is the address right"),
        (200, b"[]", "is not of Prometheus"),
        (200, b'{"status": "success"}', "is not of Prometheus"),
        (200, b'{"status": "error", "error": "busy"}', "says: busy"),
        (404, b"not here", "HTTP status 404: is that the address of a Prometheus"),
        (401, b"", "HTTP status 401.*--prometheus-token-file"),
        (403, b"", "HTTP status 403.*--prometheus-token-file"),
        (503, b'{"status":"error","error":"too many samples"}', "refuses.*too many samples"),
        (422, b"[1]", "HTTP status 422"),
    ],
)
def test_an_answer_that_is_none_says_what_to_look_at(code: int, body: bytes, words: str) -> None:
    with (
        serving(lambda *_: (code, body)) as url,
        pytest.raises(PrometheusError, match=f"(?s){words}"),
    ):
        Prometheus(url).ask("up", AT, ())


def test_a_prometheus_that_is_down_is_said_to_be() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PrometheusError, match=f"does not answer at {url}: .*refused"):
            Prometheus(url).ask("up", AT, ())


@pytest.mark.parametrize("url", ["http://nowhere.invalid", "http://", "http://[::1", "http://a b"])
def test_an_address_that_is_none_is_an_error_in_words(url: str) -> None:
    with pytest.raises(PrometheusError, match="does not answer"):
        Prometheus(url).ask("up", AT, ())
