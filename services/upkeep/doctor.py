"""What the bucket can do, found out by trying: ``python app.py doctor``.

S3 servers differ in what they enforce, and the documentation of a server does not say what its proxy does to headers.
So each ability that the gateway relies on is tried on throw-away objects, from outside too: a presigned URL is sent to
the public endpoint as a browser would. A check that fails says what users lose by it.
"""

# mypy: disable-error-code="type-abstract"
# (abilities are Protocols, and _able() takes one as a value; it makes no instance of it)

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, urlsplit

import urllib3

from core.ids import PROBE_PREFIX
from storage_backends.base import (
    ByteRange,
    Checksum,
    ChecksumMismatch,
    Copies,
    Multipart,
    MultipartRef,
    ObjectNotFound,
    ObjectStore,
    PreconditionFailed,
    PresignedRequest,
    Presigns,
    PresignsParts,
)

LIFE = timedelta(minutes=5)
FOREIGN_ORIGIN = "https://not-allowed.invalid"
SKEW_WARNING = timedelta(seconds=30)  # S3 refuses requests from 15 minutes on
_TIMEOUT = urllib3.Timeout(connect=5, read=30)  # seconds


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool | None  # None: could not be tried, or does not apply here
    detail: str  # what was seen
    consequence: str  # what it means for users where it is not ok


T = TypeVar("T")


class _Failed(Exception):
    """The bucket did something else than it should."""


class _NotTried(Exception):
    pass


def examine(store: ObjectStore, *, origins: Sequence[str] = ()) -> list[Check]:
    """Try everything. Leaves nothing behind and never raises; takes a few seconds, or minutes where the bucket hangs.

    ``origins`` are the web pages' origins that should be let in (CORS_ORIGINS and the gateway's own)."""
    probe = _Probe(store, origins)
    try:
        checks = [probe.run(*row) for row in probe.table()]
    finally:
        left = probe.clean_up()
    if left:
        checks.append(Check("clean up", False, left, "Probe objects stay in the bucket; they may be deleted by hand."))
    return checks


class _Probe:
    def __init__(self, store: ObjectStore, origins: Sequence[str]):
        self._store = store
        self._origins = list(origins)
        self._prefix = f"{PROBE_PREFIX}doctor-{secrets.token_hex(8)}/"
        self._keys: list[str] = []
        self._uploads: list[MultipartRef] = []
        self._reachable = True

    def run(self, name: str, attempt: Callable[[], str], consequence: str) -> Check:
        if not self._reachable:
            return Check(name, None, "not tried, the bucket can't be used", consequence)
        try:
            return Check(name, True, attempt(), "")
        except _NotTried as reason:
            return Check(name, None, str(reason), consequence)
        except Exception as error:  # never raise: the doctor is asked when something is wrong already
            self._reachable = name != "write"
            return Check(name, False, str(error) or type(error).__name__, consequence)

    def table(self) -> list[tuple[str, Callable[[], str], str]]:
        return [
            (
                "write",
                self._write,
                "Nothing can be uploaded: check endpoint, credentials, bucket name and clock.",
            ),
            ("read", self._read, "Nothing can be downloaded."),
            ("read a range", self._range, "Downloads can't be resumed, and videos can't be sought."),
            ("delete", self._delete, "Storage is never freed: the key needs the right to delete."),
            (
                "private",
                self._private,
                "Anyone who learns an address can read files: make the bucket private.",
            ),
            (
                "write only if absent",
                self._if_absent,
                "The bucket would overwrite; object keys are random, so this is a "
                "second line of defence, but a presigned PUT may be used twice.",
            ),
            (
                "checksums",
                self._checksums,
                "Bytes damaged on their way to the bucket are found later, not at once.",
            ),
            ("copy", self._copy, "Form uploads from browsers to the bucket, and archiving, need copies."),
            (
                "copy if unchanged",
                self._copy_condition,
                "An object replaced during its copy is only found by its checksum.",
            ),
            ("multipart", self._multipart, "Files over one part, tus and resumable uploads do not work."),
            (
                "complete only if absent",
                self._complete_if_absent,
                "Two completions at once rely on the database alone.",
            ),
            (
                "public endpoint",
                self._public,
                "Browsers and other clients can't reach the bucket: set S3_PUBLIC_ENDPOINT "
                "to an address that they can, or DOWNLOAD_MODE=proxy.",
            ),
            (
                "presigned GET",
                self._presigned_get,
                "Redirected downloads may be shown with a wrong name or type, and "
                "HTML could run in the bucket's origin: set DOWNLOAD_MODE=proxy.",
            ),
            (
                "presigned PUT",
                self._presigned_put,
                "A client may store more bytes than it declared, or another type.",
            ),
            ("presigned part", self._presigned_part, "A client may store more bytes than it declared."),
            (
                "POST form",
                self._post_form,
                "HTML forms can't upload to the bucket within limits; use another protocol.",
            ),
            (
                "CORS",
                self._cors,
                "Pages on the origins named can't upload to the bucket, or others can: set the bucket's "
                "CORS rules (MinIO: MINIO_API_CORS_ALLOW_ORIGIN), with ETag exposed.",
            ),
            (
                "clock",
                self._clock,
                "From 15 minutes on the bucket refuses every request: synchronise the clocks.",
            ),
        ]

    # The store's own calls

    def _write(self) -> str:
        info = self._put("plain", b"0123456789")
        if self._store.stat(info).size != 10:
            raise _Failed("the object has another size than was written")
        return "10 bytes"

    def _read(self) -> str:
        if self._fetch(self._put("plain", b"0123456789")) != b"0123456789":
            raise _Failed("other bytes came back")
        return "the same bytes"

    def _range(self) -> str:
        if self._fetch(self._put("plain", b"0123456789"), ByteRange(3, 5)) != b"345":
            raise _Failed("other bytes than those of the range came back")
        return "bytes 3-5"

    def _delete(self) -> str:
        key = self._put("deleted", b"x")
        self._store.delete(key)
        with suppress(ObjectNotFound):
            self._store.stat(key)
            raise _Failed("the object is still there")
        return "gone"

    def _if_absent(self) -> str:
        key = self._put("once", b"first")
        try:
            self._store.put(key, b"again", content_type="text/plain", if_absent=True)
        except PreconditionFailed:
            return "the second write was refused"
        raise _Failed("If-None-Match is ignored: the object was overwritten")

    def _checksums(self) -> str:
        key = self._key("checksum")
        try:
            self._store.put(key, b"damaged", content_type="text/plain", checksum=_sha256(b"whole"))
        except ChecksumMismatch:
            return "damaged bytes were refused"
        raise _Failed("bytes with a wrong SHA-256 were taken")

    def _copy(self) -> str:
        store = self._able(Copies)
        target = self._key("copy")
        store.copy(self._put("plain", b"0123456789"), target, content_type="image/png")
        if self._fetch(target) != b"0123456789" or self._store.stat(target).content_type != "image/png":
            raise _Failed("the copy has other bytes, or not the type it was given")
        return "same bytes, new type"

    def _copy_condition(self) -> str:
        store = self._able(Copies)
        try:
            store.copy(self._put("plain", b"0123456789"), self._key("copy"), if_source_etag="0" * 32)
        except PreconditionFailed:
            return "the copy of another version was refused"
        raise _Failed("the condition on the source's ETag is ignored")

    def _multipart(self) -> str:
        store = self._able(Multipart)
        pieces = [bytes(store.part_limits.min_size), b"tail"]
        ref = self._begin("multipart")
        parts = [store.put_part(ref, number, piece) for number, piece in enumerate(pieces, 1)]
        listed = [(part.number, part.size, part.etag) for part in store.list_parts(ref)]
        if listed != [(part.number, part.size, part.etag) for part in parts]:
            raise _Failed("the list of parts differs from what was sent")
        store.complete_multipart(ref, parts)
        size = self._store.stat(ref.key).size
        if size != sum(map(len, pieces)):
            raise _Failed(f"the joined object has {size} bytes")
        return f"{len(parts)} parts joined"

    def _complete_if_absent(self) -> str:
        store = self._able(Multipart)
        ref = self._begin("joined once")
        part = store.put_part(ref, 1, b"part")
        self._store.put(ref.key, b"already here", content_type="text/plain")
        try:
            store.complete_multipart(ref, [part], if_absent=True)
        except PreconditionFailed:
            return "the existing object was kept"
        raise _Failed("If-None-Match is ignored: the object was overwritten")

    # As clients outside see it

    def _private(self) -> str:
        store = self._able(Presigns)
        answer = _send("GET", _bare(self._get_url(store)))
        if answer.status < 400:
            raise _Failed(f"a request without a signature was answered with {answer.status}")
        return f"{answer.status} without a signature"

    def _public(self) -> str:
        url = self._get_url(self._able(Presigns))
        answer = _send("GET", url)
        if (answer.status, answer.data) != (200, b"0123456789"):
            raise _Failed(f"{_origin(url)} answered a presigned GET with {answer.status}: {answer.data[:200]!r}")
        return _origin(url)

    def _presigned_get(self) -> str:
        store = self._able(Presigns)
        disposition = f"attachment; filename=\"a_.txt\"; filename*=UTF-8''{quote('ä.txt')}"
        key = self._put("odd ü +~(x)&=.html", b"<p>")
        url = store.presign_get(key, expires_in=LIFE, content_type="text/plain", disposition=disposition).url
        answer = _send("GET", url)
        _expect(answer, 200)
        seen = answer.headers.get("Content-Type", ""), answer.headers.get("Content-Disposition", "")
        if seen != ("text/plain", disposition):
            raise _Failed(f"type and disposition came as {seen}")
        _expect(_send("GET", url.replace("text%2Fplain", "text%2Fhtml")), 403)
        return "type and name are fixed"

    def _presigned_put(self) -> str:
        store = self._able(Presigns)
        request = store.presign_put(self._key("put"), expires_in=LIFE, size=5, content_type="image/png")
        _expect(_send("PUT", request.url, b"123456", request.headers), 403, "a longer body")
        _expect(
            _send("PUT", request.url, b"12345", {**request.headers, "Content-Type": "text/html"}),
            403,
            "another type",
        )
        _expect(_send("PUT", request.url, b"12345", request.headers), 200, "the body announced")
        _expect(_send("PUT", request.url, b"54321", request.headers), 412, "a second body")
        return "length and type are fixed, once only"

    def _presigned_part(self) -> str:
        store = self._able(PresignsParts)
        request = store.presign_part(self._begin("part"), 1, size=5, expires_in=LIFE)
        _expect(_send("PUT", request.url, b"123456", request.headers), 403, "a longer part")
        _expect(_send("PUT", request.url, b"12345", request.headers), 200, "the part announced")
        return "its length is fixed"

    def _post_form(self) -> str:
        store = self._able(Presigns)
        form = store.presign_post(self._key("form"), expires_in=LIFE, min_size=3, max_size=6, content_type="image/png")

        def post(body: bytes) -> urllib3.BaseHTTPResponse:
            fields: list[tuple[str, str | tuple[str, bytes]]] = [
                *form.fields.items(),
                ("file", ("a.png", body)),
            ]
            with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as http:
                return http.request("POST", form.url, fields=fields)

        _expect(post(b"1234567"), (400, 403), "a longer file")
        _expect(post(b"12345"), (200, 201, 204), "a file within limits")
        return "size, type and key are fixed"

    def _cors(self) -> str:
        store = self._able(Presigns)
        if not self._origins:
            raise _NotTried("no origins are set (CORS_ORIGINS, PUBLIC_URL)")
        request = store.presign_put(self._key("cors"), expires_in=LIFE, size=5, content_type="image/png")
        for origin in self._origins:
            answer = _preflight(request, origin)
            if answer.headers.get("Access-Control-Allow-Origin") not in (origin, "*"):
                raise _Failed(f"{origin} is not let in ({answer.status})")
        origin = self._origins[0]
        sent = _send("PUT", request.url, b"12345", {**request.headers, "Origin": origin})
        exposed = sent.headers.get("Access-Control-Expose-Headers", "").lower()
        if "etag" not in exposed and exposed != "*":
            raise _Failed("ETag is not exposed, so that pages can't complete a multipart upload")
        stranger = _preflight(request, FOREIGN_ORIGIN).headers.get("Access-Control-Allow-Origin")
        if stranger:
            raise _Failed(f"every origin is let in, {FOREIGN_ORIGIN} too")
        return ", ".join(self._origins)

    def _clock(self) -> str:
        date = _send("HEAD", self._get_url(self._able(Presigns))).headers.get("Date")
        if not date:
            raise _NotTried("the bucket does not send a Date")
        skew = abs(parsedate_to_datetime(date) - datetime.now(UTC))
        if skew > SKEW_WARNING:
            raise _Failed(f"the bucket's clock differs by {round(skew.total_seconds())} s")
        return f"within {int(skew.total_seconds()) + 1} s"

    # Steps

    def _able(self, ability: type[T]) -> T:
        if not isinstance(self._store, ability):
            raise _NotTried("this backend does not have it")
        return self._store

    def _key(self, name: str) -> str:
        self._keys.append(self._prefix + name)
        return self._keys[-1]

    def _put(self, name: str, data: bytes) -> str:
        key = self._key(name)
        self._store.put(key, data, content_type="text/html")
        return key

    def _fetch(self, key: str, byte_range: ByteRange | None = None) -> bytes:
        with self._store.open(key, byte_range=byte_range) as reader:
            return reader.read()

    def _begin(self, name: str) -> MultipartRef:
        ref = self._able(Multipart).create_multipart(self._key(name), content_type="image/png")
        self._uploads.append(ref)
        return ref

    def _get_url(self, store: Presigns) -> str:
        return store.presign_get(
            self._put("plain", b"0123456789"),
            expires_in=LIFE,
            content_type="text/plain",
            disposition="attachment",
        ).url

    def clean_up(self) -> str:
        """Remove whatever the checks made; says what is left, if anything."""
        left: list[str] = []
        for ref in self._uploads:
            try:
                self._able(Multipart).abort_multipart(ref)
            except Exception as error:
                left.append(f"multipart {ref.key}: {error}")
        for key in sorted(set(self._keys)) if self._reachable else ():
            try:
                self._store.delete(key)
            except Exception as error:
                left.append(f"{key}: {error}")
        return "; ".join(left)


def _send(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as http:
        return http.request(method, url, body=body, headers=dict(headers or {}), redirect=False)


def _preflight(request: PresignedRequest, origin: str) -> urllib3.BaseHTTPResponse:
    return _send(
        "OPTIONS",
        request.url,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": request.method,
            "Access-Control-Request-Headers": ",".join(sorted(name.lower() for name in request.headers)),
        },
    )


def _expect(answer: urllib3.BaseHTTPResponse, wanted: int | tuple[int, ...], sent: str = "it") -> None:
    if answer.status not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        raise _Failed(f"{sent} was answered with {answer.status} instead of {wanted}")


def _bare(url: str) -> str:
    return url.partition("?")[0]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _sha256(data: bytes) -> Checksum:
    return Checksum("sha256", base64.b64encode(hashlib.sha256(data).digest()).decode())
