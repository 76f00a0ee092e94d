"""The words of an owner's names: those that contain a searched one, those spelt like it, and suggestions for a typed prefix.

A word stays listed until the janitor finds that no name has it, so suggestions look for a file with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.tokenizer import MAX_WORD, without_marks
from db import Tx, column
from db.search.index import SEGMENTS, mark_of
from db.search.terms import like

_MAX_WORDS = 64  # that contain one searched word
_SIMILAR = 200
_LOOKED_AT = 200  # words with a typed prefix

_CONTAINING = f"""
select s.word, o.word from unnest(%(words)s::text[], %(patterns)s::text[]) s (word, pattern) cross join lateral (
    select distinct o.word from search_words o
    where (%(owner)s::text is null or o.owner_id = %(owner)s) and o.plain like s.pattern limit {_MAX_WORDS + 1}) o
"""
_SIMILAR_WORDS = f"""
select word from search_words where (%(owner)s::text is null or owner_id = %(owner)s) and plain %% %(plain)s
order by similarity(plain, %(plain)s) desc, word limit {_SIMILAR}
"""
_SWAPPED = "select word from search_words where owner_id = %(owner)s and word = any(%(words)s::text[])"


def containing(tx: Tx, owner_id: str | None, words: Sequence[str]) -> dict[str, list[str]]:
    """For each word, the words of the owner's names (None: of everybody's) that contain it. Left out is a word that more than
    ``_MAX_WORDS`` contain."""
    found: dict[str, list[str]] = {word: [] for word in words}
    patterns = [f"%{like(without_marks(word))}%" for word in found]
    params = {"owner": owner_id, "words": list(found), "patterns": patterns}
    # Not prepared: the plan differs between owners with few words and owners with many.
    for word, other in tx.execute(_CONTAINING, params, prepare=False).fetchall() if found else ():
        found[word].append(other)
    # Marks count here: é is not e.
    return {word: [other for other in of if word in other] for word, of in found.items() if len(of) <= _MAX_WORDS}


def similar(tx: Tx, owner_id: str | None, word: str, others: Sequence[str]) -> list[str]:
    """Words of the owner's names that are similar to the word by trigrams, and those of ``others`` that exist. The caller
    compares them letter by letter, and has begun a ``clock.Clock``."""
    params = {"owner": owner_id, "plain": without_marks(word)}
    rows = tx.execute(_SIMILAR_WORDS, params, prepare=False).fetchall()
    if owner_id is not None:
        rows += tx.execute(_SWAPPED, {"owner": owner_id, "words": list(others)}).fetchall()
    return [row[0] for row in rows]


_NAMES = """
select min(original_name) from (
    select f.original_name, f.name_key from files f
    where f.owner_id = %(owner)s and f.is_deleted = false and f.name_key like %(pattern)s
    order by f.name_key, f.id limit 1000
) n group by name_key order by name_key limit %(limit)s
"""
_BEGINNING = f"""
select w.word from (
    select word from search_words
    where owner_id = %(owner)s and word > %(word)s collate "C" and word < (%(word)s || chr(1114111)) collate "C"
    order by word limit {_LOOKED_AT}
) w
where exists (
    select from generate_series(0, {SEGMENTS}) s cross join lateral (
        select i.file_id, i.name_key from search_index i
        where i.words @@ ('''' || %(mark)s || s || ':/' || w.word || '''')::tsquery and not i.is_deleted offset 0
    ) i
    join files f on f.id = i.file_id and f.name_key = i.name_key
    where f.owner_id = %(owner)s and not f.is_deleted)
order by w.word limit %(limit)s
"""


def names_beginning(tx: Tx, owner_id: str, typed: str, *, limit: int) -> list[str]:
    """Names that begin with the folded text, outside the trash."""
    params: dict[str, Any] = {"owner": owner_id, "pattern": like(typed) + "%", "limit": limit}
    return column(tx, _NAMES, params)


def words_beginning(tx: Tx, owner_id: str, typed: str, *, limit: int) -> list[str]:
    """Longer words that begin with this one, of names outside the trash."""
    params = {"owner": owner_id, "word": typed[:MAX_WORD], "mark": mark_of(owner_id), "limit": limit}
    return column(tx, _BEGINNING, params)
