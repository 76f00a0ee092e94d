"""Queries on a real server: results of each kind of term, and limits of the work."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import QueryCanceled

from core.search_query import parse
from db import Database, Tx, execute, scalar
from db.file_lists import FileFilter
from db.search import query as index
from db.search.query import Clock
from db.search.terms import MARK
from tests.rows import add_file, index_now, put_text

ALICE = FileFilter(owner_id="alice")


def names(db: Database, query: str, **options: Any) -> list[str]:
    tree = parse(query)
    index_now(db)
    with db.connection() as tx:
        found = index.find(tx, FileFilter("alice", deleted=tree.deleted), tree, limit=100, **options)
        return [hit.file.original_name for hit in found.hits]


@pytest.fixture
def library(db: Database) -> Database:
    now = datetime.now(UTC)
    add_file(db, "Annual Report.pdf", tags=["plans"], size=5 * 2**20, at=now - timedelta(days=400))
    add_file(db, "annual - budget (old).xlsx", mime_type="application/vnd.ms-excel", at=now - timedelta(days=3))
    add_file(db, "my_reporting.txt", mime_type="text/plain", file_type="text", size=10, at=now - timedelta(days=2))
    add_file(db, "100%.txt", mime_type="text/plain", file_type="text", at=now - timedelta(days=1))
    add_file(db, "100x.txt", mime_type="text/plain", file_type="text", at=now - timedelta(hours=3))
    add_file(db, "東京旅行の写真.jpg", mime_type="image/jpeg", file_type="image", at=now - timedelta(hours=2))
    add_file(db, "Straße.jpg", mime_type="image/jpeg", file_type="image", tags=["street"], at=now - timedelta(hours=1))
    add_file(db, "report of bob.pdf", owner="bob")
    add_file(db, "report in the trash.pdf", deleted=True)
    index_now(db)
    return db


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("report", {"Annual Report.pdf", "my_reporting.txt"}),
        ("REPORT", {"Annual Report.pdf", "my_reporting.txt"}),
        ("eport", {"Annual Report.pdf", "my_reporting.txt"}),
        ("report annual", {"Annual Report.pdf"}),
        ("report -annual", {"my_reporting.txt"}),
        ("budget OR straße", {"annual - budget (old).xlsx", "Straße.jpg"}),
        ("budget OR ext:jpg -tag:street", {"annual - budget (old).xlsx", "東京旅行の写真.jpg"}),
        ("STRASSE", {"Straße.jpg"}),
        ("旅行", {"東京旅行の写真.jpg"}),
        ("an", {"Annual Report.pdf", "annual - budget (old).xlsx"}),
        ('"annual report"', {"Annual Report.pdf"}),
        ('"annual budget"', {"annual - budget (old).xlsx"}),
        ('"report annual"', set()),
        ('"budget (old)"', {"annual - budget (old).xlsx"}),
        ("rep*", {"Annual Report.pdf", "my_reporting.txt"}),
        ("port*", set()),
        ("my_rep*", {"my_reporting.txt"}),
        ("name:report", {"Annual Report.pdf", "my_reporting.txt"}),
        ("content:report", set()),
        ("report -content:report", {"Annual Report.pdf", "my_reporting.txt"}),
        ("type:image", {"東京旅行の写真.jpg", "Straße.jpg"}),
        ("type:image/*", {"東京旅行の写真.jpg", "Straße.jpg"}),
        ("type:application/pdf", {"Annual Report.pdf"}),
        ("type:pdf", {"Annual Report.pdf"}),
        ("-type:image -type:text", {"Annual Report.pdf", "annual - budget (old).xlsx"}),
        ("ext:PDF", {"Annual Report.pdf"}),
        ("ext:df", set()),
        ("tag:plans", {"Annual Report.pdf"}),
        ("tag:plan", set()),
        ("size:>1mb", {"Annual Report.pdf"}),
        ("size:5mb", {"Annual Report.pdf"}),
        ("size:1..20", {"my_reporting.txt"}),
        (f"before:{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}", {"Annual Report.pdf"}),
        (f"after:{datetime.now(UTC) - timedelta(days=30):%Y-%m} annual", {"annual - budget (old).xlsx"}),
        ("is:deleted", {"report in the trash.pdf"}),
        ("is:deleted budget", set()),
    ],
)
def test_results_of_each_kind_of_query(library: Database, query: str, found: set[str]) -> None:
    assert set(names(library, query)) == found
    assert set(names(library, query, newest=100)) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("%", {"100%.txt"}),
        ("100%", {"100%.txt"}),
        ("_", {"my_reporting.txt"}),
        ("y_r", {"my_reporting.txt"}),
        ("o_t", set()),
        ("\\", set()),
        ("ext:%", set()),
        ("type:%", set()),
        ('"100%"', {"100%.txt", "100x.txt"}),
        ("1_0*", set()),
    ],
)
def test_T81_wildcards_are_literal(library: Database, query: str, found: set[str]) -> None:
    # The words of '"100%"' are just 100, which also matches the other name: 100x is the words 100 and x.
    assert set(names(library, query)) == found


def test_rank_order_exact_start_prefix_words_parts_similar(db: Database) -> None:
    wanted = [
        "plan.pdf",
        "plan of it.pdf",
        "planner book.pdf",
        "big plan.pdf",
        "explanation.pdf",
        "plums and pears.pdf",
    ]
    for name in reversed(wanted):
        add_file(db, name)
    assert names(db, "plan", corrections={"plan": ["plums"]}) == wanted


def test_equal_scores_are_newest_first_and_an_empty_query_finds_everything(db: Database) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for day in (3, 1, 2):
        add_file(db, f"plan {day}.pdf", at=at + timedelta(days=day))
    assert names(db, "plan") == names(db, "") == ["plan 3.pdf", "plan 2.pdf", "plan 1.pdf"]


def test_T81_ranking_is_bounded_but_includes_an_old_exact_match(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RANKED", 5)
    add_file(db, "report.pdf", at=datetime(2020, 1, 1, tzinfo=UTC))
    add_file(db, "report, old.pdf", at=datetime(2020, 1, 1, tzinfo=UTC))
    for number in range(10):
        add_file(db, f"report, new {number}.pdf")
    index_now(db)
    with db.connection() as tx:
        found = index.find(tx, ALICE, parse("report"), limit=100, facets=("file_type",))
    everything = [hit.file.original_name for hit in found.hits]
    assert found.matched == 6
    assert len(everything) == 7 and found.facets == {"file_type": [{"value": "document", "count": 7}]}
    assert everything[0] == "report.pdf" and "report, old.pdf" not in everything


def test_a_filter_and_a_word_hold_together(db: Database) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for day in range(6):
        add_file(db, f"plan {day}.pdf", at=at + timedelta(days=day), tags=["even"] if day % 3 == 0 else [])
        add_file(db, f"a plan {day}.jpg", at=at + timedelta(days=day), file_type="image", mime_type="image/jpeg")
    index_now(db)
    images = [f"a plan {day}.jpg" for day in reversed(range(6))]

    def found(query: str, limit: int = 100, **filters: Any) -> tuple[list[str], int]:
        with db.connection() as tx:
            page = index.find(tx, FileFilter("alice", **filters), parse(query), limit=limit)
            named = [hit.file.original_name for hit in page.hits]
        return named, page.matched

    assert found("plan", file_type="image") == found("plan type:image") == found("lan ext:jpg") == (images, 6)
    assert found("plan", 2, file_type="image") == (images[:2], 6)
    assert found("plan -type:image", 2) == (["plan 5.pdf", "plan 4.pdf"], 6)
    assert found("plan tag:even") == (["plan 3.pdf", "plan 0.pdf"], 2)
    since = at + timedelta(days=4)
    newest = ["plan 5.pdf", "plan 4.pdf", "a plan 5.jpg", "a plan 4.jpg"]
    assert found("plan", date_from=since) == found("plan after:2026-01-05") == (newest, 4)
    assert found("plan after:2026-01-05", date_to=at + timedelta(days=5)) == (["plan 4.pdf", "a plan 4.jpg"], 2)
    assert found("plan after:2026-01-05 OR type:text")[1] == 4


@pytest.mark.parametrize("query", ["report before:2020-01-01", "report after:2030-01-01", "report size:>1tb"])
def test_a_filter_excludes_a_name_that_equals_the_query(db: Database, query: str) -> None:
    add_file(db, "report.txt")
    index_now(db)
    assert names(db, query) == []


def test_a_word_that_too_many_words_contain_is_found_at_their_beginning(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.search.words._MAX_WORDS", 2)
    for number in range(2):
        add_file(db, f"air{'x' * number}port.txt")
    assert set(names(db, "port")) == {"airport.txt", "airxport.txt"}
    add_texts(db, "airxxport.txt", content="a port")
    add_file(db, "portable.txt")
    assert names(db, "port") == ["portable.txt", "airxxport.txt"]


def test_names_come_before_texts_when_there_are_too_many(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RANKED", 4)
    for number in range(2):
        add_file(db, f"plan {number}.pdf")
        add_file(db, f"the plan {number}.pdf")
    add_texts(db, *(f"{number}.txt" for number in range(8)), content="a plan")
    found = names(db, "plan")
    assert found == ["plan 1.pdf", "plan 0.pdf", "the plan 1.pdf", "the plan 0.pdf", "7.txt"]


@pytest.mark.parametrize(
    "query", ["word", "word other", "content:word", '"word and"', '"word and the"', "wor* the", "word type:text"]
)
def test_texts_are_counted_exactly_up_to_the_limit_newest_first(
    db: Database, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(index, "RANKED", 5)
    for number in range(8):
        add_texts(db, f"{number}.txt", content="a word and the other")
        with db.connection() as tx:
            assert index.find(tx, ALICE, parse(query), limit=1).matched == min(number + 1, 6)
    assert names(db, query)[0] == "7.txt"


def add_texts(db: Database, *files: str, content: str) -> None:
    for name in files:
        add_file(db, name, key=f"files/{name}", file_type="text")
        with db.transaction() as tx:
            assert put_text(tx, f"files/{name}", content=content, language=None)
    index_now(db)


@pytest.mark.parametrize("change", ["is_deleted = true, deleted_at = now()", "status = 'infected'", "tags = '{new}'"])
@pytest.mark.parametrize("queued", [1, 1_000])
def test_T82_a_changed_file_is_not_found_before_it_is_indexed_anew(
    db: Database, monkeypatch: pytest.MonkeyPatch, change: str, queued: int
) -> None:
    monkeypatch.setattr(index, "_QUEUED", queued)  # from which on each match is compared
    add_texts(db, "plan.txt", content="a word")
    with db.connection() as tx:
        execute(tx, f"update files set {change}")
        for query in ("plan", "word", '"a word"', "-other", "plan is:deleted", "tag:new plan"):
            for newest in (None, 100):
                tree = parse(query)
                found = index.find(tx, FileFilter("alice", deleted=tree.deleted), tree, limit=5, newest=newest)
                assert found.matched == 0 and found.hits == [], query
    assert names(db, "plan" + " is:deleted" * ("is_deleted" in change)) == ["plan.txt"]
    assert names(db, "word tag:new") == ["plan.txt"] * ("tags" in change)


def test_T81_newest_limits_the_files_searched(db: Database) -> None:
    for number in range(5):
        add_file(db, f"plan {number}.pdf")
    assert names(db, "-zzz", newest=3) == names(db, "plan", newest=3) == ["plan 4.pdf", "plan 3.pdf", "plan 2.pdf"]


def test_T81_the_statements_of_a_search_share_its_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("db.search.query.monotonic", lambda: now[0])
    clock = Clock(1.25)
    with db.connection() as tx:
        clock.begin(tx)
        assert scalar(tx, "show statement_timeout") == "1250ms"
        now[0] += 1
        clock.limit(tx)
        assert scalar(tx, "show statement_timeout") == "250ms"
        now[0] += 1
        with pytest.raises(QueryCanceled):
            clock.limit(tx)
        with pytest.raises(QueryCanceled):
            index.find(tx, ALICE, parse("plan"), limit=1, clock=clock)
        tx.rollback()
        Clock(0.02).begin(tx)
        with pytest.raises(QueryCanceled):
            execute(tx, "select pg_sleep(10)")
        tx.rollback()


class Recorded:
    """A transaction that records its statements."""

    def __init__(self, tx: Tx):
        self._tx = tx
        self.asked: list[tuple[Any, Any]] = []

    def execute(self, sql: Any, params: Any = None, **options: Any) -> Any:
        self.asked.append((sql, params))
        return self._tx.execute(sql, params, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


@pytest.mark.parametrize(
    "query",
    [
        "content:a*",
        "content:a* content:b* content:abc*",
        "content:ab* report",
        "a* b*",
        "report -a*",
        " ".join(f"content:{letter}bc*" for letter in "abcdefgh"),
        " OR ".join(f"{letter}bc*" for letter in "abcdefgh"),
    ],
)
def test_T81_prefix_lookups_in_texts_are_few_and_long(library: Database, query: str) -> None:
    """An index scan for a prefix can't be cancelled; a scan of the files can."""
    with library.connection() as tx:
        recorded = Recorded(tx)
        index.find(recorded, ALICE, parse(query), limit=5)  # type: ignore[arg-type]
    _, params = recorded.asked[-1]
    lookups = [query for value in params.values() if isinstance(value, list) for query in map(str, value)]
    found = set(re.findall(rf"'{MARK}([^']*)':\*", " ".join(lookups)))
    beginnings = {word for word in found if word[0] not in "/^"}
    assert bool(beginnings) == ("bc*" in query and " OR " not in query) and len(beginnings) <= 4, beginnings
    assert all(len(word) >= 3 for word in beginnings), beginnings


def test_listing_the_newest_files_of_all_owners_needs_no_sort(db: Database) -> None:
    with db.transaction() as tx:
        execute(tx, "set local enable_seqscan = off")
        plan = _plan(tx, "select id from files where not is_deleted order by uploaded_at desc, id desc limit 5")
    assert "files_newest_of_all" in plan and "Sort" not in plan


def _plan(tx: Tx, sql: str) -> str:
    return "\n".join(row[0] for row in tx.execute("explain " + sql).fetchall())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), max_size=60)
    | st.lists(
        st.sampled_from(
            [
                '"',
                "-",
                "OR ",
                " ",
                "*",
                "name:",
                "content:",
                "type:",
                "ext:",
                "tag:",
                "size:>9999999999tb",
                "size:0..1",
                "before:1",
                "before:9999-12-31",
                "after:0001",
                "is:deleted ",
                "%",
                "_",
                "\\",
                "a",
                "é",
                "日本",
                "report",
                "ﷺ",
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_T81_every_query_runs(library: Database, query: str) -> None:
    with library.connection() as tx:
        found = index.find(
            tx, ALICE, parse(query), corrections={"a": ["é", "report"]}, facets=tuple(index.FACETS), limit=5
        )
        assert found.matched <= 8
        assert all(0 <= hit.score <= 1_000_000 for hit in found.hits)
