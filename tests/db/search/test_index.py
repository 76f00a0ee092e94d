"""The index on a real server: words of names and texts, changes of files, several workers at once."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from core import tokenizer
from core.search_query import Term
from db import Database, execute, objects, scalar
from db.search import index, terms
from db.search.words import related
from tests.rows import add_file, index_now, put_text, sql


def put(db: Database, content: str, language: str | None = "en", *, name: str = "a") -> str:
    """Index a file with this text; returns the lexemes of the text."""
    file_id = add_file(db, name, key="files/a")
    with db.transaction() as tx:
        assert put_text(tx, "files/a", content=content, language=language)
    index_now(db)
    return found(db, file_id)


def found(db: Database, file_id: UUID, *, of_name: bool = False) -> str:
    """The lexemes of the file's text, or those of its name."""
    ((vector, mark),) = sql(db, "select words::text, mark from search_index where file_id = %s", file_id)
    lexemes = re.findall(rf"'{re.escape(mark)}((?:[^']|'')*'[:\d,]*)", vector)
    return " ".join("'" + word for word in lexemes if (word[0] in "/^") == of_name)


def test_a_vector_has_positions_pairs_and_stems(db: Database) -> None:
    vector = put(db, "The reports, again.")
    # "the" and "again" are stop words
    assert vector == "'again':3 'report/en' 'reports':2 'reports again' 'the':1 'the reports'"


@pytest.mark.parametrize("language", [None, "ja", "xx"])
def test_a_language_without_a_stemmer_has_words_only(db: Database, language: str | None) -> None:
    assert put(db, "reports", language) == "'reports':1"


def test_the_server_has_every_stemmer(db: Database) -> None:
    with db.connection() as tx:
        for language, stemmer in index.STEMMERS.items():
            found = scalar(tx, "select ts_lexize(%(s)s::regdictionary, 'word')", {"s": stemmer})
            assert found is not None, language


def test_a_text_is_replaced_and_unstorable_characters_are_left_out(db: Database) -> None:
    assert put(db, "first", None) == "'first':1"
    with db.transaction() as tx:
        assert put_text(tx, "files/a", content="sec\0ond\ud800", language=None)
    index_now(db)
    assert found(db, sql(db, "select id from files")[0][0]) == "'second':1"


def test_names_are_indexed_by_words_tokens_and_first_word_and_follow_renames(db: Database) -> None:
    file_id = add_file(db, "AnnualReport2026_final.pdf")
    index_now(db)
    assert (
        found(db, file_id, of_name=True) == "'//annualreport2026' '/2026' '/annual' '/final' '/pdf' '/report' '^annual'"
    )
    before = sql(db, "select mark from search_index")
    sql(db, "update files set original_name = 'Plan'")
    index_now(db)
    assert found(db, file_id, of_name=True) == "'/plan' '^plan'"
    assert sql(db, "select mark from search_index") == before


@pytest.mark.parametrize(
    "change",
    [
        "is_deleted = true, deleted_at = now()",
        "folder_id = 1",
        "uploaded_at = now() - interval '1 year'",
        "tags = '{a,b}'",
        "file_type = 'archive', file_size = 7",
    ],
)
def test_copies_follow_the_file_and_leave_the_words_alone(db: Database, change: str) -> None:
    sql(db, "insert into folders (id, owner_id, name) overriding system value values (1, 'alice', 'a')")
    put(db, "words", None)
    before = sql(db, "select words from search_index")
    sql(db, f"update files set {change}")
    index_now(db)
    assert sql(db, "select words from search_index") == before
    assert sql(db, f"select {index.COPIES} from search_index") == sql(db, f"select {index.COPIES} from files")


def test_T82_a_change_of_any_column_that_the_index_repeats_queues_the_file(db: Database) -> None:
    """A search compares only queued files with their rows."""
    watched = sql(
        db,
        "select event_object_column from information_schema.triggered_update_columns"
        " where trigger_name = 'files_queue_updated'",
    )
    # The owner of a file never changes.
    assert {name for (name,) in watched} >= {"original_name", *index.COPIES.split(", ")} - {"owner_id"}


def test_a_text_is_indexed_while_its_file_is_ready(db: Database) -> None:
    put(db, "words", None)
    ((file_id,),) = sql(db, "select id from files")
    for status, after in (("infected", ""), ("ready", "'words':1"), ("processing", "")):
        sql(db, "update files set status = %s", status)
        index_now(db)
        assert found(db, file_id) == after and sql(db, "select status from search_index") == [(status,)]


def test_files_on_one_object_share_its_text_in_any_order(db: Database) -> None:
    put(db, "words", None)
    two, three = add_file(db, "two.txt", key="files/a"), add_file(db, "three.txt", key="files/b")
    index_now(db)
    assert (found(db, two), found(db, three)) == ("'words':1", "")
    sql(db, "update files set file_path = 'files/a' where id = %s", three)
    index_now(db)
    assert found(db, three) == "'words':1"
    with db.transaction() as tx:
        assert put_text(tx, "files/a", content="others", language=None)
    index_now(db)
    assert found(db, two) == found(db, three) == "'others':1"


def test_a_text_and_a_file_added_concurrently_are_joined(db: Database) -> None:
    """The first of the two locks the object, and the other sees its result."""
    one = add_file(db, "one.txt", key="files/a")
    with ThreadPoolExecutor(1) as other:

        def put() -> bool:
            with db.transaction() as tx:
                return put_text(tx, "files/a", content="words", language=None)

        with db.transaction() as tx:
            assert objects.lock_by_file(tx, one, share=True) == "files/a"
            pending = other.submit(put)
            wait_until_blocked(db)
            execute(
                tx,
                "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
                " values ('alice', 'two.txt', 'files/a', 'application/pdf', 'document', 1, 'ready')",
            )
        assert pending.result()
    index_now(db)
    rows = sql(db, "select words @@ (quote_literal(mark || 'words'))::tsquery from search_index")
    assert rows == [(True,), (True,)]


def wait_until_blocked(db: Database) -> None:
    deadline = time.monotonic() + 30
    waiting = "select exists (select from pg_locks where not granted and locktype in ('transactionid', 'tuple'))"
    while sql(db, waiting) == [(False,)]:
        assert time.monotonic() < deadline, "the second transaction does not wait"
        time.sleep(0.02)


def test_workers_share_the_queue_and_never_index_a_file_at_once(db: Database) -> None:
    """A worker that read the file before a change must not write after the one that read it later."""
    for number in range(4):
        add_file(db, f"{number}.txt")
    ((first,),) = sql(db, "select file_id from search_queue limit 1")
    with db.transaction() as slow:
        assert index.index_queued(slow, limit=1) == 1
        sql(db, "update files set original_name = 'new.txt' where id = %s", first)
        with db.transaction() as quick:
            assert index.index_queued(quick) == 3
        assert sql(db, "select file_id from search_queue where file_id <> %s", first) == []
    assert "'/new'" not in found(db, first, of_name=True)
    index_now(db)
    assert "'/new'" in found(db, first, of_name=True)
    assert sql(db, "select count(*) from search_index") == [(4,)] and sql(db, "select * from search_queue") == []


def test_an_interrupted_batch_is_indexed_again(db: Database) -> None:
    add_file(db, "a.txt")
    with db.connection() as tx, tx.transaction(force_rollback=True):
        assert index.index_queued(tx) == 1
    assert sql(db, "select count(*) from search_index") == [(0,)]
    index_now(db)
    assert sql(db, "select count(*) from search_index") == [(1,)]


def test_long_texts_wait_for_the_next_batch(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MAX_TEXT", 5)
    for number in range(3):
        add_file(db, f"{number}.txt", key=f"files/{number}")
        with db.transaction() as tx:
            assert put_text(tx, f"files/{number}", content="many words", language=None)
    add_file(db, "none.txt")
    with db.transaction() as tx:
        index.index_queued(tx)
    assert sql(db, "select count(*) from search_index") == [(2,)]
    index_now(db)
    assert sql(db, "select count(*) from search_index where words::text like '%%many words%%'") == [(3,)]


def test_an_object_being_purged_gets_no_text(db: Database) -> None:
    with db.transaction() as tx:
        assert not put_text(tx, "files/none", content="x", language=None)


def test_T83_only_the_start_of_a_very_long_text_is_indexed(db: Database) -> None:
    assert "'word0word'" in put(db, " ".join(f"word{n:x}word" for n in range(250_000)), "en")


@pytest.mark.slow
def test_T83_a_text_that_cannot_be_indexed_leaves_the_name_and_is_not_tried_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MAX_LEXEME_BYTES", 10**9)
    content = " ".join(f"word{n:x}word" for n in range(120_000))
    with db.connection() as tx, pytest.raises(psycopg.errors.ProgramLimitExceeded):
        tx.execute("select %(v)s::tsvector", {"v": tokenizer.text_vector(content)[0]})
    other = add_file(db, "other.txt")
    assert put(db, content, name="plan.txt") == ""
    assert sql(db, "select length(content) from object_texts") == [(len(content),)]
    assert sql(db, "select name_words from search_index where file_id <> %s", other) == [(" plan txt ",)]
    assert sql(db, "select count(*) from search_index") == [(2,)] and sql(db, "select * from search_queue") == []


def test_missing_rows_are_queued_and_unused_words_forgotten(db: Database) -> None:
    gone = add_file(db, "walrus garden.txt")
    kept = add_file(db, "garden plans.txt")
    add_file(db, "walrus.txt", owner="bob")
    index_now(db)
    sql(db, "delete from files where id = %s", gone)
    sql(db, "truncate search_queue")
    sql(db, "delete from search_index where file_id = %s", kept)
    with db.transaction() as tx:
        assert index.queue_missing(tx) == 2
    index_now(db)
    assert sql(db, "select file_id from search_index where owner_id = 'alice'") == [(kept,)]
    last: Any = ("", "")
    while last:
        with db.transaction() as tx:
            last = index.forget_words(tx, last)
    words = sql(db, "select owner_id, word from search_words order by 1, 2")
    assert words == [("alice", "garden"), ("alice", "plans"), ("bob", "walrus")]


@pytest.mark.parametrize(
    ("term", "asked"),
    [
        (Term("reports"), "('reports' | 'report/en')"),
        (Term("net profit", "phrase"), "('net profit')"),
        (Term("the net profit", "phrase"), "('the net' & 'net profit' & 'the' <-> 'net' <-> 'profit')"),
        (Term("rep", "prefix"), "('rep':*)"),
        (Term("report2026"), "('report 2026' | 'report2026')"),
        (Term("駅"), "('駅':* | '駅/en')"),
    ],
)
def test_tsquery_of_a_term(db: Database, term: Term, asked: str) -> None:
    put(db, "any")
    with db.connection() as tx:
        query = terms.text_query(term, related(tx, "alice", term.words[:1], [])[0]).replace(terms.MARK, "")
        assert query == asked
        tx.execute("select %(q)s::tsquery", {"q": query})
