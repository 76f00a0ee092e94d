"""Files of equal bytes under different names: each has the previews, metadata, problem and text of a fresh upload under its name.

No test drew equal bytes under two names, so nothing noticed that the first file's name decided how all of them were shown."""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from core.content_types import file_type
from core.errors import InvalidName, NameConflict
from core.names import clean_name, extension
from core.previewable import read_by_extension
from core.principal import Principal
from db import Database, readings, scalar
from db.records import FileRecord
from services import Services
from services.library.files import FileChange, FileQuery
from services.library.search import SearchRequest
from services.processing.previews import PreviewRequest
from tests.conftest import Leftovers
from tests.direct_steps import upload as upload_directly
from tests.rows import index_now, sql
from tests.services.uploads.test_intake import upload

Shown = dict[str, Any]

_PAGE = b"<!doctype html><h1>alpha</h1><p class=beta>gamma</p>" + b"\n<p>one line of many</p>" * 200
_ROWS = b"alpha;beta\n" + b"gamma;1,5\n" * 500
_PACKED = bz2.compress(_ROWS)
UNUSED = """
select from readings r where not exists (select from files f where f.file_path = r.object_key and f.read_as = r.read_as)
"""
_FETCH = "select id from procrastinate_fetch_job_v2(null, null)"
CONTENTS = {
    "page": (_PAGE, ["a.html", "b.htm", "a.md", "c.html"]),
    "rows": (_ROWS, ["a.txt", "b.csv", "c", "a.md", "d.csv", "e.py"]),
    "packed": (_PACKED, ["a.bz2", "alpha.txt.bz2", "c.bz2"]),
}


def work(services: Services, db: Database) -> int:
    """Do the jobs that wait, and index; returns how many files were read."""
    tasks = {"process_file": services.pipeline.process, "compress_object": services.compression.compress}
    take = """
    delete from procrastinate_jobs where id = (
        select id from procrastinate_jobs where task_name = any(%s) and status = 'todo' order by priority desc, id limit 1)
    returning task_name, args ->> 'file_id'
    """
    done = []
    while found := sql(db, take, list(tasks)):
        [(task, file_id)] = found
        tasks[task](UUID(file_id))
        done.append(task)
    index_now(db)
    return done.count("process_file")


def shown(services: Services, owner: Principal, file_id: UUID) -> Shown:
    """All that was made of a file's bytes, without when."""
    file = services.files.get(owner, file_id)
    kept = services.files.view(file).previews
    listed = [view.previews for view in services.files.list(owner, FileQuery()).views if view.file.id == file_id]
    assert [kept, kept] == [services.files.details(owner, file_id).previews, *listed]
    made = [services.previews.show(owner, file_id, PreviewRequest(type=kind.preview_type)) for kind in kept]  # type: ignore[arg-type]
    found = {}
    for word in ("alpha", "beta", "gamma"):
        hits = services.search.search(owner, SearchRequest(word)).items
        found[word] = [hit.highlights["content"] for hit in hits if hit.file.id == file_id]
    measured = {name: value for name, value in file.metadata.items() if name != "processed_at"}
    assert "processed_at" in file.metadata
    return {"type": file.mime_type, "metadata": measured, "problem": file.problem, "previews": made, "text": found}


@pytest.fixture
def fresh(services: Services, db: Database) -> Callable[[bytes, str], Shown]:
    """What a file is like whose owner has nothing else."""
    known: dict[tuple[bytes, str], Shown] = {}

    def look(data: bytes, name: str) -> Shown:
        if (data, name) not in known:
            owner = Principal(f"new-{len(known)}")
            file = upload(services, owner, name, data)
            work(services, db)
            known[data, name] = shown(services, owner, file.id)
        return known[data, name]

    return look


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_is_read_by_its_own_name_whatever_its_equals_are_named(
    services: Services, db: Database, leftovers: Leftovers, fresh: Callable[[bytes, str], Shown], content: str
) -> None:
    data, names = CONTENTS[content]
    chance = random.Random(content)
    owners = [Principal("alice"), Principal("bob")]
    files: dict[UUID, Principal] = {}

    def change(owner: Principal, file: FileRecord | None) -> None:
        name, step = chance.choice(names), chance.choice(["upload", "copy", "rename", "rename", "trash", "purge"])
        if file is None or step == "upload":
            files[upload(services, owner, name, data).id] = owner
        elif step == "copy":
            files[services.files.copy(owner, file.id, original_name=chance.choice([name, None])).id] = owner
        elif step == "rename":
            with suppress(NameConflict):
                services.files.update(owner, file.id, FileChange(original_name=name), if_match=None)
        elif step == "trash":
            services.files.trash(owner, file.id)
            services.files.restore(owner, file.id)
        else:
            services.files.purge(owner, file.id)
            del files[file.id]

    for step in range(20):
        owner = chance.choice(owners)
        its = [file_id for file_id, whose in files.items() if whose == owner]
        change(owner, services.files.get(owner, chance.choice(its)) if its else None)
        if step % 5 == 4:
            work(services, db)
            assert work(services, db) == 0
            for file_id, whose in files.items():
                file = services.files.get(whose, file_id)
                name = file.original_name if content == "packed" else f"x.{extension(file.original_name)}"
                assert shown(services, whose, file_id) == fresh(data, name), file.original_name
    assert sql(db, UNUSED) == []
    for file_id, owner in files.items():
        services.files.purge(owner, file_id)
    services.janitor.run()
    assert leftovers()["rows without an object"] == leftovers()["objects without a row"] == []
    assert (
        sql(db, "select from readings r join objects o using (object_key) where o.owner_id in ('alice', 'bob')") == []
    )


def test_a_job_for_each_way_to_read_and_none_for_what_was_read(
    services: Services, alice: Principal, db: Database
) -> None:
    text, copy = upload(services, alice, "a.txt", _ROWS), upload(services, alice, "b.txt", _ROWS)
    table = upload(services, alice, "c.csv", _ROWS)
    assert text.file_path == copy.file_path == table.file_path
    assert work(services, db) == 2
    assert "processed_at" in upload(services, alice, "d.csv", _ROWS).metadata
    services.files.copy(alice, text.id, original_name="e.csv")
    services.files.update(alice, copy.id, FileChange(original_name="f.csv"), if_match=None)
    assert work(services, db) == 0


@pytest.mark.parametrize("leave", ["purge", "rename"])
def test_a_file_that_leaves_before_its_job_hands_the_job_over(
    services: Services, alice: Principal, db: Database, leave: str
) -> None:
    first, second = upload(services, alice, "a.txt", _ROWS), upload(services, alice, "b.txt", _ROWS)
    if leave == "purge":
        services.files.purge(alice, first.id)
    else:
        services.files.update(alice, first.id, FileChange(original_name="a.csv"), if_match=None)
    work(services, db)
    assert "processed_at" in services.files.get(alice, second.id).metadata


def test_a_file_renamed_while_it_is_read_leaves_nothing_of_its_old_type(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(services, alice, "a.txt", _ROWS)
    read = services.previews.read
    with monkeypatch.context() as patch:

        def slow(*arguments: Any, **options: Any) -> Any:
            found = read(*arguments, **options)
            services.files.update(alice, file.id, FileChange(original_name="a.csv"), if_match=None)
            return found

        patch.setattr(services.previews, "read", slow)
        services.pipeline.process(file.id)
    assert (sql(db, UNUSED), leftovers()["objects without a row"]) == ([], [])
    assert work(services, db) == 1
    assert sql(db, "select read_as from readings") == [("text/csv csv",)]
    assert json.loads(services.previews.show(alice, file.id, PreviewRequest()).body)["table"]


def test_a_file_renamed_there_and_back_while_it_is_read_is_read_again(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(services, alice, "a.txt", _ROWS)
    with monkeypatch.context() as patch:
        keep = services.previews.keep_document

        def slow(*arguments: Any) -> bytes:
            body = keep(*arguments)
            for name in ("a.csv", "a.txt"):
                services.files.update(alice, file.id, FileChange(original_name=name), if_match=None)
            return body

        patch.setattr(services.previews, "keep_document", slow)
        services.pipeline.process(file.id)
    work(services, db)
    found = shown(services, alice, file.id)
    assert len(found["previews"]) == 1 and found["text"]["alpha"]


def test_no_worker_takes_a_job_that_a_rename_counts_on_before_it_is_done(
    services: Services, alice: Principal, db: Database
) -> None:
    """It would read the file under its old name, and no job would be left for the new one."""
    file = upload(services, alice, "a.txt", _ROWS)
    with db.transaction() as rename:
        assert readings.is_queued(rename, file.reading)
        with db.transaction() as worker:
            assert scalar(worker, _FETCH) is None
    with db.transaction() as worker, db.transaction() as rename:
        assert scalar(worker, _FETCH) is not None
        assert not readings.is_queued(rename, file.reading)


def test_many_renames_keep_one_reading(
    services: Services, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    """Previews of the types that a file had are deleted, and only one job waits."""
    file = upload(services, alice, "a.csv", _ROWS)
    other = upload(services, alice, "other.csv", _ROWS)
    work(services, db)
    for number in range(50):
        services.files.update(alice, file.id, FileChange(original_name=f"a.x{number}"), if_match=None)
        if number % 10 == 0:
            services.previews.show(alice, file.id, PreviewRequest())
    assert work(services, db) == 1
    services.janitor.run()
    assert sorted(row[0] for row in sql(db, "select read_as from readings")) == ["text/csv csv", "text/plain x49"]
    assert len(list(bucket.list_objects("previews/"))) == 2
    assert leftovers()["objects without a row"] == []
    assert json.loads(services.previews.show(alice, other.id, PreviewRequest()).body)["table"]


def test_equal_bytes_of_other_types_have_other_etags(services: Services, alice: Principal, db: Database) -> None:
    names = ["a.txt", "b", "a.csv", "a.py", "c.py"]
    etags = [
        services.previews.show(alice, upload(services, alice, name, _ROWS).id, PreviewRequest()).etag for name in names
    ]
    assert (etags[0] == etags[1], etags[3] == etags[4], len(set(etags))) == (False, True, 4)
    packed = upload(services, alice, "a.bz2", _PACKED)
    before = services.previews.show(alice, packed.id, PreviewRequest())
    services.files.update(alice, packed.id, FileChange(original_name="b.bz2"), if_match=None)
    after = services.previews.show(alice, packed.id, PreviewRequest())
    assert [json.loads(one.body)["entries"][0]["name"] for one in (before, after)] == ["a", "b"]
    assert before.etag != after.etag


_READ_AS = """
select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d join pg_attribute a on (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
where d.adrelid = 'files'::regclass and a.attname = 'read_as'
"""
_OF_EACH = """
select f.*, {} as read_as from unnest(%s::text[], %s::text[], %s::text[]) f (original_name, mime_type, file_type)
"""


def test_read_as_has_all_that_a_parser_sees(db: Database) -> None:
    """The database computes it, so that no statement can forget it."""
    names = ["a.tar.gz", "a.straße", "İ.İni", f"a.{'x' * 16}", f"a.{'x' * 17}"]
    drawn = random.Random(1)
    for _ in range(5_000):
        with suppress(InvalidName):
            names.append(clean_name("".join(drawn.choices("aZ1.. -_．․…\u200b\u0301éßİıſﬁⅷ字", k=drawn.randint(1, 6)))))
    types = ["text/plain", "application/json", "application/octet-stream", "image/svg+xml", "application/zip"]
    mimes = [mime for mime in types for _ in names]
    rows = sql(db, _OF_EACH.format(sql(db, _READ_AS)[0][0]), names * len(types), mimes, list(map(file_type, mimes)))
    for name, mime, _, read_as in rows:
        if read_by_extension(mime):
            seen, _, told = read_as.partition(" ")
            assert (seen, extension(f"x.{told}")) == (mime, extension(name)), name
        else:
            assert read_as == mime


def test_files_that_are_verified_or_leave_a_damaged_object_are_read_too(
    services: Services, alice: Principal, db: Database, bucket: Any, fresh: Callable[[bytes, str], Shown]
) -> None:
    files = [upload(services, alice, "x.txt", _ROWS), upload_directly(services, alice, _ROWS, filename="x.csv")]
    assert files[0].file_path == files[1].file_path
    assert work(services, db) == 2
    bucket.delete(services.files.get(alice, files[0].id).file_path)
    files.append(upload(services, alice, "x.md", _ROWS))
    assert work(services, db) == 3
    for file in files:
        assert shown(services, alice, file.id) == fresh(_ROWS, file.original_name)
