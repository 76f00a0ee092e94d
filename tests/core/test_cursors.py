"""Signed cursors round-trip, and nothing else is accepted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cursors import Cursors
from core.errors import InvalidCursor

SECRET = [b"k" * 32]

VALUES = st.lists(
    st.none() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=255)
)


@given(VALUES, st.text(max_size=50))
def test_T84_a_cursor_round_trips(values: list[str | int | float | None], scope: str) -> None:
    text = Cursors(SECRET).sign(values, scope=scope)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert Cursors(SECRET).open(text, scope=scope) == values


@given(st.integers(0, 200), st.integers(0, 63))
def test_T84_any_changed_character_is_refused(position: int, change: int) -> None:
    text = Cursors(SECRET).sign(["Plan.pdf", 7], scope="files:me")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    position %= len(text)
    changed = text[:position] + letters[change] + text[position + 1 :]
    if changed != text:
        with pytest.raises(InvalidCursor):
            Cursors(SECRET).open(changed, scope="files:me")


@pytest.mark.parametrize(("scope", "secret"), [("files:you", SECRET), ("files:me", [b"x" * 32]), ("", SECRET)])
def test_T84_a_foreign_cursor_is_refused(scope: str, secret: list[bytes]) -> None:
    text = Cursors(SECRET).sign([1], scope="files:me")
    with pytest.raises(InvalidCursor):
        Cursors(secret).open(text, scope=scope)


@given(st.text(st.characters(codec=None)) | st.text("ABCab01-_="))
def test_T84_hostile_cursors_raise_nothing_else(text: str) -> None:
    with pytest.raises(InvalidCursor):
        Cursors(SECRET).open(text, scope="s")


def test_T84_a_huge_cursor_is_refused() -> None:
    with pytest.raises(InvalidCursor):
        Cursors(SECRET).open("A" * 10_000_000, scope="s")
