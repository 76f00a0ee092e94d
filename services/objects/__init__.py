"""Stored objects: how services read, write and delete bytes in the bucket.

Bucket: an object under ``files/`` for the bytes of one or more files of an owner, original or compressed, and perhaps a second
one, its public copy without the location. Previews are under ``previews/``.

Rows: ``objects`` (what is stored, and what the last check found), ``deferred_deletions`` (keys that no row uses, with the time at
which they are deleted).

Invariants:

- A key has a row before anything is written under it, and until nothing is left of it in the bucket.
- Objects are never overwritten. A replacement has a new key, and one statement puts it to use (db/objects.py).
- Owners never share an object.
- Reading checks size and ETag, so that a client gets the bytes that were uploaded, or an error.
- No transaction is open while bytes move.

Read object_reader.py first.

- object_reader       read a file's bytes, however they are stored; detect and record damage
- part_writer         write an object in parts
- streams             hash, check and store streams
- drafts              write under a reserved key
- rewriting           replace an object by one with the same bytes
- capacity            free space
- bucket_mark         which bucket the rows belong to
- equal_objects       check an equal object in the bucket before a new file is put on it
- deferred_deletions  delete what is due
- protection          what is kept because the database may have forgotten it
- bucket              translate the bucket's errors, delete unused keys, purge objects

Versions and retention belong in services/library.
"""
