"""Uploads: every way in, from the first request to a file.

    form, raw      intake.py      the bytes pass through the gateway in one request
    direct, s3     direct.py      the client sends them to the bucket by presigned URLs
    tus, ietf      resumable.py   they pass through the gateway in any number of requests

All of them are judged by the same rules (policy.py) and get a row in ``uploads`` before their first byte is stored, or an
object key from ``reserved_keys``:

    pending -> uploading -> completing -> done | aborted | expired

Rows: uploads (what was declared, quota reserved, the object key), upload_sessions, and for resumable ones resumable_uploads
(offset and lease), upload_parts and upload_objects (every key that a writer was given).

Objects: ``files/…`` the file's object, and multipart uploads on its key; ``incoming/…`` what a single PUT or form brings, copied
to ``files/…`` at completion; ``tails/…`` the bytes of a resumable upload that are too few for a part.

Invariants
- No byte is stored without a row that names its key, so the janitor finds whatever a crash leaves.
- Quota is reserved before bytes are stored, by one conditional statement. It is returned when the upload ends.
- An offset that a client was told is durable: the row says only what the bucket has confirmed.
- One writer at a time: a writer that was overtaken can change neither rows nor acknowledged bytes.
- A file appears once, in one transaction, whoever completes the upload and how often.
- Size, SHA-256 and type come from the stored bytes, never from the client. What the gateway has not read is ``processing``.

Read intake.py first, then completion.py.

- policy              what an upload may do: name, size, type, folder, quota, upload tokens
- intake              form and raw PUT: receive and publish; ending uploads of every protocol
- reserved_keys       object keys for small uploads
- direct              presigned PUTs, forms and parts; measuring what has arrived
- s3_uploads          direct uploads as Uppy's S3 plugin asks for them
- completion          from bytes in the bucket to a file
- resumable           tus and the IETF draft: create, settle, append, terminate
- resumable_writer    bytes of a resumable upload into parts and tails
- leases              one writer for each resumable upload
- concatenation       one upload from several (tus)
- verification        the job after it: read back, scan, decide"""
