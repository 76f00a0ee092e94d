"""Folders: create, list, rename, move, delete. The database's constraints decide which trees are allowed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from core.cursors import Cursors, Page
from core.errors import (
    FolderCycle,
    FolderNotEmpty,
    FolderTooDeep,
    InvalidInput,
    LimitReached,
    NameConflict,
    NotAllowed,
    NotFound,
    Unavailable,
)
from core.names import clean_name
from core.principal import Principal
from core.unset import UNSET, Unset, value_or_none
from db import Database, Tx, events, folders
from db import errors as db_errors
from db.folders import FolderFilter
from db.records import FolderRecord
from services.access import idempotency
from services.access.idempotency import Claim
from services.access.visibility import check_target, may_change, owner_scope

MAX_FOLDERS = 10_000  # of one owner (T73)
MAX_DESCRIPTION = 4_000  # characters
_BATCH = 1_000  # files that one transaction moves to the trash
# Shorter than PostgreSQL's deadlock_timeout of a second, so that this transaction gives up before any other.
_LOCK_TIMEOUT = timedelta(milliseconds=300)
_ATTEMPTS = 30


class FolderNode(NamedTuple):
    """A folder and the folders directly in it."""

    folder: FolderRecord
    children: list[FolderNode]


@dataclass(frozen=True, slots=True)
class FolderChange:
    """What to change of a folder."""

    name: str | Unset = UNSET
    description: str | Unset = UNSET
    parent_id: int | Unset | None = UNSET  # None: to the root


class Folders:
    """Reads and changes folders."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, folder_id: int) -> FolderRecord:
        """A folder. Raises NotFound."""
        with self._db.connection() as tx:
            return _visible(principal, folders.get(tx, folder_id, top=principal.folder_id))

    def reached_by(self, principal: Principal) -> Principal:
        """The principal of a key that is limited to a folder, with the folders that it reaches now: none if its own was
        deleted."""
        assert principal.folder_id is not None
        with self._db.connection() as tx:
            return replace(principal, folders=frozenset(folders.paths_below(tx, principal.folder_id)))

    def tree(self, principal: Principal, owner: str | None = None) -> list[FolderNode]:
        """The folders in the root, each with all below, read by one statement. Raises NotAllowed."""
        wanted = _wanted(principal, owner)
        with self._db.connection() as tx:
            records = folders.tree(tx, wanted)
        children: dict[int | None, list[FolderNode]] = {None: []}
        for record in records:  # parents come before children
            node = FolderNode(record, [])
            children[record.id] = node.children
            children[record.parent_id].append(node)
        return children[None]

    def flat(
        self, principal: Principal, owner: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[FolderRecord]:
        """A page of all folders, oldest first. Raises NotAllowed, InvalidCursor."""
        wanted = _wanted(principal, owner)
        scope = f"folders:{principal.owner_id}:{[wanted.owner, wanted.top]}"
        after = self._cursors.after(cursor, int, scope=scope) or 0
        with self._db.connection() as tx:
            records = folders.page(tx, wanted, after=after, limit=limit + 1)
            total = folders.count(tx, wanted)
        return self._cursors.page(records, lambda folder: folder.id, limit=limit, scope=scope, total=total)

    # -- changing ------------------------------------------------------------------------------------------------------

    def create(
        self,
        principal: Principal,
        name: str,
        description: str = "",
        parent_id: int | None = None,
        once: Claim | None = None,
    ) -> FolderRecord:
        """A folder in the parent's tree; without a parent in the root, or in the folder that a key is limited to. Raises
        NameConflict, FolderTooDeep, LimitReached; NotFound for the parent."""
        name = clean_name(name)
        parent_id = principal.folder_id if parent_id is None else parent_id
        _check_description(description)
        with self._rules() as tx:
            owner_id = principal.owner_id if parent_id is None else _owner(tx, principal, parent_id)
            folders.lock_tree(tx, owner_id)
            if folders.count(tx, FolderFilter(owner_id)) >= MAX_FOLDERS:
                raise LimitReached(f"An owner can have at most {MAX_FOLDERS:,} folders.")
            made = folders.create(tx, owner_id, name=name, description=description, parent_id=parent_id)
            folder = folders.get(tx, made, top=principal.folder_id)
            assert folder is not None
            events.record(tx, "folder_created", owner_id=owner_id, target=made, details={"name": name})
            idempotency.record(tx, once, folder)
            return folder

    def update(self, principal: Principal, folder_id: int, change: FolderChange) -> FolderRecord:
        """Rename, describe or move a folder. Raises NameConflict, FolderCycle, FolderTooDeep, NotFound, NotAllowed."""
        _check_not_own(principal, folder_id)
        name = None if isinstance(change.name, Unset) else clean_name(change.name)
        description = value_or_none(change.description)
        _check_description(description or "")
        set_parent, parent_id = not isinstance(change.parent_id, Unset), value_or_none(change.parent_id)
        with self._rules() as tx:
            owner_id = _owner(tx, principal, folder_id)
            folders.lock_tree(tx, owner_id)
            if parent_id is not None:
                _owner(tx, principal, parent_id)
            elif set_parent:
                check_target(principal, None)
            folders.update(
                tx, folder_id, name=name, description=description, parent_id=parent_id, set_parent=set_parent
            )
            details: dict[str, Any] = {} if name is None else {"name": name}
            details |= {"parent_id": parent_id} if set_parent else {}
            events.record(tx, "folder_updated", owner_id=owner_id, target=folder_id, details=details)
            return _visible(principal, folders.get(tx, folder_id, top=principal.folder_id))

    def delete(self, principal: Principal, folder_id: int, *, recursive: bool = False) -> dict[str, int]:
        """Delete a folder; with ``recursive`` also all folders below, and their files go to the trash.

        Raises NotAllowed, and FolderNotEmpty unless only files in the trash are in it. A file that is moved to it at the same
        time goes to the trash with it or gets NotFound, one that is uploaded goes to the trash or to a folder above. Many files
        are moved in several transactions, and the last one deletes the folders; after an interruption it can be repeated.

        A move of a file locks the file before the folder, so a deadlock is possible. This waits briefly for each lock and then
        starts again, so that no other one has to give up."""
        _check_not_own(principal, folder_id)
        trashed = 0
        for attempt in range(_ATTEMPTS):
            with self._db.connection() as conn:
                try:
                    while True:
                        with conn.transaction():
                            folders.set_lock_timeout(conn, _LOCK_TIMEOUT)
                            owner_id = _owner(conn, principal, folder_id)
                            folders.lock_tree(conn, owner_id)
                            ids = folders.lock_below(conn, folder_id)
                            if not recursive and (len(ids) > 1 or folders.holds_files(conn, ids)):
                                raise FolderNotEmpty()
                            moved, new = folders.trash_inside(conn, ids, limit=_BATCH)
                            if moved < _BATCH:
                                removed = folders.remove(conn, folder_id, ids)
                                done = {"trashed_files": trashed + new, "deleted_folders": removed}
                                events.record(conn, "folder_deleted", owner_id=owner_id, target=folder_id, details=done)
                                return done
                        trashed += new
                except db_errors.LOCKED:
                    pass
            time.sleep(random.uniform(0.02, 0.05) * (1 + attempt))  # noqa: S311 spreads retries
        raise Unavailable("The folder is in use by too many requests; try again.")

    @contextmanager
    def _rules(self) -> Iterator[Tx]:
        """A transaction that raises a violated constraint as the gateway's error."""
        try:
            with self._db.transaction() as tx:
                yield tx
        except (db_errors.UniqueViolation, db_errors.CheckViolation) as error:
            match db_errors.constraint(error):
                case "folder_name_conflict":
                    raise NameConflict("A folder with this name exists, perhaps in different case.") from error
                case "folder_cycle":
                    raise FolderCycle() from error
                case "folder_too_deep":
                    raise FolderTooDeep() from error
            raise
        except db_errors.ForeignKeyViolation as error:
            raise _no_folder() from error


def _check_description(description: str) -> None:
    if len(description) > MAX_DESCRIPTION or "\0" in description:
        message = f"at most {MAX_DESCRIPTION} characters, none of them NUL"
        raise InvalidInput("The description is not valid.", errors=[{"field": "description", "message": message}])


def _wanted(principal: Principal, owner: str | None) -> FolderFilter:
    return FolderFilter(owner_scope(principal, owner), principal.reach, principal.folder_id)


def _check_not_own(principal: Principal, folder_id: int) -> None:
    """The folder that a key is limited to is itself a member of another one, which the key does not reach."""
    if folder_id == principal.folder_id:
        raise NotAllowed("A key can't change the folder that it is limited to, only what is in it.")


def _owner(tx: Tx, principal: Principal, folder_id: int) -> str:
    """The owner of the folder, if the caller may change it."""
    owner_id = folders.owner_of(tx, folder_id)
    if owner_id is None or not may_change(principal, owner_id, folder_id):
        raise _no_folder()
    return owner_id


def _visible(principal: Principal, folder: FolderRecord | None) -> FolderRecord:
    if folder is None or not may_change(principal, folder.owner_id, folder.id):
        raise _no_folder()
    return folder


def _no_folder() -> NotFound:
    return NotFound("There is no such folder.")
