"""``Idempotency-Key``: the same request again gets the first answer, for 24 hours (THREATS T14, T104).

Two requests are the same when method, path, query and body are. Only success is remembered: a request that failed may be
sent again. A view says how its answer is kept: it gives ``recorded(…)`` to the service, which calls it in the transaction
that does the work. What must not be kept, such as a new API key, is left out there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from flask import Response, g, json, request

from api.context import principal, services
from core.errors import InvalidInput
from db import Tx
from db.records import UploadRecord
from services.access.idempotency import Claim, Replay

T = TypeVar("T")
View = Callable[..., Response]

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REMEMBERED = ("Location", "ETag", "Upload-Session")


class First:
    """This request as the first one under its key."""

    def __init__(self, claim: Claim, digest: Callable[[], bytes]):
        self._claim = claim
        self._digest = digest
        self.begun = False
        self.answered = False

    def record(self, tx: Tx, response: Response) -> None:
        self.answered = True
        services().idempotency.record(tx, self._claim, request_digest=self._digest(), **_kept(response))

    def record_begun(self, tx: Tx, upload: UploadRecord) -> None:
        self.begun = True
        services().idempotency.record_begun(tx, self._claim, upload.id, request_digest=self._digest())

    def finish(self, response: Response) -> None:
        self.answered = True
        services().idempotency.finish(self._claim, request_digest=self._digest(), **_kept(response))


def key_of_request() -> str | None:
    """The request's Idempotency-Key; InvalidInput unless it is 1 to 255 visible ASCII characters."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key takes 1 to 255 visible ASCII characters.")
    return key


def request_digest(body: bytes = b"") -> bytes:
    """SHA-256 over what makes two requests the same. The body may be left out where it is digested apart."""
    digest = hashlib.sha256()
    for piece in (request.method, request.path, request.query_string, body):
        data = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def idempotent(
    *,
    find: Callable[[UUID], T | None] = lambda upload_id: None,
    answer: Callable[[T], Response] | None = None,
) -> Callable[[View], View]:
    """Honour Idempotency-Key on a view that takes JSON. Where the first request began an upload and ended before it had an
    ``answer``, that is made of what ``find`` finds; where it finds nothing, the upload is begun anew."""

    def honour(view: View) -> View:
        @wraps(view)
        def once(**arguments: Any) -> Response:
            key = key_of_request()
            if key is None:
                return view(**arguments)
            digest = request_digest(g.get("body", b""))
            found = services().idempotency.begin(principal(), key, digest)
            while isinstance(found, Replay):
                if found.begun is None:
                    return replayed(found)
                begun = find(found.begun)
                if begun is not None and answer is not None:
                    response = answer(begun)
                    response.headers["Idempotency-Replayed"] = "true"
                    return response
                found = services().idempotency.begin(principal(), key, digest, instead_of=found.claim)
            with first_under(found, lambda: digest) as first:
                response = view(**arguments)
                if not first.answered:
                    first.finish(response)
            return response

        return once

    return honour


@contextmanager
def first_under(claim: Claim, digest: Callable[[], bytes]) -> Iterator[First]:
    """The block does what was asked, and what it does is recorded under the claim. Where nothing was, the key is free again."""
    first = g.first = First(claim, digest)
    with services().idempotency.under(claim):
        yield first
    if not (first.begun or first.answered):
        services().idempotency.drop(claim)


def recorded(render: Callable[[Tx, T], Response]) -> Callable[[Tx, T], None] | None:
    """For the transaction that does the work: keep the answer with it, as ``render`` makes it. None without a key."""
    first = _first()
    return None if first is None else lambda tx, made: first.record(tx, render(tx, made))


def begun_recorded() -> Callable[[Tx, UploadRecord], None] | None:
    """For the transaction that admits an upload, where more has to be done before there is an answer. None without a key."""
    first = _first()
    return None if first is None else first.record_begun


def _first() -> First | None:
    return cast("First | None", g.get("first"))


def _kept(response: Response) -> dict[str, Any]:
    headers = {name: response.headers[name] for name in _REMEMBERED if name in response.headers}
    return {"status": response.status_code, "body": json.loads(response.get_data()), "headers": headers}


def replayed(first: Replay) -> Response:
    response = Response(json.dumps(first.body), first.status, headers=first.headers, content_type="application/json")
    response.headers["Idempotency-Replayed"] = "true"
    return response
