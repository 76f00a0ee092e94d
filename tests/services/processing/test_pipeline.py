"""The job after an upload: text, metadata and previews from one child, with failures and crashes."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import PreviewFailed, Unavailable
from core.principal import Principal
from db import Database, objects
from parsers import ParserFailed, reading
from parsers import run as parsers
from services import Services
from services.processing.previews import PreviewRequest
from storage_backends.base import StorageUnavailable
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.parsers import samples
from tests.rows import previews_of, sql
from tests.samples import picture
from tests.services.uploads.test_intake import upload


def texts(db: Database) -> list[tuple[str, str | None]]:
    return sql(db, "select content, language from object_texts")


def queued(db: Database) -> list[str]:
    found = sql(db, "select task_name from procrastinate_jobs where task_name = 'process_file'")
    return [row[0] for row in found]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each child process reads, in order."""
    asked: list[list[str]] = []
    run = parsers.run

    def counted(parser: str, source: Any, arguments: dict[str, Any], **options: Any) -> Any:
        asked.append(arguments["want"])
        return run(parser, source, arguments, **options)

    monkeypatch.setattr(parsers, "run", counted)
    return asked


def test_one_child_process_reads_text_metadata_and_pictures(
    services: Services, alice: Principal, db: Database, runs: list[list[str]]
) -> None:
    paper = upload(services, alice, "plan.pdf", samples.pdf())
    services.pipeline.process(paper.id)
    assert len(runs) == 1
    file = services.files.get(alice, paper.id)
    assert (file.metadata["pages"], file.metadata["title"], file.metadata["author"]) == (2, "A title", "An Author")
    assert file.problem is None
    [(content, _)] = texts(db)
    assert "Hello page one" in content and "Second page" in content
    shown = previews_of(services.db, file)
    assert sorted((p.preview_type, p.variant) for p in shown) == [
        ("text", 0),
        ("thumbnail", 128),
        ("thumbnail", 256),
        ("thumbnail", 512),
        ("thumbnail", 1024),
    ]
    services.pipeline.process(paper.id)
    assert len(runs) == 1  # the second run does nothing


def test_jobs_are_enqueued_for_types_with_previews(services: Services, alice: Principal, db: Database) -> None:
    upload(services, alice, "a.bin", bytes(range(256)) * 4)
    upload(services, alice, "empty.txt", b"")
    assert queued(db) == []
    first = upload(services, alice, "a.txt", b"some words")
    second = upload(services, alice, "b.txt", b"some words")
    assert second.file_path == first.file_path
    assert queued(db) == ["process_file"]  # once for equal bytes


def test_a_failed_step_does_not_prevent_the_others(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document whose page can't be drawn still has its text, and each file of the object has the problem."""
    paper = upload(services, alice, "plan.pdf", samples.pdf())
    run, asked = parsers.run, []

    def unlucky(parser: str, source: Any, arguments: dict[str, Any], **options: Any) -> Any:
        asked.append(arguments["want"])
        if "picture" in arguments["want"]:
            raise ParserFailed("The parser crashed")
        return run(parser, source, arguments, **options)

    monkeypatch.setattr(parsers, "run", unlucky)
    services.pipeline.process(paper.id)
    services.pipeline.process(paper.id)
    assert len(asked) == 3
    later = upload(services, alice, "again.pdf", samples.pdf())
    for file in (paper, later):
        found = services.files.get(alice, file.id)
        assert found.problem == {
            "code": "preview_failed",
            "detail": "The thumbnails could not be made: The parser crashed",
        }
        assert found.metadata["pages"] == 2
    assert "Second page" in texts(db)[0][0]


def test_a_part_that_a_parser_names_as_failed_costs_no_other_and_no_second_child(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper, photo = upload(services, alice, "plan.pdf", samples.pdf()), upload(services, alice, "a.png", picture("PNG"))
    run, asked = parsers.run, []

    def without_picture(parser: str, source: Any, arguments: dict[str, Any], **options: Any) -> Any:
        asked.append(parser)
        answer = run(
            parser, source, arguments | {"want": [part for part in arguments["want"] if part != "picture"]}, **options
        )
        return parsers.Answer(answer.values | {"failed": {"picture": "Too many pixels"}}, [])

    monkeypatch.setattr(parsers, "run", without_picture)
    services.pipeline.process(paper.id)
    with pytest.raises(PreviewFailed, match="Too many pixels"):
        services.previews.show(alice, paper.id, PreviewRequest(type="thumbnail"))
    services.previews.show(alice, paper.id, PreviewRequest(type="text"))
    assert asked == ["pdf"]
    found = services.files.get(alice, paper.id)
    assert found.problem == {"code": "preview_failed", "detail": "The thumbnails could not be made: Too many pixels"}
    assert found.metadata["pages"] == 2 and "Second page" in texts(db)[0][0]
    for _ in range(2):
        with pytest.raises(PreviewFailed, match="Too many pixels"):
            services.previews.show(alice, photo.id, PreviewRequest())
    assert asked == ["pdf", "image"]
    assert services.files.get(alice, photo.id).metadata["width"]


def test_T91_a_killed_child_is_a_result_and_not_retried(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, runs: list[list[str]]
) -> None:
    """After a child was killed at its limit, the file has a problem and the job is done."""
    monkeypatch.setattr(reading, "_READERS", {"image": reading._Reader("image", parsers.Limits(wall_seconds=0.001))})
    reading._reader.cache_clear()
    photo = upload(services, alice, "a.png", picture("PNG", 300, 200))
    services.pipeline.process(photo.id)
    found = services.files.get(alice, photo.id)
    assert found.status == "ready"
    assert found.problem is not None and found.problem["code"] == "preview_failed"
    services.pipeline.process(photo.id)
    with pytest.raises(PreviewFailed, match="longer than"):
        services.previews.show(alice, photo.id, PreviewRequest())
    assert len(runs) == 1
    monkeypatch.undo()
    reading._reader.cache_clear()
    services.previews.show(alice, photo.id, PreviewRequest(retry=True))
    assert services.files.get(alice, photo.id).problem is None


def test_an_encrypted_document_has_no_problem(services: Services, alice: Principal) -> None:
    """Password protection is not an error."""
    paper = upload(services, alice, "secret.pdf", samples.encrypted_pdf())
    services.pipeline.process(paper.id)
    file = services.files.get(alice, paper.id)
    assert file.problem is None
    assert "processed_at" in file.metadata


def test_an_unavailable_bucket_raises_unavailable(
    services: Services, alice: Principal, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = upload(services, alice, "a.txt", b"some words")

    def away(*arguments: Any, **options: Any) -> Any:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(type(bucket), "put", away)
        with pytest.raises(Unavailable):
            services.pipeline.process(text.id)
    assert "processed_at" not in services.files.get(alice, text.id).metadata
    services.pipeline.process(text.id)
    assert "processed_at" in services.files.get(alice, text.id).metadata


def test_a_file_purged_meanwhile_leaves_nothing(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = upload(services, alice, "a.png", picture("PNG", 300, 200))
    read = services.previews.read

    def slow(*arguments: Any, **options: Any) -> Any:
        found = read(*arguments, **options)
        services.files.purge(alice, photo.id)
        return found

    monkeypatch.setattr(type(services.previews), "read", lambda self, *a, **o: slow(*a, **o))
    services.pipeline.process(photo.id)
    assert leftovers() == NOTHING


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_T101_killed_at_any_call_the_result_is_the_same(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers, bucket: Any
) -> None:
    """The next run completes what is missing, and the janitor removes what is left over."""
    text = upload(services, alice, "a.md", b"# Plans\n\nSome words about plans.\n" * 20)
    for crash in crashing.crash_points():
        with crash:
            crashing.services.pipeline.process(text.id)
        services.pipeline.process(text.id)
        found = services.files.get(alice, text.id)
        assert "processed_at" in found.metadata
        assert [p.preview_type for p in previews_of(services.db, found)] == ["text"]
        assert len(texts(db)) == 1
        assert leftovers()["rows without an object"] == []
        with db.connection() as tx:  # reset for the next crash
            tx.execute("delete from readings")
    assert crash.number > 4
    assert len(leftovers()["objects without a row"]) > 0  # unrecorded pictures are left to the janitor
    with db.connection() as tx:
        [record] = objects.get_many(tx, [text.file_path])
    assert record.status == "stored"
