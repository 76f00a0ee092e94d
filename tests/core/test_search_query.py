from __future__ import annotations

import html
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.search_query import (
    MAX_TERMS,
    ExtensionIs,
    HasTag,
    Leaf,
    SizeWithin,
    Term,
    TypeIs,
    UploadedWithin,
    highlight,
    is_near,
    misspellable,
    parse,
    spaced,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
SYNTAX = st.lists(st.sampled_from([
    '"', "-", "--", "OR", " ", "*", "name:", "content:", "type:", "ext:", "tag:", "size:", "size:>10mb", "before:",
    "after:2026-13-99", "is:deleted", "is:", ":", "%", "_", "\\", "\0", "\ud800", "a", "é", "日本", "1..2", "Inf",
]), max_size=40).map("".join)


@given(ANY_TEXT | SYNTAX)
def test_T81_every_string_parses_into_few_storable_terms(text: str) -> None:
    tree = parse(text)
    leaves = [leaf for group in tree.groups for leaf in group]
    assert len(leaves) <= MAX_TERMS and all(tree.groups)
    for leaf in leaves:
        text = getattr(leaf, "text", getattr(leaf, "value", "x"))
        assert text.strip() and "\0" not in text
        text.encode()                                        # no lone surrogate is left


@pytest.mark.parametrize("text", ["", "   ", "- - -", "\0", '""', '"', "OR", "OR OR", "-", "--", "\ud800", '-""'])
def test_T81_what_names_nothing_finds_everything(text: str) -> None:
    assert parse(text).groups == ()


def test_T81_length_and_terms_are_capped() -> None:
    assert len(parse(" ".join(f"w{n}" for n in range(20_000))).groups) == MAX_TERMS
    assert len(parse("x" * 100_000).terms[0].text) < 2_000
    assert len(parse(" OR ".join(["a"] * 20_000)).groups[0]) == MAX_TERMS


@pytest.mark.parametrize(("text", "leaf"), [
    ("Plan", Term("plan")),
    ("STRASSE ", Term("strasse")),
    ("straße", Term("strasse")),
    ("rep*", Term("rep", "prefix")),
    ("*.pdf", Term(".pdf")),
    ("*", Term("*")),
    ("100%", Term("100%")),
    ('"Annual  Report"', Term("annual  report", "phrase")),
    ('"never closed', Term("never closed", "phrase")),
    ("-draft", Term("draft", negated=True)),
    ('-"old draft"', Term("old draft", "phrase", negated=True)),
    ("name:plan", Term("plan", where="name")),
    ("NAME:plan", Term("plan", where="name")),
    ('content:"net profit"', Term("net profit", "phrase", "content")),
    ("-content:tax", Term("tax", where="content", negated=True)),
    ("type:image", TypeIs("image")),
    ("type:Image/*", TypeIs("image/*")),
    ("-ext:.PDF", ExtensionIs("pdf", True)),
    ("tag:Plans", HasTag("Plans")),
    ('tag:"two words"', HasTag("two words")),
    ("size:>10mb", SizeWithin(10 * 2**20 + 1, None)),
    ("size:>=1.5KB", SizeWithin(1536, None)),
    ("size:<1gib", SizeWithin(None, 2**30)),
    ("size:<=5", SizeWithin(None, 6)),
    ("size:10mb", SizeWithin(10 * 2**20, 11 * 2**20)),
    ("size:7", SizeWithin(7, 8)),
    ("size:1kb..2kb", SizeWithin(1024, 2049)),
    ("before:2026", UploadedWithin(None, datetime(2026, 1, 1, tzinfo=UTC))),
    ("after:2026-02", UploadedWithin(datetime(2026, 2, 1, tzinfo=UTC), None)),
    ("after:2026-02-03", UploadedWithin(datetime(2026, 2, 3, tzinfo=UTC), None)),
    ("after:2026-02-03T04:05:06+01:00", UploadedWithin(datetime(2026, 2, 3, 3, 5, 6, tzinfo=UTC), None)),
    # What makes no sense as an operator is a word.
    ("size:big", Term("size:big")),
    ("size:>", Term("size:>")),
    ("before:soon", Term("before:soon")),
    ("after:2026-02-30", Term("after:2026-02-30")),
    ("after:0001-01-01T00:00:00+23:00", Term("after:0001-01-01t00:00:00+23:00")),
    ("is:here", Term("is:here")),
    ("foo:bar", Term("foo:bar")),
    ("name:", Term("name:")),
    ("https://example.org", Term("https://example.org")),
])
def test_one_leaf(text: str, leaf: Leaf) -> None:
    assert parse(text).groups == ((leaf,),)


def test_groups_are_joined_by_or_which_binds_tighter_than_and() -> None:
    tree = parse("type:image cat OR -dog OR bird fish")
    assert tree.groups == (
        (TypeIs("image"),), (Term("cat"), Term("dog", negated=True), Term("bird")), (Term("fish"),),
    )
    assert parse("OR cat OR").groups == ((Term("cat"),),)
    assert parse("cat or dog").groups == ((Term("cat"),), (Term("or"),), (Term("dog"),))


def test_the_trash_is_asked_for_by_is_deleted_alone() -> None:
    assert parse("IS:deleted cat").deleted and parse("IS:deleted cat").groups == ((Term("cat"),),)
    assert not parse("-is:deleted").deleted
    assert not parse('"is:deleted"').deleted
    assert not parse("deleted").deleted


def test_what_ranks_and_what_is_plain() -> None:
    tree = parse("cat -dog content:x name:y tag:z")
    assert [term.text for term in tree.terms] == ["cat", "y"] and tree.plain is None
    assert parse("Annual Report").plain == "annual report"
    assert parse("a OR b").plain is None and parse("").plain is None and parse("a*").plain is None


def test_words_are_what_letters_and_digits_make() -> None:
    assert spaced("annual_report - (final).pdf") == "annual report final pdf"
    assert spaced("%_\\") == ""


@pytest.mark.parametrize(("word", "other", "near"), [
    ("reprot", "report", True), ("report", "reports", True), ("repot", "report", True), ("rebort", "report", True),
    ("screnshoot", "screenshot", True), ("resume", "résumé", True), ("plan", "plum", False), ("rpt", "report", False),
    ("report", "reporting", False), ("2024", "2025", False), ("invoice", "voice", False),
])
def test_near_words(word: str, other: str, near: bool) -> None:
    assert is_near(word, other) is near and is_near(other, word) is near


@given(st.text("abcd", min_size=4, max_size=12), st.integers(0, 10))
def test_a_swap_of_neighbours_is_always_near(word: str, at: int) -> None:
    at %= len(word) - 1
    assert is_near(word, word[:at] + word[at + 1] + word[at] + word[at + 2:])


def test_only_single_words_of_some_length_are_corrected() -> None:
    assert [misspellable(Term(text)) for text in ("abc", "abcd", "a_bcd", "x" * 33)] == [False, True, False, False]
    assert not misspellable(Term("abcd", "prefix"))


@pytest.mark.parametrize(("name", "texts", "marked"), [
    ("Plan (final).pdf", ["plan", "pdf"], "<mark>Plan</mark> (final).<mark>pdf</mark>"),
    ("Straße.txt", ["strasse"], "<mark>Straße</mark>.txt"),
    ("Annual_Report-1.pdf", ["annual report"], "<mark>Annual_Report</mark>-1.pdf"),
    ("aaa", ["aa", "a"], "<mark>aaa</mark>"),
    ("<b>&.html", ["b>"], "&lt;<mark>b&gt;</mark>&amp;.html"),
    ("100%.txt", ["%"], "100<mark>%</mark>.txt"),
    ("plan", ["x"], None),
    ("plan", [], None),
])
def test_T82_marks_are_html_and_the_name_is_escaped(name: str, texts: list[str], marked: str | None) -> None:
    assert highlight(name, texts) == marked


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_T82_without_its_marks_a_highlight_is_the_escaped_name(name: str, texts: list[str]) -> None:
    marked = highlight(name, texts)
    if marked is not None:
        assert re.sub("</?mark>", "", marked) == html.escape(name)
        assert marked.count("<mark>") == marked.count("</mark>") > 0
