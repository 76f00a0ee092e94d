"""Short drills with real processes, one after another on one deployment; ``make drills`` has all of them, and longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from embedded import postgres
from tests.conftest import TEMPLATE
from tests.drills.deployment import Deployment, Servers, deployed
from tests.drills.drills import Drill, Field, commits_lost, kill_web, kill_worker, lose_answers
from tests.drills.run import run
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
        yield started


def lost_answers(field: Field) -> None:
    """Those of bucket and database at once."""
    lose_answers(field, 0.1)
    commits_lost(field)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("drill", [kill_web, kill_worker, lost_answers])
def test_T101_T104_T106_nothing_is_lost(drill: Drill, deployment: Deployment) -> None:
    outcome = run(deployment, drill, seed=1, seconds=3, warm_up=1, clients=3)
    assert outcome.findings == []
    assert outcome.faults > 0
    assert outcome.acknowledged > 0
