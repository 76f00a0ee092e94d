"""Upload tokens: short-lived credentials with a budget, which the uploads' own statements draw on (db/uploads.py)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from core.principal import UploadBudget
from db import Tx, execute, one

_COLUMNS = (
    "id, owner_id, folder_id, max_files, max_size, max_total_size, allowed_types, files_used, bytes_used, created_at,"
    " expires_at"
)


@dataclass(frozen=True, slots=True)
class UploadTokenRecord:
    id: UUID
    owner_id: str
    folder_id: int | None
    max_files: int | None
    max_size: int | None  # bytes of one file
    max_total_size: int | None  # bytes of all files together
    allowed_types: list[str]
    files_used: int
    bytes_used: int
    created_at: datetime
    expires_at: datetime

    @property
    def budget(self) -> UploadBudget:
        return UploadBudget(self.id, self.folder_id, self.max_size, tuple(self.allowed_types))


def find(tx: Tx, token_digest: bytes) -> UploadTokenRecord | None:
    """The token with this digest, unless its time is over."""
    sql = f"select {_COLUMNS} from upload_tokens where token_digest = %(digest)s and expires_at > now()"
    return one(tx, UploadTokenRecord, sql, {"digest": token_digest})


def get(tx: Tx, token_id: UUID) -> UploadTokenRecord | None:
    return one(
        tx, UploadTokenRecord, f"select {_COLUMNS} from upload_tokens where id = %(id)s", {"id": token_id}
    )


_CREATE = f"""
insert into upload_tokens (token_digest, owner_id, folder_id, max_files, max_size, max_total_size, allowed_types, expires_at)
select %(digest)s, %(owner)s, %(folder)s::integer, %(max_files)s, %(max_size)s, %(max_total_size)s, %(allowed_types)s,
       now() + %(expires_in)s
where %(folder)s::integer is null or exists (select from folders where id = %(folder)s and owner_id = %(owner)s)
returning {_COLUMNS}
"""


def create(
    tx: Tx,
    token_digest: bytes,
    *,
    owner_id: str,
    folder_id: int | None,
    max_files: int | None,
    max_size: int | None,
    max_total_size: int | None,
    allowed_types: list[str],
    expires_in: timedelta,
) -> UploadTokenRecord | None:
    """Keep a new token; None where the folder is not the owner's."""
    return one(
        tx,
        UploadTokenRecord,
        _CREATE,
        {
            "digest": token_digest,
            "owner": owner_id,
            "folder": folder_id,
            "max_files": max_files,
            "max_size": max_size,
            "max_total_size": max_total_size,
            "allowed_types": allowed_types,
            "expires_in": expires_in,
        },
    )


def forget_old(tx: Tx, *, keep: timedelta) -> int:
    """Delete tokens whose time has long been over."""
    return execute(tx, "delete from upload_tokens where expires_at < now() - %(keep)s", {"keep": keep})
