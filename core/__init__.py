"""Values and rules: standard library, http_sf, multipart and chardet only, no I/O, no settings.

Everything else may import this package; it imports nothing of the project. Open ``errors`` first, then ``principal`` and
``placement``: they are in most signatures.

    errors           the errors that clients see: family → status, class → code
    principal        the caller, and an upload token's budget
    placement        the fields of an upload beside its bytes
    ids              UUIDv7, secrets, object keys and the bucket's prefixes
    names            what names may be; extensions; numbered names
    content_types    MIME types, families, type rules, what browsers may show
    previewable      which previews a type has
    parts            how a file is divided into parts
    ranges           Range, If-Range and ETag headers
    disposition, encoded_words    Content-Disposition; RFC 2047
    charsets         which encoding a text is in
    cursors          pages of lists, and signed values
    security_headers  headers of every response
    secrets          keys derived from SECRET_KEY, one for each purpose
    unset            a member that a PATCH omits
    strict_json      I-JSON from clients
    structured_fields  headers of RFC 9651
    tus, ietf        the headers of the resumable upload protocols
    scan             clamd's responses
    search_query     the search language
    tokenizer        text → words; misspellings; tsvectors
    highlight        matches marked in names and texts
    breaker          circuit breaker and bulkhead for the bucket and the database
    heartbeat        renews leases while a request waits
    demo, demo_words, demo_bodies    invented files
"""
