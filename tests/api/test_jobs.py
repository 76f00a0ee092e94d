"""``/api/admin/jobs``, ``/metrics`` and the queues in ``/readyz``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core.errors import StorageFull, Unavailable
from db import Database, jobs
from services import Services
from services.upkeep.jobs import JobQuery
from tests.client import Answer, GatewayClient
from tests.paths import ROOT
from tests.rows import sql
from tests.samples import picture
from tests.servers import SIGNING_KEY

FAILED = "update procrastinate_jobs set status = 'failed', attempts = 4, error = 'ValueError' where id = %s"


def told(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.code


def enqueue(db: Database, count: int, owner: str = "alice", task: str = "check_file") -> list[int]:
    with db.transaction() as tx:
        for _ in range(count):
            jobs.enqueue(tx, task, owner_id=owner, file_id="0199")
        return [row[0] for row in tx.execute("select id from procrastinate_jobs order by id desc")]


def test_admins_see_waiting_and_failed_jobs(admin: GatewayClient, client: GatewayClient, db: Database) -> None:
    ids = enqueue(db, 5)
    with db.connection() as tx:
        tx.execute("update procrastinate_jobs set status = 'doing' where id = %s", [ids[0]])
        tx.execute(FAILED, [ids[0]])
    page = admin.get("/api/admin/jobs?limit=2").json
    assert [job["id"] for job in page["items"]] == ids[:2]
    assert page["counts"] == {"checks": {"todo": 4, "failed": 1}}
    found = page["items"]
    while page["next_cursor"]:
        page = admin.get(f"/api/admin/jobs?limit=2&cursor={page['next_cursor']}").json
        found += page["items"]
    assert [job["id"] for job in found] == ids
    [failed] = admin.get("/api/admin/jobs?status=failed&queue=checks&task=check_file&owner=alice").json["items"]
    assert (failed["file_id"], failed["owner_id"], failed["attempts"]) == ("0199", "alice", 4)
    assert failed["error"] == "ValueError"
    for query in ("owner=bob", "queue=default", "task=janitor", "status=cancelled"):
        assert admin.get(f"/api/admin/jobs?{query}").json["items"] == []
    assert told(admin.get("/api/admin/jobs?status=failed&cursor=abc")) == (400, "invalid_cursor")
    assert told(admin.get("/api/admin/jobs?status=odd")) == (400, "invalid_input")
    for method, path in (("GET", ""), ("POST", f"/{ids[0]}/retry"), ("DELETE", f"/{ids[0]}")):
        assert told(client.request(method, f"/api/admin/jobs{path}")) == (403, "not_allowed")


def test_failed_jobs_are_retried_or_deleted(admin: GatewayClient, db: Database) -> None:
    waits, failed, held = enqueue(db, 3)
    with db.connection() as tx:
        tx.execute(FAILED, [failed])
        tx.execute("update procrastinate_jobs set status = 'doing' where id = %s", [held])
    again = admin.post(f"/api/admin/jobs/{failed}/retry")
    assert (again.status, again.json["status"], again.json["attempts"]) == (200, "todo", 0)
    assert told(admin.post(f"/api/admin/jobs/{waits}/retry")) == (409, "conflict")
    assert told(admin.delete(f"/api/admin/jobs/{held}")) == (409, "conflict")
    for job in (waits, failed):
        assert admin.delete(f"/api/admin/jobs/{job}").status == 204
        assert told(admin.delete(f"/api/admin/jobs/{job}")) == (404, "not_found")
    for odd in ("999999999999999999", "9" * 5000, "-1", "x"):
        assert admin.post(f"/api/admin/jobs/{odd}/retry").status == 404


@pytest.mark.parametrize("reason", [Unavailable("The bucket is away."), StorageFull("The bucket is full.")])
def test_T105_jobs_that_failed_without_a_bucket_are_retried_for_a_week(
    client: GatewayClient, services: Services, db: Database, reason: Exception
) -> None:
    """The file shows the problem until its job succeeds. Jobs that failed for other reasons or long ago stay failed."""
    photo = client.add("a.png", picture("PNG"))
    [job] = services.jobs.page(JobQuery(task="process_file")).items
    services.jobs.failed(job.id, job.task, job.arguments, reason, final=True)
    with db.connection() as tx:
        tx.execute("update procrastinate_jobs set status = 'doing'")
        tx.execute("update procrastinate_jobs set status = 'failed', attempts = 10")
    problem = client.get(f"/api/files/{photo['id']}").json["problem"]
    assert problem["code"] == "processing_failed"
    assert services.jobs.revive() == 0
    sql(db, "update procrastinate_events set at = now() - interval '61 minutes'")
    assert services.jobs.revive() == 1
    [again] = services.jobs.page(JobQuery(status="todo")).items
    assert (again.id, again.attempts) == (job.id, 0)
    services.pipeline.process(UUID(photo["id"]))
    assert client.get(f"/api/files/{photo['id']}").json["problem"] is None
    for error, age in (("ValueError", "61 minutes"), ("unavailable: away", "8 days")):
        with db.connection() as tx:
            tx.execute("update procrastinate_jobs set status = 'doing'")
            tx.execute("update procrastinate_jobs set status = 'failed', error = %s", [error])
            tx.execute("update procrastinate_events set at = now() - %s::interval", [age])
        assert services.jobs.revive() == 0


def test_jobs_command(settings: Any, services: Services, db: Database, tmp_path: Path) -> None:
    [job] = enqueue(db, 1)
    sql(db, FAILED, job)
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "SECRET_KEY": SIGNING_KEY,
    }
    app = str(ROOT / "app.py")

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, app, "jobs", *words], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(command("list", "--status", "failed", "--json"))["id"] == job
    command("retry", str(job))
    assert services.jobs.counts() == {"checks": {"todo": 1}}


def test_T124_metrics_name_no_owner_or_file(
    client: GatewayClient, anonymous: GatewayClient, services: Services, db: Database
) -> None:
    """Metrics are public, like healthz, so labels are routes, operations and outcomes: no names, ids, keys or versions."""
    file = client.add("secret-plan.png", picture("PNG", 300, 200), tags="secrettag")
    client.get(f"/api/files/{file['id']}/preview?size=128")
    client.get("/api/nowhere/secret-path")
    enqueue(db, 2, owner="secret-owner")
    answer = anonymous.get("/metrics")
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    text = answer.body.decode()
    for line in (
        'gateway_http_request_seconds_count{method="GET",route="/api/files/<uuid:file_id>/preview",status="200"}',
        'gateway_http_request_seconds_count{method="GET",route="unmatched",status="404"}',
        'gateway_bucket_call_seconds_count{operation="put",outcome="ok"}',
        'gateway_uploads_total{outcome="done",protocol="form"}',
        'gateway_received_bytes_total{protocol="form"}',
        'gateway_previews_total{kind="thumbnail",outcome="made"}',
        'gateway_queue_jobs{queue="checks",state="waiting"} 2.0',
        'gateway_queue_jobs{queue="processing",state="waiting"} 1.0',
        'gateway_queue_oldest_seconds{queue="checks"}',
    ):
        assert line in text
    for secret in ("secret", "alice", file["id"], file["stored_name"], "files/20", "python", "127.0.0.1"):
        assert secret not in text
    assert not re.search(r"\d+\.\d+\.\d+", text)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{32}", text)


@pytest.mark.parametrize("away", ["database"])
def test_metrics_work_without_the_database(
    anonymous: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    def refuse(self: Any) -> Any:
        raise Unavailable()

    monkeypatch.setattr(Database, "connection", refuse)
    answer = anonymous.get("/metrics")
    assert answer.status == 200
    assert b"gateway_http_request_seconds" in answer.body
    assert b"gateway_queue" not in answer.body


def test_readiness_names_a_queue_without_a_worker(anonymous: GatewayClient, db: Database) -> None:
    enqueue(db, 1)
    assert anonymous.get("/readyz").json["checks"]["queue"] is True
    sql(db, "update procrastinate_events set at = now() - interval '11 minutes'")
    answer = anonymous.get("/readyz")
    assert answer.status == 503
    failed = {name for name, found in answer.json["checks"].items() if not found}
    assert failed == {"queue", "queue_checks"}
