"""A deployment as it is shipped: nginx before two servers, and a worker, all of them processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests

from core.parts import PART_SIZE
from core.principal import Principal
from services import Services
from settings import Settings
from tests import tus
from tests.client import Answer, GatewayClient
from tests.live import Live
from tests.presigned import put
from tests.rows import sql
from tests.servers import nginx

TIMEOUT = 120


class Deployment:
    """Two servers and a worker behind nginx, with what they have logged."""

    def __init__(self, settings: Settings, folder: Path):
        environ = {"WEB_WORKERS": "1", "LOG_LEVEL": "DEBUG", "RATE_LIMITS": "off", "TRUSTED_PROXIES": "127.0.0.1"}
        logs = {name: folder / name for name in ("first", "second", "worker")}
        self.servers = [Live(settings, logs[name], **environ) for name in ("first", "second")]
        self.worker = Live(settings, logs["worker"], command="worker", **environ)
        self._logs = logs | {"nginx": folder / "nginx.log"}
        self.address = ""

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """What these have logged."""
        texts = [self._logs[name].read_text() for name in names]
        return [json.loads(line) for text in texts for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def deployment(settings: Settings, bucket: Any, tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(settings, tmp_path)
    with contextlib.ExitStack() as stack:
        try:
            port = stack.enter_context(nginx(tmp_path, *(server.port for server in found.servers)))
        except FileNotFoundError as error:
            if os.environ.get("GATEWAY_TESTS_STRICT") == "1":
                raise
            pytest.skip(str(error))
        for process in (*found.servers, found.worker):
            stack.callback(process.kill)
        found.address = f"http://127.0.0.1:{port}"
        yield found


def wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def test_one_id_follows_a_request_from_the_proxy_to_its_jobs(deployment: Deployment, services: Services) -> None:
    for process in (deployment.servers[1], deployment.worker):
        process.start()
    _, key = services.keys.create_key("alice")
    content, request_id = b"".join(b"line %d\n" % n for n in range(60_000)), "one-id-for-all"
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": request_id, "Content-Type": "text/plain"}
    url = f"{deployment.address}/api/upload/a.txt"
    answer = requests.put(url, data=content, headers=headers, timeout=TIMEOUT)
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (201, request_id)

    def ours(*names: str) -> list[dict[str, Any]]:
        return [line for line in deployment.lines(*names) if line.get("request_id") == request_id]

    jobs = wait_for(
        lambda: {line["task"]: line for line in ours("worker") if line["event"] == "job"}.get("compress_object")
    )
    assert jobs["outcome"] == "ok" and jobs["job"] > 0
    assert "process_file" in {line["task"] for line in ours("worker") if line["event"] == "job"}
    of_worker = [line for line in ours("worker") if line["event"] == "bucket_call"]
    assert {"process_file", "compress_object"} <= {line["task"] for line in of_worker}
    [proxied] = wait_for(lambda: ours("nginx"))
    assert (proxied["event"], proxied["status"]) == ("proxied", 201)
    of_server = {line["event"]: line for line in wait_for(lambda: ours("second"))}
    assert set(of_server) == {"request", "bucket_call"}
    assert (of_server["bucket_call"]["operation"], of_server["bucket_call"]["outcome"]) == ("put", "ok")
    events = sql(services.db, "select actor, action from audit_events where request_id = %s", request_id)
    assert ("alice", "uploaded") in events


class Clients:
    """Clients that upload all the time, by every protocol, and repeat what failed, as an answer or the lack of one tells them."""

    def __init__(self, address: str, key: str):
        self.address, self.key = address, key
        self.acknowledged: dict[str, str] = {}  # the file's id: SHA-256
        self.wrong: list[Any] = []  # what no client can make good by repeating it
        self.repeated = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[upload])
            for upload in (self._form, self._raw, self._tus, self._direct)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, upload: Callable[[GatewayClient, bytes], tuple[bytes, Answer]]) -> None:
        client, number = GatewayClient(self.address, self.key, check=False), 0
        while not self._stop.is_set():
            number += 1
            try:
                content, answer = upload(client, f"\x93{upload.__name__} {number} ".encode() * 20_000)
                file = answer.json["files"][0] if "files" in answer.json else answer.json
                self.acknowledged[file["id"]] = hashlib.sha256(content).hexdigest()
            except Exception as error:
                self.wrong.append(repr(error))
                return
            self._stop.wait(0.1)

    def _sent(self, request: Callable[[], Answer], *expected: int) -> Answer:
        """The answer, once it has one of these statuses."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < deadline
            try:
                answer = request()
            except requests.RequestException:
                pass
            else:
                if answer.status in expected:
                    return answer
                if answer.status != 503 or not answer.headers.get("Retry-After"):
                    self.wrong.append((answer.status, answer.body))
            self.repeated += 1
            time.sleep(0.2)

    def _form(self, client: GatewayClient, content: bytes) -> tuple[bytes, Answer]:
        return content, self._sent(lambda: client.upload(("form.bin", content)), 201)

    def _raw(self, client: GatewayClient, content: bytes) -> tuple[bytes, Answer]:
        pieces = [content[: len(content) // 2], content[len(content) // 2 :]]

        def slowly() -> Iterator[bytes]:
            for piece in pieces:
                yield piece
                time.sleep(0.1)

        return content, self._sent(lambda: client.put("/api/upload/raw.bin", data=slowly()), 201)

    def _tus(self, client: GatewayClient, content: bytes) -> tuple[bytes, Answer]:
        where = tus.path(self._sent(lambda: tus.begin(client, len(content), name="tus.bin"), 201))
        while True:
            answer = self._sent(lambda: client.head(where, headers=tus.TUS), 200)
            at = int(answer.headers["Upload-Offset"])
            if at < len(content):
                send = partial(tus.patch, client, where, at, content[at : at + len(content) // 3 + 1])
                # 409: the answer to the last request was lost; 423: another server has still got the upload.
                answer = self._sent(send, 204, 409, 423)
            if (file_id := answer.headers.get("Upload-File-Id")) is not None:
                return content, self._sent(lambda: client.get(f"/api/files/{file_id}"), 200)

    def _direct(self, client: GatewayClient, content: bytes) -> tuple[bytes, Answer]:
        content *= PART_SIZE // len(content) + 1
        body = {"filename": "direct.bin", "size": len(content)}
        begun = self._sent(lambda: client.post("/api/uploads", json=body), 201).json
        for part in begun["parts"]:
            start = (part["part_number"] - 1) * PART_SIZE
            put(part["url"], content[start : start + PART_SIZE], part["headers"])
        self._stop.wait(0.5)
        return content, self._sent(lambda: client.post(f"/api/uploads/{begun['id']}/complete"), 200, 201)


def test_T109_a_rolling_restart_loses_no_acknowledged_upload(deployment: Deployment, services: Services) -> None:
    """Each process gets SIGTERM and starts again, while clients upload by every protocol."""
    for process in (*deployment.servers, deployment.worker):
        process.start()
    _, key = services.keys.create_key("alice")
    with Clients(deployment.address, key) as clients:
        for process in (*deployment.servers, deployment.worker):
            before = len(clients.acknowledged)
            wait_for(lambda before=before: len(clients.acknowledged) >= before + 6 or clients.wrong)
            assert process.stop() == 0
            process.start()
        before = len(clients.acknowledged)
        wait_for(lambda: len(clients.acknowledged) >= before + 6 or clients.wrong)
    assert clients.wrong == []
    alice, files = Principal("alice"), clients.acknowledged
    unready = "select count(*) from files where status <> 'ready'"
    wait_for(lambda: sql(services.db, unready) == [(0,)])
    names = {
        services.files.get(alice, UUID(file_id)).original_name.partition(" ")[0].partition(".")[0] for file_id in files
    }
    assert names == {"form", "raw", "tus", "direct"}
    downloads = GatewayClient(deployment.address, key, check=False)
    for file_id, digest in files.items():
        answer = downloads.get(f"/api/files/{file_id}/download?mode=proxy")
        assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, digest)
    # What a stopped process held is free: no lease of an upload, no claim of a request, no job of a dead worker.
    assert sql(services.db, "select count(*) from resumable_uploads where leased_until is not null") == [(0,)]
    assert sql(services.db, "select count(*) from procrastinate_jobs where deaths > 0 or attempts > 0") == [(0,)]
    live = "select count(*) from procrastinate_jobs j join procrastinate_workers w on w.id = j.worker_id"
    doing = "select count(*) from procrastinate_jobs where status = 'doing'"
    wait_for(lambda: sql(services.db, live) == sql(services.db, doing))
