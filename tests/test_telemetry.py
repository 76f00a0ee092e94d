"""Sums of metrics over several processes, and logs without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from telemetry import WithoutSecrets
from tests.paths import ROOT

COUNT = """
import sys, telemetry
from pathlib import Path
telemetry.share_metrics(Path(sys.argv[1]))
telemetry.metrics().job("check_file", "ok", 0.1)
sys.stdout.write(telemetry.metrics().exposition(telemetry.processes()).decode())
sys.stdout.flush()
sys.stdin.read()
"""


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, str(folder), *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def counted(process: subprocess.Popen[bytes]) -> float:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"gateway_job_seconds_count"):
            return float(line.split()[-1])
    raise AssertionError("it counted nothing")


def test_processes_tell_what_they_use_by_role(tmp_path: Path) -> None:
    first = start(tmp_path, "worker")
    assert counted(first) == 1
    second = start(tmp_path, "serve")
    text, _ = second.communicate()
    first.communicate()
    found = dict(line.split(" ") for line in text.decode().splitlines() if line.startswith("gateway_process"))
    for role in ("serve", "worker"):
        assert float(found[f'gateway_processes{{role="{role}"}}']) == 1
        assert 1e7 < float(found[f'gateway_process_resident_bytes{{role="{role}"}}']) < 1e9
        assert 0 < float(found[f'gateway_process_cpu_seconds{{role="{role}"}}']) < 60
        assert 0 < float(found[f'gateway_process_files_ratio{{role="{role}"}}']) < 1


def test_processes_share_counters_and_a_new_run_starts_at_zero(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert counted(first) == 1
    second = start(tmp_path)
    assert counted(second) == 2
    second.communicate()
    third = start(tmp_path)
    assert counted(third) == 3  # counts of the ended second process remain
    for process in (first, third):
        process.communicate()
    last = start(tmp_path)
    assert counted(last) == 1
    last.communicate()


LOG = """
import logging, sys, threading, structlog, telemetry
from settings import Settings
settings = Settings(_env_file=None, secret_key="a-signing-key-of-32-characters-ok",
                    database_url="postgresql://gw:pass%2Fword@h/d", rate_limits_url="redis://:valkey-word@h")
telemetry.configure_logging("DEBUG", settings.secrets)
for text in sys.argv[1:]:
    structlog.get_logger().info(text, field=text)
    logging.getLogger("urllib3").warning("Retrying: %s", text)
    logging.StreamHandler(sys.stderr).emit(logging.makeLogRecord({"msg": text}))
    thread = threading.Thread(target=int, args=[text])
    thread.start()
    thread.join()
raise RuntimeError(sys.argv[1:])
"""
CALLS = """
import sys, telemetry
from core.origin import ORIGIN, Job, Origin
from storage_backends import BucketCall
telemetry.configure_logging(sys.argv[1])
trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
ORIGIN.set(Origin("system", request_id="request-1", trace=trace, job=Job(7, "check_file", "alice")))
telemetry.bucket_call(BucketCall("put", "ok", 0.5, False, "bucket-1"))
telemetry.bucket_call(BucketCall("stat", "ObjectNotFound", 0.5, False, "bucket-2"))
telemetry.bucket_call(BucketCall("open", "ok", 5.5, False, None))
telemetry.bucket_call(BucketCall("copy", "OutcomeUnknown", 0.5, True, "bucket-4"))
"""


def test_calls_to_the_bucket_are_logged_with_what_led_to_them() -> None:
    def lines(level: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-c", CALLS, level]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        return [json.loads(line) for line in done.stderr.splitlines()]

    every, noteworthy = lines("DEBUG"), lines("INFO")
    assert [line["operation"] for line in every] == ["put", "stat", "open", "copy"]
    assert [(line["operation"], line["level"]) for line in noteworthy] == [("open", "warning"), ("copy", "warning")]
    del every[-1]["timestamp"]
    assert every[-1] == {
        "event": "bucket_call",
        "level": "warning",
        "operation": "copy",
        "outcome": "OutcomeUnknown",
        "seconds": 0.5,
        "bucket_request_id": "bucket-4",
        "request_id": "request-1",
        "trace_id": "a" * 32,
        "job": 7,
        "task": "check_file",
    }


KEY = "k7Xw2mQ9vR4tZ8bN3cH6jL1pD5sF0gYaB_cD-eFgHiJ"


def test_T140_whatever_writes_to_standard_error_shows_no_secret() -> None:
    """Logs of the gateway and of libraries, and tracebacks of threads and of the process."""
    secret = {
        f"key gw_{KEY}": KEY,
        f"'gwt_{KEY}' is an upload token": KEY,
        f"Set-Cookie: session=gws_{KEY}; HttpOnly": KEY,
        f"GET /d/{KEY}?disposition=inline": KEY,
        f"/t/{KEY}/api/tus failed": KEY,
        f"authorization: Bearer {KEY}": KEY,
        f"token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.{KEY}": KEY,
        "http://bucket/uploads/files/x?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef0123": "0123456789abcdef0123",
        f"/s3/objects/1?uploads&ticket={KEY}": KEY,
        f"/api/session/callback?code={KEY}&state={KEY[::-1]}": KEY,
        f"/api/session/callback?state={KEY}": KEY,
        "redis://:other-word@h:6379/0": "other-word",
        "sealed with a-signing-key-of-32-characters-ok": "a-signing-key",
        "password pass/word is wrong": "pass/word",
        "AUTH valkey-word": "valkey-word",
    }
    command = [sys.executable, "-c", LOG, *secret]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    assert done.stderr.count("[hidden]") >= 6 * len(secret)
    assert (
        "Retrying: key [hidden]" in done.stderr and "invalid literal" in done.stderr and "RuntimeError" in done.stderr
    )
    for value in secret.values():
        assert value not in done.stderr


def test_harmless_text_is_not_changed() -> None:
    written: list[str] = []

    class Stream:
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    lines = [
        '{"route": "/api/files/<uuid:file_id>/download", "owner": "gw_team", "status": 302}',
        "http://127.0.0.1:8080/docs#invalid_input, /d/short, /t/<token>/api, https://example.com/a@b",
    ]
    for line in lines:
        WithoutSecrets(Stream(), ["known-secret"]).write(line)  # type: ignore[arg-type]
    assert written == lines
