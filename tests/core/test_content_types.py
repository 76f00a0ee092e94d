from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.content_types import (
    TYPES_BY_EXTENSION,
    Found,
    Rules,
    canonical,
    file_type,
    may_hold_location,
    may_inline,
    mime_for_extension,
    resolve,
    served_type,
)
from core.errors import TypeMismatch, TypeNotAllowed
from tests import file_types
from tests.paths import ROOT

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
EXE = "application/vnd.microsoft.portable-executable"


@pytest.mark.parametrize(
    ("mime", "family"),
    [
        ("image/png", "image"),
        ("image/svg+xml", "image"),
        ("video/mp4", "video"),
        ("audio/mpeg", "audio"),
        ("application/pdf", "document"),
        (DOCX, "document"),
        ("application/vnd.ms-excel.sheet.macroEnabled.12", "document"),
        ("application/msword", "document"),
        ("application/vnd.oasis.opendocument.text", "document"),
        ("application/rtf", "document"),
        ("text/plain; charset=utf-8", "text"),
        ("text/csv", "text"),
        ("application/json", "text"),
        ("application/geo+json", "text"),
        ("application/zip", "archive"),
        ("application/x-7z-compressed", "archive"),
        ("application/x-gzip", "archive"),
        ("application/octet-stream", "other"),
        ("nonsense", "other"),
        ("font/woff2", "other"),
        (EXE, "other"),
    ],
)
def test_families(mime: str, family: str) -> None:
    assert file_type(mime) == family


def test_the_table_of_extensions() -> None:
    for extension, mime in {
        "jpg": "image/jpeg",
        "docx": DOCX,
        "jsonl": "application/x-ndjson",
        "md": "text/markdown",
        "heic": "image/heic",
        "avif": "image/avif",
        "7z": "application/x-7z-compressed",
        "zst": "application/zstd",
        "exe": EXE,
        "log": "text/plain",
    }.items():
        assert mime_for_extension(extension) == mime
        assert canonical(mime) == mime
    assert mime_for_extension("") is None
    assert mime_for_extension("nosuch") is None


@given(st.text())
def test_T8_a_type_is_always_a_plain_header_value(mime: str) -> None:
    assert served_type(mime).isascii() and served_type(mime).isprintable()


@pytest.mark.parametrize(
    "mime",
    [
        "text/html",
        "image/svg+xml",
        "text/xml",
        "application/pdf",
        "text/javascript",
        "text/css",
        "application/octet-stream",
        "application/xhtml+xml",
        "",
        "text/csv",
        "image/tiff",
    ],
)
def test_T32_types_never_shown_inline(mime: str) -> None:
    assert not may_inline(mime)


def test_T32_types_that_may_be_shown_inline() -> None:
    for mime in (
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "text/plain",
        "audio/x-wav",
        "video/mp4",
    ):
        assert may_inline(mime)
    assert served_type("text/plain") == "text/plain; charset=utf-8"
    assert served_type("IMAGE/PNG; x=y") == "image/png"


def text(mime: str = "text/plain", *, certain: bool = False) -> Found:
    return Found(mime, certain, frozenset({"text"}))


def certain(mime: str) -> Found:
    return Found(mime, certain=True)


HTML, PHP, SVG = (text(mime, certain=True) for mime in ("text/html", "text/x-php", "image/svg+xml"))
ANY = Found("application/octet-stream", forms=frozenset({"any"}))


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "svg", "mp4", "mov", "mp3", "wav", "pdf"])
@pytest.mark.parametrize("found", [HTML, PHP, certain("text/html"), certain("application/xhtml+xml"), certain(EXE)])
def test_T9_deceptive_content_is_rejected(extension: str, found: Found) -> None:
    with pytest.raises(TypeMismatch):
        resolve(extension, found)


@pytest.mark.parametrize("extension", ["doc", "docx", "xls", "xlsx", "ppt", "ods", "rtf"])
def test_T9_an_office_document_may_be_a_web_page_but_nothing_else_active(extension: str) -> None:
    assert resolve(extension, HTML) == "text/html"
    assert resolve(extension, certain("application/xhtml+xml")) == "application/xhtml+xml"
    for found in (SVG, PHP, certain(EXE), certain("application/x-mach-binary"), certain("application/x-msi")):
        with pytest.raises(TypeMismatch):
            resolve(extension, found)


@pytest.mark.parametrize("found", [HTML, PHP, SVG, text("text/x-shellscript", certain=True)])
@pytest.mark.parametrize("extension", ["txt", "csv", "md", "json", "js", "html", "tex", "ts", "eml", "ini"])
def test_T9_active_text_with_the_name_of_a_text_is_never_shown_as_what_it_is(extension: str, found: Found) -> None:
    mime = resolve(extension, found)
    assert mime in TYPES_BY_EXTENSION[extension] and file_type(mime) == "text"
    assert served_type(mime) == "text/plain; charset=utf-8" or not may_inline(mime)


@pytest.mark.parametrize(
    ("extension", "found", "stored"),
    [
        ("png", certain("image/jpeg"), "image/jpeg"),
        ("pdf", certain("image/png"), "image/png"),
        ("docx", certain("application/vnd.ms-excel"), "application/vnd.ms-excel"),
        ("txt", certain("application/pdf"), "application/pdf"),
        ("txt", certain(EXE), EXE),
        ("", HTML, "text/html"),
        ("nosuch", certain("application/pdf"), "application/pdf"),
        ("dat", certain("image/png"), "image/png"),
        ("zip", HTML, "text/html"),
        ("xls", text(), "text/plain"),
        ("gz", text("application/json"), "application/octet-stream"),
        ("zip", text(), "application/octet-stream"),
        ("docx", text(), "application/octet-stream"),
        ("out", text(), "text/plain"),
        ("pdf", text(), "application/octet-stream"),
        ("svg", text("text/xml"), "application/octet-stream"),
        ("mp4", text(), "application/octet-stream"),
        ("txt", ANY, "application/octet-stream"),
        ("docx", ANY, "application/octet-stream"),
    ],
)
def test_T9_other_mismatches_are_stored_as_what_the_bytes_are(extension: str, found: Found, stored: str) -> None:
    assert resolve(extension, found) == stored


def test_T8_an_extension_with_several_types() -> None:
    assert resolve("ts", text()) == "text/x-typescript"
    assert resolve("ts", text("text/javascript", certain=True)) == "text/x-typescript"
    assert resolve("ts", certain("video/mp2t")) == "video/mp2t"
    assert resolve("ts", ANY) == "application/octet-stream"
    assert resolve("key", text()) == "application/x-pem-file"
    assert resolve("ai", certain("application/pdf")) == "application/pdf"
    assert resolve("doc", certain("application/rtf")) == "application/rtf"
    assert resolve("pub", text()) == "text/plain"


def test_T11_an_empty_file_has_the_type_of_its_extension() -> None:
    assert resolve("pdf", Found("inode/x-empty")) == "application/pdf"
    assert resolve("txt", Found("inode/x-empty")) == "text/plain"
    assert resolve("", Found("inode/x-empty")) == "application/octet-stream"


def test_T8_the_page_of_types_is_up_to_date() -> None:
    assert (ROOT / "docs/types.md").read_text() == file_types.document()


def test_T37_a_picture_can_not_hide_its_location_behind_another_name() -> None:
    for extension in ("bin", "mp3", "stl", "dng", "txt", "zip", "heic"):
        assert may_hold_location(resolve(extension, certain("image/jpeg")))
    for extension in ("tif", "dng", "cr2", "nef", "arw"):
        assert may_hold_location(resolve(extension, Found("image/tiff", certain=True, forms=frozenset({"tiff"}))))
    assert may_hold_location(resolve("cr3", certain("image/x-canon-cr3")))


def allows(rules: Rules, extension: str, mime: str) -> bool:
    try:
        rules.check(extension, mime)
    except TypeNotAllowed:
        return False
    return True


def test_T10_an_allow_list_applies_to_extension_and_type() -> None:
    rules = Rules(allowed=("pdf", ".TXT", "image/*", "text/csv"))
    assert allows(rules, "pdf", "application/pdf")
    assert allows(rules, "png", "image/png")
    assert allows(rules, "csv", "text/csv")
    assert allows(rules, "txt", "text/plain")
    assert allows(rules, "", "image/png")
    assert not allows(rules, "exe", "application/pdf")  # the type passes, the extension doesn't
    assert not allows(rules, "pdf", EXE)  # the extension passes, the type doesn't
    assert not allows(rules, "exe", EXE)
    assert not allows(rules, "", EXE)
    assert not allows(rules, "nosuch", "image/png")


def test_T10_a_deny_list_applies_to_extension_and_type() -> None:
    rules = Rules(denied=("exe", "video/*", "text/html", "bat", "zip"))
    assert allows(rules, "pdf", "application/pdf")
    assert not allows(rules, "exe", "text/plain")
    assert not allows(rules, "bin", "application/x-dosexec")  # a renamed program
    assert not allows(rules, "dat", "application/zip")
    assert not allows(rules, "mkv", "application/octet-stream")
    assert not allows(rules, "bin", "video/mp4")
    assert not allows(rules, "htm", "text/plain")
    assert not allows(rules, "txt", "text/html")
    assert allows(rules, "txt", "text/plain")
    assert allows(Rules(denied=("log",)), "txt", "text/plain")  # a shared type isn't denied by one extension


def test_T10_a_listed_extension_allows_each_of_its_types_and_no_other() -> None:
    typescript, film = ("ts", "text/x-typescript"), ("ts", "video/mp2t")
    assert allows(Rules(allowed=("ts",)), *typescript) and allows(Rules(allowed=("ts",)), *film)
    assert allows(Rules(allowed=("video/*",)), *film) and not allows(Rules(allowed=("video/*",)), *typescript)
    assert allows(Rules(allowed=("application/typescript",)), *typescript)
    assert allows(Rules(denied=("video/*",)), *typescript) and not allows(Rules(denied=("video/*",)), *film)
    assert not allows(Rules(denied=("ts",)), *typescript)
    Rules(denied=("video/*",)).check_name("ts", "video/mp2t")  # so browsers call TypeScript
    assert allows(Rules(denied=("doc",)), "rtf", "application/rtf")
    assert allows(Rules(allowed=("ai",)), "ai", "application/pdf")
    assert not allows(Rules(allowed=("ai",)), "", "application/pdf")


def test_T10_a_listed_extension_that_tells_nothing_allows_all_but_programs() -> None:
    rules = Rules(allowed=("step", "bin"))
    for extension in ("step", "bin"):
        assert allows(rules, extension, "text/plain") and allows(rules, extension, "image/png")
        assert not allows(rules, extension, EXE)
    assert not allows(rules, "iges", "text/plain")


@pytest.mark.parametrize(
    ("entry", "extension", "mime"),
    [
        ("text/x-python", "py", "text/x-python"),
        ("text/x-script.python", "py", "text/x-python"),
        ("application/x-zip-compressed", "zip", "application/zip"),
        ("application/vnd.ms-excel.sheet.macroEnabled.12", "xlsm", "application/vnd.ms-excel.sheet.macroenabled.12"),
        ("application/x-yaml", "yml", "application/yaml"),
        ("audio/x-m4a", "m4a", "audio/mp4"),
        ("image/heic-sequence", "heic", "image/heic"),
        ("video/matroska", "mkv", "video/x-matroska"),
        ("application/x-x509-ca-cert", "crt", "application/x-pem-file"),
        ("model/x.stl-binary", "stl", "model/stl"),
    ],
)
def test_T10_other_names_of_a_type(entry: str, extension: str, mime: str) -> None:
    Rules(allowed=(entry,)).check_name(extension, entry)
    assert allows(Rules(allowed=(entry,)), extension, mime)
    assert not allows(Rules(denied=(entry,)), extension, mime)
    assert not allows(Rules(denied=(entry,)), "dat", mime)


def test_T10_deny_wins_over_allow_and_an_empty_list_allows() -> None:
    assert not allows(Rules(("image/*",), ("image/gif",)), "gif", "image/gif")
    assert allows(Rules(("image/*",), ("image/gif",)), "png", "image/png")
    assert allows(Rules(), "exe", EXE)
    assert allows(Rules(("*/*",)), "exe", EXE)


def test_T10_rules_before_the_first_byte() -> None:
    rules = Rules(allowed=("pdf", "image/*"), denied=("image/gif",))
    rules.check_name("pdf")
    rules.check_name("pdf", "application/octet-stream")
    rules.check_name("jpeg", "text/plain")  # the declared type is only a hint
    rules.check_name("", None)
    for extension, claimed in [
        ("exe", None),
        ("gif", None),
        ("png", "image/gif"),
        ("", "application/zip"),
        ("exe", "image/png"),
    ]:
        with pytest.raises(TypeNotAllowed):
            rules.check_name(extension, claimed)
