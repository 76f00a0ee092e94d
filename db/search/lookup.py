"""Terms of a search as words to look up in ``file_words``, and as lexemes of names to look up in ``file_texts``."""

from __future__ import annotations

from collections.abc import Sequence

from core.search_query import Term
from core.tokenizer import MAX_WORD, is_run
from db.search.name_words import SHORTEST_PART, WordMatches, WordPattern, containing, ending
from db.search.terms import is_short
from db.search.texts import MARK

_ALIKE = 4  # listed words with the same start; more are looked up as a prefix


def name_patterns(term: Term) -> list[list[WordPattern]]:
    """Patterns for a term: a name that fits has a word for one pattern of each list. The file is tested all the same."""
    words = [word[:MAX_WORD] for word in term.words][:8]
    first, last = words[0], words[-1]
    each = [[WordPattern(word)] for word in words]
    open_ended = term.kind != "phrase" and (not is_run(last) or len(last) == 1)
    if open_ended:
        each[-1] = [WordPattern(last, prefix=True)]
    if term.kind == "part" and not is_run(first):
        if len(words) == 1:
            return [[containing(first)]]
        end = ending(first)  # in y_rep, y may be the end of a longer word
        each[0] = [end] if end.pattern else []
    if term.token is not None:  # report2026 may be one word of a name or two
        longest = max(range(len(words)), key=lambda at: (len(words[at]), -at))
        return [[containing(term.token), *(each[longest] or [WordPattern(words[longest])])]]
    return [alternatives for alternatives in each if alternatives]


def is_indexed(term: Term) -> bool:
    """Whether an index can find the term. A short prefix in texts can't be: it is tested on file after file."""
    return bool(term.words) and not term.negated and not (term.where == "content" and is_short(term))


def is_simple(term: Term) -> bool:
    """Whether the term is a single word, so that a name with one of its words needs no further test."""
    return (
        len(term.words) == 1 and len(term.words[0]) <= MAX_WORD and (term.kind != "part" or term.words[0] == term.key)
    )


def in_name(term: Term, lists: Sequence[WordMatches]) -> tuple[str | None, bool]:
    """A tsquery on ``file_texts`` for names that may fit the term, and whether it is exact."""
    if term.kind == "phrase" and len(term.words) == 2 and max(map(len, term.words)) <= MAX_WORD:
        token = (
            f" | '{MARK}/{term.token}' | '{MARK}//{term.token}'" if term.token and len(term.token) <= MAX_WORD else ""
        )
        return f"('{MARK}/{' '.join(term.words)}'{token})", True
    if any(
        len(word) < SHORTEST_PART for words in lists for word in words.prefixes
    ):  # too short: most names have such a word
        return None, False
    each: list[list[str]] = []
    for some in lists:
        alone, beginnings = list(some.words), list(some.prefixes)
        first = term.words[0]
        if is_simple(term) and term.kind != "phrase" and len(first) >= SHORTEST_PART:
            others = [word for word in alone if not word.startswith(first)]
            if len(alone) - len(others) > _ALIKE:  # every text is compared with each key
                alone, beginnings = others, [first]
        each.append([f"'{MARK}/{word}'" for word in alone] + [f"'{MARK}/{word}':*" for word in beginnings])
    return " & ".join(f"({' | '.join(one)})" for one in each) or None, is_simple(term)


def union(lists: Sequence[WordMatches]) -> WordMatches:
    """Words of any of the lists."""
    words = dict.fromkeys(word for each in lists for word in each.words)
    return WordMatches(tuple(words), tuple(dict.fromkeys(word for each in lists for word in each.prefixes)))
