"""``/api/upload-tokens``, and upload tokens in paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from flask import Blueprint, Response

from api import render
from api.context import principal, services, settings
from api.idempotency import once
from api.operations import BY_SERVICE, operation
from api.request_models import OwnedPageQuery, UploadTokenBody
from api.response_models import LiveUploadTokenOut, UploadTokenOut, UploadTokenPageOut
from core.errors import LimitReached, NotFound
from db.records import UploadTokenRecord
from services.access.upload_tokens import MAX_LIFE, PREFIX, Budget

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

routes = Blueprint("upload_tokens", __name__)

_live = render.as_model(LiveUploadTokenOut)
_IN_PATH = re.compile(rf"/t/({PREFIX}[A-Za-z0-9_-]{{43}})(/(?:s3|api/tus|api/uploads?)(?:/.*)?)", re.DOTALL)


@routes.post("/upload-tokens")
@operation(
    "Create an upload token",
    limit="tokens",
    body=UploadTokenBody,
    responses={201: UploadTokenOut},
    request_headers=("Idempotency-Key",),
    errors=(NotFound, LimitReached),
    audit=BY_SERVICE,
)
def create(body: UploadTokenBody) -> Response:
    """An app's backend gives the token to one of its users. It allows uploads within this budget and nothing else. It is sent
    as a Bearer credential, or in the path (`endpoints`) by clients that can't send headers. A key creates tokens for its own
    `owner_id`, an admin key for any; they end with the key. The gateway stores only their SHA-256. Responses to uploads with
    a token contain only what its user sent, and the result."""
    budget = Budget(
        folder_id=body.folder_id,
        max_files=body.max_files,
        max_size=body.max_size,
        max_total_size=body.max_total_size,
        allowed_types=body.allowed_types,
        visibility=body.visibility,
    )
    life = timedelta(seconds=min(body.expires_in, int(MAX_LIFE.total_seconds())))
    return once(
        lambda claim: services().upload_tokens.create(principal(), body.owner_id, budget, expires_in=life, once=claim),
        _created,
        lambda recorded: (recorded.read(UploadTokenRecord), None),
    )


def _created(made: tuple[UploadTokenRecord, str | None]) -> Response:
    record, token = made
    base = f"{settings().base_url}/t/{token}"
    endpoints = {
        "upload": f"{base}/api/upload",
        "uploads": f"{base}/api/uploads",
        "tus": f"{base}/api/tus",
        "companion": base,
    }
    document = {
        "id": record.id,
        "token": token,
        "expires_at": record.expires_at,
        "endpoints": endpoints if token is not None else None,
    }
    return render.answer(document, 201)


@routes.get("/upload-tokens")
@operation("List upload tokens", query=OwnedPageQuery, responses={200: UploadTokenPageOut})
def list_live(query: OwnedPageQuery) -> Response:
    """Valid tokens for the caller's files or created with the caller's keys, newest first."""
    found = services().upload_tokens.list_live(principal(), owner=query.owner, limit=query.limit, cursor=query.cursor)
    return render.page(found, _live)


@routes.delete("/upload-tokens/<uuid:token_id>")
@operation("Revoke an upload token", scopes=("write",), responses={204: None}, audit=BY_SERVICE)
def revoke(token_id: UUID) -> Response:
    """The next request with it gets 401. Uploads that it has begun end by the rules under which they began."""
    services().upload_tokens.revoke(principal(), token_id)
    return render.no_content()


class TokenInPath:
    """``/t/<token>/api/uploads`` is ``/api/uploads`` with that credential instead of any other.

    The path is changed before the application sees it, so no route, log line or error contains the token."""

    def __init__(self, application: WSGIApplication):
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI."""
        found = _IN_PATH.fullmatch(environ.get("PATH_INFO", ""))
        if found is not None:
            token, path = found.groups()
            environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}/t/{token}"
            environ["PATH_INFO"] = path
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
            for name in ("RAW_URI", "REQUEST_URI"):
                if name in environ:
                    environ[name] = path
        return self._application(environ, start_response)
