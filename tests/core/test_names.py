from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidName
from core.names import clean_name, extension, name_key, numbered, numbered_parts

ANY_TEXT = st.text(st.characters(codec=None), max_size=400)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Plan (final).pdf", "Plan (final).pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cv.doc", "cv.doc"),
        ("folder/", "folder"),
        ("a\r\nX-Evil: 1.txt", "a X-Evil: 1.txt"),
        ("a\x00b\x1b[31m\x9b.txt", "ab[31m.txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\u2028b", "a b"),
        ("cafe\u0301.txt", "caf\u00e9.txt"),
        ("  spaced \u3000", "spaced"),
        ("\ufeffbom.txt", "bom.txt"),
        ("日本語 👩‍👩‍👧 العربية.txt", "日本語 👩‍👩‍👧 العربية.txt"),
        ("-rf", "-rf"),
        (".htaccess", ".htaccess"),
        ("CON", "CON"),
        ("x.txt:ads", "x.txt:ads"),
        ("%2e%2e%2fa", "%2e%2e%2fa"),  # percent-decoding is done elsewhere
    ],
)
def test_T21_T25_names_are_cleaned(raw: str, clean: str) -> None:
    assert clean_name(raw) == clean


@pytest.mark.parametrize(
    "raw", ["", " ", ".", "..", ". . .", "\u3000", "/", "a/..", "\u202e", "\x00", "\u200d", "x\ud800.txt", "a" * 5000]
)
def test_T21_T22_invalid_names(raw: str) -> None:
    with pytest.raises(InvalidName):
        clean_name(raw)


@given(ANY_TEXT)
def test_T21_T22_every_accepted_name_obeys_every_rule(raw: str) -> None:
    try:
        name = clean_name(raw)
    except InvalidName:
        return
    assert 0 < len(name.encode()) <= 255
    assert unicodedata.is_normalized("NFC", name)
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)
    assert not set(name) & set(
        "/\\\u2028\u2029\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
    assert name.strip() == name
    assert clean_name(name) == name


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\\"), min_size=250, max_size=1000))
def test_T21_the_cut_keeps_the_extension(stem: str) -> None:
    name = clean_name("x" + stem + "x.pdf")
    assert name.endswith("x.pdf") or (len(name.encode()) > 250 and name.endswith(".pdf"))
    assert len(name.encode()) <= 255


def test_T21_the_cut_ends_at_a_character() -> None:
    assert clean_name("é" * 300 + ".tar.gz") == "é" * 124 + ".tar.gz"
    assert clean_name("日" * 300) == "日" * 85


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.PDF", "pdf"),
        ("a.tar.gz", "gz"),
        ("a.html. .", "html"),
        ("a", ""),
        ("a.", ""),
        (".htaccess", "htaccess"),
        ("a.ｅｘｅ", "exe"),
        ("a.тхт", ""),
        ("a." + "x" * 17, ""),
        ("a.b c", ""),
        ("a.jpg\u2024exe", "exe"),
    ],
)
def test_T10_the_extension_used_by_rules(name: str, expected: str) -> None:
    assert extension(name) == expected


def test_numbered_names() -> None:
    assert numbered("Plan (final).pdf", 1) == "Plan (final) (1).pdf"
    assert numbered("a.tar.gz", 12) == "a (12).tar.gz"
    assert numbered(".htaccess", 1) == ".htaccess (1)"
    assert numbered("README", 1) == "README (1)"
    assert numbered("Version 1. final", 1) == "Version 1. final (1)"


@given(ANY_TEXT, st.integers(1, 99_999))
def test_numbering_keeps_a_clean_name_clean(raw: str, n: int) -> None:
    try:
        name = clean_name(raw)
    except InvalidName:
        return
    assert f" ({n})" in numbered(name, n)
    assert len(numbered(name, n).encode()) <= 255
    assert clean_name(numbered(name, n)) == numbered(name, n)


def test_equal_names() -> None:
    assert name_key("STRASSE") == name_key("straße")
    assert name_key("caf\u00e9") == name_key("CAFE\u0301")
    assert name_key("ﬁle") == name_key("FILE")


@given(ANY_TEXT, st.integers(1, 9_999_999_999))
def test_the_parts_of_numbered_names(raw: str, n: int) -> None:
    try:
        name = clean_name(raw)
    except InvalidName:
        return
    stems, suffix = numbered_parts(name)
    assert f"{stems[len(str(n)) - 1]} ({n}){suffix}" == numbered(name, n)
