"""The texts of stored objects, for search. A text belongs to the object; its words are indexed for each file (``file_texts``).

A text is indexed by its words (core/tokenizer.py) and, if PostgreSQL has a stemmer for its language, by its stems, written
``stem/language``. Words and stems are in one vector: an exact word is found in texts of any language, and a stem only in texts
of its own language. core splits the texts, not PostgreSQL's parser, which takes a run of Chinese, Japanese or Thai for one word
and whose letters depend on the server's locale.
"""

from __future__ import annotations

import base64
import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import psycopg

from core.search_query import Term
from core.tokenizer import MAX_WORD, is_run, text_vector
from db import Tx, execute, scalar

# ISO 639-1 -> the Snowball dictionary.
STEMMERS = {
    "ar": "arabic_stem",
    "ca": "catalan_stem",
    "da": "danish_stem",
    "de": "german_stem",
    "el": "greek_stem",
    "en": "english_stem",
    "es": "spanish_stem",
    "et": "estonian_stem",
    "eu": "basque_stem",
    "fi": "finnish_stem",
    "fr": "french_stem",
    "ga": "irish_stem",
    "hi": "hindi_stem",
    "hu": "hungarian_stem",
    "hy": "armenian_stem",
    "id": "indonesian_stem",
    "it": "italian_stem",
    "lt": "lithuanian_stem",
    "nb": "norwegian_stem",
    "ne": "nepali_stem",
    "nl": "dutch_stem",
    "nn": "norwegian_stem",
    "no": "norwegian_stem",
    "pt": "portuguese_stem",
    "ro": "romanian_stem",
    "ru": "russian_stem",
    "sr": "serbian_stem",
    "sv": "swedish_stem",
    "ta": "tamil_stem",
    "tr": "turkish_stem",
    "yi": "yiddish_stem",
}
# A stemmer leaves words of another script unchanged. The Serbian one knows two scripts.
_LATIN = re.compile("[a-z\u00df-\u024f]")
_OTHER_SCRIPTS = ("ar", "el", "hi", "hy", "ne", "ru", "ta", "yi")
_LONGEST_PHRASE = 32  # words
MARK = "\x02"  # placeholder in queries for the owner's mark (``mark_of``)
_MARKS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

# The lock keeps out whoever adds a file to the object: they hold it FOR SHARE, and could not see this text.
_PUT = """
insert into object_texts (object_key, owner_id, content, language)
select o.object_key, o.owner_id, %(content)s, %(language)s
from objects o where o.object_key = %(key)s and o.status = 'stored' and o.scan_verdict is distinct from 'infected'
for no key update
on conflict (object_key) do update set content = excluded.content, language = excluded.language, created_at = now()
"""
_INDEX = """
with text as materialized (
    select %(vector)s::tsvector || array_to_tsvector(array(
        select distinct %(mark)s || s || '/' || %(language)s from unnest(%(distinct)s::text[]) w,
             unnest(ts_lexize(%(stemmer)s::regdictionary, w)) s
        where s <> '')) as words
)
insert into file_texts (file_id, owner_id, is_deleted, searchable, uploaded_at, words)
select f.id, f.owner_id, f.is_deleted, f.status = 'ready', f.uploaded_at,
       text.words || array_to_tsvector(name_lexemes(f.owner_id, f.name_words))
from files f, text where f.file_path = %(key)s for share of f
on conflict (file_id) do update set words = excluded.words
"""


def put(tx: Tx, object_key: str, *, content: str, language: str | None) -> bool:
    """Store an object's text with its language (ISO 639-1), if known, and index it for each of its files. False if the object is
    being purged or infected.

    Only the beginning of a very long text is indexed. A text that PostgreSQL can't index is stored without words, so that it is
    not tried again (T83)."""
    content = _UNSTORABLE.sub("", content)
    owner_id = scalar(tx, "select owner_id from objects where object_key = %(key)s", {"key": object_key})
    if owner_id is None:
        return False
    mark = mark_of(owner_id)
    vector, distinct = text_vector(content, mark=mark)  # before anything is locked
    if execute(tx, _PUT, {"key": object_key, "content": content, "language": language}) == 0:
        return False
    params = {
        "key": object_key,
        "language": language,
        "mark": mark,
        "vector": vector,
        "distinct": distinct,
        "stemmer": STEMMERS.get(language or ""),
    }
    try:
        with tx.transaction():
            execute(tx, _INDEX, params)
    except psycopg.errors.ProgramLimitExceeded:
        execute(tx, _INDEX, params | {"vector": None, "distinct": [], "stemmer": None})
    return True


def mark_of(owner_id: str) -> str:
    """The character, one of 64, that all lexemes of the owner start with (``text_mark`` in the database). It keeps a word of one
    owner apart from most other owners' in the index, without the owner as an index column."""
    return base64.b64encode(hashlib.md5(owner_id.encode(), usedforsecurity=False).digest())[:1].decode()


def marked(query: str, owner_id: str | None) -> str:
    """The query with MARK replaced by the mark of this owner (None: of any owner)."""
    if owner_id is not None:
        return query.replace(MARK, mark_of(owner_id))
    return " | ".join(f"({query.replace(MARK, mark)})" for mark in _MARKS)


def beginnings(tx: Tx, object_keys: Sequence[str], *, skip: int, length: int) -> dict[str, str]:
    """``length`` characters of each object's text, after ``skip``."""
    sql = "select object_key, substr(content, %(start)s, %(length)s) from object_texts where object_key = any(%(keys)s)"
    params: dict[str, Any] = {"start": skip + 1, "length": length, "keys": list(object_keys)}
    return dict(tx.execute(sql, params).fetchall())


# Stems in the languages of the owner's texts only, so that there are few.
_STEMS = f"""
with used as materialized (
    select l.language, l.stemmer::regdictionary as stemmer
    from (values {", ".join(f"('{language}', '{stemmer}')" for language, stemmer in STEMMERS.items())}) l (language, stemmer)
    where %(owner)s::text is null
       or exists (select from object_texts t where t.owner_id || '/' || t.language = %(owner)s || '/' || l.language)
)
select w.word, s || '/' || u.language
from unnest(%(words)s::text[], %(latin)s::boolean[]) w (word, latin), used u, unnest(ts_lexize(u.stemmer, w.word)) s
where s <> '' and case when w.latin then u.language not in {_OTHER_SCRIPTS} else u.language in {(*_OTHER_SCRIPTS, "sr")} end
"""


def stems(tx: Tx, owner_id: str | None, words: Sequence[str]) -> dict[str, list[str]]:
    """For each word its stems, as ``stem/language``, in the languages of the owner's texts (None: in all)."""
    if not words:
        return {}
    distinct = list(dict.fromkeys(words))
    params = {"owner": owner_id, "words": distinct, "latin": [bool(_LATIN.search(word)) for word in distinct]}
    found: dict[str, list[str]] = {}
    for word, stem in tx.execute(_STEMS, params).fetchall():
        found.setdefault(word, []).append(stem)
    return found


def stemmed(term: Term) -> str | None:
    """The word of the term, if its stems are looked up too."""
    return term.words[0] if len(term.words) == 1 and term.kind == "part" and not is_run(term.words[0]) else None


def tsquery(term: Term, known: Mapping[str, Sequence[str]]) -> str:
    """The tsquery of a term, before ``marked``: a word as it is or by its ``known`` stems, a phrase by exact words."""
    words = [word[:MAX_WORD] for word in term.words][:_LONGEST_PHRASE]
    quoted = [f"'{MARK}{word}'" for word in words]
    if term.kind == "prefix" or (len(words[-1]) == 1 and is_run(words[-1])):
        quoted[-1] += ":*"
    if len(words) > 1:
        token = f"'{MARK}{term.token[:MAX_WORD]}' | " if term.token else ""
        pairs = [f"'{MARK}{one} {two}'" for one, two in pairwise(words)]
        if quoted[-1].endswith(":*"):
            pairs[-1] += ":*"
        # Two words are one pair. For more, texts that have all pairs are tested for the order.
        return f"({token}({' & '.join(pairs if len(words) == 2 else [*pairs, ' <-> '.join(quoted)])}))"
    return "(" + " | ".join(quoted + [f"'{MARK}{stem}'" for stem in known.get(stemmed(term) or "", ())]) + ")"
