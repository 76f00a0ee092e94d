"""Headers of tus and of the IETF draft: any text is parsed or refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import ietf, structured_fields, tus
from core.errors import InvalidInput

KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=20)
ANY = st.text(max_size=80)


@given(st.dictionaries(KEYS, st.binary(max_size=40), max_size=8))
def test_metadata_round_trip(pairs: dict[str, bytes]) -> None:
    written = ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in pairs.items())
    assert tus.metadata(written) == pairs
    kept = tus.custom(pairs)
    for key, value in pairs.items():
        text = tus.text_of(value)
        assert kept[key] == (text if text is not None else base64.b64encode(value).decode())
        assert "\0" not in kept[key]


def test_metadata_syntax() -> None:
    assert tus.metadata("filename d29ybGQ=,is_confidential") == {"filename": b"world", "is_confidential": b""}
    assert tus.metadata(None) == tus.metadata("") == {}
    for bad in ("a b c", "a YQ==,a YQ==", "a !", "a YQ", ",", "é YQ==", " ", "a\tYQ==", "x" * 256):
        if bad == " ":
            assert tus.metadata(bad) == {}
            continue
        with pytest.raises(InvalidInput):
            tus.metadata(bad)


@given(ANY)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for read in (tus.metadata, tus.deferred, tus.checksum, tus.concat, lambda value: tus.length(value, "x")):
        with contextlib.suppress(InvalidInput):
            read(text)
    assert structured_fields.boolean(text) in (None, True, False)
    found = structured_fields.natural(text)
    assert found is None or 0 <= found < 10**15
    assert ietf.version(text) in ietf.VERSIONS
    assert isinstance(structured_fields.digests(text), dict)


@given(st.integers(0, 2**63 - 1))
def test_T16_lengths(number: int) -> None:
    assert tus.length(str(number), "Upload-Length") == number
    for bad in (f"-{number + 1}", f"{number}.0", f"+{number}", f" {number}", str(number + 2**63), f"{number}e1", "٣"):
        with pytest.raises(InvalidInput):
            tus.length(bad, "Upload-Length")


@given(st.binary(max_size=200), st.sampled_from(tus.ALGORITHMS))
def test_checksums_of_every_algorithm(data: bytes, algorithm: str) -> None:
    expected = zlib.crc32(data).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, data).digest()
    digest = tus.digest_of(algorithm)
    digest.update(data[:7])
    digest.update(data[7:])
    assert digest.digest() == expected
    read = tus.checksum(f"{algorithm} {base64.b64encode(expected).decode()}")
    assert read == (algorithm, expected)
    with pytest.raises(InvalidInput):
        tus.checksum(f"{algorithm} {base64.b64encode(expected + b'x').decode()}")


def test_concat() -> None:
    assert tus.concat("partial").sources is None
    assert tus.concat("final;/a https://x.test/b /a").sources == ("/a", "https://x.test/b", "/a")
    for bad in ("final", "final;", "final; ", "partial;/a", "Partial", "", "final;" + "/a " * 1001):
        with pytest.raises(InvalidInput):
            tus.concat(bad)


@pytest.mark.parametrize("version", ietf.VERSIONS)
@pytest.mark.parametrize("complete", [False, True])
def test_completeness_in_each_draft(version: int, complete: bool) -> None:
    (told,) = ietf.completeness(version, complete).items()
    assert told == (
        ("Upload-Incomplete", "?0" if complete else "?1")
        if version == 3
        else ("Upload-Complete", "?1" if complete else "?0")
    )
    given_ = dict([told])
    read = ietf.completes(version, given_.get("Upload-Complete"), given_.get("Upload-Incomplete"))
    assert read == complete


def test_malformed_structured_fields_are_ignored() -> None:
    assert [structured_fields.boolean(text) for text in ("?1", " ?0;a=1 ", "1", "?2", "?1, ?0", "true", None)] == [
        True,
        False,
        None,
        None,
        None,
        None,
        None,
    ]
    assert [structured_fields.natural(text) for text in ("5", "007", "5;x", "-1", "5.0", "1" * 16, '"5"', None)] == [
        5,
        7,
        5,
        None,
        None,
        None,
        None,
        None,
    ]
    sum_ = hashlib.sha256(b"x").digest()
    written = f"md5=:AAAA:, sha-256=:{base64.b64encode(sum_).decode()}:;p=1, sha-512=:AAAA:"
    assert structured_fields.digests(written) == {"sha256": sum_}
    assert ietf.limits(6, max_size=9, max_age=5) == "max-size=9, min-size=0, expires=5"
    assert ietf.limits(8, max_size=9, max_age=-5) == "max-size=9, min-size=0, max-age=0"
