"""Small sample files of every type that parsers read, with recognisable content in each corner or part."""

from __future__ import annotations

import io
import math
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

RED, GREEN, BLUE, WHITE = (220, 30, 30), (20, 160, 40), (30, 40, 200), (250, 250, 250)
GERMAN = "Über den Wolken muss die Freiheit wohl grenzenlos sein, und alle Ängste bleiben darunter verborgen."


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def corners(width: int = 400, height: int = 300) -> Image.Image:
    """Red at the top left, green at the top right, blue at the bottom left, white at the bottom right."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize((width, height), Image.Resampling.NEAREST)


def png_of(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A grey PNG that claims this size but need not contain its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


# PDF ----------------------------------------------------------------------------------------------------------------


def pdf(
    pages: Iterable[str] = ("Hello page one", "Second page"),
    *,
    box: str = "0 0 300 400",
    rotate: int = 0,
    info: str = "/Title (A title) /Author (An Author)",
    trailer: str = "",
    catalog: str = "",
    contents: Iterable[bytes] | None = None,
) -> bytes:
    """A PDF whose pages have a line of text each, or the given content streams; the top left corner is red."""
    drawn = [
        f"1 0 0 rg 0 {float(box.split()[3]) - 60} 60 60 re f 0 g BT /F1 24 Tf 40 100 Td ({text}) Tj ET".encode()
        for text in pages
    ]
    streams = list(contents) if contents is not None else drawn
    kids = " ".join(f"{5 + 2 * at} 0 R" for at in range(len(streams)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< {info} >>".encode(),
    ]
    for at, stream in enumerate(streams):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Rotate {rotate} /Contents {6 + 2 * at} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >> stream\n" % len(stream) + stream + b"\nendstream")
    return pdf_of(objects, f"/Root 1 0 R /Info 4 0 R {trailer}")


def pdf_of(objects: list[bytes], trailer: str) -> bytes:
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(
        out + f"trailer << /Size {len(objects) + 1} {trailer} >>\nstartxref\n".encode() + b"%d\n%%%%EOF\n" % start
    )


def annotated_pdf(*annotations: str, form: str = "", box: str = "0 0 400 400") -> bytes:
    """A page with the text "Name:" and these annotations, whose appearance can be object 6: a black box and "Miller".

    ``form``: entries of the document's form, whose fields are all annotations."""
    fonts = "/Resources << /Font << /F 5 0 R /ZaDb 7 0 R >> >>"
    looks, text = b"0 0 0 rg 0 0 40 40 re f BT /F 12 Tf 50 8 Td (Miller) Tj ET", b"BT /F 12 Tf 20 370 Td (Name:) Tj ET"
    kids = " ".join(f"{8 + at} 0 R" for at in range(len(annotations)))
    fields = f"/AcroForm << /Fields [{kids}] /DA (/F 0 Tf 0 g) /DR << /Font << /F 5 0 R >> >> {form} >>" if form else ""
    return pdf_of(
        [
            f"<< /Type /Catalog /Pages 2 0 R {fields} >>".encode(),
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 4 0 R /Annots [{kids}] {fonts} >>".encode(),
            b"<< /Length %d >> stream\n" % len(text) + text + b"\nendstream",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold >>",
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 360 50] {fonts} /Length {len(looks)} >> stream\n".encode()
            + looks
            + b"\nendstream",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /ZapfDingbats >>",
            *(f"<< /Type /Annot /Rect [20 100 380 150] /F 4 {one} >>".encode() for one in annotations),
        ],
        "/Root 1 0 R",
    )


def encrypted_pdf() -> bytes:
    """A PDF that needs a password."""
    encrypt = "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (" + "o" * 32 + ") /U (" + "u" * 32 + ") >>"
    return pdf(trailer=f"{encrypt} /ID [(0123456789abcdef) (0123456789abcdef)]")


# Office -------------------------------------------------------------------------------------------------------------


def zipped(parts: Mapping[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 11, 25, 18, 30, 0)), data, method)
    return out.getvalue()


def raw_zip(names: Iterable[bytes], *, flags: int = 0, extra: bytes = b"", data: bytes = b"text") -> bytes:
    """A ZIP whose entries have these names as they are, and this extra field."""
    out, directory = bytearray(), bytearray()
    for name in names:
        lengths = struct.pack("<3L2H", zlib.crc32(data), len(data), len(data), len(name), len(extra))
        head = struct.pack("<5H", 20, flags, 0, 0x93C0, 0x5D79) + lengths
        directory += b"PK\1\2\x14\0" + head + struct.pack("<3H2L", 0, 0, 0, 0, len(out)) + name + extra
        out += b"PK\3\4" + head + name + extra + data
    count = directory.count(b"PK\1\2") & 0xFFFF
    return bytes(out) + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(out), 0)


class Stream(io.BytesIO):
    """A file that can't seek: zipfile writes sizes after the data."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError


def protected(data: bytes) -> bytes:
    """The ZIP with all entries marked as encrypted."""
    out = bytearray(data)
    at = out.find(b"PK\1\2")
    while at >= 0:
        out[at + 8] |= 1
        at = out.find(b"PK\1\2", at + 4)
    return bytes(out)


_CORE = (
    '<cp:coreProperties xmlns:cp="c" xmlns:dc="d"><dc:title>The title</dc:title><dc:creator>The author</dc:creator>'
    "</cp:coreProperties>"
)


def related(kinds: Mapping[str, str], schema: str = "http://schemas.openxmlformats.org/officeDocument/2006") -> str:
    """The relations of a part: targets of each kind."""
    found = "".join(
        f'<Relationship Id="r{at}" Type="{schema}/relationships/{kind.rstrip("123")}" Target="{target}"/>'
        for at, (kind, target) in enumerate(kinds.items(), 1)
    )
    return f'<?xml version="1.0"?><Relationships xmlns="http://e.org/r">{found}</Relationships>'


def docx(body: str | None = None, **parts: bytes | str) -> bytes:
    if body is None:
        body = (
            f"<w:p><w:r><w:t>{GERMAN}</w:t></w:r></w:p><w:p><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t></w:r></w:p>"
            "<w:p><w:del><w:r><w:delText>taken out</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText>"
            "</w:r></w:p>"
        )
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f'<w:document xmlns:w="w"><w:body>{body}</w:body></w:document>',
            "word/footnotes.xml": '<w:footnotes xmlns:w="w"><w:p><w:t>a footnote</w:t></w:p></w:footnotes>',
            "docProps/core.xml": _CORE,
            "docProps/app.xml": "<Properties><Pages>3</Pages></Properties>",
            **parts,
        }
    )


def xlsx(sheet: str | None = None) -> bytes:
    """Two sheets with text, numbers, a boolean, a date and a gap."""
    rows = (
        '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c><c r="D1" t="inlineStr"><is><t>inline</t>'
        '</is></c></row><row r="2"><c r="A2"><v>12.50</v></c><c r="B2" s="1"><v>46351</v></c><c r="C2" t="b"><v>1</v>'
        '</c><c r="D2" s="2"><v>46351.75</v></c></row>'
    )
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "xl/workbook.xml": '<workbook><sheets><sheet name="First"/><sheet name="Second"/></sheets></workbook>',
            "xl/sharedStrings.xml": "<sst><si><t>Amount</t></si><si><r><t>Due </t></r><r><t>date</t></r>"
            "<rPh><t>kana</t></rPh></si><si><t>elsewhere</t></si></sst>",
            "xl/styles.xml": '<styleSheet><numFmts><numFmt numFmtId="164" formatCode="yyyy-mm-dd hh:mm"/></numFmts>'
            '<cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/>'
            '<xf numFmtId="164"/></cellXfs></styleSheet>',
            "xl/worksheets/sheet1.xml": sheet or f"<worksheet><sheetData>{rows}</sheetData></worksheet>",
            "xl/worksheets/sheet2.xml": '<worksheet><row><c t="s"><v>2</v></c></row></worksheet>',
            "docProps/core.xml": _CORE,
        }
    )


def pptx() -> bytes:
    slides = {
        f"ppt/slides/slide{n}.xml": f'<p:sld xmlns:p="p" xmlns:a="a"><a:p><a:r><a:t>Slide number {n}</a:t></a:r></a:p>'
        "</p:sld>"
        for n in (10, 2, 1)
    }
    return zipped(
        {
            "ppt/presentation.xml": '<p:presentation xmlns:p="p"/>',
            **slides,
            "docProps/core.xml": _CORE,
            "docProps/app.xml": "<Properties><Slides>3</Slides></Properties>",
        }
    )


def odf(kind: str = "text", content: str | None = None) -> bytes:
    if content is None:
        content = {
            "text": f'<text:h>Heading</text:h><text:p>{GERMAN}</text:p><text:p>one<text:tab/>two<text:s text:c="2"/>'
            "three</text:p>",
            "spreadsheet": '<table:table table:name="Costs"><table:table-row><table:table-cell><o:annotation xmlns:o="o">'
            "<text:p>a note</text:p></o:annotation><text:p>Amount</text:p></table:table-cell>"
            '<table:table-cell table:number-columns-repeated="2"/><table:table-cell><text:p>Due</text:p>'
            "</table:table-cell></table:table-row></table:table>",
            "presentation": "<draw:page><text:p>First slide</text:p></draw:page>",
        }[kind]
    return zipped(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": '<office:document-content xmlns:office="o" xmlns:text="t" xmlns:table="b" xmlns:draw="d">'
            f"<office:body>{content}</office:body></office:document-content>",
            "meta.xml": '<m:m xmlns:m="m" xmlns:dc="d" xmlns:meta="e"><dc:title>The title</dc:title>'
            '<dc:creator>The author</dc:creator><meta:document-statistic meta:page-count="7"/></m:m>',
        }
    )


def epub() -> bytes:
    chapter = (
        "<!DOCTYPE html><html><head><title>no</title></head><body><h1>{0}</h1><p>It was&nbsp;dark.</p></body></html>"
    )
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<c><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></c>',
            "OEBPS/book.opf": '<package xmlns:dc="d"><metadata><dc:title>A book</dc:title><dc:creator>A writer</dc:creator>'
            '</metadata><manifest><item id="b" href="two.xhtml"/><item id="a" href="text/one.xhtml"/>'
            '<item id="x" href="../../etc/passwd"/></manifest><spine><itemref idref="a"/><itemref idref="b"/>'
            '<itemref idref="x"/></spine></package>',
            "OEBPS/text/one.xhtml": chapter.format("Chapter one"),
            "OEBPS/two.xhtml": chapter.format("Chapter two"),
        }
    )


# Archives -----------------------------------------------------------------------------------------------------------


def tarred(parts: Mapping[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("folder")
        folder.type, folder.mtime = tarfile.DIRTYPE, 1_764_000_000
        archive.addfile(folder)
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_764_000_000
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


# Video and audio: only with the [media] packages ----------------------------------------------------------------


@cache
def video(
    format: str = "mp4",
    codec: str = "mpeg4",
    *,
    width: int = 320,
    height: int = 240,
    seconds: float = 2,
    turned: int = 0,
    movflags: str = "",
) -> bytes:
    """A short black start, then red with green at the top left; ``turned`` clockwise, in degrees."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=format, options={"movflags": movflags} if movflags else {}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for at in range(int(25 * seconds)):
            image = Image.new("RGB", (width, height), RED if at > 3 else "black")
            if at > 3:
                ImageDraw.Draw(image).rectangle((0, 0, width // 2, height // 2), fill=GREEN)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    data = out.getvalue()
    if turned:  # the matrix in the track's header: ISO/IEC 14496-12, 8.3.2
        upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        cos, sin = (round(f(math.radians(turned))) << 16 for f in (math.cos, math.sin))
        at = data.index(upright, data.index(b"tkhd"))
        data = data[:at] + struct.pack(">9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30) + data[at + 36 :]
    return data


@cache
def audio(
    format: str = "mp3", codec: str = "mp3", *, seconds: float = 3, rate: int = 44_100, cover: bytes = b""
) -> bytes:
    """A tone: silent in its first half, loud in its second."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        container.metadata.update({"title": "A tone", "artist": "Sine", "album": "Waves"})
        position, block = 0, 1_024
        while position < rate * seconds:
            loud = 20_000 if position > rate * seconds / 2 else 0
            mono = [int(loud * math.sin((position + at) / 20)) for at in range(block)]
            frame = av.AudioFrame(format="s16", layout="stereo", samples=block)
            frame.planes[0].update(array("h", [value for value in mono for _ in (0, 1)]).tobytes())
            frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
            container.mux(stream.encode(frame))
            position += block
        container.mux(stream.encode())
    data = out.getvalue()
    return _with_cover(data, cover) if cover else data


def _with_cover(mp3: bytes, jpeg: bytes) -> bytes:
    """Replace the tag by an ID3v2.3 tag with a front cover (id3.org/id3v2.3.0, 4.15)."""
    picture = b"\0image/jpeg\0\x03\0" + jpeg
    title = b"\0With a cover"
    frames = b"".join(
        name + struct.pack(">IH", len(body), 0) + body for name, body in ((b"TIT2", title), (b"APIC", picture))
    )
    size = bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0))
    old = 10 + sum(byte << shift for byte, shift in zip(mp3[6:10], (21, 14, 7, 0), strict=True))
    return b"ID3\x03\0\0" + size + frames + mp3[old if mp3.startswith(b"ID3") else 0 :]
