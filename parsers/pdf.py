"""PDF: one page as a picture, title and author, text (T94).

pdfium draws pages. This build executes no scripts and follows no links, so nothing in a file can act."""

from __future__ import annotations

import time
from typing import Any, BinaryIO

import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image

from parsers import PROTECTED, ParserFailed, Unsupported, pictures, plain_text
from parsers.thumbhash import placeholder

SEEKS = True
_MAX_PAGE = 1_024  # pixels of a picture, whatever size is asked for
_MAX_PAGES = 2_000  # whose text is read
_TEXT_SECONDS = 5.0  # of processor time; then the text ends
_MAX_ANNOTATIONS = 5_000  # of a page that are drawn and read; the time that fields take grows with their square


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Page ``page`` as pictures; metadata pages, title, author; the text of all pages."""
    want, sizes = arguments["want"], pictures.sizes_of(arguments)
    document = _open(file)
    count = len(document)
    if count < 1:
        raise ParserFailed("The document has no pages")
    number = int(arguments["page"])
    named = {key: plain_text.title(document.get_metadata_value(key.title())) for key in ("title", "author")}
    metadata = {"format": "PDF", "pages": count, **{key: value for key, value in named.items() if value}}
    values: dict[str, Any] = {"metadata": metadata}
    blobs: list[bytes] = []
    if sizes:
        if not 1 <= number <= count:
            raise Unsupported(f"The document has {count} pages")
        try:
            image = _draw(document, number, min(max(sizes), _MAX_PAGE))
        except ParserFailed as error:
            values["failed"] = {"picture": error.reason}
        else:
            # A page has no pixels of its own: every size can be made of it.
            values["pictures"], blobs = pictures.encode_all(image, sizes, arguments["format"], image.size)
            metadata |= {"placeholder": placeholder(image)} if number == 1 else {}
    if "text" in want or "document" in want:
        text, complete = _text(document, count)
        if "text" in want:
            values |= plain_text.search_values(text)
        if "document" in want:
            values["document"] = plain_text.document(plain_text.clean(text), complete=complete)
    return values, blobs


def _open(file: BinaryIO) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise Unsupported(PROTECTED) from None
        raise ParserFailed("The document is broken") from None


def _page(document: pypdfium2.PdfDocument, number: int) -> pypdfium2.PdfPage:
    """A page whose form fields, stamps and notes are part of its content, as a reader shows them. From 0."""
    page = document[number]
    found: set[int] = set()
    undrawn = False  # a note without an appearance of its own, which pdfium makes when it draws the page
    for at in reversed(range(count := pdfium.FPDFPage_GetAnnotCount(page))):
        if count > _MAX_ANNOTATIONS:
            return page
        annotation = pdfium.FPDFPage_GetAnnot(page, at)
        hidden = pdfium.FPDFAnnot_GetFlags(annotation) & pdfium.FPDF_ANNOT_FLAG_NOVIEW
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        undrawn |= not hidden and not pdfium.FPDFAnnot_HasKey(annotation, b"AP")
        pdfium.FPDFPage_CloseAnnot(annotation)
        if hidden:
            pdfium.FPDFPage_RemoveAnnot(page, at)
        elif kind not in (pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP):
            found.add(kind)
    if not found:
        return page
    if pdfium.FPDF_ANNOT_WIDGET in found:
        page.close()
        document.init_forms()
        page = document[number]  # this makes the appearance of fields that have none
    if undrawn and found != {pdfium.FPDF_ANNOT_WIDGET}:
        pixel = pypdfium2.PdfBitmap.new_native(1, 1, pdfium.FPDFBitmap_BGRx)
        pdfium.FPDF_RenderPageBitmap(pixel, page, 0, 0, 1, 1, 0, pdfium.FPDF_ANNOT)
    pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY)
    page.close()
    document.close_forms()
    return document[number]


def _draw(document: pypdfium2.PdfDocument, number: int, box: int) -> Image.Image:
    """The page on white, its longer side ``box`` pixels."""
    try:
        page = _page(document, number - 1)
        if not all(page.get_size()):  # what is to be shown lies outside of the page
            page.set_cropbox(*page.get_mediabox())
        width, height = page.get_size()
        if not (width > 0 and height > 0):
            raise ParserFailed("The page has no size")
        pixels = pictures.fit(width, height, box, enlarge=True)
        bitmap = pypdfium2.PdfBitmap.new_native(*pixels, pdfium.FPDFBitmap_BGRx)
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, *pixels)
        pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, *pixels, 0, pdfium.FPDF_ANNOT)
        image: Image.Image = bitmap.to_pil().convert("RGB")
        return image
    except pypdfium2.PdfiumError:
        raise ParserFailed("The page is broken") from None


def _text(document: pypdfium2.PdfDocument, count: int) -> tuple[str, bool]:
    """The text of the pages, up to what search keeps, and whether that is all."""
    until = time.process_time() + _TEXT_SECONDS
    pages: list[str] = []
    size = 0
    for number in range(min(count, _MAX_PAGES)):
        if size > plain_text.MAX_BYTES or time.process_time() > until:
            return "\n".join(pages), False
        try:
            page = _page(document, number)
            text = page.get_textpage()
            pages.append(text.get_text_range(0, min(text.count_chars(), plain_text.MAX_BYTES)))
            text.close()
            page.close()
        except (pypdfium2.PdfiumError, ValueError):
            continue  # one broken page
        size += len(pages[-1])
    return "\n".join(pages), count <= _MAX_PAGES
