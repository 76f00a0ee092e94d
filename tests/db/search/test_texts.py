"""Texts on a real server: storing and indexing them."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import tokenizer
from core.search_query import Term
from db import Database, execute, objects, scalar
from db.search import texts
from tests.rows import add_file


def put(db: Database, content: str, language: str | None = "en", *, name: str = "a") -> str | None:
    """Store a text and return its indexed words without those of the file name; None if it is not indexed."""
    file_id = add_file(db, name, key="files/a")
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content=content, language=language)
    return found(db, file_id)


def found(db: Database, file_id: UUID, *, of_name: bool = False) -> str | None:
    """The words that match the file: words of its text, or ``/word`` for words of its name."""
    with db.connection() as tx:
        vector: str | None = scalar(tx, "select words::text from file_texts where file_id = %(id)s", {"id": file_id})
    words = re.findall(rf"'{texts.mark_of('alice')}([^']*'[:\d,]*)", vector) if vector else []
    return vector and " ".join("'" + word for word in words if (word[0] == "/") == of_name)


def test_a_vector_has_positions_pairs_and_stems(db: Database) -> None:
    vector = put(db, "The reports, again.")
    # "the" and "again" are stop words
    assert vector == "'again':3 'report/en' 'reports':2 'reports again' 'the':1 'the reports'"


@pytest.mark.parametrize("language", [None, "ja", "xx"])
def test_a_language_without_a_stemmer_has_words_only(db: Database, language: str | None) -> None:
    assert put(db, "reports", language) == "'reports':1"


def test_the_server_has_every_stemmer(db: Database) -> None:
    with db.connection() as tx:
        for language, stemmer in texts.STEMMERS.items():
            found = scalar(tx, "select ts_lexize(%(s)s::regdictionary, 'word')", {"s": stemmer})
            assert found is not None, language


def test_a_text_is_replaced_and_unstorable_characters_are_left_out(db: Database) -> None:
    assert put(db, "first", None) == "'first':1"
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content="sec\0ond\ud800", language=None)
    with db.connection() as tx:
        (file_id,) = tx.execute("select id from files").fetchone() or ()
    assert found(db, file_id) == "'second':1"


def test_words_of_the_name_are_indexed_with_the_text_and_follow_renames(db: Database) -> None:
    put(db, "first", None, name="Annual report.txt")
    with db.transaction() as tx:
        (file_id,) = tx.execute("select id from files").fetchone() or ()
    before = "'/annual' '/annual report' '/report' '/report txt' '/txt'"
    assert found(db, file_id, of_name=True) == before
    with db.transaction() as tx:
        execute(tx, "update files set original_name = 'myPlan.txt'")
    assert found(db, file_id, of_name=True) == "'//myplan' '/my' '/my plan' '/plan' '/plan txt' '/txt'"
    assert found(db, file_id) == "'first':1"
    with db.transaction() as tx:
        execute(tx, "update files set original_name = 'Annual report.txt'")
    assert found(db, file_id, of_name=True) == before


def test_files_on_one_object_share_its_text_in_any_order(db: Database) -> None:
    add_file(db, "one.txt", key="files/a")
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content="words", language=None)
    two = add_file(db, "two.txt", key="files/a", status="processing")
    three = add_file(db, "three.txt", key="files/b")
    assert found(db, two) == "'words':1" and found(db, two, of_name=True) == "'/two' '/two txt' '/txt'"
    with db.transaction() as tx:
        execute(tx, "update files set file_path = 'files/a' where id = %(id)s", {"id": three})
    assert found(db, three) == "'words':1" and found(db, three, of_name=True) == "'/three' '/three txt' '/txt'"
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content="others", language=None)
    assert found(db, two) == found(db, three) == "'others':1"


def test_search_columns_of_file_texts_equal_those_of_files(db: Database) -> None:
    put(db, "words", None)
    asked = """
    select f.owner_id = t.owner_id and f.is_deleted = t.is_deleted and (f.status = 'ready') = t.searchable
           and f.uploaded_at = t.uploaded_at
    from files f join file_texts t on t.file_id = f.id
    """
    for change in (
        "is_deleted = true, deleted_at = now()",
        "status = 'infected'",
        "is_deleted = false, deleted_at = null",
        "status = 'ready'",
        "uploaded_at = now() - interval '1 year'",
    ):
        with db.transaction() as tx:
            execute(tx, f"update files set {change}")
            assert scalar(tx, asked) is True, change
    with db.transaction() as tx:
        execute(tx, "delete from files")
        assert scalar(tx, "select count(*) from file_texts") == 0


def test_a_text_and_a_file_added_concurrently_are_joined(db: Database) -> None:
    """The first of the two locks the object, and the other sees its result."""
    one = add_file(db, "one.txt", key="files/a")
    with ThreadPoolExecutor(1) as other:

        def put_text() -> bool:
            with db.transaction() as tx:
                return texts.put(tx, "files/a", content="words", language=None)

        with db.transaction() as tx:
            assert objects.lock_by_file(tx, one, share=True) == "files/a"
            pending = other.submit(put_text)
            wait_until_blocked(db)
            execute(
                tx,
                "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
                " values ('alice', 'two.txt', 'files/a', 'a/b', 'text', 1, 'ready')",
            )
        assert pending.result()

        def trash() -> int:
            with db.transaction() as tx:
                return execute(tx, "update files set is_deleted = true, deleted_at = now()")

        with db.transaction() as tx:
            assert texts.put(tx, "files/a", content="others", language=None)
            trashing = other.submit(trash)
            wait_until_blocked(db)
        assert trashing.result() == 2
    query = {"q": texts.mark_of("alice") + "others"}
    with db.connection() as tx:
        rows = tx.execute("select is_deleted, words @@ %(q)s::tsquery from file_texts", query).fetchall()
    assert rows == [(True, True), (True, True)]


def wait_until_blocked(db: Database) -> None:
    deadline = time.monotonic() + 30
    with db.connection() as tx:
        while not scalar(
            tx,
            "select exists (select from pg_locks where not granted and database is not null"
            " and database = (select oid from pg_database where datname = current_database())"
            " or not granted and locktype = 'transactionid')",
        ):
            assert time.monotonic() < deadline, "the second transaction does not wait"
            time.sleep(0.02)


def test_an_object_being_purged_gets_no_text(db: Database) -> None:
    with db.transaction() as tx:
        assert not texts.put(tx, "files/none", content="x", language=None)


def test_T83_only_the_start_of_a_very_long_text_is_indexed(db: Database) -> None:
    vector = put(db, " ".join(f"word{n:x}word" for n in range(250_000)), "en")
    assert vector is not None and "'word0word'" in vector


@pytest.mark.slow
def test_T83_a_text_that_cannot_be_indexed_is_stored_without_words(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MAX_LEXEME_BYTES", 10**9)
    content = " ".join(f"word{n:x}word" for n in range(120_000))
    with db.connection() as tx, pytest.raises(psycopg.errors.ProgramLimitExceeded):
        tx.execute("select %(v)s::tsvector", {"v": tokenizer.text_vector(content)[0]})
    assert put(db, content) is None
    with db.connection() as tx:
        assert scalar(tx, "select length(content) from object_texts") == len(content)


@pytest.mark.parametrize(
    ("term", "asked"),
    [
        (Term("reports"), "('reports' | 'report/en')"),
        (Term("net profit", "phrase"), "('net profit')"),
        (Term("the net profit", "phrase"), "('the net' & 'net profit' & 'the' <-> 'net' <-> 'profit')"),
        (Term("rep", "prefix"), "('rep':*)"),
        (Term("report2026"), "('report2026' | ('report 2026'))"),
        (Term("駅"), "('駅':*)"),
    ],
)
def test_tsquery_of_a_term(db: Database, term: Term, asked: str) -> None:
    put(db, "any")
    with db.connection() as tx:
        query = texts.tsquery(term, texts.stems(tx, "alice", [word] if (word := texts.stemmed(term)) else []))
        query = query.replace(texts.MARK, "")
        assert query.replace("((", "(").replace("))", ")") == asked.replace("((", "(").replace("))", ")")
        tx.execute("select %(q)s::tsquery", {"q": query})


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_the_database_and_queries_use_the_same_owner_mark(db: Database, owner: str) -> None:
    with db.connection() as tx:
        assert scalar(tx, "select text_mark(%(owner)s)", {"owner": owner}) == texts.mark_of(owner)
    query = f"'{texts.MARK}word'"
    assert texts.marked(query, owner) == f"'{texts.mark_of(owner)}word'"
    assert f"({texts.marked(query, owner)})" in texts.marked(query, None).split(" | ")
