"""The leaves of a search as SQL: what to look up for them, tests of one file, and its rank class.

Tests ask a row ``f`` of the index, which repeats what filters ask of a file. ``f.names`` has the words of a name in order, then
its tokens, each behind two spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from core.names import name_key
from core.search_query import Is, Leaf, SearchTree, Term, Within
from core.tokenizer import MAX_WORD, is_run, tokens, words
from db.file_lists import FAMILIES

# Scores of the rank classes, in millionths (docs/search-ranking.md).
EXACT, START, BEGINNING, PHRASE, WORDS = 1_000_000, 900_000, 850_000, 800_000, 700_000
PARTS, NEAR, CONTENTS = 600_000, 500_000, 300_000

MARK = "\x02"  # what lexemes of a query begin with, in place of the owner's mark and the segment
_SHORTEST_PART = 3  # characters; shorter words have no trigram and match as prefixes only
_LONGEST_PHRASE = 32  # words

Spellings = Mapping[str, Sequence[str]]  # a word -> others


def like(text: str) -> str:
    """Escape the text for LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def may_be_inside(term: Term) -> bool:
    """Whether the first word of the term may also be inside of a word."""
    first = term.words[0] if term.words else ""
    return term.kind == "part" and len(first) >= _SHORTEST_PART and not first.isdecimal() and not is_run(first)


def is_short(term: Term) -> bool:
    """Whether the term is a prefix so short that nearly all texts have it."""
    return term.kind == "prefix" and len("".join(term.words[-1:])) < _SHORTEST_PART and not is_run(term.key)


def in_texts(term: Term) -> bool:
    """Whether the term is searched in texts. ``ab*`` is for names, unless it asks for texts."""
    return term.where != "name" and bool(term.words) and (term.where == "content" or not is_short(term))


def is_exact(term: Term) -> bool:
    """Whether a lookup finds no file that does not have the term."""
    return term.where == "content" or (term.words == (term.key,) and len(term.key) <= MAX_WORD)


def lexeme(begin: str, word: str, end: str = "") -> str:
    """A word of a name (``begin``: /, // or ^) or text, in a tsquery."""
    return f"'{MARK}{begin}{word[:MAX_WORD]}'{end}"


def any_of(queries: Iterable[str]) -> str:
    """The queries joined by OR, without the empty ones."""
    found = " | ".join(filter(None, queries))
    return found and f"({found})"


def first_query(term: Term) -> str:
    """A tsquery for names whose first word is the term's."""
    open_ended = len(term.words) == 1 and term.kind != "phrase" and (not is_run(term.key) or len(term.key) == 1)
    return lexeme("^", term.words[0], ":*" if open_ended else "")


def text_query(term: Term, stems: Spellings) -> str:
    """The tsquery for texts that fit the term, and no others: a word as it is or by its ``stems``, a phrase by exact words."""
    if not in_texts(term):
        return ""
    asked = term.words[:_LONGEST_PHRASE]
    end = ":*" if term.kind == "prefix" or (len(asked[-1]) == 1 and is_run(asked[-1])) else ""
    lexemes = [*(lexeme("", word) for word in asked[:-1]), lexeme("", asked[-1], end)]
    if len(asked) == 1:
        return any_of([*lexemes, *(lexeme("", s) for s in (stems.get(asked[0], ()) if term.kind == "part" else ()))])
    pairs = [f"'{MARK}{one[:MAX_WORD]} {two[:MAX_WORD]}'" for one, two in pairwise(asked)]
    pairs[-1] += end
    # Two words are one pair. For more, texts that have all pairs are tested for the order.
    found = " & ".join(pairs if len(asked) == 2 else [*pairs, " <-> ".join(lexemes)])
    return any_of([found, lexeme("", term.token) if term.token else ""])


def extension_query(extension: str) -> str:
    """A tsquery for names that may have the extension; empty if there is none."""
    split = [(lexeme("//", token), words(token)) for token, _ in tokens(name_key(extension))]
    return " & ".join(any_of([" & ".join(lexeme("/", word) for word in found), token]) for token, found in split)


@dataclass(slots=True)
class Statement:
    """Writes SQL and collects its parameters. ``stems`` of words; ``inside``: words of names that contain a word; ``near``: words
    of names that a term may be a misspelling of."""

    params: dict[str, Any]
    stems: Spellings = field(default_factory=dict)
    inside: Spellings = field(default_factory=dict)
    near: Spellings = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"

    def name_query(self, term: Term) -> str:
        """A tsquery for all names that fit the term, and maybe others (``is_exact``); empty if there is none."""
        if not term.words or term.where == "content":
            return ""
        first, last = term.words[0], term.words[-1]
        end = "" if term.kind == "phrase" or (is_run(last) and len(last) > 1) else ":*"
        if len(term.words) == 1:
            return any_of(
                [lexeme("/", first, end), lexeme("//", first, end), *(lexeme("/", w) for w in self._others(term))]
            )
        known = [*(lexeme("/", word) for word in term.words[1:-1]), lexeme("/", last, end)]
        if term.kind != "part" or is_run(first):
            known.append(lexeme("/", first))
        elif may_be_inside(term) and first in self.inside:  # it may be the end of a word
            known.append(any_of(lexeme("/", word) for word in (first, *self.inside[first])))
        token = lexeme("//", term.token, "" if term.kind == "phrase" else ":*") if term.token else ""
        return any_of([" & ".join(known), token])

    def _others(self, term: Term, *, near: bool = True) -> list[str]:
        """Whole words of names by which the term, a word, is found too."""
        word = term.words[0]
        inside = self.inside.get(word, ()) if may_be_inside(term) else ()
        found = [other for other in inside if not other.startswith(word)]
        return [*found, *self.near.get(term.key, ())] if near and term.kind == "part" and not term.negated else found

    def _spelt(self, term: Term, begin: str, end: str, others: Iterable[str] = ()) -> str:
        """Whether the name has the words of the term in order, its token, or, as a word and not as a token, one of the others."""
        patterns = [begin + like(" ".join(term.words)) + end]
        patterns += [f"% {like(term.token)}{end}"] if term.token else []
        test = f"f.names like any({self.value(patterns)}::text[])"
        if patterns := [f"% {like(other)} %" for other in others]:
            test = f"({test} or split_part(f.names, '   ', 1) || ' ' like any({self.value(patterns)}::text[]))"
        return test

    def name_test(self, term: Term, *, near: bool = True, parts: bool = True) -> str:
        """Whether the name has the term; without ``parts``, as whole words."""
        if term.where == "content":
            return "false"
        literal = f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        if not term.words:
            return literal
        parts = parts and term.kind == "part"
        end = "%" if parts or term.kind == "prefix" else " %"
        if len(term.words) > 1 or not parts:
            return self._spelt(term, "%" if parts else "% ", end)
        test = self._spelt(term, "% ", end, self._others(term, near=near))
        return test if term.words[0] == term.key else f"({test} and {literal})"  # 100%

    def test(self, leaf: Leaf) -> str:
        """Whether the file has the leaf, which may be negated."""
        match leaf:
            case Term():
                test = self.name_test(leaf)
                if in_texts(leaf):
                    query = self.value(text_query(leaf, self.stems))
                    test += f" or f.words @@ replace({query}, chr(2), f.mark)::tsquery"
            case Is(what="type", value=value):
                test = self._type(value.lower())
            case Is(what="ext", value=value):
                test = f"f.name_key like {self.value('%.' + like(name_key(value.lstrip('.'))))}"
            case Is(value=value):
                test = f"f.tags && {self.value([value, value.casefold()])}::text[]"
            case Within(what=what, low=low, high=high):
                column, kind = ("f.file_size", "bigint") if what == "size" else ("f.uploaded_at", "timestamptz")
                bounds = [(sign, bound) for sign, bound in ((">=", low), ("<", high)) if bound is not None]
                test = " and ".join(f"{column} {sign} {self.value(bound)}::{kind}" for sign, bound in bounds)
        return f"not ({test})" if leaf.negated else f"({test})"

    def _type(self, value: str) -> str:
        if value in FAMILIES:
            return f"f.file_type = {self.value(value)}"
        if value.endswith("/*"):
            return f"starts_with(f.mime_type, {self.value(value[:-1])})"
        if "/" in value:
            return f"f.mime_type = {self.value(value)}"
        return f"f.name_key like {self.value('%.' + like(value))} or f.mime_type like {self.value('%' + like(value) + '%')}"

    def all_of(self, groups: Iterable[Sequence[Any]], test: Callable[[Any], str]) -> str:
        """Whether each group has a leaf that passes the test."""
        return " and ".join(f"({' or '.join(map(test, group)) or 'false'})" for group in groups) or "true"

    # -- the rank class of a file --------------------------------------------------------------------------------

    def exact_test(self, term: Term) -> str:
        """Whether the name is the term, or the term and an extension; ranges of the index files_by_name."""
        key = term.key
        between = f"f.name_key >= {self.value(key + '.')} and f.name_key < {self.value(key + '/')}"
        return f"(f.name_key = {self.value(key)} or {between} and f.name_key not like {self.value(like(key) + '.%.%')})"

    def score(self, tree: SearchTree) -> str:
        """The rank class, in millionths."""
        groups = ranked_groups(tree)
        if not groups:
            return str(EXACT)
        cases: list[tuple[int, str]] = []
        for term in whole_names(tree):
            end = "%" if term.kind == "prefix" else " %"
            if term.kind != "prefix":
                cases.append((EXACT, self.exact_test(term)))
            if term.words:
                cases.append((START, f"f.names like {self.value(' ' + like(' '.join(term.words)) + end)}"))
            if term.kind != "phrase":
                cases.append((BEGINNING, f"f.name_key like {self.value(like(term.key) + '%')}"))
            if term.words and (len(term.words) > 1 or term.kind == "phrase"):
                cases.append((PHRASE, self._spelt(term, "% ", end)))
        cases.sort(key=lambda case: -case[0])
        cases.append((WORDS, self.all_of(groups, lambda term: self.name_test(term, parts=False))))
        cases.append((PARTS, self.all_of(groups, lambda term: self.name_test(term, near=False))))
        if self.near:
            cases.append((NEAR, self.all_of(groups, self.name_test)))
        return "(case " + " ".join(f"when {test} then {score}" for score, test in cases) + f" else {CONTENTS} end)"


def ranked_groups(tree: SearchTree) -> list[list[Term]]:
    """For each group with terms, the terms that a name may have."""
    terms = [[leaf for leaf in group if isinstance(leaf, Term) and not leaf.negated] for group in tree.groups]
    return [[term for term in group if term.where != "content"] for group in terms if group]


def whole_names(tree: SearchTree) -> list[Term]:
    """Terms to compare whole names with: each alternative of a single group, or all terms as one."""
    groups = ranked_groups(tree)
    if len(groups) == 1:
        return groups[0]
    if not groups or any(len(group) != 1 for group in groups):
        return []
    return [Term(" ".join(group[0].text for group in groups), "prefix" if groups[-1][0].kind == "prefix" else "part")]
