"""Where a client wants its files and how: the fields that every way in accepts beside the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Visibility = Literal["private", "public"]
OnDuplicate = Literal["link", "copy", "reject"]


@dataclass(frozen=True, slots=True)
class Placement:
    folder_id: int | None = None
    visibility: Visibility = "private"
    tags: tuple[str, ...] = ()
    on_duplicate: OnDuplicate = "link"
    keep_location: bool = False  # the public may see where a picture was taken
    metadata: dict[str, Any] = field(default_factory=dict)  # the client's own keys, kept under metadata.custom
