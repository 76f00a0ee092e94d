"""What the S3 server enforces, tried on throw-away objects, with presigned URLs sent to the public endpoint as clients do."""

# mypy: disable-error-code="type-abstract"
# (abilities are Protocols, and _able() takes one as a value; it makes no instance of it)

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, urlsplit

import urllib3

from core.ids import PROBE_PREFIX
from services.upkeep.doctor import Check, Failed, NotTried, check
from storage_backends.base import (
    ByteRange,
    Checksum,
    ChecksumMismatch,
    Copies,
    Keeping,
    ManagesBucket,
    Multipart,
    MultipartRef,
    ObjectLocked,
    ObjectNotFound,
    ObjectStore,
    PreconditionFailed,
    PresignedRequest,
    Presigns,
    PresignsParts,
)

_URL_LIFE = timedelta(minutes=5)
_FOREIGN_ORIGIN = "https://not-allowed.invalid"
_MAX_SKEW = timedelta(seconds=30)  # S3 refuses requests from 15 minutes on
_TIMEOUT = urllib3.Timeout(connect=5, read=30)  # seconds
_DATA = b"0123456789"

T = TypeVar("T")
Attempt = Callable[["_Probe"], str]
_CHECKS: list[tuple[str, Attempt, str]] = []  # name, attempt, consequence, in the order of definition


def examine(store: ObjectStore, *, origins: Sequence[str] = (), allow_lock: bool = False) -> list[Check]:
    """Run all checks: a few seconds, or minutes if the bucket hangs.

    ``origins`` are the web origins that should be allowed (CORS_ORIGINS and the gateway's own). ``allow_lock``: whether the
    bucket may keep what is deleted (ALLOW_OBJECT_LOCK)."""
    probe = _Probe(store, origins, allow_lock)
    checks: list[Check] = []
    try:
        for name, attempt, consequence in _CHECKS:
            if checks and checks[0].ok is False:  # the first one writes
                checks.append(Check(name, None, "not tried, the bucket can't be used", consequence))
            else:
                checks.append(check(name, lambda attempt=attempt: attempt(probe), consequence))  # type: ignore[misc]
    finally:
        left = probe.clean_up(delete=bool(checks and checks[0].ok))
    if left:
        consequence = "Probe objects stay in the bucket. The janitor deletes them, once an object lock permits it."
        checks.append(Check("clean up", None if allow_lock else False, left, consequence))
    return checks


def _checks(name: str, consequence: str) -> Callable[[Attempt], Attempt]:
    def register(attempt: Attempt) -> Attempt:
        _CHECKS.append((name, attempt, consequence))
        return attempt

    return register


class _Probe:
    def __init__(self, store: ObjectStore, origins: Sequence[str], allow_lock: bool):
        self._store = store
        self._allow_lock = allow_lock
        self._origins = list(origins)
        self._prefix = f"{PROBE_PREFIX}doctor-{secrets.token_hex(8)}/"
        self._keys: set[str] = set()
        self._uploads: list[MultipartRef] = []

    # -- the store's own calls -----------------------------------------------------------------------------------------

    @_checks("write", "Nothing can be uploaded: check endpoint, credentials, bucket name and clock.")
    def write(self) -> str:
        _expect(self._store.stat(self._put("plain")).size == 10, "the object has another size than was written")
        return "10 bytes"

    @_checks("read", "Nothing can be downloaded.")
    def read(self) -> str:
        _expect(self._fetch(self._put("plain")) == _DATA, "other bytes came back")
        return "the same bytes"

    @_checks("read a range", "Downloads can't be resumed, and videos can't be sought.")
    def read_range(self) -> str:
        piece = self._fetch(self._put("plain"), ByteRange(3, 5))
        _expect(piece == b"345", "other bytes than those of the range came back")
        return "bytes 3-5"

    @_checks("delete", "Storage is never freed: the key needs the right to delete.")
    def delete(self) -> str:
        key = self._put("deleted")
        try:
            self._store.delete(key)
        except ObjectLocked as error:
            raise (NotTried if self._allow_lock else Failed)(str(error)) from error
        with suppress(ObjectNotFound):
            self._store.stat(key)
            raise Failed("the object is still there")
        return "gone"

    @_checks("versioning", "Unknown: if the bucket keeps old versions, what is purged may stay in it.")
    def versioning(self) -> str:
        keeping = self._keeping()
        if not keeping.versioning:
            return "off: what is deleted is gone"
        return f"{keeping.versioning}: a deletion deletes all versions of an object, one request for each"

    @_checks(
        "object lock",
        "The bytes of purged files stay in the bucket until their lock ends, and are deleted then; quota is free at once. "
        "ALLOW_OBJECT_LOCK=on accepts this.",
    )
    def object_lock(self) -> str:
        keeping = self._keeping()
        if not keeping.object_lock:
            return "off"
        if not keeping.days:
            return "on, without a default retention: only what somebody locks stays"
        kept = f"{keeping.mode}: bytes stay until {keeping.days} day(s) after they were written, purged or not"
        _expect(self._allow_lock, kept)
        return f"{kept} (ALLOW_OBJECT_LOCK)"

    @_checks("private", "Anyone who learns an address can read files: make the bucket private.")
    def private(self) -> str:
        answer = _send("GET", self._get_url().partition("?")[0])
        _expect(answer.status >= 400, f"a request without a signature was answered with {answer.status}")
        return f"{answer.status} without a signature"

    @_checks(
        "write only if absent",
        "The bucket would overwrite; object keys are random, so this is a second line of defence, but a presigned PUT may "
        "be used twice.",
    )
    def write_if_absent(self) -> str:
        key = self._put("once")
        with _refused(PreconditionFailed, "If-None-Match is ignored: the object was overwritten"):
            self._store.put(key, b"again", content_type="text/plain", if_absent=True)
        return "the second write was refused"

    @_checks("checksums", "Bytes damaged on their way to the bucket are found later, not at once.")
    def checksums(self) -> str:
        other = Checksum("sha256", base64.b64encode(hashlib.sha256(b"whole").digest()).decode())
        with _refused(ChecksumMismatch, "bytes with a wrong SHA-256 were accepted"):
            self._store.put(self._key("checksum"), b"damaged", content_type="text/plain", checksum=other)
        return "damaged bytes were refused"

    @_checks("copy", "Form uploads from browsers to the bucket, and archiving, need copies.")
    def copy(self) -> str:
        target = self._key("copy")
        self._able(Copies).copy(self._put("plain"), target, content_type="image/png")
        same = self._fetch(target) == _DATA and self._store.stat(target).content_type == "image/png"
        _expect(same, "the copy has other bytes, or not the type it was given")
        return "same bytes, new type"

    @_checks("copy if unchanged", "An object replaced during its copy is only found by its checksum.")
    def copy_if_unchanged(self) -> str:
        store = self._able(Copies)
        with _refused(PreconditionFailed, "the condition on the source's ETag is ignored"):
            store.copy(self._put("plain"), self._key("copy"), if_source_etag="0" * 32)
        return "the copy of another version was refused"

    @_checks("multipart", "Files over one part, tus and resumable uploads do not work.")
    def multipart(self) -> str:
        store = self._able(Multipart)
        pieces = [bytes(store.part_limits.min_size), b"tail"]
        ref = self._begin("multipart")
        parts = [store.put_part(ref, number, piece) for number, piece in enumerate(pieces, 1)]
        listed = [(part.number, part.size, part.etag) for part in store.list_parts(ref)]
        same = listed == [(part.number, part.size, part.etag) for part in parts]
        _expect(same, "the list of parts differs from what was sent")
        store.complete_multipart(ref, parts)
        size = self._store.stat(ref.key).size
        _expect(size == sum(map(len, pieces)), f"the joined object has {size} bytes")
        return f"{len(parts)} parts joined"

    @_checks("complete only if absent", "Two completions at once rely on the database alone.")
    def complete_if_absent(self) -> str:
        store = self._able(Multipart)
        ref = self._begin("joined once")
        part = store.put_part(ref, 1, b"part")
        self._store.put(ref.key, b"already here", content_type="text/plain")
        with _refused(PreconditionFailed, "If-None-Match is ignored: the object was overwritten"):
            store.complete_multipart(ref, [part], if_absent=True)
        return "the existing object was kept"

    # -- presigned, as clients see it ----------------------------------------------------------------------------------

    @_checks(
        "public endpoint",
        "Browsers and other clients can't reach the bucket: set S3_PUBLIC_ENDPOINT to an address that they can, or "
        "DOWNLOAD_MODE=proxy.",
    )
    def public_endpoint(self) -> str:
        parts = urlsplit(url := self._get_url())
        answer, origin = _send("GET", url), f"{parts.scheme}://{parts.netloc}"
        good = (answer.status, answer.data) == (200, _DATA)
        _expect(good, f"{origin} answered a presigned GET with {answer.status}: {answer.data[:200]!r}")
        return origin

    @_checks(
        "presigned GET",
        "Redirected downloads may be shown with a wrong name or type, and HTML could run in the bucket's origin: set "
        "DOWNLOAD_MODE=proxy.",
    )
    def presigned_get(self) -> str:
        store = self._able(Presigns)
        disposition = f"attachment; filename=\"a_.txt\"; filename*=UTF-8''{quote('ä.txt')}"
        key = self._put("odd ü +~(x)&=.html", b"<p>")
        url = store.presign_get(key, expires_in=_URL_LIFE, content_type="text/plain", disposition=disposition).url
        answer = _send("GET", url)
        _expect_status(answer, 200)
        seen = answer.headers.get("Content-Type", ""), answer.headers.get("Content-Disposition", "")
        _expect(seen == ("text/plain", disposition), f"type and disposition came as {seen}")
        _expect_status(_send("GET", url.replace("text%2Fplain", "text%2Fhtml")), 403)
        return "type and name are fixed"

    @_checks("presigned PUT", "A client may store more bytes than it declared, or another type.")
    def presigned_put(self) -> str:
        store = self._able(Presigns)
        request = store.presign_put(self._key("put"), expires_in=_URL_LIFE, size=5, content_type="image/png")
        html = {**request.headers, "Content-Type": "text/html"}
        _expect_status(_send("PUT", request.url, b"123456", request.headers), 403, "a longer body")
        _expect_status(_send("PUT", request.url, b"12345", html), 403, "another type")
        _expect_status(_send("PUT", request.url, b"12345", request.headers), 200, "the declared body")
        _expect_status(_send("PUT", request.url, b"54321", request.headers), 412, "a second body")
        return "length and type are fixed, once only"

    @_checks(
        "presigned PUT copies nothing",
        "Whoever has an upload URL can copy any object there whose key he knows, of any size: for MinIO, let the gateway's user "
        "copy by signed headers only, as deploy/minio-setup.sh does.",
    )
    def presigned_put_of_a_copy(self) -> str:
        source = self._put("plain")
        request = self._able(Presigns).presign_put(
            self._key("taken"), expires_in=_URL_LIFE, size=5, content_type="image/png"
        )
        headers = {**request.headers, "x-amz-copy-source": f"/{urlsplit(request.url).path.split('/')[1]}/{source}"}
        _expect_status(_send("PUT", request.url, b"12345", headers), (400, 403), "x-amz-copy-source, not signed,")
        return "headers that were not signed are refused"

    @_checks("presigned part", "A client may store more bytes than it declared.")
    def presigned_part(self) -> str:
        store = self._able(PresignsParts)
        (request,) = store.presign_parts(self._begin("part"), {1: 5}, expires_in=_URL_LIFE)
        _expect_status(_send("PUT", request.url, b"123456", request.headers), 403, "a longer part")
        _expect_status(_send("PUT", request.url, b"12345", request.headers), 200, "the declared part")
        return "its length is fixed"

    @_checks("POST form", "HTML forms can't upload to the bucket within limits; use another protocol.")
    def post_form(self) -> str:
        store = self._able(Presigns)
        form = store.presign_post(
            self._key("form"), expires_in=_URL_LIFE, min_size=3, max_size=6, content_type="image/png"
        )

        def post(body: bytes) -> urllib3.BaseHTTPResponse:
            fields: list[tuple[str, str | tuple[str, bytes]]] = [*form.fields.items(), ("file", ("a.png", body))]
            with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as http:
                return http.request("POST", form.url, fields=fields)

        _expect_status(post(b"1234567"), (400, 403), "a longer file")
        _expect_status(post(b"12345"), (200, 201, 204), "a file within limits")
        return "size, type and key are fixed"

    @_checks(
        "CORS",
        "Pages on the origins named can't upload to the bucket, or others can: set the bucket's CORS rules (MinIO: "
        "MINIO_API_CORS_ALLOW_ORIGIN), with ETag exposed.",
    )
    def cors(self) -> str:
        store = self._able(Presigns)
        if not self._origins:
            raise NotTried("no origins are set (CORS_ORIGINS, PUBLIC_URL)")
        request = store.presign_put(self._key("cors"), expires_in=_URL_LIFE, size=5, content_type="image/png")
        for origin in self._origins:
            answer = _preflight(request, origin)
            allowed = answer.headers.get("Access-Control-Allow-Origin") in (origin, "*")
            _expect(allowed, f"{origin} is not allowed ({answer.status})")
        sent = _send("PUT", request.url, b"12345", {**request.headers, "Origin": self._origins[0]})
        exposed = sent.headers.get("Access-Control-Expose-Headers", "").lower()
        _expect("etag" in exposed or exposed == "*", "ETag is not exposed, so pages can't complete a multipart upload")
        foreign = _preflight(request, _FOREIGN_ORIGIN).headers.get("Access-Control-Allow-Origin")
        _expect(not foreign, f"every origin is allowed, {_FOREIGN_ORIGIN} too")
        return ", ".join(self._origins)

    @_checks("clock", "From 15 minutes on the bucket refuses every request: synchronise the clocks.")
    def clock(self) -> str:
        date = _send("HEAD", self._get_url()).headers.get("Date")
        if not date:
            raise NotTried("the bucket does not send a Date")
        skew = abs(parsedate_to_datetime(date) - datetime.now(UTC))
        _expect(skew <= _MAX_SKEW, f"the bucket's clock differs by {round(skew.total_seconds())} s")
        return f"within {int(skew.total_seconds()) + 1} s"

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _keeping(self) -> Keeping:
        keeping = self._able(ManagesBucket).keeping()
        if keeping is None:
            raise NotTried("the server does not tell, or the key may not ask")
        return keeping

    def _able(self, ability: type[T]) -> T:
        if not isinstance(self._store, ability):
            raise NotTried("this backend does not have it")
        return self._store

    def _key(self, name: str) -> str:
        self._keys.add(key := self._prefix + name)
        return key

    def _put(self, name: str, data: bytes = _DATA) -> str:
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

    def _get_url(self) -> str:
        store, options = self._able(Presigns), {"content_type": "text/plain", "disposition": "attachment"}
        return store.presign_get(self._put("plain"), expires_in=_URL_LIFE, **options).url

    def clean_up(self, *, delete: bool) -> str:
        """Remove what the checks made, objects only if ``delete``; returns what is left, "" if nothing."""
        left: list[str] = []
        for ref in self._uploads:
            try:
                self._able(Multipart).abort_multipart(ref)
            except Exception as error:
                left.append(f"multipart {ref.key}: {error}")
        for key in sorted(self._keys) if delete else ():
            try:
                self._store.delete(key)
            except Exception as error:
                left.append(f"{key}: {error}")
        return "; ".join(left)


def _send(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as http:
        return http.request(method, url, body=body, headers=dict(headers or {}), redirect=False)


def _preflight(request: PresignedRequest, origin: str) -> urllib3.BaseHTTPResponse:
    names = ",".join(sorted(name.lower() for name in request.headers))
    headers = {"Origin": origin, "Access-Control-Request-Method": request.method}
    return _send("OPTIONS", request.url, headers=headers | {"Access-Control-Request-Headers": names})


def _expect(seen: bool, otherwise: str) -> None:
    if not seen:
        raise Failed(otherwise)


def _expect_status(answer: urllib3.BaseHTTPResponse, wanted: int | tuple[int, ...], sent: str = "it") -> None:
    statuses = wanted if isinstance(wanted, tuple) else (wanted,)
    _expect(answer.status in statuses, f"{sent} was answered with {answer.status} instead of {wanted}")


@contextmanager
def _refused(error: type[Exception], otherwise: str) -> Iterator[None]:
    """The block must raise ``error``."""
    try:
        yield
    except error:
        return
    raise Failed(otherwise)
