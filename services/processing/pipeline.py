"""What happens to a file after its bytes are there: which work follows, enqueued in the transaction that makes it due, and
that work: previews, text for search, and what the file tells about itself.

One child process reads all of it from one decode. A step that fails is a result, kept as the file's ``problem`` and not
tried again; only a bucket or database that is away is waited for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from core.content_types import may_shrink
from core.errors import ContentMissing, GatewayError, PreviewFailed, PreviewUnsupported
from db import Database, Tx, files, jobs, objects
from db.records import FileRecord
from db.search import texts
from parsers.reading import Reading, Want
from services.processing.previews import (
    JSON,
    SIZES,
    Previews,
    PreviewType,
    document_json,
    measured_metadata,
    preview_types,
)

log = structlog.get_logger()

# What is wanted of a file, by the kinds it has, and the step that its failure is told as.
_STEPS: dict[PreviewType, tuple[frozenset[Want], str]] = {
    "thumbnail": (frozenset({"metadata", "picture"}), "The thumbnails could not be made"),
    "text": (frozenset({"metadata", "text", "document"}), "The text could not be read"),
    "contents": (frozenset({"metadata", "contents"}), "The contents could not be listed"),
}


def begin(tx: Tx, file: FileRecord) -> None:
    """Enqueue what follows a file's becoming ``ready`` on an object of its own. One that shares another's has all already."""
    if file.file_size and preview_types(file):
        _enqueue(tx, "process_file", file)
    else:
        _begin_compression(tx, file)


def _begin_compression(tx: Tx, file: FileRecord) -> None:
    if may_shrink(file.mime_type, file.file_size):
        _enqueue(tx, "compress_object", file, priority=-10)


def _enqueue(tx: Tx, task: str, file: FileRecord, *, priority: int = 0) -> None:
    jobs.enqueue(
        tx,
        task,
        owner_id=file.owner_id,
        lock=f"object:{file.file_path}",
        priority=priority,
        file_id=str(file.id),
    )


class Pipeline:
    def __init__(self, db: Database, previews: Previews):
        self._db = db
        self._previews = previews

    def process(self, file_id: UUID) -> None:
        """The job after an upload. Done again it changes nothing. Raises Unavailable: try later."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
        if file is None or file.status != "ready" or "processed_at" in file.metadata:
            return
        steps = [step for step in _STEPS if step in preview_types(file)]
        try:
            found, failures = self._read(file, steps)
        except ContentMissing:
            log.warning("processing_without_object", file_id=str(file_id))
            return
        measured: dict[str, Any] = {}
        for reading in found:
            measured |= measured_metadata(reading)
            self._keep(file, reading)
        measured["processed_at"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        problem = None
        for step, error in failures.items():
            self._previews.remember(file, step, error)
            if problem is None and isinstance(error, PreviewFailed):
                problem = {"code": error.code, "detail": f"{_STEPS[step][1]}: {error.detail}"}
        with self._db.transaction() as tx:
            objects.add_extracted(tx, file.file_path, measured)
            objects.set_problem(tx, file.file_path, problem)
            _begin_compression(tx, file)  # after what is kept under the key that was read

    def _read(
        self, file: FileRecord, steps: list[PreviewType]
    ) -> tuple[list[Reading], dict[PreviewType, GatewayError]]:
        """All steps in one child; where that fails, each in one of its own, so that a page that can't be drawn costs no
        text."""
        try:
            return [self._read_together(file, steps)], {}
        except (PreviewFailed, PreviewUnsupported) as error:
            if len(steps) == 1:
                return [], {steps[0]: error}
        found: list[Reading] = []
        failures: dict[PreviewType, GatewayError] = {}
        for step in steps:
            try:
                found.append(self._read_together(file, [step]))
            except (PreviewFailed, PreviewUnsupported) as error:
                failures[step] = error
        return found, failures

    def _read_together(self, file: FileRecord, steps: list[PreviewType]) -> Reading:
        want = set[Want]().union(*(_STEPS[step][0] for step in steps))
        return self._previews.read(file, want, sizes=SIZES if "picture" in want else ())

    def _keep(self, file: FileRecord, reading: Reading) -> None:
        """Each in its own transaction: what is cut off here is done again from the start, and finds what it made."""
        for picture in reading.pictures:
            self._previews.keep(
                file,
                "thumbnail",
                picture.size,
                picture.mime_type,
                picture.data,
                picture.width,
                picture.height,
            )
        if reading.document is not None:
            self._previews.keep(file, "text", 0, JSON, document_json("text", reading.document))
        if reading.contents is not None:
            self._previews.keep(file, "contents", 0, JSON, document_json("contents", reading.contents))
        if reading.text:
            with self._db.transaction() as tx:
                texts.put(tx, file.file_path, content=reading.text, language=reading.text_language)
