"""What a file is: its MIME type and family, whether rules allow it, and whether a browser may show it.

Bytes veto, names decide: ``resolve`` takes the extension's type where the bytes allow it, else what the bytes are, and refuses
active content behind a harmless name (T8, T9; docs/types.md). services/library/sniff.py tells what the bytes are. A type says
nothing about safety: ``may_inline`` is an allow-list, and everything else is a download (T32).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from core.errors import TypeMismatch, TypeNotAllowed

FileType = Literal["image", "video", "audio", "document", "text", "archive", "other"]

OCTET_STREAM = "application/octet-stream"
EMPTY = "inode/x-empty"  # libmagic's type of an empty file


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# MIME types, each with its extensions, the usual one first: subtype=extension,extension. A subtype alone is its own extension.
# An extension may have several types; the first that the bytes allow is taken. A heading has the types' first part and their
# forms: the bytes that may be such a file if it is named so. ``signature``: only bytes that are recognised as this type.
# ``text``: any text. ``any``: also bytes of which nothing is recognised. Others are containers, whose contents only the name
# tells: any ZIP, OLE file, film with an ``ftyp`` box ...
_TYPES = """
image signature: jpeg=jpg,jpeg,jpe,jfif gif webp avif=avif,avifs jxl bmp=bmp,dib svg+xml=svg,svgz vnd.microsoft.icon=ico,cur
  jp2=jp2,jpx,j2k vnd.adobe.photoshop=psd,psb x-canon-cr3=cr3 x-portable-pixmap=ppm x-portable-graymap=pgm
  x-portable-bitmap=pbm x-xcf=xcf vnd.djvu=djvu,djv vnd.dwg=dwg qoi
image png: png apng
image heif: heic=heic,heics heif=heif,heifs,hif
image tiff: tiff=tif,tiff x-canon-cr2=cr2 x-nikon-nef=nef x-sony-arw=arw
image tiff any: x-adobe-dng=dng
image any: x-tga=tga
image text any: vnd.dxf=dxf
video ftyp: mp4=mp4,mp4v,f4v x-m4v=m4v quicktime=mov,qt 3gpp=3gp 3gpp2=3g2
video matroska: webm x-matroska=mkv,mk3d
video ogg: ogg=ogv
video asf: x-ms-wmv=wmv x-ms-asf=asf
video signature: mpeg=mpg,mpeg,mpe,m2v,vob mp2t=ts,m2ts,mts,m2t x-msvideo=avi x-flv=flv
audio id3 any: mpeg=mp3,mp2,mpga aac
audio id3: flac
audio ftyp: mp4=m4a,m4b
audio ogg: ogg=ogg,oga,opus,spx
audio matroska: webm=weba x-matroska=mka
audio asf: x-ms-wma=wma
audio signature: wav aiff=aif,aiff,aifc midi=mid,midi amr basic=au,snd
audio text: x-mpegurl=m3u,m3u8
application ole: msword=doc,dot vnd.ms-excel=xls,xlt,xla vnd.ms-powerpoint=ppt,pps,pot vnd.visio=vsd vnd.ms-outlook=msg
  x-mspublisher=pub vnd.ms-project=mpp x-msi=msi,msp
application zip encrypted: vnd.openxmlformats-officedocument.wordprocessingml.document=docx
  vnd.openxmlformats-officedocument.wordprocessingml.template=dotx
  vnd.openxmlformats-officedocument.spreadsheetml.sheet=xlsx
  vnd.openxmlformats-officedocument.spreadsheetml.template=xltx
  vnd.openxmlformats-officedocument.presentationml.presentation=pptx
  vnd.openxmlformats-officedocument.presentationml.slideshow=ppsx
  vnd.openxmlformats-officedocument.presentationml.template=potx vnd.ms-word.document.macroenabled.12=docm
  vnd.ms-excel.sheet.macroenabled.12=xlsm vnd.ms-excel.sheet.binary.macroenabled.12=xlsb
  vnd.ms-powerpoint.presentation.macroenabled.12=pptm vnd.ms-word.template.macroenabled.12=dotm
  vnd.ms-excel.template.macroenabled.12=xltm vnd.ms-powerpoint.slideshow.macroenabled.12=ppsm
  vnd.ms-powerpoint.template.macroenabled.12=potm
application zip: zip vnd.oasis.opendocument.text=odt vnd.oasis.opendocument.text-template=ott
  vnd.oasis.opendocument.spreadsheet=ods vnd.oasis.opendocument.spreadsheet-template=ots
  vnd.oasis.opendocument.presentation=odp vnd.oasis.opendocument.presentation-template=otp vnd.oasis.opendocument.graphics=odg
  vnd.oasis.opendocument.formula=odf vnd.apple.pages=pages vnd.apple.numbers=numbers vnd.apple.keynote=key
  epub+zip=epub vnd.ms-xpsdocument=xps,oxps java-archive=jar,war,ear vnd.android.package-archive=apk
  vnd.google-earth.kmz=kmz
application signature: postscript=ps,eps,ai pdf=pdf,ai rtf=rtf,doc x-mobipocket-ebook=mobi,prc onenote=one x-tar=tar
  gzip=gz,tgz,svgz x-bzip2=bz2,tbz,tbz2 x-xz=xz,txz zstd=zst,tzst x-lzip=lz x-lz4=lz4 x-7z-compressed=7z vnd.rar=rar
  x-compress=z vnd.ms-cab-compressed=cab x-cpio=cpio x-archive=a,ar vnd.debian.binary-package=deb x-rpm=rpm
  vnd.microsoft.portable-executable=exe,dll,scr,sys,com,cpl,ocx,pif x-mach-binary=dylib x-java-applet=class wasm
  x-ms-shortcut=lnk x-sqlite3=sqlite,sqlite3,db vnd.apache.arrow.file=arrow,feather x-shockwave-flash=swf
  x-bittorrent=torrent
application elf: x-executable=elf,out,run x-sharedlib=so
application hdf5 any: x-hdf5=h5,hdf5 x-netcdf=nc
application any: octet-stream=bin,dat vnd.apache.parquet=parquet x-iso9660-image=iso x-apple-diskimage=dmg x-lzma=lzma
  x-pkcs12=p12,pfx
application text any: pgp-encrypted=pgp,gpg,asc pkcs8=p8 x-pem-file=pem,crt,cer,key
application text: xhtml+xml=xhtml,xht mbox json=json,map x-ndjson=jsonl,ndjson geo+json=geojson ld+json=jsonld
  x-ipynb+json=ipynb manifest+json=webmanifest yaml=yaml,yml toml sql graphql=graphql,gql x-tex=tex,latex,sty
  x-bibtex=bib x-subrip=sub rss+xml=rss atom+xml=atom gpx+xml=gpx vnd.google-earth.kml+xml=kml
text text: plain=txt,text,log,ini,conf,cfg,properties,env,lst,nfo,srt,pub,pot,dot html=html,htm css javascript=js,mjs,cjs csv
  tab-separated-values=tsv,tab markdown=md,markdown,mdown,mkd x-rst=rst asciidoc=adoc,asciidoc xml=xml,xsd,xsl,xslt
  calendar=ics vcard=vcf,vcard vtt x-python=py,pyw,pyi x-shellscript=sh,bash,zsh,ksh,fish x-perl=pl,pm x-ruby=rb
  x-php=php,phtml,php3,php4,php5,php7,phps,phar x-lua=lua x-tcl=tcl x-c=c,h x-c++=cc,cpp,cxx,hpp,hxx x-java=java
  x-csharp=cs x-go=go x-rust=rs x-swift=swift x-kotlin=kt,kts x-scala=scala x-typescript=tsx,ts,mts,cts x-jsx=jsx
  x-vue=vue,svelte x-scss=scss,sass,less x-r=r x-asm=asm,s x-diff=diff,patch x-makefile=mk x-msdos-batch=bat,cmd
  x-powershell=ps1,psm1 x-vbscript=vbs,vbe
message text: rfc822=eml,mht,mhtml
model text: gltf+json=gltf
model text any: stl obj
model signature: gltf-binary=glb
font sfnt: ttf
font sfnt any: otf
font signature: woff woff2 collection=ttc
"""

# Other names of these types, as libmagic's versions and clients write them.
_OTHER_NAMES = """
text/csv: application/csv
text/javascript: application/javascript application/x-javascript text/ecmascript application/ecmascript
text/xml: application/xml
application/json: text/json
application/rtf: text/rtf
application/yaml: text/yaml text/x-yaml application/x-yaml
application/toml: text/x-toml
text/markdown: text/x-markdown
text/vcard: text/x-vcard text/directory
text/calendar: text/x-vcalendar
text/x-shellscript: application/x-sh text/x-sh
text/x-python: text/x-script.python
text/x-php: application/x-httpd-php
text/x-c: text/x-csrc text/x-chdr
text/x-c++: text/x-c++src text/x-c++hdr
text/x-java: text/x-java-source
text/x-typescript: application/typescript text/typescript application/x-typescript
application/x-tex: text/x-tex application/x-latex
application/x-ndjson: application/x-ndjson+json application/jsonl application/x-jsonlines
application/x-pem-file: application/x-x509-ca-cert application/pem-certificate-chain application/pkix-cert
application/x-pkcs12: application/pkcs12
application/pgp-encrypted: application/pgp-keys application/pgp-signature
image/jpeg: image/jpg image/pjpeg
image/png: image/x-png
image/apng: image/vnd.mozilla.apng
image/heic: image/heic-sequence
image/heif: image/heif-sequence
image/bmp: image/x-ms-bmp image/x-bmp
image/svg+xml: image/svg
image/vnd.microsoft.icon: image/x-icon image/x-win-bitmap
image/jp2: image/jpx image/jpm image/x-jp2-codestream
image/qoi: image/x-qoi
image/vnd.adobe.photoshop: image/x-photoshop application/x-photoshop
image/vnd.dwg: image/x-dwg application/acad application/x-dwg
image/vnd.dxf: image/x-dxf application/dxf
image/x-portable-graymap: image/x-portable-greymap
audio/wav: audio/x-wav audio/wave audio/vnd.wave
audio/mpeg: audio/mp3 audio/x-mp3
audio/midi: audio/mid audio/x-midi
audio/mp4: audio/x-m4a
audio/flac: audio/x-flac
audio/aiff: audio/x-aiff
audio/aac: audio/x-hx-aac-adts audio/aacp audio/x-aac
audio/ogg: audio/opus audio/vorbis audio/x-vorbis+ogg application/ogg
audio/x-matroska: audio/matroska
audio/x-mpegurl: application/vnd.apple.mpegurl application/x-mpegurl
video/x-matroska: video/matroska
video/x-msvideo: video/avi
video/mp2t: video/vnd.dlna.mpeg-tts
application/pdf: application/x-pdf
application/postscript: application/eps image/x-eps application/illustrator
application/vnd.visio: application/vnd.ms-visio application/x-visio
application/vnd.apple.pages: application/x-iwork-pages-sffpages
application/vnd.apple.numbers: application/x-iwork-numbers-sffnumbers
application/vnd.apple.keynote: application/x-iwork-keynote-sffkey
application/vnd.ms-xpsdocument: application/oxps
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
application/x-msi: application/vnd.ms-msi
application/x-sqlite3: application/vnd.sqlite3
application/vnd.apache.parquet: application/parquet application/x-parquet
font/ttf: font/sfnt application/font-sfnt application/x-font-ttf
font/otf: application/vnd.ms-opentype application/x-font-otf
font/woff: application/font-woff application/x-font-woff
model/stl: application/sla application/vnd.ms-pki.stl model/x.stl-binary model/x.stl-ascii
inode/x-empty: application/x-empty
"""


def _rows(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(\w.*): ([^:]+)$(?=\n\w|\n\Z)", text, re.MULTILINE)


def _table() -> tuple[dict[str, tuple[str, ...]], dict[str, frozenset[str]]]:
    """The types of each extension, and the forms of each type."""
    extensions: dict[str, tuple[str, ...]] = {}
    forms: dict[str, frozenset[str]] = {}
    for heading, items in _rows(_TYPES):
        family, *of_these = heading.split()
        for item in items.split():
            subtype, _, named = item.partition("=")
            mime = f"{family}/{subtype}"
            forms[mime] = frozenset(of_these)
            for extension in (named or subtype).split(","):
                extensions[extension] = (*extensions.get(extension, ()), mime)
    return extensions, forms


TYPES_BY_EXTENSION, FORMS = _table()
_ALIASES = {name: mime for mime, names in _rows(_OTHER_NAMES) for name in names.split()}

_SCRIPTS = _set(
    "text/javascript text/x-shellscript text/x-python text/x-perl text/x-ruby text/x-php text/x-lua text/x-tcl"
    " text/x-msdos-batch text/x-powershell text/x-vbscript text/x-awk text/x-nawk text/x-gawk"
)
_EXECUTABLES = _set(
    "application/vnd.microsoft.portable-executable application/x-executable application/x-sharedlib"
    " application/x-object application/x-coredump application/x-mach-binary application/x-java-applet"
    " application/wasm application/x-msi application/x-ms-shortcut"
)
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
ACTIVE = _PAGES | {"image/svg+xml"} | _SCRIPTS | _EXECUTABLES

_DOCUMENTS = re.compile(
    r"application/(?:pdf|msword|rtf|epub\+zip|postscript|onenote|x-mobipocket-ebook|x-mspublisher"
    r"|vnd\.(?:ms-(?:excel|powerpoint|word|project|outlook|works|office|xpsdocument)\b.*"
    r"|openxmlformats-officedocument\..+|oasis\.opendocument\..+|apple\.(?:pages|numbers|keynote)|visio))"
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
    "image/jpeg image/png image/apng image/webp image/avif image/heic image/heif image/gif image/tiff image/x-adobe-dng"
    " image/x-canon-cr2 image/x-canon-cr3 image/x-nikon-nef image/x-sony-arw"
)

# Types that can't run script, so a browser may show them (T32). PDF and SVG are not among them.
INLINE_TYPES = _set(
    "image/png image/jpeg image/gif image/webp image/avif text/plain audio/mpeg audio/mp4 audio/aac audio/ogg"
    " audio/wav audio/flac audio/webm video/mp4 video/x-m4v video/webm video/ogg video/quicktime"
)

_GENERIC = frozenset({"text/plain", "text/xml", OCTET_STREAM})
_MIME = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


def canonical(mime: str) -> str:
    """The type in lower case, without parameters or aliases; application/octet-stream if it is malformed."""
    bare = mime.partition(";")[0].strip().lower()
    return _ALIASES.get(bare, bare) if _MIME.fullmatch(bare) else OCTET_STREAM


def mime_for_extension(extension: str) -> str | None:
    """The usual type of files with this extension (without its dot, case-folded)."""
    return TYPES_BY_EXTENSION.get(extension, (None,))[0]


def usual_extension(mime: str) -> str | None:
    """The usual extension of files of this type, without its dot."""
    mime = canonical(mime)
    return next((extension for extension, types in TYPES_BY_EXTENSION.items() if types[0] == mime), None)


def forms(mime: str) -> frozenset[str]:
    """Which bytes may be of this type (see ``_TYPES``); none for a type that is not in the table."""
    return FORMS.get(mime, frozenset())


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


@dataclass(frozen=True, slots=True)
class Found:
    """What the bytes of a file tell of its type."""

    mime: str  # what they are if the name tells nothing
    certain: bool = False  # whether that is certain, not text or a guess
    forms: frozenset[str] = frozenset()  # of the table: what they may be instead, if they are named so

    def may_be(self, mime: str) -> bool:
        """Whether the bytes allow a name of this type."""
        return mime in (self.mime, *self.forms) or not self.forms.isdisjoint(FORMS[mime])


def resolve(extension: str, found: Found) -> str:
    """The MIME type to store: the extension's where the bytes allow it, also of an empty file (T11), else the bytes'.

    Behind a name of another format, bytes of which nothing is certain are application/octet-stream. So is text behind the name
    of a picture, film, sound, archive or document (T8), except those of old Office, which programs give to texts. Raises
    TypeMismatch if active markup, a script or a program has the extension of a picture, film, sound or document (T9); but HTML
    may have that of an office document, as reports do."""
    named = TYPES_BY_EXTENSION.get(extension, (OCTET_STREAM,))
    if found.mime == EMPTY:
        return named[0]
    if named[0] == OCTET_STREAM:
        return found.mime
    if allowed := next(filter(found.may_be, named), None):
        return allowed
    family = file_type(named[0])
    harmless = family in ("image", "video", "audio", "document")
    disguised = ACTIVE - _PAGES if family == "document" and named[0] != "application/pdf" else ACTIVE
    if found.certain and harmless and found.mime in disguised:
        raise TypeMismatch(f"The name says {named[0]}, the content is {found.mime}")
    may_be_text = "ole" in forms(named[0]) or not (harmless or family == "archive")
    return found.mime if found.certain or ("text" in found.forms and may_be_text) else OCTET_STREAM


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
        self._check_type(extension, canonical(mime), needs_permission=True)

    def check_name(self, extension: str, claimed_mime: str | None = None) -> None:
        """Check before any byte has arrived. ``claimed_mime`` is a hint that can only lead to a refusal. Raises
        TypeNotAllowed."""
        self._check_extension(extension)
        claimed = canonical(claimed_mime or "")
        if claimed not in (*_GENERIC, *TYPES_BY_EXTENSION.get(extension, ())):
            self._check_type(extension, claimed, needs_permission=not extension)

    def _check_type(self, extension: str, mime: str, *, needs_permission: bool) -> None:
        permitted = not (needs_permission and self.allowed) or self._allow.allows_type(extension, mime)
        if self._deny.denies_type(mime) or not permitted:
            raise TypeNotAllowed(f"Files of type {mime} are not allowed")

    def _check_extension(self, extension: str) -> None:
        permitted = not (extension and self.allowed) or self._allow.names_extension(extension, any)
        if self._deny.names_extension(extension, all) or not permitted:
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

    def names_extension(self, extension: str, enough: Callable[[Iterable[bool]], bool]) -> bool:
        """``enough``: whether any or all types of the extension must be named."""
        types = TYPES_BY_EXTENSION.get(extension)
        return extension in self.extensions or (types is not None and enough(map(self._names, types)))

    def allows_type(self, extension: str, mime: str) -> bool:
        """A listed extension allows its own types and, if it tells none, every type but programs."""
        if extension in self.extensions:
            types = TYPES_BY_EXTENSION.get(extension, (OCTET_STREAM,))
            if mime in types or (OCTET_STREAM in types and mime not in _EXECUTABLES):
                return True
        return self._names(mime) or self._usual(mime)

    def denies_type(self, mime: str) -> bool:
        """An extension does not cover a generic type, so that denying bat does not deny plain text."""
        return self._names(mime) or (mime not in _GENERIC and self._usual(mime))

    def _usual(self, mime: str) -> bool:
        return any(mime_for_extension(extension) == mime for extension in self.extensions)

    def _names(self, mime: str) -> bool:
        return mime in self.types or mime.startswith(self.families or ("\0",))


def _is_text(mime: str) -> bool:
    named_so = mime.startswith("text/") or (mime.endswith(("+json", "+xml")) and mime[:6] != "image/")
    return named_so or forms(mime) == frozenset({"text"})
