"""What the contents of stored objects say, for search. A text belongs to the object, so that equal files share it."""

from __future__ import annotations

from db import Tx, execute

_PUT = """
insert into object_texts (object_key, content, language)
select o.object_key, %(content)s, %(language)s
from objects o where o.object_key = %(key)s and o.status = 'stored' and o.scan_verdict is distinct from 'infected' for share
on conflict (object_key) do update set content = excluded.content, language = excluded.language
"""


def put(tx: Tx, object_key: str, *, content: str, language: str | None) -> bool:
    """Keep an object's text, cleaned and capped by its parser (THREATS T83), with its natural language (ISO 639-1) where it
    is known; False where the object is being purged or turned out infected."""
    return execute(tx, _PUT, {"key": object_key, "content": content, "language": language}) == 1
