"""Previews of stored objects, and previews that can't be made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from db import Tx, execute, many, one
from db.records import PreviewRecord

_COLUMNS = "object_key, preview_type, variant, preview_path, mime_type, width, height, size"
# The previews of the object ``o``, in a column of one file's row; null without any.
OF_OBJECT = f"""(
    select json_agg(json_build_array({_COLUMNS}))
    from (select * from file_previews where object_key = o.object_key order by preview_type, variant) p)"""


def find(tx: Tx, object_key: str, *, preview_type: str, variant: int, mime_type: str) -> PreviewRecord | None:
    """One preview of an object."""
    sql = f"""
    select {_COLUMNS} from file_previews
    where object_key = %(key)s and preview_type = %(type)s and variant = %(variant)s and mime_type = %(mime_type)s
    """
    params = {"key": object_key, "type": preview_type, "variant": variant, "mime_type": mime_type}
    return one(tx, PreviewRecord, sql, params)


def parsed(column: list[list[Any]] | None) -> list[PreviewRecord]:
    """The value of ``OF_OBJECT``."""
    return [PreviewRecord._make(values) for values in column or ()]


def of_objects(tx: Tx, object_keys: Sequence[str]) -> list[PreviewRecord]:
    """All previews of these objects."""
    sql = f"select {_COLUMNS} from file_previews where object_key = any(%(keys)s) order by object_key, preview_type, variant"
    return many(tx, PreviewRecord, sql, {"keys": list(object_keys)})


def add(tx: Tx, preview: PreviewRecord, *, file_id: UUID | None) -> bool:
    """Put a preview to use whose key was reserved (``deferred_deletions.reserve``). False if there is one already, the object
    is being purged or infected, or the reservation has expired; the caller then rolls back."""
    sql = """
    with added as (
        insert into file_previews (object_key, file_id, preview_type, variant, preview_path, mime_type, width, height, size)
        select o.object_key, %(file_id)s, %(preview_type)s, %(variant)s, %(preview_path)s, %(mime_type)s, %(width)s, %(height)s,
               %(size)s
        from objects o
        where o.object_key = %(object_key)s and o.status = 'stored' and o.scan_verdict is distinct from 'infected' for share
        on conflict (object_key, preview_type, variant, mime_type) do nothing
        returning preview_path
    )
    delete from deferred_deletions d using added where d.object_key = added.preview_path and not d.deleting
    """
    return execute(tx, sql, preview._asdict() | {"file_id": file_id}) == 1


def remove(tx: Tx, preview_path: str) -> None:
    """Delete the row of a preview that the bucket no longer holds, so that it is made again on demand."""
    execute(tx, "delete from file_previews where preview_path = %(path)s", {"path": preview_path})


def forget_all(tx: Tx, object_key: str) -> None:
    """Delete previews and failures of an object whose type has changed. The caller has locked the object."""
    sql = """
    with object as (
        update objects set extracted = extracted - 'processed_at' where object_key = %(key)s and status = 'stored'
        returning object_key
    ),
    removed as (delete from file_previews p using object o where p.object_key = o.object_key returning p.preview_path),
    failures as (delete from preview_failures f using object o where f.object_key = o.object_key)
    insert into deferred_deletions (object_key, delete_after) select preview_path, now() from removed
    """
    execute(tx, sql, {"key": object_key})


# -- previews that can't be made -------------------------------------------------------------------------------------------


def add_failure(tx: Tx, object_key: str, *, preview_type: str, variant: int, code: str, detail: str) -> None:
    """Record why a preview can't be made. ``variant`` is a page; 0 stands for all pages and for the other types."""
    sql = """
    insert into preview_failures (object_key, preview_type, variant, code, detail)
    select o.object_key, %(type)s, %(variant)s, %(code)s, %(detail)s
    from objects o where o.object_key = %(key)s and o.status = 'stored' for share
    on conflict (object_key, preview_type, variant) do update
    set code = excluded.code, detail = excluded.detail, failed_at = now()
    """
    params = {"key": object_key, "type": preview_type, "variant": variant, "code": code, "detail": detail}
    execute(tx, sql, params)


def failure(tx: Tx, object_key: str, *, preview_type: str, variant: int, within: timedelta) -> tuple[str, str] | None:
    """Code and detail of a failure that is not older than ``within``."""
    sql = """
    select code, detail from preview_failures
    where object_key = %(key)s and preview_type = %(type)s and variant in (0, %(variant)s) and failed_at > now() - %(within)s
    order by variant limit 1
    """
    params = {"key": object_key, "type": preview_type, "variant": variant, "within": within}
    row = tx.execute(sql, params).fetchone()
    return (row[0], row[1]) if row else None


def forget_failure(tx: Tx, object_key: str, *, preview_type: str, variant: int) -> None:
    """Delete a failure, so that the preview is tried again."""
    sql = """
    delete from preview_failures where object_key = %(key)s and preview_type = %(type)s and variant in (0, %(variant)s)
    """
    execute(tx, sql, {"key": object_key, "type": preview_type, "variant": variant})
