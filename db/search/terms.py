"""The leaves of a search as SQL: what to look up for them, tests of one file, and its rank class.

Tests of filters ask the live row ``f`` of files; tests of terms ask the row ``i`` of the index, which is of the same name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from core.names import name_key
from core.search_query import ExtensionIs, HasTag, Leaf, SearchTree, SizeWithin, Term, TypeIs, UploadedWithin
from core.tokenizer import MAX_WORD, is_run, tokens, words
from db import Tx
from db.file_lists import FAMILIES
from db.search.index import STEMMERS

# Scores of the rank classes, in millionths (docs/search-ranking.md).
EXACT, START, BEGINNING, PHRASE, WORDS = 1_000_000, 900_000, 850_000, 800_000, 700_000
PARTS, NEAR, CONTENTS = 600_000, 500_000, 300_000

MARK = "\x02"  # what lexemes of a query begin with, in place of the owner's mark and the segment
SHORTEST_PART = 3  # characters; shorter words have no trigram and match as prefixes only
_LONGEST_PHRASE = 32  # words

Spellings = Mapping[str, Sequence[str]]  # a word -> others


def like(text: str) -> str:
    """Escape the text for LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def may_be_inside(term: Term) -> bool:
    """Whether the first word of the term may also be inside of a word."""
    first = term.words[0] if term.words else ""
    return term.kind == "part" and len(first) >= SHORTEST_PART and not first.isdecimal() and not is_run(first)


def in_texts(term: Term) -> bool:
    """Whether the term is looked up in texts. ``ab*`` is in nearly all of them, so it is for names, unless they ask for texts."""
    return term.where != "name" and bool(term.words) and (term.where == "content" or not is_short(term))


def is_short(term: Term) -> bool:
    """Whether the term is a prefix so short that nearly all texts have it."""
    return term.kind == "prefix" and bool(term.words) and len(term.words[-1]) < SHORTEST_PART and not is_run(term.key)


def _lexeme(begin: str, word: str, end: str = "") -> str:
    return f"'{MARK}{begin}{word[:MAX_WORD]}'{end}"


def name_query(term: Term, inside: Spellings, near: Sequence[str]) -> str:
    """A tsquery for all names that fit the term, and maybe others; empty if there is none. ``inside``: the words that contain a
    word; ``near``: those that the term may be a misspelling of."""
    if not term.words:
        return ""
    start, last = term.words[0], term.words[-1]
    others = inside.get(start) if may_be_inside(term) else None
    end = "" if term.kind == "phrase" or (is_run(last) and len(last) > 1) else ":*"
    if len(term.words) == 1:
        each = [_lexeme("/", start, end), _lexeme("//", start, end)]
        each += [_lexeme("/", word) for word in (*(others or ()), *near) if not word.startswith(start) or not end]
        found = " | ".join(each)
    else:
        known = [_lexeme("/", word) for word in term.words[1:-1]] + [_lexeme("/", last, end)]
        if term.kind != "part" or is_run(start):
            known.append(_lexeme("/", start))
        elif others is not None:  # the first may be the end of a word
            known.append("(" + " | ".join(_lexeme("/", word) for word in (start, *others)) + ")")
        found = "(" + " & ".join(known) + ")"
        if term.token:
            found += " | " + _lexeme("//", term.token, "" if term.kind == "phrase" else ":*")
    return f"({found})"


def first_query(term: Term) -> str:
    """A tsquery for names whose first word is the term's."""
    open_ended = len(term.words) == 1 and term.kind != "phrase" and (not is_run(term.key) or len(term.words[0]) == 1)
    return _lexeme("^", term.words[0], ":*" if open_ended else "")


def text_query(term: Term, stems: Spellings) -> str:
    """The tsquery for texts that fit the term, and no others: a word as it is or by its ``stems``, a phrase by exact words."""
    asked = term.words[:_LONGEST_PHRASE]
    lexemes = [_lexeme("", word) for word in asked]
    end = ":*" if term.kind == "prefix" or (len(asked[-1]) == 1 and is_run(asked[-1])) else ""
    lexemes[-1] += end
    if len(asked) == 1:
        stemmed = stems.get(asked[0], ()) if term.kind == "part" else ()
        return "(" + " | ".join([*lexemes, *(_lexeme("", stem) for stem in stemmed)]) + ")"
    pairs = [f"'{MARK}{one[:MAX_WORD]} {two[:MAX_WORD]}'" for one, two in pairwise(asked)]
    pairs[-1] += end
    # Two words are one pair. For more, texts that have all pairs are tested for the order.
    found = " & ".join(pairs if len(asked) == 2 else [*pairs, " <-> ".join(lexemes)])
    return f"({found}" + (f" | {_lexeme('', term.token)}" if term.token else "") + ")"


def extension_query(leaf: ExtensionIs) -> str:
    """A tsquery for names that may have the extension; empty if there is none."""
    split = [token for token, _ in tokens(name_key(leaf.value))]
    each = [" & ".join(_lexeme("/", word) for word in words(token)) for token in split]
    return " & ".join(f"({one} | {_lexeme('//', token)})" for one, token in zip(each, split, strict=True))


@dataclass(slots=True)
class Statement:
    """Collects the parameters of a statement while its SQL is written. ``inside``: for words that a name may have inside of a
    word, the words of names that contain them; the others begin a word."""

    params: dict[str, Any] = field(default_factory=dict)
    inside: Spellings = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"

    def name_test(self, term: Term, near: Sequence[str] = ()) -> str:
        """Whether the name has the term; ``near``: words that it may be a misspelling of."""
        if term.where == "content":
            return "false"
        literal = f"i.name_key like {self.value('%' + like(term.key) + '%')}"
        if not term.words:
            return literal
        inside = term.kind == "part" and (len(term.words) > 1 or (may_be_inside(term) and term.words[0] in self.inside))
        before, behind = "%" if inside else "% ", " %" if term.kind == "phrase" else "%"
        tests = self._spelt(term, before, behind, "% ", behind)
        if len(term.words) == 1 and term.kind == "part" and term.words[0] != term.key:
            tests = f"({tests}) and {literal}"  # 100%
        return " or ".join([tests, *(f"i.name_words like {self.value(f'% {like(word)} %')}" for word in near)])

    def _spelt(self, term: Term, before: str, behind: str, token_before: str, token_behind: str) -> str:
        """Whether the name has the term's words in order, or its token, between these patterns."""
        spelt = f"i.name_words like {self.value(before + like(' '.join(term.words)) + behind)}"
        token = term.words[0] if len(term.words) == 1 else term.token
        return (
            f"{spelt} or i.name_tokens like {self.value(token_before + like(token) + token_behind)}" if token else spelt
        )

    def starts_test(self, whole: Sequence[Term]) -> str:
        """Whether the name begins with the first word of one of the terms, as ``first_query`` finds it."""
        tests = [(" " + term.words[0], first_query(term).endswith("*")) for term in whole]
        each = [
            f"i.name_words like {self.value(like(word) + ('%' if open_ended else ' %'))}" for word, open_ended in tests
        ]
        return " or ".join(each) or "false"

    def filter_test(self, leaf: Leaf, row: str = "f") -> str:
        """Whether the file passes the filter, which may be negated. ``row``: of files or, as a first test, of the index."""
        test = "true"
        match leaf:
            case TypeIs(value=value):
                test = self._type(value.lower())
            case ExtensionIs(value=value):
                test = f"f.name_key like {self.value('%.' + like(name_key(value.lstrip('.'))))}"
            case HasTag(value=value):
                test = f"f.tags && {self.value([value, value.casefold()])}::text[]"
            case SizeWithin(low=low, high=high):
                test = self._within("f.file_size", "bigint", low, high)
            case UploadedWithin(start=start, end=end):
                test = self._within("f.uploaded_at", "timestamptz", start, end)
        test = test.replace("f.", f"{row}.")
        return f"not ({test})" if leaf.negated else f"({test})"

    def _type(self, value: str) -> str:
        if value in FAMILIES:
            return f"f.file_type = {self.value(value)}"
        if value.endswith("/*"):
            return f"starts_with(f.mime_type, {self.value(value[:-1])})"
        if "/" in value:
            return f"f.mime_type = {self.value(value)}"
        ending = self.value("%." + like(value))
        return f"f.name_key like {ending} or f.mime_type like {self.value('%' + like(value) + '%')}"

    def _within(self, column: str, kind: str, low: Any, high: Any) -> str:
        tests = [] if low is None else [f"{column} >= {self.value(low)}::{kind}"]
        tests += [] if high is None else [f"{column} < {self.value(high)}::{kind}"]
        return " and ".join(tests)

    # -- the rank class of a hit ``i`` ---------------------------------------------------------------------------

    def exact_test(self, term: Term) -> str:
        """Whether the name is the term, or the term and an extension; ranges of the index files_by_name."""
        key = term.key
        between = f"f.name_key >= {self.value(key + '.')} and f.name_key < {self.value(key + '/')}"
        return f"(f.name_key = {self.value(key)} or {between} and f.name_key not like {self.value(like(key) + '.%.%')})"

    def score(self, tree: SearchTree, near: Spellings) -> str:
        """The rank class, in millionths."""
        groups = ranked_groups(tree)
        if not groups:
            return str(EXACT)
        cases: list[tuple[int, str]] = []
        for term in whole_names(tree):
            key, open_ended = like(term.key), term.kind == "prefix"
            if not open_ended:
                cases.append((EXACT, self.exact_test(term).replace("f.name_key", "i.name_key")))
            if term.words:
                end = "%" if open_ended else " %"
                cases.append((START, f"i.name_words like {self.value(' ' + like(' '.join(term.words)) + end)}"))
                if len(term.words) > 1 or term.kind == "phrase":
                    cases.append((PHRASE, self._spelt(term, "% ", end, "% ", end)))
            if term.kind != "phrase":
                cases.append((BEGINNING, f"i.name_key like {self.value(key + '%')}"))
        cases.sort(key=lambda case: -case[0])
        cases.append((WORDS, _everywhere(groups, self._as_words)))
        cases.append((PARTS, _everywhere(groups, self.name_test)))
        if near:
            cases.append((NEAR, _everywhere(groups, lambda term: self.name_test(term, near_of(term, near)))))
        return "(case " + " ".join(f"when {test} then {score}" for score, test in cases) + f" else {CONTENTS} end)"

    def _as_words(self, term: Term) -> str:
        if not term.words:
            return f"i.name_key like {self.value('%' + like(term.key) + '%')}"
        end = "%" if term.kind == "prefix" else " %"
        return self._spelt(term, "% ", end, "% ", end)


def near_of(term: Term, near: Spellings) -> Sequence[str]:
    """Words that the term may be a misspelling of."""
    return near.get(term.key, ()) if term.kind == "part" and not term.negated else ()


def ranked_groups(tree: SearchTree) -> list[list[Term]]:
    """For each group with terms, the terms that a name may have."""
    return [
        [leaf for leaf in group if isinstance(leaf, Term) and not leaf.negated and leaf.where != "content"]
        for group in tree.groups
        if any(isinstance(leaf, Term) and not leaf.negated for leaf in group)
    ]


def whole_names(tree: SearchTree) -> list[Term]:
    """Terms to compare whole names with: each alternative of a single group, or all terms as one."""
    groups = ranked_groups(tree)
    if len(groups) == 1:
        return groups[0]
    if not groups or any(len(group) != 1 for group in groups):
        return []
    text = " ".join(group[0].text for group in groups)
    return [Term(text, "prefix" if groups[-1][0].kind == "prefix" else "part")]


def _everywhere(groups: Iterable[Sequence[Term]], test: Any) -> str:
    return " and ".join("(" + (" or ".join(f"({test(term)})" for term in group) or "false") + ")" for group in groups)


# -- stems ------------------------------------------------------------------------------------------------------------

# A stemmer leaves words of another script unchanged. The Serbian one knows two scripts.
_LATIN = re.compile("[a-z\u00df-\u024f]")
_OTHER_SCRIPTS = ("ar", "el", "hi", "hy", "ne", "ru", "ta", "yi")
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


def stems(tx: Tx, owner_id: str | None, words: Iterable[str]) -> dict[str, list[str]]:
    """For each word its stems, as ``stem/language``, in the languages of the owner's texts (None: in all)."""
    distinct = list(dict.fromkeys(words))
    params = {"owner": owner_id, "words": distinct, "latin": [bool(_LATIN.search(word)) for word in distinct]}
    found: dict[str, list[str]] = {}
    for word, stem in tx.execute(_STEMS, params).fetchall() if distinct else ():
        found.setdefault(word, []).append(stem)
    return found
