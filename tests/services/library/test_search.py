"""The search service: owners, pages, totals, misspellings, hostile and slow queries."""

from __future__ import annotations

import html
from datetime import UTC, datetime

import pytest

from core.cursors import Cursors
from core.errors import InvalidCursor, NotAllowed, NotFound
from core.principal import Principal
from db import Database, Tx, execute
from db.search import query as index
from db.search.query import Clock
from services.library import search as module
from services.library.search import Search, SearchPage, SearchRequest
from tests.rows import IndexingSearch, add_file


@pytest.fixture
def search(db: Database) -> Search:
    return IndexingSearch(db, Cursors([b"s" * 32]))


def names(page: SearchPage) -> list[str]:
    return [hit.file.original_name for hit in page.items]


def test_hits_have_a_score_and_highlights(search: Search, db: Database, alice: Principal) -> None:
    add_file(db, "planner.pdf")
    add_file(db, "Plan <b>.pdf")
    page = search.search(alice, SearchRequest("plan"))
    assert names(page) == ["Plan <b>.pdf", "planner.pdf"] and page.total == 2 and page.next_cursor is None
    best, other = page.items
    assert 1 >= best.score > other.score > 0
    assert best.highlights == {"name": "<mark>Plan</mark> &lt;b&gt;.pdf", "content": None}


def test_T26_markup_in_names_is_escaped_in_highlights(search: Search, db: Database, alice: Principal) -> None:
    """Highlights are the only place where names become HTML; there are no CSV exports."""
    add_file(db, "<img src=x onerror=alert(1)> plan & 'quote\".txt")
    for query in ("plan", "img", "onerror"):
        shown = search.search(alice, SearchRequest(query)).items[0].highlights["name"] or ""
        bare = shown.replace("<mark>", "").replace("</mark>", "")
        assert "<mark>" in shown and not set("<>\"'") & set(bare)
        assert html.unescape(bare) == "<img src=x onerror=alert(1)> plan & 'quote\".txt"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("reprot", "Quarterly report.pdf"),
        ("quartely report", "Quarterly report.pdf"),
        ("sceenshot", "Screenshot 2026.png"),
        ("cafe", "Café.txt"),
    ],
)
def test_misspellings_are_found(search: Search, db: Database, alice: Principal, typed: str, name: str) -> None:
    add_file(db, name)
    add_file(db, "else.bin")
    page = search.search(alice, SearchRequest(typed))
    assert names(page) == [name]
    assert "<mark>" in (page.items[0].highlights["name"] or "")


def test_exact_spelling_comes_first_and_corrections_only_with_few_matches(
    search: Search, db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_file(db, "report.pdf")
    add_file(db, "reprot.pdf")
    assert names(search.search(alice, SearchRequest("report"))) == ["report.pdf", "reprot.pdf"]
    monkeypatch.setattr(module, "_FEW", 1)
    assert names(search.search(alice, SearchRequest("report"))) == ["report.pdf"]


def test_T82_search_finds_only_readable_files(
    search: Search, db: Database, alice: Principal, bob: Principal, root: Principal
) -> None:
    secret = add_file(db, "salary.pdf", owner="bob")
    add_file(db, "public salary.pdf", owner="bob", visibility="public")
    add_file(db, "trashed salary.pdf", owner="alice", deleted=True)
    facets = ("file_type", "folder", "owner", "month")
    for query in ("salary", "", "salari", '"salary"', "-nothing", "salary OR x"):
        page = search.search(alice, SearchRequest(query, facets=facets))
        assert page.items == [] and page.total == 0 and all(values == [] for values in page.facets.values())
    assert search.suggest(alice, "sal") == [] and search.suggest(alice, "trash") == []
    assert names(search.search(alice, SearchRequest("is:deleted"))) == ["trashed salary.pdf"]
    assert names(search.search(bob, SearchRequest("is:deleted"))) == []

    with pytest.raises(NotAllowed):
        search.search(alice, SearchRequest("salary", owner="bob"))
    with pytest.raises(NotAllowed):
        search.search(alice, SearchRequest("salary", owner="*"))
    assert search.search(root, SearchRequest("salary")).items == []
    assert search.search(root, SearchRequest("salary", owner="bob")).total == 2
    everybody = search.search(root, SearchRequest("salary", owner="*", facets=("owner",)))
    assert everybody.facets == {"owner": [{"value": "bob", "count": 2}]}

    with db.transaction() as tx:
        execute(tx, "update files set is_deleted = true, deleted_at = now() where id = %(id)s", {"id": secret})
    assert names(search.search(bob, SearchRequest("salary"))) == ["public salary.pdf"]
    assert search.suggest(bob, "sal") == ["salary", "public salary.pdf"]


def test_pages_neither_skip_nor_repeat(search: Search, db: Database, alice: Principal) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(7):
        add_file(db, f"plan {number}.pdf", at=at)  # equal times, so that ids decide
    add_file(db, "explanations.pdf")
    seen: list[str] = []
    cursor = None
    while True:
        page = search.search(alice, SearchRequest("plan", limit=3, cursor=cursor))
        assert page.total == 8
        seen += names(page)
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
        add_file(db, f"plan new {len(seen)}.pdf", owner="bob")
    assert sorted(seen[:7]) == [f"plan {number}.pdf" for number in range(7)] and seen[7:] == ["explanations.pdf"]


def test_pages_end_after_the_first_thousand(
    search: Search, db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RESULTS", 5)
    for number in range(8):
        add_file(db, f"plan {number}.pdf")
    first = search.search(alice, SearchRequest("plan", limit=3))
    second = search.search(alice, SearchRequest("plan", limit=3, cursor=first.next_cursor))
    assert len(first.items) == 3 and len(second.items) == 2
    assert second.next_cursor is None and second.total == 8


def test_T84_a_cursor_is_valid_for_its_own_search_only(
    search: Search, db: Database, alice: Principal, bob: Principal, root: Principal
) -> None:
    for number in range(3):
        add_file(db, f"plan {number}.pdf")
    cursor = search.search(alice, SearchRequest("plan", limit=1)).next_cursor
    assert cursor is not None
    for who, query in (
        (alice, SearchRequest("plan 1", cursor=cursor)),
        (bob, SearchRequest("plan", cursor=cursor)),
        (alice, SearchRequest("plan", file_type="image", cursor=cursor)),
        (alice, SearchRequest("plan", cursor="x")),
        (root, SearchRequest("plan", owner="alice", cursor=cursor)),
        (alice, SearchRequest("plan", cursor=cursor + "x")),
        (alice, SearchRequest("plan", cursor="")),
    ):
        with pytest.raises(InvalidCursor):
            search.search(who, query)
    assert len(search.search(alice, SearchRequest("plan", limit=2, cursor=cursor)).items) == 2


def test_filters_and_facets(search: Search, db: Database, alice: Principal) -> None:
    with db.transaction() as tx:
        above = tx.execute("insert into folders (owner_id, name) values ('alice', 'a') returning id").fetchone()[0]  # type: ignore[index]
        below = tx.execute(
            "insert into folders (owner_id, name, parent_id) values ('alice', 'b', %s) returning id", [above]
        ).fetchone()[0]  # type: ignore[index]
    add_file(db, "one.pdf", folder=above, at=datetime(2026, 1, 31, 23, 59, tzinfo=UTC))
    add_file(db, "two.pdf", folder=below, at=datetime(2026, 2, 1, tzinfo=UTC))
    add_file(db, "three.jpg", file_type="image", mime_type="image/jpeg", at=datetime(2026, 2, 2, tzinfo=UTC))

    def found(**query: object) -> set[str]:
        return set(names(search.search(alice, SearchRequest(**query))))  # type: ignore[arg-type]

    assert found(folder=above) == {"one.pdf", "two.pdf"} and found(folder=below) == {"two.pdf"}
    assert found(folder="root") == {"three.jpg"}
    with pytest.raises(NotFound):
        found(folder=2**31 - 1)
    assert found(file_type="image") == found(file_type="image/*") == {"three.jpg"}
    start = datetime(2026, 2, 1, tzinfo=UTC)
    assert found(date_from=start) == {"two.pdf", "three.jpg"} and found(date_to=start) == {"one.pdf"}
    page = search.search(alice, SearchRequest("pdf OR jpg", limit=1, facets=("file_type", "folder", "owner", "month")))
    assert page.facets == {
        "file_type": [{"value": "document", "count": 2}, {"value": "image", "count": 1}],
        "folder": [{"value": above, "count": 1}, {"value": below, "count": 1}, {"value": None, "count": 1}],
        "owner": [{"value": "alice", "count": 3}],
        "month": [{"value": "2026-02", "count": 2}, {"value": "2026-01", "count": 1}],
    }


def test_totals_are_exact_up_to_the_limit_and_without_filters(
    search: Search, db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "RANKED", 3)
    for number in range(4):
        add_file(db, f"plan {number}.pdf")
    assert search.search(alice, SearchRequest("plan")).total is None
    assert search.search(alice, SearchRequest("plan -1")).total == 3
    assert search.search(alice, SearchRequest("")).total == 4
    assert search.search(alice, SearchRequest("", file_type="document")).total is None


@pytest.mark.parametrize("more", [0, 30])
def test_T81_a_search_out_of_time_is_repeated_over_the_newest_files(
    search: Search, db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch, more: float
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0)
    monkeypatch.setattr(module, "_NEWEST", {20_000: more, 1_000: 30})
    add_file(db, "plan.pdf")
    page = search.search(alice, SearchRequest("plan", facets=("owner",)))
    assert names(page) == ["plan.pdf"] and page.total is None and page.facets["owner"][0]["count"] == 1


def test_T81_the_total_is_unknown_if_the_time_is_over_before_misspellings_are_corrected(
    search: Search, db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(tx: Tx, *, clock: Clock, **_: object) -> dict[str, list[str]]:
        clock.limit(tx)
        execute(tx, "select pg_sleep(60)")
        return {}

    monkeypatch.setattr(module, "_SECONDS", 0.3)
    monkeypatch.setattr(module, "_corrections", endless)
    add_file(db, "plan.pdf")
    page = search.search(alice, SearchRequest("plna"))
    assert (page.items, page.total) == ([], None)


@pytest.mark.parametrize(
    "query",
    [
        "\0",
        "\ud800",
        '"' * 1000,
        "- - -",
        "x" * 100_000,
        " ".join(f"w{n}" for n in range(20_000)),
        " OR ".join(["a"] * 10_000),
        "%" * 1000,
        "\\",
        "'; drop table files; --",
        "(((",
        "a" * 64 + "*",
        "size:" + "9" * 100,
        "-" * 100_000,
        '"a b" ' * 5_000,
        "name:" * 1000,
        "ﷺ" * 1000,
        "\u0301" * 2000,
    ],
)
def test_T81_hostile_queries_are_answered(search: Search, db: Database, alice: Principal, query: str) -> None:
    add_file(db, "plan.pdf")
    page = search.search(alice, SearchRequest(query, facets=tuple(index.FACETS)))
    assert page.total is not None and page.total <= 1
    assert set(search.suggest(alice, query)) <= {"plan.pdf", "plan", "pdf"}


def test_suggestions_match_the_prefix_ignoring_case_and_are_distinct(
    search: Search, db: Database, alice: Principal
) -> None:
    with db.transaction() as tx:
        folder = tx.execute("insert into folders (owner_id, name) values ('alice', 'a') returning id").fetchone()[0]  # type: ignore[index]
    for name in ("Plan.pdf", "planner.pdf", "PLAN 100%.pdf", "a plan.pdf", "plum.pdf"):
        add_file(db, name)
    add_file(db, "plan.PDF", folder=folder)
    # Names with the prefix, then words of names, then names with a word that has the prefix.
    begin = ["PLAN 100%.pdf", "Plan.pdf", "planner.pdf"]
    assert search.suggest(alice, "pLaN") == [*begin, "planner", "a plan.pdf"]
    assert search.suggest(alice, "plan", limit=1) == ["PLAN 100%.pdf"]
    assert search.suggest(alice, "%") == search.suggest(alice, "p_") == []
    assert search.suggest(alice, "plum\0\ud800") == ["plum.pdf"]


def test_only_words_of_files_outside_the_trash_are_suggested(db: Database, alice: Principal) -> None:
    search = Search(db, Cursors([b"s" * 32]))
    add_file(db, "a walrus.txt")
    add_file(db, "a walnut.txt", deleted=True)
    add_file(db, "a wallpaper.txt", owner="bob")
    search.index()
    assert search.suggest(alice, "wal") == ["walrus", "a walrus.txt"]
    with db.transaction() as tx:
        execute(tx, "update files set original_name = 'else.txt' where original_name = 'a walrus.txt'")
    assert search.suggest(alice, "wal") == []  # even before the file is indexed anew
