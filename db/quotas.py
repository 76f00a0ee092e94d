"""How much an owner may keep. The owner's own quota, set by an admin, comes before the one that its identity provider claims, and
this before the deployment's, for bytes and files each. The trash counts, and unfinished uploads with what they reserve.

Every statement that admits, extends or adds asks ``fits`` about the owner's row as it is when it has locked it (T71)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from core.principal import Quota
from db import Tx, execute, many, one, scalar

_FILES = "(u.file_count + u.trash_count + u.reserved_files)"
_BYTES = "(u.used_bytes + u.reserved_bytes)"
_MAX_BYTES = "coalesce(u.quota_bytes, u.claimed_bytes, %(max_bytes)s::bigint)"
_MAX_FILES = "coalesce(u.quota_files, u.claimed_files, %(max_files)s::bigint)"
LEFT = f"({_MAX_BYTES} - coalesce({_BYTES}, 0))"  # bytes; null without a quota
# The owner's row as ``u``, or what stands for one that is not there.
OF_OWNER = """(select null) none left join lateral (
    select used_bytes, reserved_bytes, file_count, trash_count, reserved_files, quota_bytes, quota_files, claimed_bytes,
           claimed_files
    from owner_usage where owner_id = %(owner_id)s
    union all select 0, 0, 0, 0, 0, null, null, null, null limit 1) u on true"""
# Whether the owner has a quota besides the deployment's.
OWN = "(coalesce(u.quota_bytes, u.quota_files, u.claimed_bytes, u.claimed_files) is not null)"


def fits(more_bytes: str, more_files: str) -> str:
    """The condition that so much more fits into the quota of the row ``u`` of owner_usage. The statement has the parameters of
    ``defaults``."""
    return f"{fits_bytes(more_bytes)} and {_fits(_FILES, more_files, _MAX_FILES)}"


def fits_bytes(more: str) -> str:
    """The same of bytes alone."""
    return _fits(_BYTES, more, _MAX_BYTES)


def _fits(used: str, more: str, limit: str) -> str:
    return f"({limit} is null or {used} + {more} <= {limit})"


def defaults(quota: Quota) -> dict[str, Any]:
    """The deployment's quota as parameters."""
    return asdict(quota)


def has_own(tx: Tx, owner_id: str) -> bool:
    """Whether the owner has a quota besides the deployment's."""
    return bool(scalar(tx, f"select {OWN} from {OF_OWNER}", {"owner_id": owner_id}))


@dataclass(frozen=True, slots=True)
class OwnerQuota:
    """What an owner keeps and may keep. Null: no limit."""

    owner_id: str
    used_bytes: int
    used_files: int
    quota_bytes: int | None  # the owner's own
    quota_files: int | None
    max_bytes: int | None  # what applies
    max_files: int | None


_SELECT = f"""
select u.owner_id, {_BYTES} as used_bytes, {_FILES} as used_files, u.quota_bytes, u.quota_files, {_MAX_BYTES} as max_bytes,
       {_MAX_FILES} as max_files
from owner_usage u
"""


def get(tx: Tx, owner_id: str, default: Quota) -> OwnerQuota:
    """An owner's, also of one that keeps nothing."""
    found = one(tx, OwnerQuota, f"{_SELECT} where u.owner_id = %(owner)s", {"owner": owner_id, **defaults(default)})
    return found or OwnerQuota(owner_id, 0, 0, None, None, default.max_bytes, default.max_files)


def page(tx: Tx, default: Quota, *, after: str, limit: int) -> list[OwnerQuota]:
    """Owners after ``after``, by id."""
    sql = f"{_SELECT} where u.owner_id > %(after)s order by u.owner_id limit %(limit)s"
    return many(tx, OwnerQuota, sql, {"after": after, "limit": limit, **defaults(default)})


_NEAR = f"""
select count(*) from owner_usage u
where {_BYTES} >= %(share)s * {_MAX_BYTES} and {_MAX_BYTES} > 0 or {_FILES} >= %(share)s * {_MAX_FILES} and {_MAX_FILES} > 0
"""


def near(tx: Tx, default: Quota, *, share: float) -> int:
    """How many owners have used this share of their quota. It reads the rows of all owners."""
    return int(scalar(tx, _NEAR, {"share": share, **defaults(default)}))


_SET = """
insert into owner_usage as u (owner_id, quota_bytes, quota_files) values (%(owner)s, %(max_bytes)s, %(max_files)s)
on conflict (owner_id) do update set quota_bytes = excluded.quota_bytes, quota_files = excluded.quota_files
"""


def set_own(tx: Tx, owner_id: str, quota: Quota) -> None:
    """Set the owner's own quota; None removes it."""
    execute(tx, _SET, {"owner": owner_id, **defaults(quota)})


_CLAIM = """
insert into owner_usage as u (owner_id, claimed_bytes, claimed_files)
select %(owner)s, %(max_bytes)s, %(max_files)s where not exists (
    select from owner_usage where owner_id = %(owner)s
    and (claimed_bytes, claimed_files) is not distinct from (%(max_bytes)s::bigint, %(max_files)s::bigint))
on conflict (owner_id) do update set claimed_bytes = excluded.claimed_bytes, claimed_files = excluded.claimed_files
"""


def claim(tx: Tx, owner_id: str, quota: Quota) -> None:
    """Remember what the owner's identity provider claims, for its keys, its upload tokens and its uploads in progress too."""
    execute(tx, _CLAIM, {"owner": owner_id, **defaults(quota)})


_KEPT = f"select {fits('0', '0')} from owner_usage u where u.owner_id = %(owner)s"


def kept(tx: Tx, owner_id: str, default: Quota) -> bool:
    """Whether what this transaction added fits. It has locked the owner's row, so the answer is exact; on False the caller rolls
    back."""
    return scalar(tx, _KEPT, {"owner": owner_id, **defaults(default)}) is not False
