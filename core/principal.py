"""Who asks. An anonymous caller is ``None`` wherever a principal is optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from core.placement import Visibility

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class UploadBudget:
    """What an upload token allows; how much of it is taken is counted in its row, by the uploads themselves."""

    token_id: UUID
    folder_id: int | None  # None: the owner's root and any folder
    folder_gone: bool  # it was deleted: what was to go there goes to the root, private
    max_size: int | None  # bytes of one file
    allowed_types: tuple[str, ...]  # as in ALLOWED_TYPES; empty: what the deployment allows
    visibility: Visibility  # the widest that its uploads may have


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner that a credential speaks for. With a ``budget`` it is an upload token, good for uploading and no more."""

    owner_id: str
    role: Role = "user"
    key_id: UUID | None = None
    budget: UploadBudget | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def token_id(self) -> UUID | None:
        return self.budget.token_id if self.budget else None

    def session_of(self, name: str) -> str:
        """The upload session that this caller means by a name: an upload token's are its own."""
        return f"{self.budget.token_id.hex}.{name}" if self.budget else name


def session_name(session_id: str) -> str:
    """What ``session_of`` was given."""
    return session_id.rpartition(".")[2]
