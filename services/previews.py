"""Thumbnails: made in a limited child process, kept in the bucket under a prefix of their own, shared by equal files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import structlog

from core.content_types import PICTURES
from core.errors import ContentMissing, PreviewFailed, PreviewUnsupported, Unavailable
from core.ids import PREVIEW_PREFIX, object_key
from core.principal import Principal
from core.ranges import etag_matches
from db import Database, events, files, previews
from db.files import FileRecord
from db.previews import PreviewRecord
from parsers import run as parsers
from services.access import visible
from services.bucket import bucket_errors, delete_quietly
from services.contents import Contents
from services.delivery import downloadable
from storage_backends.base import ObjectNotFound, ObjectStore

log = structlog.get_logger()

SIZES = (128, 256, 512, 1024)
FORMATS: dict[str, Literal["webp", "jpeg", "png"]] = {
    "image/webp": "webp",
    "image/jpeg": "jpeg",
    "image/png": "png",
}
_PATIENCE = 60.0  # seconds that a request waits for a child's turn


@dataclass(frozen=True, slots=True)
class Preview:
    """``body`` is empty where the client's copy, named by ``etag``, is still right (``not_modified``)."""

    body: bytes
    mime_type: str
    etag: str
    not_modified: bool = False


class Previews:
    def __init__(self, db: Database, store: ObjectStore, contents: Contents, *, children: int = 2):
        self._db = db
        self._store = store
        self._contents = contents
        self._turns = threading.BoundedSemaphore(children)  # decoders of this process at one time

    def thumbnail(
        self,
        principal: Principal | None,
        file_id: UUID,
        *,
        size: int,
        mime_type: str = "image/webp",
        if_none_match: str | None = None,
    ) -> Preview:
        """A picture of the file that fits a box of ``size`` pixels, made now where it is missing.

        Raises PreviewUnsupported for what has no picture, PreviewFailed where making it failed, FileNotReady, FileInTrash."""
        with self._db.connection() as tx:
            file = downloadable(visible(principal, files.get(tx, file_id)))
            if file.mime_type not in PICTURES:
                raise PreviewUnsupported()
            shown = previews.find(
                tx,
                file.file_path,
                preview_type="thumbnail",
                variant=size,
                mime_type=mime_type,
            )
            events.record(
                tx,
                file.id,
                owner_id=file.owner_id,
                action="previewed",
                actor=principal.owner_id if principal else "anonymous",
            )
        if shown is not None:
            etag = _etag(file, shown)
            if if_none_match is not None and etag_matches(if_none_match, etag, weak=True):
                return Preview(b"", mime_type, etag, not_modified=True)
            body = self._stored(shown)
            if body is not None:
                return Preview(body, mime_type, etag)
        made = self._make(file, [size], mime_type)
        record, body = made[0]
        return Preview(body, mime_type, _etag(file, record))

    def make_all(self, file_id: UUID) -> None:
        """The job after an upload: all sizes in WebP from one decode, and what the picture tells about itself.

        A picture that can't be decoded is a result, kept as the file's ``problem``, not an error to retry."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
            if file is None or file.status != "ready" or file.mime_type not in PICTURES:
                return
            have = {
                p.variant for p in previews.of_objects(tx, [file.file_path]) if p.mime_type == "image/webp"
            }
        missing = [size for size in SIZES if size not in have]
        if not missing and "width" in file.metadata:
            return
        try:
            self._make(file, missing or [SIZES[0]], "image/webp")
        except PreviewFailed as error:
            with self._db.connection() as tx:
                files.set_problem(tx, file.file_path, error.as_problem())
        except ContentMissing:
            log.warning("preview_without_object", file_id=str(file_id))

    def _make(
        self, file: FileRecord, sizes: Sequence[int], mime_type: str
    ) -> list[tuple[PreviewRecord, bytes]]:
        if not self._turns.acquire(timeout=_PATIENCE):
            raise Unavailable("Too many previews are being made; try again.")
        try:
            with self._contents.open(file) as reader:
                result = parsers.thumbnails(reader, sizes, FORMATS[mime_type])
        except ObjectNotFound as error:
            raise ContentMissing() from error
        except parsers.Unsupported as error:
            raise PreviewUnsupported() from error
        except parsers.ParserFailed as error:
            raise PreviewFailed(f"The preview could not be made: {error}") from error
        finally:
            self._turns.release()
        if "width" not in file.metadata:
            measured = {"width": result.width, "height": result.height, "exif": result.exif}
            with self._db.connection() as tx:
                files.add_metadata(tx, file.file_path, measured)
        return [
            (self._keep(file, size, mime_type, picture.width, picture.height, picture.data), picture.data)
            for size, picture in zip(sizes, result.thumbnails, strict=True)
        ]

    def _keep(
        self, file: FileRecord, size: int, mime_type: str, width: int, height: int, body: bytes
    ) -> PreviewRecord:
        """Put a preview into the bucket and record it. Whoever was quicker, or purged the object, wins; ours is deleted."""
        key = object_key(PREVIEW_PREFIX, FORMATS[mime_type], datetime.now(UTC))
        record = PreviewRecord(file.file_path, "thumbnail", size, key, mime_type, width, height, len(body))
        with bucket_errors():
            self._store.put(key, body, content_type=mime_type, size=len(body))
        with self._db.connection() as tx:
            kept = previews.add(tx, record, file_id=file.id)
        if not kept:
            delete_quietly(self._store, key)
        return record

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


def _etag(file: FileRecord, shown: PreviewRecord) -> str:
    """Follows the bytes shown and the shape asked for, not the preview's object key, which changes when it is made again."""
    return f'"{(file.file_hash or "")[:32]}-{shown.variant}-{FORMATS[shown.mime_type]}"'
