"""Import a tree as files of an owner, through the gate of all uploads (services/uploads/intake.py).

Folders are made as they are met; a file keeps its time as ``uploaded_at``. An import that was broken off is repeated: a file is
there already if its folder has one of the same size and time whose name is the same, or the same with a number; or, where
only the time differs, of the same SHA-256. So no journal is needed, and a file that changed is imported beside the old one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from threading import Event
from typing import NamedTuple

from core import names
from core.errors import GatewayError, NameConflict, StorageFull, Unavailable
from core.placement import Placement, Visibility
from core.principal import Principal
from db import Database, files, folders, quotas
from db.files import NamedFile
from db.folders import FolderFilter
from services.library.folders import Folders
from services.objects.streams import Hashed, Stoppable
from services.recovery.parallel import again, in_parallel
from services.recovery.trees import Entry, Source, TreeFolder, Unreadable
from services.uploads.intake import Intake
from storage_backends.base import StorageError, StorageUnavailable

_MAX_PROBLEMS = 1_000  # that are told one by one
_NUMBER = re.compile(r" \(([1-9]\d{0,9})\)")


class Problem(NamedTuple):
    """What was not imported or exported."""

    path: str
    code: str
    detail: str


@dataclass(slots=True)
class TransferReport:
    """What an import or export did. ``problems`` are the first of those that failed or were skipped."""

    dry_run: bool = False
    files: int = 0
    bytes: int = 0
    present: int = 0  # files that were there already
    folders: int = 0  # that were made
    failed: int = 0
    skipped: int = 0  # what is no file or folder; of an export, files that are not ready
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def note(self, problem: Problem, *, failed: bool) -> None:
        """Count a problem."""
        self.failed += failed
        self.skipped += not failed
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


class _Job(NamedTuple):
    """A file to import."""

    path: tuple[str, ...]
    folder_id: int | None
    size: int
    modified: datetime
    source: Source
    alike: list[NamedFile]  # of the same name and size, at other times


class Importing:
    """Imports of one owner's files."""

    def __init__(
        self, db: Database, intake: Intake, folders: Folders, owner_id: str, *, visibility: Visibility = "private"
    ):
        with db.connection() as tx:
            self._principal = Principal(owner_id, has_quota=quotas.has_own(tx, owner_id))
        self._db = db
        self._intake = intake
        self._folders = folders
        self._visibility: Visibility = visibility
        self._known: dict[tuple[int | None, str], int] = {}  # parent and name_key -> folder
        self._paths: dict[tuple[str, ...], int | GatewayError | None] = {}  # None: the root, or not made in a dry run
        self._contents: tuple[tuple[str, ...], Contents] | None = None  # of the folder that was met last
        self._stopping = Event()

    def run(
        self,
        tree: Iterable[Entry],
        *,
        folder_id: int | None = None,
        threads: int = 4,
        dry_run: bool = False,
        report: TransferReport | None = None,
        progress: Callable[[TransferReport], None] = lambda report: None,
    ) -> TransferReport:
        """Import a tree into a folder, by default the root. What fails goes to the report, and the rest goes on.

        Raises NotFound for the folder, Unavailable and StorageFull; the import can then be repeated."""
        report = report or TransferReport()
        report.dry_run = dry_run
        if folder_id is not None:
            self._folders.get(self._principal, folder_id)
        with self._db.connection() as tx:
            found = folders.tree(tx, FolderFilter(self._principal.owner_id))
        self._known = {(folder.parent_id, names.name_key(folder.name)): folder.id for folder in found}
        self._paths = {(): folder_id}
        self._stopping.clear()
        jobs = self._jobs(tree, report)
        if dry_run:
            for job in jobs:
                self._dry_run(job, report)
                progress(report)
            return report
        with in_parallel(self._import, jobs, threads=threads, stopping=self._stopping) as results:
            for job, problem in results:
                if problem is None:
                    report.files += 1
                    report.bytes += job.size
                elif problem.code == "present":
                    report.present += 1
                else:
                    report.note(problem, failed=True)
                progress(report)
        return report

    # -- in the order of the tree ------------------------------------------------------------------------------------------

    def _jobs(self, tree: Iterable[Entry], report: TransferReport) -> Iterator[_Job]:
        for entry in tree:
            if isinstance(entry, Unreadable):
                report.note(Problem(*entry), failed=entry.code != "skipped")
                continue
            place = entry.path if isinstance(entry, TreeFolder) else entry.path[:-1]
            folder = self._folder(place, report)
            if isinstance(folder, GatewayError) or isinstance(entry, TreeFolder):
                if isinstance(folder, GatewayError) and not isinstance(entry, TreeFolder):
                    report.note(_problem(entry.path, folder), failed=True)
                continue
            try:
                clean = names.clean_name(_plain(entry.path[-1]))
                here = self._contents_of(place, folder)
                if here.take(clean, entry.size, entry.modified):
                    report.present += 1
                    continue
                source = entry.source()
            except GatewayError as error:
                report.note(_problem(entry.path, error), failed=True)
            except OSError as error:
                report.note(_unreadable(entry.path, error), failed=True)
            else:
                yield _Job(entry.path, folder, entry.size, entry.modified, source, here.alike(clean, entry.size))

    def _folder(self, path: tuple[str, ...], report: TransferReport) -> int | GatewayError | None:
        """The folder for a path, made if it is not there; None: the root, or one that a dry run does not make."""
        if path in self._paths:
            return self._paths[path]
        parent = self._folder(path[:-1], report)
        made: int | GatewayError | None
        if isinstance(parent, GatewayError):
            made = parent
        else:
            try:
                made = self._found_or_made(path, parent, report)
            except Unavailable:
                raise
            except GatewayError as error:
                report.note(_problem(path, error), failed=True)
                made = error
        self._paths[path] = made
        return made

    def _found_or_made(self, path: tuple[str, ...], parent: int | None, report: TransferReport) -> int | None:
        name = names.clean_name(_plain(path[-1]))
        key = parent, names.name_key(name)
        new = parent is None and path[:-1] != ()  # a dry run has not made the parent
        if not new and key in self._known:
            return self._known[key]
        report.folders += 1
        if report.dry_run:
            return None
        try:
            self._known[key] = self._folders.create(self._principal, name, parent_id=parent).id
        except NameConflict:  # somebody has made it meanwhile
            with self._db.connection() as tx:
                found = folders.tree(tx, FolderFilter(self._principal.owner_id))
            self._known |= {(folder.parent_id, names.name_key(folder.name)): folder.id for folder in found}
        return self._known[key]

    def _contents_of(self, place: tuple[str, ...], folder_id: int | None) -> Contents:
        if self._contents is None or self._contents[0] != place:
            new = folder_id is None and place != ()  # in a dry run
            self._contents = place, Contents([] if new else self._files_in(folder_id))
        return self._contents[1]

    def _files_in(self, folder_id: int | None) -> list[NamedFile]:
        with self._db.connection() as tx:
            return files.in_folder(tx, self._principal.owner_id, folder_id)

    def _dry_run(self, job: _Job, report: TransferReport) -> None:
        try:
            self._intake.policy.check_declared(self._principal, _plain(job.path[-1]), size=job.size, claimed_type=None)
            if self._is_alike(job):
                report.present += 1
                return
        except GatewayError as error:
            report.note(_problem(job.path, error), failed=True)
            return
        finally:
            job.source.close()
        report.files += 1
        report.bytes += job.size

    # -- one file, in a thread -------------------------------------------------------------------------------------------

    def _import(self, job: _Job) -> tuple[_Job, Problem | None]:
        """The problem, if there is one; ``present`` if the file is there. Raises what ends the import."""
        try:
            return job, again(partial(self._attempt, job, count()), self._stopping)
        except (Unavailable, StorageFull, StorageUnavailable):
            raise
        except GatewayError as error:
            return job, _problem(job.path, error)
        except OSError as error:
            return job, _unreadable(job.path, error)
        except StorageError as error:
            return job, Problem(_shown(job.path), "unreadable", str(error))
        finally:
            job.source.close()

    def _attempt(self, job: _Job, attempts: Iterator[int]) -> Problem | None:
        if next(attempts):
            job = self._looked_up(job)
        return Problem("", "present", "") if self._is_alike(job) else self._upload(job)

    def _looked_up(self, job: _Job) -> _Job:
        """With what is in the folder now: the file may have been published though no answer came."""
        here, clean = Contents(self._files_in(job.folder_id)), names.clean_name(_plain(job.path[-1]))
        return job._replace(alike=here.alike(clean, job.size))

    def _is_alike(self, job: _Job) -> bool:
        """Whether a file that differs at most in its time has the same bytes."""
        known = {file.file_hash for file in job.alike}
        if not known:
            return False
        with job.source.open() as raw:
            hashed = Hashed(Stoppable(raw, self._stopping))
            hashed.read_to_end()
        return hashed.sha256 in known

    def _upload(self, job: _Job) -> Problem | None:
        placement = Placement(folder_id=job.folder_id, visibility=self._visibility)
        with job.source.open() as raw, self._intake.batch(self._principal, protocol="raw") as batch:
            batch.receive(
                name=_plain(job.path[-1]),
                claimed_type=None,
                stream=Stoppable(raw, self._stopping),
                size=job.size,
                placement=placement,
                uploaded_at=job.modified,
            )
            refused = batch.rejected or batch.commit(placement).rejected
        return _problem(job.path, refused[0].error) if refused else None


class Contents:
    """The files in a folder, of which each stands for one file that is to be there."""

    def __init__(self, found: Iterable[NamedFile]):
        self._by_size: dict[int, list[NamedFile]] = defaultdict(list)
        for file in found:
            self._by_size[file.file_size].append(file)

    def take(self, name: str, size: int, modified: datetime) -> bool:
        """Whether there is one of this name, size and time; it is not found again."""
        same_time = [file for file in self._by_size.get(size, ()) if file.uploaded_at == modified]
        for is_same in (_same_name, _numbered_name):
            for file in same_time:
                if is_same(name, file.original_name):
                    self._by_size[size].remove(file)
                    return True
        return False

    def alike(self, name: str, size: int) -> list[NamedFile]:
        """Those of this name, or the same with a number, and size."""
        found = self._by_size.get(size, ())
        return [
            file for file in found if _same_name(name, file.original_name) or _numbered_name(name, file.original_name)
        ]


def _same_name(name: str, other: str) -> bool:
    return names.name_key(name) == names.name_key(other)


def _numbered_name(name: str, other: str) -> bool:
    return any(_same_name(names.numbered(name, int(n)), other) for n in _NUMBER.findall(other))


def _plain(name: str) -> str:
    """A backslash separates no folders here, as it does in names that browsers send."""
    return name.replace("\\", "_")


def _shown(path: tuple[str, ...]) -> str:
    return "/".join(path).encode("utf-8", "backslashreplace").decode()


def _problem(path: tuple[str, ...], error: GatewayError) -> Problem:
    return Problem(_shown(path), error.code, error.detail)


def _unreadable(path: tuple[str, ...], error: OSError) -> Problem:
    return Problem(_shown(path), "unreadable", error.strerror or str(error))
