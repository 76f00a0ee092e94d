"""Statistics: what an owner stores, of what kind and where, and what happened last."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from core.principal import Principal
from db import Database, stats
from services.access.visibility import owner_scope
from storage_backends.base import ObjectStore, ReportsCapacity, StorageError

_FOLDERS = 100
_RECENT = 20


class Stats:
    def __init__(self, db: Database, store: ObjectStore, quota_bytes: int | None):
        self._db = db
        self._store = store
        self._quota_bytes = quota_bytes

    def storage(self, principal: Principal, owner: str | None = None) -> dict[str, Any]:
        """The members of ``GET /api/storage/stats``. The trash counts in ``quota`` and what is saved, else nowhere."""
        owner_id = owner_scope(principal, owner)
        with self._db.connection() as tx:
            counted = stats.count(tx, owner_id)
            used, own_quota, stored, saved = stats.totals(tx, owner_id)
            largest = stats.largest_folders(tx, owner_id, limit=_FOLDERS)
            recent = stats.recent(tx, owner_id, limit=_RECENT)
        limit = None if owner_id is None else self._quota_bytes if own_quota is None else own_quota
        return {
            "total_files": counted.files,
            "total_size": counted.size,
            "by_type": [
                {"file_type": kind, "count": number, "size": size}
                for kind, (number, size) in sorted(counted.by_type.items(), key=lambda item: -item[1][1])
            ],
            "by_folder": [
                {"folder_id": folder.folder_id, "name": folder.name, "count": folder.files, "size": folder.size}
                for folder in largest
            ],
            "by_status": counted.by_status,
            "deduplicated_bytes": max(0, used - stored),
            "compressed_bytes_saved": saved,
            "quota": {"used": used, "limit": limit},
            "capacity": self._capacity(),
            "recent_activity": [asdict(event) for event in recent],
        }

    def _capacity(self) -> dict[str, int] | None:
        if not isinstance(self._store, ReportsCapacity):
            return None
        try:
            capacity = self._store.capacity()
        except StorageError:  # the rest is still worth telling (THREATS T103)
            return None
        return None if capacity is None else {"free": capacity.free, "total": capacity.total}
