"""Rename, move, copy, trash and purge. Every row has its object, and every object its row."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from core.errors import (
    ContentMissing,
    FileInTrash,
    GatewayError,
    InvalidName,
    NameConflict,
    NotAuthenticated,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
)
from core.ids import new_id
from core.principal import Principal
from db import Database
from services import Services
from services.library.delivery import Redirect, Stream
from services.library.files import FileChange, FileQuery, etag
from services.processing.previews import PreviewRequest
from tests.conftest import NOTHING, Leftovers
from tests.rows import sql
from tests.services.uploads.test_intake import counted, upload


def test_rename_move_and_copy_transfer_no_bytes(services: Services, alice: Principal, bucket: Any) -> None:
    file = upload(services, alice, "a.txt", b"text")
    folder = services.folders.create(alice, "plans", "", None)
    renamed = services.files.update(alice, file.id, FileChange(original_name="b.txt"), if_match=None)
    moved = services.files.move(alice, file.id, folder.id, if_match=None)
    copied = services.files.copy(alice, file.id, target_folder_id=None)
    again = services.files.copy(alice, file.id)
    assert (renamed.original_name, moved.folder_id, copied.folder_id, copied.original_name) == (
        "b.txt",
        folder.id,
        None,
        "b.txt",
    )
    assert again.original_name == "b (1).txt"
    assert len({f.file_path for f in (file, renamed, moved, copied, again)}) == 1
    assert len(list(bucket.list_objects("files/"))) == 1


@pytest.mark.parametrize("act", ["rename", "copy", "copy under the same name"])
def test_T137_a_file_renamed_while_another_name_is_judged_is_judged_again(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    file = upload(services, alice, "a.txt", b"<!doctype html><p>")
    look = services.files.get

    def slow(principal: Principal, file_id: UUID) -> Any:
        found = look(principal, file_id)
        monkeypatch.setattr(services.files, "get", look)
        services.files.update(alice, file.id, FileChange(original_name="a.html"), if_match=None)
        return found

    monkeypatch.setattr(services.files, "get", slow)
    if act == "rename":
        found = services.files.update(alice, file.id, FileChange(original_name="b.txt"), if_match=None)
    else:
        found = services.files.copy(alice, file.id, original_name="b.txt" if act == "copy" else None)
    assert found.mime_type == ("text/html" if found.original_name.endswith("html") else "text/plain")


def test_T24_renaming_to_a_taken_name_is_refused(services: Services, alice: Principal) -> None:
    upload(services, alice, "Café.txt", b"1")
    file = upload(services, alice, "b.txt", b"2")
    for taken in ("café.txt", "CAFÉ.TXT", "ｃafé.txt"):
        with pytest.raises(NameConflict):
            services.files.update(alice, file.id, FileChange(original_name=taken), if_match=None)
    with pytest.raises(InvalidName):
        services.files.update(alice, file.id, FileChange(original_name=" . "), if_match=None)


def test_T14_a_stale_If_Match_changes_nothing(services: Services, alice: Principal) -> None:
    file = upload(services, alice, "a.txt", b"1")
    services.delivery.open(alice, file.id, method="GET")
    counted_file = services.files.get(alice, file.id)
    assert counted_file.download_count == 1
    assert etag(counted_file) == etag(file)  # access counts are not edits
    renamed = services.files.update(alice, file.id, FileChange(tags=["x"]), if_match=etag(file))
    assert etag(renamed) != etag(file)
    for change in (
        lambda: services.files.update(alice, file.id, FileChange(tags=[]), if_match=etag(file)),
        lambda: services.files.move(alice, file.id, None, if_match=etag(file)),
        lambda: services.files.trash(alice, file.id, if_match=etag(file)),
        lambda: services.files.purge(alice, file.id, if_match=etag(file)),
    ):
        with pytest.raises(PreconditionFailed):
            change()
    assert services.files.get(alice, file.id) == renamed


def test_trashed_files_reserve_no_name_and_are_restored_with_a_number(services: Services, alice: Principal) -> None:
    first = upload(services, alice, "a.txt", b"1")
    assert services.files.trash(alice, first.id).is_deleted
    assert services.files.trash(alice, first.id).is_deleted
    second = upload(services, alice, "a.txt", b"2")
    assert second.original_name == "a.txt"
    with pytest.raises(FileInTrash):
        services.delivery.open(alice, first.id, method="GET")
    restored = services.files.restore(alice, first.id)
    assert (restored.original_name, restored.is_deleted) == ("a (1).txt", False)
    assert services.files.restore(alice, first.id) == restored


def test_a_purge_deletes_the_object_with_its_last_file(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    first = upload(services, alice, "a.txt", b"same")
    second = upload(services, alice, "b.txt", b"same")
    services.files.purge(alice, first.id)
    assert bucket.stat(second.file_path).size == 4
    services.files.purge(alice, second.id)
    assert list(bucket.list_objects("files/")) == []
    with pytest.raises(NotFound):
        services.files.purge(alice, second.id)
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=10)
def test_T72_usage_is_the_sum_of_all_files(services: Services, alice: Principal, db: Database) -> None:
    file = upload(services, alice, "a.txt", b"1234")
    copy = services.files.copy(alice, file.id)
    with pytest.raises(QuotaExceeded):
        services.files.copy(alice, file.id)
    services.files.trash(alice, copy.id)
    assert sql(db, "select used_bytes, file_count from owner_usage") == [(8, 1)]
    services.files.purge(alice, copy.id)
    assert sql(db, "select used_bytes, file_count, reserved_bytes from owner_usage") == [(4, 1, 0)]


def test_T64_files_of_other_owners_answer_NotFound(
    services: Services, alice: Principal, bob: Principal, root: Principal
) -> None:
    hers = upload(services, alice, "a.txt", b"1")
    his_folder = services.folders.create(bob, "his", "", None)
    for call in every_call(services, hers.id):
        with pytest.raises(NotFound):
            call(bob)
        with pytest.raises(NotFound):
            call(Principal("nobody"))
    with pytest.raises(NotFound):
        services.files.move(alice, hers.id, his_folder.id, if_match=None)
    with pytest.raises(NotAuthenticated):
        services.files.get(None, hers.id)
    assert services.files.get(root, hers.id).id == hers.id


def every_call(services: Services, file_id: UUID) -> list[Callable[[Principal], object]]:
    return [
        lambda p: services.files.get(p, file_id),
        lambda p: services.files.details(p, file_id),
        lambda p: services.files.history(p, file_id, limit=5, cursor=None),
        lambda p: services.files.update(p, file_id, FileChange(tags=["x"]), if_match=None),
        lambda p: services.files.move(p, file_id, None, if_match=None),
        lambda p: services.files.copy(p, file_id),
        lambda p: services.files.trash(p, file_id),
        lambda p: services.files.restore(p, file_id),
        lambda p: services.files.purge(p, file_id),
        lambda p: services.delivery.open(p, file_id, method="GET"),
        lambda p: services.delivery.url(p, file_id),
        lambda p: services.delivery.zip(p, ids=[str(file_id)]),
        lambda p: services.previews.show(p, file_id, PreviewRequest("thumbnail", size=128)),
    ]


def test_T35_foreign_and_missing_files_take_the_same_statements(
    services: Services, alice: Principal, bob: Principal
) -> None:
    hers = upload(services, alice, "a.txt", b"1")
    answers = []
    for file_id in (hers.id, new_id()):
        with counted(services) as log, pytest.raises(NotFound) as error:
            services.files.get(bob, file_id)
        answers.append((error.value.detail, log.statements))
    assert answers[0] == answers[1]


def test_T34_a_missing_object_is_reported_before_a_byte_is_sent(
    services: Services, alice: Principal, bucket: Any
) -> None:
    file = upload(services, alice, "a.txt", b"1")
    bucket.delete(file.file_path)
    with pytest.raises(ContentMissing):
        services.delivery.open(alice, file.id, method="GET", mode="proxy")
    with pytest.raises(ContentMissing):
        services.delivery.open(alice, file.id, method="HEAD")
    details = services.files.details(alice, file.id)
    assert details.integrity["exists"] is False
    with pytest.raises(ContentMissing):  # a redirect too, once the loss is known
        services.delivery.open(alice, file.id, method="GET", mode="redirect")


def test_T34_T121_a_changed_byte_is_found_by_verify(services: Services, alice: Principal, bucket: Any) -> None:
    file = upload(services, alice, "a.bin", b"0123456789")
    assert services.files.details(alice, file.id, verify=True).integrity["checksum"] == "verified"
    bucket.put(file.file_path, b"0123456780", content_type="text/plain")
    assert services.files.details(alice, file.id, verify=True).integrity["checksum"] == "mismatch"


def test_T84_keyset_pages_neither_skip_nor_repeat(services: Services, alice: Principal) -> None:
    made = {upload(services, alice, f"{n:02}.txt", os.urandom(n)).id for n in range(23)}
    for sort in (
        "uploaded_at",
        "-uploaded_at",
        "original_name",
        "-file_size",
        "mime_type",
        "-download_count",
        "last_accessed",
    ):
        seen, cursor = [], None
        while True:
            page = services.files.list(alice, FileQuery(sort=sort, limit=5, cursor=cursor))
            assert page.total == 23
            seen += [file.id for file in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            if len(seen) == 10:  # a file is added and removed between pages
                services.files.purge(alice, upload(services, alice, "zz.txt", b"new").id)
        assert len(seen) == 23
        assert set(seen) == made


@pytest.mark.parametrize("seed", range(3))
def test_T107_concurrent_changes_of_a_file_end_in_a_legal_state(
    services: Services, alice: Principal, leftovers: Leftovers, db: Database, seed: int
) -> None:
    chance = random.Random(seed)
    folder = services.folders.create(alice, "f", "", None)
    data = os.urandom(500)
    ids = [upload(services, alice, "a.bin", data).id for _ in range(4)]

    def act(_: int) -> str | None:
        file_id = chance.choice(ids)
        action: Callable[[], object] = chance.choice(
            [
                lambda: services.files.trash(alice, file_id),
                lambda: services.files.restore(alice, file_id),
                lambda: services.files.purge(alice, file_id),
                lambda: services.files.move(alice, file_id, folder.id, if_match=None),
                lambda: services.files.copy(alice, file_id),
                lambda: upload(services, alice, "a.bin", data),
                lambda: drain(services.delivery.open(alice, file_id, method="GET", mode="proxy")),
            ]
        )
        try:
            action()
        except (NotFound, FileInTrash, NameConflict, ContentMissing) as error:
            return error.code
        return None

    def drain(opened: object) -> None:
        if isinstance(opened, Stream) and opened.body is not None:
            assert sum(len(piece) for piece in opened.body) == 500

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(act, range(120)))
    assert None in outcomes
    assert leftovers() == NOTHING
    with db.connection() as tx:
        usage = tx.execute("select used_bytes, file_count from owner_usage where owner_id = 'alice'").fetchone()
        truth = tx.execute(
            "select coalesce(sum(file_size), 0)::bigint, count(*) filter (where not is_deleted) from files"
        ).fetchone()
    assert usage == truth


def test_T65_public_files_are_readable_by_all_and_changed_by_their_owner(
    services: Services, alice: Principal, bob: Principal
) -> None:
    file = upload(services, alice, "a.txt", b"1", visibility="public")
    assert services.files.get(None, file.id).id == file.id
    assert isinstance(services.delivery.open(bob, file.id, method="GET"), Redirect)
    with pytest.raises(NotFound):
        services.files.trash(bob, file.id)
    services.files.trash(alice, file.id)
    with pytest.raises(NotAuthenticated):
        services.files.get(None, file.id)


def test_a_batch_reports_each_result_and_does_not_stop(services: Services, alice: Principal, bob: Principal) -> None:
    mine, theirs = upload(services, alice, "a.txt", b"1"), upload(services, bob, "a.txt", b"1")
    ids = [str(mine.id), str(theirs.id), "nonsense", str(mine.id)]
    codes = [
        error.code if isinstance(error, GatewayError) else None
        for _, error in services.files.batch(alice, "delete", ids)
    ]
    assert codes == [None, "not_found", "not_found", None]
    services.files.batch(alice, "restore", ids)
    services.files.batch(alice, "tag", ids, add=["new", "old"], remove=["gone"])
    services.files.batch(alice, "tag", ids, add=["x"], remove=["old"])
    assert services.files.get(alice, mine.id).tags == ["new", "x"]
    services.files.batch(alice, "purge", ids)
    with pytest.raises(NotFound):
        services.files.get(alice, mine.id)
