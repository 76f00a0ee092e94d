"""Previews: pictures, pages, texts and listings of files, stored in the bucket under a prefix of their own.

Files of equal bytes share them if a parser sees no difference (services/library/readings.py). A worker makes the usual ones
after the upload (pipeline.py); others are made on request. A failure is remembered for a day, so that a hostile file is not
opened at every request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

from core.errors import GatewayError, InvalidInput, PreviewFailed, PreviewUnsupported, Unavailable
from core.ids import PREVIEW_PREFIX, object_key
from core.principal import Principal
from core.ranges import ByteRange, etag_matches
from db import Database, Tx, deferred_deletions, events, files, previews, readings
from db import errors as db_errors
from db.records import FileRecord, PreviewRecord
from parsers import ParserFailed, Unsupported, WeakSandbox
from parsers.reading import Reading, Want, read
from services.access.concurrency import ConcurrencyLimit
from services.access.visibility import may_change, visible
from services.library.delivery import downloadable
from services.library.public_copies import PublicCopies
from services.library.readings import preview_types
from services.objects.bucket import bucket_errors, delete_unused
from services.objects.object_reader import ObjectReader, Reader, as_missing, read_exactly
from storage_backends.base import ObjectNotFound, ObjectStore
from telemetry import metrics

PreviewType = Literal["thumbnail", "text", "page", "contents"]
PictureType = Literal["image/webp", "image/jpeg", "image/png"]

SIZES = (128, 256, 512, 1024)
PAGE_SIZE = 1024  # pixels of the box that a page fits in
JSON = "application/json"
FORMATS: dict[str, Literal["webp", "jpeg", "png"]] = {"image/webp": "webp", "image/jpeg": "jpeg", "image/png": "png"}
_LEASE = timedelta(hours=1)  # a preview that is written but not recorded by then is deleted
_REMEMBER_FAILURE = timedelta(days=1)
_DEFAULT_TYPES: tuple[PreviewType, ...] = ("thumbnail", "text", "contents")  # the first that the file has
# Every member is present in the JSON of a text or listing, whatever the parser left out.
_MEMBERS: dict[PreviewType, dict[str, Any]] = {
    "text": {"content": "", "language": None, "encoding": None, "truncated": False, "html": None, "table": None},
    "contents": {"entries": [], "total_entries": 0, "total_size": None, "truncated": False},
}


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    """Which preview a client asks for."""

    type: PreviewType | None = None  # None: the first of thumbnail, text, contents that the file has
    size: int = 256  # of a thumbnail: one of SIZES
    page: int = 1
    mime_type: PictureType = "image/webp"  # of a picture
    if_none_match: str | None = None
    retry: bool = False  # forget a remembered failure; only the owner may


@dataclass(frozen=True, slots=True)
class Preview:
    """``body`` is empty if the client's copy with this ETag is still current (``not_modified``)."""

    body: bytes
    mime_type: str
    etag: str
    not_modified: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """One preview of a file, as the table file_previews identifies it."""

    type: PreviewType
    variant: int  # the box of a thumbnail in pixels, the number of a page, or 0
    mime_type: str

    @property
    def page(self) -> int:
        """The page's number; 0 for other types. Failures are remembered by type and page."""
        return self.variant if self.type == "page" else 0


class Previews:
    """Serve previews, and make them."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        reader: ObjectReader,
        limit: ConcurrencyLimit,
        public_copies: PublicCopies,
        *,
        scanned_only: bool,
        strict: bool,
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self._limit = limit
        self._public_copies = public_copies
        self._scanned_only = scanned_only
        self._strict = strict  # parse nothing if a lock is missing (parsers/sandbox.py)

    # -- requests ------------------------------------------------------------------------------------------------------

    def show(self, principal: Principal | None, file_id: UUID, request: PreviewRequest) -> Preview:
        """A preview of the file, made now if it does not exist.

        Raises PreviewUnsupported if the file has none of this type, PreviewFailed if making it failed, InvalidInput for a
        page beyond the last, FileNotReady, FileInTrash, ContentMissing, TooMany, Unavailable."""
        with self._db.connection() as tx:
            file = downloadable(visible(principal, files.get(tx, file_id)), scanned_only=self._scanned_only)
            shape = _shape(file, request)
            stored = previews.find(
                tx, file.reading, preview_type=shape.type, variant=shape.variant, mime_type=shape.mime_type
            )
            retry = request.retry and may_change(principal, file.owner_id, file.folder_id)
            if stored is None:
                self._raise_remembered(tx, file, shape, forget=retry)
            events.count_preview(tx, file.id)
        etag = _etag(self._public_copies.shown(principal, file), shape)
        if stored is not None:
            if request.if_none_match is not None and etag_matches(request.if_none_match, etag, weak=True):
                metrics().preview(shape.type, "not_modified")
                return Preview(b"", shape.mime_type, etag, not_modified=True)
            if (body := self._stored_body(stored)) is not None:
                metrics().preview(shape.type, "stored")
                return Preview(_named(file, shape, body), shape.mime_type, etag)
        with self._limit.slot(principal.owner_id if principal else ""):
            if shape.type == "page":
                self._check_page(file, shape.page)
            body = self._make(file, shape)
        if retry and file.problem is not None:
            with self._db.transaction() as tx:
                readings.set_problem(tx, file.reading, None)
        return Preview(_named(file, shape, body), shape.mime_type, etag)

    def _raise_remembered(self, tx: Tx, file: FileRecord, shape: Shape, *, forget: bool) -> None:
        """Raise the failure of the last day, unless it is to be forgotten."""
        if forget:
            previews.forget_failure(tx, file.reading, preview_type=shape.type, variant=shape.page)
            return
        failure = previews.failure(
            tx, file.reading, preview_type=shape.type, variant=shape.page, within=_REMEMBER_FAILURE
        )
        if failure is not None:
            code, detail = failure
            metrics().preview(shape.type, code)
            raise (PreviewFailed if code == PreviewFailed.code else PreviewUnsupported)(detail)

    def _stored_body(self, preview: PreviewRecord) -> bytes | None:
        """The preview's bytes. If its object is gone, forgets the row and returns None."""
        with bucket_errors():
            try:
                with self._store.open(preview.preview_path) as reader:
                    return reader.read(-1)
            except ObjectNotFound:
                pass
        with self._db.connection() as tx:
            previews.remove(tx, preview.preview_path)
        return None

    def _check_page(self, file: FileRecord, page: int) -> None:
        """Raise InvalidInput for a page that does not exist, so that nothing is opened or remembered for it."""
        pages = file.metadata.get("pages")
        if not isinstance(pages, int):
            try:
                measured = measured_metadata(self.read(file, {"metadata"}))
            except (PreviewFailed, PreviewUnsupported) as error:
                self.record_failure(file, "page", error)
                raise
            pages = measured.get("pages") or 0
            with self._db.transaction() as tx:
                readings.add_extracted(tx, file.reading, measured)
        if page > pages:
            detail = f"The document has {pages} pages."
            raise InvalidInput(detail, errors=[{"field": "page", "message": detail}])

    def _make(self, file: FileRecord, shape: Shape) -> bytes:
        """Make one preview and store it, or record the failure and raise it."""
        try:
            if shape.type in ("text", "contents"):
                part: Want = "document" if shape.type == "text" else "contents"
                reading = self.read(file, {part})
                document = reading.document if shape.type == "text" else reading.contents
                if part in reading.failed:
                    raise PreviewFailed(reading.failed[part])
                if document is None:
                    raise PreviewUnsupported("The file has no preview of this type.")
                return self.keep_document(file, shape.type, document)
            reading = self.read(
                file,
                {"picture", "metadata"},
                sizes=[PAGE_SIZE if shape.page else shape.variant],
                format=FORMATS[shape.mime_type],
                page=shape.page or 1,
            )
            if not shape.page and "width" not in file.metadata:
                with self._db.transaction() as tx:
                    readings.add_extracted(tx, file.reading, measured_metadata(reading))
            if "picture" in reading.failed:
                raise PreviewFailed(reading.failed["picture"])
            if not reading.pictures:
                raise PreviewUnsupported("The file has no picture.")
        except (PreviewFailed, PreviewUnsupported) as error:
            self.record_failure(file, shape.type, error, page=shape.page)
            raise
        [picture] = reading.pictures
        return self.keep(file, shape, picture.data, picture.width, picture.height)

    # -- also for the pipeline -----------------------------------------------------------------------------------------

    def read(
        self,
        file: FileRecord,
        want: set[Want],
        *,
        sizes: Sequence[int] = (),
        format: Literal["webp", "jpeg", "png"] = "webp",
        page: int = 1,
    ) -> Reading:
        """Read the file in a child process. Raises PreviewUnsupported, PreviewFailed, ContentMissing, Unavailable."""
        with _client_errors(), _Source(self._reader, file) as source:
            return read(
                source,
                file.mime_type,
                name=file.original_name,
                want=frozenset(want),
                sizes=sizes,
                format=format,
                page=page,
                strict=self._strict,
            )

    def keep_document(self, file: FileRecord, preview_type: PreviewType, document: dict[str, Any]) -> bytes:
        """Store a text or a listing as JSON; returns the JSON."""
        return self.keep(file, Shape(preview_type, 0, JSON), _json(_MEMBERS[preview_type] | document))

    def keep(
        self, file: FileRecord, shape: Shape, body: bytes, width: int | None = None, height: int | None = None
    ) -> bytes:
        """Store a preview: reserve its key, write the object, record it. If another process was quicker, or the object was
        purged, the new one is deleted. Returns ``body``."""
        key = object_key(PREVIEW_PREFIX, FORMATS.get(shape.mime_type, "json"), datetime.now(UTC))
        record = PreviewRecord(
            file.file_path, shape.type, shape.variant, key, shape.mime_type, width, height, len(body), file.read_as
        )
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, key, lease=_LEASE)
        with bucket_errors():
            self._store.put(key, body, content_type=shape.mime_type, size=len(body))
        with self._db.transaction() as tx:
            kept = previews.add(tx, record, file_id=file.id)
            if not kept:
                raise db_errors.Rollback
        if not kept:
            with self._db.connection() as tx:
                deferred_deletions.give_up(tx, key)
            if delete_unused(self._db, self._store, [key]):
                with self._db.connection() as tx:
                    deferred_deletions.forget(tx, [key])
        metrics().preview(shape.type, "made")
        return body

    def record_failure(
        self, file: FileRecord, preview_type: PreviewType, error: GatewayError, *, page: int = 0
    ) -> None:
        """Remember that a preview can't be made, and why."""
        metrics().preview(preview_type, error.code)
        with self._db.transaction() as tx:
            previews.add_failure(
                tx, file.reading, preview_type=preview_type, variant=page, code=error.code, detail=error.detail
            )


class _Source:
    """A file's bytes for a parser (``parsers.run.RangedSource``): each read costs the bucket what is read, no more."""

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
        with self._reader.open(self._file, ByteRange(offset, offset + size - 1)) as reader:
            return read_exactly(reader, size)

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def measured_metadata(reading: Reading) -> dict[str, Any]:
    """What a reading adds to the file's metadata; never ``custom``, which belongs to the client."""
    return {name: value for name, value in reading.metadata.items() if value not in (None, {}, []) and name != "custom"}


def _shape(file: FileRecord, request: PreviewRequest) -> Shape:
    available = preview_types(file)
    type = request.type or next((type for type in _DEFAULT_TYPES if type in available), None)
    if type is None or type not in available or file.file_size == 0:
        raise PreviewUnsupported()
    if type == "thumbnail":
        return Shape(type, request.size, request.mime_type)
    if type == "page":
        return Shape(type, request.page, request.mime_type)
    return Shape(type, 0, JSON)


def _stem(file: FileRecord) -> str:
    return file.original_name.rpartition(".")[0] or file.original_name


def _named(file: FileRecord, shape: Shape, body: bytes) -> bytes:
    """A listing in which a single compressed file that tells no name has the name of its file, without the last extension."""
    if shape.type != "contents" or b'"name":null' not in body:
        return body
    listing = json.loads(body)
    for entry in listing["entries"]:
        entry["name"] = entry["name"] or _stem(file)
    return _json(listing)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _etag(file: FileRecord, shape: Shape) -> str:
    """Made of the file's bytes, how they are read, and the shape, not of the preview's object key, which changes when it is made
    again."""
    kind = "" if shape.type == "thumbnail" else f"-{shape.type}"
    read_as = file.read_as + (_stem(file) if shape.type == "contents" else "")
    of = f"{(file.file_hash or '')[:32]}-{sha256(read_as.encode()).hexdigest()[:8]}"
    return f'"{of}{kind}-{shape.variant}-{FORMATS.get(shape.mime_type, "json")}"'


@contextmanager
def _client_errors() -> Iterator[None]:
    """Translate errors of parsers and bucket into those that clients see."""
    try:
        yield
    except ObjectNotFound as error:
        raise as_missing(error) from error
    except Unsupported as error:
        raise PreviewUnsupported(error.reason) from error
    except ParserFailed as error:
        raise PreviewFailed(error.reason) from error
    except WeakSandbox as error:
        raise Unavailable("Previews are disabled here: the sandbox for parsers is incomplete.") from error
