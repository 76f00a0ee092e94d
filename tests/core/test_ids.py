from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidCursor
from core.ids import decode_cursor, encode_cursor, new_id, new_secret, object_key, secret_digest

SECRET = b"k" * 32
VALUES = st.lists(
    st.none() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=255)
)


def test_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    assert [i.int >> 80 for i in ids] == sorted(i.int >> 80 for i in ids)
    assert abs((ids[0].int >> 80) / 1000 - datetime.now(UTC).timestamp()) < 60


def test_T63_secrets_are_long_and_stored_as_digests() -> None:
    secret = new_secret("gw_")
    assert re.fullmatch(r"gw_[A-Za-z0-9_-]{43}", secret)
    assert new_secret("gw_") != secret
    assert secret_digest(secret) == hashlib.sha256(secret.encode()).digest()


def test_object_keys_are_random_and_plain() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    keys = {object_key("files/", "pdf", now) for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"files/2026/11/[0-9a-f]{32}\.pdf", key) for key in keys)
    for hostile in ("", "../x", "p/f", "PDF", "x" * 17, "é", "a b", "pdf\n"):
        assert re.fullmatch(r"files/2026/11/[0-9a-f]{32}", object_key("files", hostile, now))


@given(VALUES, st.text(max_size=50))
def test_T84_a_cursor_comes_back_as_it_went(values: list[str | int | float | None], scope: str) -> None:
    text = encode_cursor(values, scope=scope, secret=SECRET)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert decode_cursor(text, scope=scope, secret=SECRET) == values


@given(st.integers(0, 200), st.integers(0, 63))
def test_T84_any_changed_character_is_refused(position: int, change: int) -> None:
    text = encode_cursor(["Plan.pdf", 7], scope="files:me", secret=SECRET)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    position %= len(text)
    changed = text[:position] + letters[change] + text[position + 1 :]
    if changed != text:
        with pytest.raises(InvalidCursor):
            decode_cursor(changed, scope="files:me", secret=SECRET)


@pytest.mark.parametrize(("scope", "secret"), [("files:you", SECRET), ("files:me", b"x" * 32), ("", SECRET)])
def test_T84_a_foreign_cursor_is_refused(scope: str, secret: bytes) -> None:
    text = encode_cursor([1], scope="files:me", secret=SECRET)
    with pytest.raises(InvalidCursor):
        decode_cursor(text, scope=scope, secret=secret)


@given(st.text(st.characters(codec=None)) | st.text("ABCab01-_="))
def test_T84_hostile_cursors_raise_nothing_else(text: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor(text, scope="s", secret=SECRET)


def test_T84_a_huge_cursor_is_refused() -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor("A" * 10_000_000, scope="s", secret=SECRET)
