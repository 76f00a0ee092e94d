"""Other words to look for than the ones typed: stems, words of an owner's names that contain one, and those spelt like it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.tokenizer import without_marks
from db import Tx, column
from db.file_lists import FileFilter, conditions
from db.search.index import STEMMERS
from db.search.terms import Spellings, like

_MAX_WORDS = 64  # that contain one searched word
_SIMILAR = 200

# Stems in the languages of the owner's texts only, so that there are few.
_RELATED = f"""
select 'stem', w, s || '/' || l.language
from (values {", ".join(f"('{language}', '{stemmer}')" for language, stemmer in STEMMERS.items())}) l (language, stemmer),
     unnest(%(words)s::text[]) w, unnest(ts_lexize(l.stemmer::regdictionary, w)) s
where s <> '' and (%(owner)s::text is null
      or exists (select from object_texts t where t.owner_id || '/' || t.language = %(owner)s || '/' || l.language))
union all
select 'longer', s.word, o.word
from unnest(%(parts)s::text[], %(patterns)s::text[]) s (word, pattern) cross join lateral (
    select distinct o.word from search_words o
    where (%(owner)s::text is null or o.owner_id = %(owner)s) and o.plain like s.pattern limit {_MAX_WORDS + 1}) o
"""
_SIMILAR_WORDS = f"""
(select word from search_words where (%(owner)s::text is null or owner_id = %(owner)s) and plain %% %(plain)s
 order by similarity(plain, %(plain)s) desc, word limit {_SIMILAR})
union select word from search_words where owner_id = %(owner)s and word = any(%(words)s::text[])
"""


def related(tx: Tx, owner_id: str | None, words: Iterable[str], parts: Iterable[str]) -> tuple[Spellings, Spellings]:
    """The stems of ``words``, as ``stem/language``, in the languages of the owner's texts (None: in all), and for each of
    ``parts`` the words of the owner's names (None: of everybody's) that contain it, unless they are more than ``_MAX_WORDS``."""
    found: dict[str, dict[str, list[str]]] = {
        "stem": {word: [] for word in words},
        "longer": {word: [] for word in parts},
    }
    stems, longer = found.values()
    if stems or longer:
        patterns = [f"%{like(without_marks(word))}%" for word in longer]
        params = {"owner": owner_id, "words": list(stems), "parts": list(longer), "patterns": patterns}
        # Not prepared: the plan differs between owners with few words and owners with many.
        for kind, word, other in tx.execute(_RELATED, params, prepare=False).fetchall():
            found[kind][word].append(other)
    # Marks count here: é is not e.
    return stems, {
        word: [other for other in of if word in other] for word, of in longer.items() if len(of) <= _MAX_WORDS
    }


def similar(tx: Tx, owner_id: str | None, word: str, others: Sequence[str]) -> list[str]:
    """Words of the owner's names that are similar to the word by trigrams, and those of ``others`` that exist. The caller
    compares them letter by letter, and has begun a ``clock.Clock``."""
    params = {"owner": owner_id, "plain": without_marks(word), "words": list(others)}
    return [row[0] for row in tx.execute(_SIMILAR_WORDS, params, prepare=False).fetchall()]


_NAMES = """
select min(original_name) from (
    select f.original_name, f.name_key from files f
    where {where} and f.name_key like %(pattern)s
    order by f.name_key, f.id limit 1000
) n group by name_key order by name_key limit %(limit)s
"""


def names_beginning(tx: Tx, wanted: FileFilter, typed: str, *, limit: int) -> list[str]:
    """Names of these files that begin with the folded text."""
    where, params = conditions(wanted)
    return column(tx, _NAMES.format(where=where), params | {"pattern": like(typed) + "%", "limit": limit})
