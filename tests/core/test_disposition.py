from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.disposition import content_disposition

SHAPE = re.compile(r'attachment; filename="([^"\\%]+)"; filename\*=UTF-8\'\'([A-Za-z0-9!#$&+.^_`|~%-]+)')


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Plan (final).pdf", "Plan (final).pdf"),
        ("Übung.txt", "Ubung.txt"),
        ("日本語.pdf", "file.pdf"),
        ("日本語", "file"),
        ('a"b\\c%41.txt', "a_b_c_41.txt"),
        ("", "file"),
        ("...", "file"),
        (".htaccess", ".htaccess"),
        ("a;b,c.txt", "a;b,c.txt"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x"),
        ("_private.txt", "_private.txt"),
    ],
)
def test_T23_the_plain_name(name: str, plain: str) -> None:
    found = SHAPE.fullmatch(content_disposition("attachment", name))
    assert found and found[1] == plain


@given(st.text(st.characters(codec=None)))
def test_T22_T23_any_name_gives_an_ascii_header(name: str) -> None:
    header = content_disposition("attachment", name)
    assert header.isascii() and header.isprintable()
    found = SHAPE.fullmatch(header)
    assert found and found[1].strip()
    controls = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
    assert unquote(found[2]) == (controls.sub("", name) or "file")


def test_inline() -> None:
    assert content_disposition("inline", "a.png").startswith('inline; filename="a.png"')
