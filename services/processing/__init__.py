"""What happens to a file after its bytes are stored: virus scan, previews, text for search, metadata, compression.

Jobs of the worker do it (jobs/tasks.py), one object at a time: process_file, then compress_object; rescan walks over all
objects. Each is idempotent, and any of them may be interrupted anywhere.

In the bucket
    previews/…   thumbnails, pages, texts and listings; they belong to the object, so equal files share them
    files/…      compressed replacements of objects, and infected objects moved to new keys
Rows
    file_previews, preview_failures   which previews exist, and which could not be made
    object_texts                      text for search
    objects                           scan verdict, metadata (``extracted``), problem, encoding and frame ends
    rescans                           progress of a re-scan
    deferred_deletions                keys to delete: reserved before they are written, and replaced objects
Invariants
    A key is reserved before an object is written under it, so a crash leaves nothing that the janitor can't find.
    Untrusted bytes are parsed only in a locked child process (parsers/).
    A file is ready only after a verdict, where a scanner is configured; no answer is never a verdict.
    No connection is held while bytes move.

Open pipeline.py first.
    pipeline.py      the job after an upload, and what is enqueued when a file becomes ready
    previews.py      serve previews, make missing ones on request
    scanning.py      verdicts, quarantine, re-scans
    clamd.py         the client of clamd
    compression.py   replace an object by a compressed one
"""
