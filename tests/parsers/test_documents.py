from __future__ import annotations

import io
import warnings
import zipfile
from typing import Any

import pytest
from PIL import Image

from parsers import ParserFailed, Unsupported, office, packages, pdf
from parsers.reading import Reading, read
from tests.parsers import samples
from tests.parsers.samples import GERMAN
from tests.parsers.test_media import Ranged

OFFICE = "application/vnd.openxmlformats-officedocument."
ODF = "application/vnd.oasis.opendocument."


def show(data: bytes, mime: str, **options: Any) -> Reading:
    want: frozenset[Any] = frozenset({"metadata", "picture", "text", "document"})
    return read(io.BytesIO(data), mime, name="x", want=want, sizes=(1024, 128), format="png", **options)


def text_of(data: bytes, parser: Any = office) -> str:
    """The text for search, without a child process."""
    text: str = parser.parse(io.BytesIO(data), {"want": ["text"], "sizes": [], "page": 1})[0]["text"]
    return text


def page(data: bytes, number: int = 1) -> Image.Image:
    """A page as a picture, without a child process."""
    arguments = {"want": ["picture"], "sizes": [1024], "format": "png", "page": number}
    return Image.open(io.BytesIO(pdf.parse(io.BytesIO(data), arguments)[1][0])).convert("RGB")


def red(pixel: Any) -> bool:
    return pixel[0] > 200 > 80 > max(pixel[1:])


def test_T94_pages_title_and_author() -> None:
    reading = show(samples.pdf(), "application/pdf")
    assert reading.metadata.pop("placeholder")
    assert reading.metadata == {"format": "PDF", "pages": 2, "title": "A title", "author": "An Author"}
    assert [(one.size, one.width, one.height) for one in reading.pictures] == [(1024, 768, 1024), (128, 96, 128)]
    assert reading.text == "Hello page one\nSecond page"
    assert reading.document and reading.document["content"] == reading.text


@pytest.mark.parametrize(("turn", "corner"), [(0, (10, 10)), (90, (-10, 10)), (180, (-10, -10)), (270, (10, -10))])
def test_T94_pages_are_upright(turn: int, corner: tuple[int, int]) -> None:
    image = page(samples.pdf(rotate=turn))
    assert (image.width > image.height) == (turn in (90, 270))
    x, y = (at if at > 0 else side + at for at, side in zip(corner, image.size, strict=True))
    assert red(image.getpixel((x, y)))


def test_T94_pages_beyond_the_last_are_unsupported() -> None:
    data = samples.pdf([f"page {n}" for n in range(1, 4)])
    assert page(data, 3) != page(data, 1)
    for number in (0, 4, -1, 10**9):
        with pytest.raises(Unsupported, match="3 pages"):
            page(data, number)


@pytest.mark.parametrize("box", ["0 0 14400 14400", "0 0 10 20", "0 0 0.5 0.5", "-100 -100 200 300"])
def test_T94_the_scale_follows_the_page(box: str) -> None:
    assert max(page(samples.pdf(box=box)).size) == 1024


def test_T94_only_the_needed_ranges_of_a_large_document_are_read() -> None:
    """The only page follows 80 MB of unreferenced data."""
    drawing = b"BT /F1 24 Tf 40 100 Td (small) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] /Contents 6 0 R"
        b" /Resources << /Font << /F1 3 0 R >> >> >>",
        b"<< /Length 80000000 >> stream\n" + bytes(80_000_000) + b"\nendstream",
        b"<< /Length %d >> stream\n" % len(drawing) + drawing + b"\nendstream",
    ]
    source = Ranged(samples.pdf_of(parts, "/Root 1 0 R"))
    reading = read(source, "application/pdf", name="x", want=frozenset({"picture", "text"}), sizes=(64,))
    assert reading.text == "small"
    assert (reading.pictures[0].width, reading.pictures[0].height) == (48, 64)
    assert sum(size for _, size in source.asked) < 2_000_000


def test_T94_links_and_scripts_are_not_drawn() -> None:
    link = "/OpenAction << /S /URI /URI (http://e.org) >> /AA << /WC << /S /JavaScript /JS (app.alert(1)) >> >>"
    reading = show(samples.pdf(catalog=link), "application/pdf")
    assert "e.org" not in repr(reading) and "alert" not in repr(reading)


FIELD = "/Subtype /Widget /T (name) /DA (/F 30 Tf 0 g) /FT "
LOOKS = "/AP << /N 6 0 R >>"


@pytest.mark.parametrize(
    ("annotation", "form", "text"),
    [
        (f"{FIELD} /Tx /V (Miller) {LOOKS}", "/X 1", "Miller"),
        (f"{FIELD} /Tx /V (Miller)", "/NeedAppearances true", "Miller"),
        (f"{FIELD} /Tx /V (Miller)", "/X 1", "Miller"),
        (f"{FIELD} /Tx /V (Miller) {LOOKS}", "", "Miller"),
        (f"{FIELD} /Ch /Ff 131072 /V (b) /Opt [[(a) (Smith)] [(b) (Miller)]]", "/X 1", "Miller"),
        (f"{FIELD} /Btn /V /Yes /AS /Yes /MK << /CA (4) >>", "/X 1", None),
        (f"{FIELD} /Btn /V /Yes /AS /Yes /AP << /N << /Yes 6 0 R >> >>", "/X 1", "Miller"),
        (f"/Subtype /FreeText /Contents (Miller) /DA (/F 40 Tf 0 g) {LOOKS}", "", "Miller"),
        ("/Subtype /FreeText /Contents (Miller) /DA (/Helv 40 Tf 0 g)", "", "Miller"),
        ("/Subtype /Highlight /C [0 0 0] /QuadPoints [20 150 380 150 20 100 380 100]", "", None),
    ],
    ids=[
        "field",
        "needs appearance",
        "no appearance",
        "no form",
        "choice",
        "check box",
        "checked",
        "note",
        "bare",
        "mark",
    ],
)
def test_T94_fields_and_notes_are_drawn_and_read(annotation: str, form: str, text: str | None) -> None:
    data = samples.annotated_pdf(annotation, form=form)
    assert page(data).convert("L").crop((40, 630, 980, 780)).histogram()[:60] != [0] * 60
    assert text_of(data, pdf) == "\n".join(filter(None, ["Name:", text]))


@pytest.mark.parametrize("flag", [2, 32], ids=["hidden", "not for screens"])
def test_T94_hidden_fields_are_neither_drawn_nor_read(flag: int) -> None:
    data = samples.annotated_pdf(f"{FIELD} /Tx /V (Miller) {LOOKS} /F {flag}", form="/X 1")
    assert page(data) == page(samples.annotated_pdf())
    assert text_of(data, pdf) == "Name:"


def test_T94_a_page_that_cannot_be_drawn_loses_no_other_part() -> None:
    data = samples.annotated_pdf().replace(b"/Kids [3 0 R] /Count 1", b"/Kids [99 0 R 3 0 R] /Count 2")
    reading = show(data, "application/pdf")
    assert (reading.failed, reading.pictures) == ({"picture": "The page is broken"}, ())
    assert (reading.metadata, reading.text) == ({"format": "PDF", "pages": 2}, "Name:")


def test_T94_a_crop_box_outside_of_the_page_is_ignored() -> None:
    cropped = samples.annotated_pdf(box="0 0 400 400] /CropBox [900 900 999 999")
    assert page(cropped) == page(samples.annotated_pdf())


@pytest.mark.parametrize("junk", [b"HTTP/1.1 200 OK\r\n\r\n", bytes(1000)])
def test_T94_bytes_around_a_document(junk: bytes) -> None:
    assert text_of(junk + samples.pdf() + junk, pdf) == "Hello page one\nSecond page"


def test_T94_a_broken_index_is_rebuilt() -> None:
    data = samples.pdf().replace(b"startxref\n", b"startxref\n9")
    assert text_of(data, pdf) == "Hello page one\nSecond page"


@pytest.mark.parametrize(
    ("data", "mime", "metadata", "text"),
    [
        (
            samples.docx(),
            OFFICE + "wordprocessingml.document",
            {"format": "DOCX", "pages": 3},
            f"{GERMAN}\none two\na footnote",
        ),
        (
            samples.pptx(),
            OFFICE + "presentationml.presentation",
            {"format": "PPTX", "pages": 3},
            "Slide number 1\nSlide number 2\nSlide number 10",
        ),
        (
            samples.xlsx(),
            OFFICE + "spreadsheetml.sheet",
            {"format": "XLSX"},
            "First\nAmount Due date inline\n12.50 2026-11-25 TRUE 2026-11-25 18:00:00\nSecond\nelsewhere",
        ),
        (samples.odf(), ODF + "text", {"format": "ODT", "pages": 7}, f"Heading\n{GERMAN}\none two three"),
        (samples.odf("spreadsheet"), ODF + "spreadsheet", {"format": "ODS", "pages": 7}, "Costs\nAmount Due"),
        (samples.odf("presentation"), ODF + "presentation", {"format": "ODP", "pages": 7}, "First slide"),
    ],
    ids=["docx", "pptx", "xlsx", "odt", "ods", "odp"],
)
def test_T95_office_documents(data: bytes, mime: str, metadata: dict[str, Any], text: str) -> None:
    reading = show(data, mime)
    assert reading.metadata == {"title": "The title", "author": "The author", **metadata}
    assert reading.text == text
    assert reading.text_language == ("de" if GERMAN in text else None)
    assert reading.document and not reading.document["truncated"]
    assert reading.pictures == ()


W = '<w:document xmlns:w="w"><w:p><w:r><w:t>Hello</w:t></w:r></w:p></w:document>'
SHEET = {"xl/worksheets/sheet1.xml": "<worksheet><row><c><v>1</v></c></row></worksheet>"}
NOTE = '<w:footnotes xmlns:w="w"><w:p><w:t>a note</w:t></w:p></w:footnotes>'


def main_part(target: str, name: str, **parts: str) -> dict[str, str | bytes]:
    return {"_rels/.rels": samples.related({"officeDocument": target}), name: W, **parts}


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            main_part(
                "word/document2.xml",
                "word/document2.xml",
                **{"word/_rels/document2.xml.rels": samples.related({"footnotes": "fn2.xml"}), "word/fn2.xml": NOTE},
            ),
            "Hello\na note",
        ),
        (main_part("/document.xml", "document.xml", **{"footnotes.xml": NOTE}), "Hello\na note"),
        (main_part("./word/../a/b/My%20Text.xml", "a/b/My Text.xml"), "Hello"),
        (main_part("/word/Text%20%C3%A9.xml", "word/Text%20%C3%A9.xml"), "Hello"),
        (main_part("word/document.xml", "WORD/Document.xml", **{"WORD/Footnotes.XML": NOTE}), "Hello\na note"),
        ({"_Rels\\.rels": samples.related({"officeDocument": "word/x.xml"}), "word\\x.xml": W}, "Hello"),
        ({"/word/document.xml": W}, "Hello"),
        (
            {
                "[Content_Types].xml": '<Types><Override PartName="/x/y.xml" ContentType="application/vnd.openxmlformats-'
                'officedocument.wordprocessingml.document.main+xml"/></Types>',
                "x/y.xml": W,
            },
            "Hello",
        ),
        ({"_rels/.rels": "broken", "[Content_Types].xml": "<broken", "word/document.xml": W}, "Hello"),
        (main_part("word/missing.xml", "word/document.xml"), "Hello"),
        (main_part("x.xml", "x.xml") | {"x.xml": W.encode("utf-16")}, "Hello"),
        (main_part("x.xml", "x.xml") | {"x.xml": f'<!DOCTYPE w SYSTEM "http://127.0.0.1:9/w.dtd">{W}'}, "Hello"),
        (
            {
                "_rels/.rels": samples.related(
                    {"officeDocument": "x.xml"}, "http://purl.oclc.org/ooxml/officeDocument"
                ),
                "x.xml": W.replace("w:", "x:"),
            },
            "Hello",
        ),
    ],
    ids=[
        "Word Online",
        "absolute",
        "relative",
        "encoded",
        "case",
        "backslashes",
        "slash",
        "types",
        "broken",
        "missing",
        "UTF-16",
        "DOCTYPE",
        "strict",
    ],
)
def test_the_main_part_is_found(parts: dict[str, str | bytes], text: str) -> None:
    assert text_of(samples.zipped(parts)) == text


def test_text_boxes_moved_and_deleted_text_are_read_once() -> None:
    box = "<w:r><mc:AlternateContent><mc:Choice><w:t>box</w:t></mc:Choice><mc:Fallback><w:t>box</w:t></mc:Fallback>"
    body = (
        f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr>{box}</mc:AlternateContent></w:r></w:p>"
        "<w:p><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:sdt><w:sdtContent><w:t>e</w:t></w:sdtContent></w:sdt>"
        "<w:noBreakHyphen/><w:r><w:t>mail</w:t></w:r><w:del><w:delText>gone</w:delText></w:del></w:p>"
        "<w:p><w:moveTo><w:r><w:t>moved</w:t></w:r></w:moveTo></w:p>"
    )
    reading = show(samples.docx(body), OFFICE + "wordprocessingml.document")
    assert reading.document and reading.document["content"] == "box\ne-mail\nmoved\n\na footnote"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (samples.docx("<w:p><w:t>before</w:t></w:p><w:p><w:tabs>"), "before\na footnote"),
        (
            samples.docx(**{"word/comments.xml": "<broken", "docProps/core.xml": "<broken"}),
            f"{GERMAN}\none two\na footnote",
        ),
        (samples.xlsx("<worksheet><row><c><v>12</v></c></row><row>"), "First\n12\nSecond\nelsewhere"),
        (samples.zipped({"xl/workbook.xml": "<workbook/>", "xl/styles.xml": "<", **SHEET}), "1"),
        (samples.odf(content="<text:p>before</text:p><text:p"), "before"),
        (samples.docx()[:500], f"{GERMAN}\none two\na footnote"),
        (samples.zipped({"word/document.xml": W + "x" * 9_000}, zipfile.ZIP_STORED)[:5_000], "Hello"),
    ],
    ids=["document", "comments", "sheet", "styles", "OpenDocument", "truncated", "truncated part"],
)
def test_what_is_damaged_in_a_document_loses_nothing_else(data: bytes, text: str) -> None:
    assert text_of(data) == text
    values, _ = office.parse(io.BytesIO(data), {"want": ["document"]})
    assert values["document"]["truncated"]


def test_a_document_without_any_text_that_can_be_read_is_broken() -> None:
    with pytest.raises(ParserFailed):
        text_of(
            samples.zipped({"_rels/.rels": samples.related({"officeDocument": "a.xml"}), "a.xml": "<w:document><w:t"})
        )


def test_T95_a_large_part_is_read_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_MAX_ENTRY", 100_000)
    rows = "".join(f"<row><c><v>{number}</v></c></row>" for number in range(20_000))
    data = samples.zipped(
        {"xl/workbook.xml": "<workbook/>", "xl/worksheets/sheet1.xml": f"<worksheet>{rows}</worksheet>"}
    )
    values, _ = office.parse(io.BytesIO(data), {"want": ["document"]})
    assert values["document"]["truncated"]
    assert 2_000 < len(values["document"]["content"].splitlines()) < 6_000


def test_headers_comments_and_inserted_pages_of_a_document_are_read() -> None:
    relations = {
        "header1": "h.xml",
        "footer": "f.xml",
        "comments": "c.xml",
        "aFChunk1": "page.html",
        "aFChunk2": "a.mht",
    }
    page = "<html><meta charset=windows-1252><p>K\u00e4se</p>".encode("cp1252")
    mail = b"MIME-Version: 1.0\nContent-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n<b>=C3=A4</b>"
    parts = {f"{name}.xml": f"<w:p><w:t>{name}</w:t></w:p>" for name in "hfc"} | {"page.html": page, "a.mht": mail}
    rels = {"word/_rels/document.xml.rels": samples.related(relations)}
    data = samples.docx("<w:t>text</w:t>", **rels, **{f"word/{name}": part for name, part in parts.items()})
    assert text_of(data) == "text\na footnote\nc\nh\nf\nK\u00e4se\n\u00e4"


def test_characters_that_excel_escapes() -> None:
    cells = '<c t="inlineStr"><is><t>a_x000D_\nb_x005F_x0041_</t></is></c><c t="str"><v>_x00e4_</v></c>'
    assert text_of(samples.xlsx(f"<worksheet><row>{cells}</row></worksheet>")).splitlines()[1:3] == [
        "a",
        "b_x0041_ \u00e4",
    ]


def test_sheets_have_the_order_and_names_of_the_workbook() -> None:
    cells = '<x:worksheet xmlns:x="x"><x:row><x:c t="s"><x:v>{}</x:v></x:c><x:c s="1"><x:v>{}</x:v></x:c></x:row></x:worksheet>'
    parts = {
        "_rels/.rels": samples.related({"officeDocument": "xl/workbook2.xml"}),
        "xl/workbook2.xml": '<x:workbook xmlns:x="x" xmlns:q="r"><x:workbookPr date1904="1"/><x:sheets>'
        '<x:sheet name="Secret" state="hidden" q:id="r3"/><x:sheet name="Zulu" sheetId="9" q:id="r2"/>'
        '<x:sheet name="Alpha" sheetId="1" q:id="r1"/></x:sheets></x:workbook>',
        "xl/_rels/workbook2.xml.rels": samples.related(
            {
                "worksheet1": "worksheets/sheet1.xml",
                "worksheet2": "/xl/worksheets/Blatt.xml",
                "worksheet3": "worksheets/sheet3.xml",
                "sharedStrings": "SharedStrings.xml",
                "styles": "Styles.xml",
            }
        ),
        "xl/sharedStrings.xml": "<sst><si><t>one</t></si><si><t>two</t></si><si><t>three</t></si></sst>",
        "xl/styles.xml": '<styleSheet><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": cells.format(0, 1),
        "xl/worksheets/Blatt.xml": cells.format(1, 44_889),
        "xl/worksheets/sheet3.xml": cells.format(2, 2),
    }
    reading = show(samples.zipped(parts), OFFICE + "spreadsheetml.sheet")
    assert reading.text == "Secret\nthree 1904-01-03\nZulu\ntwo 2026-11-25\nAlpha\none 1904-01-02"
    assert reading.document and reading.document["table"] == [["two", "2026-11-25"]]


@pytest.mark.parametrize(
    ("format", "value", "shown"),
    [
        ('formatCode="[h]:mm:ss"', "1.5", "36:00:00"),
        ('formatCode="[$-409]d/m/yy h:mm;@"', "46351.75", "2026-11-25 18:00:00"),
        ("formatCode='yyyy&quot;年&quot;m&quot;月&quot;'", "46351", "2026-11-25"),
        ('formatCode="h:mm"', "0.75", "18:00:00"),
        ("formatCode='0.00&quot; days&quot;'", "46351", "46351"),
        ('formatCode="[Red]#,##0.00"', "46351", "46351"),
        ('formatCode="yyyy"', "1e300", "1e300"),
    ],
)
def test_dates_in_custom_formats(format: str, value: str, shown: str) -> None:
    styles = f'<s><numFmts><numFmt numFmtId="170" {format}/></numFmts><cellXfs><xf numFmtId="170"/></cellXfs></s>'
    parts = {
        "xl/workbook.xml": '<workbook><sheet name="A"/></workbook>',
        "xl/styles.xml": styles,
        "xl/worksheets/sheet1.xml": f'<worksheet><row><c s="0"><v>{value}</v></c></row></worksheet>',
    }
    assert text_of(samples.zipped(parts)) == f"A\n{shown}"


def test_slides_have_the_order_of_the_presentation() -> None:
    slide = '<p:sld xmlns:p="p" xmlns:a="a"><a:p><a:r><a:t>{}</a:t></a:r></a:p></p:sld>'
    parts = {
        "_rels/.rels": samples.related({"officeDocument": "/presentation.xml"}),
        "presentation.xml": '<p:presentation xmlns:p="p" xmlns:r="r"><p:sldIdLst><p:sldId id="1" r:id="r2"/>'
        '<p:sldId id="2" r:id="r1"/><p:sldId id="3" r:id="r9"/></p:sldIdLst></p:presentation>',
        "_rels/presentation.xml.rels": samples.related({"slide1": "slides/a.xml", "slide2": "slides/b.xml"}),
        "slides/a.xml": slide.format("later"),
        "slides/b.xml": slide.format("first"),
    }
    assert text_of(samples.zipped(parts)) == "first\nlater"


def test_zip_files_as_other_writers_make_them() -> None:
    """Streamed, after other bytes, with an entry twice, and another name in a local header."""
    parts = main_part("word/document.xml", "word/document.xml").items()
    with zipfile.ZipFile(streamed := samples.Stream(), "w") as archive:
        for name, data in [("word/document.xml", b"<old/>"), *parts]:
            with warnings.catch_warnings(action="ignore"):
                archive.writestr(name, data)
    data = streamed.getvalue().replace(b"word/document.xml", b"WORD\\document.xml", 1)
    assert text_of(b"#!/bin/sh\n" + data + b"\n") == "Hello"


OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(5_000)


@pytest.mark.parametrize(
    ("data", "parser"),
    [
        (OLE + "EncryptedPackage".encode("utf-16-le") + bytes(90), office),
        (
            samples.zipped(
                {"META-INF/manifest.xml": "<m><file-entry><encryption-data/></file-entry></m>", "content.xml": "?"}
            ),
            office,
        ),
        (samples.encrypted_pdf(), pdf),
        (samples.protected(samples.docx()), office),
    ],
)
def test_documents_under_a_password_say_so(data: bytes, parser: Any) -> None:
    with pytest.raises(Unsupported, match="protected by a password"):
        text_of(data, parser)


def test_books() -> None:
    """Chapters have the order of the spine; names outside the file are ignored."""
    reading = show(samples.epub(), "application/epub+zip")
    assert reading.metadata == {"format": "EPUB", "title": "A book", "author": "A writer"}
    assert reading.text == "Chapter one\nIt was dark.\nChapter two\nIt was dark."


def test_books_as_other_writers_make_them() -> None:
    """Without a mimetype or an index, with encoded and foreign names, and a spine with contents and pictures."""
    items = "".join(
        f'<opf:item id="{name[0]}" href="{name}" {more}/>'
        for name, more in {
            "nav.xhtml": 'media-type="application/xhtml+xml" properties="nav"',
            "%C3%9Cber%20uns.xhtml#top": 'media-type="application/xhtml+xml"',
            "img.png": 'media-type="image/png"',
            "text%231.html": 'media-type="text/html"',
            "broken.html": 'media-type="text/html"',
        }.items()
    )
    spine = "".join(f'<opf:itemref idref="{name}"/>' for name in "ni%bt")
    book: dict[str, bytes | str] = {
        "a/b/content.opf": f'<opf:package xmlns:opf="o"><opf:manifest>{items}</opf:manifest><opf:spine>{spine}</opf:spine>'
        "</opf:package>",
        "a/b/nav.xhtml": "<p>contents</p>",
        "a/b/U\u0308ber uns.xhtml": "<p>About us</p>",
        "a/b/img.png": bytes(range(256)),
        "a/b/broken.html": bytes(range(256)),
        "a/b/Text#1.html": '<?xml version="1.0" encoding="windows-1251"?><p>Текст</p>'.encode("cp1251"),
    }
    container = {"META-INF/container.xml": '<c><rootfile full-path="/a/b/content.opf"/></c>'}
    for parts in (book, book | container, book | container | {"mimetype": "application/epub+zip\n"}):
        assert text_of(samples.zipped(parts)) == "About us\nТекст"


@pytest.mark.parametrize(
    "parts",
    [
        {"META-INF/manifest.xml": f'<m><e:file-entry manifest:full-path="/" manifest:media-type="{ODF}text"/></m>'},
        {"META-INF/manifest.xml": "<!DOCTYPE m SYSTEM 'Manifest.dtd'><m/>", "mimetype": f"{ODF}text\n"},
    ],
    ids=["manifest alone", "mimetype last"],
)
def test_opendocuments_without_a_first_mimetype(parts: dict[str, str]) -> None:
    content: dict[str, bytes | str] = {"content.xml": '<o:c xmlns:o="o" xmlns:t="t"><t:p>Hello</t:p></o:c>'}
    content |= {name: text.replace("<m>", '<m xmlns:e="e" xmlns:manifest="m">') for name, text in parts.items()}
    assert text_of(samples.zipped(content)) == "Hello"


def test_sheets_are_tables() -> None:
    found = show(samples.xlsx(), OFFICE + "spreadsheetml.sheet").document
    assert found and found["table"] == [
        ["Amount", "Due date", "", "inline"],
        ["12.50", "2026-11-25", "TRUE", "2026-11-25 18:00:00"],
    ]
    found = show(samples.odf("spreadsheet"), ODF + "spreadsheet").document
    assert found and found["table"] == [["Amount", "", "", "Due"]]


def test_T95_long_text_is_truncated() -> None:
    body = "<w:p><w:r><w:t>" + "</w:t></w:r></w:p><w:p><w:r><w:t>".join(f"line {n} {n * 7}" for n in range(99_999))
    reading = show(samples.docx(body + "</w:t></w:r></w:p>"), OFFICE + "wordprocessingml.document")
    assert reading.document and reading.document["truncated"]
    assert len(reading.document["content"]) == 65_536
    assert reading.text and 500_000 < len(reading.text) <= 1 << 20
