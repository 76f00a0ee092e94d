from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.content_types import FORMS, TYPES_BY_EXTENSION, resolve, usual_extension
from core.errors import TypeMismatch
from core.names import extension as extension_of
from services.library.sniff import detect
from tests.file_types import BINARY, HTML, SIGNED, TEXT, box, ftyp, ole, open_xml, samples, transport_stream, zipped
from tests.paths import ROOT
from tests.samples import picture

OPEN_XML = "application/vnd.openxmlformats-officedocument."
WORD = OPEN_XML + "wordprocessingml.document"
EXCEL = OPEN_XML + "spreadsheetml.sheet"
STRICT = [
    mime for mime, forms in FORMS.items() if not forms & {"text", "any"} and mime != "application/vnd.apple.keynote"
]
TABLE = [(extension, mime) for extension, types in TYPES_BY_EXTENSION.items() for mime in types]


def content_types(main: str) -> tuple[str, str]:
    return ("[Content_Types].xml", f'<Types><Override PartName="/x.xml" ContentType="application/{main}"/></Types>')


def stored(name: str, data: bytes) -> str:
    return resolve(extension_of(name), detect(data))


@pytest.mark.parametrize(("extension", "mime"), TABLE)
def test_T8_each_type_can_be_reached_under_each_of_its_names(extension: str, mime: str) -> None:
    for data in samples(mime):
        assert resolve(extension, detect(data)) == mime


def test_T8_each_signature_is_recognised_without_a_name() -> None:
    for mime, data in SIGNED.items():
        assert detect(data).mime == mime


@pytest.mark.parametrize("mime", STRICT)
def test_T8_a_format_with_a_signature_is_contradicted_by_its_absence(mime: str) -> None:
    extension = usual_extension(mime) or ""
    for data in (BINARY, b"\x9c\x17\xe4" + BINARY, b"\0" * 100 + BINARY):
        assert resolve(extension, detect(data)) == "application/octet-stream"
    assert resolve(extension, detect(TEXT)) != mime


def test_T8_kinds_of_files() -> None:
    for data, mime in [
        (b"hello, world\n", "text/plain"),
        ("grüße\n".encode(), "text/plain"),
        (b'{"a": [1, 2]}', "application/json"),
        (BINARY, "application/octet-stream"),
        (b"", "inode/x-empty"),
    ]:
        assert detect(data).mime == mime


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
        ("<ns0:svg xmlns:ns0='x'/>", "image/svg+xml"),
        ("<!DOCTYPE plan [<!ENTITY a '>'> <!-- ]> --> ]><svg/>", "image/svg+xml"),
        ("<?xpacket begin=''?><!-- a --><!-- b --><svg/>", "image/svg+xml"),
        ("<?xml version='1.0'?><html xmlns='x'/>", "application/xhtml+xml"),
        ("<?php system('id');", "text/x-php"),
        ("<?= 1 ?>", "text/x-php"),
        ("<? system('id'); ?>", "text/x-php"),
        ("<!-- a -->\n<?\nsystem('id');", "text/x-php"),
        ("#!/bin/sh\nrm", "text/x-shellscript"),
        ("#!/usr/bin/env -S python3 -u\n", "text/x-python"),
        ("#! /usr/bin/perl\n", "text/x-perl"),
        ("#!/usr/bin/env node\n", "text/javascript"),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_T9_active_text_is_recognised(text: str, mime: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert (detect(data).mime, detect(data).certain) == (mime, True)
    for extension in ("jpg", "mp4", "mp3", "pdf"):
        with pytest.raises(TypeMismatch):
            resolve(extension, detect(data))


@pytest.mark.parametrize("text", ["a < b", "<b", "#hashtag", "#! markdown", "MZ is a band", "< html", "import os"])
def test_T9_prose_is_not_active_text(text: str) -> None:
    assert detect(text.encode()).mime == "text/plain"


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
    assert detect(data).mime == mime
    for extension in ("pdf", "doc", "mp4"):
        with pytest.raises(TypeMismatch):
            resolve(extension, detect(data))


def test_office_documents_in_any_order_of_entries() -> None:
    word = content_types("vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml")
    macro = content_types("vnd.ms-excel.sheet.macroEnabled.main+xml")
    inner = ("inner.docx", zipped(word, ("word/document.xml", ""), method=zipfile.ZIP_STORED))
    for data, mime in [
        (zipped(word, ("word/document.xml", "")), WORD),
        (zipped(("docProps/app.xml", "x" * 500), word), WORD),
        (zipped(("xl/workbook.xml", ""), macro), "application/vnd.ms-excel.sheet.macroenabled.12"),
        (zipped(("_rels/.rels", ""), ("ppt/x.xml", "")), OPEN_XML + "presentationml.presentation"),
        (zipped(("[content_types].XML", word[1].replace('"', "'"))), WORD),
        (zipped(("readme.txt", "x"), ("word/notes.txt", "just a folder")), "application/zip"),
        (zipped(inner), "application/zip"),
    ]:
        assert detect(data).mime == mime


@pytest.mark.parametrize(
    ("name", "data", "mime"),
    [
        # ZIP: the name tells, unless a manifest does
        ("a.docx", zipped(("docProps/app.xml", "x"), ("custom.xml", "x")), WORD),
        ("a.docx", open_xml("vnd.openxmlformats-officedocument.spreadsheetml.sheet"), EXCEL),
        ("a.zip", open_xml("vnd.openxmlformats-officedocument.spreadsheetml.sheet"), "application/zip"),
        ("app.apk", zipped(("classes.dex", "x"), ("AndroidManifest.xml", "x")), "application/vnd.android.package-archive"),
        ("app.apk.zip", zipped(("AndroidManifest.xml", "x")), "application/zip"),
        ("photos.zip.download", zipped(("a.jpg", "x")), "application/zip"),
        ("lib.jar", zipped(("a/B.class", "x"), ("META-INF/MANIFEST.MF", "x")), "application/java-archive"),
        ("talk.key", zipped(("Index/Slide.iwa", "x")), "application/vnd.apple.keynote"),
        ("book.epub", zipped(("META-INF/container.xml", "x")), "application/epub+zip"),
        ("book", zipped(("mimetype", "application/epub+zip\n")), "application/epub+zip"),
        ("a.ods", zipped(("mimetype", "application/vnd.oasis.opendocument.text")), "application/vnd.oasis.opendocument.text"),
        ("empty.zip", zipped(), "application/zip"),
        ("a.png", zipped(("a", "x")), "application/zip"),
        # OLE
        ("salaries.xlsx", ole("EncryptionInfo", "EncryptedPackage"), EXCEL),
        ("salaries.docx", ole("WordDocument", "1Table"), "application/msword"),
        ("a.xls", ole("WordDocument"), "application/vnd.ms-excel"),
        ("mail.msg", ole("__properties_version1.0"), "application/vnd.ms-outlook"),
        ("a", ole("Workbook"), "application/vnd.ms-excel"),
        ("plan.pdf", ole("Workbook"), "application/vnd.ms-excel"),
        # films, and pictures of the same container
        *((f"C0001.{end}", ftyp(brand, b"mp42"), TYPES_BY_EXTENSION[end][0])
          for end in ("mp4", "mov", "m4a", "3gp")
          for brand in (b"XAVC", b"iso6", b"isom", b"mp42", b"avc1", b"dash", b"MSNV", b"NDAS", b"piff", b"qt  ", b"f4v ")),
        ("a.mov", box(b"wide", b"") + box(b"mdat", BINARY), "video/quicktime"),
        ("a.mov", struct.pack(">I4sQ", 1, b"mdat", 1 << 33) + BINARY, "video/quicktime"),
        ("a.mp4", box(b"moov", BINARY), "video/mp4"),
        ("a.mp4", box(b"styp", b"msdh") + box(b"sidx", BINARY), "video/mp4"),
        ("a.txt", b"The moov box and the ftyp box", "text/plain"),
        ("a.avif", ftyp(b"mif1", b"avif", b"miaf"), "image/avif"),
        ("a.avif", ftyp(b"miaf", b"mif1", b"avif"), "image/avif"),
        ("a.heic", ftyp(b"mif1", b"heic"), "image/heic"),
        ("a.heif", ftyp(b"heix", b"mif1"), "image/heif"),
        ("a.hif", ftyp(b"msf1", b"hevc"), "image/heif"),
        ("a.jpg", ftyp(b"heic", b"mif1"), "image/heic"),
        ("a.mp4", ftyp(b"heic", b"mif1"), "image/heic"),
        ("a.mp4", ftyp(b"isom", b"mif1"), "video/mp4"),
        ("a.heic", SIGNED["image/jpeg"], "image/jpeg"),
        ("a.jpg", SIGNED["image/webp"], "image/webp"),
        ("a.jpeg", b"\r\n\0" + SIGNED["image/jpeg"], "application/octet-stream"),
        ("a.dng", SIGNED["image/tiff"], "image/x-adobe-dng"),
        ("a.dng", SIGNED["image/jpeg"], "image/jpeg"),
        ("a.mp3", SIGNED["image/jpeg"], "image/jpeg"),
        ("a.bin", SIGNED["image/jpeg"], "image/jpeg"),
        ("a.mkv", SIGNED["video/webm"], "video/x-matroska"),
        # sound
        ("a.mp3", bytes(4096) + b"\xff\xfb\x90\0" + BINARY, "audio/mpeg"),
        ("a.mp3", b"ID3\3\0\0\0\0\7\x76" + BINARY, "audio/mpeg"),
        ("a.mp3", b"APETAGEX" + BINARY, "audio/mpeg"),
        ("a.aac", b"\xff\xf1\x50\x80\2\x1f\xfc" + BINARY, "audio/aac"),
        ("a.flac", b"ID3\4\0\0\0\0\0\4abcdfLaC\0\0\0\x22" + BINARY, "audio/flac"),
        ("a.mp3", b"ID3\4\0\0\0\0\0\4abcdfLaC\0\0\0\x22" + BINARY, "audio/flac"),
        ("a.flac", b"ID3\4\0\0\0\0\x7f\x7f" + BINARY, "audio/flac"),
        ("a.wav", b"RF64\xff\xff\xff\xffWAVEds64" + BINARY, "audio/wav"),
        ("a.wav", b"BW64\x40\0\0\0WAVEfmt " + BINARY, "audio/wav"),
        ("a.aif", b"FORM\0\0\0\x40AIFCFVER" + BINARY, "audio/aiff"),
        ("a.wav", b"RIFX\0\0\0\x40WAVEfmt " + BINARY, "audio/wav"),
        ("a.mid", b"RIFF\x40\0\0\0RMIDdata" + BINARY, "audio/midi"),
        ("a.wma", SIGNED["video/x-ms-asf"], "audio/x-ms-wma"),
        ("a.m3u8", b"#EXTM3U\n#EXTINF:1,a\na.ts\n", "audio/x-mpegurl"),
        # MPEG-TS and TypeScript
        ("a.ts", transport_stream(), "video/mp2t"),
        ("a.m2ts", transport_stream(stamp=b"\x12\x34\x56\x78"), "video/mp2t"),
        ("a.ts", b"\xff\x80" * 50 + transport_stream(), "video/mp2t"),
        ("a.ts", b"export const a: number = 1;\n", "text/x-typescript"),
        ("a.tsx", b"import React from 'react';\nexport default () => <p/>;\n", "text/x-typescript"),
        ("a.ts", b"#!/usr/bin/env node\nconsole.log(1 as number)\n", "text/x-typescript"),
        ("a.ts", BINARY, "application/octet-stream"),
        # documents and programs' own formats
        ("a.pdf", b"\n\nHTTP/1.1 200 OK\n\n%PDF-1.4\n%\xe2\xe3", "application/pdf"),
        ("a.ai", SIGNED["application/pdf"], "application/pdf"),
        ("a.eps", b"\xc5\xd0\xd3\xc6" + BINARY, "application/postscript"),
        ("a.eps", b"%!\n/Times-Roman 12 selectfont\n", "application/postscript"),
        ("a.ps", b"\x1b%-12345X@PJL SET COPIES=1\r\n%!PS-Adobe-3.0\n", "application/postscript"),
        ("a.doc", SIGNED["application/rtf"], "application/rtf"),
        ("a.rtf", b"\xef\xbb\xbf{\\rtf1}", "application/rtf"),
        ("a.ico", b"\0\0\1\0\1\0\x10\x10\0\xff\1\0\x20\0" + BINARY, "image/vnd.microsoft.icon"),
        ("a.feather", b"FEA1" + BINARY, "application/vnd.apache.arrow.file"),
        ("a.torrent", b"d13:announce-listll3:abc" + BINARY, "application/x-bittorrent"),
        ("a.svgz", gzip.compress(SIGNED["image/svg+xml"]), "image/svg+xml"),
        ("a.svgz", gzip.compress(TEXT), "application/gzip"),
        ("a.svg.gz", gzip.compress(SIGNED["image/svg+xml"]), "application/gzip"),
        ("a.tgz", gzip.compress(BINARY), "application/gzip"),
        ("a.pgm", b"P2\n# made by hand\n2 1\n255\n0 255\n", "image/x-portable-graymap"),
        ("a.tsv", b"P2 12 13\n", "text/tab-separated-values"),
        ("a.dxf", b"  0\r\nSECTION\r\n  2\r\nHEADER\r\n", "image/vnd.dxf"),
        ("a.stl", bytes(80) + struct.pack("<I", 1) + BINARY[:50], "model/stl"),
        ("a.stl", b"solid part\nfacet normal 0 0 1\n", "model/stl"),
        ("a.parquet", b"PAR1\x15\4" + BINARY + b"PAR1", "application/vnd.apache.parquet"),
        ("a.otf", b"OTTO\0\x0a\0\x80" + BINARY, "font/otf"),
        ("a.dat", b"PAR1\x15\4" + BINARY + b"PAR1", "application/vnd.apache.parquet"),
        ("a.crt", b"\x30\x82\3\x10\x30\x82" + BINARY, "application/x-pem-file"),
        ("id_rsa.pub", b"ssh-ed25519 AAAAC3Nza me@host\n", "text/plain"),
        # text
        ("README.md", b"# Head\n\ntext\nimport os\nfrom x import y\n", "text/markdown"),
        ("README.md", b'<p align="center">\n<img src="logo.png"></p>\n\n# Head\n', "text/markdown"),
        ("README.md", b"<h1>Head</h1>", "text/markdown"),
        ("README", b"# Head\n\nimport os\nfrom x import y\n", "text/plain"),
        ("notes.txt", b"#include <stdio.h>\nint main() { return 0; }\n", "text/plain"),
        ("notes.txt", SIGNED["application/pdf"], "application/pdf"),
        ("page.txt", HTML, "text/plain"),
        ("page", HTML, "text/html"),
        ("run", b"#!/bin/sh\necho\n", "text/x-shellscript"),
        ("a.csv", b"<5 mg;12\r\n<b;3\r\n", "text/csv"),
        ("a.csv", b"<br>;2\r\n", "text/csv"),
        ("a.csv", "Name;Betrag\r\nM\u00fcller;12\r\n".encode("utf-16-le"), "text/csv"),
        ("a.csv", "Name;Betrag\r\nM\u00fcller;12\r\n".encode("cp1252"), "text/csv"),
        ("a.csv", "\u540d\u524d,\u91d1\u984d\r\n\u5c71\u7530,12\r\n".encode("shift_jis"), "text/csv"),
        ("a.csv", b"ID3;OTTO;PAR1\n", "text/csv"),
        ("a.csv", "a;b\r\n1;2\r\n".encode("utf-16-le"), "text/csv"),
        ("a.dat", "a;b\r\n1;2\r\n".encode("utf-16-le"), "text/plain"),
        ("a.tga", struct.pack("<2xB9x3H", 2, 300, 200, 24) + b"\x1e\x1e\xc8" * 3000, "image/x-tga"),
        ("a.json", b"// settings\n{}\n", "application/json"),
        ("a.tex", b"%!TEX program = xelatex\n\\documentclass{article}\n", "application/x-tex"),
        ("a.log", b"\x1b[32mINFO\x1b[0m started\n" * 9, "text/plain"),
        ("a.ini", b"[section]\r\nkey=value\r\n", "text/plain"),
        ("a.vue", b"<script setup>\n</script>\n<template><p/></template>", "text/x-vue"),
        ("a.php", b"<!DOCTYPE html>\n<?php phpinfo();", "text/x-php"),
        ("a.ics", b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n", "text/calendar"),
        ("a.gpx", b"<?xml version='1.0'?><gpx/>", "application/gpx+xml"),
        ("a.svg", b"<?xml version='1.0'?><?xpacket begin=''?><!-- a --><svg/>", "image/svg+xml"),
        ("a.svg", b"<?xml version='1.0'?><plan/>", "application/octet-stream"),
        # exports of office software
        ("report.xls", HTML, "text/html"),
        ("report.xls", b"<html xmlns:x='urn:schemas-microsoft-com:office:excel'><table>", "text/html"),
        ("report.xls", b"<?xml version='1.0'?><?mso-application progid='Excel.Sheet'?><Workbook/>", "text/xml"),
        ("report.xls", b"a\tb\r\n1\t2\r\n", "text/plain"),
        ("report.xls", b"MIME-Version: 1.0\r\nX-Document-Type: Workbook\r\n\r\n<html>", "message/rfc822"),
        ("mail", b"DKIM-Signature: v=1\r\nSubject: a\r\n\r\nb", "message/rfc822"),
        ("a.txt", b"MIME-Version: 1.0 is what mails say\n", "text/plain"),
        ("wiki.doc", b"Date: Sat, 28 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n\r\n<html>", "message/rfc822"),
    ],
)  # fmt: skip
def test_T8_files_as_people_have_them(name: str, data: bytes, mime: str) -> None:
    assert stored(name, data) == mime


@given(
    st.binary(max_size=300)
    | st.builds(
        bytes.__add__,
        st.sampled_from([b"PK\x03\x04", b"<?xml ", b"<!--", b"#!", b"MZ", b"\xff\xfe"]),
        st.binary(max_size=200),
    )
)
def test_T8_detection_never_raises(data: bytes) -> None:
    assert "/" in detect(data).mime


@pytest.mark.parametrize(
    "data",
    [
        b"<!--" * 20_000,
        b"<!-- -->" * 9_000,
        b" " * 70_000,
        b"#!" + b"-x " * 20_000,
        b"PK\x03\x04" * 20_000,
        (struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, *[0] * 6, 1, 0) + b"a") * 2_000,
        struct.pack("<4s5H3L2H", b"PK\3\4", *[0] * 6, *[2**32 - 1] * 2, 1, 20)
        + struct.pack("<s2H2Q", b"a", 1, 16, *[2**64 - 1] * 2),
        b"<?xml " * 10_000,
        b"<!DOCTYPE a [" + b"]  " * 20_000,
        b"<!DOCTYPE a [" + b"<!--" * 16_000,
        b"<!DOCTYPE a [" + b"'" * 64_001,
        b"<!doctype a" * 6_000,
    ],
)
def test_T8_detection_is_never_slow(data: bytes) -> None:
    assert detect(data).mime


def test_detection_by_many_threads() -> None:
    kinds = {picture("PNG"): "image/png", b"%PDF-1.7\n": "application/pdf", b"plain": "text/plain"}
    with ThreadPoolExecutor(16) as pool:
        for data, found in zip(list(kinds) * 100, pool.map(detect, list(kinds) * 100), strict=True):
            assert found.mime == kinds[data]


def test_without_a_system_library_the_wheel_is_used_and_the_environment_restored() -> None:
    """Children would inherit what pylibmagic puts into the environment."""
    program = (
        "import os, ctypes; before, load = dict(os.environ), ctypes.CDLL.__init__\n"
        "from services.library import sniff; sniff._open_system = lambda: None\n"
        "from tests.file_types import SIGNED\n"
        "assert {mime: sniff.detect(data).mime for mime, data in SIGNED.items()} == {mime: mime for mime in SIGNED}\n"
        "import magic; assert 'pylibmagic' in magic.libmagic._name\n"
        "assert dict(os.environ) == before and ctypes.CDLL.__init__ is load\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_T8_a_guess_at_an_old_program_is_ignored() -> None:
    """One in a hundred random files looks like a .COM program, and rules against programs refused it."""
    assert {detect(bytes([0xB8, n, 0xD8, 0x59]) + bytes(range(256))).mime for n in range(256)} <= {
        "application/octet-stream"
    }


def test_T8_a_picture_whose_bytes_look_like_utf_16_is_a_picture() -> None:
    for packed in (b"\x55", b"\x9d\x4e", b" \0"):
        text = packed * 2000
        image = picture("PNG", 30, 20)
        assert (
            detect(image[:33] + struct.pack(">I", len(text)) + b"zTXt" + text + bytes(4) + image[33:]).mime
            == "image/png"
        )
    assert detect(picture("BMP", 30, 20)[:54] + b"\x55" * 1800).mime == "image/bmp"
    assert detect("Not a picture\r\n".encode("utf-16-le") * 30).mime == "text/plain"
