"""Who may see and change what. What is not yours is not there: both get the same NotFound."""

from __future__ import annotations

from core.errors import NotAllowed, NotAuthenticated, NotFound
from core.principal import Principal
from db.records import FileRecord


def owner_scope(principal: Principal, owner: str | None) -> str | None:
    """Whose things a list shows: the caller's own, for admins any owner's (``*``: None, everybody's)."""
    if owner is None or owner == principal.owner_id:
        return principal.owner_id
    if not principal.is_admin:
        raise NotAllowed("Only an admin key may list what others own.")
    return None if owner == "*" else owner


def may_change(principal: Principal | None, owner_id: str) -> bool:
    return principal is not None and (principal.is_admin or principal.owner_id == owner_id)


def visible(principal: Principal | None, file: FileRecord | None) -> FileRecord:
    """The file, if this caller may read it; else NotFound, in the same words for "not yours" and "not there".

    Of others, and without a credential, only public files are there, until they are in the trash or expire; without one the
    answer to all else is NotAuthenticated."""
    if file is not None and (may_change(principal, file.owner_id) or is_public(file)):
        return file
    raise NotAuthenticated() if principal is None else NotFound("There is no such file.")


def is_public(file: FileRecord) -> bool:
    return file.visibility == "public" and not file.is_deleted and not file.expired


def owned(principal: Principal, file: FileRecord | None) -> FileRecord:
    """The file, if this caller may change it; else NotFound."""
    if file is None or not may_change(principal, file.owner_id):
        raise NotFound("There is no such file.")
    return file
