"""Records to JSON: functions from a record to the members of a model of api/response_models.py.

Links are addresses under PUBLIC_URL. They are never presigned, and never contain the request's Host (T38).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson
from flask import Response, current_app, request
from flask.json.provider import DefaultJSONProvider
from pydantic import BaseModel

from api.context import principal, services, settings
from api.response_models import (
    BackupOut,
    EventOut,
    FileOut,
    JobOut,
    KeyOut,
    PreviewOut,
    PublicFileOut,
    RescanOut,
    ScrubFindingOut,
    ScrubPassOut,
    SentFileOut,
    SessionOut,
)
from core.cursors import Page
from core.errors import GatewayError
from core.principal import Principal, session_name
from db.records import EventRecord, FileDetailsRecord, FileRecord, FileView, JobRecord, PreviewRecord, SessionRecord
from services.access.visibility import may_change
from services.library import public_copies
from services.library.files import etag

T = TypeVar("T")
Json = dict[str, Any]


class GatewayJSON(DefaultJSONProvider):
    """Times as RFC 3339 in UTC with a Z, ids as text.

    orjson takes an eighth of the standard library's time, which matters for a tree of 10,000 folders. What orjson can't
    write (integers of more than 64 bits in a client's ``metadata.custom``) is written by the standard library."""

    sort_keys = False
    ensure_ascii = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """The object as JSON text."""
        return self.encoded(obj).decode()

    def encoded(self, obj: Any) -> bytes:
        """The object as JSON text in UTF-8."""
        try:
            return orjson.dumps(obj, option=orjson.OPT_UTC_Z)
        except TypeError:
            return super().dumps(obj, separators=(",", ":")).encode()

    @staticmethod
    def default(o: Any) -> Any:
        """What the standard library writes for a type that it does not know."""
        if isinstance(o, datetime):
            return timestamp(o)
        if isinstance(o, (date, UUID)):
            return str(o)
        raise TypeError(f"{type(o).__name__} has no JSON form")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with a Z."""
    text = moment.isoformat()
    if not text.endswith("+00:00"):  # not from the database, whose sessions are in UTC
        text = moment.astimezone(UTC).isoformat()
    return text[:-6] + "Z"


def answer(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    body = cast(GatewayJSON, current_app.json).encoded(document)
    return Response(body, status, headers=dict(headers or {}), content_type="application/json")


def no_content() -> Response:
    """204 without a body."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def as_model(model: type[BaseModel], *computed: str, of: Any = None) -> Callable[..., Json]:
    """A function that reads a record's attributes as the members of the model; those ``computed`` are passed by keyword. ``of``:
    the named tuple that all the records are, which is read twice as fast."""
    names = [name for name in model.model_fields if name not in computed]
    read = attrgetter(*names) if of is None else itemgetter(*(of._fields.index(name) for name in names))

    def render(record: Any, **members: Any) -> Json:
        document = dict(zip(names, read(record), strict=True))
        document.update(members)
        return document

    return render


# -- files ---------------------------------------------------------------------------------------------------

_as_file = as_model(FileOut, "problem", "previews", "links", of=FileRecord)
_as_public_file = as_model(PublicFileOut, "previews", "links", of=FileRecord)
_as_sent_file = as_model(SentFileOut, "problem", of=FileRecord)
_as_preview = as_model(PreviewOut, "type", "url", of=PreviewRecord)


def files(views: Iterable[FileView], principal: Principal | None) -> list[Json]:
    """Files as this caller may see them (T37)."""
    shown, base = services().public_copies.shown, settings().base_url
    return [_file(shown(principal, view.file), view.previews, principal, base) for view in views]


def _file(record: FileRecord, previews: Iterable[PreviewRecord], principal: Principal | None, base: str) -> Json:
    """``record`` is what ``public_copies.shown`` returned for the caller."""
    if not may_change(principal, record.owner_id, record.folder_id):
        return _as_public_file(record, **_addresses(record, previews, base))
    return _whole_file(record, previews, base)


def _whole_file(record: FileRecord, previews: Iterable[PreviewRecord], base: str) -> Json:
    problem = record.problem or (public_copies.STUCK if public_copies.is_stuck(record) else None)
    return _as_file(record, problem=problem, **_addresses(record, previews, base))


def _addresses(record: FileRecord, previews: Iterable[PreviewRecord], base: str) -> Json:
    address = f"{base}/api/files/{record.id}"
    return {
        "previews": [_preview(preview, address) for preview in previews],
        "links": {"self": address, "download": f"{address}/download", "preview": f"{address}/preview"},
    }


def _preview(preview: PreviewRecord, address: str) -> Json:
    query = {"type": preview.preview_type}
    parameter = {"thumbnail": "size", "page": "page"}.get(preview.preview_type)
    if parameter is not None:
        query[parameter] = str(preview.variant)
    return _as_preview(preview, type=preview.preview_type, url=f"{address}/preview?{urlencode(query)}")


def file_answer(record: FileRecord, principal: Principal | None) -> Response:
    """One file with its ETag."""
    shown = services().public_copies.shown(principal, record)
    previews = services().files.view(record).previews
    return answer(_file(shown, previews, principal, settings().base_url), headers={"ETag": etag(shown)})


def file_details(found: FileDetailsRecord, principal: Principal | None) -> Response:
    """One file with its ETag, and for those who may change it with its statistics, events and integrity."""
    shown = services().public_copies.shown(principal, found.file)
    document = _file(shown, found.previews, principal, settings().base_url)
    if may_change(principal, shown.owner_id, shown.folder_id):
        document["statistics"] = found.statistics
        document["integrity"] = found.integrity
        document["access_history"] = [event(happened) for happened in found.history]
    return answer(document, headers={"ETag": etag(shown)})


def new_file(view: FileView) -> Response:
    """A file that the caller has just made, with its address; and with its ETag, unless an upload token made it."""
    headers = {"Location": f"{settings().base_url}/api/files/{view.file.id}"}
    if principal().budget is None:
        headers["ETag"] = etag(view.file)
    return answer(made_file(view), 201, headers)


def made_file(view: FileView) -> Json:
    """A file that the caller has just made; an upload token is shown only what its user knows. The problems of the stored
    object are left out then: they may come from another file with the same bytes."""
    record = view.file
    if principal().budget is None:
        return _whole_file(record, view.previews, settings().base_url)
    of_file = record.status in ("rejected", "infected") or (record.problem or {}).get("code") == "folder_gone"
    return _as_sent_file(record, problem=record.problem if of_file else None)


# -- other records -------------------------------------------------------------------------------------------

event = as_model(EventOut, of=EventRecord)
key = as_model(KeyOut)
rescan = as_model(RescanOut)
scrub_pass = as_model(ScrubPassOut)
scrub_finding = as_model(ScrubFindingOut)
backup = as_model(BackupOut)
_as_session = as_model(SessionOut, "session_id")
_as_job = as_model(JobOut, "file_id")


def session(record: SessionRecord) -> Json:
    """An upload session, under the name that its client gave it."""
    return _as_session(record, session_id=session_name(record.session_id))


def rejected(original_name: str, error: GatewayError) -> Json:
    """A file that was refused."""
    return {"original_name": original_name, "problem": error.as_problem()}


def job(record: JobRecord) -> Json:
    """A job. Of its arguments only the file's id is shown: others may be private."""
    file_id = record.arguments.get("file_id")
    return _as_job(record, file_id=file_id if isinstance(file_id, str) else None)


# -- lists ---------------------------------------------------------------------------------------------------


def page(found: Page[T], item: Callable[[T], Any], **members: Any) -> Response:
    """A page of a list, with each record rendered by ``item``."""
    return page_of([item(record) for record in found.items], found.next_cursor, found.total, **members)


def page_of(items: list[Any], next_cursor: str | None, total: int | None, **members: Any) -> Response:
    """A page of rendered items. ``Link: rel="next"`` (RFC 8288) repeats the query with the next cursor."""
    headers = {}
    if next_cursor is not None:
        query = [(name, value) for name, value in request.args.items(multi=True) if name != "cursor"]
        query.append(("cursor", next_cursor))
        address = f"{settings().base_url}{quote(request.script_root + request.path)}?{urlencode(query, errors='surrogateescape')}"
        headers["Link"] = f'<{address}>; rel="next"'
    return answer({"items": items, "next_cursor": next_cursor, "total": total, **members}, 200, headers)
