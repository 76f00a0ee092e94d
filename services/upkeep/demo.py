"""Demonstration files: rows by the million, some with real objects, under new owners (``demo-1``, ``demo-2`` …).

Rows without an object have ``found`` = false, so they don't count as damage; their download answers ``content_missing``.
Existing data is not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from core import demo_bodies
from core.content_types import file_type, mime_for_extension
from core.demo import DemoFile, Inventor
from core.errors import InvalidInput
from core.ids import FILE_PREFIX, object_key
from db import Database, demo, folders
from db.search import index
from services.library.folders import MAX_FOLDERS
from storage_backends.base import ObjectStore

_BATCH = 5_000  # files in one transaction
_TEXTS = 0.1  # the part of the files that gets text for search
_WRITERS = 2  # threads that write and index texts while the next files are invented
_MAX_WAITING = 4  # of their tasks
_TEXT_BATCH = 25  # texts in one transaction: few, since files that share an object wait for its end


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How much to add."""

    files: int
    objects: int  # of the files, those with real bytes
    folders: int  # of each owner
    owners: int
    seed: int
    owner_id: str | None = None  # one owner without files, instead of demo-…


@dataclass(slots=True)
class DemoReport:
    """What was added."""

    owners: list[str]
    folders: int = 0
    files: int = 0
    shared: int = 0  # files on the object of another
    objects: int = 0  # in the bucket
    texts: int = 0
    bytes: int = 0  # as the rows say

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class Demo:
    """Add demonstration files."""

    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    def seed(self, plan: DemoPlan, *, progress: Callable[[str], None] = lambda line: None) -> DemoReport:
        """Add what the plan says, passing ``progress`` a line now and then. If interrupted, all that was added is complete.
        Raises InvalidInput for an impossible plan."""
        if plan.files < 1 or plan.owners < 1 or not 0 <= plan.folders <= MAX_FOLDERS:
            raise InvalidInput(f"At least one file and owner, and at most {MAX_FOLDERS:,} folders of each owner.")
        report = DemoReport(self._owners(plan))
        # Names contain dates, counted from midnight: a seed gives the same names all day.
        now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        inventor = Inventor(plan.seed, files=plan.files, folders=plan.folders, owners=len(report.owners), now=now)
        folder_ids = [self._folders(inventor, plan.folders, owner) for owner in report.owners]
        report.folders = sum(map(len, folder_ids))
        with ThreadPoolExecutor(_WRITERS, "texts") as writers:
            self._fill(plan, inventor, folder_ids, report, writers, progress)
        with self._db.connection() as tx:
            demo.analyze(tx)
        return report

    def _fill(
        self,
        plan: DemoPlan,
        inventor: Inventor,
        folder_ids: Sequence[Sequence[int]],
        report: DemoReport,
        writers: ThreadPoolExecutor,
        progress: Callable[[str], None],
    ) -> None:
        has_bytes = _spread(min(plan.objects, plan.files), plan.files)
        has_text = _spread(round(plan.files * _TEXTS), plan.files)
        owing = 0  # texts that are due, but whose files could not have one
        written: list[Future[None]] = []
        for first in range(0, plan.files, _BATCH):
            files, bodies, texts = [], [], []
            for number in range(first, min(first + _BATCH, plan.files)):
                file = inventor.file()
                files.append(file)
                if has_bytes(number) and not file.is_copy:
                    bodies.append((file, _with_bytes(file, inventor, number)))
                owing += has_text(number)
                if owing and file.has_text and not file.is_copy:
                    texts.append((file.object_key, inventor.text(file), file.language.code))
                    owing -= 1
            with self._db.transaction() as tx:
                demo.add_files(tx, files, owners=report.owners, folders=folder_ids)
            written += [writers.submit(self._write, texts[at::_WRITERS]) for at in range(_WRITERS)]
            while written and (written[0].done() or len(written) > _MAX_WAITING):
                written.pop(0).result()
            for file, content in bodies:
                self._put(file, content)
            report.files += len(files)
            report.shared += sum(file.is_copy for file in files)
            report.objects += len(bodies)
            report.texts += len(texts)
            report.bytes += sum(file.size for file in files)
            progress(f"{report.files:,} of {plan.files:,} files")
        for task in written:
            task.result()
        self._write([])

    def _write(self, texts: Sequence[tuple[str, str, str]]) -> None:
        """Add texts, then index whatever is queued."""
        for first in range(0, len(texts), _TEXT_BATCH):
            with self._db.transaction() as tx:
                demo.add_texts(tx, sorted(texts[first : first + _TEXT_BATCH]))
        indexed = 1
        while indexed:
            with self._db.transaction() as tx:
                indexed = index.index_queued(tx)

    def _owners(self, plan: DemoPlan) -> list[str]:
        with self._db.connection() as tx:
            if plan.owner_id is not None:
                if not demo.owner_is_new(tx, plan.owner_id):
                    raise InvalidInput(f"{plan.owner_id} has files or folders already; nothing was added.")
                return [plan.owner_id]
            found: list[str] = []
            number = 0
            while len(found) < plan.owners:
                number += 1
                if demo.owner_is_new(tx, f"demo-{number}"):
                    found.append(f"demo-{number}")
            return found

    def _folders(self, inventor: Inventor, count: int, owner_id: str) -> list[int]:
        """The ids of new folders, in the inventor's order."""
        ids: list[int] = []
        with self._db.transaction() as tx:
            for folder in inventor.folders(count):
                parent_id = None if folder.parent is None else ids[folder.parent]
                ids.append(folders.create(tx, owner_id, name=folder.name, description="", parent_id=parent_id))
        return ids

    def _put(self, file: DemoFile, content: bytes) -> None:
        """The row exists already, so that a crash leaves no object without one."""
        stored = self._store.put(file.object_key, content, content_type=file.mime_type)
        with self._db.connection() as tx:
            demo.set_stored(tx, file.object_key, etag=stored.etag)


def _with_bytes(file: DemoFile, inventor: Inventor, number: int) -> bytes:
    """Change the invented file to a type that can be made here; returns its content."""
    ending = demo_bodies.ENDINGS[number % len(demo_bodies.ENDINGS)]
    content = demo_bodies.body(ending, inventor.text(file), number)
    inventor.rename(file, f"{number} {file.original_name.rpartition('.')[0]}.{ending}")
    file.mime_type = mime_for_extension(ending) or "application/octet-stream"
    file.file_type = file_type(file.mime_type)
    file.object_key = object_key(FILE_PREFIX, ending, file.uploaded_at)
    file.size, file.sha256 = len(content), hashlib.sha256(content).hexdigest()
    file.has_text = ending in ("txt", "md", "csv")
    file.metadata = {"width": 320, "height": 240} if ending == "png" else {}
    return content


def _spread(count: int, total: int) -> Callable[[int], bool]:
    """Selects ``count`` of the numbers below ``total``, evenly."""
    return lambda number: number * count // total != (number + 1) * count // total
