"""The embedded S3 server alone: credentials, ports, and a second start."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from embedded import seaweedfs
from embedded.child import EmbeddedError


def test_it_accepts_only_our_credentials_and_keeps_ports_and_secret(tmp_path: Path) -> None:
    first = seaweedfs.start(tmp_path / "data")
    try:
        assert seaweedfs.answers_us(first.endpoint, first.access_key, first.secret_key)
        assert not seaweedfs.answers_us(first.endpoint, first.access_key, "another")
    finally:
        first.stop()
    second = seaweedfs.start(tmp_path / "data")
    second.kill()
    assert (second.endpoint, second.secret_key) == (first.endpoint, first.secret_key)
    assert not [*Path("/tmp").glob(f"seaweedfs-*-{first.ports['s3']}.sock")]


def test_a_foreign_server_on_the_port_is_detected(tmp_path: Path) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *words: object) -> None:
            pass

    seaweedfs.start(tmp_path / "data").kill()
    kept = tmp_path / "data" / "ports.json"
    port = json.loads(kept.read_text())["s3"]
    other = ThreadingHTTPServer(("127.0.0.1", port), Refuses)
    thread = threading.Thread(target=other.serve_forever)
    thread.start()
    try:
        assert not seaweedfs.answers_us(f"http://127.0.0.1:{port}", "gateway", "secret")
        ours = seaweedfs.start(tmp_path / "data")
        ours.kill()
        assert ours.ports["s3"] != port
    finally:
        other.shutdown()
        other.server_close()
        thread.join()


def test_a_platform_without_a_wheel_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match="set S3_ENDPOINT"):
        seaweedfs.start(tmp_path / "data")
