"""Lists of files: filters, sorts, pages by keyset, and totals where counting is cheap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from core.errors import InvalidInput
from db import Tx, previews, readings, scalar
from db.files import COLUMNS
from db.records import FileRecord, FileView

EXACT_UP_TO = 10_000  # totals above it are not counted
_FEW = 5_000  # a list of up to this many files is filtered first and then sorted
FAMILIES = frozenset({"image", "video", "audio", "document", "text", "archive", "other"})

# Sort -> its expression, and the type of its value in a cursor.
_SORTS = {
    "uploaded_at": ("f.uploaded_at", "timestamptz"),
    "original_name": ("f.name_key", "text"),
    "file_size": ("f.file_size", "bigint"),
    "mime_type": ("f.mime_type", "text"),
    "download_count": ("f.download_count", "bigint"),
    "last_accessed": ("coalesce(f.last_accessed, '-infinity')", "timestamptz"),
}
_IN_FOLDER = frozenset({"uploaded_at", "original_name"})  # sorts that have an index for each folder
# Sorts whose indexes begin with the owner (mime_type: owner and file type).
_SORTED_BY_OWNER = frozenset({"original_name", "file_size", "mime_type"})


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files a list shows."""

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
    storage_class: str | None = None
    deleted: bool = False

    @property
    def unfiltered(self) -> bool:
        """Whether it names at most an owner."""
        return self == FileFilter(owner_id=self.owner_id)

    @property
    def one_folder(self) -> bool:
        """Whether it names a folder or the root, without what is below and the trash."""
        return (self.folder_id is not None or self.in_root) and not (self.recursive or self.deleted)

    @property
    def only_folder(self) -> bool:
        """Whether it names a folder or the root, and at most an owner."""
        return self.one_folder and replace(self, folder_id=None, in_root=False).unfiltered

    @property
    def only_below(self) -> bool:
        """Whether it names a folder with all below, and at most an owner."""
        return (
            self.folder_id is not None and self.recursive and replace(self, folder_id=None, recursive=False).unfiltered
        )

    @property
    def only_dates(self) -> bool:
        """Whether it names at most owner, trash and dates: an index has these files in order of time."""
        return self == FileFilter(self.owner_id, date_from=self.date_from, date_to=self.date_to, deleted=self.deleted)

    @property
    def only_tag(self) -> bool:
        """Whether it names an owner and a tag, and at most dates and the trash: ``file_tags`` has these files in order."""
        return self.owner_id is not None and self.tag is not None and replace(self, tag=None).only_dates

    @property
    def only_kind(self) -> bool:
        """Whether it names at most owner, trash and file type."""
        kind = self.file_type if self.file_type in FAMILIES else None
        return self == FileFilter(self.owner_id, file_type=kind, deleted=self.deleted)


_FOLDERS = """with recursive below (id, owner_id) as (
        select id, owner_id from folders where id = %(folder)s
        union all select c.id, c.owner_id from folders c join below on c.parent_id = below.id
    ) select {columns} from below"""
# An array, which an index can use. A subquery would run for each file.
_BELOW = f"f.folder_id = any(array({_FOLDERS.format(columns='id')}))"


# Tests of one column each; those whose value is None are left out.
_TESTS = {
    "owner": "f.owner_id = %(owner)s",
    "date_from": "f.uploaded_at >= %(date_from)s",
    "date_to": "f.uploaded_at < %(date_to)s",
    "min_size": "f.file_size >= %(min_size)s",
    "max_size": "f.file_size <= %(max_size)s",
    "tag": "f.tags @> array[%(tag)s]",
    "status": "f.status = %(status)s",
}


_IN_CLASS = "exists (select from objects c where c.object_key = f.file_path and c.storage_class = '{}')"


def conditions(wanted: FileFilter) -> tuple[str, dict[str, Any]]:
    """The WHERE clause of a filter, and its parameters."""
    values = {
        "owner": wanted.owner_id,
        "date_from": wanted.date_from,
        "date_to": wanted.date_to,
        "min_size": wanted.min_size,
        "max_size": wanted.max_size,
        "tag": wanted.tag,
        "status": wanted.status,
    }
    params: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    # Not a parameter, for which a prepared plan could not use an index of the files outside the trash.
    tests = ["f.is_deleted" if wanted.deleted else "not f.is_deleted", *(_TESTS[name] for name in params)]
    if wanted.status not in (None, "ready"):
        tests.append("f.status <> 'ready'")  # the predicate of the index files_not_ready, which a parameter can't prove
    if wanted.storage_class is not None:  # written out, for the index objects_archived
        tests.append(_IN_CLASS.format("archived" if wanted.storage_class == "archived" else "standard"))
    if wanted.file_type is not None:
        test, value = _type_test(wanted.file_type)
        tests.append(test)
        params["file_type"] = value
    if wanted.folder_id is not None:
        tests.append(_BELOW if wanted.recursive else "f.folder_id = %(folder)s")
        params["folder"] = wanted.folder_id
    elif wanted.in_root and not wanted.recursive:
        tests.append("f.folder_id is null")
    return " and ".join(tests), params


def _type_test(file_type: str) -> tuple[str, str]:
    """A test of the type, and its value: a family, a MIME type, or image/*."""
    if file_type in FAMILIES:
        return "f.file_type = %(file_type)s", file_type
    if file_type.endswith("/*"):
        return "starts_with(f.mime_type, %(file_type)s)", file_type[:-1].lower()
    return "f.mime_type = %(file_type)s", file_type.lower()


def _tagged(wanted: FileFilter) -> tuple[str, dict[str, Any]]:
    """The WHERE clause on ``file_tags f`` of a filter that is ``only_tag``, and its parameters."""
    assert wanted.tag is not None
    where, params = conditions(replace(wanted, tag=None))
    return f"{where} and f.tag = %(tag)s", params | {"tag": wanted.tag}


def page(
    tx: Tx, wanted: FileFilter, *, sort: str, after: list[Any] | None, limit: int, expected: int | None = None
) -> tuple[list[FileView], list[Any] | None]:
    """Up to ``limit`` files after the keyset position ``after`` (sort value and id), and the position of the last if there are
    more. ``expected`` is the list's total, if known, and decides how they are found. Raises InvalidInput for an unknown sort."""
    descending = sort.startswith("-")
    name = sort.removeprefix("-")
    if name not in _SORTS:
        raise InvalidInput(
            "Unknown sort.", errors=[{"field": "sort", "message": f"one of {', '.join(sorted(_SORTS))}"}]
        )
    expression, kind = _SORTS[name]
    by_tag = wanted.only_tag and name == "uploaded_at"
    in_folder = wanted.one_folder and name in _IN_FOLDER
    where, params = _tagged(wanted) if by_tag else conditions(wanted)
    table, key = ("file_tags", "f.file_id") if by_tag else ("files", "f.id")
    if after is not None:
        where += f" and ({expression}, {key}) {'<' if descending else '>'} (%(after)s::{kind}, %(after_id)s::uuid)"
        params |= {"after": after[0], "after_id": after[1]}
    direction = "desc" if descending else "asc"
    order = f"order by key {direction}, id {direction}"
    matching = f"select {key} as id, {expression} as key from {table} f where {where}"
    ids = f"select id, key from ({matching}) f" if by_tag else _candidates(wanted, name, matching, order, expected)
    if ids is None:
        if in_folder and wanted.in_root and wanted.owner_id is not None:
            # Only the index for each folder has this order. Without it all of the owner's files might be read for a few.
            order = order.replace("order by", f"order by f.folder_id {direction},")
        source = f"(select f.*, {expression} as key from files f where {where} {order} limit %(limit)s) f"
    else:
        source = f"({ids} {order} limit %(limit)s) p join files f on f.id = p.id"
    sql = (
        f"select {COLUMNS}, {previews.OF_FILE}, key::text as sort_key from {source}"
        f" join objects o on o.object_key = f.file_path {readings.JOIN} order by key {direction}, f.id {direction}"
    )
    # Prepared if an index has just these files in order. The best plan of others depends on how rare a value is.
    of_folder = wanted.only_folder and in_folder
    of_dates = wanted.only_dates and name == "uploaded_at"
    prepare = None if wanted.only_kind or by_tag or of_folder or of_dates else False
    params |= {"limit": limit + 1, "kinds": sorted(FAMILIES)}
    rows = tx.execute(sql, params, prepare=prepare, binary=True).fetchall()
    views = [FileView(FileRecord._make(row[:-2]), previews.parsed(row[-2])) for row in rows[:limit]]
    return views, [rows[limit - 1][-1], str(views[-1].file.id)] if len(rows) > limit else None


def _candidates(wanted: FileFilter, sort: str, matching: str, order: str, expected: int | None) -> str | None:
    """The SQL for ids and sort keys of a page; None for the second of three ways, each of which gives the same rows.

    - Few files are filtered and then sorted. In the order of the sort, a million others might come first.
    - Of many files, the index of the sort soon gives a page.
    - If that index begins with owner, file type or folder, each of these gives a page."""
    # One index has these in order: all or those of some dates by time, an owner's by name and size, the newest of a rare status,
    # and of a folder the newest or by name.
    in_order = {"original_name", "file_size"} if wanted.owner_id is not None else set()
    ordered = (
        (wanted.only_kind and wanted.file_type is None and sort in in_order)
        or (sort == "uploaded_at" and (wanted.only_dates or wanted.status not in (None, "ready")))
        or (sort in _IN_FOLDER and wanted.one_folder)
    )
    if expected is not None and expected <= _FEW and not ordered:
        return f"select id, key from (with few as materialized ({matching}) select * from few) few"
    sources, same = [], ""
    if wanted.only_below and sort in _IN_FOLDER:
        sources.append(f"({_FOLDERS.format(columns='*')}) b")
        matching = matching.replace(_BELOW, "f.owner_id = b.owner_id and f.folder_id = b.id")
    elif not wanted.only_kind or sort not in _SORTED_BY_OWNER:
        return None
    elif wanted.owner_id is None:
        sources.append("owner_usage u")
        same += " and f.owner_id = u.owner_id"
    if sort == "mime_type" and wanted.file_type is None:
        sources.append("unnest(%(kinds)s::text[]) k (kind)")
        same += " and f.file_type = k.kind"
    if not sources:
        return None
    return (
        f"select a.id, a.key from {' cross join '.join(sources)}"
        f" cross join lateral ({matching}{same} {order} limit %(limit)s) a"
    )


_TOTAL_BY_TYPE = """
select coalesce(sum(files), 0) from type_counters
where is_deleted = %(deleted)s and (%(owner)s::text is null or owner_id = %(owner)s)
and (%(file_type)s::text is null or file_type = %(file_type)s) and (%(status)s::text is null or status = %(status)s)
"""
_TOTAL_IN_ROOT = """
select coalesce(sum(files), 0) from folder_counters
where folder_id is null and (%(owner)s::text is null or owner_id = %(owner)s)
"""
_TOTAL_IN_FOLDER = """
select coalesce(sum(f.files), 0) from folder_counters f
where f.folder_id = %(folder)s and (%(owner)s::text is null or f.owner_id = %(owner)s)
"""
_TOTAL_BELOW = f"""
select coalesce(sum(f.files), 0) from folder_counters f
where {_BELOW} and (%(owner)s::text is null or f.owner_id = %(owner)s)
"""


def total(tx: Tx, wanted: FileFilter) -> int | None:
    """The number of files: from a counter (counters.py) if one has it, else counted. None above ``EXACT_UP_TO``."""
    params: dict[str, Any] = {"owner": wanted.owner_id, "folder": wanted.folder_id, "deleted": wanted.deleted}
    everywhere = replace(wanted, folder_id=None, in_root=False, recursive=False)
    if wanted.unfiltered and wanted.owner_id is not None:
        sql = "select coalesce((select file_count from owner_usage where owner_id = %(owner)s), 0)"
        return int(scalar(tx, sql, params))
    if wanted.folder_id is not None and everywhere.unfiltered:
        return int(scalar(tx, _TOTAL_BELOW if wanted.recursive else _TOTAL_IN_FOLDER, params))
    if wanted.in_root and not wanted.recursive and everywhere.unfiltered:
        return int(scalar(tx, _TOTAL_IN_ROOT, params))
    kinds = FileFilter(wanted.owner_id, file_type=wanted.file_type, status=wanted.status, deleted=wanted.deleted)
    if wanted == kinds and (wanted.file_type is None or wanted.file_type in FAMILIES):
        return int(scalar(tx, _TOTAL_BY_TYPE, params | {"file_type": wanted.file_type, "status": wanted.status}))
    where, params = _tagged(wanted) if wanted.only_tag else conditions(wanted)
    table = "file_tags" if wanted.only_tag else "files"
    sql = f"select count(*) from (select from {table} f where {where} limit {EXACT_UP_TO + 1}) c"
    counted = int(scalar(tx, sql, params))
    return counted if counted <= EXACT_UP_TO else None
