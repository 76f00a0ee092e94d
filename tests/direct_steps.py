"""The steps of a direct upload, through the services and the real bucket."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from core.ids import INCOMING_PREFIX
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from db.records import FileRecord
from services import Services
from services.library.files import FileQuery
from services.uploads.direct import DirectUploads, PartUrl, UploadPlan
from services.uploads.resumable import ResumableUploads
from tests.presigned import put
from tests.rows import sql


def direct(services: Services) -> DirectUploads:
    assert services.direct is not None
    return services.direct


def resumable(services: Services) -> ResumableUploads:
    assert services.resumable is not None
    return services.resumable


def begin(services: Services, who: Principal, data: bytes, **options: Any) -> UploadPlan:
    return direct(services).begin(who, **{"filename": "Plan (final).bin", "size": len(data), **options})


def slice_of(data: bytes, number: int) -> bytes:
    return data[(number - 1) * PART_SIZE : number * PART_SIZE]


def send_parts(parts: list[PartUrl], data: bytes) -> list[tuple[int, str]]:
    return [(p.part_number, put(p.request.url, slice_of(data, p.part_number), p.request.headers)) for p in parts]


def send_all(begun: UploadPlan, data: bytes) -> list[tuple[int, str]]:
    if begun.request is not None:
        return [(1, put(begun.request.url, data, begun.request.headers))]
    return send_parts(begun.parts, data)


def upload(services: Services, who: Principal, data: bytes, **options: Any) -> FileRecord:
    """A whole upload, verified."""
    begun = begin(services, who, data, **options)
    send_all(begun, data)
    return checked(services, direct(services).complete(who, begun.upload.id))


def checked(services: Services, file: FileRecord) -> FileRecord:
    services.verification.check(file.id)
    return services.files.get(Principal(file.owner_id), file.id)


def stored(bucket: Any, file: FileRecord) -> bytes:
    with bucket.open(file.file_path) as reader:
        return bytes(reader.read(-1))


def expire(db: Database, upload_id: UUID) -> None:
    sql(db, "update uploads set expires_at = now() - interval '1 second' where id = %s", upload_id)


def let_lease_pass(db: Database) -> None:
    """Expire the leases, and the pause of the sweep after a failure."""
    sql(
        db,
        "update uploads set updated_at = now() - interval '10 minutes' where status in ('completing', 'aborted', 'expired')",
    )
    sql(db, "update uploads set retry_at = null where retry_at is not null")


def incoming(bucket: Any) -> list[str]:
    return [info.key for info in bucket.list_objects(INCOMING_PREFIX)]


def files_of(services: Services, who: Principal) -> list[FileRecord]:
    return services.files.list(who, FileQuery()).items
