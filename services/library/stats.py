"""Statistics: how much an owner stores, of which types, in which folders, and the newest events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from core.errors import NotAllowed
from core.principal import Principal, Quota
from db import Database, quotas, stats
from services.access.visibility import owner_scope
from storage_backends.base import ObjectStore, ReportsCapacity, StorageError

_FOLDERS = 100
_RECENT = 20


class Stats:
    """Reads statistics."""

    def __init__(self, db: Database, store: ObjectStore, quota: Quota):
        self._db = db
        self._store = store
        self._quota = quota  # the deployment's

    def storage(self, principal: Principal, owner: str | None = None) -> dict[str, Any]:
        """The members of ``GET /api/storage/stats``. The trash counts in ``quota`` and the saved bytes only. Raises NotAllowed,
        also for a key that is limited to a folder: no counters are kept of all that is below one."""
        owner_id = owner_scope(principal, owner)
        if principal.folder_id is not None:
            raise NotAllowed("Statistics are of all folders, and this key is limited to one.")
        with self._db.connection() as tx:
            counts = stats.count(tx, owner_id)
            usage = stats.usage(tx, owner_id)
            limits = None if owner_id is None else quotas.get(tx, owner_id, self._quota)
            largest = stats.largest_folders(tx, owner_id, limit=_FOLDERS)
            recent = stats.recent(tx, owner_id, limit=_RECENT)
        return {
            "total_files": counts.files,
            "total_size": counts.size,
            "by_type": [
                {"file_type": file_type, "count": files, "size": size}
                for file_type, (files, size) in sorted(counts.by_type.items(), key=lambda item: -item[1][1])
            ],
            "by_folder": [
                {"folder_id": folder.folder_id, "name": folder.name, "count": folder.files, "size": folder.size}
                for folder in largest
            ],
            "by_status": counts.by_status,
            "deduplicated_bytes": max(0, usage.used - usage.stored),
            "compressed_bytes_saved": usage.saved,
            "quota": {
                "used": usage.used,
                "limit": None if limits is None else limits.max_bytes,
                "files": usage.files,
                "max_files": None if limits is None else limits.max_files,
            },
            "capacity": self._capacity(),
            "recent_activity": [asdict(event) for event in recent],
        }

    def _capacity(self) -> dict[str, int] | None:
        if not isinstance(self._store, ReportsCapacity):
            return None
        try:
            capacity = self._store.capacity()
        except StorageError:  # report the rest all the same (T103)
            return None
        return None if capacity is None else {"free": capacity.free, "total": capacity.total}
