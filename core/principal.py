"""Who calls. An anonymous caller is ``None`` wherever a principal is optional."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from core.placement import Visibility

Role = Literal["user", "admin"]
Scope = Literal["read", "write", "delete", "admin"]
Credential = Literal["key", "token", "jwt", "session"]  # token: an upload token

SCOPES: frozenset[Scope] = frozenset({"read", "write", "delete", "admin"})


@dataclass(frozen=True, slots=True)
class UploadBudget:
    """What an upload token allows. Its row counts what its uploads have used."""

    token_id: UUID
    folder_id: int | None  # None: any folder of the owner
    folder_gone: bool  # the folder was deleted: uploads go to the root, private
    max_size: int | None  # bytes of one file
    allowed_types: tuple[str, ...]  # as in ALLOWED_TYPES; empty: those of the deployment
    visibility: Visibility  # the widest for its uploads


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one owner, or of one upload session. None: no limit of this kind."""

    max_bytes: int | None = None
    max_files: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller. With a ``budget`` the credential is an upload token, which permits uploads only."""

    owner_id: str
    role: Role = "user"
    key_id: UUID | None = None
    budget: UploadBudget | None = None
    has_quota: bool = True  # whether the owner may have a quota besides the deployment's
    credential: Credential = "key"
    scopes: frozenset[Scope] = SCOPES  # what the credential may do; the role decides on whose files
    folder_id: int | None = None  # only this folder and what is below it
    folders: frozenset[int] = frozenset()  # with folder_id: the ids of these, as they were when the request began
    quota: Quota | None = None  # as the identity provider claims it; each limit that is set replaces the deployment's
    seconds_left: int | None = field(default=None, compare=False)  # of a JWT, when it was checked

    @property
    def is_admin(self) -> bool:
        """Whether the credential has the role ``admin``."""
        return self.role == "admin"

    @property
    def token_id(self) -> UUID | None:
        """The upload token's id; None for an API key."""
        return self.budget.token_id if self.budget else None

    @property
    def reach(self) -> list[int] | None:
        """The folders that the credential reaches; None: all, and the root."""
        return None if self.folder_id is None else list(self.folders)

    def reaches(self, folder_id: int | None) -> bool:
        """Whether it reaches what is in this folder, or in the root, of an owner whose files it reaches."""
        return self.folder_id is None or folder_id in self.folders

    @property
    def apart(self) -> str | None:
        """32 hexadecimal digits for a credential that must not get what others of its owner have begun; None for others."""
        if self.budget is not None:
            return self.budget.token_id.hex
        return None if self.folder_id is None else f"{self.folder_id:032x}"

    def began(self, session_id: str | None) -> bool:
        """Whether it, or another key of the same folder, began the upload with this session."""
        return self.apart is not None and (session_id or "").startswith(f"{self.apart}.")

    def session_of(self, name: str) -> str:
        """The id of the caller's upload session ``name``. Upload tokens and keys of a folder have sessions of their own."""
        return f"{self.apart}.{name}" if self.apart else name


def session_name(session_id: str) -> str:
    """The name that was passed to ``session_of``."""
    return session_id.rpartition(".")[2]
