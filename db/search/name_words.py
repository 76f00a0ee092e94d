"""The words of an owner's names: those that a searched word may mean, those spelt like it, and suggestions for a typed prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.tokenizer import MAX_WORD, is_run, without_marks
from db import Tx

MAX_WORDS = 64  # that one searched word may mean
SHORTEST_PART = 3  # characters; shorter ones have no trigram and match as prefixes only
_SIMILAR = 200


@dataclass(frozen=True, slots=True)
class WordPattern:
    """A word of a search, which matches itself, and also words that start with it or fit a pattern."""

    word: str
    prefix: bool = False  # also words that start with it
    pattern: str | None = None  # for LIKE, on words without marks


@dataclass(frozen=True, slots=True)
class WordMatches:
    """Words of which a name must have one. ``prefixes``: the starts of words that are too many to list."""

    words: tuple[str, ...]
    prefixes: tuple[str, ...] = ()


def containing(word: str) -> WordPattern:
    """The word, and words that contain it."""
    long = len(word) >= SHORTEST_PART and not word.isdecimal() and not is_run(word)
    return WordPattern(word[:MAX_WORD], True, f"%{like(without_marks(word))}%" if long else None)


def ending(word: str) -> WordPattern:
    """The word, and words that end in it."""
    long = len(word) >= SHORTEST_PART and not word.isdecimal()
    return WordPattern(word[:MAX_WORD], False, f"%{like(without_marks(word))}" if long else None)


# Words that start with {word}. Each step finds the next word by one index probe, however many files have it.
_BEGINNING = """
with recursive b (word) as (
    (select fw.word from file_words fw where fw.owner_id = %(owner)s and fw.is_deleted = %(deleted)s
     and fw.word >= {word} collate "C" and fw.word < ({word} || chr(1114111)) collate "C" order by fw.word limit 1)
    union all
    select (select fw.word from file_words fw where fw.owner_id = %(owner)s and fw.is_deleted = %(deleted)s
            and fw.word > b.word and fw.word < ({word} || chr(1114111)) collate "C" order by fw.word limit 1)
    from b where b.word is not null
) select b.word from b where b.word is not null limit {limit}
"""
_MATCHING = f"""
select array({_BEGINNING.format(word="s.word", limit=f"case when s.prefix then {MAX_WORDS + 1} else 0 end")}),
       array(select o.word from owner_words o where o.owner_id = %(owner)s and o.plain like s.pattern limit {MAX_WORDS}),
       exists (select from file_words fw where fw.owner_id = %(owner)s and fw.is_deleted = %(deleted)s
               and fw.word = ('/' || s.word) collate "C")
from unnest(%(words)s::text[], %(prefix)s::boolean[], %(patterns)s::text[]) with ordinality s (word, prefix, pattern, n)
order by s.n
"""
_MATCHING_OF_ALL = f"""
select array(select distinct o.word from owner_words o
             where s.prefix and starts_with(o.word, s.word) or o.plain like s.pattern limit {MAX_WORDS}), '{{}}'::text[], true
from unnest(%(words)s::text[], %(prefix)s::boolean[], %(patterns)s::text[]) with ordinality s (word, prefix, pattern, n)
order by s.n
"""


def matching_words(tx: Tx, owner_id: str | None, deleted: bool, patterns: Sequence[WordPattern]) -> list[WordMatches]:
    """For each pattern the words of the owner's names (None: of everybody's) that match it, always including the word itself, and
    also as a token (``/iphone``)."""
    found: list[WordMatches] = []
    unknown: list[int] = []
    params = {
        "owner": owner_id,
        "deleted": deleted,
        "words": [s.word for s in patterns],
        "prefix": [s.prefix for s in patterns],
        "patterns": [s.pattern for s in patterns],
    }
    sql = _MATCHING if owner_id is not None else _MATCHING_OF_ALL
    # Not prepared: the plan differs between owners with few words and owners with many.
    rows = tx.execute(sql, params, prepare=False).fetchall() if patterns else []
    for s, (beginning, containing, is_token) in zip(patterns, rows, strict=True):
        itself = [s.word, "/" + s.word] if is_token else [s.word]
        words = dict.fromkeys([*itself, *beginning[:MAX_WORDS], *containing])
        if s.prefix and not beginning and not containing and not s.word.startswith("/"):
            unknown.append(len(found))
        found.append(WordMatches(tuple(words)[: MAX_WORDS + 2], (s.word,) if len(beginning) > MAX_WORDS else ()))
    if unknown and owner_id is not None:  # no word, but maybe the start of a token: annualrep
        tokens = matching_words(
            tx, owner_id, deleted, [WordPattern("/" + patterns[at].word, prefix=True) for at in unknown]
        )
        for at, token in zip(unknown, tokens, strict=True):
            found[at] = WordMatches((patterns[at].word, *token.words), token.prefixes)
    return found


_SIMILAR_WORDS = f"""
select word from owner_words where (%(owner)s::text is null or owner_id = %(owner)s) and plain %% %(plain)s
order by similarity(plain, %(plain)s) desc, word limit {_SIMILAR}
"""
_SWAPPED = "select word from owner_words where owner_id = %(owner)s and word = any(%(words)s::text[])"


def similar(tx: Tx, owner_id: str | None, word: str, others: Sequence[str]) -> list[str]:
    """Words of the owner's names that are similar to the word by trigrams, and those of ``others`` that exist. The caller
    compares them letter by letter, and has begun a ``clock.Clock``."""
    params = {"owner": owner_id, "plain": without_marks(word)}
    rows = tx.execute(_SIMILAR_WORDS, params, prepare=False).fetchall()
    if owner_id is not None:
        rows += tx.execute(_SWAPPED, {"owner": owner_id, "words": list(others)}).fetchall()
    return [row[0] for row in rows]


# Names that start with the typed text, by name; then words inside names; then the newest names with such a word.
_SUGGEST = f"""
with named as (
    select min(original_name) as item, 1 as rank, row_number() over (order by name_key) as place from (
        select f.original_name, f.name_key from files f
        where f.owner_id = %(owner)s and f.is_deleted = false and f.name_key like %(pattern)s
        order by f.name_key, f.id limit 1000
    ) n group by name_key
),
words as materialized ({_BEGINNING.format(word="%(word)s::text", limit="%(limit)s")}),
inside as (
    select f.original_name as item, 3 as rank, row_number() over (order by f.uploaded_at desc, f.id desc) as place
    from (select w.uploaded_at, w.file_id
          from words, lateral (select fw.uploaded_at, fw.file_id from file_words fw
                               where fw.owner_id = %(owner)s and fw.is_deleted = false and fw.word = words.word
                               order by fw.uploaded_at desc, fw.file_id desc limit %(limit)s * 4) w
          order by w.uploaded_at desc, w.file_id desc limit %(limit)s * 4) w
    join files f on f.id = w.file_id
    where f.name_words like %(inside)s and f.name_key not like %(pattern)s
)
select item from (
    select * from named
    union all
    select word, 2, row_number() over (order by word) from words where %(single)s and word <> %(word)s
    union all
    select * from inside
) s where item is not null order by rank, place limit %(limit)s * 2
"""


def suggestions(tx: Tx, owner_id: str, typed: str, words: Sequence[str], *, limit: int) -> list[str]:
    """Names and words that the owner may be typing. ``typed`` is the folded text so far, ``words`` are its words."""
    last = words[-1][:MAX_WORD] if words and typed.endswith(words[-1]) else ""
    params: dict[str, Any] = {
        "owner": owner_id,
        "deleted": False,
        "pattern": like(typed) + "%",
        "word": last,
        "inside": "% " + like(" ".join(words)) + "%" if last else None,
        "single": len(words) == 1 and not is_run(last),
        "limit": limit if last else 0,
    }
    rows = tx.execute(_SUGGEST if last else _NAMES, params | {"names": limit}, prepare=False).fetchall()
    return list(dict.fromkeys(row[0] for row in rows))[:limit]


_NAMES = """
select min(original_name) from (
    select f.original_name, f.name_key from files f
    where f.owner_id = %(owner)s and f.is_deleted = false and f.name_key like %(pattern)s
    order by f.name_key, f.id limit 1000
) n group by name_key order by name_key limit %(names)s
"""


def like(text: str) -> str:
    """Escape the text for LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
