"""``UNSET``: a member that a PATCH did not name, as opposed to one set to null."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Unset(Enum):
    token = 0

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.token
