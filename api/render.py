"""Records to contract JSON: plain functions from a record to a dict; api/response_models.py says what these hold.

Links are addresses under PUBLIC_URL and never presigned, and nothing of the request's Host gets into them
(THREATS T38).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson
from flask import Response, json, request
from flask.json.provider import DefaultJSONProvider

from api.context import http, principal, services
from core.cursors import Page
from core.errors import GatewayError
from core.principal import Principal, session_name
from db.records import EventRecord, FileRecord, JobRecord, KeyRecord, PreviewRecord, RescanRecord, SessionRecord
from services.access.visibility import may_change
from services.library import public_copies
from services.library.files import FileView, etag

T = TypeVar("T")
Json = dict[str, Any]


class GatewayJSON(DefaultJSONProvider):
    """Times as RFC 3339 in UTC with a Z, ids as text, members in the order they were written.

    orjson takes an eighth of the standard library's time, which a tree of 10,000 folders shows; what it refuses (integers
    beyond 64 bits, in what clients keep in ``metadata.custom``) is written by the latter."""

    sort_keys = False
    ensure_ascii = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        try:
            return orjson.dumps(obj, option=orjson.OPT_UTC_Z).decode()
        except TypeError:
            return super().dumps(obj, separators=(",", ":"), **kwargs)

    @staticmethod
    def default(o: Any) -> Any:
        if isinstance(o, datetime):
            return timestamp(o)
        if isinstance(o, (date, UUID)):
            return str(o)
        raise TypeError(f"{type(o).__name__} has no JSON form")


def timestamp(moment: datetime) -> str:
    text = moment.isoformat()
    if not text.endswith("+00:00"):  # from elsewhere than the database, whose sessions are in UTC
        text = moment.astimezone(UTC).isoformat()
    return text[:-6] + "Z"


def answer(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status, headers=dict(headers or {}), content_type="application/json")


def no_content() -> Response:
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


# -- files ---------------------------------------------------------------------------------------------------


def file(record: FileRecord, previews: Iterable[PreviewRecord], principal: Principal | None) -> Json:
    """A file as this caller may see it, as ``public_copies.shown`` gave it: of another's public file what all may see (T37)."""
    return (_whole_file if may_change(principal, record.owner_id) else _public_file)(record, previews)


def _whole_file(record: FileRecord, previews: Iterable[PreviewRecord]) -> Json:
    return {
        "id": record.id,
        "original_name": record.original_name,
        "stored_name": record.stored_name,
        "file_path": record.file_path,
        "mime_type": record.mime_type,
        "file_size": record.file_size,
        "file_hash": record.file_hash,
        "folder_id": record.folder_id,
        "status": record.status,
        "visibility": record.visibility,
        "keep_location": record.keep_location,
        "tags": record.tags,
        "owner_id": record.owner_id,
        "storage_class": record.storage_class,
        "uploaded_at": record.uploaded_at,
        "last_accessed": record.last_accessed,
        "download_count": record.download_count,
        "is_deleted": record.is_deleted,
        "deleted_at": record.deleted_at,
        "expires_at": record.expires_at,
        "problem": record.problem or (public_copies.STUCK if public_copies.is_stuck(record) else None),
        "metadata": record.metadata,
        **_addresses(record, previews),
    }


def _public_file(record: FileRecord, previews: Iterable[PreviewRecord]) -> Json:
    return {
        "id": record.id,
        "original_name": record.original_name,
        "mime_type": record.mime_type,
        "file_size": record.file_size,
        "file_hash": record.file_hash,
        "uploaded_at": record.uploaded_at,
        "expires_at": record.expires_at,
        "status": record.status,
        **_addresses(record, previews),
    }


def _addresses(record: FileRecord, previews: Iterable[PreviewRecord]) -> Json:
    address = f"{http().base_url}/api/files/{record.id}"
    return {
        "previews": [_preview(preview, address) for preview in previews],
        "links": {"self": address, "download": f"{address}/download", "preview": f"{address}/preview"},
    }


def _preview(preview: PreviewRecord, address: str) -> Json:
    query = {"type": preview.preview_type}
    if preview.preview_type == "thumbnail":
        query["size"] = str(preview.variant)
    elif preview.preview_type == "page":
        query["page"] = str(preview.variant)
    return {
        "type": preview.preview_type,
        "width": preview.width,
        "height": preview.height,
        "mime_type": preview.mime_type,
        "url": f"{address}/preview?{urlencode(query)}",
    }


def files(records: Sequence[FileRecord], principal: Principal | None) -> list[Json]:
    """Several files, their previews read by one statement."""
    shown = services().public_copies.shown
    return [file(shown(principal, view.file), view.previews, principal) for view in services().files.views(records)]


def file_answer(record: FileRecord, principal: Principal | None, **members: Any) -> Response:
    """One file with its ETag."""
    document = files([record], principal)[0] | members
    return answer(document, headers={"ETag": etag(services().public_copies.shown(principal, record))})


def new_file(view: FileView) -> Response:
    """A file that the caller has just made, with its ETag and address; for an upload token less of it."""
    headers = {"Location": f"{http().base_url}/api/files/{view.file.id}"}
    if principal().budget is None:
        headers["ETag"] = etag(view.file)
    return answer(made_file(view), 201, headers)


def made_file(view: FileView) -> Json:
    return _whole_file(view.file, view.previews) if principal().budget is None else _sent(view.file)


def _sent(record: FileRecord) -> Json:
    """Without the problems of an object, since another file's may have had them before."""
    its_own = record.status in ("rejected", "infected") or (record.problem or {}).get("code") == "folder_gone"
    return {
        "id": record.id,
        "original_name": record.original_name,
        "file_size": record.file_size,
        "status": record.status,
        "problem": record.problem if its_own else None,
    }


def event(record: EventRecord) -> Json:
    return {"id": record.id, "action": record.action, "actor": record.actor, "at": record.at}


def session(record: SessionRecord) -> Json:
    return {
        "session_id": session_name(record.session_id),
        "files_uploaded": record.files_uploaded,
        "total_size": record.total_size,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
    }


def rejected(original_name: str, error: GatewayError) -> Json:
    return {"original_name": original_name, "problem": error.as_problem()}


def key(record: KeyRecord) -> Json:
    return {
        "id": record.id,
        "owner_id": record.owner_id,
        "name": record.name,
        "role": record.role,
        "created_at": record.created_at,
        "revoked_at": record.revoked_at,
    }


def job(record: JobRecord) -> Json:
    """Of its arguments the file alone: others may hold what is nobody's to see."""
    file_id = record.arguments.get("file_id")
    return {
        "id": record.id,
        "queue": record.queue,
        "task": record.task,
        "owner_id": record.owner_id,
        "file_id": file_id if isinstance(file_id, str) else None,
        "status": record.status,
        "attempts": record.attempts,
        "deaths": record.deaths,
        "error": record.error,
        "enqueued_at": record.enqueued_at,
        "started_at": record.started_at,
        "scheduled_at": record.scheduled_at,
    }


def rescan(record: RescanRecord) -> Json:
    return {
        "id": record.id,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "scanned": record.scanned,
        "infected": record.infected,
        "failed": record.failed,
    }


# -- lists ---------------------------------------------------------------------------------------------------


def page(found: Page[T], item: Callable[[T], Any], **members: Any) -> Response:
    """A page whose items are rendered one by one."""
    return page_of([item(record) for record in found.items], found.next_cursor, found.total, **members)


def page_of(items: list[Any], next_cursor: str | None, total: int | None, **members: Any) -> Response:
    """A page; its ``Link: rel="next"`` (RFC 8288) repeats the query with the next cursor."""
    headers = {}
    if next_cursor is not None:
        query = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
        query.append(("cursor", next_cursor))
        address = f"{http().base_url}{quote(request.script_root + request.path)}?{urlencode(query, errors='replace')}"
        headers["Link"] = f'<{address}>; rel="next"'
    return answer({"items": items, "next_cursor": next_cursor, "total": total, **members}, 200, headers)
