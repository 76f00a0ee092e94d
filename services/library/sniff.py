"""Tells what bytes are, whatever the file's name (T8).

libmagic reads the first 64 KiB through python-magic: the system's library, or else the one in the pylibmagic wheel. This module
adds what its versions miss, guess, or call differently: text, also such that a browser or a shell would run, programs, and what
is in containers. core/content_types.py weighs what is found against the name. A signature says nothing about safety (``GIF89a``
and a script is a GIF).
"""

from __future__ import annotations

import io
import os
import re
import threading
import zlib
from itertools import islice
from typing import Any, BinaryIO

from core import charsets
from core.content_types import ACTIVE, EMPTY, OCTET_STREAM, Found, canonical, forms
from parsers import zip_directory

HEAD_BYTES = 64 * 1024  # first bytes of a file, by which types and charsets are detected

_NO_CONTAINERS = frozenset({"signature", "text", "any", "encrypted", "id3"})  # among the forms of types
# Texts that libmagic recognises well enough for names without an extension.
_KNOWN_TEXTS = frozenset({"application/json", "application/x-ndjson", "application/pgp-encrypted", "message/rfc822"})
_KNOWN_TEXTS |= {"text/calendar", "text/csv", "text/vcard", "text/xml"}
# How mails begin that libmagic does not know, and pages and workbooks that Office saves as one file.
_MAIL = re.compile(rb"MIME-Version: ?1\.0|Message-ID: ?<|DKIM-Signature: |X-Mozilla-Status: ", re.IGNORECASE)
_PDF = "application/pdf"
_ZIP = "application/zip"
_SVG_TYPE = "image/svg+xml"

_lock = threading.Lock()
_magic: Any = None


def detect(head: bytes | bytearray | memoryview) -> Found:
    """What a file is that begins with ``head``, of which 64 KiB are read. Never raises."""
    data = bytes(head[:HEAD_BYTES])
    if not data:
        return Found(EMPTY)
    is_text = _is_text(data)
    if active := _active_text(data, is_text):
        return Found(active, certain=True, forms=frozenset({"text"} if is_text else ()))
    if signed := _by_signature(data, is_text):
        return signed
    return _by_libmagic(data, is_text)


def _is_text(data: bytes) -> bool:
    start = data.lstrip(b"\0")[:1024]  # which suffices for most files that are no text
    return start != b"" and charsets.is_text(start, cut=True) and charsets.is_text(data, cut=len(data) == HEAD_BYTES)


def _containers(mime: str) -> frozenset[str]:
    return forms(mime) - _NO_CONTAINERS


def _certain(mime: str) -> Found:
    """Certainly this type, or another of the same container if it is named so."""
    return Found(mime, certain=True, forms=_containers(mime))


def _by_libmagic(data: bytes, is_text: bool) -> Found:
    has_blanks = is_text and b" " * 32 in data.translate(_SPACES)  # quicker than the pattern
    mime = canonical(_ask_libmagic(_BLANKS.sub(b"\n", data) if has_blanks else data))
    also = {mime for pattern, mime in _HINTS if pattern.match(data)}
    certain = bool(forms(mime)) and not forms(mime) & {"text", "any"} and mime not in ACTIVE
    # Even pixels and packed data can look like UTF-16 without a mark.
    in_doubt = is_text and b"\0" in data.strip(b"\0") and not charsets.mark(data)
    if is_text and not (certain and in_doubt):
        mime = "message/rfc822" if _MAIL.match(data) else mime if mime in _KNOWN_TEXTS else "text/plain"
        return Found(mime, forms=frozenset({"text", *also, *(["any"] if in_doubt else [])}))
    if certain:
        return _certain(mime)
    if _TRANSPORT_STREAM.match(data):
        return _certain("video/mp2t")
    guess = OCTET_STREAM if mime in ACTIVE or mime.startswith("text/") else mime
    return Found(guess, forms=_containers(guess) | {"any", *also})


# Markup and scripts -------------------------------------------------------------------------------------------

# Looked for after a byte order mark, white space, comments and processing instructions. The tags are those of the MIME Sniffing
# standard (§7.1), which browsers follow, and a few that can't begin anything else.
_HTML = re.compile(
    rb"<(?:!doctype\s+html|(?:html|head|body|script|iframe|style|title|h1|div|font|table|meta|link|img|form|object"
    rb"|embed|base|a|b|br|p)(?=[\s>/]))",
    re.IGNORECASE,
)
_XHTML = re.compile(rb"<(?:[a-z][\w.-]{0,30}:)?html[\s>]", re.IGNORECASE)
_SVG = re.compile(rb"<(?:[a-z][\w.-]{0,30}:)?svg(?=[\s>/])|<!doctype\s+svg", re.IGNORECASE)
_PHP = re.compile(rb"<\?(?:php\b|=|\s)", re.IGNORECASE)  # no XML has a space there
_SPACE = re.compile(rb"[\s\x00]*")
_SUBSET = rb"""\[(?>[^]"'<]+|"[^"]*"|'[^']*'|<!--.*?-->|<(?!!--))*+\]\s*"""  # of a DOCTYPE, perhaps with ">" in it
_SKIPPED = re.compile(
    rb"(?:<!--.*?-->|<\?(?!php\b)[a-z].*?\?>|<!doctype\s+(?!html\b|svg\b)[a-z][^[>]*(?:%b)?>)[\s\x00]*" % _SUBSET,
    re.IGNORECASE | re.DOTALL,
)
_SHEBANG = re.compile(rb"#!\s*(\S*/)?(?:env\s+(?:-\S+\s+)*)?([A-Za-z.+_-]*)")
_INTERPRETERS = {
    b"python": "text/x-python",
    b"perl": "text/x-perl",
    b"ruby": "text/x-ruby",
    b"php": "text/x-php",
    b"node": "text/javascript",
    b"deno": "text/javascript",
    b"bun": "text/javascript",
    b"lua": "text/x-lua",
    b"tclsh": "text/x-tcl",
    b"wish": "text/x-tcl",
    b"awk": "text/x-awk",
    b"gawk": "text/x-awk",
    b"pwsh": "text/x-powershell",
}


def _active_text(data: bytes, is_text: bool) -> str | None:
    data = _as_ascii(data, is_text)
    position = _SPACE.match(data).end()  # type: ignore[union-attr] # it also matches no bytes
    if shebang := _SHEBANG.match(data, position):
        path, name = shebang.groups()
        if path or name in _INTERPRETERS:
            return _INTERPRETERS.get(name.rstrip(b".-"), "text/x-shellscript")
    declared_xml = False
    while skipped := _SKIPPED.match(data, position):
        declared_xml = declared_xml or data.startswith(b"<?", position)
        position = skipped.end()
    if _PHP.match(data, position):
        return "text/x-php"
    if _SVG.match(data, position):
        return _SVG_TYPE
    if declared_xml and _XHTML.match(data, position):
        return "application/xhtml+xml"
    return "text/html" if _HTML.match(data, position) or data.startswith(b"<!--", position) else None


def _as_ascii(data: bytes, is_text: bool) -> bytes:
    """Without the byte order mark, and UTF-16 as one byte for each character, so that the same patterns find tags."""
    mark, encoding = charsets.mark(data) or (b"", "")
    if is_text and not mark and b"\0" in data[:64]:
        encoding = charsets.detect(data, cut=True) or ""
    data = data[len(mark) :]
    return data.decode(encoding, "replace").encode("ascii", "replace") if encoding[:6] in ("utf-16", "utf-32") else data


# Signatures ---------------------------------------------------------------------------------------------------

# Of types that versions of libmagic miss, guess or name differently, and of text that is more than text.
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL), mime)
    for pattern, mime in (
        (rb"\x7fELF", "application/x-executable"),
        # Several architectures have a Mach-O file each, their number where a Java class has its version.
        (
            rb"\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe\0\0\0[\0-\x1d]",
            "application/x-mach-binary",
        ),
        (rb"\xca\xfe\xba\xbe", "application/x-java-applet"),
        (rb"\0asm", "application/wasm"),
        (rb"L\0\0\0\x01\x14\x02\0", "application/x-ms-shortcut"),
        (rb"MZ[^\0]{0,61}\0", "application/vnd.microsoft.portable-executable"),  # text may begin with "MZ" too
        (rb"%PDF-", _PDF),
        (rb"(?:\x04|\xef\xbb\xbf)?%!PS|\xc5\xd0\xd3\xc6", "application/postscript"),
        (rb"(?:\xef\xbb\xbf)?\s*\{\\rtf", "application/rtf"),
        (
            rb"d\d\d?:(?:announce|comment|creat(?:ed by|ion date)|encoding|info|nodes|publisher)",
            "application/x-bittorrent",
        ),
        (rb"\0\0[\x01\x02]\0[^\0]\0...[\0\xff]", "image/vnd.microsoft.icon"),
        (rb"(?:\0\0\0\x0cJXL |\xff\x0a)", "image/jxl"),
        (rb"\xff\x4f\xff\x51\0|\0\0\0\x0cjP  ", "image/jp2"),
        (rb"qoif\0", "image/qoi"),
        (rb"AutoCAD Binary DXF\r\n\x1a", "image/vnd.dxf"),
        (rb"\x1a\x45\xdf\xa3.{0,56}webm", "video/webm"),
        (rb"\x1a\x45\xdf\xa3", "video/x-matroska"),
        (rb"(?:RIFX|RF64|BW64)....WAVE", "audio/wav"),
        (rb"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", "application/onenote"),
        (rb".{60}(?:BOOKMOBI|TEXtREAd)", "application/x-mobipocket-ebook"),
        (rb"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed"),
        (rb"\x28\xb5\x2f\xfd", "application/zstd"),
        (rb"07070[127][0-9a-fA-F]{70}", "application/x-cpio"),
        (rb"!<arch>\ndebian-binary", "application/vnd.debian.binary-package"),
        (rb"!<arch>\n", "application/x-archive"),
        (rb"PAR1[\0-\x1f]", "application/vnd.apache.parquet"),
        (rb"ARROW1\0\0|FEA1", "application/vnd.apache.arrow.file"),
        (rb"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
        (rb"OTTO\0", "font/otf"),
        (rb"ttcf\0", "font/collection"),
        (rb"wOFF[\0Ot]", "font/woff"),
        (rb"wOF2[\0Ot]", "font/woff2"),
        (rb"glTF[\x01\x02]\0\0\0", "model/gltf-binary"),
    )
)
_BLANKS = re.compile(rb"\s{32,}")  # of 64 KiB of line feeds libmagic thinks for a second
_SPACES = bytes.maketrans(b"\t\n\v\f\r", b"     ")
# Of bytes that are such a file only if they are named so. Readers of PDF skip what is before it.
_HINTS = (
    (re.compile(rb".{0,1019}%PDF-", re.DOTALL), _PDF),
    (re.compile(rb"%!|\x1b%-12345X"), "application/postscript"),
    (re.compile(rb"P[14]\s"), "image/x-portable-bitmap"),
    (re.compile(rb"P[25]\s"), "image/x-portable-graymap"),
    (re.compile(rb"P[36]\s"), "image/x-portable-pixmap"),
)
# Five packets of 188 bytes, or 192 with a time stamp, perhaps after the rest of another (ISO 13818-1 §2.4.3.2).
_TRANSPORT_STREAM = re.compile(rb".{0,207}?\x47(?:(?:.{187}\x47){4}|(?:.{191}\x47){4})", re.DOTALL)


def _by_signature(data: bytes, is_text: bool) -> Found | None:
    if signed := next((mime for pattern, mime in _SIGNATURES if pattern.match(data)), None):
        return _certain(signed)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _in_zip(data)
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _in_ole(data)
    if data.startswith(b"\x1f\x8b"):
        is_svg = _active_text(_inflated(data, wbits=31), is_text=True) == _SVG_TYPE
        return Found("application/gzip", certain=True, forms=frozenset({_SVG_TYPE} if is_svg else ()))
    if data[4:8] == b"ftyp" and not is_text:
        return _by_brands(data)
    if (mime := _FILM_BOXES.get(data[4:8])) and not is_text:
        return _certain(mime)
    if data.startswith(b"ID3") and data[3:4] in (b"\x02", b"\x03", b"\x04"):
        return _behind_id3(data)
    return None


def _behind_id3(data: bytes) -> Found:
    """The sound behind a tag, which may be longer than ``data``, or state a wrong length: then the name tells."""
    size = sum((byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    if data.startswith(b"fLaC", 10 + size):
        return Found("audio/flac", certain=True)
    return Found("audio/mpeg", certain=True, forms=frozenset({"id3"}))


# Films and pictures of ISO 14496-12 ---------------------------------------------------------------------------

_PICTURE_BRANDS = {  # the more specific one first
    b"avif": "image/avif",
    b"avis": "image/avif",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "image/heic"),
    b"crx ": "image/x-canon-cr3",
    b"mif1": "image/heif",
    b"mif2": "image/heif",
    b"msf1": "image/heif",
    b"miaf": "image/heif",
}
_FILM_BRANDS = {
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4V ": "video/x-m4v",
    b"3gp": "video/3gpp",
    b"3g2": "video/3gpp2",
}
_FILM_BOXES = {  # with which old films, and parts of films, begin
    **dict.fromkeys((b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"), "video/quicktime"),
    **dict.fromkeys((b"styp", b"sidx", b"moof"), "video/mp4"),
}


def _by_brands(data: bytes) -> Found:
    """By the major brand, or else the compatible ones. What names no picture's brand is a film, whatever it is called."""
    size = min(int.from_bytes(data[:4]), 1024)
    major = data[8:12]
    brands = {major, *(data[at : at + 4] for at in range(16, size - 3, 4))}
    if major[:3] in (b"iso", b"mp4", b"qt "):
        brands = {major}
    if picture := next((mime for brand, mime in _PICTURE_BRANDS.items() if brand in brands), None):
        return _certain(picture)
    return _certain(_FILM_BRANDS.get(major) or _FILM_BRANDS.get(major[:3]) or "video/mp4")


# ZIP ----------------------------------------------------------------------------------------------------------

_OPEN_XML = "application/vnd.openxmlformats-officedocument."
_MAIN_TYPE = re.compile(
    rb"""ContentType\s*=\s*["']application/(vnd\.(?:openxmlformats|ms-)[\w.+-]{1,120}?)\.main(?:\+xml)?["']"""
)
_MACROS = re.compile(r"\.macroenabled(?:template)?$")  # registered names have ".12" here
_MEDIA_TYPE = re.compile(rb"\s*(application/(?:epub\+zip|vnd\.oasis\.opendocument\.[a-z-]{1,40}))")
_FOLDERS = {
    b"word/": _OPEN_XML + "wordprocessingml.document",
    b"xl/": _OPEN_XML + "spreadsheetml.sheet",
    b"ppt/": _OPEN_XML + "presentationml.presentation",
}
_MAX_ENTRIES = 500
_MAX_INFLATED = 65_536


def _in_zip(data: bytes) -> Found:
    """The type that a manifest names, else any type that is a ZIP."""
    if document := _manifest(data):
        return Found(document, certain=True, forms=frozenset({_ZIP}))
    mime = canonical(_ask_libmagic(data))
    return _certain(mime if "zip" in forms(mime) else _ZIP)


def _manifest(data: bytes) -> str | None:
    """The type of an Office Open XML document by its list of content types, or else by its folders; of others by the entry
    ``mimetype``."""
    folder, is_package, file = None, False, io.BytesIO(data)
    for entry in islice(zip_directory.local_entries(file), _MAX_ENTRIES):  # no more than ``data`` is read (T91)
        name = entry.raw_name.lower()
        if name == b"[content_types].xml":
            is_package = True
            if found := _MAIN_TYPE.search(_unpacked(file, entry)):
                main = found.group(1).decode("ascii").lower()
                return "application/" + _MACROS.sub(".macroenabled.12", main)
        elif name == b"mimetype" and (named := _MEDIA_TYPE.match(_unpacked(file, entry))):
            return named.group(1).decode("ascii")
        is_package = is_package or name.startswith(b"_rels/")
        folder = folder or next((mime for prefix, mime in _FOLDERS.items() if name.startswith(prefix)), None)
    return folder if is_package else None


def _unpacked(file: BinaryIO, entry: zip_directory.Entry) -> bytes:
    file.seek(zip_directory.data_offset(file, entry))
    return _inflated(file.read(), wbits=-15) if entry.method == 8 else file.read()


def _inflated(data: bytes, *, wbits: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(data, _MAX_INFLATED)
    except zlib.error:
        return b""


# OLE ----------------------------------------------------------------------------------------------------------

_STREAMS = {  # by which applications recognise their files (MS-DOC, MS-XLS, MS-PPT, MS-OXMSG)
    "WordDocument": "application/msword",
    "Workbook": "application/vnd.ms-excel",
    "Book": "application/vnd.ms-excel",
    "PowerPoint Document": "application/vnd.ms-powerpoint",
    "VisioDocument": "application/vnd.visio",
    "__properties_version1.0": "application/vnd.ms-outlook",
}
_INSTALLER = re.compile(rb"[\x82\x84\x86]\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46")  # the class of its root


def _in_ole(data: bytes) -> Found:
    """Any type that is an OLE file; perhaps a password-protected Office Open XML document, if no other is seen in it. An
    installer is certain, since it is a program."""
    mime = canonical(_ask_libmagic(data))
    if mime == "application/x-msi" or _INSTALLER.search(data):
        return Found("application/x-msi", certain=True)
    stream = next((mime for name, mime in _STREAMS.items() if _has_stream(data, name)), None)
    mime = stream or (mime if "ole" in forms(mime) else "application/x-ole-storage")
    return Found(mime, certain=True, forms=frozenset({"ole"} if stream else {"ole", "encrypted"}))


def _has_stream(data: bytes, name: str) -> bool:
    """Whether there is a directory entry with this name: 128 bytes, aligned (MS-CFB §2.6)."""
    at = data.find(name.encode("utf-16-le") + b"\0\0")
    return at >= 0 and at % 128 == 0


# libmagic -----------------------------------------------------------------------------------------------------

_MIME = re.compile(r"[\w.+-]+/[\w.+-]+")


def _ask_libmagic(data: bytes) -> str:
    global _magic
    with _lock:  # a libmagic cookie is not thread-safe
        if _magic is None:
            _magic = _open_system() or _open_bundled()
        try:
            found = str(_magic.from_buffer(data))
        except Exception:  # MagicException, or what a future version raises: an unknown type is no failure
            return OCTET_STREAM
    return found if _MIME.fullmatch(found) else OCTET_STREAM


def _open_system() -> Any:
    """The system's libmagic, usually the newer one; None if there is none."""
    try:
        import magic
    except ImportError:
        return None
    return magic.Magic(mime=True)


def _open_bundled() -> Any:
    """The wheel's libmagic.

    pylibmagic points to its files by environment variables and a patched ctypes.CDLL. Both are restored, since every child and
    every other library would inherit them."""
    import ctypes

    before, load = dict(os.environ), ctypes.CDLL.__init__
    try:
        import pylibmagic  # isort: skip # magic finds its library through it
        import magic
    finally:
        ctypes.CDLL.__init__ = load  # type: ignore[method-assign]
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    return magic.Magic(mime=True, magic_file=str(pylibmagic.data / "magic.mgc"))
