"""What an upload may do, whatever its protocol: rules for name, size, type and folder, quota, the budget of an upload token,
and the number of unfinished uploads. Each rule is here only, so no protocol can bypass it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic

from core.errors import FileTooLarge, LimitReached, NotAllowed, NotFound, QuotaExceeded
from core.placement import Placement
from core.principal import Principal, Quota, UploadBudget
from core.unset import UNSET, Unset
from db import Database, Tx, files, folders, now, quotas, uploads
from db import errors as db_errors
from db.records import SessionRecord, UploadRecord
from db.uploads import NewUpload
from services.access import idempotency
from services.access.idempotency import Claim
from services.access.quotas import remember_claim
from services.access.visibility import check_target
from services.library.tags import check_tags
from services.library.type_policy import TypePolicy
from services.objects.capacity import StorageCapacity

_SESSION_FULL = "This would exceed the quota of the upload session."


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """The deployment's limits."""

    max_file_size: int  # bytes
    quota: Quota  # for each owner
    session_quota: Quota  # for each upload session
    max_open_uploads: int  # for each owner


class UploadPolicy:
    """The rules, and the reservations of quota."""

    def __init__(self, db: Database, types: TypePolicy, capacity: StorageCapacity, limits: PolicyLimits):
        self._db = db
        self.types = types
        self._capacity = capacity
        self._limits = limits

    def check_declared(self, principal: Principal, name: str, *, size: int | None, claimed_type: str | None) -> str:
        """Check what is known before a byte arrives. Returns the cleaned name. Raises InvalidName, FileTooLarge,
        TypeNotAllowed, StorageFull."""
        clean = self.types.check_name(principal, name, claimed_type=claimed_type)
        self.check_size(principal, size or 0, more=size or 0)
        return clean

    def check_size(self, principal: Principal, size: int, *, more: int = 0) -> None:
        """Check an upload of ``size`` bytes, ``more`` of which the bucket must now find room for. Raises FileTooLarge,
        StorageFull."""
        limit = self.max_size(principal)
        if size > limit:
            raise FileTooLarge(f"A file may have at most {limit} bytes.")
        self._capacity.admit(more)

    def max_size(self, principal: Principal) -> int:
        """Bytes that a file of this caller may have: the deployment's limit, or the upload token's if that is lower."""
        limit, budget = self._limits.max_file_size, principal.budget
        return limit if budget is None or budget.max_size is None else min(limit, budget.max_size)

    def place(self, principal: Principal, placement: Placement) -> Placement:
        """The placement that applies. The files of an upload token with a folder go there or, if it was deleted, to the root
        as private files. Those of a key that is limited to a folder go there by default. Raises NotFound for another folder, and
        NotAllowed for what would publish more than the token allows or reveal what the owner has, and LimitReached for too many
        tags."""
        if principal.budget is not None:
            placement = self._place_by_token(principal.budget, placement)
        elif principal.folder_id is not None:
            if placement.on_duplicate == "reject":  # the owner's other folders may have it
                raise NotAllowed("With a key that is limited to a folder, on_duplicate must be link or copy.")
            placement = replace(placement, folder_id=placement.folder_id or principal.folder_id)
        if placement.folder_id != principal.folder_id:  # its own folder may be gone, which ``landing`` knows
            check_target(principal, placement.folder_id)
        check_tags(self._db, principal.owner_id, placement.tags)
        return placement

    def _place_by_token(self, budget: UploadBudget, placement: Placement) -> Placement:
        if placement.on_duplicate != "link":
            raise NotAllowed("With an upload token, on_duplicate must be link.")
        if placement.visibility == "public" and budget.visibility == "private":
            raise NotAllowed("This upload token does not allow public files.")
        if budget.folder_id is None:
            return placement
        if placement.folder_id not in (None, budget.folder_id):
            raise NotFound("There is no such folder.")
        if budget.folder_gone:
            return replace(placement, folder_id=None, visibility="private")
        return replace(placement, folder_id=budget.folder_id)

    def admit(
        self,
        principal: Principal,
        new: NewUpload,
        *,
        once: Claim | None = None,
        also: Callable[[Tx, UploadRecord], None] | None = None,
        began: float | None = None,
    ) -> UploadRecord:
        """Commit the upload's row and what ``also`` adds, and reserve its quota; ``once`` records its id. ``began`` is as in
        ``landing``, if bytes have come in already. Raises QuotaExceeded, LimitReached, or NotFound for the folder; then nothing
        is reserved."""
        new = replace(new, token_id=principal.token_id, bound=principal.folder_id is not None)
        limits, upload = self._limits, None
        bounds = {"quota": limits.quota, "session_quota": limits.session_quota}
        remember_claim(self._db, principal)
        # Without quota and token, one statement decides. Refused in a race, it leaves at most an empty session.
        alone = once is None and also is None and self.reserves_nothing(principal)
        try:
            with self._db.connection() if alone else self._db.transaction() as tx:
                upload = uploads.admit(tx, new, **bounds, max_open=limits.max_open_uploads)
                if upload is not None:
                    if also is not None:
                        also(tx, upload)
                    idempotency.record(tx, once, upload.id)
                elif not alone:
                    raise db_errors.Rollback
        except db_errors.ForeignKeyViolation:
            landing = self.landing(principal, new.placement, began=began)
            new = replace(new, placement=landing, folder_gone=True)
            return self.admit(principal, new, once=once, also=also, began=began)
        if upload is not None:
            return upload
        with self._db.connection() as tx:
            reason = uploads.refusal(tx, new, **bounds, max_open=limits.max_open_uploads)
        if reason is None:  # another request has freed it meanwhile
            return self.admit(principal, new, once=once, also=also, began=began)
        if reason == "quota":
            raise QuotaExceeded()
        if reason == "session":
            raise QuotaExceeded(_SESSION_FULL)
        if reason == "budget":
            raise QuotaExceeded("This would exceed the upload token's budget.")
        raise LimitReached(f"At most {limits.max_open_uploads} uploads may be unfinished at the same time.")

    def landing(self, principal: Principal, placement: Placement, *, began: float | None) -> Placement:
        """Where an upload goes whose folder was deleted since it ``began`` (by ``monotonic``): to the nearest folder above, or
        to the root, as an upload token's does. A token's becomes private, and that of a key that is limited to a folder.
        Raises NotFound if the owner has had no such folder since then."""
        budget, gone = principal.budget, placement.folder_id
        heir: int | Unset | None = UNSET
        if gone is not None and began is not None:
            with self._db.connection() as tx:
                since = now(tx) - timedelta(seconds=monotonic() - began)  # in this order: never later than it began
                heir = folders.heir(tx, principal.owner_id, gone, since=since)
        if budget is not None and (not isinstance(heir, Unset) or gone == budget.folder_id):
            return replace(placement, folder_id=None, visibility="private")
        if isinstance(heir, Unset):
            raise NotFound("There is no such folder.")
        return replace(
            placement, folder_id=heir, visibility=placement.visibility if principal.folder_id is None else "private"
        )

    def reserves_nothing(self, principal: Principal) -> bool:
        """Whether neither a quota nor an upload token bounds the caller's uploads."""
        return self._limits.quota == Quota() and not principal.has_quota and principal.budget is None

    def check_kept(self, tx: Tx, owner_id: str) -> None:
        """Raises QuotaExceeded if what this transaction made files does not fit: the owner may have got a quota since."""
        if not quotas.kept(tx, owner_id, self._limits.quota):
            raise QuotaExceeded()

    def open_publication(
        self,
        tx: Tx,
        owner_id: str,
        folder_id: int | None,
        *,
        session_id: str,
        count: int,
        size: int,
        contents: Iterable[str] = (),
        began: timedelta = timedelta(),
    ) -> SessionRecord:
        """``files.open_publication`` within the quota of the upload session. Raises QuotaExceeded."""
        session = files.open_publication(
            tx,
            owner_id,
            folder_id,
            session_id=session_id,
            count=count,
            size=size,
            quota=self._limits.session_quota,
            contents=contents,
            began=began,
        )
        if session is None:
            raise QuotaExceeded(_SESSION_FULL)
        return session

    def available(self, upload: UploadRecord) -> int | None:
        """Bytes that quota and upload token leave now; None without a limit."""
        with self._db.connection() as tx:
            return uploads.available(tx, upload.owner_id, upload.token_id, quota=self._limits.quota)

    def extend(self, upload: UploadRecord, reserve: int, *, expires_in: timedelta) -> bool:
        """Reserve ``reserve`` bytes of quota in all, and postpone the expiry. False if quota or budget do not allow it, or if
        the upload is over."""
        with self._db.transaction() as tx:
            extended = uploads.extend(tx, upload.id, reserve=reserve, expires_in=expires_in, quota=self._limits.quota)
            if not extended:
                raise db_errors.Rollback
        return extended

    def reserve(self, upload: UploadRecord, size: int, *, expires_in: timedelta) -> UploadRecord:
        """Reserve quota for ``size`` bytes in all, if they are more than was reserved. Doubles the reservation where that
        is allowed, so that a growing upload needs few statements. Raises QuotaExceeded."""
        if size <= upload.reserved:
            return upload
        for reserve in (max(size, 2 * upload.reserved), size):
            if self.extend(upload, reserve, expires_in=expires_in):
                return replace(upload, reserved=reserve)
        raise QuotaExceeded()
