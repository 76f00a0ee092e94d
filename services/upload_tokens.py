"""Upload tokens: what an app's own backend hands to one of its users, good for uploading within a budget and no more.

The budget is kept by the uploads' own statements (db/uploads.py, db/files.publish), so that no number of uploads at once
gets past it. What a token may do at all is decided in api/auth.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from core.errors import InvalidInput, NotAllowed, NotAuthenticated, NotFound
from core.ids import new_secret, secret_digest
from core.principal import Principal
from db import Database, Tx, upload_tokens
from db.upload_tokens import UploadTokenRecord
from db.uploads import UploadRecord

PREFIX = "gwt_"  # tells a token from a key (gw_) before any look into the database
DEFAULT_LIFE = timedelta(hours=1)
MAX_LIFE = timedelta(hours=24)  # asking for more gets this much


@dataclass(frozen=True, slots=True)
class Budget:
    """What a token allows; None means no limit beside those that hold for the owner anyway."""

    folder_id: int | None = None  # its files go there and nowhere else
    max_files: int | None = None
    max_size: int | None = None  # bytes of one file
    max_total_size: int | None = None  # bytes of all files together
    allowed_types: tuple[str, ...] = ()  # as in ALLOWED_TYPES


class UploadTokens:
    def __init__(self, db: Database):
        self._db = db

    def create(
        self,
        principal: Principal,
        owner_id: str,
        budget: Budget,
        *,
        expires_in: timedelta | None = None,
        within: Callable[[Tx, UploadTokenRecord], None] | None = None,
    ) -> tuple[UploadTokenRecord, str]:
        """A new token for ``owner_id``; only its digest is kept, so this is the only time it can be shown. ``within`` joins
        the transaction.

        Raises NotAllowed for another owner than the caller unless that is an admin, NotFound for a folder not the owner's."""
        if principal.budget is not None or not (principal.is_admin or principal.owner_id == owner_id):
            raise NotAllowed("A key makes upload tokens for its own owner only.")
        if expires_in is not None and expires_in <= timedelta():
            raise InvalidInput(errors=[{"field": "expires_in", "message": "must be positive"}])
        token = new_secret(PREFIX)
        with self._db.transaction() as tx:
            record = upload_tokens.create(
                tx,
                secret_digest(token),
                owner_id=owner_id,
                folder_id=budget.folder_id,
                max_files=budget.max_files,
                max_size=budget.max_size,
                max_total_size=budget.max_total_size,
                allowed_types=list(budget.allowed_types),
                expires_in=min(expires_in or DEFAULT_LIFE, MAX_LIFE),
            )
            if record is None:
                raise NotFound("There is no such folder.")
            if within is not None:
                within(tx, record)
        return record, token

    def authenticate(self, token: str) -> Principal:
        """Whom the token speaks for, and its budget: one statement. Raises NotAuthenticated, also once its time is over."""
        with self._db.connection() as tx:
            record = upload_tokens.find(tx, secret_digest(token))
        if record is None:
            raise NotAuthenticated()
        return Principal(record.owner_id, budget=record.budget)


def uploader_of(tx: Tx, upload: UploadRecord) -> Principal:
    """Who began an upload, as far as size and type go: an upload token may have narrowed what its owner may."""
    token = upload_tokens.get(tx, upload.token_id) if upload.token_id is not None else None
    return Principal(upload.owner_id, budget=token.budget if token is not None else None)
