"""The content of demonstration files: well-formed texts, tables, pictures and archives."""

from __future__ import annotations

import csv
import io
import random
import struct
import zipfile
import zlib

ENDINGS = ("txt", "md", "csv", "png", "zip")


def body(ending: str, text: str, number: int) -> bytes:
    """A file with this extension that contains the text; a picture contains colours instead."""
    if ending == "png":
        return _picture(number)
    if ending == "csv":
        table = io.StringIO()
        csv.writer(table).writerows(enumerate(line.split(), 1) for line in text.splitlines())
        return table.getvalue().encode()
    if ending == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for n, line in enumerate(text.splitlines(), 1):
                archive.writestr(f"texts/{n:03d}.txt", line)
        return packed.getvalue()
    heading = f"# {number}\n\n" if ending == "md" else ""
    return f"{heading}{text}\n{number}\n".encode()


def _picture(number: int) -> bytes:
    """A PNG (ISO/IEC 15948) of 320 by 240 pixels: a gradient between two colours that depend on the number."""
    mix = random.Random(number)  # noqa: S311
    begin, end = (tuple(mix.randrange(256) for _ in range(3)) for _ in range(2))
    rows = bytearray()
    for y in range(240):
        rows.append(0)  # no filter
        for x in range(320):
            rows += bytes((a * (559 - x - y) + b * (x + y)) // 559 for a, b in zip(begin, end, strict=True))
    header = struct.pack(">IIBBBBB", 320, 240, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
