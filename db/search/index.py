"""The rows of the search index, and the texts that they are made of.

The lexemes of a file begin with a mark: a character for the owner, the number of the segment, a colon. Then come a word of the
name after ``/``, a token of the name that was split after ``//``, its first word after ``^``. Words of the text have nothing
more before them, stems are ``stem/language``, and each pair of neighbouring words is a lexeme too, so that phrases are found by
index. An exact word is found in texts of any language, a stem only in its own. core splits the words, not PostgreSQL's parser,
which takes a run of Chinese, Japanese or Thai for one word and whose letters depend on the server's locale.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg.rows import dict_row

from core.tokenizer import MAX_WORD, is_run, text_vector, tokens, without_marks, words
from db import Tx, column, execute, readings
from db.records import ReadingKey

BATCH = 500  # files in one transaction
_MAX_TEXT = 4_000_000  # characters of their texts; the other files wait for the next batch
_SEGMENT_BITS = 15
SEGMENTS = f"(select (last_value >> {_SEGMENT_BITS})::integer from search_places)"  # the number of the newest
LISTED = 4  # characters of the shortest word in search_words

# ISO 639-1 -> the Snowball dictionary.
_STEMMERS = """
ar:arabic ca:catalan da:danish de:german el:greek en:english es:spanish et:estonian eu:basque fi:finnish
fr:french ga:irish hi:hindi hu:hungarian hy:armenian id:indonesian it:italian lt:lithuanian nb:norwegian
ne:nepali nl:dutch nn:norwegian no:norwegian pt:portuguese ro:romanian ru:russian sr:serbian sv:swedish ta:tamil
tr:turkish yi:yiddish
"""
STEMMERS = {code: f"{name}_stem" for code, name in (pair.split(":") for pair in _STEMMERS.split())}
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_PUT = """
insert into object_texts (object_key, read_as, owner_id, content, language)
select o.object_key, %(read_as)s, o.owner_id, %(content)s, %(language)s from objects o where o.object_key = %(object_key)s
on conflict (object_key, read_as) do update
set content = excluded.content, language = excluded.language, created_at = clock_timestamp()
"""
_QUEUE_FILES = (
    "insert into search_queue select id from files where file_path = %(object_key)s and read_as = %(read_as)s"
)


def put_text(tx: Tx, reading: ReadingKey, *, content: str, language: str | None) -> bool:
    """Store an object's text, read so, with its language (ISO 639-1), if known, and queue its files. False if nobody needs it
    any more (``readings.begin``)."""
    found = reading._asdict() | {"content": UNSTORABLE.sub("", content), "language": language}
    # The lock keeps out whoever adds a file to the object: the queue would miss it.
    if not readings.begin(tx, reading, lock="no key update"):
        return False
    execute(tx, _PUT, found)
    execute(tx, _QUEUE_FILES, found)
    return True


def texts(tx: Tx, of: Collection[ReadingKey], *, skip: int, length: int) -> dict[ReadingKey, str]:
    """``length`` characters of each text, after ``skip``."""
    sql = """
    select t.object_key, t.read_as, substr(t.content, %(start)s, %(length)s)
    from unnest(%(keys)s::text[], %(read_as)s::text[]) r join object_texts t on (t.object_key, t.read_as) = (r.*)
    """
    params: dict[str, Any] = {"start": skip + 1, "length": length}
    params |= {"keys": [key for key, _ in of], "read_as": [read_as for _, read_as in of]}
    return {ReadingKey(key, read_as): text for key, read_as, text in tx.execute(sql, params)}


def mark_of(owner_id: str) -> str:
    """The character, one of 64, that all lexemes of the owner start with. It keeps a word of one owner apart from most other
    owners'. With the owner as an index column, a search would read all files of the owner."""
    return base64.b64encode(hashlib.md5(owner_id.encode(), usedforsecurity=False).digest())[:1].decode()


# -- indexing ---------------------------------------------------------------------------------------------------------

# A file that another worker is indexing stays in the queue: it may read an older state and write it later.
_TAKE = """
with taken as (
    delete from search_queue where ctid = any(array(
        select ctid from search_queue where pg_try_advisory_xact_lock(hashtextextended(file_id::text, 18))
        limit %(limit)s for update skip locked))
    returning file_id
)
select distinct file_id from taken
"""
COPIES = "owner_id, status, folder_id, is_deleted, uploaded_at, file_size, file_type, mime_type, tags"
_OF_FILE, _OF_ROW = (", ".join(f"{row}.{name}" for name in COPIES.split(", ")) for row in "fi")
_COPY = f"""
update search_index i set ({COPIES}) = ({_OF_FILE})
from files f where f.id = i.file_id and f.id = any(%(ids)s) and ({_OF_ROW}) is distinct from ({_OF_FILE})
"""
_REMOVE = """
delete from search_index i where file_id = any(%(ids)s) and not exists (select from files f where f.id = i.file_id)
"""
# The files whose words changed, until their texts are long; null for one that waits.
_READ = """
select f.id, f.name_key, f.original_name, d.digest, i.mark, t.language,
       case when sum(length(t.content)) over (order by f.uploaded_at, f.id) - length(t.content) < %(max)s then t.content end
       as content, t.content is not null as has_text, f.owner_id, f.status
from files f
left join object_texts t on t.object_key = f.file_path and t.read_as = f.read_as and f.status = 'ready'
left join search_index i on i.file_id = f.id
cross join lateral (select md5(concat_ws(chr(1), f.owner_id, f.original_name, t.created_at, t.read_as))::uuid) d (digest)
where f.id = any(%(ids)s) and i.digest is distinct from d.digest
order by f.uploaded_at, f.id
"""
# Not if the status has changed meanwhile, which has queued the file again: the text of an infected one is not for search.
_WRITE = f"""
insert into search_index (file_id, digest, mark, name_key, name_words, name_tokens, words, {COPIES})
select f.id, %(digest)s, %(mark)s, %(name_key)s, %(name_words)s, %(name_tokens)s,
       %(vector)s::tsvector || array_to_tsvector(array(
           select distinct %(mark)s || s || '/' || %(language)s
           from unnest(%(distinct)s::text[]) w, unnest(ts_lexize(%(stemmer)s::regdictionary, w)) s where s <> '')),
       {_OF_FILE}
from files f where f.id = %(id)s and f.status = %(status)s
on conflict (file_id) do update
set digest = excluded.digest, name_key = excluded.name_key, name_words = excluded.name_words,
    name_tokens = excluded.name_tokens, words = excluded.words
"""
_LIST = """
insert into search_words (owner_id, word, plain)
select * from unnest(%(owners)s::text[], %(words)s::text[], %(plain)s::text[]) order by 1, 2 on conflict do nothing
"""


def index_queued(tx: Tx, limit: int = BATCH) -> int:
    """Index up to ``limit`` queued files in this transaction; returns how many. Several workers may do so at once."""
    ids = column(tx, _TAKE, {"limit": limit})
    if not ids:
        return 0
    execute(tx, _REMOVE, {"ids": ids})
    execute(tx, _COPY, {"ids": ids})
    found = tx.cursor(row_factory=dict_row).execute(_READ, {"ids": ids, "max": _MAX_TEXT}).fetchall()
    waiting = [file["id"] for file in found if file["has_text"] and file["content"] is None]
    if waiting:
        execute(tx, "insert into search_queue select unnest(%(ids)s::uuid[])", {"ids": waiting})
    files = [file for file in found if file["id"] not in waiting]
    new = [file for file in files if file["mark"] is None]
    places = column(tx, "select nextval('search_places') from generate_series(1, %(new)s)", {"new": len(new)})
    for file, place in zip(new, places, strict=True):
        file["mark"] = f"{mark_of(file['owner_id'])}{place >> _SEGMENT_BITS}:"
    try:
        with tx.transaction(), tx.cursor() as cursor:
            cursor.executemany(_WRITE, list(map(_row, files)))
    except psycopg.errors.ProgramLimitExceeded:  # a text that PostgreSQL can't index: the file has its name only (T83)
        for file in files:
            try:
                with tx.transaction():
                    execute(tx, _WRITE, _row(file))
            except psycopg.errors.ProgramLimitExceeded:
                execute(tx, _WRITE, _row(file | {"content": None}))
    listed = {(file["owner_id"], word) for file in files for word in words(file["original_name"]) if _is_listed(word)}
    owners, distinct = [owner for owner, _ in listed], [word for _, word in listed]
    execute(tx, _LIST, {"owners": owners, "words": distinct, "plain": [without_marks(word) for word in distinct]})
    return len(ids)


def _is_listed(word: str) -> bool:
    return LISTED <= len(word) <= MAX_WORD and not word.isdecimal() and not is_run(word)


def _row(file: dict[str, Any]) -> dict[str, Any]:
    mark = file["mark"]
    vector, distinct = text_vector(file["content"] or "", mark=mark)
    of_name = words(file["original_name"])
    split = [token for token, pieces in tokens(file["original_name"]) if len(pieces) > 1]
    lexemes = {f"/{word[:MAX_WORD]}" for word in of_name} | {f"//{token[:MAX_WORD]}" for token in split}
    lexemes |= {f"^{word[:MAX_WORD]}" for word in of_name[:1]}
    return file | {
        "vector": " ".join([vector, *(f"'{mark}{lexeme}'" for lexeme in lexemes)]),
        "distinct": distinct if (stemmer := STEMMERS.get(file["language"] or "")) else [],
        "stemmer": stemmer,
        "name_words": f" {' '.join(of_name)} ",
        "name_tokens": f" {' '.join(split)} ",
    }


# -- repair -----------------------------------------------------------------------------------------------------------

_MISSING = """
insert into search_queue
select coalesce(f.id, i.file_id) from files f full join search_index i on i.file_id = f.id
where f.id is null or i.file_id is null
"""
_UNUSED = f"""
delete from search_words w where w.owner_id = %(owner)s and w.word = any(%(words)s) and not exists (
    select from generate_series(0, {SEGMENTS}) s, search_index i
    where i.words @@ ('''' || %(mark)s || s || ':/' || w.word || '''')::tsquery and i.owner_id = w.owner_id)
"""
_NEXT_WORDS = """
select owner_id, word from search_words where (owner_id, word) > (%(owner)s, %(word)s) order by owner_id, word limit 1000
"""


def queue_missing(tx: Tx) -> int:
    """Queue files that are not in the index, and rows of the index without a file; returns how many."""
    return execute(tx, _MISSING)


def forget_words(tx: Tx, after: tuple[str, str]) -> tuple[str, str] | None:
    """Delete those of the next thousand listed words that no name has any more. Returns the last, to go on after it."""
    # Whoever adds a file with such a word has written it already, or waits.
    execute(tx, "lock table search_words in exclusive mode")
    found = tx.execute(_NEXT_WORDS, {"owner": after[0], "word": after[1]}).fetchall()
    for owner in sorted({owner for owner, _ in found}):
        listed = [word for of, word in found if of == owner]
        execute(tx, _UNUSED, {"owner": owner, "words": listed, "mark": mark_of(owner)})
    return found[-1] if found else None
