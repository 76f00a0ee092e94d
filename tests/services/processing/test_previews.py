"""Previews: made after uploads or on request, shared by equal files, failures remembered, deleted with the object."""

from __future__ import annotations

import io
import json
import os
import threading
from typing import Any

import pytest
from PIL import Image

from core.errors import FileNotReady, InvalidInput, PreviewFailed, PreviewUnsupported, TooMany
from core.principal import Principal
from db import Database, deferred_deletions
from parsers import run as parsers
from services import Services
from services.access.concurrency import ConcurrencyLimit
from services.processing.previews import PreviewRequest, Shape
from tests.compressed_files import time_passes
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.parsers import samples
from tests.rows import previews_of, sql
from tests.samples import picture
from tests.services.uploads.test_intake import upload


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parsers that were started, in order."""
    started: list[str] = []
    run = parsers.run

    def counted(parser: str, *arguments: Any, **options: Any) -> Any:
        started.append(parser)
        return run(parser, *arguments, **options)

    monkeypatch.setattr(parsers, "run", counted)
    return started


def test_all_sizes_are_made_once_and_shared_by_equal_files(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers, children: list[str]
) -> None:
    photo = upload(services, alice, "a.jpg", picture("JPEG", 1600, 1200))
    copy = services.files.copy(alice, photo.id)
    services.pipeline.process(photo.id)
    services.pipeline.process(copy.id)
    assert children == ["image"]  # one child for all sizes and the metadata
    assert len(list(bucket.list_objects("previews/"))) == 4
    assert [(p.variant, p.width, p.height) for p in previews_of(services.db, copy)] == [
        (128, 128, 96),
        (256, 256, 192),
        (512, 512, 384),
        (1024, 1024, 768),
    ]
    for file in (photo, copy, upload(services, alice, "again.jpg", picture("JPEG", 1600, 1200))):
        measured = services.files.get(alice, file.id).metadata
        assert (measured["width"], measured["height"]) == (1600, 1200)
        assert measured["placeholder"]
    services.files.purge(alice, photo.id)
    assert len(list(bucket.list_objects("previews/"))) == 4
    services.files.purge(alice, copy.id)
    services.files.purge(alice, file.id)
    assert leftovers() == NOTHING
    assert list(bucket.list_objects("previews/")) == []


@pytest.mark.parametrize(("mime_type", "kind"), [("image/webp", "WEBP"), ("image/jpeg", "JPEG"), ("image/png", "PNG")])
def test_missing_previews_are_made_on_request(
    services: Services, alice: Principal, bucket: Any, mime_type: Any, kind: str
) -> None:
    photo = upload(services, alice, "a.png", picture("PNG", 300, 200))
    first = services.previews.show(alice, photo.id, PreviewRequest(size=128, mime_type=mime_type))
    with Image.open(io.BytesIO(first.body)) as shown:
        assert (shown.format, shown.size) == (kind, (128, 85))
    again = services.previews.show(
        alice, photo.id, PreviewRequest(size=128, mime_type=mime_type, if_none_match=first.etag)
    )
    assert again.not_modified
    for lost in bucket.list_objects("previews/"):  # lost previews are made again
        bucket.delete(lost.key)
    wish = PreviewRequest(size=128, mime_type=mime_type)
    assert services.previews.show(alice, photo.id, wish).etag == first.etag
    assert len(list(bucket.list_objects("previews/"))) == 1


def test_a_text_preview_is_json_and_stored(
    services: Services, alice: Principal, bucket: Any, children: list[str]
) -> None:
    text = upload(services, alice, "a.py", b"print('hello')\n" * 10)
    first = services.previews.show(alice, text.id, PreviewRequest())
    assert first.mime_type == "application/json"
    found = json.loads(first.body)
    assert found["content"].startswith("print('hello')")
    assert found["truncated"] is False
    assert services.previews.show(alice, text.id, PreviewRequest(type="text")) == first
    assert len(children) == 1
    assert [info.key.rpartition(".")[2] for info in bucket.list_objects("previews/")] == ["json"]


def test_listing_an_archive_reads_only_its_directory(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the needed part of the 6 MiB is read from the bucket."""
    asked = []
    opened = services.previews._reader.open

    def counted(file: Any, span: Any = None) -> Any:
        asked.append(span.last - span.first + 1 if span else file.file_size)
        return opened(file, span)

    archive = samples.zipped({"plan.txt": b"text", "big.bin": os.urandom(6 * 1024 * 1024)})
    file = upload(services, alice, "a.zip", archive)
    monkeypatch.setattr(services.previews._reader, "open", counted)
    shown = services.previews.show(alice, file.id, PreviewRequest())
    found = json.loads(shown.body)
    assert [entry["name"] for entry in found["entries"]] == ["plan.txt", "big.bin"]
    assert (found["total_entries"], found["truncated"]) == (2, False)
    assert 0 < sum(asked) < 2 * 1024 * 1024


def test_pages_of_a_document_are_pictures(
    services: Services, alice: Principal, db: Database, children: list[str]
) -> None:
    paper = upload(services, alice, "a.pdf", samples.pdf(["One", "Two", "Three"]))
    for page in (1, 3):
        shown = services.previews.show(alice, paper.id, PreviewRequest(type="page", page=page))
        with Image.open(io.BytesIO(shown.body)) as image:
            assert image.format == "WEBP"
            assert max(image.size) <= 1024
    begun = len(children)
    for beyond in (4, 2**40):
        with pytest.raises(InvalidInput, match="3 pages"):
            services.previews.show(alice, paper.id, PreviewRequest(type="page", page=beyond))
    assert len(children) == begun  # nothing is parsed for pages that don't exist
    assert sql(db, "select count(*) from preview_failures") == [(0,)]


def test_T91_a_file_that_cannot_be_parsed_is_parsed_once(
    services: Services, alice: Principal, bob: Principal, db: Database, children: list[str]
) -> None:
    """The failure is returned at each request, kept for a day, and forgotten when the owner retries."""
    broken = upload(services, alice, "a.png", picture("PNG", 300, 200)[:60])
    services.files.update(alice, broken.id, _public(), if_match=None)
    for _ in range(3):
        with pytest.raises(PreviewFailed):
            services.previews.show(alice, broken.id, PreviewRequest(size=128))
    with pytest.raises(PreviewFailed):
        services.previews.show(bob, broken.id, PreviewRequest(size=512, retry=True))  # bob is not the owner
    assert len(children) == 1
    with pytest.raises(PreviewFailed):
        services.previews.show(alice, broken.id, PreviewRequest(size=128, retry=True))
    assert len(children) == 2
    sql(db, "update preview_failures set failed_at = now() - interval '25 hours'")
    with pytest.raises(PreviewFailed):
        services.previews.show(alice, broken.id, PreviewRequest(size=128))
    assert len(children) == 3


def _public() -> Any:
    from services.library.files import FileChange

    return FileChange(visibility="public")


def test_files_without_previews(services: Services, alice: Principal, db: Database) -> None:
    text = upload(services, alice, "a.txt", b"text")
    for kind in ("thumbnail", "page", "contents"):
        with pytest.raises(PreviewUnsupported):
            services.previews.show(alice, text.id, PreviewRequest(type=kind))
    empty = upload(services, alice, "empty.txt", b"")
    with pytest.raises(PreviewUnsupported):
        services.previews.show(alice, empty.id, PreviewRequest())
    photo = upload(services, alice, "a.png", picture("PNG"))
    sql(db, "update files set status = 'processing' where id = %s", photo.id)
    with pytest.raises(FileNotReady):
        services.previews.show(alice, photo.id, PreviewRequest(size=128))


def test_T101_a_preview_killed_at_any_step_leaves_nothing(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    """The key is reserved before the first byte is written, so one run of the janitor finds it."""
    text = upload(services, alice, "a.txt", b"text")
    for crash in crashing.crash_points():
        with crash:
            crashing.services.previews.keep(text, Shape("page", crash.number, "image/webp"), b"picture")
        time_passes(db)
        services.janitor.run()
        assert leftovers() == NOTHING, crash
    assert crash.number > 3


def test_a_preview_whose_reservation_expired_is_not_used(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The janitor ran between writing and recording, and may have deleted the bytes."""
    text = upload(services, alice, "a.txt", b"text")
    put = services.previews._store.put

    def late(*arguments: Any, **options: Any) -> Any:
        result = put(*arguments, **options)
        time_passes(db)
        with db.connection() as tx:
            deferred_deletions.claim_due(tx, limit=10)
        return result

    monkeypatch.setattr(services.previews._store, "put", late)
    services.previews.keep(text, Shape("page", 1, "image/webp"), b"picture")
    assert previews_of(services.db, text) == []
    assert leftovers() == NOTHING


# -- limit -----------------------------------------------------------------------------------------------------------------


def test_T75_one_owners_requests_do_not_starve_others() -> None:
    """While one request of alice runs and ten wait, bob gets a slot, and alice's next request is refused."""
    limit = ConcurrencyLimit(concurrency=2, per_owner=1, waiting=10, timeout=30)
    done, begun = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        with limit.slot("alice"):
            begun.release()
            done.wait(30)

    threads = [threading.Thread(target=work) for _ in range(11)]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=10)
    while len(limit._queue) < 10:  # one is running, ten wait
        done.wait(0.01)
    with pytest.raises(TooMany):
        with limit.slot("alice"):
            pass
    with limit.slot("bob"):
        assert not begun.acquire(timeout=0.1)  # alice's next request does not get the second slot
    done.set()
    for thread in threads:
        thread.join(30)
    with limit.slot("alice"), limit.slot("bob"):
        pass


def test_T75_verifications_are_limited_too(services: Services, alice: Principal) -> None:
    files = [upload(services, alice, f"{n}.txt", b"text %d" % n) for n in range(3)]
    with services.files._verify_limit.slot("alice"):
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(services.files.details(alice, files[0].id, verify=True)))
        thread.start()
        thread.join(0.3)
        assert result == []
    thread.join(30)
    assert result[0].integrity["checksum"] == "verified"
