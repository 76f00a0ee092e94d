"""Who asks. An anonymous caller is ``None`` wherever a principal is optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    owner_id: str
    role: Role = "user"
    key_id: UUID | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"
