"""Who may see and change a file. A file that the caller may not see answers NotFound, as one that does not exist.

A key that is limited to a folder reaches this folder and what is below it (``Principal.reaches``), and of the rest only what is
public. Lists pass its folder to the filter that ``?folder=`` uses."""

from __future__ import annotations

from typing import Literal

from core.errors import NotAllowed, NotAuthenticated, NotFound
from core.principal import Principal
from db.records import FileRecord


def owner_scope(principal: Principal, owner: str | None) -> str | None:
    """The owner whose list to show: the caller, or for admins any owner (``*``: None, everybody). Raises NotAllowed."""
    if owner is None or owner == principal.owner_id:
        return principal.owner_id
    if not principal.is_admin:
        raise NotAllowed("Only an admin key may list what other owners have.")
    return None if owner == "*" else owner


def listed(
    principal: Principal, folder: int | Literal["root"] | None, *, recursive: bool
) -> tuple[int | Literal["root"] | None, bool]:
    """Which folder to list, and whether with all below. Raises NotFound for what a key of a folder does not reach."""
    if folder is None and principal.folder_id is not None:
        return principal.folder_id, True
    if folder is not None:
        check_target(principal, None if folder == "root" else folder)
    return folder, recursive


def check_target(principal: Principal, folder_id: int | None) -> None:
    """Raises NotFound for a folder, or the root, that the credential does not reach. The tables' constraints see to it that a
    folder is the owner's."""
    if not principal.reaches(folder_id):
        raise NotFound("There is no such folder.")


def may_change(principal: Principal | None, owner_id: str, folder_id: int | None) -> bool:
    """Whether the caller is the owner or an admin, and reaches the folder (None: the root)."""
    return (
        principal is not None
        and (principal.is_admin or principal.owner_id == owner_id)
        and principal.reaches(folder_id)
    )


def visible(principal: Principal | None, file: FileRecord | None) -> FileRecord:
    """The file, if the caller may read it: the owner, an admin, or anybody if it is public. Raises NotFound, or without a
    credential NotAuthenticated."""
    if file is not None and (may_change(principal, file.owner_id, file.folder_id) or is_public(file)):
        return file
    raise NotAuthenticated() if principal is None else NotFound("There is no such file.")


def is_public(file: FileRecord) -> bool:
    """Whether anybody may read the file now."""
    return file.visibility == "public" and not file.is_deleted and not file.expired


def owned(principal: Principal, file: FileRecord | None) -> FileRecord:
    """The file, if the caller may change it. Raises NotFound."""
    if file is None or not may_change(principal, file.owner_id, file.folder_id):
        raise NotFound("There is no such file.")
    return file
