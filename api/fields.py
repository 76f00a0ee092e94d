"""Types of values in queries, headers, form fields and JSON bodies.

They are stricter than pydantic's own, which read "5.0" and " 5 " as the integer 5 and accept NUL; PostgreSQL does not store
NUL. So every route gives the same answer to the same mistake (T16).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

from core.cursors import MAX_LENGTH

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def _integer(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not _INTEGER.fullmatch(value):
        raise ValueError("must be an integer")
    return int(value)


def _storable(value: str) -> str:
    if "\0" in value or (not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value)):
        raise ValueError("must not contain NUL or lone surrogates")
    return value


def listed(value: Any) -> Any:
    """A list whose values are repeated, separated by commas, or both."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(item.strip() for text in value for item in text.split(",") if item.strip())


def _moment(value: Any, *, end: bool) -> Any:
    """A time, or the start of a date. With ``end``, the first moment after it, because both ends of a range are included."""
    if not isinstance(value, str):
        return value
    try:
        if _DATE.fullmatch(value):
            start, step = datetime.combine(date.fromisoformat(value), time(), UTC), timedelta(days=1)
        elif _TIME.fullmatch(value):
            start, step = datetime.fromisoformat(value.upper()), timedelta(microseconds=1)
            start = (start if start.tzinfo else start.replace(tzinfo=UTC)).astimezone(UTC)
        else:
            raise ValueError
        return start + step if end else start
    except (ValueError, OverflowError):
        raise ValueError("must be a time such as 2026-11-23T04:15:00Z, or a date such as 2026-11-23") from None


def _utc(value: datetime) -> datetime:
    """In UTC, within the years 1 to 9999: PostgreSQL stores other times, but Python can't read them."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be between the years 1 and 9999 in UTC") from None


def page_size(value: int) -> int:
    """The limit of a list; above 200 means 200."""
    return min(value, 200)


_MOMENT_SCHEMA = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]}

# Bounds come before validators: pydantic documents only these.
Int64 = Annotated[int, Field(ge=0, le=MAX_INT64), BeforeValidator(_integer)]
Positive64 = Annotated[int, Field(ge=1, le=MAX_INT64), BeforeValidator(_integer)]
FolderId = Annotated[int, Field(ge=1, le=MAX_INT32)]  # in JSON
FolderIdText = Annotated[FolderId, BeforeValidator(_integer)]  # in a query or a form
Limit = Annotated[Positive64, AfterValidator(page_size)]
Text = Annotated[str, AfterValidator(_storable)]
ShortText = Annotated[str, Field(max_length=255), AfterValidator(_storable)]
TextList = Annotated[tuple[Text, ...], BeforeValidator(listed)]
From = Annotated[datetime, BeforeValidator(lambda value: _moment(value, end=False)), WithJsonSchema(_MOMENT_SCHEMA)]
Until = Annotated[datetime, BeforeValidator(lambda value: _moment(value, end=True)), WithJsonSchema(_MOMENT_SCHEMA)]
Cursor = Annotated[str, Field(max_length=MAX_LENGTH)]
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]  # in JSON
Owner = Annotated[
    str,
    Field(min_length=1, max_length=255, description="Admin keys only: another owner, or * for all"),
    AfterValidator(_storable),
]


def _tag(value: str) -> str:
    value = _storable(value).strip()
    if not value or "," in value or not value.isprintable():
        raise ValueError("a tag is 1 to 100 printable characters without a comma")
    return value


Tag = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_tag)]
Tags = Annotated[tuple[Tag, ...], Field(max_length=50), AfterValidator(lambda tags: tuple(dict.fromkeys(tags)))]
TagList = Annotated[Tags, BeforeValidator(listed)]


def as_uuid(text: str) -> UUID | None:
    """The id, or None if the text is not one."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None
