"""Uploads for Uppy's S3 plugin (``/s3``): sizes may be undeclared, and the client keeps an upload id and a key.

The upload id is the upload's own, and the key is the object key. Both come back with every request and are only compared with
the caller's upload (T45). The bucket's own upload id stays in presigned URLs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import UUID

from core.cursors import Cursors
from core.errors import InvalidCursor, NotAllowed, NotFound
from core.placement import Placement
from core.principal import Principal
from db import Database, files, upload_tokens, uploads
from db.records import FileRecord, UploadRecord
from services.access.idempotency import Claim
from services.access.upload_tokens import uploader_of
from services.uploads.direct import MAX_PARTS, MIN_PART, DirectUploads, PartUrl
from storage_backends.base import Part, PresignedPost, PresignedRequest

TICKET_TTL = 3600  # seconds
_TICKETS = "s3 routes"


class S3Uploads:
    """Direct uploads as the plugin asks for them."""

    def __init__(self, db: Database, direct: DirectUploads, *, bucket: str, tickets: Cursors):
        self._db = db
        self._direct = direct
        self._tickets = tickets
        self.bucket = bucket

    # -- begin ---------------------------------------------------------------------------------------------------------

    def begin(
        self,
        principal: Principal,
        *,
        single: bool,
        filename: str,
        content_type: str | None,
        placement: Placement,
        size: int | None = None,
        once: Claim | None = None,
    ) -> UploadRecord:
        """An upload by a ``single`` request (``request_for``), or in parts. Quota for an undeclared size is reserved as bytes are
        seen. Parts of a declared size are those that the plugin makes, and their lengths are signed."""
        upload = self._direct.admit(
            principal,
            protocol="s3",
            filename=filename,
            size=size,
            content_type=content_type,
            placement=placement,
            single=single,
            once=once,
            part_size=None if single or size is None else max(MIN_PART, -(-size // MAX_PARTS)),
        )
        return upload if single else self._direct.start_multipart(upload)

    def begun(self, upload_id: UUID) -> UploadRecord | None:
        """An upload that was admitted before, its multipart upload begun; None if it was aborted or has expired."""
        upload = self._direct.admitted(upload_id)
        return upload if upload is None or upload.incoming_key else self._direct.start_multipart(upload)

    def request_for(self, principal: Principal, upload: UploadRecord) -> PresignedRequest | PresignedPost:
        """The request of a single upload: a PUT if its size is known, else a POST form."""
        if upload.size is None:
            return self._direct.sign_post(principal, upload)
        return self._direct.sign_put(upload)

    # -- go on ---------------------------------------------------------------------------------------------------------

    def find(self, principal: Principal, upload_id: UUID, key: str | None) -> UploadRecord:
        """The caller's multipart upload with this id and key (if given); else NotFound."""
        upload = self._direct.get(principal, upload_id)
        if upload.multipart_id is None or key not in (None, upload.object_key):
            raise NotFound("There is no such upload.")
        return upload

    def parts(self, upload: UploadRecord) -> list[Part]:
        """The parts that the bucket holds.

        Of a finished upload as many as the file can have had: if the answer to its completion was lost, the plugin lists the
        parts, finds them all, and completes again, which returns the same file."""
        if upload.status != "done":
            return self._direct.list_parts(upload)
        with self._db.connection() as tx:
            file = files.get(tx, upload.file_id) if upload.file_id else None
        if file is None:
            raise NotFound("There is no such upload.")
        return [Part(number, 0, "done") for number in range(1, max(1, -(-file.file_size // MIN_PART)) + 1)]

    def sign(self, principal: Principal, upload: UploadRecord, part_numbers: Sequence[int]) -> list[PartUrl]:
        """Part URLs."""
        return self._direct.sign_parts(principal, upload.id, part_numbers)

    def complete(self, principal: Principal, upload: UploadRecord, parts: Sequence[tuple[int, str]]) -> FileRecord:
        """Make the upload a file."""
        return self._direct.complete(principal, upload.id, parts=parts)

    def abort(self, principal: Principal, upload: UploadRecord) -> None:
        """Remove what arrived."""
        self._direct.abort(principal, upload.id)

    # -- tickets -------------------------------------------------------------------------------------------------------

    def ticket(self, upload: UploadRecord) -> str:
        """A signature that makes a gateway URL work like a presigned URL: for this upload alone, and for an hour."""
        return self._tickets.sign([str(upload.id), int(time.time()) + TICKET_TTL], scope=_TICKETS)

    def redeem(self, upload_id: UUID, ticket: str) -> Principal:
        """The principal that began the upload. Raises NotAllowed, also after the end of its upload token."""
        try:
            name, expires = self._tickets.open(ticket, scope=_TICKETS)
        except (InvalidCursor, ValueError) as error:
            raise NotAllowed("The URL was not signed by this gateway.") from error
        if name != str(upload_id) or not isinstance(expires, int):
            raise NotAllowed("The URL was signed for another upload.")
        if expires < time.time():
            raise NotAllowed("The URL has expired; request a new one.")
        with self._db.connection() as tx:
            upload = uploads.get(tx, upload_id)
            if upload is None:
                raise NotFound("There is no such upload.")
            token = upload_tokens.get(tx, upload.token_id) if upload.token_id is not None else None
            if token is not None and not token.live:
                raise NotAllowed("The upload token that the URL was signed for has ended.")
            return uploader_of(tx, upload)
