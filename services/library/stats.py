"""Statistics: how much an owner stores, of which types, in which folders, and the newest events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from core.errors import NotAllowed
from core.principal import Principal, Quota
from db import Database, quotas, stats
from services.access.visibility import owner_scope
from services.objects.capacity import StorageCapacity
from telemetry import Gauge, gauge

_FOLDERS = 100
_RECENT = 20
_NEAR = 0.9  # of a quota


class Stats:
    """Reads statistics."""

    def __init__(self, db: Database, capacity: StorageCapacity, quota: Quota):
        self._db = db
        self._capacity = capacity
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
            "capacity": self._capacity.report(),
            "recent_activity": [asdict(event) for event in recent],
        }

    def gauges(self) -> list[Gauge]:
        """Files, bytes, quotas and open uploads of all owners together, for /metrics."""
        with self._db.connection() as tx:
            counts, usage, uploads = stats.count(tx, None), stats.usage(tx, None), stats.open_uploads(tx)
            near = quotas.near(tx, self._quota, share=_NEAR)
        files = [((status,), float(number)) for status, number in counts.by_status.items()]
        sizes = {"files": usage.used, "objects": usage.stored, "saved": usage.saved}
        return [
            Gauge("gateway_files", "Files outside the trash, by status", ("status",), files),
            Gauge(
                "gateway_bytes",
                "Bytes of all files, of the objects that they share, and saved by compression; the trash included",
                ("of",),
                [((kind,), float(size)) for kind, size in sizes.items()],
            ),
            gauge("gateway_quota_near_owners", f"Owners who have used {_NEAR:.0%} of their quota", near),
            Gauge(
                "gateway_open_uploads",
                "Uploads in progress",
                ("protocol",),
                [((found.protocol,), float(found.number)) for found in uploads],
            ),
            Gauge(
                "gateway_open_upload_oldest_seconds",
                "Seconds since the oldest upload in progress began",
                ("protocol",),
                [((found.protocol,), found.oldest_seconds) for found in uploads],
            ),
        ]
