from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.highlight import AROUND, mark, snippet


@pytest.mark.parametrize(
    ("name", "sought", "marked"),
    [
        ("Plan (final).pdf", [["plan"], ["pdf"]], "<mark>Plan</mark> (final).<mark>pdf</mark>"),
        ("Straße.txt", [["strasse"]], "<mark>Straße</mark>.txt"),
        ("Annual_Report-1.pdf", [["annual", "report"]], "<mark>Annual_Report</mark>-1.pdf"),
        ("AnnualReport2026.pdf", [["report", "2026"]], "Annual<mark>Report2026</mark>.pdf"),
        ("aaa", [["aa"], ["a"]], "<mark>aaa</mark>"),
        ("<b>&.html", [["b"]], "&lt;<mark>b</mark>&gt;&amp;.html"),
        ("100%.txt", [["%"]], "100<mark>%</mark>.txt"),
        ("東京旅行の写真.jpg", [["旅行"]], "東京<mark>旅行</mark>の写真.jpg"),
        ("plan", [["x"]], None),
        ("plan", [], None),
    ],
)
def test_T82_marks_are_html_and_the_name_is_escaped(name: str, sought: list[list[str]], marked: str | None) -> None:
    assert mark(name, sought) == marked


@given(st.text(max_size=40), st.lists(st.lists(st.text(min_size=1, max_size=5), max_size=3), max_size=4))
def test_T82_without_its_marks_a_highlight_is_the_escaped_name(name: str, sought: list[list[str]]) -> None:
    marked = mark(name, sought)
    if marked is not None:
        assert re.sub("</?mark>", "", marked) == html.escape(name)
        assert marked.count("<mark>") == marked.count("</mark>") > 0


@pytest.mark.parametrize(
    ("content", "needles", "shown"),
    [
        ("The net profit rose.", ["profit"], "The net <mark>profit</mark> rose."),
        ("Many Reports", ["report"], "Many <mark>Reports</mark>"),
        ("a <b>plan</b> & more", ["plan"], "a &lt;b&gt;<mark>plan</mark>&lt;/b&gt; &amp; more"),
        ("東京都庁は新宿にあります", ["新宿"], "東京都庁は<mark>新宿</mark>にあります"),
        ("Straße und STRASSE", ["strasse"], "<mark>Straße</mark> und <mark>STRASSE</mark>"),
        ("one\n\n  two\tthree", ["two"], "one <mark>two</mark> three"),
        ("explanation", ["plan"], None),
        ("", ["plan"], None),
        ("text", [], None),
    ],
)
def test_T82_the_highlighted_line_of_a_text(content: str, needles: list[str], shown: str | None) -> None:
    assert snippet(content, needles) == shown


def test_a_line_is_short_and_has_whole_words_and_ellipses() -> None:
    shown = snippet("word " * 500 + "needle " + "word " * 500, ["needle"])
    assert shown is not None
    assert shown.startswith("… word") and shown.endswith("word …") and "<mark>needle</mark>" in shown
    assert len(shown) < 2 * AROUND + 40


@given(
    st.text(max_size=300),
    st.lists(st.text(st.characters(categories=("Ll", "Lo", "Nd")), min_size=1, max_size=4), max_size=4),
)
def test_T82_marks_are_the_only_markup_in_a_line(content: str, needles: list[str]) -> None:
    shown = snippet(content, needles)
    if shown is not None:
        assert not set("<>\"'") & set(re.sub("</?mark>", "", shown))
