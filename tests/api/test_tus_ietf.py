"""The IETF draft, interop versions 3 to 9, over HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from api import tus_headers
from core import ietf
from services import Services
from tests.api.test_tus import stored
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.subtests import with_subtests
from tests.tus import MIB, begin, path, random_bytes

PARTIAL = "application/partial-upload"


def fields(version: int, complete: bool, **more: str) -> dict[str, str]:
    return {
        "Upload-Draft-Interop-Version": str(version),
        **ietf.completeness(version, complete),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def send(
    client: GatewayClient, version: int, data: Any, *, complete: bool, headers: Mapping[str, str] | None = None
) -> Answer:
    sent = {"Content-Type": "application/octet-stream", **fields(version, complete), **(headers or {})}
    return client.post("/api/tus", data=data, headers=sent)


def append(
    client: GatewayClient, version: int, where: str, offset: int, data: Any, *, complete: bool, **more: str
) -> Answer:
    sent = fields(version, complete, Upload_Offset=str(offset), **{"Content_Type": PARTIAL, **more})
    return client.patch(where, data=data, headers=sent)


@pytest.mark.slow
@with_subtests("version", range(3, 10))
def test_each_version_in_one_and_in_several_requests(
    client: GatewayClient, services: Services, bucket: Any, version: int
) -> None:
    told = "Upload-Incomplete" if version == 3 else "Upload-Complete"
    yes, no = ("?0", "?1") if version == 3 else ("?1", "?0")
    named = {"Content-Disposition": f"attachment; filename*=UTF-8''Pl%C3%A4n{version}.txt"}
    at_once = send(client, version, b"hello", complete=True, headers=named)
    assert at_once.status == 201 and at_once.headers[told] == yes and at_once.headers["Upload-Offset"] == "5"
    file = client.get(f"/api/files/{at_once.headers['Upload-File-Id']}").json
    assert file["original_name"] == f"Plän{version}.txt"
    begun = send(client, version, b"hel", complete=False)
    assert begun.status == 201 and begun.headers[told] == no and begun.headers["Upload-Offset"] == "3"
    where = path(begun)
    seen = client.head(where, headers={"Upload-Draft-Interop-Version": str(version)})
    assert seen.status == 204 and seen.headers["Upload-Offset"] == "3" and seen.headers[told] == no
    assert seen.headers["Cache-Control"] == "no-store" and "Upload-Length" not in seen.headers
    assert "max-size=" in seen.headers["Upload-Limit"]
    assert ("expires=" if version <= 6 else "max-age=") in seen.headers["Upload-Limit"]
    more = append(client, version, where, 3, b"lo ", complete=False)
    assert more.status == 204 and more.headers[told] == no and more.headers["Upload-Offset"] == "6"
    done = append(client, version, where, 6, iter([b"wor", b"ld"]), complete=True)
    assert done.status == 204 and done.headers[told] == yes
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == b"hello world"
    seen = client.get(where) if version == 9 else client.head(where)  # without the draft's headers
    assert seen.status == 204 and seen.headers["Upload-Length"] == "11"
    assert seen.headers["Upload-File-Id"] == done.headers["Upload-File-Id"]


@with_subtests(
    ("disposition", "name"),
    [
        ('attachment; filename="Pl\xc3\xa4n.txt"', "Plän.txt"),  # a character for each byte
        ('attachment; filename="=?windows-1252?Q?Pl=E4n?=.txt"', "Plän.txt"),
        ("attachment; filename*=windows-1252''Pl%E4n.txt; filename=Plan.txt", "Plän.txt"),
        ('attachment; filename="Pl\xe4n.txt"', None),
        ("attachment; filename*=UTF-8''Pl%E4n.txt", None),
        ("attachment; filename*=rot13''Plan.txt", None),
    ],
)
def test_T22_file_names_in_headers(client: GatewayClient, disposition: str, name: str | None) -> None:
    answer = send(client, 6, b"x", complete=True, headers={"Content-Disposition": disposition})
    if name is None:
        assert (answer.status, answer.code) == (400, "invalid_input")
    else:
        assert client.get(f"/api/files/{answer.headers['Upload-File-Id']}").json["original_name"].startswith(name[:4])


def test_an_upload_of_unknown_length_larger_than_a_part(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    data = random_bytes(9 * MIB)
    pieces = iter([data[start : start + MIB] for start in range(0, len(data), MIB)])
    done = send(client, 8, pieces, complete=True)
    assert done.status == 201 and done.headers["Upload-Complete"] == "?1"
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == data
    assert leftovers() == NOTHING


def test_T51_the_draft_is_chosen_by_headers_or_by_the_upload(client: GatewayClient) -> None:
    of_draft, of_tus = path(send(client, 8, b"hel", complete=False)), path(begin(client, 5))
    for sent in ({"Upload-Complete": "?0"}, {"Upload-Incomplete": "?1"}, {"Upload-Draft-Interop-Version": "8"}, {}):
        assert client.head(of_draft, headers=sent).status == 204, sent
    assert client.head(of_tus).status == 412
    assert client.head(of_draft, headers={"Tus-Resumable": "0.1"}).status == 412
    assert client.delete(of_draft).status == 204 and client.head(of_draft).status == 410
    assert client.post("/api/tus", headers={"Upload-Length": "5"}).status == 412


def test_T51_errors_of_the_draft_have_registered_types(client: GatewayClient, leftovers: Leftovers) -> None:
    where = path(send(client, 8, b"hel", complete=False, headers={"Upload-Length": "5"}))
    wrong = append(client, 8, where, 1, b"lo", complete=True)
    assert wrong.status == 409 and wrong.json["type"] == ietf.MISMATCHING_OFFSET
    assert (wrong.json["expected-offset"], wrong.json["provided-offset"]) == (3, 1)
    assert wrong.headers["Upload-Offset"] == "3" and wrong.headers["Upload-Complete"] == "?0"
    for clash in (
        append(client, 8, where, 3, b"l", complete=True),  # 4 bytes are not 5
        append(client, 8, where, 3, b"", complete=False, Upload_Length="6"),
        send(client, 8, b"hello", complete=True, headers={"Upload-Length": "6"}),
    ):
        assert clash.status == 400 and clash.json["type"] == ietf.INCONSISTENT_LENGTH
    assert client.head(where).headers["Upload-Offset"] == "3"
    done = append(client, 8, where, 3, b"lo", complete=True)
    again = append(client, 8, where, 5, b"more", complete=True)
    assert done.status == 204 and again.status == 400 and again.json["type"] == ietf.COMPLETED_UPLOAD
    typed = client.patch(where, data=b"", headers=fields(6, True, Upload_Offset="5", Content_Type="text/plain"))
    assert typed.status == 415
    untyped = append(
        client, 5, path(send(client, 5, b"", complete=False)), 0, b"x", complete=True, Content_Type="text/plain"
    )
    assert untyped.status == 204
    assert leftovers() == NOTHING


def test_bytes_beyond_the_declared_length_end_the_upload(client: GatewayClient, leftovers: Leftovers) -> None:
    where = path(send(client, 8, b"hel", complete=False, headers={"Upload-Length": "5"}))
    over = append(client, 8, where, 3, b"lo!", complete=False)
    assert over.status == 400 and over.json["type"] == ietf.INCONSISTENT_LENGTH
    assert client.head(where).status == 410
    assert leftovers() == NOTHING


def digest(data: bytes, name: str = "sha-256") -> str:
    sum_ = hashlib.new(name.replace("-", ""), data).digest()
    return f"{name}=:{base64.b64encode(sum_).decode()}:"


def test_T12_content_digest_and_repr_digest_are_verified(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    whole = {"Repr-Digest": digest(b"hello")}
    begun = send(client, 8, b"hel", complete=False, headers={**whole, "Content-Digest": digest(b"hel", "sha-512")})
    assert begun.headers["Upload-Offset"] == "3"
    where = path(begun)
    wrong = append(client, 8, where, 3, b"lo", complete=True, Content_Digest=digest(b"LO"))
    assert wrong.status == 400 and wrong.code == "checksum_mismatch"
    assert client.head(where).headers["Upload-Offset"] == "3"
    done = append(client, 8, where, 3, b"lo", complete=True, Content_Digest=digest(b"lo"))
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == b"hello"
    other = send(client, 8, b"hullo", complete=True, headers=whole)
    services.verification.check(UUID(other.headers["Upload-File-Id"]))
    file = client.get(f"/api/files/{other.headers['Upload-File-Id']}").json
    assert file["status"] == "rejected" and file["problem"]["code"] == "checksum_mismatch"


@pytest.mark.settings(max_file_size=10)
def test_R5_T52_limits_apply_to_the_draft_too(client: GatewayClient, leftovers: Leftovers) -> None:
    assert send(client, 8, bytes(11), complete=True).status == 413
    assert send(client, 8, b"", complete=False, headers={"Upload-Length": "11"}).status == 413
    assert send(client, 8, iter([bytes(6), bytes(6)]), complete=True).status == 413
    assert send(client, 8, bytes(10), complete=True).status == 201
    assert leftovers() == NOTHING


def test_malformed_fields_are_ignored(client: GatewayClient) -> None:
    sent = {"Upload-Draft-Interop-Version": "x", "Upload-Complete": "yes", "Upload-Length": "-1"}
    whole = client.post("/api/tus", data=b"hello", headers=sent)
    assert whole.status == 201 and whole.headers["Upload-Complete"] == "?1"
    assert client.patch(path(whole), data=b"", headers=fields(8, True, Content_Type=PARTIAL)).status == 400


# -- digests of the whole ------------------------------------------------------------------------------------------------------


@with_subtests(
    ("wish", "algorithm"),
    [
        ("sha-256=10", "sha-256"),
        ("sha-512=3, sha-256=2;x=1, md5=9", "sha-512"),
        ("sha-512=0, sha-256=1", "sha-256"),
        ("sha-256=5, sha-512=5", "sha-256"),
        ("md5=10, sha-256=0", None),
        ("sha-256=11", None),
        ("sha-256=?1", None),
        ("sha-256=(1 2)", None),
        ("sha-256", None),
        ("=", None),
        ("", None),
        (None, None),
    ],
)
def test_a_creation_that_completes_returns_the_digest_it_asks_for(
    client: GatewayClient, wish: str | None, algorithm: str | None
) -> None:
    asked = {} if wish is None else {"Want-Repr-Digest": wish}
    for data, whole in ((b"hello", b"hello"), (iter([b"hel", b"lo"]), b"hello"), (b"", b"")):
        done = send(client, 9, data, complete=True, headers=asked)
        expected = None if algorithm is None else digest(whole, algorithm)
        assert (done.status, done.headers.get("Repr-Digest")) == (201, expected)
    assert "Repr-Digest" not in send(client, 9, b"hello", complete=False, headers=asked).headers


def test_an_upload_in_several_requests_has_its_digest_once_it_is_checked(
    client: GatewayClient, services: Services
) -> None:
    where = path(send(client, 9, b"hel", complete=False, headers={"Want-Repr-Digest": "sha-256=1"}))
    done = append(client, 9, where, 3, b"lo", complete=True)
    assert "Repr-Digest" not in client.head(where).headers
    services.verification.check(UUID(done.headers["Upload-File-Id"]))
    for look in (client.head, client.get):
        assert look(where).headers["Repr-Digest"] == digest(b"hello")


# -- errors ----------------------------------------------------------------------------------------------------------------------


def test_errors_say_whether_the_upload_goes_on(
    client: GatewayClient, anonymous: GatewayClient, other: GatewayClient
) -> None:
    """``?1``: it does not, since it was refused as a whole."""
    elf = b"\x7fELF\x02\x01\x01" + bytes(2000)
    named = {"Content-Disposition": 'attachment; filename="a.png"'}
    where = path(send(client, 9, b"hel", complete=False))
    over = path(send(client, 9, b"hel", complete=False, headers={"Upload-Length": "4"}))
    typed = path(send(client, 9, b"", complete=False, headers=named))
    done = path(send(client, 9, b"hello", complete=True))
    for version in (3, 8, 9):
        for status, told, answer in (
            (401, "?1", send(anonymous, version, b"hello", complete=True)),
            (413, "?1", send(client, version, b"", complete=False, headers={"Upload-Length": str(10**14)})),
            (415, "?1", send(client, version, elf, complete=True, headers=named)),
            (404, "?1", client.post("/api/tus?folder_id=99", headers=fields(version, True))),
            (405, "?1", client.put("/api/tus", headers=fields(version, True))),
            (405, "?0", client.put(where, headers=fields(version, True))),
            (409, "?0", append(client, version, where, 2, b"lo", complete=True)),
            (400, "?0", append(client, version, where, 3, b"lo", complete=True, Content_Digest=digest(b"LO"))),
            (400, "?0", append(client, version, done, 5, b"more", complete=True)),
            (404, "?0", append(other, version, where, 3, b"lo", complete=True)),
            (404, "?0", client.head("/api/tus/x", headers=fields(version, True))),
        ):
            told = told if version > 3 else told.translate(str.maketrans("01", "10"))
            field = "Upload-Complete" if version > 3 else "Upload-Incomplete"
            assert (answer.status, answer.headers.get(field)) == (status, told), (version, answer.body)
            assert "Tus-Resumable" not in answer.headers
            assert ("Upload-Limit" in answer.headers) == (status == 413)
    assert client.head(where).headers["Upload-Offset"] == "3"
    assert append(client, 9, over, 3, b"lo", complete=False).headers["Upload-Complete"] == "?1"
    assert append(client, 9, typed, 0, elf, complete=True).headers["Upload-Complete"] == "?1"
    assert append(client, 9, typed, 0, elf, complete=True).status == 410
    assert "Upload-Complete" not in client.post("/api/tus", headers={"Tus-Resumable": "1.0.0"}).headers


def test_an_unknown_interop_version_is_served_and_logged_once(
    client: GatewayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tus_headers, "_unknown", set())
    with capture_logs() as logs:
        for version in (12, 12, "x", *range(100, 130)):
            sent = {"Upload-Draft-Interop-Version": str(version), "Upload-Complete": "?0"}
            answer = client.post("/api/tus", data=b"hel", headers=sent)
            assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?0")
    logged = [entry["version"] for entry in logs if entry["event"] == "unknown_interop_version"]
    assert logged == [12, *range(100, 119)]
