"""Files and folders as people see them: list, search, change, download.

Bucket: this package adds nothing but public copies under ``files/``; services/objects reads and deletes the rest.

Rows: ``files`` (a name on an object), ``folders``, ``audit_events`` (their history too), and the counters and search tables that
triggers keep.

Invariants:

- A name is free or taken in one folder, ignoring case; whoever gives out a name holds the lock on the folder's names.
- A folder tree is a tree, at most 32 deep, of one owner.
- A file is downloadable only if it is ``ready``, not in the trash, not expired, and its object is not known to be damaged.
- Files of equal content of one owner may share an object; the last one to be purged takes it along.
- The public never gets the location in a picture unless its owner says so.
- The ETag of the metadata changes with every edit, and If-Match is checked under the row's lock.

Read files.py first.

- files          read, list, change, move, copy, trash, restore and purge files
- archive        files to and from the archive
- trash          expired files to the trash, old ones purged
- folders        the folder tree
- delivery       downloads, presigned URLs, links, ZIPs
- zip_stream     a ZIP of files as a stream
- readings       which files are to be read for previews, text and metadata
- public_copies  pictures without their location, for the public
- search         search in names and texts, suggestions
- stats          statistics of storage
- type_policy    which types may be stored
- sniff          detect the type of bytes

Versions of files and retention rules belong here, beside files.py.
"""
