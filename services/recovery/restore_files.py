"""Brings single files back from a backup into the living deployment, as new files of their owner, through the gate of
uploads.

The rows come from the snapshot's dump, read as a stream. What was infected, rejected, unfinished or in the trash then is left
out; a file that is still there is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from core.errors import ContentMissing, GatewayError, NotFound
from core.placement import Placement
from core.principal import Principal
from db import Database, dump, files, folders
from db.folders import FolderFilter
from services.library.folders import Folders
from services.recovery.repository import BlobMissing, Repository, Snapshot
from services.recovery.restore import pieces
from services.uploads.intake import Intake


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file by its id, or a folder with all below it, by its id then or its path (``/a/b``)."""

    owner_id: str | None = None  # None: of the file or folder with this id
    file_id: UUID | None = None
    folder: str | None = None


class OldFile(NamedTuple):
    """A file as the snapshot has it."""

    id: UUID
    owner_id: str
    name: str
    sha256: str
    size: int  # bytes
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    path: tuple[str, ...]  # names of its folders


@dataclass(slots=True)
class FilesReport:
    """What was brought back, or would be (``dry_run``)."""

    snapshot: str
    dry_run: bool
    restored: list[dict[str, str]] = field(default_factory=list)
    still_there: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class FileRestore:
    """Restores files of one owner."""

    def __init__(self, db: Database, intake: Intake, library: Folders, repository: Repository):
        self._db = db
        self._intake = intake
        self._folders = library
        self._repository = repository

    def run(
        self,
        snapshot: Snapshot,
        wanted: Wanted,
        *,
        into: int | None = None,
        dry_run: bool = False,
        advance: Callable[[int], object] = lambda done: None,
    ) -> FilesReport:
        """Bring the files back under the folders that they were in, which are made if they are missing, or those under the
        folder ``into``. All are private; a name that is taken gets a number. Raises NotFound if the snapshot has none of
        them, and what reading it raises."""
        report, found = FilesReport(snapshot.id, dry_run), False
        for old in self._find(snapshot, wanted):
            found = True
            line = {"id": str(old.id), "path": "/" + "/".join((*old.path, old.name))}
            try:
                if self._is_there(old):
                    report.still_there.append(line)
                    continue
                if not dry_run:
                    line["new_id"] = str(self._restore(old, into))
                report.restored.append(line)
            except (GatewayError, BlobMissing) as error:
                report.failed.append(line | {"problem": str(error)})
            advance(1)
        if not found:
            raise NotFound(f"Snapshot {snapshot.id} has no such file.")
        return report

    def _find(self, snapshot: Snapshot, wanted: Wanted) -> Iterator[OldFile]:
        tree: dict[str, tuple[str, str | None]] = {}  # id: name, parent
        with self._repository.open_database(snapshot.id) as reader:
            for table, row in dump.records(pieces(reader), {"folders", "files"}):
                if table == "folders":
                    tree[str(row["id"])] = (str(row["name"]), row["parent_id"])
                    continue
                ids = _above(tree, row["folder_id"])
                names = tuple(tree[each][0] for each in ids)
                if _is_wanted(row, wanted, ids, names):
                    yield _old_file(row, names)

    def _is_there(self, old: OldFile) -> bool:
        with self._db.connection() as tx:
            file = files.get(tx, old.id)
        return file is not None and not file.is_deleted and file.file_hash == old.sha256 and file.in_bucket

    def _restore(self, old: OldFile, into: int | None) -> UUID:
        owner = Principal(old.owner_id)
        folder_id = self._folder(owner, old.path, into)
        with self._repository.open(old.sha256) as reader, self._intake.batch(owner, protocol="raw") as batch:
            batch.receive(name=old.name, claimed_type=None, stream=reader, size=old.size, sha256=old.sha256)
            outcome = batch.commit(Placement(folder_id, tags=old.tags, metadata=old.metadata.get("custom", {})))
        for refused in outcome.rejected:
            raise refused.error
        if not outcome.files:
            raise ContentMissing()
        return outcome.files[0].id

    def _folder(self, owner: Principal, path: tuple[str, ...], into: int | None) -> int | None:
        parent = into
        for name in path:
            with self._db.connection() as tx:
                known = folders.tree(tx, FolderFilter(owner.owner_id))
            found = next((each.id for each in known if (each.parent_id, each.name) == (parent, name)), None)
            parent = found or self._folders.create(owner, name, parent_id=parent).id
        return parent


def _above(tree: dict[str, tuple[str, str | None]], folder_id: str | None) -> list[str]:
    """The ids of a folder and those above it, from the root."""
    ids: list[str] = []
    while folder_id is not None:
        ids.insert(0, folder_id)
        folder_id = tree[folder_id][1]
    return ids


def _is_wanted(row: dict[str, str | None], wanted: Wanted, ids: list[str], names: tuple[str, ...]) -> bool:
    if row["status"] != "ready" or row["file_hash"] is None or wanted.owner_id not in (None, row["owner_id"]):
        return False
    if wanted.file_id is not None:
        return row["id"] == str(wanted.file_id)
    folder = wanted.folder or ""
    if row["is_deleted"] == "t":
        return False
    if folder.startswith("/"):
        path = tuple(name for name in folder.split("/") if name)
        return names[: len(path)] == path
    return folder in ids


def _old_file(row: dict[str, str | None], names: tuple[str, ...]) -> OldFile:
    return OldFile(
        id=UUID(row["id"]),
        owner_id=str(row["owner_id"]),
        name=str(row["original_name"]),
        sha256=str(row["file_hash"]),
        size=int(row["file_size"] or 0),
        tags=tuple(dump.text_array(row["tags"] or "{}")),
        metadata=orjson.loads(row["metadata"] or "{}"),
        path=names,
    )
