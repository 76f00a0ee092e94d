"""Small files of every type in core/content_types.py, and docs/types.md."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

from core.content_types import FORMS, TYPES_BY_EXTENSION, file_type
from tests.parsers.samples import corners, encoded
from tests.parsers.samples import zipped as zip_of

BINARY = bytes(range(7, 256)) * 2  # nothing is recognised in it
TEXT = b"Name;Amount\r\nM\xc3\xbcller;12\r\n"
HTML = b"<!DOCTYPE html><html><body>Hello</body></html>"


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    return box(b"ftyp", major + bytes(4) + b"".join(compatible)) + box(b"mdat", BINARY)


def zipped(*entries: tuple[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zip_of(dict(entries), method)


def ole(*streams: str, root: bytes = bytes(16)) -> bytes:
    """An OLE file's header and directory (MS-CFB §2.2, §2.6)."""

    def entry(name: str, kind: int, clsid: bytes = bytes(16)) -> bytes:
        encoded = name.encode("utf-16-le")
        return struct.pack("<64sHBB12x16s32x", encoded, len(encoded) + 2, kind, 1, clsid)

    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6)
    return head.ljust(512, b"\0") + entry("Root Entry", 5, root) + b"".join(entry(name, 2) for name in streams)


def open_xml(main: str) -> bytes:
    """An Office Open XML package whose main part has this type, without ``application/`` and ``.main+xml``."""
    part = f'<Types><Override PartName="/x.xml" ContentType="application/{main}.main+xml"/></Types>'
    return zipped(("[Content_Types].xml", part), ("_rels/.rels", "<Relationships/>"))


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


def _matroska(document: bytes) -> bytes:
    head = (
        b"\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81\4\x42\xf3\x81\x08\x42\x82" + bytes([128 + len(document)]) + document
    )
    return b"\x1a\x45\xdf\xa3" + bytes([128 + len(head)]) + head + BINARY


def _ogg(stream: bytes) -> bytes:
    return b"OggS\0\2" + bytes(20) + bytes([1, len(stream)]) + stream + BINARY


def transport_stream(packets: int = 6, *, stamp: bytes = b"") -> bytes:
    return (stamp + b"\x47\x40\0\x10" + bytes(184)) * packets


# Files whose type is certain.
SIGNED: dict[str, bytes] = {
    "image/jpeg": encoded(corners(8, 8), "JPEG"),
    "image/png": encoded(corners(8, 8), "PNG"),
    "image/gif": encoded(corners(8, 8), "GIF"),
    "image/webp": encoded(corners(8, 8), "WEBP"),
    "image/avif": ftyp(b"avif", b"mif1", b"miaf"),
    "image/heic": ftyp(b"heic", b"mif1"),
    "image/heif": ftyp(b"mif1", b"miaf"),
    "image/jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + BINARY,
    "image/tiff": encoded(corners(8, 8), "TIFF"),
    "image/bmp": encoded(corners(8, 8), "BMP"),
    "image/svg+xml": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "image/vnd.microsoft.icon": encoded(corners(16, 16), "ICO"),
    "image/jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + BINARY,
    "image/vnd.adobe.photoshop": b"8BPS\0\1" + struct.pack(">6xHIIHH", 3, 16, 16, 8, 3) + BINARY,
    "image/x-canon-cr2": b"II*\0\x10\0\0\0CR\2\0" + BINARY,
    "image/x-canon-cr3": ftyp(b"crx ", b"crx ", b"isom"),
    "image/x-portable-pixmap": b"P6\n8 8\n255\n" + BINARY,
    "image/x-portable-graymap": b"P5 8 8 255\n" + BINARY,
    "image/x-portable-bitmap": b"P4 8 8\n" + BINARY,
    "image/x-xcf": b"gimp xcf v011\0" + BINARY,
    "image/vnd.djvu": b"AT&TFORM\0\0\1\0DJVUINFO" + BINARY,
    "image/vnd.dwg": b"AC1027\0\0\0\0\0\0" + BINARY,
    "image/vnd.dxf": b"AutoCAD Binary DXF\r\n\x1a\0" + BINARY,
    "image/qoi": b"qoif\0\0\0\x08\0\0\0\x08\3\0" + BINARY,
    "video/mp4": ftyp(b"isom", b"iso2", b"mp41"),
    "video/x-m4v": ftyp(b"M4V ", b"mp42"),
    "video/quicktime": ftyp(b"qt  "),
    "video/3gpp": ftyp(b"3gp4", b"isom"),
    "video/3gpp2": ftyp(b"3g2a"),
    "video/webm": _matroska(b"webm"),
    "video/x-matroska": _matroska(b"matroska"),
    "video/ogg": _ogg(b"\x80theora" + bytes(35)),
    "video/mpeg": b"\0\0\1\xba\x44\0\4\0\4\1" + BINARY,
    "video/mp2t": transport_stream(),
    "video/x-msvideo": b"RIFF\x40\0\0\0AVI LIST" + BINARY,
    "video/x-ms-asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + BINARY,
    "video/x-flv": b"FLV\1\5\0\0\0\x09\0\0\0\0" + BINARY,
    "audio/mpeg": b"ID3\3\0\0\0\0\0\0\xff\xfb\x90\0" + BINARY,
    "audio/mp4": ftyp(b"M4A ", b"mp42"),
    "audio/ogg": _ogg(b"OpusHead\1" + bytes(10)),
    "audio/flac": b"fLaC\0\0\0\x22" + BINARY,
    "audio/wav": b"RIFF\x40\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + BINARY,
    "audio/aiff": b"FORM\0\0\0\x40AIFFCOMM" + BINARY,
    "audio/midi": b"MThd\0\0\0\6\0\1\0\1\0\x60MTrk" + BINARY,
    "audio/amr": b"#!AMR\n\x3c" + BINARY,
    "audio/basic": b".snd\0\0\0\x18\0\0\0\0\0\0\0\1\0\0\x1f\x40\0\0\0\1" + BINARY,
    "application/pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "application/rtf": b" \r\n{\\rtf1\\ansi hello}",
    "application/postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "application/x-mobipocket-ebook": b"Book".ljust(60, b"\0") + b"BOOKMOBI" + BINARY,
    "application/onenote": bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3") + BINARY,
    "application/x-msi": ole(root=bytes.fromhex("84100c0000000000c000000000000046")),
    "application/zip": zipped(("a.txt", "x")),
    "application/epub+zip": zipped(("META-INF/container.xml", "<container/>"), ("mimetype", "application/epub+zip")),
    "application/x-tar": _tar(),
    "application/gzip": gzip.compress(TEXT),
    "application/x-bzip2": bz2.compress(TEXT),
    "application/x-xz": lzma.compress(TEXT),
    "application/zstd": b"\x28\xb5\x2f\xfd\x24\1\x09\0\0x" + bytes(4),
    "application/x-lzip": b"LZIP\1\x0c" + BINARY,
    "application/x-lz4": b'\4"M\x18\x64\x40\xa7' + BINARY,
    "application/x-7z-compressed": b"7z\xbc\xaf\x27\x1c\0\4" + BINARY,
    "application/vnd.rar": b"Rar!\x1a\7\1\0" + BINARY,
    "application/x-compress": b"\x1f\x9d\x90" + BINARY,
    "application/vnd.ms-cab-compressed": b"MSCF\0\0\0\0\x64" + BINARY,
    "application/x-cpio": b"070701" + b"0" * 104,
    "application/x-archive": b"!<arch>\na.o/            0           0     0     644     4         `\nabcd" + BINARY,
    "application/vnd.debian.binary-package": b"!<arch>\ndebian-binary   1410122664  0     0     100644  4         `\n2.0\n",
    "application/x-rpm": b"\xed\xab\xee\xdb\3\0\0\0\0\1" + BINARY,
    "application/vnd.microsoft.portable-executable": b"MZ\x90\0\3\0\0\0" + BINARY,
    "application/x-executable": b"\x7fELF\2\1\1\0" + BINARY,
    "application/x-mach-binary": b"\xcf\xfa\xed\xfe\7\0\0\1" + BINARY,
    "application/x-java-applet": b"\xca\xfe\xba\xbe\0\0\0\x3d" + BINARY,
    "application/wasm": b"\0asm\1\0\0\0" + BINARY,
    "application/x-ms-shortcut": b"L\0\0\0\1\x14\2\0\0\0\0\0\xc0\0\0\0\0\0\0\x46" + BINARY,
    "application/x-sqlite3": b"SQLite format 3\0\x10\0\1\1\0\x40\x20\x20" + BINARY,
    "application/vnd.apache.arrow.file": b"ARROW1\0\0" + BINARY,
    "application/x-shockwave-flash": b"CWS\x09\x40\0\0\0x\x9c" + BINARY,
    "application/x-bittorrent": b"d8:announce18:http://example.org4:infod6:lengthi1eee",
    "application/x-hdf5": b"\x89HDF\r\n\x1a\n" + BINARY,
    "model/gltf-binary": b"glTF\2\0\0\0" + BINARY,
    "font/ttf": b"\0\1\0\0\0\x0a\0\x80\0\3\0\x20OS/2" + BINARY,
    "font/woff": b"wOFF\0\1\0\0" + BINARY,
    "font/woff2": b"wOF2\0\1\0\0" + BINARY,
    "font/collection": b"ttcf\0\1\0\0\0\0\0\1" + BINARY,
}

# Files of each form of the table.
OF_FORM: dict[str, bytes] = {
    "text": TEXT,
    "any": BINARY,
    "zip": zipped(("a.txt", "x")),
    "ole": ole("Contents"),
    "encrypted": ole("EncryptionInfo", "EncryptedPackage"),
    "ftyp": ftyp(b"XAVC", b"mp42", b"iso2"),
    "png": SIGNED["image/png"],
    "heif": SIGNED["image/heic"],
    "tiff": SIGNED["image/tiff"],
    "matroska": SIGNED["video/webm"],
    "ogg": _ogg(b"Speex   "),
    "asf": SIGNED["video/x-ms-asf"],
    "id3": b"ID3\4\0\0\0\0\x7f\x7f" + BINARY,  # a tag that is longer than the file
    "elf": SIGNED["application/x-executable"],
    "hdf5": SIGNED["application/x-hdf5"],
    "sfnt": SIGNED["font/ttf"],
}


def samples(mime: str) -> list[bytes]:
    """Files that are of this type if they are named so: one for each of its forms."""
    signed = [SIGNED[mime]] if mime in SIGNED else []
    return signed + [OF_FORM[form] for form in sorted(FORMS[mime]) if form != "signature"]


_LEADS = {
    "signature": "its signature",
    "text": "any text",
    "any": "bytes that nothing recognises",
    "zip": "any ZIP",
    "ole": "any OLE file",
    "encrypted": "an OLE file that is encrypted, or of which no type is seen",
    "ftyp": "any `ftyp` that is no picture's",
    "png": "any PNG",
    "heif": "any HEIC or HEIF",
    "tiff": "any TIFF",
    "matroska": "any Matroska or WebM",
    "ogg": "any Ogg",
    "asf": "any ASF",
    "id3": "an ID3 tag",
    "elf": "any ELF",
    "hdf5": "any HDF5",
    "sfnt": "any TrueType outlines",
}


def document() -> str:
    """docs/types.md."""
    head = ("type", "family", "extensions", "what leads to it, under such a name")
    rows = [
        (
            f"`{mime}`",
            file_type(mime),
            " ".join(extension for extension, types in TYPES_BY_EXTENSION.items() if mime in types),
            ", ".join(_LEADS[form] for form in _LEADS if form in forms),
        )
        for mime, forms in FORMS.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([_TITLE, *lines, ""])


_TITLE = """\
# Types of files

Written by `.venv/bin/python -m tests.file_types > docs/types.md` from the table in `core/content_types.py`.
`tests/core/test_content_types.py` leads a file to each of these types, and fails if this page is not up to date.

Bytes veto, names decide. `services/library/sniff.py` looks at the first 64 KiB:

1. Markup that a browser runs, scripts and programs behind the name of a picture, film, sound or document are refused
   (`type_mismatch`). HTML behind the name of an office document is stored as HTML, only ever an attachment. Markup and scripts
   behind the name of a text are that text.
2. Otherwise the extension's type holds, if something in its row's last column is true. An extension with several types
   (`ts`, `key`, `ai`, `doc`, `svgz`) has the first for which that is so.
3. If the bytes are certainly of another type, that one is stored: a JPEG named `.heic` is `image/jpeg`. Else they are
   `application/octet-stream`; but text is `text/plain` if its name is not that of a picture, film, sound, archive or document, or
   is `doc`, `xls` or another of old Office, which programs give to texts.
4. Without an extension, or with one that tells nothing (`bin`, `dat`, and all that are not in the table), the bytes decide. What
   only looks like source code is `text/plain`.

An allow-list accepts a listed extension with each of its types, or with everything but programs if the extension tells nothing.
A rename that changes the extension, and a copy under another one, are judged like uploads.
"""

if __name__ == "__main__":
    print(document(), end="")
