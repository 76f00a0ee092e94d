from __future__ import annotations

import os
import struct

import pytest

from parsers import ParserFailed, ranged, run
from parsers.reading import read
from tests.parsers.samples import zipped
from tests.parsers.test_media import Ranged


def listed(source: Ranged) -> list[str]:
    found = read(source, "application/zip", name="x.zip", want=frozenset({"contents"})).contents
    assert found is not None
    return [one["name"] for one in found["entries"]]


def test_T95_a_large_archive_is_listed_from_its_end() -> None:
    source = Ranged(zipped({"a": os.urandom(9_000_000), "b": b"x"}))
    assert listed(source) == ["a", "b"]
    assert sum(size for _, size in source.asked) < 1_000_000


def test_a_small_ranged_source_is_sent_whole() -> None:
    class Plain(Ranged):
        def read(self, size: int, /) -> bytes:
            piece, self._data = self._data[:size], self._data[size:]
            return piece

    source = Plain(zipped({"a": b"x"}))
    assert listed(source) == ["a"]
    assert source.asked == []


@pytest.mark.parametrize(
    ("offset", "length", "times"),
    [
        (0, 0, 1),
        (0, ranged.MAX_LENGTH + 1, 1),
        (9_000_000, 2_000_000, 1),
        (1 << 63, 1, 1),
        (0, 1, ranged.MAX_REQUESTS + 1),
        (0, ranged.MAX_LENGTH, 40),
    ],
)
def test_T91_range_requests_beyond_the_limits_fail(
    monkeypatch: pytest.MonkeyPatch, offset: int, length: int, times: int
) -> None:
    """Requests outside the file, too large, too many, or too much in total."""
    ask = ranged.RANGE_REQUEST + struct.pack(">QI", offset, length)
    monkeypatch.setattr(
        run,
        "_START",
        f"import sys\nfor n in range({times}): sys.stdout.buffer.write({ask!r}); sys.stdout.flush()\n"
        f"if n + 1 < {times}: sys.stdin.buffer.read({length} + 4)\nsys.stdin.buffer.read()",
    )
    source = Ranged(bytes(10_000_000))
    with pytest.raises(ParserFailed, match="asked for too much"):
        listed(source)
    assert sum(size for _, size in source.asked) <= run.Limits().max_input
    assert len(source.asked) <= ranged.MAX_REQUESTS
