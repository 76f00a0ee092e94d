"""Upload tokens: short-lived credentials with a budget. The statements of uploads charge it (uploads.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

from core.placement import Visibility
from db import Tx, execute, many, one, scalar
from db.records import UploadTokenRecord


@dataclass(frozen=True, slots=True)
class Budget:
    """What a token allows. None: no limit beyond the owner's own."""

    folder_id: int | None = None  # all its files go there
    max_files: int | None = None
    max_size: int | None = None  # bytes of one file
    max_total_size: int | None = None  # bytes of all files together
    allowed_types: tuple[str, ...] = ()  # as in ALLOWED_TYPES
    visibility: Visibility = "private"  # the widest that an upload may have


# A token ends with the key that made it. Revoking sets expires_at.
_LIVE = """(t.expires_at > now() and not exists (
    select from api_keys k where k.id = t.key_id and (k.revoked_at is not null or k.expires_at <= now())))"""
_COLUMNS = (
    "t.id, t.owner_id, t.folder_id, t.max_files, t.max_size, t.max_total_size, t.allowed_types, t.visibility, t.files_used,"
    " t.bytes_used, t.created_at, t.expires_at, t.folder_id is not null and not exists ("
    f"select from folders f where f.id = t.folder_id and f.owner_id = t.owner_id) as folder_gone, {_LIVE} as live,"
    " (select k.folder_id from api_keys k where k.id = t.key_id) as key_folder_id"
)
_BY_ID = f"select {_COLUMNS} from upload_tokens t where t.id = %(id)s"
# Tokens that have not expired, however many have: by the owner of the files, and by that of the key. None: everybody's.
_CURRENT = """select id from upload_tokens where expires_at > now()"""
_CURRENT_OF_OWNER = """
    select id from upload_tokens where owner_id = %(owner)s and expires_at > now()
    union all
    select c.id from api_keys k join upload_tokens c on c.key_id = k.id where k.owner_id = %(owner)s and c.expires_at > now()"""
# The tokens for an owner's files, and those that the owner's keys made; for a key of a folder only those for this folder.
_OF_OWNER = """(%(owner)s::text is null or t.owner_id = %(owner)s
    or exists (select from api_keys k where k.id = t.key_id and k.owner_id = %(owner)s))
    and (%(folders)s::integer[] is null or t.folder_id = any(%(folders)s))"""


def find(tx: Tx, token_digest: bytes) -> UploadTokenRecord | None:
    """The token with this digest, unless it or its key has expired or is revoked."""
    sql = f"select {_COLUMNS} from upload_tokens t where t.token_digest = %(digest)s and {_LIVE}"
    return one(tx, UploadTokenRecord, sql, {"digest": token_digest})


def get(tx: Tx, token_id: UUID) -> UploadTokenRecord | None:
    """The token, also an expired one."""
    return one(tx, UploadTokenRecord, _BY_ID, {"id": token_id})


def create(
    tx: Tx, token_digest: bytes, owner_id: str, budget: Budget, *, key_id: UUID | None, expires_in: timedelta
) -> UploadTokenRecord | None:
    """Add a token. None if the folder is not the owner's."""
    sql = f"""
    insert into upload_tokens as t (token_digest, owner_id, folder_id, max_files, max_size, max_total_size, allowed_types,
                                    visibility, key_id, expires_at)
    select %(digest)s, %(owner)s, %(folder_id)s::integer, %(max_files)s, %(max_size)s, %(max_total_size)s, %(allowed_types)s,
           %(visibility)s, %(key)s, now() + %(expires_in)s
    where %(folder_id)s::integer is null or exists (select from folders where id = %(folder_id)s and owner_id = %(owner)s)
    returning {_COLUMNS}
    """
    params = {"digest": token_digest, "owner": owner_id, "key": key_id, "expires_in": expires_in}
    limits = asdict(budget) | {"allowed_types": list(budget.allowed_types)}
    return one(tx, UploadTokenRecord, sql, params | limits)


def _current(owner_id: str | None) -> str:
    return _CURRENT if owner_id is None else _CURRENT_OF_OWNER


def lock_owner(tx: Tx, owner_id: str) -> None:
    """Let one transaction at a time add tokens for an owner's files."""
    execute(tx, "select pg_advisory_xact_lock(hashtextextended('tokens:' || %(owner)s, 0))", {"owner": owner_id})


def count_current(tx: Tx, owner_id: str, *, limit: int) -> int:
    """The number of tokens for an owner's files that have not expired, at most ``limit``."""
    sql = """
    select count(*) from (select from upload_tokens where owner_id = %(owner)s and expires_at > now() limit %(limit)s) found
    """
    return int(scalar(tx, sql, {"owner": owner_id, "limit": limit}))


def list_live(
    tx: Tx, owner_id: str | None, *, folders: list[int] | None, after: UUID | None, limit: int
) -> list[UploadTokenRecord]:
    """The live tokens of an owner, or of everybody, for any of ``folders`` (None: for all), newest first, from after
    ``after``."""
    sql = f"""
    select {_COLUMNS} from upload_tokens t
    where t.id in ({_current(owner_id)}) and {_LIVE} and {_OF_OWNER} and (%(after)s::uuid is null or t.id < %(after)s)
    order by t.id desc limit %(limit)s
    """
    params = {"owner": owner_id, "folders": folders, "after": after, "limit": limit}
    return many(tx, UploadTokenRecord, sql, params)


def count_live(tx: Tx, owner_id: str | None, *, folders: list[int] | None, limit: int) -> int:
    """The number of live tokens, at most ``limit``."""
    sql = f"""
    select count(*) from (
        select from upload_tokens t where t.id in ({_current(owner_id)}) and {_LIVE} and {_OF_OWNER} limit %(limit)s) found
    """
    return int(scalar(tx, sql, {"owner": owner_id, "folders": folders, "limit": limit}))


def revoke(tx: Tx, token_id: UUID, owner_id: str | None, *, folders: list[int] | None) -> str | None:
    """Expire a token of an owner, or anybody's, and return whose files it was for. None if it is not live."""
    sql = f"""
    update upload_tokens t set expires_at = now() where t.id = %(id)s and {_LIVE} and {_OF_OWNER} returning t.owner_id
    """
    owner: str | None = scalar(tx, sql, {"id": token_id, "owner": owner_id, "folders": folders})
    return owner


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete tokens that expired ``keep`` ago and that no upload refers to."""
    sql = """
    delete from upload_tokens where id in (
        select t.id from upload_tokens t
        where t.expires_at < now() - %(keep)s and not exists (select from uploads u where u.token_id = t.id) limit %(limit)s)
    """
    return execute(tx, sql, {"keep": keep, "limit": limit})
