"""Search in texts, and the ranking of a small corpus of real names and texts in several languages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core.cursors import Cursors
from core.principal import Principal
from db import Database, execute, scalar
from services.library.search import Search, SearchPage, SearchRequest
from tests.rows import IndexingSearch, add_file, put_text, sql

# Name, language, text; oldest first. Written for this test, except the first lines of works long out of copyright.
CORPUS = [
    ("annual report.pdf", "en", "Sales grew by four percent. The board thanks all employees."),
    ("Annual Report 2024 (final).pdf", "en", "Net profit rose; the annual report follows the law."),
    ("Company_AnnualReport2026_final.pdf", "en", "Revenue and profit by region."),
    ("report on annual leave.docx", "en", "Who takes leave when."),
    ("reporting-annually.txt", "en", "How we report."),
    ("minutes.txt", "en", "The annual report was read and approved. Next meeting in May."),
    ("annual budget.xlsx", "en", "The report is attached."),
    (
        "Melville.txt",
        "en",
        "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money.",
    ),
    ("Kafka.txt", "de", "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett."),
    (
        "Häuser und Gärten.odt",
        "de",
        "Das Haus steht am Fluss. Die Straße führt zum Schloss, und die Bücher liegen im Garten.",
    ),
    ("Proust.txt", "fr", "Longtemps, je me suis couché de bonne heure. Parfois, mes yeux se fermaient si vite."),
    ("Facture électricité.pdf", "fr", "Les factures sont payées chaque mois."),
    (
        "Толстой.txt",
        "ru",
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    ),
    ("отчёт за год.docx", "ru", "Годовые отчёты лежат в архиве."),
    ("吾輩は猫である.txt", "ja", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    ("東京旅行の写真.jpg", "ja", ""),
    ("案内.txt", "ja", "東京都庁は新宿にあります。駅から歩いて十分です。"),
    ("รายงานประจำปี.pdf", "th", "ประเทศไทยตั้งอยู่ในเอเชียตะวันออกเฉียงใต้"),
    ("IMG_20260103_123456.jpg", None, ""),
]


@pytest.fixture
def search(db: Database) -> Search:
    return IndexingSearch(db, Cursors([b"s" * 32]))


def add_text(db: Database, name: str, content: str, language: str | None = "en", **row: object) -> None:
    file_id = add_file(db, name, **row)  # type: ignore[arg-type]
    with db.transaction() as tx:
        key = scalar(tx, "select file_path from files where id = %(id)s", {"id": file_id})
        assert put_text(tx, key, content=content, language=language)


def names(page: SearchPage) -> list[str]:
    return [hit.file.original_name for hit in page.items]


def test_ranking_of_a_small_library(search: Search, db: Database, alice: Principal) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for day, (name, language, content) in enumerate(CORPUS):
        if content:
            add_text(db, name, content, language, at=at + timedelta(days=day))
        else:
            add_file(db, name, at=at + timedelta(days=day))
    expected = {
        # In order: exact name, prefix, phrase, both words, parts of words, texts. Newest first.
        "annual report": [
            "annual report.pdf",
            "Annual Report 2024 (final).pdf",
            "Company_AnnualReport2026_final.pdf",
            "report on annual leave.docx",
            "reporting-annually.txt",
            "annual budget.xlsx",
            "minutes.txt",
        ],
        '"annual report"': [
            "annual report.pdf",
            "Annual Report 2024 (final).pdf",
            "Company_AnnualReport2026_final.pdf",
            "minutes.txt",
        ],
        "annual report 2026": ["Company_AnnualReport2026_final.pdf"],
        "annualreport2026": ["Company_AnnualReport2026_final.pdf"],
        "annualrep*": ["Company_AnnualReport2026_final.pdf"],
        "final": ["Company_AnnualReport2026_final.pdf", "Annual Report 2024 (final).pdf"],
        "content:profit": ["Company_AnnualReport2026_final.pdf", "Annual Report 2024 (final).pdf"],
        "profit -region": ["Annual Report 2024 (final).pdf"],
        "name:report content:profit": ["Company_AnnualReport2026_final.pdf", "Annual Report 2024 (final).pdf"],
        "Ishmael OR Samsa": ["Kafka.txt", "Melville.txt"],
        "employee": ["annual report.pdf"],  # stems of the text's language
        "buch": ["Häuser und Gärten.odt"],
        "häuser": ["Häuser und Gärten.odt"],
        "STRASSE": ["Häuser und Gärten.odt"],
        "träume": ["Kafka.txt"],
        "facture": ["Facture électricité.pdf"],
        "payée": ["Facture électricité.pdf"],
        "счастливая семья": ["Толстой.txt"],
        "годовой": ["отчёт за год.docx"],
        "отчёт": ["отчёт за год.docx"],
        "新宿": ["案内.txt"],  # in 東京都庁は新宿にあります
        "東京": ["東京旅行の写真.jpg", "案内.txt"],
        "旅行": ["東京旅行の写真.jpg"],
        "猫": ["吾輩は猫である.txt"],
        "名前はまだ": ["吾輩は猫である.txt"],
        "駅": ["案内.txt"],
        "ประจำปี": ["รายงานประจำปี.pdf"],
        "เอเชีย": ["รายงานประจำปี.pdf"],
        "20260103": ["IMG_20260103_123456.jpg"],
        "img_2026": ["IMG_20260103_123456.jpg"],
        "anual reprot": [
            "annual report.pdf",
            "report on annual leave.docx",
            "Company_AnnualReport2026_final.pdf",
            "Annual Report 2024 (final).pdf",
        ],
    }
    found = {query: names(search.search(alice, SearchRequest(query))) for query in expected}
    expected["anual reprot"].sort()
    found["anual reprot"].sort()
    assert found == expected


def test_highlights_of_texts(search: Search, db: Database, alice: Principal) -> None:
    add_text(db, "a.txt", "x " * 6000 + "The <b>net</b> profits of 2026.", "en")
    add_text(db, "b.txt", "東京都庁は新宿にあります。", "ja")
    (hit,) = search.search(alice, SearchRequest("profit")).items
    shown = hit.highlights["content"]
    assert hit.highlights["name"] is None
    assert shown is not None
    assert shown.endswith("&lt;b&gt;net&lt;/b&gt; <mark>profits</mark> of 2026.") and shown.startswith("… ")
    (hit,) = search.search(alice, SearchRequest("新宿")).items
    assert hit.highlights["content"] == "東京都庁は<mark>新宿</mark>にあります。"


def test_the_exact_word_is_highlighted_before_a_stem_of_another_language(
    search: Search, db: Database, alice: Principal
) -> None:
    add_text(db, "a.txt", "Made for those who love a forest.", "en")
    add_text(db, "b.txt", "Der Wald", "de")
    (hit,) = search.search(alice, SearchRequest("forest")).items
    assert hit.highlights["content"] == "Made for those who love a <mark>forest</mark>."


def test_T82_texts_of_other_owners_the_trash_and_unready_files_are_not_found(
    search: Search, db: Database, alice: Principal, bob: Principal, root: Principal
) -> None:
    add_text(db, "one.txt", "secret plans", owner="bob")
    add_text(db, "two.txt", "secret trash", deleted=True)
    for status in ("processing", "rejected", "infected"):
        add_text(db, f"{status}.txt", "secret virus", status=status)
    facets = ("file_type", "folder", "owner", "month")
    for query in (
        "secret",
        "content:secret",
        '"secret virus"',
        "secret OR virus",
        "sec*",
        "-zzz secret",
        "secret -zzz",
    ):
        page = search.search(alice, SearchRequest(query, facets=facets))
        assert page.items == [] and page.total == 0 and not any(page.facets.values()), query
    assert search.search(alice, SearchRequest("processing -secret")).total == 1  # nor do their texts exclude a match
    trashed = search.search(alice, SearchRequest("secret is:deleted"))
    assert names(trashed) == ["two.txt"] and trashed.items[0].highlights["content"] == "<mark>secret</mark> trash"
    assert names(search.search(bob, SearchRequest("secret is:deleted"))) == []
    assert names(search.search(bob, SearchRequest("secret"))) == ["one.txt"]
    assert names(search.search(root, SearchRequest("secret", owner="*"))) == ["one.txt"]
    (infected,) = search.search(alice, SearchRequest("infected")).items
    assert infected.highlights["content"] is None


def test_a_text_is_shared_by_the_files_of_its_object(search: Search, db: Database, alice: Principal) -> None:
    add_text(db, "one.txt", "penguin", key="files/shared")
    add_file(db, "two.txt", key="files/shared")
    page = search.search(alice, SearchRequest("penguin"))
    assert set(names(page)) == {"one.txt", "two.txt"} and page.total == 2


def test_names_and_texts_are_counted_once(search: Search, db: Database, alice: Principal) -> None:
    add_text(db, "penguin.txt", "a penguin")
    add_text(db, "other.txt", "a penguin")
    page = search.search(alice, SearchRequest("penguin"))
    assert names(page) == ["penguin.txt", "other.txt"] and page.total == 2
    assert search.search(alice, SearchRequest("penguin", facets=("file_type",))).facets == {
        "file_type": [{"value": "document", "count": 2}]
    }


def test_search_follows_renames_trash_and_purge(search: Search, db: Database, alice: Principal) -> None:
    one, two = add_file(db, "walrus.txt"), add_file(db, "walrus two.txt")
    with db.transaction() as tx:
        execute(tx, "update files set original_name = 'ocelot.txt' where id = %(id)s", {"id": one})
        execute(tx, "update files set is_deleted = true, deleted_at = now() where id = %(id)s", {"id": two})
    assert names(search.search(alice, SearchRequest("ocelot"))) == ["ocelot.txt"]
    assert names(search.search(alice, SearchRequest("walrus"))) == []
    assert search.suggest(alice, "walr") == [] and search.suggest(alice, "ocel") == ["ocelot.txt", "ocelot"]
    assert names(search.search(alice, SearchRequest("walrus is:deleted"))) == ["walrus two.txt"]
    with db.transaction() as tx:
        execute(tx, "delete from files where id = any(%(ids)s)", {"ids": [one, two]})
    assert names(search.search(alice, SearchRequest("walrus OR ocelot"))) == []
    assert sql(db, "select count(*) from search_index") == [(0,)]
    assert search.repair_index() == 0 and sql(db, "select * from search_words") == []
