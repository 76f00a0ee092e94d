"""What reads an owner's rows reads few of them, however many the owner has made (T145)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from core.ids import secret_digest
from core.principal import Principal, Quota
from db import Database, Tx, idempotency, keys, rate_limits, scalar, tags, upload_tokens, uploads
from db.uploads import NewUpload
from tests.rows import sql

MANY = 300_000
FILL = {
    "upload_tokens": """
        insert into upload_tokens (token_digest, owner_id, expires_at)
        select sha256(n::text::bytea), 'alice', now() + case when n <= 100 then interval '1 hour' else interval '-1 hour' end
        from generate_series(1, %(many)s) n""",
    "api_keys": """
        insert into api_keys (key_digest, owner_id, role, revoked_at)
        select sha256(n::text::bytea), 'alice', 'user', case when n < %(many)s - 100 then now() end
        from generate_series(1, %(many)s) n""",
    "idempotency_keys": """
        insert into idempotency_keys (owner_id, key, request_digest, lease_until)
        select 'alice', 'key-' || n, 'digest', now() from generate_series(1, %(many)s) n""",
    "upload_sessions": """
        insert into upload_sessions (owner_id, session_id) select 'alice', 's' || n from generate_series(1, %(many)s) n""",
    "uploads": """
        insert into uploads (owner_id, protocol, status, object_key, original_name, content_type, cleaned, session_id, expires_at)
        select 'alice', 'direct', 'aborted', 'files/' || n, 'a.bin', 'text/plain', true, 's', now()
        from generate_series(1, %(many)s) n""",
    "rate_limits": """
        insert into rate_limits (key, count, expires_at)
        select 'uploads:address ' || n, 1, now() + interval '1 minute' from generate_series(1, %(many)s) n""",
    "file_tags": """
        insert into file_tags (owner_id, tag, is_deleted, uploaded_at, file_id)
        select 'alice', 'tag-' || n %% 50, false, now(), uuidv7() from generate_series(1, %(many)s) n""",
}
_NEW = NewUpload(
    owner_id="alice",
    protocol="direct",
    object_key="files/new",
    original_name="a.bin",
    content_type="text/plain",
    size=1,
    reserve=1,
    session_id="s",
    expires_in=timedelta(1),
)
Read = Callable[[Tx], object]
READS: dict[str, list[tuple[str, Read, int]]] = {  # by table: what, how, and how many rows it may read
    "upload_tokens": [
        ("find", lambda tx: upload_tokens.find(tx, secret_digest("x")), 5),
        ("count", lambda tx: upload_tokens.count_current(tx, "alice", limit=10_000), 500),
        ("list", lambda tx: upload_tokens.list_live(tx, "alice", folders=None, after=None, limit=50), 1_000),
        ("total", lambda tx: upload_tokens.count_live(tx, "alice", folders=None, limit=10_001), 1_000),
        ("list of all", lambda tx: upload_tokens.list_live(tx, None, folders=None, after=None, limit=50), 1_000),
    ],
    "api_keys": [
        ("find", lambda tx: keys.find(tx, secret_digest("x")), 5),
        ("count", lambda tx: keys.count_of(tx, "alice", limit=1_000), 500),
        ("list", lambda tx: keys.list_all(tx, after=None, limit=50), 500),
    ],
    "idempotency_keys": [
        ("claim", lambda tx: idempotency.claim(tx, "alice", "x", b"", lease=timedelta(1), keep=timedelta(1)), 10),
        ("forget", lambda tx: idempotency.forget_old(tx, keep=timedelta(1), limit=10_000), 10),
    ],
    "upload_sessions": [("forget", lambda tx: uploads.forget_sessions(tx, keep=timedelta(7), limit=10_000), 10_100)],
    "uploads": [
        ("unfinished", lambda tx: uploads.unfinished(tx, Principal("alice"), after=None, limit=50), 10),
        ("admit", lambda tx: uploads.admit(tx, _NEW, quota=Quota(10), session_quota=Quota(10), max_open=1_000), 10),
        ("refusal", lambda tx: uploads.refusal(tx, _NEW, quota=Quota(0), session_quota=Quota(0), max_open=1), 10),
        ("due", lambda tx: uploads.due(tx, ["incoming/1"], lease=timedelta(1), limit=100), 10),
        ("expired", lambda tx: uploads.expired(tx, limit=100), 10),
        ("unclean", lambda tx: uploads.unclean(tx, grace=timedelta(), limit=100), 10),
        ("any incoming", uploads.any_incoming, 10),
        ("forget", lambda tx: uploads.forget_old(tx, keep=timedelta(7), limit=10_000), 10),
    ],
    "rate_limits": [("add", lambda tx: rate_limits.add(tx, "uploads:owner bob", 1, window=timedelta(minutes=1)), 10)],
    "file_tags": [
        ("new", lambda tx: tags.count_new(tx, "alice", ["tag-1", "x"]), 10),
        ("count", lambda tx: tags.count(tx, "alice", limit=5_000), 200),
    ],
}
_READ = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = %(table)s"


@pytest.mark.parametrize("table", FILL)
def test_T145_reads_stay_few_at_300_000_rows(db: Database, table: str) -> None:
    with db.transaction() as tx:
        tx.execute(FILL[table], {"many": MANY})
    sql(db, f"analyze {table}")
    for what, read, most in READS[table]:
        with db.transaction() as tx:
            read(tx)
            rows = scalar(tx, _READ, {"table": table})
        assert rows <= most, f"{what} reads {rows} rows"
