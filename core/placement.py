"""The fields that all ways of uploading accept beside the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Visibility = Literal["private", "public"]
OnDuplicate = Literal["link", "copy", "reject"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an upload becomes a file, and how."""

    folder_id: int | None = None
    visibility: Visibility = "private"
    tags: tuple[str, ...] = ()
    on_duplicate: OnDuplicate = "link"
    keep_location: bool = False  # also in what the public downloads of a picture
    metadata: dict[str, Any] = field(default_factory=dict)  # the client's own keys, stored under metadata.custom
