"""Texts on a real server: what is kept, what is indexed, and what can't be."""

from __future__ import annotations

import psycopg
import pytest

from core import words
from core.search_query import Term
from db import Database, scalar, texts
from tests.rows import add_file


def put(db: Database, content: str, language: str | None = "en") -> str | None:
    """The words of the text as stored, or None where it is not indexed."""
    add_file(db, "a.txt", key="files/a")
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content=content, language=language)
        vector: str | None = scalar(tx, "select words::text from object_texts where object_key = 'files/a'")
    return vector


def test_words_with_places_pairs_and_stems(db: Database) -> None:
    vector = put(db, "The reports, again.")
    assert vector == "'again':3 'report/en' 'reports':2 'reports again' 'the':1 'the reports'"  # the, again: stop words


@pytest.mark.parametrize("language", [None, "ja", "xx"])
def test_without_a_stemmer_there_are_words_alone(db: Database, language: str | None) -> None:
    assert put(db, "reports", language) == "'reports':1"


def test_every_stemmer_is_there(db: Database) -> None:
    with db.connection() as tx:
        for language, stemmer in texts.STEMMERS.items():
            found = scalar(tx, "select ts_lexize(%(s)s::regdictionary, 'word')", {"s": stemmer})
            assert found is not None, language


def test_a_text_is_replaced_and_what_can_not_be_stored_is_left_out(db: Database) -> None:
    assert put(db, "first", None) == "'first':1"
    with db.transaction() as tx:
        assert texts.put(tx, "files/a", content="sec\0ond\ud800", language=None)
        assert scalar(tx, "select words::text from object_texts") == "'second':1"


def test_an_object_that_is_being_purged_takes_no_text(db: Database) -> None:
    with db.transaction() as tx:
        assert not texts.put(tx, "files/none", content="x", language=None)


def test_T83_a_text_of_very_many_words_is_indexed_as_far_as_it_goes(db: Database) -> None:
    vector = put(db, " ".join(f"word{n:x}word" for n in range(250_000)), "en")
    assert vector is not None and "'word0word'" in vector


def test_T83_what_can_not_be_indexed_is_kept_and_marked_and_no_error(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_LEXEME_BYTES", 10**9)
    content = " ".join(f"word{n:x}word" for n in range(120_000))
    with db.connection() as tx, pytest.raises(psycopg.errors.ProgramLimitExceeded):
        tx.execute("select %(v)s::tsvector", {"v": words.text_vector(content)[0]})
    assert put(db, content) is None
    with db.connection() as tx:
        assert scalar(tx, "select length(content) from object_texts") == len(content)


@pytest.mark.parametrize(("term", "asked"), [
    (Term("reports"), "('reports' | 'report/en')"),
    (Term("net profit", "phrase"), "('net profit')"),
    (Term("the net profit", "phrase"), "('the net' & 'net profit' & 'the' <-> 'net' <-> 'profit')"),
    (Term("rep", "prefix"), "('rep':*)"),
    (Term("report2026"), "('report2026' | ('report 2026'))"),
    (Term("駅"), "('駅':*)"),
])
def test_what_texts_are_asked(db: Database, term: Term, asked: str) -> None:
    put(db, "any")
    with db.connection() as tx:
        query = texts.tsquery(tx, "alice", [term])[term]
        assert query.replace("((", "(").replace("))", ")") == asked.replace("((", "(").replace("))", ")")
        tx.execute("select %(q)s::tsquery", {"q": query})
