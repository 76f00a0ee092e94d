from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.content_types import canonical, resolve
from core.errors import TypeMismatch
from services.library.sniff import detect
from tests.paths import ROOT

OPEN_XML = "application/vnd.openxmlformats-officedocument."


def picture(format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, format)
    return out.getvalue()


def package(*entries: tuple[str, str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, text in entries:
            archive.writestr(name, text)
    return out.getvalue()


def content_types(main: str) -> tuple[str, str]:
    return ("[Content_Types].xml", f'<Types><Override PartName="/x.xml" ContentType="application/{main}"/></Types>')


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_T8_pictures(format: str) -> None:
    assert canonical(detect(picture(format))) == f"image/{format}"


def test_T8_kinds_of_files() -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    for data, mime in [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (b"hello, world\n", "text/plain"),
        ("grüße\n".encode(), "text/plain"),
        (b'{"a": [1, 2]}', "application/json"),
        (gzip.compress(b"x"), "application/gzip"),
        (tar.getvalue(), "application/x-tar"),
        (package(("a.txt", "x")), "application/zip"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miafMA1B", "image/avif"),
        (os.urandom(16).join([b"\xfe\x01\x02"] * 50), "application/octet-stream"),
        (b"", "inode/x-empty"),
    ]:
        assert canonical(detect(data)) == mime


@pytest.mark.parametrize(
    ("text", "mime"),
    [
        ("<html>", "text/html"),
        ("  \n<!DOCTYPE HTML>", "text/html"),
        ("<!-- hello --> <script>alert(1)</script>", "text/html"),
        ("<!-- never closed <p>", "text/html"),
        ("<SCRIPT src=x>", "text/html"),
        ("<iframe src=x>", "text/html"),
        ("<svg onload=alert(1)>", "image/svg+xml"),
        ("<?xml version='1.0'?>\n<!-- a --><svg xmlns='x'/>", "image/svg+xml"),
        ("<?xml version='1.0'?><!DOCTYPE svg PUBLIC 'x' 'y'><svg/>", "image/svg+xml"),
        ("<s:svg xmlns:s='x'/>", "image/svg+xml"),
        ("<?xml version='1.0'?><html xmlns='x'/>", "application/xhtml+xml"),
        ("<?php system('id');", "text/x-php"),
        ("<?= 1 ?>", "text/x-php"),
        ("#!/bin/sh\nrm", "text/x-shellscript"),
        ("#!/usr/bin/env -S python3 -u\n", "text/x-python"),
        ("#! /usr/bin/perl\n", "text/x-perl"),
        ("#!/usr/bin/env node\n", "text/javascript"),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8-sig", "utf-16"])
def test_T9_active_text_is_recognised(text: str, mime: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert detect(data) == mime
    with pytest.raises(TypeMismatch):
        resolve("jpg", detect(data))


@pytest.mark.parametrize("text", ["a < b", "<b", "#hashtag", "#! markdown", "MZ is a band", "< html", "import os"])
def test_T9_prose_is_not_active_text(text: str) -> None:
    assert not detect(text.encode()).startswith(("text/html", "text/x-shell", "application/vnd.microsoft"))


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"MZ\x90\x00\x03\x00\x00\x00", "application/vnd.microsoft.portable-executable"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(8), "application/x-executable"),
        (b"\xcf\xfa\xed\xfe\x07\x00\x00\x01", "application/x-mach-binary"),
        (b"\xca\xfe\xba\xbe\x00\x00\x00\x02", "application/x-mach-binary"),
        (b"\xca\xfe\xba\xbe\x00\x00\x00\x3d", "application/x-java-applet"),
        (b"\x00asm\x01\x00\x00\x00", "application/wasm"),
    ],
)
def test_T9_programs_are_recognised(data: bytes, mime: str) -> None:
    assert detect(data) == mime
    with pytest.raises(TypeMismatch):
        resolve("pdf", detect(data))


def test_office_documents_in_any_order_of_entries() -> None:
    word = content_types("vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml")
    macro = content_types("vnd.ms-excel.sheet.macroEnabled.main+xml")
    assert detect(package(word, ("word/document.xml", ""))) == OPEN_XML + "wordprocessingml.document"
    assert detect(package(("docProps/app.xml", "x" * 500), word)) == OPEN_XML + "wordprocessingml.document"
    assert detect(package(("xl/workbook.xml", ""), macro)) == "application/vnd.ms-excel.sheet.macroenabled.12"
    assert detect(package(("_rels/.rels", ""), ("ppt/x.xml", ""))) == OPEN_XML + "presentationml.presentation"
    assert detect(package(("readme.txt", "x"), ("word/notes.txt", "just a folder"))) == "application/zip"
    nested = package(word, ("word/document.xml", ""), compression=zipfile.ZIP_STORED)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("inner.docx", nested)
    assert detect(outer.getvalue()) == "application/zip"


@given(
    st.binary(max_size=300)
    | st.builds(
        bytes.__add__,
        st.sampled_from([b"PK\x03\x04", b"<?xml ", b"<!--", b"#!", b"MZ", b"\xff\xfe"]),
        st.binary(max_size=200),
    )
)
def test_T8_detection_never_raises(data: bytes) -> None:
    assert "/" in detect(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<!--" * 20_000,
        b"<!-- -->" * 9_000,
        b" " * 70_000,
        b"#!" + b"-x " * 20_000,
        b"PK\x03\x04" * 20_000,
        b"<?xml " * 10_000,
    ],
)
def test_T8_detection_is_never_slow(data: bytes) -> None:
    assert detect(data)


def test_detection_by_many_threads() -> None:
    samples = {picture("png"): "image/png", b"%PDF-1.7\n": "application/pdf", b"plain": "text/plain"}
    with ThreadPoolExecutor(16) as pool:
        for data, found in zip(list(samples) * 100, pool.map(detect, list(samples) * 100), strict=True):
            assert found == samples[data]


def test_without_a_system_library_the_wheel_is_used_and_the_environment_restored() -> None:
    """Children would inherit what pylibmagic puts into the environment."""
    program = (
        "import os, ctypes; before, load = dict(os.environ), ctypes.CDLL.__init__\n"
        "from services.library import sniff; sniff._open_system = lambda: None\n"
        "assert sniff.detect(b'%PDF-1.7') == 'application/pdf'\n"
        "import magic; assert 'pylibmagic' in magic.libmagic._name\n"
        "assert dict(os.environ) == before and ctypes.CDLL.__init__ is load\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_T8_a_guess_at_an_old_program_is_ignored() -> None:
    """One in a hundred random files looks like a .COM program, and rules against programs refused it."""
    assert {detect(bytes([0xB8, n, 0xD8, 0x59]) + bytes(range(256))) for n in range(256)} <= {
        "application/octet-stream"
    }
