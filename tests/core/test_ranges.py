from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import RangeNotSatisfiable
from core.ranges import ByteRange, etag_matches, if_range_matches, modified_since, parse_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", ByteRange(0, 0)),
        ("bytes=0-99", ByteRange(0, 99)),
        ("bytes=10-", ByteRange(10, 99)),
        ("bytes=-10", ByteRange(90, 99)),
        ("bytes=-1000", ByteRange(0, 99)),
        ("bytes=50-1000", ByteRange(50, 99)),
        ("BYTES = 1 - 2", ByteRange(1, 2)),
        ("bytes=5-" + "9" * 900, ByteRange(5, 99)),
        ("bytes=-" + "9" * 900, ByteRange(0, 99)),
        ("bytes=000000000000000000000001-2", ByteRange(1, 2)),
    ],
)
def test_T33_one_range(header: str, span: ByteRange) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-1",
        "bytes=1-2,4-5",
        "items=0-1",
        "bytes=1.5-2",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=١-٢",
        "bytes=" + "9" * 90 + "-" + "9" * 80,
        "bytes=0-1;",
        "bytes=" + "0-0," * 2000,
        "bytes=0-" + "9" * 8000,
    ],
)
def test_T33_T16_ignored_ranges(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 500 + "-"])
def test_T33_a_range_past_the_end(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, 100)


@pytest.mark.parametrize("header", ["bytes=0-0", "bytes=0-", "bytes=-1", "bytes=-0"])
def test_T11_a_range_of_an_empty_file_is_ignored(header: str) -> None:
    assert parse_range(header, 0) is None


@given(st.text() | st.from_regex(r"bytes=[0-9]{0,30}-[0-9]{0,30}", fullmatch=True), st.integers(0, 2**63))
def test_T33_a_range_lies_inside_the_file(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.first <= span.last < size


def test_content_range() -> None:
    assert ByteRange(0, 9).content_range(100) == "bytes 0-9/100"
    assert ByteRange(0, 9).length == 10


def test_T33_if_range() -> None:
    changed = datetime(2026, 11, 23, 4, 15, 0, 123456, tzinfo=UTC)
    assert if_range_matches(None, '"a"')
    assert if_range_matches(' "a" ', '"a"')
    assert not if_range_matches('"b"', '"a"')
    assert not if_range_matches('W/"a"', 'W/"a"')  # RFC 9110 §13.1.5: strong comparison
    assert not if_range_matches('"a"', None)
    assert if_range_matches("Mon, 23 Nov 2026 04:15:00 GMT", '"a"', changed)
    assert not if_range_matches("Mon, 23 Nov 2026 04:15:01 GMT", '"a"', changed)
    assert not if_range_matches("yesterday", '"a"', changed)
    assert not if_range_matches("8 Nov 1 00:09999999999999", '"a"', changed)
    assert not if_range_matches("Mon, 23 Nov 2026 04:15:00 GMT", '"a"')


@given(st.text())
def test_T33_if_range_never_raises(header: str) -> None:
    assert not if_range_matches(header, '"never in hypothesis text, surely"', datetime.now(UTC))


@pytest.mark.parametrize(
    ("header", "modified"),
    [
        ("Mon, 23 Nov 2026 04:14:59 GMT", True),
        ("Mon, 23 Nov 2026 04:15:00 GMT", False),  # dates have no fractions
        ("Tue, 24 Nov 2099 00:00:00 GMT", False),
        ("Monday, 23-Nov-26 04:15:00 GMT", False),  # RFC 850
        ("Mon Nov 23 04:15:00 2026", False),  # asctime
        ("Sun Nov  1 04:15:00 2026", True),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("2026-11-23T04:15:00Z", None),
        ("1795407300", None),
        ("Mon, 23 Nov 2026 04:15:00 +0100", None),
        ("Mon, 23 Nov 2026 25:15:00 GMT", None),
        ("Mon, 31 Feb 2026 04:15:00 GMT", None),
        ("Mon, 23 Nov 2026 04:15:00 GMT, Mon, 23 Nov 2026 04:15:00 GMT", None),  # RFC 9110 §13.1.3: one date
        ("Mon, 23 Nov 2026 04:15:00 GMT" + "0" * 9999, None),
    ],
)
def test_T33_dates_of_conditions(header: str | None, modified: bool | None) -> None:
    changed = datetime(2026, 11, 23, 4, 15, 0, 999_999, tzinfo=UTC)
    assert modified_since(header, changed) is modified
    assert modified_since(header, None) is None


@pytest.mark.parametrize(
    ("header", "etag", "weak", "strong"),
    [
        ('"a"', '"a"', True, True),
        ('"b", "a"', '"a"', True, True),
        ('"b" ,W/"a"', '"a"', True, False),
        ('W/"a"', 'W/"a"', True, False),
        ('"a"', 'W/"a"', True, False),
        ("*", '"a"', True, True),
        ("*", None, False, False),
        ('"a"', None, False, False),
        ('"b"', '"a"', False, False),
        ("a", '"a"', False, False),
        ('"x,y"', '"x,y"', True, True),
        ('"a" junk', '"a"', False, False),
        ("", '"a"', False, False),
        ('"",' * 2000 + '"a"', '"a"', True, True),
    ],
)
def test_entity_tag_lists(header: str, etag: str | None, weak: bool, strong: bool) -> None:
    assert etag_matches(header, etag, weak=True) is weak
    assert etag_matches(header, etag, weak=False) is strong
