"""Which files are archived by themselves: the setting ARCHIVE_RULES.

    days=180; days=30 type=video min_size=100mb; days=90 owner=scanner folder=12

An object is archived once each of its files outside the trash meets one rule, and was neither uploaded nor downloaded for its
days. A preview is no use of the bytes: it is stored apart from them."""

from __future__ import annotations

from dataclasses import dataclass

from core.search_query import parse_size

MAX_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """One rule. None: any."""

    text: str  # as it was given
    days: int
    owner_id: str | None = None
    folder_id: int | None = None  # with all below it
    file_type: str | None = None  # a family, a MIME type, or image/*
    min_size: int | None = None  # bytes


def parse(text: str) -> tuple[ArchiveRule, ...]:
    """Rules separated by ``;``. Raises ValueError, which names the rule."""
    return tuple(_rule(" ".join(part.split())) for part in text.split(";") if part.strip())


def _rule(text: str) -> ArchiveRule:
    given: dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name not in ("days", "owner", "folder", "type", "min_size") or not value or name in given:
            raise ValueError(f"{text}: expects days=, owner=, folder=, type= and min_size=, each once; not {word}")
        given[name] = value
    days, folder = given.get("days", ""), given.get("folder")
    if not _is_number(days) or int(days) > MAX_DAYS:
        raise ValueError(f"{text}: needs days=, a number up to {MAX_DAYS}")
    if folder is not None and not (_is_number(folder) and 0 < int(folder) < 2**31):
        raise ValueError(f"{text}: folder= takes the id of a folder")
    try:
        min_size = parse_size(given["min_size"]) if "min_size" in given else None
    except ValueError:
        raise ValueError(f"{text}: min_size= takes a size such as 10mb") from None
    return ArchiveRule(
        text, int(days), given.get("owner"), (folder and int(folder)) or None, given.get("type"), min_size
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11
