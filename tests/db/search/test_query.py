"""Queries on a real server: results of each kind of term, and limits of the work."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from psycopg.errors import QueryCanceled

from core.names import name_key
from core.search_query import parse
from core.tokenizer import phrase, words
from db import Database, Tx, execute, scalar
from db.file_lists import FileFilter
from db.search import lookup, texts
from db.search import name_words as words_of_names
from db.search import query as index
from db.search.clock import Clock, OutOfTime
from db.search.name_words import suggestions
from tests.rows import add_file

ALICE = FileFilter(owner_id="alice")


def names(db: Database, query: str, **options: Any) -> list[str]:
    tree = parse(query)
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
    add_file(db, "a report.pdf", at=datetime(2020, 1, 1, tzinfo=UTC))
    for number in range(10):
        add_file(db, f"new report {number}.pdf")
    with db.connection() as tx:
        found = index.find(tx, ALICE, parse("report"), limit=100, facets=("file_type",))
        everything = {hit.file.original_name for hit in found.hits}
    assert found.matched == 6
    assert len(found.hits) == 7 and found.facets == {"file_type": [{"value": "document", "count": 7}]}
    assert "report.pdf" in everything and "a report.pdf" not in everything
    assert names(db, "report")[0] == "report.pdf"


@pytest.mark.parametrize("few", [0, 3, 100])
def test_a_common_word_with_a_filter_has_the_same_results_by_either_plan(
    db: Database, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(index, "_FEW", few)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for day in range(6):
        add_file(db, f"plan {day}.pdf", at=at + timedelta(days=day), tags=["even"] if day % 3 == 0 else [])
        add_file(db, f"a plan {day}.jpg", at=at + timedelta(days=day), file_type="image", mime_type="image/jpeg")
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


@pytest.mark.parametrize(
    "query", ["word", "word other", "content:word", '"word and"', '"word and the"', "wor* the", "word type:text"]
)
def test_texts_are_counted_exactly_up_to_the_limit_newest_first(
    db: Database, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(index, "RANKED", 5)
    with db.connection() as tx:
        for number in range(8):
            add_file(db, f"{number}.txt", key=f"files/{number}", file_type="text")
            assert texts.put(tx, f"files/{number}", content="a word and the other", language=None)
            page = index.find(tx, ALICE, parse(query), limit=1)
            assert page.matched == min(number + 1, 6)
    assert names(db, query)[0] == "7.txt"


WORDS = ("plan", "plans", "replan", "plat", "play", "note", "it", "is", "12", "東京都", "été")
TERMS = (
    "plan",
    "pla*",
    "lan",
    '"plan note"',
    '"note it is"',
    "note",
    "it",
    "i*",
    "12",
    "東京",
    "京",
    "ete",
    "plan_note",
    "e*",
    "name:plan",
    "content:note",
    "content:pl*",
    "-plan",
    "-content:it",
    "-note",
    "-12",
    '-"plan note"',
    "-name:it",
    "type:image",
    "tag:work",
    "ext:jpg",
    "plans OR 12",
    "after:2026-01-05",
    "before:2026-01-09",
    '"plan note" OR it',
    "content:note OR name:12",
    "is:deleted",
    "noet",
    "size:>10",
)
Library = list[tuple[list[str], list[str], bool, bool, int]]


@pytest.mark.slow
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
            st.lists(st.sampled_from(WORDS), max_size=6),
            st.booleans(),
            st.booleans(),
            st.integers(0, 12),
        ),
        max_size=12,
    ),
    st.lists(st.lists(st.sampled_from(TERMS), min_size=1, max_size=3).map(" ".join), min_size=12, max_size=12),
    st.sampled_from([0, 3, 100]),
    st.sampled_from([2, 30_000]),
    st.sampled_from([1, 100]),
)
@example(
    [(["plan"], ["plan"], False, False, day) for day in range(5, 8)] + [(["note"], ["plan"], False, False, 8)],
    ["after:2026-01-05 content:pl* pla*", "pla* -it OR note", "plan type:image OR -12 OR note"],
    0,
    30_000,
    100,
)
@example(
    [
        (name.split(), [], False, False, day)
        for day, name in enumerate(("plans", "is", "12 plat", *["replan"] * 3, *["12 note"] * 3))
    ],
    ["plan", "lan OR i*", '"plat" OR note', "noet OR lat"],
    0,
    30_000,
    100,
)
def test_index_results_and_counts_equal_a_full_scan(
    db: Database, library: Library, queries: list[str], few: int, wide: int, best: int
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with db.connection() as tx:
        execute(tx, "delete from files")
        for number, (name, text, image, trashed, day) in enumerate(library):
            ending, key = ("jpg" if image else "pdf"), f"files/{uuid4().hex}"
            add_file(
                db,
                f"{' '.join(name)} {number}.{ending}",
                key=key,
                file_type="image" if image else "document",
                at=at + timedelta(days=day),
                deleted=trashed,
                tags=["work"] if day % 2 else [],
                size=day,
            )
            if text:
                assert texts.put(tx, key, content=" ".join(text), language=None)
        with pytest.MonkeyPatch.context() as patch:
            for limit, value in (
                ("_FEW", few),
                ("_FEWER", few),
                ("_WIDE", wide),
                ("_PROBED", wide),
                ("RANKED", best),
                ("_MANY", few),
            ):
                patch.setattr(index, limit, value)
            patch.setattr(lookup, "_ALIKE", few % 2)
            patch.setattr(words_of_names, "MAX_WORDS", 3)
            for query in queries:
                compare_with_all_files(tx, query, best)


def compare_with_all_files(tx: Tx, query: str, ranked: int) -> None:
    tree = parse(query)
    search = partial(index.find, tx, FileFilter("alice", deleted=tree.deleted), tree, corrections={"noet": ["note"]})
    everything = search(limit=100, newest=100)
    found, page, whole = search(limit=100), search(limit=3), search(limit=100, facets=("file_type",))
    assert found.matched == whole.matched == page.matched == min(everything.matched, ranked + 1), query
    if everything.matched > ranked:
        return
    assert found.hits == whole.hits == everything.hits, query
    assert page.hits == everything.hits[:3], query
    assert sum(value["count"] for value in whole.facets["file_type"]) == len(everything.hits), query
    if len(everything.hits) > 3:
        assert search(limit=100, after=page.hits[-1].position).hits == everything.hits[3:], query


def test_T81_newest_limits_the_files_searched(db: Database) -> None:
    for number in range(5):
        add_file(db, f"plan {number}.pdf")
    assert names(db, "-zzz", newest=3) == names(db, "plan", newest=3) == ["plan 4.pdf", "plan 3.pdf", "plan 2.pdf"]


def test_T81_the_statements_of_a_search_share_its_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("db.search.clock.monotonic", lambda: now[0])
    clock = Clock(1.25)
    with db.transaction() as tx:
        clock.begin(tx)
        assert scalar(tx, "show statement_timeout") == "1250ms"
        now[0] += 1
        clock.limit_next(tx)
        assert scalar(tx, "show statement_timeout") == "250ms"
        now[0] += 1
        with pytest.raises(OutOfTime):
            clock.limit_next(tx)
        with pytest.raises(OutOfTime):
            index.find(tx, ALICE, parse("plan"), limit=1, clock=clock)
    with db.connection() as tx, tx.transaction(force_rollback=True):
        Clock(0.02).begin(tx)
        with pytest.raises(QueryCanceled):
            execute(tx, "select pg_sleep(10)")


def test_T81_words_parts_and_similar_words_use_indexes(db: Database) -> None:
    add_file(db, "0.pdf", key="files/0")
    with db.transaction() as tx:
        execute(
            tx,
            "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
            " select 'alice', translate(md5(n::text), '0123456789', 'ghijklmnop'), 'files/0', 'a/b', 'other', 1, 'ready'"
            " from generate_series(1, 5000) n",
        )
        for table in ("files", "file_words", "owner_words"):
            execute(tx, f"analyze {table}")
        execute(tx, "set local enable_seqscan = off")
        for index_name, sql in (
            (
                "file_words_newest",
                "select file_id from file_words where owner_id = 'alice' and is_deleted = false"
                " and word = 'report' order by uploaded_at desc, file_id desc limit 10",
            ),
            ("owner_words_parts", "select word from owner_words where owner_id = 'alice' and plain like '%report%'"),
            ("owner_words_parts", "select word from owner_words where owner_id = 'alice' and plain % 'reprot'"),
        ):
            plan = _plan(tx, sql)
            assert index_name in plan and "Sort" not in plan, plan


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
    with library.connection() as tx, tx.transaction():
        recorded = Recorded(tx)
        clock = Clock(10)
        clock.begin(tx)
        index.find(recorded, ALICE, parse(query), limit=5, clock=clock)  # type: ignore[arg-type]
        sql, params = recorded.asked[-1]
        plan = tx.execute("explain " + sql, params).fetchall()
    asked = [line for (line,) in plan if "Index Cond" in line and "@@" in line]
    beginnings = [word for line in asked for word in re.findall(r"''([^']*)'':\*", line)]
    assert bool(beginnings) == ("bc*" in query and " OR " not in query) and len(beginnings) <= 4, beginnings
    assert all(len(word) > 3 for word in beginnings), beginnings  # including the owner mark


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
        typed = query.replace("\0", "").encode(errors="ignore").decode()
        suggestions(tx, "alice", name_key(typed), phrase(name_key(typed)), limit=5)


NAMES = st.text(st.sampled_from("aZ09 _-.éßЖ東京のไทยຂกक्ि%/ﷺ"), min_size=1, max_size=25)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(NAMES)
@example("AnnualReport2026_final.PDF")
@example("PDFReport a3f9c2b7e1d4f6a8 mp3 İstanbul")
@example("東京都庁は新宿にあります.txt")
@example("हिन्दी שָׁלוֹם مُحَمَّد re\u0301sume\u0301")
def test_the_database_and_core_split_names_alike(db: Database, name: str) -> None:
    with db.connection() as tx:
        found = scalar(tx, "select name_words(%(name)s)", {"name": name})
    assert found.partition("/")[0].split() == words(name)


def test_a_name_is_indexed_by_words_tokens_and_first_word(db: Database) -> None:
    with db.connection() as tx:
        sql = 'select array_agg(w order by w collate "C") from search_words(name_words(%(name)s)) w'
        found = scalar(tx, sql, {"name": "AnnualReport2026_final.pdf"})
    assert found == ["/annualreport2026", "2026", "^annual", "annual", "final", "pdf", "report"]


def test_words_and_tags_follow_changes_of_the_file(db: Database) -> None:
    file_id = add_file(db, "Annual report.pdf", tags=["Work, all", "x"])

    def kept() -> set[str]:
        with db.connection() as tx:
            return {
                row[0]
                for row in tx.execute("select word from file_words where file_id = %s and not is_deleted", [file_id])
            }

    assert kept() == {"^annual", "annual", "report", "pdf", "#Work, all", "#x"}
    for change, after in (
        ("tags = '{y,#x}'", {"^annual", "annual", "report", "pdf", "#y", "##x"}),
        ("original_name = 'Plan'", {"^plan", "plan", "#y", "##x"}),
        ("is_deleted = true, deleted_at = now()", set()),
        ("is_deleted = false, deleted_at = null", {"^plan", "plan", "#y", "##x"}),
    ):
        with db.transaction() as tx:
            execute(tx, f"update files set {change}")
        assert kept() == after, change
    with db.transaction() as tx:
        assert scalar(tx, "select array_agg(word) from owner_words") == ["plan"]
        execute(tx, "delete from files")
        assert scalar(tx, "select count(*) from file_words") == scalar(tx, "select count(*) from owner_words") == 0
