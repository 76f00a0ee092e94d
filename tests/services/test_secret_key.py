"""What SECRET_KEY signs, while it is replaced."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from app import wire
from core.errors import InvalidCursor, NotAllowed, NotAuthenticated
from core.principal import Principal
from services import Services
from services.library.delivery import Link, RequestConditions
from services.library.files import FileQuery
from settings import Settings
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
