"""Lists of files: totals, and pages of lists that are too long to count."""

from __future__ import annotations

from typing import Any

import pytest

from core.cursors import Cursors
from core.errors import InvalidCursor
from core.principal import Principal, Quota
from db import Database, file_lists
from services.library.files import FileQuery, Files
from tests.rows import add_file


def test_long_lists_are_counted_for_the_first_page_only(
    db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(db, None, None, None, None, None, quota=Quota(), cursors=Cursors([b"secret"]))  # type: ignore[arg-type]
    made = {add_file(db, f"{number}.pdf", tags=["x"], size=number % 2) for number in range(8)}
    add_file(db, "untagged.pdf")
    monkeypatch.setattr(file_lists, "EXACT_UP_TO", 3)
    counted: list[Any] = []
    total = file_lists.total
    monkeypatch.setattr(file_lists, "total", lambda *given: counted.append(given) or total(*given))
    for query, known in ((FileQuery(tag="x", limit=3, sort="file_size"), None), (FileQuery(limit=3), 9)):
        counted.clear()
        cursor, seen, totals = None, [], []
        while True:
            page = files.list(alice, FileQuery(tag=query.tag, limit=3, sort=query.sort, cursor=cursor))
            seen += [file.id for file in page.items]
            totals.append(page.total)
            if (cursor := page.next_cursor) is None:
                break
        assert totals == [known] * 3 and len(counted) == (1 if known is None else 3)
        assert len(seen) == len(set(seen)) and made <= set(seen)


def test_T84_a_cursor_is_valid_for_its_own_list_only(db: Database, alice: Principal, bob: Principal) -> None:
    files = Files(db, None, None, None, None, None, quota=Quota(), cursors=Cursors([b"secret"]))  # type: ignore[arg-type]
    for number in range(3):
        add_file(db, f"{number}.pdf")
        add_file(db, f"{number}.pdf", owner="bob")
    cursor = files.list(alice, FileQuery(limit=1)).next_cursor
    assert cursor is not None and files.list(alice, FileQuery(limit=2, cursor=cursor)).next_cursor is None
    for who, query in (
        (bob, FileQuery(cursor=cursor)),
        (alice, FileQuery(cursor=cursor, sort="uploaded_at")),
        (alice, FileQuery(cursor=cursor, tag="x")),
        (alice, FileQuery(cursor=cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB"))),
    ):
        with pytest.raises(InvalidCursor):
            files.list(who, query)
