"""Brings single files back from a backup into the living deployment, as new files of their owner, through the gate of
uploads.

The rows come from the snapshot's dump, read as a stream. What was infected, rejected, unfinished or in the trash then is left
out; a file that is still there, or was brought back before, is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from core.errors import ContentMissing, GatewayError, NotFound
from core.placement import Placement, Visibility
from core.principal import Principal
from db import Database, dump, files, folders, quotas
from db.folders import FolderFilter
from db.records import FileRecord
from services.library.folders import Folders
from services.recovery.importing import Contents
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
    uploaded_at: datetime
    visibility: Visibility  # private for one that was to expire, which it no longer does


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
        self._contents: dict[int | None, Contents] = {}  # of folders that there are
        self._known: dict[str, dict[tuple[int | None, str], int]] = {}  # folders of an owner by parent and name

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
        folder ``into``. They keep times, tags and visibility; what was to expire, or is in the trash as private, comes back
        private. A name that is taken gets a number. A repeated run goes on. Raises NotFound if the snapshot has none of
        them, and what reading it raises."""
        report, found = FilesReport(snapshot.id, dry_run), False
        self._contents, self._known = {}, {}
        for old in self._find(snapshot, wanted):
            found = True
            line = {"id": str(old.id), "path": "/" + "/".join((*old.path, old.name))}
            try:
                with self._db.connection() as tx:
                    row = files.get(tx, old.id)
                if self._is_there(old, row, into):
                    report.still_there.append(line)
                    continue
                if row is not None and row.visibility == "private":
                    old = old._replace(visibility="private")
                line["visibility"] = old.visibility
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

    def _is_there(self, old: OldFile, row: FileRecord | None, into: int | None) -> bool:
        folder_id = self._folder(old.owner_id, old.path, into)
        if folder_id is None and old.path:
            restored = False
        else:
            if folder_id not in self._contents:
                with self._db.connection() as tx:
                    self._contents[folder_id] = Contents(files.in_folder(tx, old.owner_id, folder_id))
            restored = self._contents[folder_id].take(old.name, old.size, old.uploaded_at)
        kept = row is not None and not row.is_deleted and row.file_hash == old.sha256 and row.in_bucket
        return kept or restored

    def _restore(self, old: OldFile, into: int | None) -> UUID:
        with self._db.connection() as tx:
            owner = Principal(old.owner_id, has_quota=quotas.has_own(tx, old.owner_id))
        folder_id = self._folder_made(owner, old.path, into)
        with self._repository.open(old.sha256) as reader, self._intake.batch(owner, protocol="raw") as batch:
            batch.receive(
                name=old.name,
                claimed_type=None,
                stream=reader,
                size=old.size,
                sha256=old.sha256,
                uploaded_at=old.uploaded_at,
            )
            custom = old.metadata.get("custom", {})
            outcome = batch.commit(Placement(folder_id, old.visibility, tags=old.tags, metadata=custom))
        for refused in outcome.rejected:
            raise refused.error
        if not outcome.files:
            raise ContentMissing()
        return outcome.files[0].id

    def _folder(self, owner_id: str, path: tuple[str, ...], into: int | None) -> int | None:
        """The folder of a path below ``into``; None: the root, or there is none."""
        if owner_id not in self._known:
            with self._db.connection() as tx:
                tree = folders.tree(tx, FolderFilter(owner_id))
            self._known[owner_id] = {(folder.parent_id, folder.name): folder.id for folder in tree}
        for name in path:
            if (into := self._known[owner_id].get((into, name))) is None:
                break
        return into

    def _folder_made(self, owner: Principal, path: tuple[str, ...], into: int | None) -> int | None:
        parent = into
        for name in path:
            found = self._folder(owner.owner_id, (name,), parent)
            if found is None:
                found = self._folders.create(owner, name, parent_id=parent).id
                self._known[owner.owner_id][parent, name] = found
            parent = found
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
        uploaded_at=datetime.fromisoformat(str(row["uploaded_at"])),
        visibility="public" if (row["visibility"], row["expires_at"]) == ("public", None) else "private",
    )
