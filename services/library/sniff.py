"""Detects the type of bytes, whatever the file's name (T8).

libmagic reads the first 64 KiB through python-magic: the system's library, or else the one in the pylibmagic wheel. This module
adds what libmagic misses: text that a browser or a shell would run, and Office documents whose first ZIP entry is unusual.
core/content_types.py weighs the detected type against the name. libmagic trusts magic numbers (``GIF89a`` and a script is a GIF),
so the type decides about rules and previews, never about safety.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from typing import Any

from core.content_types import EMPTY, OCTET_STREAM

HEAD_BYTES = 65_536  # given to libmagic

_lock = threading.Lock()
_magic: Any = None


def detect(head: bytes | bytearray | memoryview) -> str:
    """The MIME type of a file that begins with ``head``, of which 64 KiB are read. application/octet-stream if it is unknown,
    inode/x-empty for no bytes. Never raises."""
    data = bytes(head[:HEAD_BYTES])
    if not data:
        return EMPTY
    if text := _active_text(data):
        return text
    if program := _program(data):
        return program
    if data.startswith(b"PK\x03\x04") and (office := _office_type(data)):
        return office
    found = _ask_libmagic(data)
    if (
        found == "application/x-dosexec"
    ):  # a guess at .COM files by their first byte, which one in a hundred random files has
        return OCTET_STREAM
    return "text/plain" if found == OCTET_STREAM and len(data) < 4 and _is_plain(data) else found


def _is_plain(data: bytes) -> bool:
    """Whether this is printable text that is too short for libmagic."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()


# Markup and scripts -------------------------------------------------------------------------------------------

# Looked for after a byte order mark, white space, comments and an XML declaration. The tags are those of the MIME Sniffing
# standard (§7.1), which browsers follow, and a few that can't begin anything else.
_HTML = re.compile(
    rb"<(?:!doctype\s+html|(?:html|head|body|script|iframe|style|title|h1|div|font|table|meta|link|img|form|object"
    rb"|embed|base|a|b|br|p)(?=[\s>/]))",
    re.IGNORECASE,
)
_XHTML = re.compile(rb"<(?:[a-z]+:)?html[\s>]", re.IGNORECASE)
_SVG = re.compile(rb"<(?:[a-z]+:)?svg(?=[\s>/])|<!doctype\s+svg", re.IGNORECASE)
_PHP = re.compile(rb"<\?(?:php\b|=)", re.IGNORECASE)
_SPACE = re.compile(rb"[\s\x00]*")
_SKIPPED = re.compile(rb"<!--|<\?xml(?=[\s-])|<!doctype\s+(?!html\b|svg\b)[a-z]", re.IGNORECASE)
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


def _active_text(data: bytes) -> str | None:
    data = _as_ascii(data)
    position = _SPACE.match(data).end()  # type: ignore[union-attr] # it also matches no bytes
    if shebang := _SHEBANG.match(data, position):
        path, name = shebang.groups()
        if path or name in _INTERPRETERS:
            return _INTERPRETERS.get(name.rstrip(b".-"), "text/x-shellscript")
    declared_xml = False
    while skipped := _SKIPPED.match(data, position):
        opening = skipped.group()
        declared_xml = declared_xml or opening[:2] == b"<?"
        closing = {b"<!--": b"-->", b"<?xml": b"?>"}.get(opening.lower(), b">")
        end = data.find(closing, skipped.end())
        if end < 0:
            return "text/html" if opening == b"<!--" else None
        position = _SPACE.match(data, end + len(closing)).end()  # type: ignore[union-attr]
    if _PHP.match(data, position):
        return "text/x-php"
    if _SVG.match(data, position):
        return "image/svg+xml"
    if declared_xml and _XHTML.match(data, position):
        return "application/xhtml+xml"
    return "text/html" if _HTML.match(data, position) else None


def _as_ascii(data: bytes) -> bytes:
    """Without the byte order mark, and UTF-16 as one byte for each character, so that the same patterns find tags."""
    if data.startswith(b"\xef\xbb\xbf"):
        return data[3:]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace").encode("ascii", "replace")
    return data


# Programs -----------------------------------------------------------------------------------------------------

_MACH_O = (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")


def _program(data: bytes) -> str | None:
    """The type of an executable. Versions of libmagic name these differently, or miss truncated ones."""
    if data.startswith(b"\x7fELF"):
        return "application/x-executable"
    if data.startswith(_MACH_O):
        return "application/x-mach-binary"
    if data.startswith(b"\0asm"):
        return "application/wasm"
    if data.startswith(b"MZ") and b"\0" in data[:64]:  # text may begin with "MZ" too
        return "application/vnd.microsoft.portable-executable"
    if data.startswith(b"\xca\xfe\xba\xbe"):
        few = data[4:7] == b"\0\0\0" and data[7:8] < b"\x1e"  # architectures; a Java class has its version here
        return "application/x-mach-binary" if few else "application/x-java-applet"
    return None


# Office documents ---------------------------------------------------------------------------------------------

_OPEN_XML = "application/vnd.openxmlformats-officedocument."
_MAIN_TYPE = re.compile(rb'ContentType="application/(vnd\.(?:openxmlformats|ms-)[\w.+-]{1,120}?)\.main(?:\+xml)?"')
_MACRO_TYPES = {  # whose registered name is not the main part's name without its end
    "vnd.ms-word.document.macroenabled": "vnd.ms-word.document.macroenabled.12",
    "vnd.ms-excel.sheet.macroenabled": "vnd.ms-excel.sheet.macroenabled.12",
    "vnd.ms-excel.sheet.binary.macroenabled": "vnd.ms-excel.sheet.binary.macroenabled.12",
    "vnd.ms-powerpoint.presentation.macroenabled": "vnd.ms-powerpoint.presentation.macroenabled.12",
}
_FOLDERS = {
    b"word/": _OPEN_XML + "wordprocessingml.document",
    b"xl/": _OPEN_XML + "spreadsheetml.sheet",
    b"ppt/": _OPEN_XML + "presentationml.presentation",
}
_MAX_ENTRIES = 500
_MAX_INFLATED = 65_536


def _office_type(data: bytes) -> str | None:
    """The Office Open XML type of a ZIP, by its list of content types, or else by its folders. Only local headers in ``data`` are
    read, and at most 64 KiB are inflated (T91)."""
    position, folder, is_package = 0, None, False
    for _ in range(_MAX_ENTRIES):
        if data[position : position + 4] != b"PK\x03\x04" or position + 30 > len(data):
            break
        flags, method = struct.unpack_from("<HH", data, position + 6)
        packed, _, name_length, extra_length = struct.unpack_from("<IIHH", data, position + 18)
        start = position + 30 + name_length + extra_length
        name = data[position + 30 : position + 30 + name_length]
        if name == b"[Content_Types].xml":
            is_package = True
            if found := _MAIN_TYPE.search(_inflate(data[start:], method)):
                main = found.group(1).decode("ascii").lower()
                return "application/" + _MACRO_TYPES.get(main, main)
        elif name.startswith(b"_rels/"):
            is_package = True
        for prefix, mime in _FOLDERS.items():
            if name.startswith(prefix):
                folder = folder or mime
        if flags & 8 and not packed:  # the length follows the data, so search for the next header
            position = data.find(b"PK\x03\x04", start)
            if position < 0:
                break
        else:
            position = start + packed
    return folder if is_package else None


def _inflate(data: bytes, method: int) -> bytes:
    if method != 8:
        return data[:_MAX_INFLATED]
    try:
        return zlib.decompressobj(-15).decompress(data, _MAX_INFLATED)
    except zlib.error:
        return b""


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
