"""Types that have previews, and the validation of answers from child processes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest

from core import previewable
from parsers import ParserFailed, Unsupported, reading
from parsers.reading import Reading, kinds, read
from tests.parsers.conftest import Parse

ReadAnswer = Callable[[str], Reading]


@pytest.fixture(autouse=True)
def fresh_readers() -> Iterator[None]:
    reading._reader.cache_clear()
    yield
    reading._reader.cache_clear()


@pytest.fixture
def read_answer(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> ReadAnswer:
    """Read a file whose parser returns these values, given as Python code."""
    monkeypatch.setitem(reading._READERS, "image", reading._Reader("probe"))

    def read_with(values: str) -> Reading:
        parse(f"return {values}, []")
        return read(io.BytesIO(), "image/png", name="x", want=frozenset())

    return read_with


@pytest.mark.parametrize(
    "values",
    [
        "{'text': 5}",
        "{'text': 'y' * 2_000_000}",
        "{'metadata': []}",
        "{'contents': 'x'}",
        "{'failed': 'x'}",
        "{'failed': {'other': 'x'}}",
        "{'failed': {'picture': 1}}",
        "{'pictures': [{'size': 1}]}",
        "{'pictures': 7}",
        "{'other': 1}",
        "[]",
    ],
)
def test_T91_readings_are_validated(read_answer: ReadAnswer, values: str) -> None:
    """A compromised parser can answer anything."""
    with pytest.raises(ParserFailed, match="can't be read"):
        read_answer(values)


def test_T83_characters_that_postgresql_refuses_are_removed(read_answer: ReadAnswer) -> None:
    found = read_answer("{'metadata': {'a\\0': ['b\\ud800', {'c': 1}]}, 'text': None}")
    assert found == Reading(metadata={"a": ["b", {"c": 1}]})


def test_without_the_media_packages_there_are_no_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda name: None if name in ("av", "pillow_heif") else True)
    for mime in ("video/mp4", "audio/mpeg", "image/heic"):
        assert previewable.kinds(mime) == {"thumbnail"}
        assert kinds(mime) == frozenset()
        with pytest.raises(Unsupported):
            read(io.BytesIO(), mime, name="x", want=frozenset())
    assert kinds("image/png") == {"thumbnail"}
