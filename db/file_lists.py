"""Lists of files: filters and sorts chosen from the literals below, pages by keyset, totals where counting is cheap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from core.errors import InvalidInput
from db import Tx, scalar
from db.files import COLUMNS
from db.records import FileRecord

EXACT_UP_TO = 10_000
_FEW = 5_000  # so many are found by what they are filtered by and then sorted; more are found in the order of the sort
FAMILIES = frozenset({"image", "video", "audio", "document", "text", "archive", "other"})

# What a list may be sorted by: the expression, and the type that its value in a cursor is read back as.
_SORTS = {
    "uploaded_at": ("f.uploaded_at", "timestamptz"),
    "original_name": ("f.name_key", "text"),
    "file_size": ("f.file_size", "bigint"),
    "mime_type": ("f.mime_type", "text"),
    "download_count": ("f.download_count", "bigint"),
    "last_accessed": ("coalesce(f.last_accessed, '-infinity')", "timestamptz"),
}


# Their indexes begin with the owner, that of types with owner and kind.
_SORTED_APART = frozenset({"original_name", "file_size", "mime_type"})


@dataclass(frozen=True, slots=True)
class FileFilter:
    owner_id: str | None  # None: everybody's
    file_type: str | None = None  # a family, a MIME type, or image/*
    folder_id: int | None = None
    in_root: bool = False
    recursive: bool = False
    date_from: datetime | None = None
    date_to: datetime | None = None  # excluded
    min_size: int | None = None
    max_size: int | None = None
    tag: str | None = None
    status: str | None = None
    deleted: bool = False

    @property
    def unfiltered(self) -> bool:
        return self == FileFilter(owner_id=self.owner_id)

    @property
    def only_tag(self) -> bool:
        """Whether but an owner's files with a tag are asked for, of some time perhaps: ``file_words`` has them in order."""
        return (
            self.owner_id is not None
            and self.tag is not None
            and self
            == FileFilter(
                self.owner_id, tag=self.tag, date_from=self.date_from, date_to=self.date_to, deleted=self.deleted
            )
        )

    @property
    def only_kind(self) -> bool:
        """Whether nothing but owner, trash and kind of file is asked for."""
        kind = self.file_type if self.file_type in FAMILIES else None
        return self == FileFilter(self.owner_id, file_type=kind, deleted=self.deleted)


# As an array, which an index can be asked for; a subquery would be asked for each file.
_BELOW = """f.folder_id = any(array(
    with recursive below (id) as (
        select id from folders where id = %(folder)s
        union all select c.id from folders c join below on c.parent_id = below.id
    ) select id from below))"""


def conditions(wanted: FileFilter) -> tuple[str, dict[str, Any]]:
    """The WHERE of a filter, and its parameters."""
    tests = ["f.is_deleted = %(deleted)s"]
    params: dict[str, Any] = {"deleted": wanted.deleted}

    def test(sql: str, **values: Any) -> None:
        tests.append(sql)
        params.update(values)

    if wanted.owner_id is not None:
        test("f.owner_id = %(owner)s", owner=wanted.owner_id)
    if wanted.file_type in FAMILIES:
        test("f.file_type = %(file_type)s", file_type=wanted.file_type)
    elif wanted.file_type is not None and wanted.file_type.endswith("/*"):
        test("starts_with(f.mime_type, %(mime_prefix)s)", mime_prefix=wanted.file_type[:-1].lower())
    elif wanted.file_type is not None:
        test("f.mime_type = %(mime_type)s", mime_type=wanted.file_type.lower())
    if wanted.folder_id is not None:
        test(_BELOW if wanted.recursive else "f.folder_id = %(folder)s", folder=wanted.folder_id)
    elif wanted.in_root and not wanted.recursive:
        test("f.folder_id is null")
    if wanted.date_from is not None:
        test("f.uploaded_at >= %(date_from)s", date_from=wanted.date_from)
    if wanted.date_to is not None:
        test("f.uploaded_at < %(date_to)s", date_to=wanted.date_to)
    if wanted.min_size is not None:
        test("f.file_size >= %(min_size)s", min_size=wanted.min_size)
    if wanted.max_size is not None:
        test("f.file_size <= %(max_size)s", max_size=wanted.max_size)
    if wanted.tag is not None:
        test("f.tags @> array[%(tag)s]", tag=wanted.tag)
    if wanted.status is not None:
        # The second test is the predicate of an index, which a parameter can't prove.
        test(
            "f.status = %(status)s" + (" and f.status <> 'ready'" if wanted.status != "ready" else ""),
            status=wanted.status,
        )
    return " and ".join(tests), params


def _tagged(wanted: FileFilter) -> tuple[str, dict[str, Any]]:
    """The same of ``file_words f``, where only a tag is asked for."""
    assert wanted.tag is not None
    where, params = conditions(replace(wanted, tag=None))
    return f"{where} and f.word = %(word)s", params | {"word": "#" + wanted.tag}


def page(
    tx: Tx, wanted: FileFilter, *, sort: str, after: list[Any] | None, limit: int, expected: int | None = None
) -> tuple[list[FileRecord], list[list[Any]]]:
    """Up to ``limit`` files behind the keyset position ``after`` ([sort value, id]), each with its own position;
    ``expected`` is the list's total as far as it is known, and decides on how they are found.

    Raises InvalidInput for a sort that is not in the list above."""
    descending = sort.startswith("-")
    name = sort.removeprefix("-")
    if name not in _SORTS:
        raise InvalidInput(
            "Unknown sort.", errors=[{"field": "sort", "message": f"one of {', '.join(sorted(_SORTS))}"}]
        )
    expression, kind = _SORTS[name]
    by_tag = wanted.only_tag and name == "uploaded_at"
    where, params = _tagged(wanted) if by_tag else conditions(wanted)
    table, key = ("file_words", "f.file_id") if by_tag else ("files", "f.id")
    if after is not None:
        where += f" and ({expression}, {key}) {'<' if descending else '>'} (%(after)s::{kind}, %(after_id)s::uuid)"
        params |= {"after": after[0], "after_id": after[1]}
    direction = "desc" if descending else "asc"
    order = f"order by key {direction}, id {direction}"
    matching = f"select {key} as id, {expression} as key from {table} f where {where}"
    found = f"select id, key from ({matching}) f" if by_tag else _found(wanted, name, matching, order, expected)
    sql = (
        f"select {COLUMNS}, p.key::text as position from ({found} {order} limit %(limit)s) p"
        f" join files f on f.id = p.id join objects o on o.object_key = f.file_path order by p.key {direction}, p.id {direction}"
    )
    with tx.cursor(row_factory=dict_row) as cursor:
        # A plan that does not know the values can't tell a rare one from a common one.
        prepare = None if wanted.only_kind else False
        rows = cursor.execute(sql, params | {"limit": limit, "kinds": sorted(FAMILIES)}, prepare=prepare).fetchall()
    positions = [[row.pop("position"), str(row["id"])] for row in rows]
    return [FileRecord(**row) for row in rows], positions


def _found(wanted: FileFilter, sort: str, matching: str, order: str, expected: int | None) -> str:
    """The SQL that gives the ids and sort keys of a page: the same rows in each of three ways.

    Few files are all found by their filter and sorted: in the order of the sort, one might meet a million others first.
    Of many, the index of the sort soon gives a page. Where that index is apart for each owner or kind, each gives one."""
    # Of a rare status the newest, and of a folder the newest or by name, come in order from one index.
    in_folder = (wanted.folder_id is not None or wanted.in_root) and not (wanted.recursive or wanted.deleted)
    ordered = (sort == "uploaded_at" and wanted.status not in (None, "ready")) or (
        sort in ("uploaded_at", "original_name") and in_folder
    )
    if expected is not None and expected <= _FEW and not ordered:
        return f"select id, key from (with few as materialized ({matching}) select * from few) few"
    if not wanted.only_kind or sort not in _SORTED_APART:
        return f"select id, key from ({matching}) f"
    sources, same = [], ""
    if wanted.owner_id is None:
        sources.append("owner_usage u")
        same += " and f.owner_id = u.owner_id"
    if sort == "mime_type" and wanted.file_type is None:
        sources.append("unnest(%(kinds)s::text[]) k (kind)")
        same += " and f.file_type = k.kind"
    if not sources:
        return f"select id, key from ({matching}) f"
    return (
        f"select a.id, a.key from {' cross join '.join(sources)}"
        f" cross join lateral ({matching}{same} {order} limit %(limit)s) a"
    )


_OF_TYPES = """
select coalesce(sum(files), 0) from type_counters
where is_deleted = %(deleted)s and (%(owner)s::text is null or owner_id = %(owner)s)
and (%(file_type)s::text is null or file_type = %(file_type)s) and (%(status)s::text is null or status = %(status)s)
"""
_OF_ROOT = """
select coalesce(sum(files), 0) from folder_counters
where folder_id is null and (%(owner)s::text is null or owner_id = %(owner)s)
"""
_OF_FOLDERS = """
select coalesce(sum(f.files), 0) from folder_counters f where {place} and (%(owner)s::text is null or f.owner_id = %(owner)s)
"""


def total(tx: Tx, wanted: FileFilter) -> int | None:
    """How many there are: from the counters (db/counters.py) where one tells, else counted up to 10,000; None beyond that."""
    params: dict[str, Any] = {"owner": wanted.owner_id, "folder": wanted.folder_id, "deleted": wanted.deleted}
    everywhere = replace(wanted, folder_id=None, in_root=False, recursive=False)
    if wanted.unfiltered and wanted.owner_id is not None:
        sql = "select coalesce((select file_count from owner_usage where owner_id = %(owner)s), 0)"
        return int(scalar(tx, sql, params))
    if wanted.folder_id is not None and everywhere.unfiltered:
        place = _BELOW if wanted.recursive else "f.folder_id = %(folder)s"
        return int(scalar(tx, _OF_FOLDERS.format(place=place), params))
    if wanted.in_root and not wanted.recursive and everywhere.unfiltered:
        return int(scalar(tx, _OF_ROOT, params))
    kinds = FileFilter(wanted.owner_id, file_type=wanted.file_type, status=wanted.status, deleted=wanted.deleted)
    if wanted == kinds and (wanted.file_type is None or wanted.file_type in FAMILIES):
        return int(scalar(tx, _OF_TYPES, params | {"file_type": wanted.file_type, "status": wanted.status}))
    where, params = _tagged(wanted) if wanted.only_tag else conditions(wanted)
    table = "file_words" if wanted.only_tag else "files"
    sql = f"select count(*) from (select from {table} f where {where} limit {EXACT_UP_TO + 1}) c"
    counted = int(scalar(tx, sql, params))
    return counted if counted <= EXACT_UP_TO else None
