"""Missing and damaged objects: they are never delivered, and uploading the same bytes again repairs them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from zipfile import ZipFile

import pytest

from core.errors import ContentMissing, DuplicateFile
from core.placement import Placement
from core.principal import Principal
from core.ranges import ByteRange
from db import Database
from db.records import FileRecord
from services import Services
from services.library.delivery import RequestConditions
from services.library.files import FileQuery
from services.objects.object_reader import Altered
from services.processing.previews import PreviewRequest
from storage_backends.base import ObjectNotFound
from tests.compressed_files import compressed, read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import begin, checked, direct, send_all
from tests.rows import sql
from tests.services.test_lost_answers import form
from tests.services.uploads.test_intake import stored, upload

Damage = Callable[[Any, Database, FileRecord], None]


def gone(bucket: Any, db: Database, file: FileRecord) -> None:
    bucket.delete(file.file_path)


def altered(bucket: Any, db: Database, file: FileRecord) -> None:
    body = stored(bucket, file)
    bucket.put(file.file_path, bytes([body[0] ^ 1]) + body[1:], content_type="text/plain")


def cut(bucket: Any, db: Database, file: FileRecord) -> None:
    bucket.put(file.file_path, stored(bucket, file)[:-1], content_type="text/plain")


def known_mismatch(bucket: Any, db: Database, file: FileRecord) -> None:
    """Record a mismatch, as after a flipped bit on the disk: the bucket still reports the old ETag."""
    sql(db, "update objects set checksum_state = 'mismatch' where object_key = %s", file.file_path)


def known_gone(bucket: Any, db: Database, file: FileRecord) -> None:
    gone(bucket, db, file)
    sql(db, "update objects set in_bucket = false where object_key = %s", file.file_path)


DAMAGES: tuple[Damage, ...] = (gone, altered, cut, known_mismatch, known_gone)


def by_form(services: Services, who: Principal, data: bytes, wish: str) -> FileRecord:
    return upload(services, who, "again.txt", data, on_duplicate=wish)


def by_direct(services: Services, who: Principal, data: bytes, wish: str) -> FileRecord:
    begun = begin(services, who, data, filename="again.txt", placement=Placement(on_duplicate=wish))  # type: ignore[arg-type]
    send_all(begun, data)
    return checked(services, direct(services).complete(who, begun.upload.id))


@pytest.mark.parametrize("wish", ["link", "reject"])
@pytest.mark.parametrize("again", [by_form, by_direct], ids=["form", "direct"])
def test_uploading_the_same_bytes_again_repairs_all_files_on_a_damaged_object(
    services: Services,
    bob: Principal,
    bucket: Any,
    db: Database,
    leftovers: Leftovers,
    wish: str,
    again: Callable[[Services, Principal, bytes, str], FileRecord],
) -> None:
    data = text(9000)
    theirs = upload(services, bob, "a.txt", data)
    for damage in DAMAGES:
        alice = Principal(damage.__name__)
        first = compressed(services, alice, data) if wish == "link" else upload(services, alice, "a.txt", data)
        services.pipeline.process(first.id)
        copy = services.files.copy(alice, first.id)
        trashed = services.files.trash(alice, services.files.copy(alice, first.id).id)
        damage(bucket, db, first)
        new = again(services, alice, data, wish)
        assert (new.status, new.file_path != first.file_path) == ("ready", True)
        services.files.restore(alice, trashed.id)
        found = services.files.list(alice, FileQuery()).items
        assert {first.id, copy.id, trashed.id, new.id} == {file.id for file in found}
        for file in found:
            assert file.file_path == new.file_path
            assert read(services, file) == data
        services.pipeline.process(new.id)
        assert services.previews.show(alice, first.id, PreviewRequest("text")).body
        with pytest.raises(DuplicateFile):
            upload(services, alice, "third.txt", data, on_duplicate="reject")
    assert read(services, theirs) == data
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_files_on_a_damaged_object_move_to_a_sound_one(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    for damage in DAMAGES:
        data = os.urandom(500)
        first = upload(services, alice, "a.bin", data)
        sound = upload(services, alice, "b.bin", data, on_duplicate="copy")
        damage(bucket, db, first)
        assert upload(services, alice, "c.bin", data).file_path == sound.file_path
        assert read(services, services.files.get(alice, first.id)) == data
    services.janitor.run()
    assert leftovers() == NOTHING


def test_equal_files_of_one_form_share_the_object_that_repairs_the_old_ones(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = [os.urandom(500), os.urandom(500)]
    old = [upload(services, alice, "a.bin", piece) for piece in data]
    for file in old:
        gone(bucket, db, file)
    made = form(services, alice, data[0], data[1], data[0]).files
    assert made[0].file_path == made[2].file_path
    for file, piece in zip(
        services.files.list(alice, FileQuery(sort="uploaded_at")).items, [*data, *data, data[0]], strict=True
    ):
        assert read(services, file) == piece
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T107_repair_during_copy_rename_trash_purge_and_equal_uploads(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    """Each operation has a legal outcome, and every remaining file has its bytes."""
    for _ in range(5):
        data = os.urandom(500)
        kept, purged = (upload(services, alice, name, data) for name in ("a.bin", "b.bin"))
        altered(bucket, db, kept)
        actions: list[Callable[[], Any]] = [
            lambda data=data: upload(services, alice, "again.bin", data),
            lambda data=data: by_direct(services, alice, data, "link"),
            lambda data=data: upload(services, alice, "once.bin", data, on_duplicate="reject"),
            lambda kept=kept: services.files.copy(alice, kept.id),
            lambda kept=kept: services.files.move(alice, kept.id, None, if_match=None),
            lambda kept=kept: services.files.trash(alice, kept.id),
            lambda purged=purged: services.files.purge(alice, purged.id),
        ]
        with ThreadPoolExecutor(len(actions)) as pool:
            for end in [pool.submit(action) for action in actions]:
                with suppress(ContentMissing, DuplicateFile):
                    end.result(60)
        services.files.restore(alice, kept.id)
        left = services.files.list(alice, FileQuery()).items
        assert kept.id in {file.id for file in left}
        for file in left:
            assert read(services, file) == data
            services.files.purge(alice, file.id)
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("encoded", [False, True])
def test_T34_no_kind_of_download_gives_damaged_bytes(
    services: Services, alice: Principal, bucket: Any, db: Database, encoded: bool
) -> None:
    make = compressed if encoded else (lambda services, who, data: upload(services, who, "a.txt", data))
    numbers = itertools.count()
    for damage in DAMAGES:
        for attempt in _ways_out(services, alice):
            file = make(services, alice, text(9000, seed=next(numbers)))
            damage(bucket, db, file)
            with pytest.raises(ContentMissing) as refused:
                attempt(file)
            assert ("uploaded" in refused.value.detail) == ("gone" not in damage.__name__)
            assert not services.files.get(alice, file.id).intact
            with pytest.raises(ContentMissing):
                services.delivery.open(alice, file.id, method="GET", mode="redirect")


def _ways_out(services: Services, who: Principal) -> list[Callable[[FileRecord], Any]]:
    def opened(file: FileRecord, method: Any, mode: Any, wanted: str | None = None) -> Any:
        conditions = RequestConditions(range=wanted)
        return services.delivery.open(who, file.id, method=method, mode=mode, conditions=conditions)

    return [
        lambda file: opened(file, "GET", "redirect"),
        lambda file: opened(file, "GET", "proxy"),
        lambda file: opened(file, "GET", "proxy", "bytes=100-200"),
        lambda file: opened(file, "GET", "proxy", "bytes=-1"),
        lambda file: opened(file, "HEAD", "redirect"),
        lambda file: services.delivery.url(who, file.id),
        lambda file: services.previews.show(who, file.id, PreviewRequest("text")),
        lambda file: services.files.copy(who, file.id),
        lambda file: b"".join(services.delivery.zip(who, ids=[str(file.id)]).body),
    ]


def test_a_zip_of_a_folder_lists_the_damaged_file(
    services: Services, alice: Principal, bucket: Any, db: Database, tmp_path: Any
) -> None:
    folder = services.folders.create(alice, "f", "", None).id
    bad = upload(services, alice, "bad.bin", os.urandom(100), folder_id=folder)
    upload(services, alice, "good.bin", b"good", folder_id=folder)
    known_mismatch(bucket, db, bad)
    target = tmp_path / "a.zip"
    target.write_bytes(b"".join(services.delivery.zip(alice, folder=folder).body))
    with ZipFile(target) as archive:
        assert archive.namelist() == ["good.bin", "NOT INCLUDED.txt"]
        assert b"bad.bin" in archive.read("NOT INCLUDED.txt")


def test_a_reader_that_started_before_the_repair_finds_the_new_object(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    data = os.urandom(500)
    old = upload(services, alice, "a.bin", data)
    altered(bucket, db, old)
    with pytest.raises(Altered):
        read(services, old)
    upload(services, alice, "b.bin", data)
    services.janitor.run()
    assert read(services, old, ByteRange(10, 20)) == data[10:21]


def test_a_new_etag_after_a_restore_is_accepted_once_the_bytes_are_verified(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    data = os.urandom(6 * 1024 * 1024)
    file = upload(services, alice, "a.bin", data)
    ref = bucket.create_multipart(file.file_path, content_type="text/plain")
    bucket.complete_multipart(ref, [bucket.put_part(ref, 1, data)])
    with pytest.raises(ObjectNotFound):
        read(services, file)
    assert services.files.details(alice, file.id).integrity["checksum"] == "mismatch"
    assert services.files.details(alice, file.id, verify=True).integrity["checksum"] == "verified"
    assert read(services, services.files.get(alice, file.id)) == data
    assert services.delivery.url(alice, file.id)
