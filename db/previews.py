"""Previews of stored objects: which exist, and under which object keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from db import Tx, execute, many, one
from db.records import PreviewRecord

_COLUMNS = "object_key, preview_type, variant, preview_path, mime_type, width, height, size"


def find(tx: Tx, object_key: str, *, preview_type: str, variant: int, mime_type: str) -> PreviewRecord | None:
    sql = (
        f"select {_COLUMNS} from file_previews where object_key = %(key)s and preview_type = %(type)s"
        " and variant = %(variant)s and mime_type = %(mime_type)s"
    )
    return one(
        tx, PreviewRecord, sql, {"key": object_key, "type": preview_type, "variant": variant, "mime_type": mime_type}
    )


def of_objects(tx: Tx, object_keys: Sequence[str]) -> list[PreviewRecord]:
    sql = f"select {_COLUMNS} from file_previews where object_key = any(%(keys)s) order by object_key, preview_type, variant"
    return many(tx, PreviewRecord, sql, {"keys": list(object_keys)})


_ADD = """
with added as (
    insert into file_previews (object_key, file_id, preview_type, variant, preview_path, mime_type, width, height, size)
    select o.object_key, %(file_id)s, %(type)s, %(variant)s, %(path)s, %(mime_type)s, %(width)s, %(height)s, %(size)s
    from objects o where o.object_key = %(key)s and o.status = 'stored' and o.scan_verdict is distinct from 'infected' for share
    on conflict (object_key, preview_type, variant, mime_type) do nothing
    returning preview_path
)
delete from deferred_deletions r using added where r.object_key = added.preview_path and not r.deleting
"""


def add(tx: Tx, preview: PreviewRecord, *, file_id: UUID | None) -> bool:
    """Put a preview to use that is in the bucket under a reserved key (``retired.reserve``). False where another was quicker,
    the object is being purged or turned out infected, or the reservation has run out: then the caller rolls back."""
    params = {
        "key": preview.object_key,
        "file_id": file_id,
        "type": preview.preview_type,
        "variant": preview.variant,
        "path": preview.preview_path,
        "mime_type": preview.mime_type,
        "width": preview.width,
        "height": preview.height,
        "size": preview.size,
    }
    return execute(tx, _ADD, params) == 1


def remove(tx: Tx, preview_path: str) -> None:
    """Forget a preview whose object is gone, so that it is made again when asked for."""
    execute(tx, "delete from file_previews where preview_path = %(path)s", {"path": preview_path})


_FORGET_ALL = """
with unread as (
    update objects set extracted = extracted - 'processed_at' where object_key = %(key)s and status = 'stored'
    returning object_key
),
unseen as (
    delete from file_previews p using unread u where p.object_key = u.object_key returning p.preview_path
),
untold as (
    delete from preview_failures f using unread u where f.object_key = u.object_key
)
insert into deferred_deletions (object_key, delete_after) select preview_path, now() from unseen
"""


def forget_all(tx: Tx, object_key: str) -> None:
    """Let all that is made of the object be made anew, since it is read as another type; the caller has locked it."""
    execute(tx, _FORGET_ALL, {"key": object_key})


# -- those that can't be made ----------------------------------------------------------------------------------------------

_ADD_FAILURE = """
insert into preview_failures (object_key, preview_type, variant, code, detail)
select o.object_key, %(type)s, %(variant)s, %(code)s, %(detail)s
from objects o where o.object_key = %(key)s and o.status = 'stored' for share
on conflict (object_key, preview_type, variant) do update
set code = excluded.code, detail = excluded.detail, failed_at = now()
"""


def add_failure(tx: Tx, object_key: str, *, preview_type: str, variant: int, code: str, detail: str) -> None:
    """Remember why a preview can't be made. ``variant``: a page; 0 for the other types, or for all pages."""
    params = {"key": object_key, "type": preview_type, "variant": variant, "code": code, "detail": detail}
    execute(tx, _ADD_FAILURE, params)


_FAILURE = """
select code, detail from preview_failures
where object_key = %(key)s and preview_type = %(type)s and variant in (0, %(variant)s) and failed_at > now() - %(within)s
order by variant limit 1
"""


def failure(tx: Tx, object_key: str, *, preview_type: str, variant: int, within: timedelta) -> tuple[str, str] | None:
    """The code and words of a failure that is not older than ``within``."""
    params = {"key": object_key, "type": preview_type, "variant": variant, "within": within}
    row = tx.execute(_FAILURE, params).fetchone()
    return (row[0], row[1]) if row else None


_FORGET_FAILURE = """
delete from preview_failures where object_key = %(key)s and preview_type = %(type)s and variant in (0, %(variant)s)
"""


def forget_failure(tx: Tx, object_key: str, *, preview_type: str, variant: int) -> None:
    execute(tx, _FORGET_FAILURE, {"key": object_key, "type": preview_type, "variant": variant})
