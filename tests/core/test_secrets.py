"""Keys for each purpose from SECRET_KEY."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.secrets import Secrets

OLD, NEW = "old-" * 8, "new-" * 8


def test_T143_a_key_is_that_of_rfc_5869() -> None:
    theirs = HKDF(SHA256(), length=32, salt=b"upload-gateway", info=b"links").derive(NEW.encode())
    assert Secrets([NEW]).derive("links") == [theirs]


def test_T143_purposes_and_values_have_different_keys_and_the_newest_is_first() -> None:
    both = Secrets([NEW, OLD])
    assert both.derive("links") == Secrets([NEW]).derive("links") + Secrets([OLD]).derive("links")
    assert len({key for purpose in ("links", "cursors", "link") for key in both.derive(purpose)}) == 6


def test_T140_a_value_is_not_in_the_text_of_the_object() -> None:
    assert NEW not in repr(Secrets([NEW]))
