"""What a file is: its MIME type, its family, whether rules accept it and whether a browser may show it.

The type comes from the bytes (services/library/sniff.py asks libmagic); a name's extension only refines what bytes
can't tell, such as CSV from other plain text, and must not contradict them where that would deceive (THREATS
T8, T9). Type is not safety: ``may_inline`` is an allow-list, and everything else is a download (THREATS T32).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from core.errors import TypeMismatch, TypeNotAllowed

FileType = Literal["image", "video", "audio", "document", "text", "archive", "other"]

OCTET_STREAM = "application/octet-stream"
EMPTY = "inode/x-empty"  # libmagic's word for no bytes


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Each line: a MIME type, then its extensions, the usual one first. The first line that names an extension wins.
_TABLE = """
image/jpeg jpg jpeg jpe jfif
image/png png
image/apng apng
image/gif gif
image/webp webp
image/avif avif avifs
image/heic heic heics
image/heif heif heifs
image/jxl jxl
image/tiff tif tiff
image/bmp bmp dib
image/svg+xml svg svgz
image/vnd.microsoft.icon ico cur
image/jp2 jp2 jpx j2k
image/vnd.adobe.photoshop psd
image/x-adobe-dng dng
image/x-canon-cr2 cr2
image/x-canon-cr3 cr3
image/x-nikon-nef nef
image/x-sony-arw arw
image/x-portable-pixmap ppm
image/x-portable-graymap pgm
image/x-portable-bitmap pbm
image/x-xcf xcf
image/x-tga tga
image/vnd.djvu djvu djv
image/vnd.dwg dwg
image/vnd.dxf dxf
image/qoi qoi
video/mp4 mp4 mp4v
video/x-m4v m4v
video/quicktime mov qt
video/webm webm
video/x-matroska mkv mk3d
video/ogg ogv
video/mpeg mpg mpeg mpe m2v
video/mp2t ts m2ts mts
video/x-msvideo avi
video/x-ms-wmv wmv
video/x-ms-asf asf
video/x-flv flv f4v
video/3gpp 3gp
video/3gpp2 3g2
audio/mpeg mp3 mp2 mpga
audio/mp4 m4a m4b
audio/aac aac
audio/ogg ogg oga opus spx
audio/wav wav
audio/flac flac
audio/webm weba
audio/x-matroska mka
audio/aiff aif aiff aifc
audio/midi mid midi
audio/amr amr
audio/x-ms-wma wma
audio/basic au snd
audio/x-mpegurl m3u m3u8
application/pdf pdf
application/msword doc dot
application/vnd.ms-excel xls xlt xla
application/vnd.ms-powerpoint ppt pps pot
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template dotx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template xltx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow ppsx
application/vnd.openxmlformats-officedocument.presentationml.template potx
application/vnd.ms-word.document.macroenabled.12 docm
application/vnd.ms-excel.sheet.macroenabled.12 xlsm
application/vnd.ms-excel.sheet.binary.macroenabled.12 xlsb
application/vnd.ms-powerpoint.presentation.macroenabled.12 pptm
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.text-template ott
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.graphics odg
application/vnd.oasis.opendocument.formula odf
application/vnd.apple.pages pages
application/vnd.apple.numbers numbers
application/vnd.apple.keynote key
application/rtf rtf
application/epub+zip epub
application/x-mobipocket-ebook mobi prc
application/vnd.visio vsd
application/vnd.ms-outlook msg
application/x-mspublisher pub
application/vnd.ms-project mpp
application/postscript ps eps ai
application/vnd.ms-xpsdocument xps
application/onenote one
text/plain txt text log ini conf cfg properties env lst nfo srt
text/html html htm
application/xhtml+xml xhtml xht
text/css css
text/javascript js mjs cjs
text/csv csv
text/tab-separated-values tsv tab
text/markdown md markdown mdown mkd
text/x-rst rst
text/asciidoc adoc asciidoc
text/xml xml xsd xsl xslt
text/calendar ics
text/vcard vcf vcard
text/vtt vtt
message/rfc822 eml mht mhtml
application/mbox mbox
application/json json map
application/x-ndjson jsonl ndjson
application/geo+json geojson
application/ld+json jsonld
application/x-ipynb+json ipynb
application/manifest+json webmanifest
application/yaml yaml yml
application/toml toml
application/sql sql
application/graphql graphql gql
application/x-tex tex latex sty
application/x-bibtex bib
application/x-subrip sub
application/rss+xml rss
application/atom+xml atom
application/gpx+xml gpx
application/vnd.google-earth.kml+xml kml
model/gltf+json gltf
text/x-python py pyw pyi
text/x-shellscript sh bash zsh ksh fish
text/x-perl pl pm
text/x-ruby rb
text/x-php php phtml php3 php4 php5 php7 phps phar
text/x-lua lua
text/x-tcl tcl
text/x-c c h
text/x-c++ cc cpp cxx hpp hxx
text/x-java java
text/x-csharp cs
text/x-go go
text/x-rust rs
text/x-swift swift
text/x-kotlin kt kts
text/x-scala scala
text/x-typescript tsx mts cts
text/x-jsx jsx
text/x-vue vue svelte
text/x-scss scss sass less
text/x-r r
text/x-asm asm s
text/x-diff diff patch
text/x-makefile mk
text/x-msdos-batch bat cmd
text/x-powershell ps1 psm1
text/x-vbscript vbs vbe
application/zip zip
application/x-tar tar
application/gzip gz tgz
application/x-bzip2 bz2 tbz tbz2
application/x-xz xz txz
application/zstd zst tzst
application/x-lzip lz
application/x-lz4 lz4
application/x-lzma lzma
application/x-7z-compressed 7z
application/vnd.rar rar
application/x-compress z
application/vnd.ms-cab-compressed cab
application/x-iso9660-image iso
application/x-cpio cpio
application/x-archive a ar
application/java-archive jar war ear
application/vnd.android.package-archive apk
application/vnd.debian.binary-package deb
application/x-rpm rpm
application/x-apple-diskimage dmg
application/vnd.google-earth.kmz kmz
application/vnd.microsoft.portable-executable exe dll scr sys com cpl ocx pif
application/x-msi msi msp
application/x-executable elf out run
application/octet-stream bin dat
application/x-sharedlib so
application/x-mach-binary dylib
application/x-java-applet class
application/wasm wasm
application/x-ms-shortcut lnk
application/x-sqlite3 sqlite sqlite3 db
application/vnd.apache.parquet parquet
application/vnd.apache.arrow.file arrow feather
application/x-hdf5 h5 hdf5
application/x-netcdf nc
application/x-shockwave-flash swf
application/x-bittorrent torrent
application/pgp-encrypted pgp gpg asc
application/pkcs8 p8
application/x-pem-file pem crt cer
application/x-pkcs12 p12 pfx
model/gltf-binary glb
model/stl stl
model/obj obj
font/ttf ttf
font/otf otf
font/woff woff
font/woff2 woff2
font/collection ttc
"""
_BY_EXTENSION: dict[str, str] = {}
for _line in _TABLE.split("\n"):
    _mime, *_names = _line.split() or [""]
    for _name in _names:
        _BY_EXTENSION.setdefault(_name, _mime)

# Other names for the same thing, as libmagic's versions and clients write them.
_ALIASES = {
    "application/csv": "text/csv",
    "application/javascript": "text/javascript",
    "application/x-javascript": "text/javascript",
    "text/ecmascript": "text/javascript",
    "application/ecmascript": "text/javascript",
    "application/xml": "text/xml",
    "text/json": "application/json",
    "text/rtf": "application/rtf",
    "text/yaml": "application/yaml",
    "text/x-yaml": "application/yaml",
    "application/x-yaml": "application/yaml",
    "application/x-sh": "text/x-shellscript",
    "text/x-sh": "text/x-shellscript",
    "text/x-script.python": "text/x-python",
    "application/x-httpd-php": "text/x-php",
    "text/x-tex": "application/x-tex",
    "application/x-ndjson+json": "application/x-ndjson",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/vnd.mozilla.apng": "image/apng",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "image/svg": "image/svg+xml",
    "image/x-icon": "image/vnd.microsoft.icon",
    "image/x-win-bitmap": "image/vnd.microsoft.icon",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-m4a": "audio/mp4",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "audio/x-hx-aac-adts": "audio/aac",
    "video/avi": "video/x-msvideo",
    "application/x-pdf": "application/pdf",
    "application/eps": "application/postscript",
    "application/x-zip-compressed": "application/zip",
    "application/x-zip": "application/zip",
    "application/x-gzip": "application/gzip",
    "application/x-bzip": "application/x-bzip2",
    "application/x-zstd": "application/zstd",
    "application/x-rar": "application/vnd.rar",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-7zip": "application/x-7z-compressed",
    "application/x-gtar": "application/x-tar",
    "application/x-java-archive": "application/java-archive",
    "application/x-dosexec": "application/vnd.microsoft.portable-executable",
    "application/x-msdownload": "application/vnd.microsoft.portable-executable",
    "application/x-msdos-program": "application/vnd.microsoft.portable-executable",
    "application/x-pie-executable": "application/x-executable",
    "application/x-elf": "application/x-executable",
    "application/vnd.sqlite3": "application/x-sqlite3",
    "font/sfnt": "font/ttf",
    "application/font-sfnt": "font/ttf",
    "application/x-font-ttf": "font/ttf",
    "application/x-empty": EMPTY,
}

_SCRIPTS = _words(
    "text/javascript text/x-shellscript text/x-python text/x-perl text/x-ruby text/x-php text/x-lua text/x-tcl"
    " text/x-msdos-batch text/x-powershell text/x-vbscript text/x-awk text/x-nawk text/x-gawk"
)
_EXECUTABLES = _words(
    "application/vnd.microsoft.portable-executable application/x-executable application/x-sharedlib"
    " application/x-object application/x-coredump application/x-mach-binary application/x-java-applet"
    " application/wasm application/x-msi application/x-ms-shortcut"
)
_MARKUP = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml"})
_ACTIVE = _MARKUP | _SCRIPTS | _EXECUTABLES

_DOCUMENTS = re.compile(
    r"application/(?:pdf|msword|rtf|epub\+zip|postscript|onenote|x-mobipocket-ebook|x-mspublisher"
    r"|vnd\.(?:ms-(?:excel|powerpoint|word|project|outlook|works|office|xpsdocument)\b.*"
    r"|openxmlformats-officedocument\..+|oasis\.opendocument\..+|apple\.(?:pages|numbers|keynote)|visio))"
)
_TEXTS = _words(
    "application/json application/x-ndjson application/yaml application/toml application/sql application/graphql"
    " application/x-tex application/x-bibtex application/x-subrip application/mbox message/rfc822"
    " application/xhtml+xml"
)
_ARCHIVES = _words(
    "application/zip application/x-tar application/gzip application/x-bzip2 application/x-xz application/zstd"
    " application/x-lzip application/x-lz4 application/x-lzma application/x-7z-compressed application/vnd.rar"
    " application/x-compress application/vnd.ms-cab-compressed application/x-iso9660-image application/x-cpio"
    " application/x-archive application/java-archive application/vnd.android.package-archive"
    " application/vnd.debian.binary-package application/x-rpm application/x-apple-diskimage"
    " application/vnd.google-earth.kmz application/x-lha application/x-arj"
)

# Not text, and as a rule not compressed by themselves either.
_UNCOMPRESSED = _words(
    "image/bmp image/tiff image/vnd.adobe.photoshop image/x-portable-pixmap image/x-portable-graymap"
    " image/x-portable-bitmap image/x-tga image/vnd.dwg image/vnd.dxf audio/wav audio/aiff application/msword"
    " application/vnd.ms-excel application/vnd.ms-powerpoint application/vnd.ms-outlook application/vnd.ms-project"
    " application/vnd.visio application/x-mspublisher application/x-ole-storage application/rtf application/postscript"
    " application/x-tar application/x-cpio application/x-archive application/x-sqlite3 application/wasm"
    " application/x-executable application/x-sharedlib application/x-mach-binary application/x-netcdf"
    " application/vnd.microsoft.portable-executable model/obj model/stl model/gltf-binary font/ttf font/collection"
)

# What a browser may show in place: it can't run script (THREATS T32). PDF and SVG are not among them.
# What thumbnails are made of (parsers/image.py opens these formats).
PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/tiff", "image/bmp"})

_PLACED = _words(
    "image/jpeg image/png image/apng image/webp image/avif image/heic image/heif image/heic-sequence image/heif-sequence"
    " image/gif image/tiff image/x-adobe-dng image/x-canon-cr2 image/x-nikon-nef image/x-sony-arw"
)

INLINE_TYPES = _words(
    "image/png image/jpeg image/gif image/webp image/avif text/plain audio/mpeg audio/mp4 audio/aac audio/ogg"
    " audio/wav audio/flac audio/webm video/mp4 video/x-m4v video/webm video/ogg video/quicktime"
)

# Containers whose content only the extension tells apart: the family of names that each may bear.
_CONTAINERS: dict[str, re.Pattern[str]] = {
    "application/ogg": re.compile("(?:audio|video)/ogg"),
    "audio/ogg": re.compile("video/ogg"),
    "video/ogg": re.compile("audio/ogg"),
    "video/mp4": re.compile("audio/mp4|video/(?:x-m4v|quicktime|3gpp2?)"),
    "video/webm": re.compile("audio/webm"),
    "video/x-matroska": re.compile("audio/x-matroska"),
    "video/x-ms-asf": re.compile("audio/x-ms-wma|video/x-ms-wmv"),
    "image/tiff": re.compile("image/x-(?:adobe|canon|nikon|sony)-.+"),
}
_OLE = _words(
    "application/x-ole-storage application/cdfv2 application/cdfv2-corrupt application/vnd.ms-office"
    " application/msword application/vnd.ms-excel application/vnd.ms-powerpoint"
)
_OLE_NAMES = re.compile(
    r"application/(?:msword|vnd\.ms-(?:excel|powerpoint|outlook|project)|vnd\.visio|x-mspublisher|x-msi)"
)
_HOLDS_HTML = frozenset({"text/markdown", "text/x-rst", "text/asciidoc", "text/x-vue", "text/x-jsx", "text/x-php"})
_GENERIC = frozenset({"text/plain", "text/xml", OCTET_STREAM})
_MIME = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


def canonical(mime: str) -> str:
    """Lower case, without parameters, one name for each type; what is no MIME type is application/octet-stream."""
    bare = mime.partition(";")[0].strip().lower()
    return _ALIASES.get(bare, bare) if _MIME.fullmatch(bare) else OCTET_STREAM


def mime_for_extension(extension: str) -> str | None:
    """What a file with this extension (without its dot, case-folded) usually is."""
    return _BY_EXTENSION.get(extension)


def usual_extension(mime: str) -> str | None:
    """The extension that files of this type usually have, without its dot."""
    mime = canonical(mime)
    return next((extension for extension, found in _BY_EXTENSION.items() if found == mime), None)


def file_type(mime: str) -> FileType:
    """The family that ``file_type=`` filters by and statistics count by."""
    mime = canonical(mime)
    if _DOCUMENTS.fullmatch(mime):
        return "document"
    if mime in _ARCHIVES:
        return "archive"
    if _is_text(mime):
        return "text"
    top = mime.partition("/")[0]
    if top == "image":
        return "image"
    if top == "video":
        return "video"
    return "audio" if top == "audio" else "other"


def may_shrink(mime: str, size: int) -> bool:
    """Whether compressing bytes of this type is worth a trial: text, and what keeps its content as it is. ``size`` in bytes;
    small files gain nothing, since a bucket stores and bills whole blocks."""
    mime = canonical(mime)
    return size >= 4096 and (mime in _UNCOMPRESSED or mime == "image/svg+xml" or _is_text(mime))


def may_hold_place(mime: str) -> bool:
    """Whether bytes of this type may tell, in EXIF or XMP, where a picture was taken."""
    return canonical(mime) in _PLACED


def may_inline(mime: str) -> bool:
    return canonical(mime) in INLINE_TYPES


def served_type(mime: str) -> str:
    """The Content-Type of a download: the detected type, never what a client said (THREATS T8).

    Plain text gets its charset, so that no browser guesses one (UTF-7 once was one of the guesses)."""
    mime = canonical(mime)
    return "text/plain; charset=utf-8" if mime == "text/plain" else mime


def resolve(extension: str, detected: str, empty: bool = False) -> str:
    """The MIME type to store, from the extension and what the bytes are.

    The bytes decide. The extension tells only what they can't: which plain text, which OLE document, which use
    of a container, and everything where there are no bytes (THREATS T11). TypeMismatch where markup that runs
    script, a script or a program bears the name of an image or a document (THREATS T9)."""
    named = mime_for_extension(extension)
    detected = canonical(detected)
    if empty or detected == EMPTY:
        return named or OCTET_STREAM
    if named is None or named == detected:
        return detected
    if detected in _ACTIVE and file_type(named) in ("image", "document"):
        raise TypeMismatch(f"The name says {named}, the content is {detected}")
    if detected == "text/html" and named in _HOLDS_HTML:
        return named
    if _is_vague_text(detected) and _is_text(named):
        return named
    if detected == "text/xml" and (named.endswith("+xml") and named != "image/svg+xml"):
        return named
    if detected in _OLE and _OLE_NAMES.fullmatch(named):
        return named
    container = _CONTAINERS.get(detected)
    return named if container and container.fullmatch(named) else detected


@dataclass(frozen=True, slots=True)
class Rules:
    """Which types are accepted. Entries are extensions (with or without a dot), MIME types, or ``image/*``.

    An empty allow-list allows all that is not denied. Extension and type are judged each for itself, and both
    must pass (THREATS T10). A name without an extension is judged by its type alone. An entry of one kind also
    speaks for the other: ``pdf`` allows and denies the type application/pdf, ``image/*`` allows and denies the
    extension png."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    _allow: _Entries = field(init=False, repr=False, compare=False)
    _deny: _Entries = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allow", _Entries.parse(self.allowed))
        object.__setattr__(self, "_deny", _Entries.parse(self.denied))

    def check(self, extension: str, mime: str) -> None:
        """TypeNotAllowed unless both the extension and the type that ``resolve`` gave are accepted."""
        self._check_extension(extension)
        mime = canonical(mime)
        if self._deny.names_type(mime, specific=True):
            raise TypeNotAllowed(f"Files of type {mime} are not accepted")
        if self.allowed and not self._allow.names_type(mime, specific=False):
            raise TypeNotAllowed(f"Files of type {mime} are not accepted")

    def check_name(self, extension: str, claimed_mime: str | None = None) -> None:
        """The verdict that is possible before any byte. ``claimed_mime`` is a hint: it can only lead to a refusal."""
        self._check_extension(extension)
        claimed = canonical(claimed_mime or "")
        if claimed in _GENERIC:
            return
        if self._deny.names_type(claimed, specific=True):
            raise TypeNotAllowed(f"Files of type {claimed} are not accepted")
        if not extension and self.allowed and not self._allow.names_type(claimed, specific=False):
            raise TypeNotAllowed(f"Files of type {claimed} are not accepted")

    def _check_extension(self, extension: str) -> None:
        if self._deny.names_extension(extension):
            raise TypeNotAllowed(f"Files ending in .{extension} are not accepted")
        if extension and self.allowed and not self._allow.names_extension(extension):
            raise TypeNotAllowed(f"Files ending in .{extension} are not accepted")


@dataclass(frozen=True, slots=True)
class _Entries:
    extensions: frozenset[str]
    types: frozenset[str]
    families: tuple[str, ...]  # "image/", or "" for */*

    @classmethod
    def parse(cls, entries: tuple[str, ...]) -> _Entries:
        extensions, types, families = set(), set(), []
        for entry in (entry.strip().lower() for entry in entries):
            if entry in ("*", "*/*"):
                families.append("")
            elif entry.endswith("/*"):
                families.append(entry[:-1])
            elif "/" in entry:
                types.add(canonical(entry))
            elif last := entry.rpartition(".")[2]:
                extensions.add(last)  # "tar.gz" counts as "gz": only the last extension is looked at
        return cls(frozenset(extensions), frozenset(types), tuple(families))

    def names_extension(self, extension: str) -> bool:
        if extension in self.extensions:
            return True
        mime = mime_for_extension(extension)
        return mime is not None and self._names(mime)

    def names_type(self, mime: str, *, specific: bool) -> bool:
        """``specific``: an extension entry doesn't speak for a type that many others share (deny bat, keep text)."""
        if self._names(mime):
            return True
        if specific and mime in _GENERIC:
            return False
        return any(mime_for_extension(extension) == mime for extension in self.extensions)

    def _names(self, mime: str) -> bool:
        return mime in self.types or mime.startswith(self.families or ("\0",))


def _is_text(mime: str) -> bool:
    return mime.startswith("text/") or mime in _TEXTS or (mime.endswith(("+json", "+xml")) and mime[:6] != "image/")


def _is_vague_text(mime: str) -> bool:
    """A type that libmagic gives to text it doesn't know, or guesses at: prose can look like C, troff or CSV."""
    return _is_text(mime) and mime not in _ACTIVE and mime != "text/xml"
