"""``/s3`` as the plugin uses it: JSON, special cases and ownership. The plugin itself is tested in tests/e2e."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import pytest
import requests

from services import Services
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING

MIB = 1024 * 1024
PIECE = bytes(range(256)) * (5 * MIB // 256)


class Multipart:
    """A multipart upload as version 6 sends it."""

    def __init__(self, client: GatewayClient, name: str = "video.bin", **metadata: Any):
        self.client = client
        body = {"filename": name, "type": "application/octet-stream", "metadata": metadata}
        created = client.post("/s3/multipart", json=body)
        assert created.status == 200, created.body
        self.key, self.id = created.json["key"], created.json["uploadId"]

    def at(self, path: str = "", **query: str) -> str:
        return f"/s3/multipart/{self.id}{path}?{urlencode({'key': self.key, **query})}"

    def put(self, number: int, data: bytes) -> str:
        signed = self.client.get(self.at(f"/{number}"))
        assert signed.status == 200, signed.body
        answer = requests.put(signed.json["url"], data=data, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.headers["ETag"].strip('"')

    def list(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.client.get(self.at()).json
        return listed

    def complete(self, *etags: str) -> Answer:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        return self.client.post(self.at("/complete"), json={"parts": parts})


def post_form(params: dict[str, Any], data: bytes) -> requests.Response:
    return requests.post(params["url"], data=params["fields"], files={"file": ("blob", data)}, timeout=30)


def checked(services: Services, client: GatewayClient, file_id: str) -> dict[str, Any]:
    services.verification.check(UUID(file_id))
    found: dict[str, Any] = client.get(f"/api/files/{file_id}").json
    return found


# -- a single file -----------------------------------------------------------------------------------------------------


def test_params_sign_a_form_that_both_versions_can_send(
    client: GatewayClient, services: Services, leftovers: Callable[[], object]
) -> None:
    query = urlencode(
        {
            "filename": "写真.txt",
            "type": "undefined",
            "metadata[folder_id]": "null",
            "metadata[tags]": "a, b",
            "metadata[visibility]": "public",
            "metadata[relativePath]": "null",
            "metadata[caption]": "Höhle [1]",
        }
    )
    answer = client.get(f"/s3/params?{query}")
    params = answer.json
    assert answer.status == 200
    assert params["method"] == "POST"
    assert params["url"].endswith("/")  # versions 6.0 to 6.2 append the key to it
    assert params["fields"]["key"].startswith("incoming/")
    assert not {"file", "redirect", "success_action_redirect"} & {name.lower() for name in params["fields"]}
    assert 0 < params["expires"] <= 3600
    assert 200 <= post_form(params, b"hello").status_code < 300
    assert services.direct is not None
    assert services.direct.sweep() == 1
    [file] = client.get("/api/files").json["items"]
    file = checked(services, client, file["id"])
    assert (file["original_name"], file["file_size"], file["status"]) == ("写真.txt", 5, "ready")
    assert (file["tags"], file["visibility"], file["folder_id"]) == (["a", "b"], "public", None)
    assert file["metadata"]["custom"] == {"caption": "Höhle [1]"}
    assert file["file_hash"] == hashlib.sha256(b"hello").hexdigest()
    assert leftovers() == NOTHING


def test_T22_parameters_that_are_not_utf_8_are_400(client: GatewayClient, leftovers: Callable[[], object]) -> None:
    for query in ("filename=%FF.txt", "filename=a.txt&metadata[tags]=%FF", "filename=a.txt&metadata[caption]=%FF"):
        answer = client.get(f"/s3/params?{query}")
        assert (answer.status, answer.code) == (400, "invalid_input"), query
    assert leftovers() == NOTHING


def test_an_empty_file(client: GatewayClient, services: Services, leftovers: Callable[[], object]) -> None:
    params = client.get("/s3/params?filename=empty.txt&type=text/plain").json
    assert 200 <= post_form(params, b"").status_code < 300
    assert services.direct is not None
    assert services.direct.sweep() == 1
    assert client.get("/api/files").json["items"][0]["file_size"] == 0
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=1000)
def test_T41_the_form_is_limited_in_size_key_and_type(client: GatewayClient) -> None:
    params = client.get("/s3/params?filename=a.txt&type=text/plain").json
    assert post_form(params, b"x" * 1001).status_code == 400
    other_key = {**params, "fields": params["fields"] | {"key": "files/2026/11/mine.txt"}}
    assert post_form(other_key, b"x").status_code == 403
    other_type = {**params, "fields": params["fields"] | {"Content-Type": "text/html"}}
    assert post_form(other_type, b"x").status_code == 403


@pytest.mark.settings(quota_bytes=100)
def test_quota_is_checked_when_the_size_is_known(
    client: GatewayClient, services: Services, leftovers: Callable[[], Any]
) -> None:
    forms = [client.get("/s3/params?filename=a.txt&type=text/plain").json for _ in range(2)]
    for params in forms:
        assert post_form(params, b"x" * 60).ok
    assert services.direct is not None
    assert services.direct.sweep() == 1
    assert client.get("/api/storage/stats").json["quota"]["used"] == 60
    assert leftovers() == NOTHING


@pytest.mark.parametrize(
    "query", ["", "?filename=", "?type=text/plain", "?filename=%2F", "?filename=a&metadata[folder_id]=x"]
)
def test_invalid_params_have_the_plugins_error_members(client: GatewayClient, query: str) -> None:
    answer = client.get(f"/s3/params{query}")
    assert answer.status == 400
    assert answer.json["error"] == answer.json["message"] == answer.json["detail"] != ""


def test_other_errors_have_the_plugins_error_members(client: GatewayClient, anonymous: GatewayClient) -> None:
    for answer, status in (
        (client.get("/s3/nothing"), 404),
        (client.put("/s3/params"), 405),
        (anonymous.get("/s3/params?filename=a"), 401),
        (client.get("/s3/sts"), 404),
        (client.post("/s3/multipart", data=b"{", headers={"Content-Type": "application/json"}), 400),
    ):
        assert answer.status == status
        assert answer.json["error"] == answer.json["message"] == answer.json["detail"]
    assert "error" not in client.get("/api/nothing").json


# -- several parts -----------------------------------------------------------------------------------------------------


def test_parts_of_any_length_quoted_and_unquoted_etags(
    client: GatewayClient, services: Services, leftovers: Callable[[], object]
) -> None:
    upload = Multipart(client, "film.bin", caption="x", tags=["t", "u"], folder_id=None, n=1)
    first, second = PIECE + b"odd", b"tail"
    etags = [upload.put(1, first), upload.put(2, second)]
    listed = upload.list()
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(1, len(first)), (2, len(second))]
    assert [part["ETag"] for part in listed] == [f'"{etag}"' for etag in etags]
    answer = upload.complete(etags[0], f'"{etags[1]}"')
    assert answer.status == 200
    assert answer.json["key"] == upload.key
    assert answer.json["location"] == f"http://gateway.test/api/files/{answer.json['id']}"
    file = checked(services, client, answer.json["id"])
    assert file["file_hash"] == hashlib.sha256(first + second).hexdigest()
    assert file["metadata"]["custom"] == {"caption": "x", "n": 1}
    assert file["tags"] == ["t", "u"]
    assert leftovers() == NOTHING


def test_an_empty_part(client: GatewayClient, leftovers: Callable[[], object]) -> None:
    """Version 5 sends an empty file like this if it is configured to use multipart."""
    upload = Multipart(client, "empty.txt")
    assert upload.complete(upload.put(1, b"")).status == 200
    assert client.get("/api/files").json["items"][0]["file_size"] == 0
    assert leftovers() == NOTHING


def test_T44_repeated_completion_gives_the_same_response(client: GatewayClient) -> None:
    upload = Multipart(client)
    etags = [upload.put(1, PIECE), upload.put(2, b"tail")]
    first = upload.complete(*etags)
    assert upload.complete(*etags).json == first.json
    # After a lost response the plugin lists the parts, skips those and completes.
    listed = upload.list()
    assert {1, 2} <= {part["PartNumber"] for part in listed}
    assert upload.complete(*(part["ETag"] for part in listed[:2])).json == first.json


@pytest.mark.parametrize("wrong", [["x"], ["0" * 32, "1" * 32], []])
def test_T43_mismatching_parts_are_rejected_and_the_upload_continues(client: GatewayClient, wrong: list[str]) -> None:
    upload = Multipart(client)
    etag = upload.put(1, PIECE)
    answer = upload.complete(*wrong)
    assert (answer.status, answer.json["code"]) == (409, "parts_mismatch")
    assert upload.complete(etag).status == 200


def test_T43_missing_parts_are_rejected(client: GatewayClient) -> None:
    upload = Multipart(client)
    etag = upload.put(2, PIECE)
    parts = {"parts": [{"PartNumber": 2, "ETag": etag}]}
    assert client.post(upload.at("/complete"), json=parts).status == 409


def test_T43_only_the_client_knows_the_number_of_parts(client: GatewayClient) -> None:
    """What has arrived may be incomplete: the size was not declared."""
    upload = Multipart(client)
    etag = upload.put(1, PIECE)
    answer = client.post(f"/api/uploads/{upload.id}/complete", json={})
    assert (answer.status, answer.json["code"]) == (409, "parts_mismatch")
    assert upload.complete(etag).status == 200


def test_several_part_urls_in_one_call(client: GatewayClient) -> None:
    upload = Multipart(client)
    signed = client.get(upload.at("/batch", partNumbers="1,2,10000")).json["presignedUrls"]
    assert set(signed) == {"1", "2", "10000"}
    assert requests.put(signed["2"], data=b"x", timeout=30).status_code == 200
    for numbers in ("", "0", "10001", "x", "1,,x", "1.0", "٣"):
        assert client.get(upload.at("/batch", partNumbers=numbers)).status == 400
    for number in ("0", "10001", "x", "-1"):
        assert client.get(upload.at(f"/{number}")).status == 400


def test_abort_leaves_nothing(client: GatewayClient, leftovers: Callable[[], dict[str, list[str]]]) -> None:
    upload = Multipart(client)
    upload.put(1, PIECE)
    answer = client.delete(upload.at())
    assert (answer.status, answer.json) == (200, {})
    assert client.get(upload.at("/1")).status == 410
    assert upload.complete("x").status == 410
    left = leftovers()
    assert [left[kind] for kind in ("objects without a row", "multiparts", "reservations")] == [[], [], []]


@pytest.mark.settings(quota_bytes=12 * MIB)
def test_quota_is_checked_as_parts_are_requested(client: GatewayClient, leftovers: Callable[[], Any]) -> None:
    upload = Multipart(client)
    upload.put(1, PIECE)
    assert client.get(upload.at("/3")).status == 200
    refused = client.get(upload.at("/4"))  # parts before it hold at least 15 MiB
    assert (refused.status, refused.json["code"]) == (413, "quota_exceeded")
    assert leftovers()["reservations"] == []


@pytest.mark.settings(max_file_size=6 * MIB)
def test_uploads_that_grow_too_large_are_rejected(client: GatewayClient, leftovers: Callable[[], Any]) -> None:
    upload = Multipart(client)
    assert client.get(upload.at("/3")).json["code"] == "file_too_large"
    etags = [upload.put(1, PIECE), upload.put(2, PIECE)]
    answer = upload.complete(*etags)
    assert (answer.status, answer.json["code"]) == (413, "file_too_large")
    left = leftovers()
    assert (left["objects without a row"], left["multiparts"]) == ([], [])


# -- ownership ---------------------------------------------------------------------------------------------------------


def test_T45_key_and_id_must_match_and_be_the_callers(client: GatewayClient, other: GatewayClient) -> None:
    mine, theirs = Multipart(client), Multipart(other)
    etag = mine.put(1, PIECE)
    parts = {"parts": [{"PartNumber": 1, "ETag": etag}]}
    foreign = [
        (client, f"/s3/multipart/{mine.id}", theirs.key),  # own id, another owner's key
        (client, f"/s3/multipart/{mine.id}", "files/2026/11/any"),
        (other, f"/s3/multipart/{mine.id}", mine.key),
        (other, f"/s3/multipart/{theirs.id}", mine.key),
        (client, "/s3/multipart/no-id", mine.key),
        (client, "/s3/multipart/0199c0de-0000-7000-8000-000000000000", mine.key),
    ]
    for caller, path, key in foreign:
        query = urlencode({"key": key})
        for answer in (
            caller.get(f"{path}?{query}"),
            caller.get(f"{path}/1?{query}"),
            caller.get(f"{path}/batch?partNumbers=1&{query}"),
            caller.post(f"{path}/complete?{query}", json=parts),
            caller.delete(f"{path}?{query}"),
        ):
            assert (answer.status, answer.json["code"]) == (404, "not_found"), path
    assert client.get(f"/s3/multipart/{mine.id}").status == 400  # without a key
    assert mine.complete(etag).status == 200


@pytest.mark.settings(max_file_size=20 * MIB)
def test_version_6_needs_only_a_token_in_the_path(
    client: GatewayClient, anonymous: GatewayClient, leftovers: Callable[[], Any]
) -> None:
    budget = {"owner_id": "alice", "max_files": 2, "max_size": 6 * MIB, "allowed_types": ["bin", "txt"]}
    token = client.post("/api/upload-tokens", json=budget).json["token"]
    page = GatewayClient(anonymous.target, None, check=False)
    refused = page.get(f"/t/{token}/s3/params?filename=a.png")
    assert (refused.status, refused.json["error"]) == (415, refused.json["detail"])
    params = page.get(f"/t/{token}/s3/params?filename=a.txt").json
    assert post_form(params, b"x" * (6 * MIB + 1)).status_code == 400
    made = page.post(f"/t/{token}/s3/multipart", json={"filename": "b.bin", "type": "undefined"}).json
    third = page.get(f"/t/{token}/s3/params?filename=c.txt")
    assert (third.status, third.json["code"]) == (413, "quota_exceeded")
    at, key = f"/t/{token}/s3/multipart/{made['uploadId']}", urlencode({"key": made["key"]})
    assert page.get(f"{at}/3?{key}").json["code"] == "file_too_large"
    parts = []
    for number in (1, 2):
        url = page.get(f"{at}/{number}?{key}").json["url"]
        etag = requests.put(url, data=PIECE, timeout=30).headers["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    done = page.post(f"{at}/complete?{key}", json={"parts": parts})
    assert (done.status, done.json["code"]) == (413, "file_too_large")
    assert leftovers()["multiparts"] == []


# -- signRequest -------------------------------------------------------------------------------------------------------


class Signed:
    """``signRequest`` and what version 6 does with it."""

    def __init__(self, client: GatewayClient):
        self.client = client

    def __call__(self, **request: Any) -> dict[str, Any]:
        answer = self.client.post("/s3/sign", json=request)
        assert answer.status == 200, answer.body
        signed: dict[str, Any] = answer.json
        return signed

    def send(self, method: str, url: str, data: bytes = b"", key: str | None = None) -> Answer:
        """Send to a URL of the gateway like a browser, without a credential unless ``key`` is given."""
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}" == "http://gateway.test"
        headers = {"Content-Type": "application/xml"} if data else {}
        caller = GatewayClient(self.client.target, key, check=False)
        return caller.request(method, f"{parts.path}?{parts.query}", data=data or None, headers=headers)


def element(answer: Answer, name: str) -> list[str]:
    return re.findall(f"<{name}>(.*?)</{name}>", answer.body.decode())


def document(*etags: str) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def test_sign_request_for_a_multipart_upload(
    client: GatewayClient, services: Services, leftovers: Callable[[], object]
) -> None:
    sign = Signed(client)
    created = sign(method="POST", key="0b5a3a52-1c1b-4c8e-9d53-0d7d3f6f0b11-写真 & <b>.bin")
    answer = sign.send("POST", created["url"])
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/xml"
    [upload_id] = element(answer, "UploadId")
    assert sign.send("POST", created["url"]).body == answer.body  # the plugin repeats it after a network error
    request = {"key": created["key"], "uploadId": upload_id}
    etags = []
    for number, data in enumerate((PIECE, b"tail"), 1):
        url = sign(method="PUT", partNumber=number, **request)["url"]
        etags.append(requests.put(url, data=data, timeout=30).headers["ETag"])
    listed = sign.send("GET", sign(method="GET", **request)["url"])
    assert element(listed, "PartNumber") == ["1", "2"]
    assert element(listed, "ETag") == [etag.replace('"', "&quot;") for etag in etags]
    url = sign(method="POST", **request)["url"]
    done = sign.send("POST", url, document(etags[0].strip('"'), etags[1]))
    assert done.status == 200
    [location] = element(done, "Location")
    assert element(done, "Key") == [created["key"]]
    assert sign.send("POST", url, document(*etags)).body == done.body
    file = checked(services, client, location.rpartition("/")[2])
    assert file["original_name"] == "写真 & <b>.bin"
    assert file["file_hash"] == hashlib.sha256(PIECE + b"tail").hexdigest()
    assert leftovers() == NOTHING


def test_sign_request_for_a_single_file(client: GatewayClient, services: Services) -> None:
    sign = Signed(client)
    form = sign(method="PUT", key="0b5a3a52-1c1b-4c8e-9d53-0d7d3f6f0b11-a.txt", contentType="text/plain")
    assert form["key"] == form["fields"]["key"]
    assert 200 <= post_form(form, b"one").status_code < 300
    put = sign(method="PUT", key="whatever", filename="b.txt", contentType="text/plain", size=3, metadata={"n": "1"})
    assert requests.put(put["url"], data=b"two!", headers=put["headers"], timeout=30).status_code == 403
    assert requests.put(put["url"], data=b"two", headers=put["headers"], timeout=30).status_code == 200
    assert services.direct is not None
    assert services.direct.sweep() == 2
    items = client.get("/api/files?sort=original_name").json["items"]
    assert [(file["original_name"], file["file_size"]) for file in items] == [("a.txt", 3), ("b.txt", 3)]
    assert items[1]["metadata"] == {"custom": {"n": "1"}}


def test_T62_a_signed_url_works_for_its_own_upload_only(client: GatewayClient, client_for: Any) -> None:
    sign = Signed(client)
    one, two = (sign(method="POST", key=name)["url"] for name in ("a.bin", "b.bin"))
    ticket_of_two = two.partition("ticket=")[2]
    path = one.partition("?")[0]
    bob = client_for("bob")
    for url, key, status, code in (
        (f"{path}?uploads", None, 401, "AccessDenied"),
        (f"{path}?uploads&ticket={ticket_of_two}", None, 403, "AccessDenied"),
        (f"{path}?uploads&ticket=" + "A" * 60, None, 403, "AccessDenied"),
        (one, bob.key, 404, "NoSuchUpload"),
        (one, "wrong", 401, "AccessDenied"),
    ):
        answer = sign.send("POST", url, key=key)
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/xml")
        assert element(answer, "Code") == [code]
    assert sign.send("POST", one).status == 200
    assert sign.send("POST", f"{path}?uploads", key=client.key).status == 200
    assert sign.send("DELETE", one).status == 204
    assert element(sign.send("POST", one), "Code") == ["NoSuchUpload"]
    assert element(sign.send("PATCH", one, key=client.key), "Code") == ["MethodNotAllowed"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<",
        b"{}",
        document(),
        document("x y"),
        document('a"b'),
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + document("&b;"),
        document("x").decode().encode("utf-16"),
        b"<a>" * 10_000,
        document("0").replace(b"<PartNumber>1", b"<PartNumber>0"),
    ],
)
def test_T44_invalid_completion_bodies_complete_nothing(client: GatewayClient, body: bytes) -> None:
    sign = Signed(client)
    created = sign(method="POST", key="a.bin")
    upload_id = created["id"]
    part = sign(method="PUT", key=created["key"], uploadId=upload_id, partNumber=1)
    etag = requests.put(part["url"], data=b"x", timeout=30).headers["ETag"]
    url = sign(method="POST", key=created["key"], uploadId=upload_id)["url"]
    answer = sign.send("POST", url, body)
    assert answer.status in (400, 409)
    assert element(answer, "Code")[0] in ("InvalidRequest", "InvalidPart")
    assert sign.send("POST", url, document(etag)).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "GET", "key": "a"},
        {"method": "DELETE", "key": "a"},
        {"method": "PATCH", "key": "a"},
        {"method": "PUT"},
        {"method": "PUT", "key": ""},
        {"method": "POST", "key": "a", "metadata": {"visibility": "all"}},
        {"method": "POST", "key": "a", "metadata": {"x": "\0"}},
        {"method": "POST", "key": "a", "metadata": {"x": "y" * 70_000}},
    ],
)
def test_invalid_sign_requests(client: GatewayClient, request_: dict[str, Any]) -> None:
    assert client.post("/s3/sign", json=request_).status == 400


def test_sign_needs_matching_key_and_upload(client: GatewayClient, other: GatewayClient) -> None:
    created = Signed(client)(method="POST", key="a.bin")
    for caller, key in ((client, "a.bin"), (other, created["key"])):
        for request_ in (
            {"method": "GET"},
            {"method": "POST"},
            {"method": "DELETE"},
            {"method": "PUT", "partNumber": 1},
        ):
            answer = caller.post("/s3/sign", json={**request_, "key": key, "uploadId": created["id"]})
            assert answer.status == 404


# -- CORS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/s3/params", "authorization"),
        ("POST", "/s3/multipart", "authorization,content-type"),
        ("DELETE", "/s3/multipart/x", "uppy-auth-token,uppy-credentials-params,authorization"),
        ("POST", "/s3/objects/0199c0de-0000-7000-8000-000000000000", "content-type"),
        ("DELETE", "/s3/objects/0199c0de-0000-7000-8000-000000000000", ""),
    ],
)
def test_T38_preflights_succeed_for_allowed_origins_only(
    anonymous: GatewayClient, method: str, path: str, headers: str
) -> None:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    answer = anonymous.options(path, headers={"Origin": "http://app.test", **asked})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://app.test"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert method in answer.headers["Access-Control-Allow-Methods"]
    allowed = answer.headers.get("Access-Control-Allow-Headers", "").lower().replace(" ", "").split(",")
    assert set(filter(None, headers.split(","))) <= set(allowed)
    foreign = anonymous.options(path, headers={"Origin": "http://evil.test", **asked})
    assert "Access-Control-Allow-Origin" not in foreign.headers
