"""Range and conditional request headers (RFC 9110 §13 and §14).

Any header ends as a range, as a full response or as 416, in time that does not depend on its length (T16, T33).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from core.errors import RangeNotSatisfiable

_MAX_HEADER = 1_024  # characters; one range needs fifty
_MAX_DIGITS = 19  # more than any object has
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.IGNORECASE | re.ASCII)
_DATE_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")  # §5.6.7
_ETAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included (RFC 9110 §14.1.2)."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1

    def content_range(self, size: int) -> str:
        """The value of Content-Range (RFC 9110 §14.4)."""
        return f"bytes {self.first}-{self.last}/{size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The requested range, cut to ``size`` bytes; None for a full response with status 200.

    A server may ignore Range (RFC 9110 §14.2): this one ignores other units, malformed or reversed ranges, several ranges,
    and any range of an empty file (T11). Raises RangeNotSatisfiable (§15.5.17) if the range starts after the end."""
    if header is None or size == 0 or len(header) > _MAX_HEADER:
        return None
    found = _RANGE.fullmatch(header)
    if not found or found.groups() == ("", ""):
        return None
    low, high = (_bounded(text) for text in found.groups())
    if low is None:  # bytes=-500: the last 500
        suffix = min(high or 0, size)
        if suffix == 0:
            raise RangeNotSatisfiable
        return ByteRange(size - suffix, size - 1)
    if high is not None and _reversed(found[1], found[2]):
        return None
    if low >= size:
        raise RangeNotSatisfiable
    return ByteRange(low, size - 1 if high is None else min(high, size - 1))


def if_range_matches(header: str | None, etag: str | None, last_modified: datetime | None = None) -> bool:
    """Whether If-Range (§13.1.5) permits a range: it is absent, or has the same strong ETag or exactly the same date.

    ``etag`` is the value of the ETag header, with its quotes. ``last_modified`` must be a strong validator (§8.8.2.2): of
    bytes that did not change twice in that second."""
    if header is None:
        return True
    value = header.strip()
    if value.startswith(('"', "W/")):
        return etag is not None and value == etag and not value.startswith("W/")
    return last_modified is not None and _date(value) == last_modified.replace(microsecond=0)


def modified_since(header: str | None, last_modified: datetime | None) -> bool | None:
    """Whether ``last_modified`` is after the date of If-Modified-Since or If-Unmodified-Since (§13.1.3, §13.1.4); None, which
    means to ignore the header, if either is unknown."""
    date = _date(header or "")
    return None if date is None or last_modified is None else last_modified.replace(microsecond=0) > date


def etag_matches(header: str, etag: str | None, *, weak: bool) -> bool:
    """Whether a list of entity tags contains ``etag``, the value of the ETag header (None: there is no representation).

    If-Match compares strongly (§13.1.1), If-None-Match weakly (§13.1.2, §8.8.3.2); ``*`` is any representation. Of a
    malformed list the part before the error counts."""
    if etag is None:
        return False
    if header.strip() == "*":
        return True
    if not weak and etag.startswith("W/"):
        return False
    opaque, position = etag.removeprefix("W/"), 0
    while found := _ETAG.match(header, position):
        if found[2] == opaque and (weak or not found[1]):
            return True
        position = found.end()
        if position >= len(header):
            break
    return False


def _date(text: str) -> datetime | None:
    """An HTTP-date in any of the three formats; None for anything else."""
    for form in _DATE_FORMATS:
        with suppress(ValueError):
            return datetime.strptime(text[:64].strip(), form).replace(tzinfo=UTC)
    return None


def _bounded(digits: str) -> int | None:
    """The number, or 10**19 if it has more digits (CPython refuses to convert 4,301)."""
    if not digits:
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _reversed(first: str, last: str) -> bool:
    a, b = first.lstrip("0"), last.lstrip("0")
    return (len(a), a) > (len(b), b)  # compared as text, so of any length
