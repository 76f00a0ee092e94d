"""Uploads as Uppy's S3Uploads offers them: sizes that nobody told, and a client that keeps what it was given.

The upload id that the plugin keeps is the upload's own, and the key is the object key; both come back with every request
and are only compared with the caller's upload, never used as given (THREATS T45). The bucket's own upload id stays in
presigned URLs.
"""

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

TICKET_LIFE = 3600  # seconds
_TICKETS = "s3 routes"


class S3Uploads:
    def __init__(self, db: Database, direct: DirectUploads, *, bucket: str, cursors: Cursors):
        self._db = db
        self._direct = direct
        self._cursors = cursors
        self.bucket = bucket

    # -- begin ---------------------------------------------------------------------------------------------------------

    def begin_single(
        self,
        principal: Principal,
        *,
        filename: str,
        content_type: str | None,
        placement: Placement,
        size: int | None = None,
        once: Claim | None = None,
    ) -> UploadRecord:
        """An upload by one request (``request_for``). If its size is not declared, quota is held when the gateway sees it."""
        return self._direct.admit(
            principal,
            protocol="s3",
            filename=filename,
            size=size,
            content_type=content_type,
            placement=placement,
            single=True,
            once=once,
        )

    def begin_multipart(
        self,
        principal: Principal,
        *,
        filename: str,
        content_type: str | None,
        placement: Placement,
        size: int | None = None,
        once: Claim | None = None,
    ) -> UploadRecord:
        """Several parts. Where the size is told they are those that the plugin cuts by itself, and signed with their lengths."""
        return self._direct.start_multipart(
            self._direct.admit(
                principal,
                protocol="s3",
                filename=filename,
                size=size,
                content_type=content_type,
                placement=placement,
                single=False,
                once=once,
                part_size=None if size is None else max(MIN_PART, -(-size // MAX_PARTS)),
            )
        )

    def begun(self, upload_id: UUID) -> UploadRecord | None:
        """An upload that was admitted before, its multipart open; None where it has come to nothing."""
        upload = self._direct.admitted(upload_id)
        return upload if upload is None or upload.incoming_key else self._direct.start_multipart(upload)

    def request_for(self, principal: Principal, upload: UploadRecord) -> PresignedRequest | PresignedPost:
        """The request of a single upload: a PUT if its size is known, else a POST form."""
        if upload.size is None:
            return self._direct.sign_post(principal, upload)
        return self._direct.sign_put(upload)

    # -- go on ---------------------------------------------------------------------------------------------------------

    def find(self, principal: Principal, upload_id: UUID, key: str | None) -> UploadRecord:
        """The caller's own multipart upload of this id and, where the client names one, this key; else NotFound."""
        upload = self._direct.get(principal, upload_id)
        if upload.multipart_id is None or key not in (None, upload.object_key):
            raise NotFound("There is no such upload.")
        return upload

    def parts(self, upload: UploadRecord) -> list[Part]:
        """What the bucket holds, all pages.

        Of a finished upload as many parts as the file can have had: the plugin asks again where the answer to its complete
        was lost, and with every part in the list it goes straight on to complete, which gives the same file again."""
        if upload.status != "done":
            return self._direct.list_parts(upload)
        with self._db.connection() as tx:
            file = files.get(tx, upload.file_id) if upload.file_id else None
        if file is None:
            raise NotFound("There is no such upload.")
        return [Part(number, 0, "done") for number in range(1, max(1, -(-file.file_size // MIN_PART)) + 1)]

    def sign(self, principal: Principal, upload: UploadRecord, part_numbers: Sequence[int]) -> list[PartUrl]:
        return self._direct.sign_parts(principal, upload.id, part_numbers)

    def complete(self, principal: Principal, upload: UploadRecord, parts: Sequence[tuple[int, str]]) -> FileRecord:
        return self._direct.complete(principal, upload.id, parts=parts)

    def abort(self, principal: Principal, upload: UploadRecord) -> None:
        self._direct.abort(principal, upload.id)

    # -- tickets -------------------------------------------------------------------------------------------------------

    def ticket(self, upload: UploadRecord) -> str:
        """What makes an address of ours as good as a presigned URL: it opens this upload for an hour, and nothing else."""
        return self._cursors.sign([str(upload.id), int(time.time()) + TICKET_LIFE], scope=_TICKETS)

    def redeem(self, upload_id: UUID, ticket: str) -> Principal:
        """Who began the upload, for who holds its ticket. Raises NotAllowed, also once the upload token is over that began it."""
        try:
            name, expires = self._cursors.open(ticket, scope=_TICKETS)
        except (InvalidCursor, ValueError) as error:
            raise NotAllowed("The address was not signed by this gateway.") from error
        if name != str(upload_id) or not isinstance(expires, int):
            raise NotAllowed("The address was signed for another upload.")
        if expires < time.time():
            raise NotAllowed("The address has expired; have it signed again.")
        with self._db.connection() as tx:
            upload = uploads.get(tx, upload_id)
            if upload is None:
                raise NotFound("There is no such upload.")
            token = upload_tokens.get(tx, upload.token_id) if upload.token_id is not None else None
            if token is not None and not token.live:
                raise NotAllowed("The upload token that had the address signed is over.")
            return uploader_of(tx, upload)
