"""The contract of every store for external clients: signed requests, and pages of other origins (see contract.py)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import urllib3

from storage_backends.base import ObjectNotFound, PresignedPost, PresignedRequest
from tests.storage_backends.contract import HOUR, MIB, ODD_NAMES, needs, noise, read, sha256

LEFT_OUT = (403, 400)  # the answers to a request without a header that was signed; 400 is MinIO's
HTTP = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=20))


def send(
    request: PresignedRequest, body: bytes | None = None, *, method: str | None = None, **changed: str | None
) -> urllib3.BaseHTTPResponse:
    """Send a signed request; ``changed`` replaces headers by lower-case name, None removes one."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    for name, value in changed.items():
        headers.pop(name.replace("_", "-"), None)
        if value is not None:
            headers[name.replace("_", "-")] = value
    return HTTP.urlopen(method or request.method, request.url, body=body, headers=headers, redirect=False)


def send_form(form: PresignedPost, body: bytes, **changed: str) -> urllib3.BaseHTTPResponse:
    fields: list[tuple[str, Any]] = [
        (name, changed.get(name.replace("-", "_").lower(), value)) for name, value in form.fields.items()
    ]
    return HTTP.request("POST", form.url, fields=[*fields, ("file", ("name.bin", body))])


class PresignedContract:
    @needs("Presigns")
    @pytest.mark.parametrize("name", ["plain.bin", *ODD_NAMES])
    def test_T23_T32_a_presigned_get_fixes_type_and_disposition(self, store, prefix, name):
        key = prefix + name
        store.put(key, b"<script>", content_type="text/html")
        disposition = f"attachment; filename=\"a_ b.txt\"; filename*=UTF-8''{quote('ä; b.txt')}"
        request = store.presign_get(
            key, expires_in=HOUR, content_type="text/plain; charset=utf-8", disposition=disposition
        )
        assert abs(request.expires_at - datetime.now(UTC) - HOUR) < timedelta(minutes=1)
        answer = send(request)
        assert (answer.status, answer.data) == (200, b"<script>")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["Content-Disposition"] == disposition
        assert send(request, range="bytes=1-3").data == b"scr"
        store.delete(key)

    @needs("Presigns", "signatures")
    def test_T32_a_changed_presigned_get_is_refused(self, store, prefix):
        store.put(f"{prefix}x", b"<script>", content_type="text/html")
        store.put(f"{prefix}y", b"other", content_type="text/html")
        request = store.presign_get(f"{prefix}x", expires_in=HOUR, content_type="text/plain", disposition="attachment")
        for old, new in [
            ("text%2Fplain", "text%2Fhtml"),
            ("attachment", "inline"),
            (f"{prefix}x", f"{prefix}y"),
            ("X-Amz-Expires=3600", "X-Amz-Expires=7200"),
        ]:
            assert old in request.url
            assert HTTP.request("GET", request.url.replace(old, new)).status == 403
        assert send(request, b"", method="PUT").status == 403
        store.delete(f"{prefix}x")
        store.delete(f"{prefix}y")

    @needs("Presigns", "signatures")
    def test_T42_a_presigned_url_expires(self, store, prefix):
        store.put(f"{prefix}x", b"x", content_type="text/html")
        request = store.presign_get(
            f"{prefix}x", expires_in=timedelta(seconds=3), content_type="text/plain", disposition="attachment"
        )
        begun = time.monotonic()
        assert send(request).status == 200 or time.monotonic() - begun > 1
        time.sleep(max(0.0, begun + 4.1 - time.monotonic()))
        assert send(request).status == 403
        store.delete(f"{prefix}x")

    @needs("Presigns", "conditional_put")
    @pytest.mark.parametrize("name", ["plain.bin", *ODD_NAMES])
    def test_T41_a_presigned_put_writes_once(self, store, prefix, name):
        key = prefix + name
        request = store.presign_put(key, expires_in=HOUR, size=5, content_type="image/png")
        assert "content-length" not in {header.lower() for header in request.headers}
        assert send(request, b"12345").status == 200
        info = store.stat(key)
        assert (info.size, info.content_type) == (5, "image/png")
        assert send(request, b"67890").status == 412
        assert read(store, key) == b"12345"
        store.delete(key)

    @needs("Presigns", "signatures")
    def test_T41_a_presigned_put_fixes_length_type_and_condition(self, store, prefix):
        request = store.presign_put(f"{prefix}x", expires_in=HOUR, size=5, content_type="image/png")
        assert send(request, b"1234").status == 403
        assert send(request, b"123456").status == 403
        assert send(request, b"12345", content_type="text/html").status == 403
        assert send(request, b"12345", content_type=None).status in LEFT_OUT
        assert send(request, b"12345", if_none_match=None).status in LEFT_OUT
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}x")

    @needs("Presigns", "signatures", "checksums")
    def test_T41_a_presigned_put_fixes_the_checksum(self, store, prefix):
        request = store.presign_put(
            f"{prefix}x", expires_in=HOUR, size=5, content_type="image/png", checksum=sha256(b"12345")
        )
        assert send(request, b"99999").status == 400
        assert send(request, b"99999", x_amz_checksum_sha256=sha256(b"99999").value).status == 403
        assert send(request, b"99999", x_amz_checksum_sha256=None).status in LEFT_OUT
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}x")
        assert send(request, b"12345").status == 200
        store.delete(f"{prefix}x")

    @needs("PresignsParts")
    @pytest.mark.parametrize("name", ["plain.bin", *ODD_NAMES])
    def test_presigned_parts(self, store, prefix, name):
        key, pieces = prefix + name, [noise(5 * MIB, 9), b"end"]
        ref = store.create_multipart(key, content_type="image/png")
        for number, piece in enumerate(pieces, 1):
            (request,) = store.presign_parts(ref, {number: len(piece)}, expires_in=HOUR)
            answer = send(request, piece, content_type="application/whatever")
            assert answer.status == 200
            assert answer.headers["ETag"]
        store.complete_multipart(ref, list(store.list_parts(ref)))
        assert read(store, key) == b"".join(pieces)
        store.delete(key)

    @needs("PresignsParts", "signatures")
    def test_T41_a_presigned_part_fixes_length_number_and_upload(self, store, prefix):
        ref = store.create_multipart(f"{prefix}x", content_type="image/png")
        (request,) = store.presign_parts(ref, {1: 5}, expires_in=HOUR)
        assert send(request, b"1234").status == 403
        assert send(request, b"123456").status == 403
        other = request._replace(url=request.url.replace("partNumber=1", "partNumber=2"))
        assert send(other, b"12345").status == 403
        assert list(store.list_parts(ref)) == []
        store.abort_multipart(ref)

    @needs("PresignsParts", "upload_gone")
    def test_T45_a_presigned_part_fails_after_completion(self, store, prefix):
        ref = store.create_multipart(f"{prefix}x", content_type="image/png")
        (request,) = store.presign_parts(ref, {1: 5}, expires_in=HOUR)
        assert send(request, b"12345").status == 200
        store.complete_multipart(ref, list(store.list_parts(ref)))
        assert send(request, b"67890").status == 404
        assert read(store, f"{prefix}x") == b"12345"
        store.delete(f"{prefix}x")

    @needs("Presigns")
    @pytest.mark.parametrize("name", ["plain.bin", *ODD_NAMES])
    def test_a_post_form(self, store, prefix, name):
        key = prefix + name
        form = store.presign_post(key, expires_in=HOUR, min_size=3, max_size=6, content_type="image/png")
        assert form.url.endswith("/")
        assert send_form(form, b"12345").status in (200, 204)
        info = store.stat(key)
        assert (info.size, info.content_type) == (5, "image/png")
        store.delete(key)

    @needs("Presigns", "post_policies")
    def test_T41_a_post_form_fixes_size_type_and_key(self, store, prefix):
        form = store.presign_post(f"{prefix}x", expires_in=HOUR, min_size=3, max_size=6, content_type="image/png")
        assert send_form(form, b"12").status in (400, 403)
        assert send_form(form, b"1234567").status in (400, 403)
        assert send_form(form, b"12345", key=f"{prefix}y").status == 403
        assert send_form(form, b"12345", content_type="text/html").status == 403
        assert list(store.list_objects(prefix)) == []

    @needs("ManagesBucket", "cors")
    def test_T38_cors_allows_the_configured_origins(self, store, prefix):
        origin, other = "http://console.example:3000", "http://elsewhere.example"
        request = store.presign_put(f"{prefix}x", expires_in=HOUR, size=5, content_type="image/png")

        def preflight(who: str) -> urllib3.BaseHTTPResponse:
            return HTTP.request(
                "OPTIONS",
                request.url,
                headers={
                    "Origin": who,
                    "Access-Control-Request-Method": "PUT",
                    "Access-Control-Request-Headers": "content-type,if-none-match",
                },
            )

        for _ in range(2):
            assert store.set_cors([origin]) is True
        answer = preflight(origin)
        assert answer.status in (200, 204)
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        allowed = answer.headers["Access-Control-Allow-Headers"].lower()
        assert allowed == "*" or "if-none-match" in allowed
        assert preflight(other).headers.get("Access-Control-Allow-Origin") is None
        sent = send(request, b"12345", origin=origin)
        assert "etag" in sent.headers["Access-Control-Expose-Headers"].lower()
        assert store.set_cors([]) is True
        store.delete(f"{prefix}x")
