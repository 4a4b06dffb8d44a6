"""An External Metrics API with one number, served from the test's own process.

It is what an adapter (prometheus-adapter, KEDA) is to the API server, and so to an autoscaler:
https://github.com/kubernetes/metrics, external.metrics.k8s.io/v1beta1.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster
from e2e.cluster.run import run

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
METRIC = "workers-wanted"
_NAME = "external-metrics"
_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


class Metric:
    """The number; a test sets it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def answer(self, path: str) -> dict[str, Any]:
        """Return the API's answer for a path: what there is, or the present value."""
        if not path.startswith(f"/apis/{GROUP}/{VERSION}/namespaces/"):
            resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList"}
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [{**resource, "singularName": "", "verbs": ["get"]}],
            }
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": now}
        return {
            "kind": "ExternalMetricValueList",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": [{**item, "value": str(self.value)}],
        }


@contextmanager
def external_metric(
    cluster: Cluster, namespace: str, directory: Path, value: int
) -> Iterator[Metric]:
    """Have the cluster serve a metric.

    Args:
        cluster: whose API it becomes a part of.
        namespace: for the Service that leads here.
        directory: for the server's key.
        value: what it is at first.
    """
    metric = Metric(value)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(metric.answer(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer((cluster.host_address, 0), Handler)
    server.socket = _context(directory).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        _register(cluster, namespace, server.server_port)
        yield metric
    finally:
        cluster.api.call("DELETE", f"{_SERVICES}/{VERSION}.{GROUP}")
        server.shutdown()
        thread.join()
        server.server_close()


def _context(directory: Path) -> ssl.SSLContext:
    key, certificate = directory / "metrics.key", directory / "metrics.crt"
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    where = ("-keyout", str(key), "-out", str(certificate))
    run(["openssl", "req", *kind, "-subj", f"/CN={_NAME}", "-days", "1", *where])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _register(cluster: Cluster, namespace: str, port: int) -> None:
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _NAME},
        "spec": {"ports": ports},
    }
    cluster.api.call("POST", f"/api/v1/namespaces/{namespace}/services", service)
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": _NAME, "labels": {"kubernetes.io/service-name": _NAME}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [cluster.host_address], "conditions": {"ready": True}}],
    }
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    cluster.api.call("POST", slices, endpoints)
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": namespace, "name": _NAME, "port": port},
        },
    }
    cluster.api.call("POST", _SERVICES, api)
    cluster.kubectl(
        "wait", "--for=condition=Available", f"apiservice/{VERSION}.{GROUP}", "--timeout=60s"
    )
