"""Previews: pictures, pages, texts and listings of files, kept in the bucket under a prefix of their own.

They belong to the object, so that equal files share them. A worker makes the usual ones after the upload
(services/processing/pipeline.py); missing ones are made on request. A failure is remembered for a day, so that
a hostile file is not opened again at every request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import structlog

from core import names
from core.errors import (
    GatewayError,
    InvalidInput,
    PreviewFailed,
    PreviewUnsupported,
    Unavailable,
)
from core.ids import PREVIEW_PREFIX, object_key
from core.principal import Principal
from core.ranges import Span, etag_matches
from db import Database, Tx, deferred_deletions, events, files, objects, previews
from db import errors as db_errors
from db.records import FileRecord, PreviewRecord
from parsers import ParserFailed, Unsupported, WeakSandbox
from parsers.reading import Reading, Want, kinds, read
from services.access.concurrency import ConcurrencyLimit
from services.access.visibility import may_change, visible
from services.library.delivery import downloadable
from services.library.public_copies import PublicCopies
from services.objects.bucket import bucket_errors, delete_unused
from services.objects.object_reader import ObjectReader, Reader, as_missing
from storage_backends.base import ObjectNotFound, ObjectStore
from telemetry import metrics

log = structlog.get_logger()

PreviewType = Literal["thumbnail", "text", "page", "contents"]
PictureType = Literal["image/webp", "image/jpeg", "image/png"]

SIZES = (128, 256, 512, 1024)
PAGE_SIZE = 1024  # pixels of the box that a page fits in
JSON = "application/json"
FORMATS: dict[str, Literal["webp", "jpeg", "png"]] = {
    "image/webp": "webp",
    "image/jpeg": "jpeg",
    "image/png": "png",
}
_LEASE = timedelta(hours=1)  # what is written and not recorded by then is deleted
_REMEMBER = timedelta(days=1)
_BY_DEFAULT: tuple[PreviewType, ...] = ("thumbnail", "text", "contents")  # the first that the file has


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    type: PreviewType | None = None  # None: the first that the file has of thumbnail, text, contents
    size: int = 256  # of a thumbnail: one of SIZES
    page: int = 1
    mime_type: PictureType = "image/webp"  # of a picture
    if_none_match: str | None = None
    retry: bool = False  # the owner's word that a failure is not to be believed any more


@dataclass(frozen=True, slots=True)
class Preview:
    """``body`` is empty where the client's copy, named by ``etag``, is still right (``not_modified``)."""

    body: bytes
    mime_type: str
    etag: str
    not_modified: bool = False


@dataclass(frozen=True, slots=True)
class _Shape:
    """One preview of an object, as file_previews knows it."""

    type: PreviewType
    variant: int  # the box of a thumbnail in pixels, a page, or 0
    mime_type: str


class Previews:
    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        reader: ObjectReader,
        limit: ConcurrencyLimit,
        publishing: PublicCopies,
        *,
        scanned_only: bool,
        strict: bool,
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self._limit = limit
        self._public_copies = publishing
        self._scanned_only = scanned_only
        self._strict = strict  # nothing is parsed without every lock (services/upkeep/doctor/sandbox.py)

    # -- what a request asks for ---------------------------------------------------------------------------------------

    def show(self, principal: Principal | None, file_id: UUID, wish: PreviewRequest) -> Preview:
        """A preview of the file, made now where it is missing.

        Raises PreviewUnsupported where the file has none of this type, PreviewFailed where making it failed, InvalidInput
        for a page beyond the last, FileNotReady, FileInTrash, ContentMissing, TooMany, Unavailable."""
        with self._db.connection() as tx:
            file = downloadable(visible(principal, files.get(tx, file_id)), scanned_only=self._scanned_only)
            shape = _shape(file, wish)
            shown = previews.find(
                tx, file.file_path, preview_type=shape.type, variant=shape.variant, mime_type=shape.mime_type
            )
            retry = wish.retry and may_change(principal, file.owner_id)
            if shown is None:
                self._recall(tx, file, shape, forget=retry)
            if principal is None:
                events.count_anonymous(tx, file.id, preview=True)
            else:
                events.record(tx, file.id, owner_id=file.owner_id, action="previewed", actor=principal.owner_id)
        etag = _etag(self._public_copies.shown(principal, file), shape)
        if shown is not None:
            if wish.if_none_match is not None and etag_matches(wish.if_none_match, etag, weak=True):
                metrics().preview(shape.type, "not_modified")
                return Preview(b"", shape.mime_type, etag, not_modified=True)
            body = self._stored(shown)
            if body is not None:
                metrics().preview(shape.type, "stored")
                return Preview(body, shape.mime_type, etag)
        with self._limit.slot(principal.owner_id if principal else ""):
            if shape.type == "page":
                self._check_page(file, shape.variant)
            body = self._make(file, shape)
        if retry and file.problem is not None:
            with self._db.transaction() as tx:
                objects.set_problem(tx, file.file_path, None)
        return Preview(body, shape.mime_type, etag)

    def _check_page(self, file: FileRecord, page: int) -> None:
        """Raise InvalidInput for a page that is not there, so that nothing is opened or remembered for it."""
        pages = file.metadata.get("pages")
        if not isinstance(pages, int):
            try:
                measured = measured_metadata(self.read(file, {"metadata"}))
            except (PreviewFailed, PreviewUnsupported) as error:
                self.remember(file, "page", error)
                raise
            pages = measured.get("pages") or 0
            with self._db.transaction() as tx:
                objects.add_extracted(tx, file.file_path, measured)
        if page > pages:
            detail = f"The document has {pages} pages."
            raise InvalidInput(detail, errors=[{"field": "page", "message": detail}])

    def _make(self, file: FileRecord, shape: _Shape) -> bytes:
        """Make one preview and keep it, or keep that it failed."""
        try:
            if shape.type in ("text", "contents"):
                reading = self.read(file, {"document" if shape.type == "text" else "contents"})
                document = reading.document if shape.type == "text" else reading.contents
                if document is None:
                    raise PreviewUnsupported("The file has no preview of this type.")
                return self.keep(file, shape.type, 0, JSON, document_json(shape.type, document))
            is_page = shape.type == "page"
            reading = self.read(
                file,
                {"picture", "metadata"},
                sizes=[PAGE_SIZE if is_page else shape.variant],
                format=FORMATS[shape.mime_type],
                page=shape.variant if is_page else 1,
            )
            if not reading.pictures:
                raise PreviewUnsupported("The file has no picture.")
        except (PreviewFailed, PreviewUnsupported) as error:
            self.remember(file, shape.type, error, page=shape.variant if shape.type == "page" else 0)
            raise
        if not is_page and "width" not in file.metadata:
            with self._db.transaction() as tx:
                objects.add_extracted(tx, file.file_path, measured_metadata(reading))
        [picture] = reading.pictures
        return self.keep(file, shape.type, shape.variant, shape.mime_type, picture.data, picture.width, picture.height)

    # -- what processing also needs ------------------------------------------------------------------------------------

    def read(
        self,
        file: FileRecord,
        want: set[Want],
        *,
        sizes: Sequence[int] = (),
        format: Literal["webp", "jpeg", "png"] = "webp",
        page: int = 1,
    ) -> Reading:
        """What one child process reads of the file. Raises PreviewUnsupported, PreviewFailed, ContentMissing, Unavailable."""
        with _as_results(), _Source(self._reader, file) as source:
            return read(
                source,
                file.mime_type,
                name=file.original_name,
                want=frozenset(want),
                sizes=tuple(sizes),
                format=format,
                page=page,
                strict=self._strict,
            )

    def keep(
        self,
        file: FileRecord,
        preview_type: PreviewType,
        variant: int,
        mime_type: str,
        body: bytes,
        width: int | None = None,
        height: int | None = None,
    ) -> bytes:
        """Put a preview into the bucket, under a key that is noted before, and record it. Whoever was quicker, or purged the
        object, wins; ours is deleted."""
        key = object_key(PREVIEW_PREFIX, FORMATS.get(mime_type, "json"), datetime.now(UTC))
        record = PreviewRecord(file.file_path, preview_type, variant, key, mime_type, width, height, len(body))
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, key, lease=_LEASE)
        with bucket_errors():
            self._store.put(key, body, content_type=mime_type, size=len(body))
        with self._db.transaction() as tx:
            kept = previews.add(tx, record, file_id=file.id)
            if not kept:
                raise db_errors.Rollback
        if not kept and delete_unused(self._db, self._store, [key]):
            with self._db.connection() as tx:
                deferred_deletions.forget(tx, [key])
        metrics().preview(preview_type, "made")
        return body

    def remember(self, file: FileRecord, preview_type: PreviewType, error: GatewayError, *, page: int = 0) -> None:
        """Keep that a preview can't be made, and why."""
        metrics().preview(preview_type, error.code)
        with self._db.transaction() as tx:
            previews.add_failure(
                tx,
                file.file_path,
                preview_type=preview_type,
                variant=page,
                code=error.code,
                detail=error.detail,
            )

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _recall(self, tx: Tx, file: FileRecord, shape: _Shape, *, forget: bool) -> None:
        """Raise the failure that is known, unless it is to be forgotten or too old."""
        page = shape.variant if shape.type == "page" else 0
        if forget:
            previews.forget_failure(tx, file.file_path, preview_type=shape.type, variant=page)
            return
        known = previews.failure(tx, file.file_path, preview_type=shape.type, variant=page, within=_REMEMBER)
        if known is not None:
            code, detail = known
            metrics().preview(shape.type, code)
            raise (PreviewFailed if code == PreviewFailed.code else PreviewUnsupported)(detail)

    def _stored(self, shown: PreviewRecord) -> bytes | None:
        """The preview's bytes; None where its object is gone, which also forgets the row."""
        with bucket_errors():
            try:
                with self._store.open(shown.preview_path) as reader:
                    return reader.read(-1)
            except ObjectNotFound:
                pass
        with self._db.connection() as tx:
            previews.remove(tx, shown.preview_path)
        return None


class _Source:
    """A file's bytes as parsers take them: from the beginning, or any span; the bucket is asked only for what is read."""

    def __init__(self, reader: ObjectReader, file: FileRecord):
        self.size = file.file_size
        self._reader, self._file = reader, file
        self._stack = ExitStack()
        self._stream: Reader | None = None

    def read(self, size: int, /) -> bytes:
        if self._stream is None:
            self._stream = self._stack.enter_context(self._reader.open(self._file))
        return self._stream.read(size)

    def read_at(self, offset: int, size: int, /) -> bytes:
        with self._reader.open(self._file, Span(offset, offset + size - 1)) as reader:
            found = bytearray()
            while chunk := reader.read(size - len(found)):
                found += chunk
                if len(found) == size:
                    break
        return bytes(found)

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


# Every member is there, whatever the parser left out.
_MEMBERS: dict[str, dict[str, Any]] = {
    "text": {
        "content": "",
        "language": None,
        "encoding": None,
        "truncated": False,
        "html": None,
        "table": None,
    },
    "contents": {"entries": [], "total_entries": 0, "total_size": None, "truncated": False},
}


def document_json(preview_type: PreviewType, document: dict[str, Any]) -> bytes:
    """A text or a listing as it is stored and served."""
    whole = _MEMBERS[preview_type] | document
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def measured_metadata(reading: Reading) -> dict[str, Any]:
    """What a reading adds to the metadata; never ``custom``, which is the client's own."""
    return {name: value for name, value in reading.metadata.items() if value not in (None, {}, []) and name != "custom"}


def preview_types(file: FileRecord) -> frozenset[str]:
    """The types of preview that such a file has here."""
    return kinds(file.mime_type, names.extension(file.original_name))


def _shape(file: FileRecord, wish: PreviewRequest) -> _Shape:
    available = preview_types(file)
    kind = wish.type or next((kind for kind in _BY_DEFAULT if kind in available), None)
    if kind is None or kind not in available or file.file_size == 0:
        raise PreviewUnsupported()
    if kind == "thumbnail":
        return _Shape(kind, wish.size, wish.mime_type)
    if kind == "page":
        return _Shape(kind, wish.page, wish.mime_type)
    return _Shape(kind, 0, JSON)


def _etag(file: FileRecord, shape: _Shape) -> str:
    """Follows the bytes shown and the shape asked for, not the preview's object key, which changes when it is made again."""
    kind = "" if shape.type == "thumbnail" else f"-{shape.type}"
    return f'"{(file.file_hash or "")[:32]}{kind}-{shape.variant}-{FORMATS.get(shape.mime_type, "json")}"'


@contextmanager
def _as_results() -> Iterator[None]:
    """What ends a reading, in words for the client."""
    try:
        yield
    except ObjectNotFound as error:
        raise as_missing(error) from error
    except Unsupported as error:
        raise PreviewUnsupported(error.reason) from error
    except ParserFailed as error:
        raise PreviewFailed(error.reason) from error
    except WeakSandbox as error:
        raise Unavailable("Previews are not made here: the sandbox of parsers is incomplete.") from error
