"""Which files are to be read for previews, text and metadata. Each is read by its own type and name, whatever files of equal
bytes are named: what was read belongs to object and ``read_as`` together (db/readings.py).

services/processing/pipeline.py is the job that reads."""

from __future__ import annotations

from collections.abc import Sequence

from core import names
from db import Tx, files, jobs, objects, readings
from db.records import FileRecord
from parsers.reading import kinds


def preview_types(file: FileRecord) -> frozenset[str]:
    """The types of preview that the file can have in this installation."""
    return kinds(file.mime_type, names.extension(file.original_name))


def begin(tx: Tx, file: FileRecord, *, new: bool = False) -> bool:
    """Enqueue the job that reads a ready file, unless that was done or is to be done for another one. False for a file that has
    nothing to read. ``new``: no other file can be on its object."""
    if file.status != "ready" or not file.file_size or not preview_types(file):
        return False
    if "processed_at" not in file.metadata and (new or not readings.is_queued(tx, file.reading)):
        lock = f"object:{file.file_path}"
        jobs.enqueue(tx, "process_file", owner_id=file.owner_id, lock=lock, file_id=str(file.id))
    return True


def leave(tx: Tx, before: FileRecord) -> None:
    """A file, as it was ``before``, is gone or read otherwise now: delete what no other file needs. If its job was to serve
    another one too, enqueue one for that. The caller has locked the object."""
    remaining = readings.drop_unused(tx, before.reading)
    if remaining is not None and (file := files.get(tx, remaining)) is not None:
        begin(tx, file)


def move_files(tx: Tx, damaged: Sequence[str], *, by: Sequence[str]) -> None:
    """``objects.move_files``, and what it makes necessary."""
    moved = objects.move_files(tx, damaged, by=by)
    for file in files.get_many(tx, moved) if moved else ():
        begin(tx, file)
