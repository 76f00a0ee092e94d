"""Admit: what is judged of an upload, before a byte moves and while bytes arrive, for every way in.

Name, size, type, quota, the budget of an upload token, the number of unfinished uploads: each rule stands here and nowhere
else, so that no way in is a way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from core.errors import FileTooLarge, LimitReached, NotAllowed, NotFound, QuotaExceeded
from core.placement import Placement
from core.principal import Principal
from db import Database, Tx, uploads
from db import errors as db_errors
from db.records import UploadRecord
from db.uploads import NewUpload
from services.access import idempotency
from services.access.idempotency import Claim
from services.library.type_policy import TypePolicy


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    max_file_size: int  # bytes
    quota_bytes: int | None  # bytes for each owner
    max_open_uploads: int  # for each owner


class UploadPolicy:
    def __init__(self, db: Database, types: TypePolicy, limits: PolicyLimits):
        self._db = db
        self.types = types
        self._limits = limits

    def check_declared(self, principal: Principal, name: str, *, size: int | None, claimed_type: str | None) -> str:
        """Judge what is known before a byte moves; the cleaned name. Raises InvalidName, FileTooLarge, TypeNotAllowed."""
        clean = self.types.check_name(principal, name, claimed_type=claimed_type)
        self.check_size(principal, size or 0)
        return clean

    def check_size(self, principal: Principal, size: int) -> None:
        limit = self.max_size(principal)
        if size > limit:
            raise FileTooLarge(f"A file may have at most {limit} bytes.")

    def max_size(self, principal: Principal) -> int:
        """Bytes that one file of this caller may have: the deployment's limit, or the upload token's where that is lower."""
        budget = principal.budget
        return min(
            self._limits.max_file_size,
            budget.max_size if budget and budget.max_size is not None else self._limits.max_file_size,
        )

    def place(self, principal: Principal, placement: Placement) -> Placement:
        """Where the files go, and who sees them. An upload token that names a folder puts them there and nowhere else, and once
        that is deleted into the root, private. Raises NotFound, and NotAllowed for what would show more than its maker allowed
        or tell what the owner has."""
        budget = principal.budget
        if budget is None:
            return placement
        if placement.on_duplicate != "link":
            raise NotAllowed("An upload token uploads with on_duplicate=link only.")
        if placement.visibility == "public" and budget.visibility == "private":
            raise NotAllowed("This upload token publishes nothing.")
        if budget.folder_id is None:
            return placement
        if placement.folder_id not in (None, budget.folder_id):
            raise NotFound("There is no such folder.")
        if budget.folder_gone:
            return replace(placement, folder_id=None, visibility="private")
        return replace(placement, folder_id=budget.folder_id)

    def admit(
        self,
        principal: Principal,
        new: NewUpload,
        *,
        once: Claim | None = None,
        also: Callable[[Tx, UploadRecord], None] | None = None,
    ) -> UploadRecord:
        """Commit the upload's row, with what ``also`` adds, and hold its quota; ``once`` records its id. Raises
        QuotaExceeded, LimitReached, or NotFound for the folder; then nothing is held."""
        budget = principal.budget
        if budget is not None:
            new = replace(new, token_id=budget.token_id)
        limits, upload = self._limits, None
        try:
            with self._db.transaction() as tx:
                upload = uploads.admit(tx, new, quota_bytes=limits.quota_bytes, max_open=limits.max_open_uploads)
                if upload is None:
                    raise db_errors.Rollback
                if also is not None:
                    also(tx, upload)
                idempotency.record(tx, once, upload.id)
        except db_errors.ForeignKeyViolation:
            now = without_folder(principal, new.placement.folder_id)
            return self.admit(now, replace(new, placement=self.place(now, new.placement)), once=once, also=also)
        if upload is not None:
            return upload
        with self._db.connection() as tx:
            reason = uploads.refusal(tx, new, quota_bytes=limits.quota_bytes)
        if reason == "quota":
            raise QuotaExceeded()
        if reason == "budget":
            raise QuotaExceeded("The upload token's budget does not leave room for this.")
        raise LimitReached(f"At most {limits.max_open_uploads} uploads may be unfinished at a time.")

    def room(self, upload: UploadRecord) -> int | None:
        """Bytes that quota and upload token leave for an upload that holds none, at the moment; None: no limit."""
        with self._db.connection() as tx:
            return uploads.room(tx, upload.owner_id, upload.token_id, quota_bytes=self._limits.quota_bytes)

    def extend(self, upload: UploadRecord, reserve: int, *, expires_in: timedelta) -> bool:
        """Hold ``reserve`` bytes of quota in all and live longer; False where quota or budget do not allow it, or the upload
        is over."""
        with self._db.transaction() as tx:
            held = uploads.extend(
                tx, upload.id, reserve=reserve, expires_in=expires_in, quota_bytes=self._limits.quota_bytes
            )
            if not held:
                raise db_errors.Rollback
        return held


def without_folder(principal: Principal, folder_id: int | None) -> Principal:
    """The caller, whose upload token's folder was deleted a moment ago. Raises NotFound where there never was such a folder."""
    budget = principal.budget
    if budget is None or budget.folder_gone or folder_id is None or folder_id != budget.folder_id:
        raise NotFound("There is no such folder.")
    return replace(principal, budget=replace(budget, folder_gone=True))
