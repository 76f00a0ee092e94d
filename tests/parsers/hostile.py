"""Files that attack memory, time or secrets, and the expected result of reading each.

Each is ``(name, MIME type, maker, outcome)``; outcome is "unsupported", "failed", "read", or "measured"
(read, but without a picture)."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from PIL import Image

from tests.parsers.samples import annotated_pdf, docx, encoded, encrypted_pdf, pdf, pdf_of, png_of, xlsx, zipped

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
LAUGHS = "<!DOCTYPE x [" + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha"}">' for n in range(10)) + "]>"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{0}" height="{0}">{1}</svg>'


def svg(content: str, size: int = 100) -> bytes:
    return SVG.format(size, content).encode()


def image_bomb() -> bytes:
    """A PNG of about 100 KB with 100 megapixels."""
    whole, data = png_of(10_000, 10_000), zlib.compress(bytes(10_001) * 10_000)
    start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return whole[:start] + idat + whole[end:]


def webp_bomb(side: int = 12_000) -> bytes:
    """A lossless WebP of 40 bytes that claims 144 megapixels."""
    size = (side - 1) | (side - 1) << 14
    return b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f" + struct.pack("<I", size) + bytes(15)


def many_scans(scans: int = 10_000) -> bytes:
    """A progressive JPEG of 60 megapixels and 200 KB, each of whose scans says that nothing changes."""
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    size, first = data.index(b"\xff\xc2") + 5, data.index(b"\xff\xda")
    tables = data[first : data.rindex(b"\xff\xda")]
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0\0"
    return data[:size] + struct.pack(">2H", 8_000, 7_500) + data[size + 4 : first] + tables + scan * scans + b"\xff\xd9"


def many_icons() -> bytes:
    """65,535 entries that all name the same bitmap, which claims 4,294 megapixels."""
    head = struct.pack("<I2i2H6I", 40, 65_535, 131_070, 1, 32, 0, 0, 0, 0, 0, 0)
    entry = struct.pack("<4B2H2I", 0, 0, 0, 0, 1, 32, 40, 6 + 16 * 65_535)
    return b"\0\0\1\0\xff\xff" + entry * 65_535 + head + bytes(1_000)


def many_texts() -> bytes:
    image = encoded(Image.new("RGB", (9, 9)), "PNG")
    bomb = zlib.compress(bytes(4_000_000))
    texts = [b"zTXt" + name + b"\0\0" + bomb for n in range(200) for name in (b"%d" % n, b"Raw profile type exif")]
    chunks = b"".join(struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in texts)
    return image[:33] + chunks + image[33:]


def looping_tiff() -> bytes:
    """A TIFF whose directory is its own successor."""
    tags = [
        (256, 4, 1, 10),
        (257, 4, 1, 10),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 100),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 8) + bytes(100)


def many_uses() -> bytes:
    """Each group draws the previous one ten times: 10⁹ rectangles."""
    groups = '<g id="g0"><rect width="1" height="1"/></g>'
    for n in range(1, 10):
        groups += f'<g id="g{n}">' + f'<use xlink:href="#g{n - 1}"/>' * 10 + "</g>"
    return svg(f"<defs>{groups}</defs><use xlink:href='#g9'/>")


def looping_pages() -> bytes:
    return pdf_of(
        [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 100000 >>"], "/Root 1 0 R"
    )


def recursive_form() -> bytes:
    return pdf_of(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 5 0 R"
            b" /Resources << /XObject << /X 4 0 R >> >> >>",
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 100 100] /Resources << /XObject << /X 4 0 R >> >> /Length 11 >>"
            b" stream\n/X Do      \nendstream",
            b"<< /Length 5 >> stream\n/X Do\nendstream",
        ],
        "/Root 1 0 R",
    )


def form_of(fields: int) -> bytes:
    """A page with fields that have no appearance."""
    field = "/Subtype /Widget /FT /Tx /V (value) /DA (/F 0 Tf 0 g) /T "
    return annotated_pdf(*(f"{field} (f{n})" for n in range(fields)), form="/NeedAppearances true")


def squeezed_pdf(megabytes: int = 200) -> bytes:
    """A page with a content stream of so many MB of spaces, compressed to some 100 KB."""
    squeezed = zlib.compressobj(9)
    data = b"".join(squeezed.compress(b" " * 1_000_000) for _ in range(megabytes)) + squeezed.flush()
    return pdf_of(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R >>",
            b"<< /Filter /FlateDecode /Length %d >> stream\n" % len(data) + data + b"\nendstream",
        ],
        "/Root 1 0 R",
    )


def overlapping(parts: bytes) -> bytes:
    """A ZIP whose directory entries all point at the first one's bytes."""
    data = bytearray(parts)
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        data[at + 42 : at + 46] = bytes(4)
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(data)


def lying_sizes(parts: bytes, size: int = 10) -> bytes:
    """A ZIP whose directory claims that its largest entries are small."""
    data = bytearray(parts)
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        if struct.unpack_from("<I", data, at + 24)[0] > 1_000_000:
            struct.pack_into("<I", data, at + 24, size)
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(data)


def relations(target: str, count: int = 1) -> str:
    relation = '<Relationship Type="/officeDocument" Id="r{}" Target="' + target + '"/>'
    return f"<Relationships>{''.join(relation.format(n) for n in range(count))}</Relationships>"


def repeated_slide() -> bytes:
    slides = "".join(f'<sldId r:id="r{n}"/>' for n in range(100_000))
    return zipped(
        {
            "ppt/presentation.xml": f'<presentation xmlns:r="r">{slides}</presentation>',
            "ppt/_rels/presentation.xml.rels": relations("a.xml", 100_000),
            "ppt/a.xml": f"<a><t>{'text ' * 1_000}</t></a>",
        }
    )


def many_entries(count: int = 20_000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for n in range(count):
            archive.writestr(zipfile.ZipInfo(f"{n}"), b"")
    return out.getvalue()


def lying_tar() -> bytes:
    entry = tarfile.TarInfo("huge")
    entry.size = 8 << 30
    return entry.tobuf() + bytes(10_240)


def endless_pax() -> bytes:
    """An extended header of 8 GiB."""
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, (8 << 30) - 1
    return entry.tobuf() + b"30 path=" + b"x" * 100_000


def gzip_bomb() -> bytes:
    """3 GiB of zeros."""
    return gzip.compress(bytes(16 << 20)) * 192


def broken_mp4() -> bytes:
    """An index that claims four thousand million samples in an empty file."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    stsz = box(b"stsz", bytes(4) + struct.pack(">II", 0, 0xFFFFFFFF))
    stts = box(b"stts", bytes(4) + struct.pack(">III", 0x0FFFFFFF, 1, 1))
    stbl = box(b"stbl", box(b"stsd", bytes(8)) + stts + stsz)
    mdhd = box(b"mdhd", bytes(12) + struct.pack(">II", 1, 0xFFFFFFF) + bytes(4))
    mdia = box(b"mdia", mdhd + box(b"hdlr", bytes(8) + b"vide" + bytes(13)) + box(b"minf", stbl))
    tkhd = box(b"tkhd", bytes(84))
    moov = box(b"moov", box(b"mvhd", bytes(100)) + box(b"trak", tkhd + mdia))
    return box(b"ftyp", b"isom\0\0\0\0isom") + moov


ENTITY = '<!DOCTYPE w [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
Maker = Callable[[], bytes]

FILES: list[tuple[str, str, Maker, str]] = [
    ("PNG of 100 megapixels", "image/png", image_bomb, "measured"),
    ("WebP of 144 megapixels in 40 bytes", "image/webp", webp_bomb, "measured"),
    ("GIF of 65535 x 65535", "image/gif", lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(50), "measured"),
    ("PNG of no size", "image/png", lambda: png_of(0, 0), "failed"),
    ("PNG of 6000 x 1", "image/png", lambda: encoded(Image.new("L", (6000, 1)), "PNG"), "read"),
    ("JPEG of 60 megapixels in 10,000 scans", "image/jpeg", many_scans, "measured"),
    ("icon of 65535 bitmaps of 65535 x 65535", "image/vnd.microsoft.icon", many_icons, "failed"),
    ("PNG with 400 texts of 4 MB each", "image/png", many_texts, "read"),
    ("EPS behind .png", "image/png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", "unsupported"),
    ("PSD behind .png", "image/png", lambda: b"8BPS\0\1" + bytes(5000), "unsupported"),
    ("TIFF whose directory loops", "image/tiff", looping_tiff, "read"),
    ("SVG of 20000 x 20000", "image/svg+xml", lambda: svg("<rect width='20000' height='20000'/>", 20_000), "read"),
    ("SVG of 10^30 units", "image/svg+xml", lambda: svg("").replace(b'"100"', b'"1e30"'), "failed"),
    ("SVG with entities", "image/svg+xml", lambda: LAUGHS.encode() + svg("<text>&a9;</text>"), "failed"),
    ("SVG nested 100,000 deep", "image/svg+xml", lambda: svg("<g>" * 100_000 + "</g>" * 100_000), "failed"),
    ("SVG that draws 10^9 rectangles", "image/svg+xml", many_uses, "measured"),
    ("PDF under a password", "application/pdf", encrypted_pdf, "unsupported"),
    ("PDF whose pages loop", "application/pdf", looping_pages, "measured"),
    ("PDF whose drawing draws itself", "application/pdf", recursive_form, "read"),
    ("PDF with a drawing of 200 MB", "application/pdf", squeezed_pdf, "read"),
    ("PDF nested 100,000 deep", "application/pdf", lambda: pdf(contents=[b"[" * 100_000 + b"q " * 100_000]), "read"),
    ("PDF page of 1 x 10^9 points", "application/pdf", lambda: pdf(box="0 0 1 1000000000"), "read"),
    ("PDF with 20,000 fields on a page", "application/pdf", lambda: form_of(20_000), "read"),
    (
        "PDF that runs script and opens a page",
        "application/pdf",
        lambda: pdf(catalog="/OpenAction << /S /JavaScript /JS (while(1){}) >>"),
        "read",
    ),
    ("docx whose entries overlap", DOCX, lambda: overlapping(docx()), "failed"),
    ("docx of 60 MB in 60 KB", DOCX, lambda: docx("<w:p>" + " " * 60_000_000 + "</w:p>"), "failed"),
    ("docx that lies about sizes", DOCX, lambda: lying_sizes(docx("<w:p>" + " " * 9_000_000 + "</w:p>")), "failed"),
    (
        "docx with an external entity",
        DOCX,
        lambda: docx(**{"word/document.xml": f"{ENTITY}<w><t>&e;</t></w>"}),
        "failed",
    ),
    (
        "docx with a thousand million laughs",
        DOCX,
        lambda: docx(**{"word/document.xml": f"{LAUGHS}<w><t>&a9;</t></w>"}),
        "failed",
    ),
    ("docx nested 100,000 deep", DOCX, lambda: docx("<w:p>" * 100_000 + "</w:p>" * 100_000), "failed"),
    ("docx of 20,000 parts", DOCX, lambda: docx(**{f"x/{n}": "" for n in range(20_000)}), "failed"),
    ("docx of 100,000 relations", DOCX, lambda: docx(**{"_rels/.rels": relations("x", 100_000)}), "read"),
    ("docx whose relations are its main part", DOCX, lambda: docx(**{"_rels/.rels": relations("_rels/.rels")}), "read"),
    ("pptx that shows a slide 100,000 times", PPTX, repeated_slide, "read"),
    (
        "xlsx with strings and columns that are not there",
        XLSX,
        lambda: xlsx('<w><row><c r="ZZZZ1" t="s"><v>99999999999</v></c><c r="1"><v>1</v></c></row></w>'),
        "read",
    ),
    (
        "ZIP whose entries overlap",
        "application/zip",
        lambda: overlapping(zipped({"a": b"x" * 99, "b": b"y"})),
        "failed",
    ),
    ("ZIP of 20,000 entries", "application/zip", many_entries, "read"),
    (
        "ZIP in a ZIP, 42 times",
        "application/zip",
        lambda: zipped({f"{n}.zip": zipped({"x": bytes(99_999)}) for n in range(42)}),
        "read",
    ),
    ("tar with an entry of 8 GiB in 10 KB", "application/x-tar", lying_tar, "read"),
    ("tar with a header of 8 GiB", "application/x-tar", endless_pax, "read"),
    ("CSV with a line of 100 MB", "text/csv", lambda: b"a,b," * 25_000_000, "read"),
    ("CSV of quotes", "text/csv", lambda: b'"' * 65_537, "read"),
    ("JSON nested 100,000 deep", "application/json", lambda: b"[" * 100_000 + b"]" * 100_000, "read"),
    ("Python of 64 KiB of quotes", "text/x-python", lambda: b"'\\" * 32_768, "read"),
    ("Perl that looks like a thousand expressions", "text/x-perl", lambda: b"m{" * 32_768, "read"),
    ("HTML of 64 KiB of <", "text/html", lambda: b"<!--<a " * 9_000, "read"),
    ("Markdown of brackets", "text/markdown", lambda: b"[" * 65_000, "read"),
    ("Markdown of quotes in quotes", "text/markdown", lambda: b">" * 65_000, "read"),
    ("Markdown of stars", "text/markdown", lambda: b"*a **b " * 9_000, "read"),
    ("bytes that are no text", "text/plain", lambda: bytes(range(256)) * 100, "unsupported"),
    ("MP4 with four thousand million samples", "video/mp4", broken_mp4, "failed"),
    ("headers of MP3 without sound", "audio/mpeg", lambda: b"\xff\xf3\xe0\0" * 500_000, "failed"),
    ("zeros behind .mp3", "audio/mpeg", lambda: bytes(9_000_000), "failed"),
    ("playlist behind .mp4", "video/mp4", lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "failed"),
]
