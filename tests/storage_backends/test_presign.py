"""Our signer gives the same bytes as botocore's. The contract suite tests its URLs on real servers."""

from __future__ import annotations

import base64
import json
import string
from datetime import UTC, datetime
from unittest import mock
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4PostAuth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.presign import MAX_EXPIRY, Presigner

ACCESS, SECRET, NOW = "AKIA/TEST+KEY", "secret/with+signs=", 1_795_440_000
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]), max_size=40)
HEADER = st.text(string.ascii_letters + string.digits + " *+/=;\"'%", max_size=30)


def presigner(endpoint: str = "http://127.0.0.1:8333") -> Presigner:
    return Presigner(endpoint, region="eu-west-1", bucket="uploads", access_key=ACCESS, secret_key=SECRET)


def botocore_url(method: str, url: str, expires_in: int, headers: dict[str, str]) -> str:
    request = AWSRequest(method=method, url=url, headers=headers)
    moment = datetime.fromtimestamp(NOW, UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        S3SigV4QueryAuth(Credentials(ACCESS, SECRET), "s3", "eu-west-1", expires_in).add_auth(request)
    assert request.url
    return request.url


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    key=TEXT.filter(bool),
    query=st.dictionaries(st.sampled_from(["partNumber", "uploadId", "response-content-disposition", "uploads"]), TEXT),
    headers=st.dictionaries(st.sampled_from(["Content-Type", "If-None-Match", "x-amz-checksum-sha256"]), HEADER),
    expires_in=st.integers(1, MAX_EXPIRY),
)
def test_the_signature_equals_botocores(method, key, query, headers, expires_in):
    ours = presigner().url(method, key, expires_in=expires_in, query=query, headers=headers, now=NOW)
    path = f"http://127.0.0.1:8333/uploads/{quote(key, safe='/~')}"
    theirs = botocore_url(method, f"{path}?{urlencode(query)}" if query else path, expires_in, headers)
    assert urlsplit(ours).path == urlsplit(theirs).path
    assert sorted(parse_qsl(urlsplit(ours).query, keep_blank_values=True)) == sorted(
        parse_qsl(urlsplit(theirs).query, keep_blank_values=True)
    )


@given(
    key=TEXT.filter(bool),
    upload_id=TEXT.filter(bool),
    sizes=st.dictionaries(st.integers(1, 10_000), st.none() | st.sampled_from([0, 5, 8_388_608])),
)
def test_the_urls_of_parts_are_those_of_single_requests(key, upload_id, sizes):
    signer = presigner()
    assert signer.part_urls(key, upload_id, sizes, expires_in=60, now=NOW) == [
        signer.url(
            "PUT",
            key,
            expires_in=60,
            query={"partNumber": str(number), "uploadId": upload_id},
            headers={} if size is None else {"Content-Length": str(size)},
            now=NOW,
        )
        for number, size in sizes.items()
    ]


@given(
    method=st.sampled_from(["GET", "PUT"]), key=TEXT.filter(bool), body=st.binary(max_size=100), kind=HEADER, part=TEXT
)
def test_the_header_signature_equals_botocores(method, key, body, kind, part):
    query = {"uploadId": part, "partNumber": "1"} if part else None
    url, ours = presigner().headers(method, key, body, {"Content-Type": kind}, query=query, now=NOW)
    request = AWSRequest(method=method, url=url, headers={"Content-Type": kind}, data=body)
    with mock.patch("botocore.auth.get_current_datetime", return_value=datetime.fromtimestamp(NOW, UTC)):
        S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "eu-west-1").add_auth(request)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours["x-amz-content-sha256"] == request.headers["X-Amz-Content-SHA256"]


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://S3.Example.com", "https://s3.example.com"),
        ("https://s3.example.com:443/", "https://s3.example.com"),
        ("http://s3.example.com:80", "http://s3.example.com"),
        ("https://s3.example.com:8443", "https://s3.example.com:8443"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_the_host_is_signed_as_clients_send_it(endpoint, origin):
    ours = presigner(endpoint).url("GET", "k", expires_in=60, now=NOW)
    assert ours.startswith(f"{origin}/uploads/k?")
    theirs = botocore_url("GET", f"{endpoint.rstrip('/')}/uploads/k", 60, {})
    assert dict(parse_qsl(urlsplit(ours).query)) == dict(parse_qsl(urlsplit(theirs).query))


@pytest.mark.parametrize("endpoint", ["https://example.com/s3", "ftp://example.com", "example.com", "https://?x"])
def test_an_unsupported_endpoint_is_rejected(endpoint):
    with pytest.raises(ValueError, match="endpoint"):
        presigner(endpoint)


def test_each_day_has_its_own_signing_key():
    signer = presigner()
    first = signer.url("GET", "k", expires_in=60, now=NOW)
    signer.url("GET", "k", expires_in=60, now=NOW + 86_400)
    assert signer.url("GET", "k", expires_in=60, now=NOW) == first


def test_T42_no_url_is_valid_longer_than_seven_days():
    assert f"X-Amz-Expires={MAX_EXPIRY}&" in presigner().url("GET", "k", expires_in=10**9, now=NOW)


def test_the_post_policy_is_signed_as_botocore_does():
    fields = presigner().post_fields(
        "dir/ü.bin", expires_in=60, min_size=1, max_size=9, content_type="image/png", now=NOW
    )
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert policy["expiration"] == datetime.fromtimestamp(NOW + 60, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert ["content-length-range", 1, 9] in policy["conditions"]
    request = AWSRequest(method="POST", url="http://127.0.0.1:8333/uploads/")
    request.context["timestamp"] = fields["x-amz-date"]
    signer = S3SigV4PostAuth(Credentials(ACCESS, SECRET), "s3", "eu-west-1")
    assert fields["x-amz-signature"] == signer.signature(fields["policy"], request)
    assert fields["x-amz-credential"] == signer.scope(request)
    named = {condition[1][1:] for condition in policy["conditions"] if "eq" in condition}
    assert named == set(fields) - {"policy", "x-amz-signature"}
