"""Export an owner's files as a tree of folders and files, each checked by its SHA-256.

A file is written under another name and appears under its own when it is complete, so what is there is right: an export that
was broken off is repeated, and leaves out files of the same size and time. Nothing that exists is ever overwritten."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import NamedTuple

import structlog

from core import names
from core.errors import GatewayError, InvalidInput, NotFound, Unavailable
from db import Database, file_lists, files, folders
from db.file_lists import FileFilter
from db.folders import FolderFilter
from db.records import FileRecord, FolderRecord
from services.objects.object_reader import Altered, ObjectReader
from services.objects.streams import PIECE, Hashed, Stoppable
from services.recovery.importing import Problem, TransferReport
from services.recovery.parallel import again, in_parallel
from services.recovery.trees import EXPORTING
from storage_backends.base import ObjectNotFound, StorageError, StorageUnavailable

log = structlog.get_logger()

_PAGE = 1_000
_TRASH = "Trash"  # the folder for the trash
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Job(NamedTuple):
    """A file to write."""

    file: FileRecord
    path: Path  # below the export's folder


class Exporting:
    """Exports of one owner's files."""

    def __init__(self, db: Database, reader: ObjectReader, owner_id: str):
        self._db = db
        self._reader = reader
        self._owner = owner_id
        self._stopping = Event()

    def run(
        self,
        target: Path,
        *,
        folder_id: int | None = None,
        trash: bool = False,
        threads: int = 4,
        report: TransferReport | None = None,
        progress: Callable[[TransferReport], None] = lambda report: None,
    ) -> TransferReport:
        """Write a folder's files, by default all, with all folders below; ``trash``: also those in the trash, into a folder
        ``Trash``. Files that are not ready are left out and told.

        Raises NotFound for the folder, InvalidInput if ``target`` can't be written or another export writes there, Unavailable,
        StorageError."""
        report = report or TransferReport()
        with self._db.connection() as tx:
            found = folders.tree(tx, FolderFilter(self._owner))
        if folder_id is not None and folder_id not in {folder.id for folder in found}:
            raise NotFound("The owner has no such folder.")
        children: dict[int | None, list[FolderRecord]] = {}
        for folder in found:
            children.setdefault(folder.parent_id, []).append(folder)
        self._stopping.clear()
        try:
            with (
                _unfinished(target),
                in_parallel(
                    lambda job: self._export(target, job),
                    self._jobs(target, folder_id, children, report, trash=trash),
                    threads=threads,
                    stopping=self._stopping,
                ) as results,
            ):
                for job, problem in results:
                    if problem is None:
                        report.files += 1
                        report.bytes += job.file.file_size
                    elif problem.code == "present":
                        report.present += 1
                    else:
                        report.note(problem, failed=True)
                    progress(report)
        except OSError as error:
            raise InvalidInput(f"{error.filename or target}: {error.strerror or error}") from error
        return report

    # -- in order ----------------------------------------------------------------------------------------------------------

    def _jobs(
        self,
        target: Path,
        top: int | None,
        children: dict[int | None, list[FolderRecord]],
        report: TransferReport,
        *,
        trash: bool,
    ) -> Iterator[_Job]:
        waiting: list[tuple[int | None, Path, bool]] = [(top, Path(), False)]
        while waiting:
            folder_id, place, deleted = waiting.pop()
            # Files and folders may have the same name in the gateway; the folder keeps it.
            used = {names.name_key(name) for name in [EXPORTING] if place == Path()}
            for folder in children.get(folder_id, []):
                name = _free(_safe(folder.name), used)
                if deleted or self._make(target, place / name, report):
                    waiting.append((folder.id, place / name, deleted))
            if trash and not deleted and place == Path():
                waiting.insert(0, (top, place / _free(_TRASH, used), True))
            yield from self._files(target, folder_id, place, used, report, deleted=deleted)

    def _files(
        self, target: Path, folder_id: int | None, place: Path, used: set[str], report: TransferReport, *, deleted: bool
    ) -> Iterator[_Job]:
        if not deleted and used:  # a number must not make another file's name
            with self._db.connection() as tx:
                living = {names.name_key(file.original_name) for file in files.in_folder(tx, self._owner, folder_id)}
        else:
            living = set()
        taken = used | living
        made = not deleted
        for file in self._listed(folder_id, deleted=deleted):
            name = _safe(file.original_name)
            if deleted or names.name_key(name) in used:
                name = _free(name, taken)
            path = place / name
            left_out = file.status if file.status != "ready" else "expired" if file.expired else None
            if left_out is not None:
                report.note(Problem(_shown(path), "left_out", f"It is {left_out}."), failed=False)
                continue
            made = made or self._make(target, place, report)
            if made:
                yield _Job(file, path)

    def _listed(self, folder_id: int | None, *, deleted: bool) -> Iterator[FileRecord]:
        wanted = FileFilter(self._owner, folder_id=folder_id, in_root=folder_id is None, deleted=deleted)
        after = None
        while True:
            with self._db.connection() as tx:
                views, after = file_lists.page(tx, wanted, sort="original_name", after=after, limit=_PAGE)
            for view in views:
                yield view.file
            if after is None:
                return

    def _make(self, target: Path, place: Path, report: TransferReport) -> bool:
        """Make a folder, and those above. False, with a problem, if something else has its name."""
        path = target
        for part in place.parts:
            path = path / part
            try:
                path.mkdir()
                report.folders += 1
            except FileExistsError:
                if path.is_symlink() or not path.is_dir():
                    report.note(Problem(_shown(place), "file_exists", "Something else has this name."), failed=True)
                    return False
        return True

    # -- one file, in a thread ---------------------------------------------------------------------------------------------

    def _export(self, target: Path, job: _Job) -> tuple[_Job, Problem | None]:
        """The problem, if there is one; ``present`` if the file is there. Raises what ends the export."""
        problem, temporary = self._found(target, job), target / EXPORTING / job.file.id.hex
        if problem is None:
            try:
                problem = again(lambda: self._attempt(temporary, target, job), self._stopping)
            finally:
                temporary.unlink(missing_ok=True)
        return job, problem

    def _found(self, target: Path, job: _Job) -> Problem | None:
        """What has the file's name already; None if nothing has."""
        try:
            there = (target / job.path).stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Problem(_shown(job.path), "unwritable", error.strerror or str(error))
        wanted = job.file.file_size, _microseconds(job.file.uploaded_at)
        if stat.S_ISREG(there.st_mode) and (there.st_size, there.st_mtime_ns // 1_000) == wanted:
            return Problem(_shown(job.path), "present", "")
        return Problem(_shown(job.path), "file_exists", "Something else has this name; it stays as it is.")

    def _attempt(self, temporary: Path, target: Path, job: _Job) -> Problem | None:
        shown = _shown(job.path)
        try:
            self._write(temporary, target / job.path, job.file)
        except (Unavailable, StorageUnavailable):
            raise
        except ObjectNotFound as error:
            code = "content_altered" if isinstance(error, Altered) else "content_missing"
            return Problem(shown, code, "The bucket does not hold the bytes that were uploaded.")
        except GatewayError as error:
            return Problem(shown, error.code, error.detail)
        except StorageError as error:
            return Problem(shown, "unreadable", str(error))
        except OSError as error:
            if error.errno in _FULL:
                raise
            return Problem(shown, "unwritable", error.strerror or str(error))
        return None

    def _write(self, temporary: Path, path: Path, file: FileRecord) -> None:
        with self._reader.open(file) as raw, open(temporary, "xb", buffering=0) as out:
            stream = Hashed(Stoppable(raw, self._stopping))
            while piece := stream.read(PIECE):
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) :]
        if stream.length != file.file_size or file.file_hash not in (None, stream.sha256):
            raise Altered("The bytes are not those that were uploaded.")
        accessed = temporary.stat().st_atime_ns
        os.utime(temporary, ns=(accessed, _microseconds(file.uploaded_at) * 1_000))
        try:
            os.link(temporary, path)  # unlike a renaming, it overwrites nothing
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            temporary.rename(path)


@contextmanager
def _unfinished(target: Path) -> Iterator[None]:
    """Have the folder for files that are being written, empty and for this export alone: two would finish each other's files.
    Raises OSError, InvalidInput."""
    folder = target / EXPORTING
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(f"Another export writes into {target}.") from error
        except OSError as error:  # a file system without locks
            log.warning("export_not_locked", error=str(error))
        for left in folder.iterdir():  # by a run that was killed
            left.unlink()
        yield
        folder.rmdir()
    finally:
        os.close(lock)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})  # of file systems without hard links


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _safe(name: str) -> str:
    """A name without what would leave its folder. Names are cleaned when they come in; this does not rely on it."""
    name = name.replace("/", "_").replace("\0", "_")
    return "_" + name if name.strip(".") == "" else name


def _free(name: str, used: set[str]) -> str:
    """The name, with a number if it is taken; it is taken then."""
    free, number = name, 0
    while names.name_key(free) in used:
        number += 1
        free = names.numbered(name, number)
    used.add(names.name_key(free))
    return free


def _shown(path: Path) -> str:
    return path.as_posix()
