"""What SECRET_KEY signs, while it is replaced."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import wire
from commands import Call
from core.errors import InvalidCursor, NotAllowed, NotAuthenticated
from core.principal import Principal
from embedded.child import kept_secret
from services import Services
from services.library.delivery import Link, RequestConditions
from services.library.files import FileQuery
from settings import Settings
from tests.client import GatewayClient
from tests.live import Live
from tests.servers import SIGNING_KEY
from tests.services.uploads.test_direct import begin
from tests.services.uploads.test_intake import upload

NEW = "another-key-0123456789-0123456789"


def test_T143_what_the_old_key_signed_is_valid_while_it_is_listed(
    services: Services, settings: Settings, alice: Principal
) -> None:
    def with_key(value: str) -> Services:
        return wire(settings.model_copy(update={"secret_key": SecretStr(value)}), db=services.db)

    files = [upload(services, alice, name, b"hello") for name in ("a.txt", "b.txt")]
    begun = begin(services, alice, b"hello").upload

    def sign(by: Services) -> tuple[str, str, str]:
        link, cursor = by.delivery.url(alice, files[0].id, expires_in=3600), by.files.list(alice, FileQuery(limit=1))
        assert isinstance(link, Link) and cursor.next_cursor is not None and by.s3_uploads is not None
        return link.token, cursor.next_cursor, by.s3_uploads.ticket(begun)

    def check(by: Services, link: str, cursor: str, ticket: str) -> None:
        by.delivery.open_link(link, method="HEAD", conditions=RequestConditions())
        assert by.files.list(alice, FileQuery(limit=1, cursor=cursor)).items[0].id == files[0].id
        assert by.s3_uploads is not None
        assert by.s3_uploads.redeem(begun.id, ticket).owner_id == "alice"

    old = sign(services)
    both, new = with_key(f"{NEW}, {SIGNING_KEY}"), with_key(NEW)
    check(both, *old)
    check(new, *sign(both))
    link, cursor, ticket = old
    with pytest.raises(NotAuthenticated):
        check(new, link, *sign(new)[1:])
    with pytest.raises(InvalidCursor):
        check(new, sign(new)[0], cursor, sign(new)[2])
    with pytest.raises(NotAllowed):
        check(new, *sign(new)[:2], ticket)


def test_T143_processes_that_begin_at_once_keep_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool, ProcessPoolExecutor(4, mp_context=get_context("spawn")) as processes:
        kept = list(
            pool.map(lambda _: processes.submit(kept_secret, tmp_path / "new" / "secret-key").result(), range(16))
        )
    assert len(set(kept)) == 1
    assert len(kept[0]) == 32
    assert (tmp_path / "new" / "secret-key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret-key"]


def test_T143_a_server_alone_makes_its_key_in_development(
    settings: Settings, services: Services, client: GatewayClient, tmp_path: Path
) -> None:
    server = Live(settings, tmp_path / "log", SECRET_KEY="", DATA_DIR=str(tmp_path / "data"))
    server.start()
    try:
        assert GatewayClient(server.address, client.key).get("/api/files").status == 200
        assert (tmp_path / "data" / "secret-key").exists()
    finally:
        server.kill()


def test_T144_production_refuses_to_make_one(settings: Settings) -> None:
    production = settings.model_copy(update={"environment": "production", "secret_key": None})
    with pytest.raises(SystemExit, match="Set SECRET_KEY"):
        Call(production).services()
