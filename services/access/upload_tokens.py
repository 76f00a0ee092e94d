"""Upload tokens: credentials that an app's backend gives to its users, for uploads within a budget.

The statements of uploads charge the budget (db/uploads.py, db/files.publish). api/auth.py decides which routes a token may use.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from core.cursors import Cursors, Page
from core.errors import InvalidInput, LimitReached, NotAllowed, NotAuthenticated, NotFound
from core.ids import new_secret, secret_digest
from core.principal import Principal
from db import Database, Tx, events, upload_tokens
from db.records import FileRecord, UploadRecord, UploadTokenRecord
from db.upload_tokens import Budget as Budget
from services.access import idempotency
from services.access.idempotency import Claim
from services.access.visibility import check_target, owner_scope

PREFIX = "gwt_"  # tells a token from a key (gw_) without the database
DEFAULT_LIFE = timedelta(hours=1)
MAX_LIFE = timedelta(hours=24)  # longer requests get this
MAX_CURRENT = 10_000  # tokens for one owner's files that have not expired (T73)


class UploadTokens:
    """Creates, lists, revokes and checks upload tokens."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors

    def create(
        self,
        principal: Principal,
        owner_id: str,
        budget: Budget,
        *,
        expires_in: timedelta | None = None,
        once: Claim | None = None,
    ) -> tuple[UploadTokenRecord, str]:
        """A new token for ``owner_id``, which ends with the caller's key. Only its digest is kept; ``once`` records the
        record without the token.

        Raises NotAllowed for another owner than the caller unless that is an admin, NotFound for a folder not the owner's, and
        LimitReached."""
        if principal.budget is not None or not (principal.is_admin or principal.owner_id == owner_id):
            raise NotAllowed("A key can create upload tokens for its own owner only.")
        if budget.folder_id is None:
            budget = replace(budget, folder_id=principal.folder_id)
        check_target(principal, budget.folder_id)
        if expires_in is not None and expires_in <= timedelta():
            raise InvalidInput(errors=[{"field": "expires_in", "message": "must be positive"}])
        token = new_secret(PREFIX)
        with self._db.transaction() as tx:
            upload_tokens.lock_owner(tx, owner_id)
            if upload_tokens.count_current(tx, owner_id, limit=MAX_CURRENT) >= MAX_CURRENT:
                raise LimitReached(f"At most {MAX_CURRENT:,} upload tokens of an owner may be valid at the same time.")
            life, digest = min(expires_in or DEFAULT_LIFE, MAX_LIFE), secret_digest(token)
            record = upload_tokens.create(tx, digest, owner_id, budget, key_id=principal.key_id, expires_in=life)
            if record is None:
                raise NotFound("There is no such folder.")
            events.record(tx, "token_created", owner_id=owner_id, target=record.id)
            idempotency.record(tx, once, record)
        return record, token

    def list_live(
        self, principal: Principal, *, owner: str | None, limit: int, cursor: str | None
    ) -> Page[UploadTokenRecord]:
        """Live tokens for the owner's files or made by the owner's keys, newest first. Raises NotAllowed, InvalidCursor."""
        owner_id = owner_scope(principal, owner)
        scope = f"upload tokens:{owner_id}:{principal.apart}"
        after = self._cursors.after(cursor, UUID, scope=scope)
        with self._db.connection() as tx:
            found = upload_tokens.list_live(tx, owner_id, folders=principal.reach, after=after, limit=limit + 1)
            counted = upload_tokens.count_live(tx, owner_id, folders=principal.reach, limit=MAX_CURRENT + 1)
        total = counted if counted <= MAX_CURRENT else None
        return self._cursors.page(found, lambda token: token.id, limit=limit, scope=scope, total=total)

    def revoke(self, principal: Principal, token_id: UUID) -> None:
        """Expire a token now. Uploads that it began continue. Raises NotFound."""
        with self._db.transaction() as tx:
            owner = None if principal.is_admin else principal.owner_id
            owner_id = upload_tokens.revoke(tx, token_id, owner, folders=principal.reach)
            if owner_id is None:
                raise NotFound("There is no such upload token.")
            events.record(tx, "token_revoked", owner_id=owner_id, target=token_id)

    def authenticate(self, token: str) -> Principal:
        """The principal of a token, with its budget. Raises NotAuthenticated, also for an expired token."""
        with self._db.connection() as tx:
            record = upload_tokens.find(tx, secret_digest(token))
        if record is None:
            raise NotAuthenticated()
        return Principal(
            record.owner_id,
            budget=record.budget,
            credential="token",
            scopes=frozenset({"write"}),
            folder_id=record.key_folder_id,
        )


def uploader_of(tx: Tx, upload: UploadRecord) -> Principal:
    """The principal that began an upload, with the token's limits on size and types. They hold until the upload ends, also after
    the token has expired."""
    token = upload_tokens.get(tx, upload.token_id) if upload.token_id is not None else None
    return Principal(upload.owner_id, budget=token.budget if token is not None else None)


def as_sent(principal: Principal, upload: UploadRecord, file: FileRecord) -> FileRecord:
    """For an upload token, or outside of the folder that a key is limited to, the file under the name it was sent with: a
    number added to it would tell which files exist."""
    shown = principal.budget is None and principal.reaches(file.folder_id)
    return file if shown else file._replace(original_name=upload.original_name)
