"""Limits hold over all processes, wherever they are counted, and while that place is down (T74)."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from core.principal import Principal
from db import Database
from services import Services
from services.access import rate_limits
from services.access.rate_limits import NAMES, LimitName, RateLimits
from settings import Settings
from tests.fault_proxy import FaultProxy
from tests.rows import sql
from tests.servers import free_port

ALICE, BOB, NOBODY = Principal("alice"), Principal("bob"), None


class Redis:
    """A Redis without persistence."""

    def __init__(self, directory: Path):
        program = shutil.which("redis-server")
        assert program is not None, "counting in Redis needs one to be tried (Debian: apt install redis-server)"
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    deadline = time.monotonic() + 20
    while not rate_limits._open(server.url).check():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield server
    server.stop()


@pytest.fixture(params=["database", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("redis").url if request.param == "redis" else None


def limiter(db: Database, rate: str, url: str | None = None) -> RateLimits:
    return RateLimits(db, dict.fromkeys(NAMES, rate), url=url)


def allowed(
    limits: RateLimits, who: Principal | None = ALICE, name: LimitName = "uploads", address: str = "1.2.3.4"
) -> bool:
    return limits.hit(name, who, address).allowed


def test_T74_processes_share_a_limit(db: Database, url: str | None) -> None:
    processes = [limiter(db, "30/hour", url) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        passed = list(pool.map(lambda number: allowed(processes[number % 3]), range(90)))
    assert sum(passed) == 30
    assert all(allowed(process, BOB) for process in processes), "another owner's"
    assert all(allowed(process, name="search") for process in processes), "another kind of request"


def test_T74_batches_never_exceed_a_limit(db: Database, url: str | None) -> None:
    processes = [limiter(db, "1000/hour", url) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        passed = sum(pool.map(lambda number: allowed(processes[number % 3]), range(1_500)))
    assert 1_000 - 12 * 10 <= passed <= 1_000  # ten are taken at a time


def test_a_window_ends(db: Database, url: str | None) -> None:
    limits = limiter(db, "2/second", url)
    while not all(passed := [allowed(limits) for _ in range(2)]) or (third := limits.hit("uploads", ALICE, "")).allowed:
        assert passed  # a window ended between the three
    assert (third.remaining, third.reset) == (0, 1)
    deadline = time.monotonic() + 10
    while not allowed(limits):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_thousands_of_requests_are_counted_by_a_few_statements(db: Database) -> None:
    limits = limiter(db, "60000/hour")
    hits = [limits.hit("uploads", ALICE, "") for _ in range(3_200)]
    assert [hit.remaining for hit in hits] == list(range(59_999, 59_999 - 3_200, -1)), (
        "and the remaining ones are exact"
    )
    assert sql(db, "select count from rate_limits") == [(3_200,)]


def test_addresses_are_counted_as_networks(db: Database) -> None:
    limits = limiter(db, "1/hour")
    assert allowed(limits, NOBODY, address="2001:db8::1")
    assert not allowed(limits, NOBODY, address="2001:db8::ffff:2"), "one client has all of a /64"
    assert allowed(limits, NOBODY, address="2001:db8:0:1::1")
    assert allowed(limits, NOBODY, address="1.2.3.4") and allowed(limits, NOBODY, address="1.2.3.5")
    assert allowed(limits, NOBODY, address="no address") and not allowed(limits, NOBODY, address="\0")


def test_T74_without_redis_each_process_counts_alone(db: Database, redis: Redis) -> None:
    processes = [limiter(db, "3/hour", redis.url) for _ in range(2)]
    assert [allowed(process) for process in processes] == [True, True]
    redis.stop()
    for process in processes:
        assert [allowed(process) for _ in range(4)] == [True, True, True, False]


def test_T74_without_the_database_each_process_counts_alone(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "_RETRY", 0.1)
    where = urlsplit(database_url)
    with FaultProxy(str(where.hostname), int(where.port or 0)) as proxy:
        near = Database(database_url.replace(where.netloc.rpartition("@")[2], urlsplit(proxy.url).netloc))
        limits = limiter(near, "3/hour")
        assert allowed(limits)
        proxy.close()
        assert [allowed(limits) for _ in range(4)] == [True, True, True, False]
        near.close()


def test_the_janitor_forgets_what_is_over(services: Services, db: Database) -> None:
    limits = limiter(db, "5/hour")
    assert allowed(limits, ALICE) and allowed(limits, BOB)
    sql(db, "update rate_limits set expires_at = now() - interval '1 second' where key like '%%alice'")
    services.janitor.run(full=False)
    assert sql(db, "select key from rate_limits") == [("uploads:owner bob",)]
    assert sql(db, "select relpersistence from pg_class where relname = 'rate_limits'") == [("u",)]


def test_what_a_process_remembers_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_MAX_WINDOWS", 10)
    limits = limiter(db, "1/hour")
    assert all(allowed(limits, NOBODY, address=f"1.2.3.{n}") for n in range(25))
    assert len(limits._windows) <= 10
    assert not any(allowed(limits, NOBODY, address=f"1.2.3.{n}") for n in range(25)), "the database knows all"


@pytest.mark.parametrize(
    "values",
    [
        {"rate_limit_uploads": "many"},
        {"rate_limit_logins": "0/minute"},
        {"rate_limits_url": "http://example.com"},
        {"rate_limits_url": "memory://", "web_workers": 2},
    ],
)
def test_unusable_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_one_process_may_count_in_its_memory(db: Database) -> None:
    assert Settings(_env_file=None, rate_limits_url="memory://", web_workers=1)
    limits = limiter(db, "1/hour", "memory://")
    assert allowed(limits) and not allowed(limits)
    assert sql(db, "select from rate_limits") == []
