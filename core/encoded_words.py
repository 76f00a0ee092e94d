"""Encoded words (RFC 2047): text that is not ASCII, in headers of mails and in the file names of some clients."""

from __future__ import annotations

import quopri
import re
from base64 import b64decode
from collections.abc import Iterator
from itertools import groupby

# With a language (RFC 2231), and with the blanks that some programs leave in them.
_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?]{0,40})?\?([bq])\?([^?]*)\?=", re.IGNORECASE)


def runs(value: str, *, strict: bool) -> Iterator[tuple[str | None, bytes]]:
    """The runs of a header: each with the label of its charset, or None for what is no encoded word. Words of one charset are one
    run, as some programs cut characters. ``strict``: raises ValueError for a word that is not in Base64; else that is kept."""
    for label, pieces in groupby(_pieces(value, strict), lambda piece: piece[0]):
        yield label, b"".join(data for _, data in pieces)


def _pieces(value: str, strict: bool) -> Iterator[tuple[str | None, bytes]]:
    end = 0
    for word in _WORD.finditer(value):
        between = value[end : word.start()]
        if between.strip() or not end:
            yield None, _bytes(between)
        end = word.end()
        yield word[1].lower(), _payload(word[2], _bytes(word[3]), strict)
    yield None, _bytes(value[end:])


def _payload(encoding: str, data: bytes, strict: bool) -> bytes:
    if encoding in "Qq":
        return quopri.decodestring(data, header=True)
    try:
        return b64decode(data + b"=" * (-len(data) % 4 if strict else 3), validate=strict)
    except ValueError:
        if strict:
            raise
        return data


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
