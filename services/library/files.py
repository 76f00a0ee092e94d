"""Files: read, list, change, move, copy, trash, restore, purge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal
from uuid import UUID

from core import names
from core.cursors import Cursors, Page
from core.errors import (
    ContentMissing,
    FileArchived,
    FileInTrash,
    FileNotReady,
    GatewayError,
    InvalidCursor,
    InvalidInput,
    NameConflict,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
)
from core.placement import Visibility
from core.principal import Principal, Quota
from core.ranges import ByteRange, etag_matches
from core.unset import UNSET, Unset, value_or_none
from db import Database, Tx, events, file_lists, files, folders, objects, previews, quotas
from db import errors as db_errors
from db.file_lists import FileFilter
from db.records import EventRecord, FileDetailsRecord, FileRecord, FileView, PreviewRecord, ReadingKey
from services.access import idempotency
from services.access.concurrency import ConcurrencyLimit
from services.access.idempotency import Claim
from services.access.quotas import remember_claim
from services.access.visibility import check_target, listed, may_change, owned, owner_scope, visible
from services.library import public_copies, readings
from services.library.archive import Archive
from services.library.sniff import HEAD_BYTES
from services.library.tags import check_tags
from services.library.type_policy import TypePolicy
from services.objects.bucket import bucket_errors, purge_object
from services.objects.object_reader import Altered, Damaged, ObjectReader
from storage_backends.base import ObjectNotFound, ObjectStore

BatchAction = Literal["delete", "restore", "move", "tag", "purge", "archive"]
MAX_TAGS = 50
_PIECE = 1024 * 1024  # bytes read at a time


def with_previews(tx: Tx, records: Sequence[FileRecord]) -> list[FileView]:
    """Files with their previews, by one statement; by none if there are no files."""
    keys = sorted({record.file_path for record in records})
    return views(records, previews.of_objects(tx, keys) if keys else ())


def views(records: Sequence[FileRecord], found: Iterable[PreviewRecord]) -> list[FileView]:
    """Files, each with its own of these previews."""
    of: dict[ReadingKey, list[PreviewRecord]] = {record.reading: [] for record in records}
    for preview in found:
        of.get(preview.reading, []).append(preview)
    return [FileView(record, of[record.reading]) for record in records]


def record_file(tx: Tx, once: Claim | None, file: FileRecord) -> None:
    """Record that a request made this file, with its previews."""
    if once is not None:
        idempotency.record(tx, once, *with_previews(tx, [file]))


@dataclass(frozen=True, slots=True)
class FilePage(Page[FileRecord]):
    """A page of files, and the same with their previews."""

    views: Sequence[FileView] = ()


@dataclass(frozen=True, slots=True)
class FileQuery:
    """The parameters of ``GET /api/files``. Dates are a half-open interval."""

    file_type: str | None = None  # a family, a MIME type, or image/*
    folder: int | Literal["root"] | None = None
    recursive: bool = False
    date_from: datetime | None = None
    date_to: datetime | None = None
    min_size: int | None = None
    max_size: int | None = None
    tag: str | None = None
    status: str | None = None
    storage_class: str | None = None
    deleted: bool = False
    sort: str = "-uploaded_at"
    owner: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class FileChange:
    """What to change of a file."""

    original_name: str | Unset = UNSET
    visibility: Visibility | Unset = UNSET
    tags: Sequence[str] | Unset = UNSET
    expires_at: datetime | Unset | None = UNSET
    keep_location: bool | Unset = UNSET


def etag(file: FileRecord) -> str:
    """The ETag of the metadata. It changes with edits and with the status, not with counts."""
    return f'"{file.version}-{file.status}"'


class Files:
    """Reads and changes files."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        reader: ObjectReader,
        types: TypePolicy,
        archive: Archive,
        verify_limit: ConcurrencyLimit,
        *,
        quota: Quota,
        cursors: Cursors,
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self._types = types
        self._archive = archive
        self._quota = quota  # the deployment's
        self._cursors = cursors
        self._verify_limit = verify_limit

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal | None, file_id: UUID) -> FileRecord:
        """A file. Raises NotFound, NotAuthenticated."""
        with self._db.connection() as tx:
            return visible(principal, files.get(tx, file_id))

    def view(self, record: FileRecord) -> FileView:
        """A file with its previews."""
        with self._db.connection() as tx:
            return with_previews(tx, [record])[0]

    def details(self, principal: Principal | None, file_id: UUID, *, verify: bool = False) -> FileDetailsRecord:
        """The file with its previews, newest events and counters. ``verify`` reads and checks the bytes, if the caller may change
        the file. Raises NotFound, NotAuthenticated."""
        found = self._details(principal, file_id)
        if verify and principal is not None and may_change(principal, found.file.owner_id, found.file.folder_id):
            with self._verify_limit.slot(principal.owner_id):
                self._verify(principal, found.file)
            found = self._details(principal, file_id)
        return found

    def _details(self, principal: Principal | None, file_id: UUID) -> FileDetailsRecord:
        with self._db.connection() as tx:
            found = files.details(tx, file_id)
        visible(principal, None if found is None else found.file)
        assert found is not None
        return found

    def _verify(self, principal: Principal, file: FileRecord) -> None:
        """Read and check the bytes, whatever their ETag: a restored bucket may give the same bytes another one."""
        digest, size = hashlib.sha256(), 0
        state: str | None = None
        try:
            file = self._reader.with_current_etag(file)
            with self._reader.open(file) as reader:
                while chunk := reader.read(_PIECE):
                    digest.update(chunk)
                    size += len(chunk)
            found = True
            if file.file_hash is not None:
                state = "verified" if (digest.hexdigest(), size) == (file.file_hash, file.file_size) else "mismatch"
        except FileArchived:  # it is there, and can't be read before a thaw
            found = True
        except (Altered, Damaged):
            found, state = True, "mismatch"
        except ObjectNotFound:
            found = False
        with self._db.transaction() as tx:
            etag = file.etag if state == "verified" else None
            objects.record_check(tx, file.file_path, in_bucket=found, checksum_state=state, etag=etag)
            events.record(tx, "verified", owner_id=file.owner_id, file_id=file.id)

    def history(self, principal: Principal, file_id: UUID, *, limit: int, cursor: str | None) -> Page[EventRecord]:
        """A page of the file's events, newest first. Raises NotFound, InvalidCursor."""
        scope = f"history:{file_id}"
        before = self._cursors.after(cursor, int, scope=scope)
        with self._db.connection() as tx:
            owned(principal, files.get(tx, file_id))
            found = events.of_file(tx, file_id, before=before, limit=limit + 1)
        return self._cursors.page(found, lambda event: event.id, limit=limit, scope=scope)

    def list(self, principal: Principal, query: FileQuery) -> FilePage:
        """A page of files. Totals above 10,000 are known only without filters. Raises NotAllowed, NotFound for a folder,
        InvalidInput, InvalidCursor."""
        owner = owner_scope(principal, query.owner)
        folder, recursive = listed(principal, query.folder, recursive=query.recursive)
        wanted = FileFilter(
            owner_id=owner,
            file_type=query.file_type,
            folder_id=folder if isinstance(folder, int) else None,
            in_root=folder == "root",
            recursive=recursive,
            date_from=query.date_from,
            date_to=query.date_to,
            min_size=query.min_size,
            max_size=query.max_size,
            tag=query.tag,
            status=query.status,
            storage_class=query.storage_class,
            deleted=query.deleted,
        )
        scope = f"files:{principal.owner_id}:{query.sort}:{[getattr(wanted, f.name) for f in fields(wanted)]}"
        after = self._cursors.open(query.cursor, scope=scope) if query.cursor else None
        uncounted = after is not None and after[2:] == [None]  # the page before had no total
        if after is not None and len(after) - uncounted != 2:
            raise InvalidCursor()
        with self._db.connection() as tx:
            total = None if uncounted else file_lists.total(tx, wanted)
            views, position = file_lists.page(
                tx, wanted, sort=query.sort, after=after, limit=query.limit, expected=total
            )
            if not views and isinstance(query.folder, int):
                check_folder(tx, principal, query.folder)
        cursor = None
        if position is not None:
            cursor = self._cursors.sign(position + ([None] if total is None else []), scope=scope)
        return FilePage([view.file for view in views], cursor, total, views)

    # -- changing ------------------------------------------------------------------------------------------------------

    def update(self, principal: Principal, file_id: UUID, change: FileChange, *, if_match: str | None) -> FileRecord:
        """Change name, visibility, tags, expiry, or whether the public sees a picture's location.

        Raises NameConflict, TypeMismatch, TypeNotAllowed, PreconditionFailed, NotFound."""
        name = None if isinstance(change.original_name, Unset) else names.clean_name(change.original_name)
        tags = None if isinstance(change.tags, Unset) else clean_tags(change.tags)
        visibility, keep_location = value_or_none(change.visibility), value_or_none(change.keep_location)
        renamed = name is not None
        while True:
            judged, mime_type = None, None
            if name is not None or tags:
                judged = owned(principal, self.get(principal, file_id))
                mime_type = None if name is None else self._type_as(judged, name)
                check_tags(self._db, judged.owner_id, tags or ())
            with self._changing(principal, file_id, if_match, names=renamed, object_too=renamed) as (tx, before):
                if judged and not _same_type(judged, before):
                    continue  # renamed meanwhile
                file = _still(
                    files.update(
                        tx,
                        file_id,
                        original_name=name,
                        mime_type=mime_type,
                        visibility=visibility,
                        keep_location=keep_location,
                        tags=tags,
                        expires_at=value_or_none(change.expires_at),
                        set_expires=not isinstance(change.expires_at, Unset),
                    )
                )
                if file.read_as != before.read_as:
                    readings.leave(tx, before)
                    readings.begin(tx, file)
                if visibility is not None or keep_location is not None or mime_type is not None:
                    public_copies.begin(tx, file)
                return file

    def _type_as(self, file: FileRecord, name: str) -> str | None:
        """The type of the file under another name, detected from its bytes; None if it stays the same. Raises TypeMismatch,
        TypeNotAllowed, but not for a name that keeps the extension."""
        if names.extension(name) == names.extension(file.original_name):
            return None
        owner = Principal(file.owner_id)
        self._types.check_name(owner, name, claimed_type=None)
        head = b""
        try:
            if file.file_size:
                span = ByteRange(0, min(HEAD_BYTES, file.file_size) - 1)
                with bucket_errors(), self._reader.open(file, span) as reader:
                    while piece := reader.read(HEAD_BYTES):
                        head += piece
        except ContentMissing:  # there are no bytes to detect the type of, nor to download
            return None
        mime_type = self._types.judge(owner, name, head)
        return None if mime_type == file.mime_type else mime_type

    def move(
        self, principal: Principal, file_id: UUID, target_folder_id: int | None, *, if_match: str | None
    ) -> FileRecord:
        """Move a file to a folder, or to the root. Raises NameConflict, NotFound, PreconditionFailed."""
        check_target(principal, target_folder_id)
        with self._changing(principal, file_id, if_match, names=True, folder_id=target_folder_id) as (tx, _):
            return _still(files.update(tx, file_id, action="moved", folder_id=target_folder_id, set_folder=True))

    def copy(
        self,
        principal: Principal,
        file_id: UUID,
        *,
        target_folder_id: int | Unset | None = UNSET,
        original_name: str | None = None,
        once: Claim | None = None,
    ) -> FileRecord:
        """A new file on the same object, by default in the same folder. Its name gets a number if it is taken.

        Raises NotFound, FileNotReady, QuotaExceeded, TypeMismatch, TypeNotAllowed, ContentMissing."""
        name = None if original_name is None else names.clean_name(original_name)
        while True:
            source = owned(principal, self.get(principal, file_id))
            if source.status == "ready":
                try:
                    self._reader.confirm(source)
                except ContentMissing:
                    self.get(principal, file_id)  # NotFound if it was purged since
                    raise
            mime_type = None if name is None else self._type_as(source, name)
            if principal.owner_id == source.owner_id:
                remember_claim(self._db, principal)
            with self._naming() as tx:
                file = owned(principal, files.get(tx, file_id))
                if file.status != "ready":
                    raise FileNotReady()
                folder_id = file.folder_id if isinstance(target_folder_id, Unset) else target_folder_id
                check_target(principal, folder_id)
                files.lock_names(tx, file.owner_id, folder_id)
                key = objects.lock_by_file(tx, file_id, share=True)  # for which a rename waits
                if key is None:
                    raise NotFound("There is no such file.")
                file = _still(files.get(tx, file_id))
                if not _same_type(source, file):
                    continue  # renamed meanwhile
                copied = _still(
                    files.copy(
                        tx,
                        file,
                        object_key=key,
                        folder_id=folder_id,
                        original_name=name or file.original_name,
                        mime_type=mime_type,
                    )
                )
                if not quotas.kept(tx, file.owner_id, self._quota):
                    raise QuotaExceeded()
                readings.begin(tx, copied)
                record_file(tx, once, copied)
                return copied

    def trash(self, principal: Principal, file_id: UUID, *, if_match: str | None = None) -> FileRecord:
        """Move a file to the trash, if it is not there. Raises NotFound, PreconditionFailed."""
        with self._changing(principal, file_id, if_match) as (tx, file):
            return files.trash(tx, file_id) or file

    def restore(self, principal: Principal, file_id: UUID) -> FileRecord:
        """Restore a file from the trash, if it is there. Its name gets a number if it is taken. Raises NotFound."""
        with self._naming() as tx:
            file = owned(principal, files.get(tx, file_id))
            files.lock_names(tx, file.owner_id, file.folder_id)
            restored = files.restore(tx, file)
            return restored or _still(files.get(tx, file_id))

    def take_back(self, principal: Principal, file_id: UUID, *, now: bool = True) -> tuple[FileRecord, bool]:
        """Restore a file from the trash, or else bring it back from the archive. Whether that takes longer than this call, which
        is ``now`` to do what is quick. Raises NotFound."""
        file = owned(principal, self.get(principal, file_id))
        if file.is_deleted or file.storage_class != "archived":
            return self.restore(principal, file_id), False
        self._archive.request_now(file, action="unarchive_requested")
        if now:
            self._archive.bring_back_small(file)
        file = owned(principal, self.get(principal, file_id))
        return file, file.storage_class == "archived"

    def archive(self, principal: Principal, file_id: UUID) -> None:
        """Let a job archive a ready file, with its equals. Raises NotFound, FileInTrash, FileNotReady."""
        with self._db.transaction() as tx:
            file = owned(principal, files.get(tx, file_id))
            if file.is_deleted:
                raise FileInTrash()
            if file.status != "ready":
                raise FileNotReady()
            if file.storage_class == "standard":
                self._archive.enqueue(tx, file.id, file.owner_id, file.file_path)
                events.record(tx, "archive_requested", owner_id=file.owner_id, file_id=file.id)

    def purge(self, principal: Principal, file_id: UUID, *, if_match: str | None = None) -> None:
        """Delete a file, and what no other file shares of object and previews. Raises NotFound, PreconditionFailed."""

        def check(file: FileRecord | None) -> FileRecord:
            file = owned(principal, file)
            _check_match(file, if_match)
            return file

        self.purge_checked(file_id, check)

    def purge_checked(self, file_id: UUID, check: Callable[[FileRecord | None], FileRecord]) -> None:
        """Purge a file. ``check`` gets it locked, or None, and raises an error if it is not to be purged."""
        with self._db.transaction() as tx:
            key = objects.lock_by_file(tx, file_id)
            file = check(files.lock(tx, file_id))
            files.remove(tx, file_id)
            last = key is not None and objects.mark_purging(tx, key)
            if not last:
                readings.leave(tx, file)
        if last and key is not None:
            purge_object(self._db, self._store, key)

    def batch(
        self,
        principal: Principal,
        action: BatchAction,
        ids: Sequence[str],
        *,
        target_folder_id: int | None = None,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
    ) -> Sequence[tuple[str, GatewayError | None]]:
        """Apply an action to many files, each in its own transaction; a failure does not stop the others."""
        steps: dict[BatchAction, Callable[[UUID], object]] = {
            "delete": lambda file_id: self.trash(principal, file_id),
            "restore": lambda file_id: self.take_back(principal, file_id, now=False),
            "move": lambda file_id: self.move(principal, file_id, target_folder_id, if_match=None),
            "tag": lambda file_id: self._retag(principal, file_id, add, remove),
            "purge": lambda file_id: self.purge(principal, file_id),
            "archive": lambda file_id: self.archive(principal, file_id),
        }
        results: list[tuple[str, GatewayError | None]] = []
        for text in ids:
            try:
                steps[action](parse_id(text))
                results.append((text, None))
            except GatewayError as error:
                results.append((text, error))
        return results

    def _retag(self, principal: Principal, file_id: UUID, add: Sequence[str], remove: Sequence[str]) -> FileRecord:
        dropped = set(clean_tags(remove))
        if add:
            check_tags(self._db, owned(principal, self.get(principal, file_id)).owner_id, clean_tags(add))
        with self._changing(principal, file_id, None) as (tx, file):
            tags = clean_tags([*(tag for tag in file.tags if tag not in dropped), *add])
            return _still(files.update(tx, file_id, tags=tags))

    @contextmanager
    def _naming(self) -> Iterator[Tx]:
        """A transaction that raises a violated constraint as NameConflict or NotFound."""
        try:
            with self._db.transaction() as tx:
                yield tx
        except db_errors.UniqueViolation as error:
            raise NameConflict() from error
        except db_errors.ForeignKeyViolation as error:
            raise NotFound("There is no such folder.") from error

    @contextmanager
    def _changing(
        self,
        principal: Principal,
        file_id: UUID,
        if_match: str | None,
        *,
        names: bool = False,
        folder_id: int | Unset | None = UNSET,
        object_too: bool = False,
    ) -> Iterator[tuple[Tx, FileRecord]]:
        """A transaction with the file locked, after ownership and If-Match were checked. ``names`` first locks the names in
        ``folder_id``, by default the file's folder; ``object_too`` also locks its object."""
        with self._naming() as tx:
            if names:
                before = owned(principal, files.get(tx, file_id))
                files.lock_names(tx, before.owner_id, before.folder_id if isinstance(folder_id, Unset) else folder_id)
            if object_too:
                objects.lock_by_file(tx, file_id)
            file = owned(principal, files.lock(tx, file_id))
            _check_match(file, if_match)
            yield tx, file


def check_folder(tx: Tx, principal: Principal, folder_id: int) -> None:
    """Raises NotFound for a folder of which the caller has nothing to see. A list asks only when it is empty (T64)."""
    owner_id = folders.owner_of(tx, folder_id)
    if owner_id is None or not may_change(principal, owner_id, folder_id):
        raise NotFound("There is no such folder.")


def parse_id(text: str) -> UUID:
    """A file id from a client. Raises NotFound if it is no UUID."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("There is no such file.") from None


def clean_tags(tags: Sequence[str]) -> list[str]:
    """Tags trimmed and without repeats, in order. Raises InvalidInput if one is empty, too long or not printable."""
    clean = list(dict.fromkeys(tag.strip() for tag in tags))
    if len(clean) > MAX_TAGS or not all(1 <= len(tag) <= 100 and tag.isprintable() and "," not in tag for tag in clean):
        raise InvalidInput(
            "A file has at most 50 tags, each of 1 to 100 printable characters without commas.",
            errors=[{"field": "tags", "message": "not valid"}],
        )
    return clean


def _same_type(judged: FileRecord, locked: FileRecord) -> bool:
    """Whether what the rules said of the one holds for the other: the file was not renamed to another type in between."""
    one, other = ((names.extension(file.original_name), file.mime_type) for file in (judged, locked))
    return one == other


def _check_match(file: FileRecord, if_match: str | None) -> None:
    if if_match is not None and not etag_matches(if_match, etag(file), weak=False):
        raise PreconditionFailed()


def _still(record: FileRecord | None) -> FileRecord:
    if record is None:
        raise NotFound("There is no such file.")
    return record
