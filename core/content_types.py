"""What a file is: its MIME type and family, whether rules allow it, and whether a browser may show it.

The type comes from the bytes (services/library/sniff.py asks libmagic). The extension only refines what bytes can't tell,
such as CSV among plain text, and must not contradict them where that would deceive (T8, T9). A type says nothing
about safety: ``may_inline`` is an allow-list, and everything else is a download (T32).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from core.errors import TypeMismatch, TypeNotAllowed

FileType = Literal["image", "video", "audio", "document", "text", "archive", "other"]

OCTET_STREAM = "application/octet-stream"
EMPTY = "inode/x-empty"  # libmagic's type of an empty file


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# MIME types by their first part, each with its extensions, the usual one first: subtype=extension,extension. A subtype alone
# is its own extension. The first type with an extension wins.
_TYPES = """
image: jpeg=jpg,jpeg,jpe,jfif png apng gif webp avif=avif,avifs heic=heic,heics heif=heif,heifs jxl tiff=tif,tiff
  bmp=bmp,dib svg+xml=svg,svgz vnd.microsoft.icon=ico,cur jp2=jp2,jpx,j2k vnd.adobe.photoshop=psd x-adobe-dng=dng
  x-canon-cr2=cr2 x-canon-cr3=cr3 x-nikon-nef=nef x-sony-arw=arw x-portable-pixmap=ppm x-portable-graymap=pgm
  x-portable-bitmap=pbm x-xcf=xcf x-tga=tga vnd.djvu=djvu,djv vnd.dwg=dwg vnd.dxf=dxf qoi
video: mp4=mp4,mp4v x-m4v=m4v quicktime=mov,qt webm x-matroska=mkv,mk3d ogg=ogv mpeg=mpg,mpeg,mpe,m2v mp2t=ts,m2ts,mts
  x-msvideo=avi x-ms-wmv=wmv x-ms-asf=asf x-flv=flv,f4v 3gpp=3gp 3gpp2=3g2
audio: mpeg=mp3,mp2,mpga mp4=m4a,m4b aac ogg=ogg,oga,opus,spx wav flac webm=weba x-matroska=mka aiff=aif,aiff,aifc
  midi=mid,midi amr x-ms-wma=wma basic=au,snd x-mpegurl=m3u,m3u8
application: pdf msword=doc,dot vnd.ms-excel=xls,xlt,xla vnd.ms-powerpoint=ppt,pps,pot
  vnd.openxmlformats-officedocument.wordprocessingml.document=docx
  vnd.openxmlformats-officedocument.wordprocessingml.template=dotx
  vnd.openxmlformats-officedocument.spreadsheetml.sheet=xlsx
  vnd.openxmlformats-officedocument.spreadsheetml.template=xltx
  vnd.openxmlformats-officedocument.presentationml.presentation=pptx
  vnd.openxmlformats-officedocument.presentationml.slideshow=ppsx
  vnd.openxmlformats-officedocument.presentationml.template=potx vnd.ms-word.document.macroenabled.12=docm
  vnd.ms-excel.sheet.macroenabled.12=xlsm vnd.ms-excel.sheet.binary.macroenabled.12=xlsb
  vnd.ms-powerpoint.presentation.macroenabled.12=pptm vnd.oasis.opendocument.text=odt
  vnd.oasis.opendocument.text-template=ott vnd.oasis.opendocument.spreadsheet=ods
  vnd.oasis.opendocument.presentation=odp vnd.oasis.opendocument.graphics=odg vnd.oasis.opendocument.formula=odf
  vnd.apple.pages=pages vnd.apple.numbers=numbers vnd.apple.keynote=key rtf epub+zip=epub x-mobipocket-ebook=mobi,prc
  vnd.visio=vsd vnd.ms-outlook=msg x-mspublisher=pub vnd.ms-project=mpp postscript=ps,eps,ai vnd.ms-xpsdocument=xps
  onenote=one xhtml+xml=xhtml,xht mbox json=json,map x-ndjson=jsonl,ndjson geo+json=geojson ld+json=jsonld
  x-ipynb+json=ipynb manifest+json=webmanifest yaml=yaml,yml toml sql graphql=graphql,gql x-tex=tex,latex,sty
  x-bibtex=bib x-subrip=sub rss+xml=rss atom+xml=atom gpx+xml=gpx vnd.google-earth.kml+xml=kml zip x-tar=tar
  gzip=gz,tgz x-bzip2=bz2,tbz,tbz2 x-xz=xz,txz zstd=zst,tzst x-lzip=lz x-lz4=lz4 x-lzma=lzma x-7z-compressed=7z
  vnd.rar=rar x-compress=z vnd.ms-cab-compressed=cab x-iso9660-image=iso x-cpio=cpio x-archive=a,ar
  java-archive=jar,war,ear vnd.android.package-archive=apk vnd.debian.binary-package=deb x-rpm=rpm
  x-apple-diskimage=dmg vnd.google-earth.kmz=kmz vnd.microsoft.portable-executable=exe,dll,scr,sys,com,cpl,ocx,pif
  x-msi=msi,msp x-executable=elf,out,run octet-stream=bin,dat x-sharedlib=so x-mach-binary=dylib x-java-applet=class
  wasm x-ms-shortcut=lnk x-sqlite3=sqlite,sqlite3,db vnd.apache.parquet=parquet vnd.apache.arrow.file=arrow,feather
  x-hdf5=h5,hdf5 x-netcdf=nc x-shockwave-flash=swf x-bittorrent=torrent pgp-encrypted=pgp,gpg,asc pkcs8=p8
  x-pem-file=pem,crt,cer x-pkcs12=p12,pfx
text: plain=txt,text,log,ini,conf,cfg,properties,env,lst,nfo,srt html=html,htm css javascript=js,mjs,cjs csv
  tab-separated-values=tsv,tab markdown=md,markdown,mdown,mkd x-rst=rst asciidoc=adoc,asciidoc xml=xml,xsd,xsl,xslt
  calendar=ics vcard=vcf,vcard vtt x-python=py,pyw,pyi x-shellscript=sh,bash,zsh,ksh,fish x-perl=pl,pm x-ruby=rb
  x-php=php,phtml,php3,php4,php5,php7,phps,phar x-lua=lua x-tcl=tcl x-c=c,h x-c++=cc,cpp,cxx,hpp,hxx x-java=java
  x-csharp=cs x-go=go x-rust=rs x-swift=swift x-kotlin=kt,kts x-scala=scala x-typescript=tsx,mts,cts x-jsx=jsx
  x-vue=vue,svelte x-scss=scss,sass,less x-r=r x-asm=asm,s x-diff=diff,patch x-makefile=mk x-msdos-batch=bat,cmd
  x-powershell=ps1,psm1 x-vbscript=vbs,vbe
message: rfc822=eml,mht,mhtml
model: gltf+json=gltf gltf-binary=glb stl obj
font: ttf otf woff woff2 collection=ttc
"""

# Other names of these types, as libmagic's versions and clients write them.
_OTHER_NAMES = """
text/csv: application/csv
text/javascript: application/javascript application/x-javascript text/ecmascript application/ecmascript
text/xml: application/xml
application/json: text/json
application/rtf: text/rtf
application/yaml: text/yaml text/x-yaml application/x-yaml
text/x-shellscript: application/x-sh text/x-sh
text/x-python: text/x-script.python
text/x-php: application/x-httpd-php
application/x-tex: text/x-tex
application/x-ndjson: application/x-ndjson+json
image/jpeg: image/jpg image/pjpeg
image/png: image/x-png
image/apng: image/vnd.mozilla.apng
image/bmp: image/x-ms-bmp image/x-bmp
image/svg+xml: image/svg
image/vnd.microsoft.icon: image/x-icon image/x-win-bitmap
audio/wav: audio/x-wav audio/wave audio/vnd.wave
audio/mpeg: audio/mp3
audio/mp4: audio/x-m4a
audio/flac: audio/x-flac
audio/aiff: audio/x-aiff
audio/aac: audio/x-hx-aac-adts
video/x-msvideo: video/avi
application/pdf: application/x-pdf
application/postscript: application/eps
application/zip: application/x-zip-compressed application/x-zip
application/gzip: application/x-gzip
application/x-bzip2: application/x-bzip
application/zstd: application/x-zstd
application/vnd.rar: application/x-rar application/x-rar-compressed
application/x-7z-compressed: application/x-7zip
application/x-tar: application/x-gtar
application/java-archive: application/x-java-archive
application/vnd.microsoft.portable-executable: application/x-dosexec application/x-msdownload
  application/x-msdos-program
application/x-executable: application/x-pie-executable application/x-elf
application/x-sqlite3: application/vnd.sqlite3
font/ttf: font/sfnt application/font-sfnt application/x-font-ttf
inode/x-empty: application/x-empty
"""


def _by_extension() -> dict[str, str]:
    found: dict[str, str] = {}
    family = ""
    for item in _TYPES.split():
        if item.endswith(":"):
            family = item[:-1]
            continue
        subtype, _, extensions = item.partition("=")
        for extension in (extensions or subtype).split(","):
            found.setdefault(extension, f"{family}/{subtype}")
    return found


def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    mime = ""
    for item in _OTHER_NAMES.split():
        if item.endswith(":"):
            mime = item[:-1]
        else:
            found[item] = mime
    return found


_BY_EXTENSION = _by_extension()
_ALIASES = _aliases()

_SCRIPTS = _set(
    "text/javascript text/x-shellscript text/x-python text/x-perl text/x-ruby text/x-php text/x-lua text/x-tcl"
    " text/x-msdos-batch text/x-powershell text/x-vbscript text/x-awk text/x-nawk text/x-gawk"
)
_EXECUTABLES = _set(
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
_TEXTS = _set(
    "application/json application/x-ndjson application/yaml application/toml application/sql application/graphql"
    " application/x-tex application/x-bibtex application/x-subrip application/mbox message/rfc822"
    " application/xhtml+xml"
)
_ARCHIVES = _set(
    "application/zip application/x-tar application/gzip application/x-bzip2 application/x-xz application/zstd"
    " application/x-lzip application/x-lz4 application/x-lzma application/x-7z-compressed application/vnd.rar"
    " application/x-compress application/vnd.ms-cab-compressed application/x-iso9660-image application/x-cpio"
    " application/x-archive application/java-archive application/vnd.android.package-archive"
    " application/vnd.debian.binary-package application/x-rpm application/x-apple-diskimage"
    " application/vnd.google-earth.kmz application/x-lha application/x-arj"
)

# Binary formats that are usually not compressed.
_UNCOMPRESSED = _set(
    "image/bmp image/tiff image/vnd.adobe.photoshop image/x-portable-pixmap image/x-portable-graymap"
    " image/x-portable-bitmap image/x-tga image/vnd.dwg image/vnd.dxf audio/wav audio/aiff application/msword"
    " application/vnd.ms-excel application/vnd.ms-powerpoint application/vnd.ms-outlook application/vnd.ms-project"
    " application/vnd.visio application/x-mspublisher application/x-ole-storage application/rtf application/postscript"
    " application/x-tar application/x-cpio application/x-archive application/x-sqlite3 application/wasm"
    " application/x-executable application/x-sharedlib application/x-mach-binary application/x-netcdf"
    " application/vnd.microsoft.portable-executable model/obj model/stl model/gltf-binary font/ttf font/collection"
)

# Formats that parsers/image.py opens.
PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/tiff", "image/bmp"})

_WITH_LOCATION = _set(
    "image/jpeg image/png image/apng image/webp image/avif image/heic image/heif image/heic-sequence image/heif-sequence"
    " image/gif image/tiff image/x-adobe-dng image/x-canon-cr2 image/x-nikon-nef image/x-sony-arw"
)

# Types that can't run script, so a browser may show them (T32). PDF and SVG are not among them.
INLINE_TYPES = _set(
    "image/png image/jpeg image/gif image/webp image/avif text/plain audio/mpeg audio/mp4 audio/aac audio/ogg"
    " audio/wav audio/flac audio/webm video/mp4 video/x-m4v video/webm video/ogg video/quicktime"
)

# Containers whose content only the extension tells: the types that each may be.
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
_OLE = _set(
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
    """The type in lower case, without parameters or aliases; application/octet-stream if it is malformed."""
    bare = mime.partition(";")[0].strip().lower()
    return _ALIASES.get(bare, bare) if _MIME.fullmatch(bare) else OCTET_STREAM


def mime_for_extension(extension: str) -> str | None:
    """The usual type of files with this extension (without its dot, case-folded)."""
    return _BY_EXTENSION.get(extension)


def usual_extension(mime: str) -> str | None:
    """The usual extension of files of this type, without its dot."""
    mime = canonical(mime)
    return next((extension for extension, found in _BY_EXTENSION.items() if found == mime), None)


def file_type(mime: str) -> FileType:
    """The family, by which ``file_type=`` filters and statistics count."""
    mime = canonical(mime)
    if _DOCUMENTS.fullmatch(mime):
        return "document"
    if mime in _ARCHIVES:
        return "archive"
    if _is_text(mime):
        return "text"
    match mime.partition("/")[0]:
        case "image" | "video" | "audio" as family:
            return family
    return "other"


def may_shrink(mime: str, size: int) -> bool:
    """Whether to try compression: for text and uncompressed formats of at least 4 KiB (buckets store whole blocks)."""
    mime = canonical(mime)
    return size >= 4096 and (mime in _UNCOMPRESSED or mime == "image/svg+xml" or _is_text(mime))


def may_hold_location(mime: str) -> bool:
    """Whether files of this type may contain, in EXIF or XMP, where a picture was taken."""
    return canonical(mime) in _WITH_LOCATION


def may_inline(mime: str) -> bool:
    """Whether a browser may show the type instead of saving it."""
    return canonical(mime) in INLINE_TYPES


def served_type(mime: str, charset: str = "utf-8") -> str:
    """The Content-Type of a download: the detected type, never the client's (T8). Plain text gets a charset, since
    browsers used to guess UTF-7."""
    mime = canonical(mime)
    return f"text/plain; charset={charset}" if mime == "text/plain" else mime


def resolve(extension: str, detected: str, empty: bool = False) -> str:
    """The MIME type to store, from the extension and the type that was detected in the bytes.

    The bytes decide. The extension tells only what they can't: which plain text, which OLE document, which use of a
    container, and the type of an empty file (T11). Raises TypeMismatch if active markup, a script or a program has
    the extension of an image or a document (T9)."""
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
    """Which types are allowed. Entries are extensions (with or without a dot), MIME types, or ``image/*``.

    An empty allow-list allows all that is not denied. Extension and type must both pass (T10); a name without an
    extension is judged by its type alone. An entry of one kind covers the other: ``pdf`` covers application/pdf, ``image/*``
    covers the extension png."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    _allow: _Entries = field(init=False, repr=False, compare=False)
    _deny: _Entries = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allow", _Entries.parse(self.allowed))
        object.__setattr__(self, "_deny", _Entries.parse(self.denied))

    def check(self, extension: str, mime: str) -> None:
        """Check an extension and the type that ``resolve`` returned. Raises TypeNotAllowed."""
        self._check_extension(extension)
        self._check_type(canonical(mime), needs_permission=True)

    def check_name(self, extension: str, claimed_mime: str | None = None) -> None:
        """Check before any byte has arrived. ``claimed_mime`` is a hint that can only lead to a refusal. Raises
        TypeNotAllowed."""
        self._check_extension(extension)
        claimed = canonical(claimed_mime or "")
        if claimed not in _GENERIC:
            self._check_type(claimed, needs_permission=not extension)

    def _check_type(self, mime: str, *, needs_permission: bool) -> None:
        permitted = not (needs_permission and self.allowed) or self._allow.names_type(mime, specific=False)
        if self._deny.names_type(mime, specific=True) or not permitted:
            raise TypeNotAllowed(f"Files of type {mime} are not allowed")

    def _check_extension(self, extension: str) -> None:
        permitted = not (extension and self.allowed) or self._allow.names_extension(extension)
        if self._deny.names_extension(extension) or not permitted:
            raise TypeNotAllowed(f"Files ending in .{extension} are not allowed")


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
                extensions.add(last)  # "tar.gz" is "gz": only the last extension counts
        return cls(frozenset(extensions), frozenset(types), tuple(families))

    def names_extension(self, extension: str) -> bool:
        if extension in self.extensions:
            return True
        mime = mime_for_extension(extension)
        return mime is not None and self._names(mime)

    def names_type(self, mime: str, *, specific: bool) -> bool:
        """``specific``: an extension does not cover a generic type, so that denying bat does not deny plain text."""
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
    """Whether libmagic may only guess: prose can look like C, troff or CSV."""
    return _is_text(mime) and mime not in _ACTIVE and mime != "text/xml"
