"""The job after an upload: previews, text for search, and metadata, all read by one child process.

A step that fails is a result: it is kept as the file's ``problem`` and not retried. Only an unavailable bucket or database
raises, so that the job is tried again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from core.content_types import may_shrink
from core.errors import ContentMissing, FileArchived, GatewayError, PreviewFailed, PreviewUnsupported
from db import Database, Tx, files, jobs, readings
from db.records import FileRecord
from db.search import index
from parsers.reading import Reading, Want
from services.library.readings import begin as begin_reading
from services.library.readings import preview_types
from services.processing.previews import SIZES, Previews, PreviewType, Shape, measured_metadata

log = structlog.get_logger()

# What is read for each type of preview, and how its failure is described.
_STEPS: dict[PreviewType, tuple[frozenset[Want], str]] = {
    "thumbnail": (frozenset({"metadata", "picture"}), "The thumbnails could not be made"),
    "text": (frozenset({"metadata", "text", "document"}), "The text could not be read"),
    "contents": (frozenset({"metadata", "contents"}), "The contents could not be listed"),
}
_STEP_OF: dict[Want, PreviewType] = {part: step for step, (parts, _) in _STEPS.items() for part in parts - {"metadata"}}


def begin(tx: Tx, file: FileRecord, *, new: bool = False) -> None:
    """Enqueue what follows when a file becomes ``ready``. ``new``: no other file can be on its object."""
    if not begin_reading(tx, file, new=new):
        begin_compression(tx, file)


def begin_compression(tx: Tx, file: FileRecord) -> None:
    """Enqueue the compression of a file's object, if its type promises that it shrinks."""
    if may_shrink(file.mime_type, file.file_size) and file.encoding is None:
        lock = f"object:{file.file_path}"
        jobs.enqueue(tx, "compress_object", owner_id=file.owner_id, lock=lock, priority=-10, file_id=str(file.id))


class Pipeline:
    """Make a file's previews, text and metadata."""

    def __init__(self, db: Database, previews: Previews):
        self._db = db
        self._previews = previews

    def process(self, file_id: UUID) -> None:
        """Do all steps. Idempotent. Raises Unavailable: try again later."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
        if file is None or file.status != "ready" or "processed_at" in file.metadata:
            return
        types = preview_types(file)
        try:
            found, failures = self._read(file, [step for step in _STEPS if step in types])
        except ContentMissing:
            log.warning("processing_without_object", file_id=str(file_id))
            return
        except FileArchived:  # renamed there; it is read when it is back
            return
        measured: dict[str, Any] = {}
        for reading in found:
            measured |= measured_metadata(reading)
            failures |= {
                _STEP_OF[part]: PreviewFailed(reason) for part, reason in reading.failed.items() if part in _STEP_OF
            }
            self._keep(file, reading)
        measured["processed_at"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        problem = None
        for step, error in failures.items():
            self._previews.record_failure(file, step, error)
            if problem is None and isinstance(error, PreviewFailed):
                problem = {"code": error.code, "detail": f"{_STEPS[step][1]}: {error.detail}"}
        with self._db.transaction() as tx:
            readings.begin(tx, file.reading)  # locks the object, so that its files keep their names
            now = files.get(tx, file_id)
            if now is None or now.version != file.version:  # renamed, perhaps and back: what was kept may be gone
                if now is not None:
                    begin_reading(tx, now)
                return
            readings.add_extracted(tx, file.reading, measured)
            readings.set_problem(tx, file.reading, problem)
            begin_compression(tx, file)  # last: it moves the object to another key

    def _read(
        self, file: FileRecord, steps: list[PreviewType]
    ) -> tuple[list[Reading], dict[PreviewType, GatewayError]]:
        """All steps in one child. If that fails, each in one of its own: a page that can't be drawn costs no text."""
        try:
            return [self._read_steps(file, steps)], {}
        except (PreviewFailed, PreviewUnsupported) as error:
            if len(steps) == 1:
                return [], {steps[0]: error}
        found: list[Reading] = []
        failures: dict[PreviewType, GatewayError] = {}
        for step in steps:
            try:
                found.append(self._read_steps(file, [step]))
            except (PreviewFailed, PreviewUnsupported) as error:
                failures[step] = error
        return found, failures

    def _read_steps(self, file: FileRecord, steps: list[PreviewType]) -> Reading:
        want = set[Want]().union(*(_STEPS[step][0] for step in steps))
        return self._previews.read(file, want, sizes=SIZES if "picture" in want else ())

    def _keep(self, file: FileRecord, reading: Reading) -> None:
        """Store each result in its own transaction. An interrupted job starts again and finds what it has stored."""
        for picture in reading.pictures:
            shape = Shape("thumbnail", picture.size, picture.mime_type)
            self._previews.keep(file, shape, picture.data, picture.width, picture.height)
        if reading.document is not None:
            self._previews.keep_document(file, "text", reading.document)
        if reading.contents is not None:
            self._previews.keep_document(file, "contents", reading.contents)
        if reading.text:
            with self._db.transaction() as tx:
                index.put_text(tx, file.reading, content=reading.text, language=reading.text_language)
