"""Short drills with real processes, one after another on one deployment; ``make drills`` has all of them, and longer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256

import psycopg
import pytest

from embedded import postgres
from tests.client import GatewayClient
from tests.conftest import TEMPLATE
from tests.drills.audit import look, wait_until_quiet
from tests.drills.deployment import Deployment, Servers, deployed
from tests.drills.drills import Field, commits_lost, kill_web, kill_worker, lose_answers
from tests.drills.ledger import Entry, Ledger
from tests.drills.run import Outcome, run
from tests.servers import S3Server

DATABASE = "gateway_drills"


@pytest.fixture(scope="module")
def deployment(
    postgres_server: postgres.Postgres,
    database_template: str,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    with closing(psycopg.connect(postgres_server.admin_url, autocommit=True)) as admin:
        admin.execute(f"drop database if exists {DATABASE} with (force)")
        admin.execute(f"create database {DATABASE} template {TEMPLATE}")
    url = database_template.replace(TEMPLATE, DATABASE)
    servers = Servers(url, s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    with deployed(tmp_path_factory.mktemp("drills"), servers) as started:
        started.janitor_every = 15.0  # it takes two seconds of a core
        yield started


def everything(field: Field) -> None:
    """Lost answers of bucket and database, and killed processes of both kinds."""
    lose_answers(field, 0.1)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda drill: drill(field), [kill_web, kill_worker, commits_lost]))


@pytest.fixture(scope="module")
def drilled(deployment: Deployment) -> Outcome:
    return run(deployment, everything, seed=1, seconds=4, warm_up=1, clients=3)


@pytest.mark.timeout(600)
def test_T101_T104_T106_nothing_is_lost(drilled: Outcome) -> None:
    assert drilled.ledger.findings == []
    assert drilled.faults > 0
    assert drilled.ledger.acknowledged > 0


@pytest.mark.timeout(600)
def test_the_audit_finds_whatever_is_wrong(drilled: Outcome, deployment: Deployment) -> None:
    store, known, ledger = deployment.store(), drilled.ledger.entries, Ledger()
    owner, key = next(iter(drilled.keys.items()))
    for name in ("deleted", "changed", "back", "unknown"):
        made = GatewayClient(deployment.webs[0].url, key).add(name, name.encode())
        known[made["id"]] = Entry(made["id"], owner, name, sha256(name.encode()).hexdigest(), len(name))
    wait_until_quiet(deployment, ledger)
    with deployment.unattended():  # nobody repairs
        for worker in deployment.workers:
            worker.kill()
        if deployment.janitor is not None:
            deployment.janitor.kill()
        ledger.entries |= known
        paths = dict(deployment.sql("select original_name, file_path from files"))
        ids = {entry.name: entry.id for entry in known.values()}
        store.delete(paths["deleted"])
        store.put(paths["changed"], b"Changed", content_type="text/plain")
        store.put("files/2026/01/01/nobodys", b"1", content_type="text/plain")
        store.create_multipart("files/2026/01/01/begun", content_type="text/plain")
        known[ids["back"]].state = "purged"
        del ledger.entries[ids["unknown"]]
        deployment.sql("update owner_usage set used_bytes = used_bytes + 1")
        look(deployment, ledger, drilled.keys, patience=0)
    found = Counter(finding.partition(" first=")[0].partition(" file=")[0] for finding in ledger.findings)
    assert found == {
        "a file that nobody was told of": 2,  # and the purged one
        "a purged file is there": 1,
        "an acknowledged file can't be read": 4,  # two, by both ways
        "objects without a row count=1": 1,
        "rows without an object count=1": 1,
        "multiparts count=1": 1,
        "counters differ from what they count": 1,
    }
