from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.content_types import Rules, canonical, file_type, may_inline, mime_for_extension, resolve, served_type
from core.errors import TypeMismatch, TypeNotAllowed

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


@pytest.mark.parametrize(
    ("extension", "detected"),
    [
        ("png", "text/html"),
        ("jpg", "image/svg+xml"),
        ("gif", "text/x-php"),
        ("pdf", "text/html"),
        ("docx", EXE),
        ("png", "application/x-dosexec"),
        ("jpg", "application/x-pie-executable"),
        ("pdf", "text/x-shellscript"),
        ("svg", "text/html"),
        ("doc", "application/x-mach-binary"),
        ("webp", "application/javascript"),
        ("odt", "application/xhtml+xml"),
    ],
)
def test_T9_deceptive_content_is_rejected(extension: str, detected: str) -> None:
    with pytest.raises(TypeMismatch):
        resolve(extension, detected)


@pytest.mark.parametrize(
    ("extension", "detected", "stored"),
    [
        ("png", "image/jpeg", "image/jpeg"),
        ("pdf", "image/png", "image/png"),
        ("pdf", "text/plain", "text/plain"),
        ("mp4", "text/html", "text/html"),
        ("txt", "text/html", "text/html"),
        ("csv", "text/html", "text/html"),
        ("docx", "application/zip", "application/zip"),
        ("exe", EXE, EXE),
        ("sh", "text/x-shellscript", "text/x-shellscript"),
        ("svg", "image/svg+xml", "image/svg+xml"),
        ("", "text/html", "text/html"),
        ("nosuch", "application/pdf", "application/pdf"),
        ("txt", "text/x-shellscript", "text/x-shellscript"),
        ("svg", "text/xml", "text/xml"),
    ],
)
def test_T9_other_mismatches_are_stored_as_detected(extension: str, detected: str, stored: str) -> None:
    assert resolve(extension, detected) == stored


@pytest.mark.parametrize(
    ("extension", "detected", "stored"),
    [
        ("csv", "text/plain", "text/csv"),
        ("md", "text/plain", "text/markdown"),
        ("md", "text/html", "text/markdown"),
        ("js", "text/plain", "text/javascript"),
        ("html", "text/plain", "text/html"),
        ("json", "text/plain", "application/json"),
        ("jsonl", "application/json", "application/x-ndjson"),
        ("txt", "text/x-c", "text/plain"),
        ("txt", "text/csv", "text/plain"),
        ("gpx", "text/xml", "application/gpx+xml"),
        ("doc", "application/x-ole-storage", "application/msword"),
        ("xls", "application/CDFV2", "application/vnd.ms-excel"),
        ("m4a", "video/mp4", "audio/mp4"),
        ("ogg", "application/ogg", "audio/ogg"),
        ("dng", "image/tiff", "image/x-adobe-dng"),
        ("ts", "text/plain", "text/plain"),
    ],
)
def test_the_extension_decides_if_the_content_is_ambiguous(extension: str, detected: str, stored: str) -> None:
    assert resolve(extension, detected) == stored


def test_T11_an_empty_file_has_the_type_of_its_extension() -> None:
    assert resolve("pdf", "inode/x-empty", empty=True) == "application/pdf"
    assert resolve("txt", "application/x-empty") == "text/plain"
    assert resolve("", "inode/x-empty", empty=True) == "application/octet-stream"


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
