"""The first rows of CSV and similar text."""

from __future__ import annotations

import csv
from collections import Counter

MAX_ROWS = 200
MAX_COLUMNS = 50
MAX_CELL = 500  # characters
_DELIMITERS = "\t;|,"  # the comma last: numbers may have it too
_SAMPLE = 20  # lines


def rows(text: str, mime_type: str) -> list[list[str]]:
    """At most 200 rows of 50 cells of 500 characters.

    The delimiter is the one whose number per line most lines agree on (csv.Sniffer's regular expressions take minutes on
    hostile input)."""
    delimiter = "\t" if mime_type == "text/tab-separated-values" else _delimiter(text)
    csv.field_size_limit(len(text) + 1)
    found = []
    for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter):
        if row:
            found.append([cell[:MAX_CELL] for cell in row[:MAX_COLUMNS]])
        if len(found) == MAX_ROWS:
            break
    return found


def _delimiter(text: str) -> str:
    lines = [line for line in text.split("\n", _SAMPLE)[:_SAMPLE] if line.strip()]
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        counts = Counter(_outside_quotes(line, delimiter) for line in lines)
        counts.pop(0, None)
        if counts and (agreeing := max(counts.values())) > most:
            best, most = delimiter, agreeing
    return best


def _outside_quotes(line: str, delimiter: str) -> int:
    return sum(piece.count(delimiter) for piece in line.split('"')[::2])
