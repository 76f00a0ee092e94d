"""What happens to a file after its bytes are stored: virus scan, previews, text for search, metadata, compression.

Jobs of the worker do it (jobs/tasks.py), one of an object at a time: process_file, then compress_object; rescan walks over all
objects. Each is idempotent, and any of them may be interrupted anywhere.

In the bucket
    previews/…   thumbnails, pages, texts and listings; equal files that are read alike share them
    files/…      compressed replacements of objects, and infected objects moved to new keys
Rows
    readings                          metadata (``extracted``) and problem of an object, read as a certain type
    file_previews, preview_failures   of a reading: which previews exist, and which could not be made
    object_texts                      of a reading: text for search
    objects                           scan verdict, encoding and frame ends
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
