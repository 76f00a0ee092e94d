"""Spans of requests, calls to the bucket and jobs, as a collector gets them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.live import Live
from tests.paths import ROOT
from tests.test_rolling_restart import wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """The address of a collector, and the spans that it gets."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            for of_resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                for of_scope in of_resource.scope_spans:
                    spans.extend(of_scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_trace_goes_from_the_client_to_the_jobs(
    collector: tuple[str, list[Any]], settings: Settings, bucket: Any, services: Services, tmp_path: Path
) -> None:
    address, spans = collector
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "200", "WEB_WORKERS": "1"}
    server = Live(settings, tmp_path / "server", **environ)
    worker = Live(settings, tmp_path / "worker", command="worker", **environ)
    try:
        server.start()
        worker.start()
        client = GatewayClient(server.address, services.keys.create_key("alice")[1], check=False)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "traced-request"}
        sent = b"".join(b"secret line %d\n" % n for n in range(20_000))
        assert client.put("/api/upload/secret-name.txt", data=sent, headers=headers).status == 201
        wait_for(lambda: {"process_file", "bucket open"} <= {span.name for span in spans})
        named = {span.name: span for span in spans}
    finally:
        server.kill()
        worker.kill()
    request, job = named["PUT /api/upload/<path:filename>"], named["process_file"]
    assert request.parent_span_id.hex() == PARENT
    assert job.parent_span_id == request.span_id
    assert request.span_id in {span.parent_span_id for span in spans if span.name == "bucket put"}
    assert job.span_id in {span.parent_span_id for span in spans if span.name == "bucket open"}
    assert {span.trace_id.hex() for span in (request, job)} == {TRACE}
    told = {attribute.key: attribute.value for attribute in request.attributes}
    assert (told["http.response.status_code"].int_value, told["request_id"].string_value) == (201, "traced-request")
    assert "secret" not in str(spans)
    lines = [json.loads(line) for line in (tmp_path / "server").read_text().splitlines() if line.startswith("{")]
    assert TRACE in {line.get("trace_id") for line in lines if line["event"] == "request"}


def test_without_a_collector_nothing_is_imported() -> None:
    program = "import sys, app, telemetry, tracing; assert tracing.begin('a', 'SERVER', None) is None; tracing.check()"
    program += "; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
