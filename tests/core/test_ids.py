from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from hypothesis import strategies as st

from core.ids import new_id, new_secret, object_key, secret_digest

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


def test_R1_object_keys_are_random_and_plain() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    keys = {object_key("files/", "pdf", now) for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"files/2026/11/[0-9a-f]{32}\.pdf", key) for key in keys)
    for hostile in ("", "../x", "p/f", "PDF", "x" * 17, "é", "a b", "pdf\n"):
        assert re.fullmatch(r"files/2026/11/[0-9a-f]{32}", object_key("files", hostile, now))
