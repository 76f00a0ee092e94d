"""Workers as processes: killed, suspended, with jobs that kill them, and fair to owners."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from procrastinate.exceptions import ConnectorException

from core.principal import Principal
from db import Database, jobs
from jobs.worker import _Worker
from services import Services
from services.upkeep.jobs import MAX_DEATHS, JobQuery
from settings import Settings, database_url
from tests.paths import ROOT
from tests.rows import sql
from tests.samples import picture
from tests.servers import SIGNING_KEY
from tests.services.uploads.test_intake import upload


class Crew:
    """Workers on the test's database and bucket, ended with the test, and the log of their tasks."""

    def __init__(self, settings: Settings, folder: Path):
        assert settings.database_url is not None and settings.s3_secret_key is not None
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_BUCKET": settings.s3_bucket,
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
            "SECRET_KEY": SIGNING_KEY,
            "DATA_DIR": str(folder),
        }
        self.notes, self.log = folder / "notes", folder / "worker.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "odd_worker.py"), str(self.notes)],
                cwd=ROOT,
                env=self.environment | environment,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        return process

    def told(self) -> list[list[str]]:
        """[word, process id] in log order."""
        return [line.split() for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def words(self) -> list[str]:
        return [word for word, _ in self.told()]


@pytest.fixture
def crew(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Crew]:
    found = Crew(settings, tmp_path)
    yield found
    for process in found.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(look: Callable[[], Any], crew: Crew, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, crew.log.read_text()[-3000:]
        time.sleep(0.05)
    return found


def enqueue(db: Database, task: str, *, owner_id: str = "alice", **arguments: Any) -> None:
    with db.transaction() as tx:
        jobs.enqueue(tx, task, owner_id=owner_id, **arguments)


def pass_lease(db: Database) -> None:
    """Make every worker's last heartbeat older than the lease. A live worker renews it within a second."""
    sql(db, "update procrastinate_workers set last_heartbeat = now() - interval '1 minute'")


def test_T106_a_killed_workers_job_is_taken_over_with_one_effect(
    crew: Crew, services: Services, alice: Principal, db: Database, bucket: Any
) -> None:
    """A worker is killed during a job; another one repeats the job, and nothing is created twice."""
    first = crew.start()
    enqueue(db, "slow", seconds=600, name="held")
    wait_for(lambda: crew.words() == ["begin-held"], crew)
    first.kill()
    first.wait()
    photo = upload(services, alice, "a.png", picture("PNG", 200, 100))
    services.pipeline.process(photo.id)  # as if the job had been interrupted just before its end
    with db.connection() as tx:
        tx.execute("update readings set extracted = '{}'")
        tx.execute('update procrastinate_jobs set args = \'{"seconds": 0, "name": "held"}\' where task_name = \'slow\'')
    pass_lease(db)
    second = crew.start()
    wait_for(lambda: "end-held" in crew.words(), crew)
    assert [pid for _, pid in crew.told()] == [str(first.pid), str(second.pid), str(second.pid)]
    wait_for(lambda: services.jobs.page(JobQuery(owner="alice")).items == [], crew)
    assert len(list(bucket.list_objects("previews/"))) == 4
    assert services.files.get(alice, photo.id).metadata["width"] == 200


def test_T106_a_suspended_worker_has_no_second_effect(
    crew: Crew, services: Services, alice: Principal, db: Database
) -> None:
    """A worker is suspended during a job until another worker has done it; then it continues."""
    file = upload(services, alice, "a.bin", bytes(range(256)))
    sql(db, "update files set status = 'processing', file_hash = null")
    silent = crew.start()
    enqueue(db, "slow_check", file_id=str(file.id))
    wait_for(lambda: crew.words() == ["begin-check"], crew)
    silent.send_signal(signal.SIGSTOP)
    crew.notes.with_name("go").touch()
    crew.start()
    wait_for(lambda: "end-check" in crew.words(), crew)
    checked = services.files.get(alice, file.id)
    assert checked.status == "ready"
    silent.send_signal(signal.SIGCONT)
    wait_for(lambda: crew.words().count("end-check") == 2, crew)
    assert services.files.get(alice, file.id) == checked
    wait_for(lambda: services.jobs.page(JobQuery(owner="alice")).items == [], crew)
    enqueue(db, "slow", seconds=0)
    wait_for(lambda: "end-slow" in crew.words(), crew)
    assert silent.poll() is None


def test_a_job_that_always_kills_its_worker_ends_as_failed(
    crew: Crew, services: Services, alice: Principal, db: Database
) -> None:
    """A supervisor restarts the worker whenever it dies. The job is abandoned, and its file has a problem."""
    photo = upload(services, alice, "a.png", picture("PNG"))
    with db.connection() as tx:
        tx.execute("update files set status = 'processing'")
        tx.execute("delete from procrastinate_jobs")
    enqueue(db, "check_file", file_id=str(photo.id))
    worker = crew.start(POISONED=str(photo.id))
    deaths = 0
    deadline = time.monotonic() + 90

    def failed() -> list[Any]:
        # Jobs that are due each minute may die with it.
        return services.jobs.page(JobQuery(status="failed", task="check_file")).items

    while not failed():
        assert time.monotonic() < deadline, crew.log.read_text()[-3000:]
        if worker.poll() is not None:
            assert worker.returncode == -signal.SIGKILL
            deaths += 1
            pass_lease(db)
            worker = crew.start(POISONED=str(photo.id))
        sql(
            db, "update procrastinate_jobs set scheduled_at = now() where scheduled_at > now()"
        )  # not half a minute later
        time.sleep(0.05)
    assert deaths == MAX_DEATHS
    [job] = failed()
    assert (job.task, job.owner_id, job.deaths) == ("check_file", "alice", MAX_DEATHS)
    file = services.files.get(alice, photo.id)
    assert file.status == "rejected"
    assert file.problem is not None
    assert file.problem["code"] == "check_failed"
    assert services.verification.requeue_lost() == 0


def test_a_job_that_always_raises_has_four_attempts(
    crew: Crew, services: Services, alice: Principal, db: Database
) -> None:
    photo = upload(services, alice, "a.png", picture("PNG"))
    sql(db, "update procrastinate_jobs set task_name = 'always_fails'")
    crew.start()

    def due() -> bool:  # without its delays of 2, 4 and 8 seconds
        sql(db, "update procrastinate_jobs set scheduled_at = now() where status = 'todo' and scheduled_at > now()")
        return services.jobs.counts().get("processing", {}).get("failed") == 1

    wait_for(due, crew)
    assert crew.words() == ["fail"] * 4
    [job] = services.jobs.page(JobQuery(status="failed")).items
    assert (job.attempts, job.error) == (4, "ValueError")  # the message is only logged
    assert "secret words" in crew.log.read_text()
    assert services.files.get(alice, photo.id).problem is None  # only a file's own task sets its problem
    services.jobs.retry(job.id)
    wait_for(lambda: len(crew.words()) > 4, crew)


def test_T109_SIGTERM_returns_unfinished_jobs_to_the_queue(crew: Crew, services: Services, db: Database) -> None:
    worker = crew.start(DRAIN="1")
    enqueue(db, "slow", seconds=600)
    wait_for(lambda: crew.words() == ["begin-slow"], crew)
    enqueue(db, "slow", seconds=0, name="next")
    worker.terminate()
    assert worker.wait(30) == 0
    found = services.jobs.page(JobQuery(task="slow")).items
    assert [(job.status, job.attempts, job.deaths) for job in found] == [("todo", 0, 0)] * 2
    assert crew.words() == ["begin-slow"]


def test_T75_one_owners_backlog_does_not_delay_another_owner(crew: Crew, db: Database) -> None:
    """With 500 jobs of alice waiting, bob's, enqueued last, is among the first done. The maintenance queue is not delayed."""
    with db.transaction() as tx:
        for number in range(500):
            jobs.enqueue(tx, "slow", owner_id="alice", seconds=0, name=f"alice{number}")
        jobs.enqueue(tx, "slow", owner_id="bob", seconds=0, name="bob")
    crew.start()
    wait_for(lambda: "end-bob" in crew.words(), crew)
    before = crew.words().index("begin-bob")
    assert before <= 2


def test_T102_a_worker_survives_lost_database_connections(crew: Crew, db: Database) -> None:
    """All connections are closed, as by a restart of the server; the same process continues."""
    worker = crew.start()
    enqueue(db, "slow", seconds=0, name="before")
    wait_for(lambda: "end-before" in crew.words(), crew)
    sql(
        db,
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()",
    )
    enqueue(db, "slow", seconds=0, name="after")
    wait_for(lambda: "end-after" in crew.words(), crew)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(30) == 0
    assert "jobs_given_back" not in crew.log.read_text()


def test_T102_a_connection_lost_while_a_worker_stops_does_not_delay_it(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, calls = _Worker(services, database_url(settings), ["default"], 1, 30), 0

    async def breaks(**options: Any) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancelled:
            raise ConnectorException from cancelled

    async def stopped() -> None:
        stop = asyncio.Event()
        serving = asyncio.create_task(worker._serve("default", stop))
        await asyncio.sleep(0)
        stop.set()
        serving.cancel()
        await asyncio.wait_for(serving, 30)

    monkeypatch.setattr(worker._app, "run_worker_async", breaks)
    asyncio.run(stopped())
    assert calls == 1


def test_jobs_of_one_file_run_one_by_one(crew: Crew, db: Database) -> None:
    for name in ("one", "two", "three"):
        enqueue(db, "slow", seconds=0.3, name=name, file_id="0199")
    enqueue(db, "slow", seconds=0.3, name="other", file_id="0200")
    crew.start(PLACES="4")
    wait_for(lambda: len(crew.words()) == 8, crew)
    own = [word for word in crew.words() if not word.endswith("other")]
    assert own == ["begin-one", "end-one", "begin-two", "end-two", "begin-three", "end-three"]
