from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from parsers import Unsupported
from parsers.reading import Reading, read
from tests.parsers import samples
from tests.parsers.samples import GERMAN
from tests.parsers.test_media import Ranged

OFFICE = "application/vnd.openxmlformats-officedocument."
ODF = "application/vnd.oasis.opendocument."


def show(data: bytes, mime: str, **options: Any) -> Reading:
    want: frozenset[Any] = frozenset({"metadata", "picture", "text", "document"})
    return read(io.BytesIO(data), mime, name="x", want=want, sizes=(1024, 128), format="png", **options)


def page(data: bytes, number: int = 1) -> Image.Image:
    shown = show(data, "application/pdf", page=number).pictures[0]
    return Image.open(io.BytesIO(shown.data)).convert("RGB")


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
    assert show(data, "application/pdf").text == "\n".join(filter(None, ["Name:", text]))


@pytest.mark.parametrize("flag", [2, 32], ids=["hidden", "not for screens"])
def test_T94_hidden_fields_are_neither_drawn_nor_read(flag: int) -> None:
    data = samples.annotated_pdf(f"{FIELD} /Tx /V (Miller) {LOOKS} /F {flag}", form="/X 1")
    assert page(data) == page(samples.annotated_pdf())
    assert show(data, "application/pdf").text == "Name:"


def test_T94_a_page_that_cannot_be_drawn_loses_no_text() -> None:
    reading = show(samples.annotated_pdf(box="0 0 400 400] /CropBox [900 900 999 999"), "application/pdf")
    assert (reading.failed, reading.pictures) == ({"picture": "The page has no size"}, ())
    assert (reading.metadata, reading.text) == ({"format": "PDF", "pages": 1}, "Name:")


@pytest.mark.parametrize("junk", [b"HTTP/1.1 200 OK\r\n\r\n", bytes(1000)])
def test_T94_bytes_around_a_document(junk: bytes) -> None:
    assert show(junk + samples.pdf() + junk, "application/pdf").text == "Hello page one\nSecond page"


def test_T94_a_broken_index_is_rebuilt() -> None:
    data = samples.pdf().replace(b"startxref\n", b"startxref\n9")
    assert show(data, "application/pdf").text == "Hello page one\nSecond page"


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
            "Amount Due date inline\n12.50 2026-11-25 TRUE 2026-11-25 18:00:00\nelsewhere",
        ),
        (samples.odf(), ODF + "text", {"format": "ODT", "pages": 7}, f"Heading\n{GERMAN}\none two three"),
        (samples.odf("spreadsheet"), ODF + "spreadsheet", {"format": "ODS", "pages": 7}, "Amount Due"),
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


def test_books() -> None:
    """Chapters have the order of the spine; names outside the file are ignored."""
    reading = show(samples.epub(), "application/epub+zip")
    assert reading.metadata == {"format": "EPUB", "title": "A book", "author": "A writer"}
    assert reading.text == "Chapter one\nIt was dark.\nChapter two\nIt was dark."


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
