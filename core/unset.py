"""``UNSET``: a member that a PATCH omits, as opposed to one that is null."""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

T = TypeVar("T")


class Unset(Enum):
    """The type of ``UNSET``."""

    token = 0

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.token


def value_or_none(value: T | Unset) -> T | None:
    """The value, or None if it is not set."""
    return None if isinstance(value, Unset) else value
