"""The first rows of CSV and similar text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

MAX_ROWS = 200
MAX_COLUMNS = 50
MAX_CELL = 500  # characters
_DELIMITERS = "\t;|,"  # the comma last: numbers may have it too
_SAMPLE = 20  # rows
_EXCEL = re.compile(r'"?sep=([^\n"])"?\n', re.IGNORECASE)  # a first line for Excel


def rows(text: str, mime_type: str, *, truncated: bool = False) -> list[list[str]]:
    """At most 200 rows of 50 cells of 500 characters. ``truncated``: the last row may be incomplete, and is left out.

    Lines end with a newline, and nowhere else. The delimiter is the one whose number most rows agree on (csv.Sniffer's regular
    expressions take minutes on hostile input)."""
    csv.field_size_limit(len(text) + 1)
    if excel := _EXCEL.match(text):
        text, delimiter = text[excel.end() :], excel[1]
    else:
        delimiter = "\t" if mime_type == "text/tab-separated-values" else _delimiter(text)
    found = list(islice(_read(text, delimiter), MAX_ROWS + 1))
    # A lone quotation mark opened the last cell.
    if not truncated and found and "\n" in found[-1][-1] and text.count('"') % 2:
        found = list(islice(_read(text, delimiter, csv.QUOTE_NONE), MAX_ROWS))
    shown = found[: -1 if truncated and len(found) > 1 else None]
    return [[cell[:MAX_CELL] for cell in row[:MAX_COLUMNS]] for row in shown[:MAX_ROWS]]


def _read(text: str, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL) -> Iterator[list[str]]:
    return filter(None, csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, quoting=quoting))


def _delimiter(text: str) -> str:
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        counts = Counter(len(row) for row in islice(_read(text, delimiter), _SAMPLE))
        counts.pop(1, None)
        if counts and (agreeing := max(counts.values())) > most:
            best, most = delimiter, agreeing
    return best
