"""Downloads: by presigned URL, streamed through the gateway, or as a ZIP of many files. Every download is recorded.

A compressed object is always streamed. A URL for one, for a public file, or for longer than a presigned URL may live is a link to
the gateway: signed as cursors are, by keys of their own (T143), and checked at each use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Literal, NamedTuple
from uuid import UUID

from core import charsets, content_types
from core.cursors import Cursors
from core.disposition import content_disposition
from core.errors import (
    ContentMissing,
    FileArchived,
    FileInTrash,
    FileNotReady,
    InvalidCursor,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    TooLarge,
)
from core.principal import Principal
from core.ranges import ByteRange, etag_matches, if_range_matches, modified_since, parse_range
from db import Database, events, file_lists, files, folders, objects
from db.records import FileRecord
from services.access.visibility import is_public, may_change, visible
from services.library.archive import Archive
from services.library.files import parse_id
from services.library.public_copies import PublicCopies
from services.library.sniff import HEAD_BYTES
from services.library.zip_stream import ZipMember, zip_stream
from services.objects.bucket import bucket_errors
from services.objects.object_reader import ObjectReader, Reader, as_missing, check_intact
from storage_backends.base import ObjectNotFound, ObjectStore, PresignedRequest, Presigns

_LINKS = "link to a file"  # the scope of links
_NO_LINK = "This link is not valid or has expired."
_PIECE = 256 * 1024  # bytes held in memory for a slow reader

Disposition = Literal["inline", "attachment"]


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Settings of downloads."""

    mode: Literal["redirect", "proxy"]
    url_ttl: timedelta  # the longest life of a presigned URL, and the default of a link
    url_max_ttl: timedelta  # the longest life of a link
    max_zip_files: int
    max_zip_bytes: int


@dataclass(frozen=True, slots=True)
class RequestConditions:
    """The request's headers of these names (RFC 9110 §13, §14)."""

    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None
    if_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None


class Validators(NamedTuple):
    """What tells whether bytes are the same as before: the values of ETag and Last-Modified (RFC 9110 §8.8)."""

    etag: str | None
    last_modified: datetime | None

    @classmethod
    def of(cls, file: FileRecord) -> Validators:
        """The bytes of a file never change, so its upload is their date. That of a public copy is not known: it changes with
        ``keep_location``."""
        is_copy = file.file_path == file.public_key
        return cls(f'"{file.file_hash}"' if file.file_hash else None, None if is_copy else file.uploaded_at)

    @property
    def headers(self) -> dict[str, str]:
        """Those that are known."""
        found = {"ETag": self.etag} if self.etag else {}
        if self.last_modified:
            found["Last-Modified"] = format_datetime(self.last_modified.astimezone(UTC), usegmt=True)
        return found


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to a presigned URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Link:
    """A download without another credential: who has the token may ``open_link`` until it expires."""

    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NotModified:
    """The client's copy is up to date."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Thawing:
    """The file is on its way back from the archive."""

    file_id: UUID


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of a file. ``close`` must be called, also if the client disconnects. HEAD has no body."""

    status: Literal[200, 206]
    headers: dict[str, str]
    length: int
    body: Iterator[bytes] | None
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True, slots=True)
class Zip:
    """The bytes of a ZIP."""

    filename: str
    body: Iterator[bytes]


class Delivery:
    """Delivers files to clients."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        reader: ObjectReader,
        public_copies: PublicCopies,
        archive: Archive,
        limits: DeliveryLimits,
        *,
        links: Cursors,
        scanned_only: bool,
    ):
        self._db = db
        self._reader = reader
        self._public_copies = public_copies
        self._archive = archive
        self._links = links
        self._scanned_only = scanned_only
        self._presigns = store if isinstance(store, Presigns) else None
        self._limits = limits

    def open(
        self,
        principal: Principal | None,
        file_id: UUID,
        *,
        method: Literal["GET", "HEAD"],
        mode: Literal["redirect", "proxy"] | None = None,
        disposition: Disposition | None = None,
        conditions: RequestConditions = RequestConditions(),
        before_stream: Callable[[], None] = lambda: None,
    ) -> Redirect | NotModified | Stream | Thawing:
        """A download. HEAD is never redirected: a URL signed for GET answers it with 403. ``before_stream`` is called before the
        bytes are requested from the bucket.

        Raises NotFound, NotAuthenticated, FileNotReady, FileInTrash, ContentMissing, PreconditionFailed, RangeNotSatisfiable
        (``extra["size"]``)."""
        with self._db.connection() as tx:
            found = files.get(tx, file_id)
        file = self._readable(principal, found)
        mode, life = mode or self._limits.mode, self._limits.url_ttl
        return self._deliver(principal, file, method, mode, disposition, conditions, life, before_stream)

    def _readable(self, principal: Principal | None, found: FileRecord | None) -> FileRecord:
        """The file with the bytes that this caller may have. Raises as ``visible`` and ``downloadable`` do."""
        file = self._downloadable(visible(principal, found))
        return self._downloadable(self._public_copies.shown(principal, file))

    def _downloadable(self, file: FileRecord) -> FileRecord:
        return downloadable(file, scanned_only=self._scanned_only)

    def open_link(
        self,
        token: str,
        *,
        method: Literal["GET", "HEAD"],
        conditions: RequestConditions,
        before_stream: Callable[[], None] = lambda: None,
    ) -> Redirect | NotModified | Stream | Thawing:
        """The download of a link, with the disposition fixed when it was made. A link ends with its file; a link to a public file
        also when the file becomes private. Raises NotAuthenticated for an expired or invalid link, and what ``open`` raises."""
        file_id, expires, disposition, public = self._parse_link(token)
        left = expires - time.time()
        if left <= 0:
            raise NotAuthenticated(_NO_LINK)
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
        if file is None:
            raise NotFound("There is no such file.")
        if public and not is_public(file):
            raise NotAuthenticated(_NO_LINK)
        file = self._downloadable(file)
        if public:
            file = self._downloadable(self._public_copies.public(file))
        life = min(timedelta(seconds=max(1, int(left))), self._limits.url_ttl)
        mode = self._limits.mode
        return self._deliver(None, file, method, mode, disposition, conditions, life, before_stream)

    def _deliver(
        self,
        principal: Principal | None,
        file: FileRecord,
        method: Literal["GET", "HEAD"],
        mode: Literal["redirect", "proxy"],
        disposition: Disposition | None,
        conditions: RequestConditions,
        url_life: timedelta,
        before_stream: Callable[[], None],
    ) -> Redirect | NotModified | Stream | Thawing:
        try:
            etag, modified = validators = Validators.of(file)
            if conditions.if_match is not None and not etag_matches(conditions.if_match, etag, weak=False):
                raise PreconditionFailed()
            if conditions.if_none_match is not None and etag_matches(conditions.if_none_match, etag, weak=True):
                return NotModified(validators.headers)
            if mode == "redirect" and method == "GET" and not (conditions.range and file.file_size == 0):  # T11: by us
                signed = self._presigned(file, url_life, disposition)
                if signed is not None:
                    self._reader.confirm(file, to_read=True)  # the bucket would serve whatever is under the key
                    if _is_start(conditions.range):
                        self._count(principal, file)
                    return Redirect(signed.url)
            # After the redirect: whom the bucket serves has its date, and it compares that itself.
            if conditions.if_match is None and modified_since(conditions.if_unmodified_since, modified):
                raise PreconditionFailed()
            if conditions.if_none_match is None and modified_since(conditions.if_modified_since, modified) is False:
                return NotModified(validators.headers)
            before_stream()
            return self._stream(principal, file, validators, method, disposition, conditions)
        except FileArchived:
            if method == "GET":
                self._archive.request_now(file)
            return Thawing(file.id)

    def _stream(
        self,
        principal: Principal | None,
        file: FileRecord,
        validators: Validators,
        method: str,
        disposition: Disposition | None,
        conditions: RequestConditions,
    ) -> Stream:
        try:
            wanted = conditions.range if if_range_matches(conditions.if_range, *validators) else None
            span = parse_range(wanted, file.file_size) if method == "GET" else None
        except RangeNotSatisfiable as error:
            raise RangeNotSatisfiable(size=file.file_size) from error
        headers = {
            "Content-Type": self._content_type(file),
            "Content-Disposition": content_disposition(_disposition(file, disposition), file.original_name),
            "Accept-Ranges": "bytes",
            **validators.headers,
        }
        length = span.length if span else file.file_size
        if span:
            headers["Content-Range"] = span.content_range(file.file_size)
        status: Literal[200, 206] = 206 if span else 200
        if method == "HEAD":
            self._reader.confirm(file, to_read=True)
            return Stream(status, headers, length, None)
        stack, reader = self._read(file, span)
        if span is None or span.first == 0:
            self._count(principal, file)
        return Stream(status, headers, length, _pieces(stack, reader, length), stack.close)

    def url(
        self,
        principal: Principal | None,
        file_id: UUID,
        *,
        expires_in: int | None = None,
        disposition: Disposition | None = None,
    ) -> PresignedRequest | Link:
        """A presigned download URL, or a link (see the module's docstring), with its life clamped to the maximum (T42).
        Raises InvalidInput below one second, FileArchived, and what ``open`` raises."""
        if expires_in is not None and expires_in < 1:
            errors = [{"field": "expires_in", "message": "too small"}]
            raise InvalidInput("expires_in must be at least 1 second.", errors=errors)
        life = self._limits.url_ttl if expires_in is None else timedelta(seconds=min(expires_in, 7 * 86400))
        with self._db.connection() as tx:
            found = files.get(tx, file_id)
        file = self._readable(principal, found)
        self._reader.confirm(file, to_read=True)
        life = min(life, self._limits.url_max_ttl)
        of = None if principal is None else (file.id, file.owner_id)
        if file.visibility == "private" and life <= self._limits.url_ttl and self._can_presign(file):
            return self._presigned(file, life, disposition, of) or self._link(file, life, disposition)
        if of is not None:
            with self._db.connection() as tx:
                events.record(tx, "url_issued", owner_id=file.owner_id, file_id=file.id)
        return self._link(file, life, disposition)

    def _link(self, file: FileRecord, life: timedelta, disposition: Disposition | None) -> Link:
        expires = int(time.time() + life.total_seconds())
        token = self._links.sign([str(file.id), expires, disposition or "", file.visibility], scope=_LINKS)
        return Link(token, datetime.fromtimestamp(expires, UTC))

    def _parse_link(self, token: str) -> tuple[UUID, int, Disposition | None, bool]:
        """File id, expiry, disposition, and whether the file was public. Raises NotAuthenticated."""
        try:
            file_id, expires, disposition, visibility = self._links.open(token, scope=_LINKS)
        except InvalidCursor as error:
            raise NotAuthenticated(_NO_LINK) from error
        inline: Disposition | None = "inline" if disposition == "inline" else None
        return UUID(str(file_id)), int(expires or 0), inline, visibility == "public"

    def _can_presign(self, file: FileRecord) -> bool:
        return self._presigns is not None and file.encoding is None

    def _presigned(
        self, file: FileRecord, life: timedelta, disposition: Disposition | None, of: tuple[UUID, str] | None = None
    ) -> PresignedRequest | None:
        """None if the object is stored compressed, perhaps since a moment ago, or the store can't presign. ``of`` is as in
        ``objects.record_url``."""
        if self._presigns is None or not self._can_presign(file):
            return None
        with self._db.connection() as tx:
            if not objects.record_url(tx, file.file_path, life=life, of=of):
                return None
        return self._presigns.presign_get(
            file.file_path,
            expires_in=life,
            content_type=self._content_type(file),
            disposition=content_disposition(_disposition(file, disposition), file.original_name),
        )

    def _content_type(self, file: FileRecord) -> str:
        """With the charset that processing found, else the same from the first 64 KiB. Raises ContentMissing, Unavailable."""
        if file.mime_type != "text/plain":
            return content_types.served_type(file.mime_type)
        charset = charsets.label(file.metadata.get("encoding"))
        if charset is None and file.file_size:
            length = min(file.file_size, HEAD_BYTES)
            head = b"".join(_pieces(*self._read(file, ByteRange(0, length - 1)), length))
            charset = charsets.label(charsets.detect(head, cut=length < file.file_size))
        return content_types.served_type(file.mime_type, charset or "utf-8")

    # -- reading an object ---------------------------------------------------------------------------------------------

    def _read(self, file: FileRecord, span: ByteRange | None) -> tuple[ExitStack, Reader]:
        """Open the object, so that an error is found before a byte is sent (T34)."""
        stack = ExitStack()
        try:
            return stack, stack.enter_context(self._reader.open(file, span))
        except ObjectNotFound as error:
            raise as_missing(error) from error

    def _count(self, principal: Principal | None, file: FileRecord) -> None:
        with self._db.connection() as tx:
            if principal is None:
                events.count_download(tx, file.id)
            else:
                events.record_download(tx, file.id)
            if file.file_path != file.public_key:  # a public copy is never archived
                self._archive.request(tx, file)

    # -- many files ----------------------------------------------------------------------------------------------------

    def zip(self, principal: Principal, *, ids: Sequence[str] | None = None, folder: int | None = None) -> Zip:
        """A ZIP of files, or of a folder with all below it, also empty folders, streamed and uncompressed.

        All files given by id must be ready; files of a folder that are not ready, or must be thawed, are left out and listed in
        the ZIP. Raises NotFound, FileNotReady, FileInTrash, FileArchived, and TooLarge above the limits on count and bytes."""
        if ids is not None:
            members, empty, left_out = self._named(principal, ids), list[str](), list[str]()
            filename = "files.zip"
        elif folder is not None:
            filename, members, empty, left_out = self._in_folder(principal, folder)
        else:
            raise InvalidInput("Give the ids of files, or a folder.", errors=[{"field": "ids", "message": "missing"}])
        size = sum(file.file_size for _, file in members)
        if len(members) > self._limits.max_zip_files or size > self._limits.max_zip_bytes:
            raise TooLarge("Too many files or bytes for one ZIP.")
        now = datetime.now(UTC)
        entries = [
            ZipMember(path, file.uploaded_at, file.file_size, partial(self._member, principal, file))
            for path, file in members
        ]
        body = zip_stream([*entries, *(ZipMember(path, now) for path in empty)], left_out=left_out)
        return Zip(filename, _started(next(body), body))

    def _named(self, principal: Principal, ids: Sequence[str]) -> list[tuple[str, FileRecord]]:
        if len(ids) > self._limits.max_zip_files:
            raise TooLarge("Too many files for one ZIP.")
        wanted = list(dict.fromkeys(parse_id(text) for text in ids))
        with self._db.connection() as tx:
            found = {file.id: file for file in files.get_many(tx, wanted)}
        chosen = [self._readable(principal, found.get(file_id)) for file_id in wanted]
        frozen = [file for file in chosen if not self._is_readable_now(file)]
        if frozen:
            raise FileArchived("Some of the files are in the archive and on their way back. Ask again later.")
        return [(file.original_name, file) for file in chosen]

    def _is_readable_now(self, file: FileRecord) -> bool:
        """False if the file is in the archive and must be thawed first; that is asked for. Raises ContentMissing."""
        if file.storage_class != "archived" or file.file_path == file.public_key:
            return True
        try:
            self._reader.confirm(file, to_read=True)
        except FileArchived:
            self._archive.request_now(file)
            return False
        return True

    def _in_folder(
        self, principal: Principal, folder_id: int
    ) -> tuple[str, list[tuple[str, FileRecord]], list[str], list[str]]:
        """A name for the ZIP, the files with their paths, folders in which nothing is, and names of files that are left out."""
        with self._db.connection() as tx:
            folder = folders.get(tx, folder_id)
            if folder is None or not may_change(principal, folder.owner_id, folder_id):
                raise NotFound("There is no such folder.")
            wanted = file_lists.FileFilter(owner_id=folder.owner_id, folder_id=folder_id, recursive=True)
            limit = self._limits.max_zip_files + 1
            found, _ = file_lists.page(tx, wanted, sort="original_name", after=None, limit=limit)
            paths = folders.paths_below(tx, folder_id)
        ready, left_out = list[tuple[str, FileRecord]](), set[str]()
        for file in (view.file for view in found):
            name = paths.get(file.folder_id or 0, "") + file.original_name
            if file.expired:
                continue
            with suppress(ContentMissing):
                if is_ready(file, scanned_only=self._scanned_only) and file.intact and self._is_readable_now(file):
                    ready.append((name, file))
                    continue
            left_out.add(name)
        within = {path.rstrip("/").rpartition("/")[0] + "/" for path in [*paths.values(), *(path for path, _ in ready)]}
        empty = [path for path in paths.values() if path and path not in within]
        return f"{folder.name}.zip", ready, empty, sorted(left_out)

    def _member(self, principal: Principal, file: FileRecord) -> Generator[bytes]:
        stack, reader = self._read(file, None)
        yield from _pieces(stack, reader, file.file_size)
        self._count(principal, file)


def _started(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """A body whose first bytes are made before the answer begins, so that an error of the first file is still an answer."""
    yield first
    yield from rest


def is_ready(file: FileRecord, *, scanned_only: bool) -> bool:
    """Whether the file may be downloaded. With ``scanned_only``, files from before scans were turned on must be scanned first
    (T96)."""
    return file.status == "ready" and (file.scanned or not scanned_only)


def downloadable(file: FileRecord, *, scanned_only: bool) -> FileRecord:
    """The file, if its bytes may be downloaded. Raises FileInTrash, FileNotReady, ContentMissing."""
    if file.is_deleted or file.expired:
        raise FileInTrash()
    if not is_ready(file, scanned_only=scanned_only):
        raise FileNotReady()
    check_intact(file)
    return file


def _pieces(stack: ExitStack, reader: Reader, length: int) -> Iterator[bytes]:
    """Exactly ``length`` bytes, or an error that breaks the connection: a short answer never looks complete."""
    with stack, bucket_errors():
        while length:
            piece = reader.read(min(_PIECE, length))
            if not piece:
                raise ContentMissing("The object ended before its length.")
            length -= len(piece)
            yield piece


def _disposition(file: FileRecord, wanted: Disposition | None) -> Disposition:
    return "inline" if wanted == "inline" and content_types.may_inline(file.mime_type) else "attachment"


def _is_start(range_header: str | None) -> bool:
    return (
        range_header is None or range_header.replace(" ", "").lower().startswith("bytes=0-") or "=" not in range_header
    )
