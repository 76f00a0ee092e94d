"""Previews of files, and previews that can't be made. They belong to the reading of an object (readings.py)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from db import Tx, execute, many, one, readings
from db.records import PreviewRecord, ReadingKey

_COLUMNS = "object_key, preview_type, variant, preview_path, mime_type, width, height, size, read_as"
# The previews of a file with the reading ``r`` (``readings.JOIN``), in a column of its row; null without any.
OF_FILE = f"""(
    select json_agg(json_build_array({_COLUMNS}))
    from (select * from file_previews where object_key = r.object_key and read_as = r.read_as
          order by preview_type, variant) p)"""


def find(tx: Tx, reading: ReadingKey, *, preview_type: str, variant: int, mime_type: str) -> PreviewRecord | None:
    """One preview."""
    sql = f"""
    select {_COLUMNS} from file_previews
    where object_key = %(object_key)s and read_as = %(read_as)s and preview_type = %(type)s and variant = %(variant)s
    and mime_type = %(mime_type)s
    """
    params = {"type": preview_type, "variant": variant, "mime_type": mime_type}
    return one(tx, PreviewRecord, sql, reading._asdict() | params)


def parsed(column: list[list[Any]] | None) -> list[PreviewRecord]:
    """The value of ``OF_FILE``."""
    return [PreviewRecord._make(values) for values in column or ()]


def of_objects(tx: Tx, object_keys: Sequence[str]) -> list[PreviewRecord]:
    """All previews of these objects, whatever they were read as."""
    sql = f"select {_COLUMNS} from file_previews where object_key = any(%(keys)s) order by object_key, preview_type, variant"
    return many(tx, PreviewRecord, sql, {"keys": list(object_keys)})


def add(tx: Tx, preview: PreviewRecord, *, file_id: UUID | None) -> bool:
    """Put a preview to use whose key was reserved (``deferred_deletions.reserve``). False if there is one already, nobody needs
    it any more (``readings.begin``), or the reservation has expired; the caller then rolls back."""
    sql = """
    with added as (
        insert into file_previews (object_key, read_as, file_id, preview_type, variant, preview_path, mime_type, width, height,
                                   size)
        values (%(object_key)s, %(read_as)s, (select id from files where id = %(file_id)s), %(preview_type)s, %(variant)s,
                %(preview_path)s, %(mime_type)s, %(width)s, %(height)s, %(size)s)
        on conflict (object_key, read_as, preview_type, variant, mime_type) do nothing
        returning preview_path
    )
    delete from deferred_deletions d using added where d.object_key = added.preview_path and not d.deleting
    """
    if not readings.begin(tx, preview.reading):
        return False
    return execute(tx, sql, preview._asdict() | {"file_id": file_id}) == 1


def remove(tx: Tx, preview_path: str) -> bool:
    """Delete the row of a preview that the bucket no longer holds, so that it is made again on demand. False if it is gone."""
    return execute(tx, "delete from file_previews where preview_path = %(path)s", {"path": preview_path}) == 1


# -- previews that can't be made -------------------------------------------------------------------------------------------


def add_failure(tx: Tx, reading: ReadingKey, *, preview_type: str, variant: int, code: str, detail: str) -> None:
    """Record why a preview can't be made. ``variant`` is a page; 0 stands for all pages and for the other types."""
    sql = """
    insert into preview_failures (object_key, read_as, preview_type, variant, code, detail)
    values (%(object_key)s, %(read_as)s, %(type)s, %(variant)s, %(code)s, %(detail)s)
    on conflict (object_key, read_as, preview_type, variant) do update
    set code = excluded.code, detail = excluded.detail, failed_at = now()
    """
    params = {"type": preview_type, "variant": variant, "code": code, "detail": detail}
    if readings.begin(tx, reading):
        execute(tx, sql, reading._asdict() | params)


_FAILURES = """
preview_failures
where object_key = %(object_key)s and read_as = %(read_as)s and preview_type = %(type)s and variant in (0, %(variant)s)
"""


def failure(
    tx: Tx, reading: ReadingKey, *, preview_type: str, variant: int, within: timedelta
) -> tuple[str, str] | None:
    """Code and detail of a failure that is not older than ``within``."""
    sql = f"select code, detail from {_FAILURES} and failed_at > now() - %(within)s order by variant limit 1"
    params = {"type": preview_type, "variant": variant, "within": within}
    row = tx.execute(sql, reading._asdict() | params).fetchone()
    return (row[0], row[1]) if row else None


def forget_failure(tx: Tx, reading: ReadingKey, *, preview_type: str, variant: int) -> None:
    """Delete a failure, so that the preview is tried again."""
    execute(tx, f"delete from {_FAILURES}", reading._asdict() | {"type": preview_type, "variant": variant})
