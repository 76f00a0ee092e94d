from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.search_query import MAX_TERMS, Is, Leaf, Term, Within, parse

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
SYNTAX = st.lists(
    st.sampled_from(
        [
            '"',
            "-",
            "--",
            "OR",
            " ",
            "*",
            "name:",
            "content:",
            "type:",
            "ext:",
            "tag:",
            "size:",
            "size:>10mb",
            "before:",
            "after:2026-13-99",
            "after:2026",
            "before:2025-03-04T05:06:07.1+02:00",
            "size:1..",
            "size:99999999999tb",
            "is:deleted",
            "is:",
            ":",
            "%",
            "_",
            "\\",
            "\0",
            "\ud800",
            "a",
            "é",
            "日本",
            "1..2",
            "Inf",
            "ﷺ",
            "\u00a8",
            "İ",
            ".",
        ]
    ),
    max_size=40,
).map("".join)


@given(ANY_TEXT | SYNTAX)
def test_T81_every_string_parses_into_few_storable_terms(text: str) -> None:
    tree = parse(text)
    leaves = [leaf for group in tree.groups for leaf in group]
    assert len(leaves) <= MAX_TERMS and all(tree.groups)
    for leaf in leaves:
        text = getattr(leaf, "text", getattr(leaf, "value", "x"))
        assert text.strip() and "\0" not in text
        text.encode()  # no lone surrogates


@pytest.mark.parametrize("text", ["", "   ", "- - -", "\0", '""', '"', "OR", "OR OR", "-", "--", "\ud800", '-""'])
def test_T81_an_empty_query_matches_everything(text: str) -> None:
    assert parse(text).groups == ()


def test_T81_length_and_terms_are_limited() -> None:
    assert len(parse(" ".join(f"w{n}" for n in range(20_000))).groups) == MAX_TERMS
    assert len(parse("x" * 100_000).terms[0].text) < 2_000
    assert len(parse(" OR ".join(["a"] * 20_000)).groups[0]) == MAX_TERMS


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        ("Plan", Term("Plan")),
        ("STRASSE ", Term("STRASSE")),
        ("ｆｕｌｌ", Term("full")),
        ("rep*", Term("rep", "prefix")),
        ("*.pdf", Term("*.pdf")),
        ("*", Term("*")),
        ("100%", Term("100%")),
        ('"Annual  Report"', Term("Annual  Report", "phrase")),
        ('"never closed', Term("never closed", "phrase")),
        ("-draft", Term("draft", negated=True)),
        ('-"old draft"', Term("old draft", "phrase", negated=True)),
        ("name:plan", Term("plan", where="name")),
        ("NAME:plan", Term("plan", where="name")),
        ('content:"net profit"', Term("net profit", "phrase", "content")),
        ("-content:tax", Term("tax", where="content", negated=True)),
        ("type:image", Is("type", "image")),
        ("type:Image/*", Is("type", "Image/*")),
        ("-ext:.PDF", Is("ext", ".PDF", True)),
        ("tag:Plans", Is("tag", "Plans")),
        ('tag:"two words"', Is("tag", "two words")),
        ("size:>10mb", Within("size", 10 * 2**20 + 1, None)),
        ("size:>=1.5KB", Within("size", 1536, None)),
        ("size:<1gib", Within("size", None, 2**30)),
        ("size:<=5", Within("size", None, 6)),
        ("size:10mb", Within("size", 10 * 2**20, 11 * 2**20)),
        ("size:7", Within("size", 7, 8)),
        ("size:1kb..2kb", Within("size", 1024, 2049)),
        ("before:2026", Within("uploaded", None, datetime(2026, 1, 1, tzinfo=UTC))),
        ("after:2026-02", Within("uploaded", datetime(2026, 2, 1, tzinfo=UTC), None)),
        ("after:2026-02-03", Within("uploaded", datetime(2026, 2, 3, tzinfo=UTC), None)),
        ("after:2026-02-03T04:05:06+01:00", Within("uploaded", datetime(2026, 2, 3, 3, 5, 6, tzinfo=UTC), None)),
        # Invalid operators are words.
        ("size:big", Term("size:big")),
        ("size:>", Term("size:>")),
        ("before:soon", Term("before:soon")),
        ("after:2026-02-30", Term("after:2026-02-30")),
        ("after:0001-01-01T00:00:00+23:00", Term("after:0001-01-01T00:00:00+23:00")),
        ("is:here", Term("is:here")),
        ("foo:bar", Term("foo:bar")),
        ("name:", Term("name:")),
        ("https://example.org", Term("https://example.org")),
        ('a"b', Term('a"b')),
    ],
)
def test_one_term(text: str, leaf: Leaf) -> None:
    assert parse(text).groups == ((leaf,),)


def test_or_binds_tighter_than_and() -> None:
    tree = parse("type:image cat OR -dog OR bird fish")
    assert tree.groups == (
        (Is("type", "image"),),
        (Term("cat"), Term("dog", negated=True), Term("bird")),
        (Term("fish"),),
    )
    assert parse("OR cat OR").groups == ((Term("cat"),),)
    assert parse("cat or dog").groups == ((Term("cat"),), (Term("or"),), (Term("dog"),))


def test_only_is_deleted_searches_the_trash() -> None:
    assert parse("IS:deleted cat").deleted and parse("IS:deleted cat").groups == ((Term("cat"),),)
    assert not parse("-is:deleted").deleted
    assert not parse('"is:deleted"').deleted
    assert not parse("deleted").deleted


def test_search_and_highlight_terms_of_names() -> None:
    assert [term.text for term in parse("cat -dog content:x name:y tag:z").terms] == ["cat", "y"]


@pytest.mark.parametrize(
    ("term", "key", "words", "token"),
    [
        (Term("Straße"), "strasse", ("strasse",), None),
        (Term("*.PDF"), ".pdf", ("pdf",), None),
        (Term("Report2026"), "report2026", ("report", "2026"), "report2026"),
        (Term("rEPORT"), "report", ("report",), None),
        (Term("新宿駅"), "新宿駅", ("新宿", "宿駅"), None),
        (Term("駅"), "駅", ("駅",), None),
        (Term("100%"), "100%", ("100",), None),
        (Term("%"), "%", (), None),
    ],
)
def test_key_words_and_token_of_a_term(term: Term, key: str, words: tuple[str, ...], token: str | None) -> None:
    assert (term.key, term.words, term.token) == (key, words, token)
