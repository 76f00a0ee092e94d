from __future__ import annotations

import io
import re
from typing import Any

import pytest

from db import Database
from parsers import Unsupported, plain_text
from parsers.reading import Reading, read
from parsers.text import parse
from tests.parsers.samples import GERMAN

RUSSIAN = "Это короткий рассказ о доме, который стоял у самой реки, и о людях, которые в нём когда-то жили."


def show(data: bytes, mime: str = "text/plain", name: str = "x.txt") -> Reading:
    return read(io.BytesIO(data), mime, name=name, want=frozenset({"metadata", "text", "document"}))


def document(data: bytes, mime: str, name: str) -> dict[str, Any]:
    found = show(data, mime, name).document
    assert found is not None
    return found


def test_T83_text_is_decoded_and_binary_data_is_not() -> None:
    found = show(GERMAN.encode("cp1252"))
    assert (found.text, found.metadata["encoding"]) == (GERMAN, "cp1252")
    with pytest.raises(Unsupported):
        show(bytes(range(256)) * 9)


def test_T83_characters_that_postgresql_refuses_are_removed() -> None:
    assert plain_text.clean("a\0b\ud800c\x1b[2Jd\ufffee\r\nf\rg\th") == "abc[2Jde\nf\ng\th"
    assert plain_text.for_search("  many   blanks \n\n\n and\u00a0lines ") == "many blanks\nand lines"
    reading = show("x\0y".encode("utf-16") + b"\x00\xd8")
    assert reading.text == "xy"


# These fill a tsvector faster than prose: short words, single three-byte letters, hyphens, paths, digits.
DENSE = {
    "short words": lambda n: f"{n:x}",
    "one letter": lambda n: chr(0x4E00 + n % 20_000),
    "hyphens": lambda n: f"a{n:x}-b{n:x}-c{n:x}",
    "addresses": lambda n: f"h{n}.org/p{n}?q={n}",
    "mail": lambda n: f"a{n}@b{n}.net",
    "numbers": lambda n: f"-{n}.{n}e{n % 9}",
    "paths": lambda n: f"/a{n}/b{n}.c",
    "one line": lambda n: ("," if n % 250_000 else "") + f'"k{n:x}":{n}',
    "glued": lambda n: f"a{n}.b{n}_c{n}/d{n}&e{n};",
}


@pytest.mark.parametrize("kind", DENSE)
def test_T83_a_tsvector_stays_under_its_limit(kind: str, db: Database) -> None:
    """PostgreSQL refuses 250,000 distinct words (SQLSTATE 54000), so the text must be truncated before."""
    whole = ("" if kind == "one line" else " ").join(map(DENSE[kind], range(250_000)))
    kept = plain_text.for_search(whole)
    assert 0 < len(kept.encode()) <= plain_text.MAX_BYTES
    assert whole.startswith(kept)
    with db.connection() as tx:
        for dictionary in ("simple", "german"):
            tx.execute("select length(to_tsvector(%s::regconfig, %s))", (dictionary, kept))


def test_T83_text_without_blanks_is_kept() -> None:
    whole = "{" + ",".join(f'"key{n}":{n}' for n in range(100_000)) + "}"
    kept = plain_text.for_search(whole)
    assert whole.startswith(kept)
    assert len(kept) > 100_000


def test_T83_prose_is_kept_up_to_a_mebibyte() -> None:
    assert len(plain_text.for_search((GERMAN + "\n") * 20_000).encode()) > 1_000_000


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        (RUSSIAN, "ru"),
        ("Les enfants jouent dans le jardin pendant que leurs parents préparent le dîner.", "fr"),
        ("The committee will meet again on Thursday to discuss the budget for the next year.", "en"),
        ("Tere tulemast meie kodulehele, siin on palju huvitavat teavet kõigi jaoks.", "et"),
        ("12 13 14; 15 16 17", None),
        ("ok", None),
    ],
)
def test_language_detection(text: str, language: str | None) -> None:
    assert show(text.encode()).text_language == language


def test_source_code_is_highlighted_and_escaped() -> None:
    found = document(b"def f():\n    return '<script>alert(1)</script>'\n", "text/x-python", "x.py")
    assert found["language"] == "python"
    assert '<span class="k">def</span>' in found["html"]
    assert "<script" not in found["html"]
    assert not found["truncated"]


@pytest.mark.parametrize(
    ("mime", "name", "language"),
    [
        ("text/plain", "x.ts", "typescript"),
        ("text/x-python", "without", "python"),
        ("text/html", "x.html", "html"),
        ("text/plain", "x.txt", None),
        ("application/yaml", "x.yml", "yaml"),
        ("text/x-c", "x.c", "c"),
    ],
)
def test_the_programming_language(mime: str, name: str, language: str | None) -> None:
    assert document(b"a = 1\n", mime, name)["language"] == language


def test_only_the_first_64_kib_are_shown() -> None:
    found = document("ä".encode() * 50_000, "text/plain", "x.txt")
    assert found["truncated"]
    assert len(found["content"].encode()) == 65_536


def test_markdown_is_rendered_without_html_images_or_scripts() -> None:
    source = (
        "# Title\n\n[web](https://e.org/?a=1&b=2) [bad](javascript:alert(1)) [data](data:text/html,x) [rel](../x)\n\n"
        "![a picture](https://tracker.example/x.png) <img src=x onerror=alert(1)> <b>raw</b>\n\n| a | b |\n|--|--|\n| 1 | 2 |\n"
    )
    html = document(source.encode(), "text/markdown", "x.md")["html"]
    assert "<h1>Title</h1>" in html and "<td>1</td>" in html
    assert '<a href="https://e.org/?a=1&amp;b=2" rel="noopener noreferrer nofollow" target="_blank">web</a>' in html
    assert html.count("href=") == 1
    assert "a picture" in html and "tracker" not in html
    assert not re.search(r"<(?:img|b|script)\b", html)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ("a;b,5\n1;2,5\n", [["a", "b,5"], ["1", "2,5"]]),
        ("a;b\n1,5;2,5\n3,5;4,5\n", [["a", "b"], ["1,5", "2,5"], ["3,5", "4,5"]]),
        ('a\tb\n"x\ty"\tz\n', [["a", "b"], ["x\ty", "z"]]),
        ('a,b\n"two\nlines","quote "" here"\n', [["a", "b"], ["two\nlines", 'quote " here']]),
        ('a;b\n"1,2\n3,4\n5,6";x\n', [["a", "b"], ["1,2\n3,4\n5,6", "x"]]),
        ("a,b\u2028c\n\u2029d,e\n", [["a", "b\u2028c"], ["\u2029d", "e"]]),
        ("a,b\x85c\x0b\x0cd\x1c\0e\n1,2\n", [["a", "bcde"], ["1", "2"]]),
        ("sep=;\na;b\n1,2;3\n", [["a", "b"], ["1,2", "3"]]),
        ('"sep=|"\r\na,b|c\r\n', [["a,b", "c"]]),
        ("a,b\r1,2\r", [["a", "b"], ["1", "2"]]),
        ("a,b\r\n1,2\n3,4\r5,6", [["a", "b"], ["1", "2"], ["3", "4"], ["5", "6"]]),
        ("a,b,\n1,2,\n", [["a", "b", ""], ["1", "2", ""]]),
        ('size,name\n5",bolt\n6,nut\n', [["size", "name"], ['5"', "bolt"], ["6", "nut"]]),
        ('size,name\n"6,nut\n7,screw\n', [["size", "name"], ['"6', "nut"], ["7", "screw"]]),
        ("\n\na,b\n\n1,2\n", [["a", "b"], ["1", "2"]]),
        ("one\ntwo\n", [["one"], ["two"]]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables(text: str, encoding: str, rows: list[list[str]]) -> None:
    arguments = {"mime_type": "text/csv", "extension": "csv", "want": ["document"], "head": None}
    values, _ = parse(text.encode(encoding), arguments)
    assert values["document"]["table"] == rows


def test_a_row_cut_by_the_end_of_the_preview_is_left_out() -> None:
    found = document(b'name,"two\nlines"\n' * 5_000, "text/csv", "x.csv")
    assert found["truncated"]
    cell = "x" * 700
    rows = document(f"a,{cell}\n".encode() * 99, "text/csv", "x.csv")["table"]
    assert rows[-1] == ["a", "x" * 500]
    assert len(rows) == 65_536 // 703


def test_vcards_of_older_phones_are_readable() -> None:
    card = (
        b"BEGIN:VCARD\r\nVERSION:2.1\r\nFN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=BCrgen=20=\r\nM=C3=BCller\r\n"
        b"NOTE;ENCODING=QUOTED-PRINTABLE;CHARSET=windows-1251:=CC=E8=F0\r\nTEL;CELL:1=2\r\nEND:VCARD\r\n"
    )
    shown = document(card, "text/vcard", "x.vcf")["content"]
    assert ":Jürgen Müller\nNOTE;" in shown and ":Мир\nTEL;CELL:1=2\n" in shown


def test_front_matter_is_shown_as_code() -> None:
    html = document(b"---\ntitle: x\n---\n# Title\n\n---\n", "text/markdown", "x.md")["html"]
    assert '<code class="language-yaml">title: x\n</code>' in html and "<h1>Title</h1>\n<hr>" in html


@pytest.mark.parametrize(
    ("data", "mime", "name", "language"),
    [
        (b'{"cells":[],"nbformat":4}', "application/x-ipynb+json", "x.ipynb", "json"),
        (b"<gpx/>", "application/gpx+xml", "x.gpx", "xml"),
        (b'{"a":[1,2', "application/json", "x.json", "json"),
        (b"[" * 100_000, "application/json", "x.json", "json"),
        (b'{"a":1}\n{"b":2}\n', "application/x-ndjson", "x.ndjson", "json"),
    ],
)
def test_json_and_xml_are_highlighted_whatever_they_are_for(data: bytes, mime: str, name: str, language: str) -> None:
    found = document(data, mime, name)
    assert (found["language"], bool(found["html"])) == (language, True)


def test_colours_of_a_terminal_are_left_out() -> None:
    found = show(b"\x1b[1;31merror\x1b[0m: no \x1b[Kfile\n")
    assert (found.text, found.document and found.document["content"]) == ("error: no file", "error: no file\n")


def test_tables_are_capped() -> None:
    table = document(((",".join(["c" * 600] * 60)) + "\n").encode() * 2, "text/csv", "x.csv")["table"]
    assert (len(table[0]), len(table[0][0])) == (50, 500)
    assert len(document(b"a,b\n" * 999, "text/csv", "x.csv")["table"]) == 200


def test_json_is_indented_with_numbers_unchanged() -> None:
    found = document(b'{"a":[1.10,12345678901234567890,{}],"b":"{,}"}', "application/json", "x.json")
    plain = re.sub(r"<[^>]*>", "", found["html"]).strip()
    assert plain == '{\n  "a": [\n    1.10,\n    12345678901234567890,\n    {}\n  ],\n  "b": "{,}"\n}'
    assert found["content"] == '{"a":[1.10,12345678901234567890,{}],"b":"{,}"}'


@pytest.mark.parametrize(
    ("source", "mime", "encoding"),
    [
        ('<meta charset="iso-8859-2"><p>{}', "text/html", "iso8859_2"),
        (
            "<head><META http-equiv=Content-Type content='text/html; charset=windows-1250'></head><p>{}",
            "text/html",
            "cp1250",
        ),
        ('<meta charset="iso-8859-2"><p>{}', "text/html", "utf-8"),  # the bytes say otherwise
        ('<meta charset="utf-16"><p>{}', "text/html", "cp1250"),
        ('<meta charset="zlib"><p>{}', "text/html", "cp1250"),
        ('<?xml version="1.0" encoding="ISO-8859-2"?>\n<a>{}</a>', "application/xml", "iso8859_2"),
        ("<?xml version='1.0' encoding='windows-1250'?><html><p>{}</p></html>", "application/xhtml+xml", "cp1250"),
        ("#!/usr/bin/python\n# -*- coding: iso-8859-2 -*-\nx = '{}'\n", "text/x-python", "iso8859_2"),
    ],
)
def test_T83_a_file_may_say_its_encoding(source: str, mime: str, encoding: str) -> None:
    text = source.format("Škoda: źródło, żółw")
    found = show(text.encode(encoding), mime, "x")
    assert found.document is not None
    assert found.document["content"] == text


def test_entities_are_decoded_and_a_head_need_not_end() -> None:
    page = b"<!doctype html><head><title>t</title><style>p{}</style><body><p>M&uuml;ller &#8364;5 &lt;b&gt;<template>x</template>"
    assert show(page, "text/html", "x.html").text == "Müller €5 <b>"


def test_html_tags_are_not_searched() -> None:
    page = b"<head><title>t</title></head><style>p{}</style><p>Hello <b>W</b>orld &amp; all<script>var x='hidden'</script><p>end"
    assert show(page, "text/html", "x.html").text == "Hello World & all\nend"
