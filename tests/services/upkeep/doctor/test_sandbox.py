"""The gateway's commands on a kernel without Landlock, and what other processes can read of their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.paths import ROOT
from tests.rows import sql
from tests.samples import picture
from tests.servers import SIGNING_KEY, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux locks parsers in")
LACKING = (sys.executable, str(ROOT / "tests" / "lesser_kernel.py"))
WITHOUT_LANDLOCK = (*LACKING, "landlock")


@pytest.fixture
def environment(settings: Settings, services: Services, tmp_path: Path) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.s3_secret_key is not None
    services.keys.ensure_admin_key("sandbox-key")
    return {
        "PATH": os.environ["PATH"],
        "PORT": str(free_port()),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "S3_ENDPOINT": str(settings.s3_endpoint),
        "S3_BUCKET": settings.s3_bucket,
        "S3_ACCESS_KEY": str(settings.s3_access_key),
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "SECRET_KEY": SIGNING_KEY,
        "DATA_DIR": str(tmp_path / "var"),
        "WEB_WORKERS": "1",
        "WEB_THREADS": "4",
    }


@contextmanager
def running(
    name: str, environment: dict[str, str], log: Path, *, on: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*on, sys.executable, str(ROOT / "app.py"), name],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def until(look: Callable[[], Any], log: Path) -> Any:
    deadline = time.monotonic() + 100
    while not (found := look()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found


def workers(services: Services) -> list[Any]:
    return sql(services.db, "select 1 from procrastinate_workers")


def checks(url: str) -> Any:
    with suppress(requests.ConnectionError):
        answer = requests.get(f"{url}/readyz", timeout=30)
        return answer.json()["checks"] if answer.status_code == 200 else None
    return None


def test_T132_production_without_a_lock_makes_no_previews(environment: dict[str, str], tmp_path: Path) -> None:
    log, url = tmp_path / "serve.log", f"http://127.0.0.1:{environment['PORT']}"
    with running("serve", {**environment, "ENVIRONMENT": "production"}, log, on=WITHOUT_LANDLOCK):
        assert until(lambda: checks(url), log)["sandbox"] == "weak"
        client = GatewayClient(url, "sandbox-key")
        file = client.upload(("a.png", picture("PNG"))).json["files"][0]
        answer = client.get(f"/api/files/{file['id']}/preview")
        assert (answer.status, answer.code) == (503, "unavailable")
        assert client.get(f"/api/files/{file['id']}/preview").status == 503, "the file is not recorded as a failure"
    assert "weak_sandbox" in log.read_text()


def test_T132_production_without_a_lock_starts_no_worker(
    environment: dict[str, str], services: Services, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    production = {**environment, "ENVIRONMENT": "production"}
    with running("worker", production, log, on=WITHOUT_LANDLOCK) as worker:
        assert worker.wait(60) == 1
    assert "ALLOW_WEAK_SANDBOX" in log.read_text()
    with running("worker", {**production, "ALLOW_WEAK_SANDBOX": "on"}, log, on=WITHOUT_LANDLOCK) as worker:
        until(lambda: workers(services), log)
    assert "weak_sandbox" in log.read_text()


@pytest.mark.parametrize(("environ", "ok"), [({"ENVIRONMENT": "production"}, False), ({}, None)])
def test_T132_the_doctor_reports_a_missing_lock(
    environment: dict[str, str], tmp_path: Path, environ: dict[str, str], ok: bool | None
) -> None:
    done = subprocess.run(
        [*WITHOUT_LANDLOCK, sys.executable, str(ROOT / "app.py"), "doctor", "--json"],
        env={**environment, **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["sandbox: Landlock"]["ok"] is ok
    assert "could read" in found["sandbox: Landlock"]["consequence"]
    assert found["sandbox: seccomp"]["ok"] is True
    assert done.returncode == 1 or ok is None


def test_T132_only_root_can_read_the_secrets_of_server_and_worker(
    environment: dict[str, str], services: Services, tmp_path: Path
) -> None:
    """Another process of the same user tries to read them from the environment and the memory."""
    reader = (
        "import sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(open(path, 'rb').read(1))\n"
        "    except PermissionError: print('refused')\n"
    )
    log, url = tmp_path / "serve.log", f"http://127.0.0.1:{environment['PORT']}"
    with (
        running("serve", environment, log, on=(*LACKING, "nothing")) as web,
        running("worker", environment, tmp_path / "worker.log", on=(*LACKING, "nothing")) as worker,
    ):
        until(lambda: checks(url), log)
        until(lambda: workers(services), tmp_path / "worker.log")
        pids = [web.pid, worker.pid, *children(web.pid)]
        assert len(pids) == 3
        paths = [f"/proc/{pid}/{name}" for pid in pids for name in ("environ", "mem")]
        done = subprocess.run(
            [*LACKING, "nothing", sys.executable, "-c", reader, *paths], capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["refused"] * len(paths)


def children(pid: int) -> list[int]:
    return [int(one) for listed in Path(f"/proc/{pid}/task").glob("*/children") for one in listed.read_text().split()]
