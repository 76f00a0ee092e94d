"""The terms of a search as SQL: tests of a file, and its rank class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.names import name_key
from core.search_query import ExtensionIs, HasTag, Leaf, SearchTree, SizeWithin, Term, TypeIs, UploadedWithin
from core.tokenizer import is_run
from db.file_lists import FAMILIES
from db.search.name_words import SHORTEST_PART, like
from db.search.texts import marked

# Scores of the rank classes, in millionths (docs/search-ranking.md).
EXACT, START, BEGINNING, PHRASE, WORDS = 1_000_000, 900_000, 850_000, 800_000, 700_000
PARTS, NEAR, CONTENTS = 600_000, 500_000, 300_000

Corrections = Mapping[str, Sequence[str]]  # a word -> words that it may be a misspelling of


@dataclass(slots=True)
class Statement:
    """Collects the parameters of a statement while its SQL is written."""

    params: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"


class Terms:
    """The leaves of a tree as tests of files ``f`` and, if ``ask_texts``, of their texts ``t``. ``queries``: the tsqueries of
    terms (texts.tsquery)."""

    def __init__(
        self,
        statement: Statement,
        tree: SearchTree,
        corrections: Corrections,
        queries: Mapping[Term, str],
        owner_id: str | None,
    ):
        self.value = statement.value
        self.queries = queries
        self._tree = tree
        self._corrections = corrections
        self._owner_id = owner_id

    def near(self, term: Term) -> Sequence[str]:
        """Words that the term may be a misspelling of."""
        return self._corrections.get(term.key, ()) if term.kind == "part" and not term.negated else ()

    def tests(self, groups: Sequence[tuple[Leaf, ...]], *, names_only: bool = False) -> str:
        """The groups as tests, each after an ``and``. ``names_only``: without texts."""
        return "".join(" and (" + " or ".join(self.leaf(leaf, names_only) for leaf in group) + ")" for group in groups)

    @staticmethod
    def ask_texts(groups: Sequence[tuple[Leaf, ...]]) -> bool:
        """Whether the tests of these groups need the file's text."""
        return any(isinstance(leaf, Term) and leaf.where != "name" for group in groups for leaf in group)

    def leaf(self, leaf: Leaf, names_only: bool = False) -> str:
        """One leaf as a test."""
        match leaf:
            case Term():
                test = self._term(leaf, names_only)
            case TypeIs(value=value):
                test = self._type(value.lower())
            case ExtensionIs(value=value):
                test = f"f.name_key like {self.value('%.' + like(name_key(value.lstrip('.'))))}"
            case HasTag(value=value):
                test = f"f.tags && {self.value([value, value.casefold()])}::text[]"
            case SizeWithin(low=low, high=high):
                test = self.within("f.file_size", "bigint", low, high)
            case UploadedWithin(start=start, end=end):
                test = self.within("f.uploaded_at", "timestamptz", start, end)
        return f"not ({test})" if leaf.negated else f"({test})"

    def _term(self, term: Term, names_only: bool) -> str:
        tests = [] if term.where == "content" else self._in_name(term)
        if term.where != "name" and not names_only and term.words and not is_hint(term):
            query = marked(self.queries[term], self._owner_id)
            tests.append(f"coalesce(t.words @@ {self.value(query)}::tsquery, false)")
        return " or ".join(tests) or "false"

    def _in_name(self, term: Term) -> list[str]:
        literal = f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        if not term.words:
            return [literal]
        if term.kind == "phrase":
            return [self._spelt(term, "% ", " %")]
        begins = self._spelt(term, "% ", "%")
        if term.kind == "prefix" or len(term.key) < SHORTEST_PART or term.key.isdecimal():
            return [begins]
        near = [f"f.name_words like {self.value(f'% {like(word)} %')}" for word in self.near(term)]
        return [literal, *([begins] if len(term.words) > 1 else []), *near]

    def _spelt(self, term: Term, before: str, behind: str) -> str:
        """Whether the name has the term's words in order, between these patterns."""
        return " or ".join(
            f"f.name_words like {self.value(before + like(spelling) + behind)}" for spelling in term.spellings
        )

    def _type(self, value: str) -> str:
        if value in FAMILIES:
            return f"f.file_type = {self.value(value)}"
        if value.endswith("/*"):
            return f"starts_with(f.mime_type, {self.value(value[:-1])})"
        if "/" in value:
            return f"f.mime_type = {self.value(value)}"
        ending = self.value("%." + like(value))
        return f"f.name_key like {ending} or f.mime_type like {self.value('%' + like(value) + '%')}"

    def within(self, column: str, kind: str, low: Any, high: Any) -> str:
        """Whether the column is in the half-open range; "" without bounds."""
        tests = [] if low is None else [f"{column} >= {self.value(low)}::{kind}"]
        tests += [] if high is None else [f"{column} < {self.value(high)}::{kind}"]
        return " and ".join(tests)

    # -- the rank class of a file ------------------------------------------------------------------------

    def exact_keys(self, leaf: Leaf) -> list[str]:
        """Tests for names equal to the term, or to the term and an extension: ranges of the index files_by_name."""
        if not isinstance(leaf, Term) or leaf.kind == "prefix" or leaf.where == "content":
            return []
        key = leaf.key
        return [
            f"f.name_key = {self.value(key)}",
            f"f.name_key >= {self.value(key + '.')} and f.name_key < {self.value(key + '/')}",
        ]

    def _terms(self) -> list[list[Term]]:
        """For each group with terms, the terms that a name may have."""
        return [
            [leaf for leaf in group if isinstance(leaf, Term) and not leaf.negated and leaf.where != "content"]
            for group in self._tree.groups
            if any(isinstance(leaf, Term) and not leaf.negated for leaf in group)
        ]

    def whole_names(self) -> list[Term]:
        """Terms to compare whole names with: each alternative of a single group, or all terms as one."""
        groups = self._terms()
        if len(groups) == 1:
            return groups[0]
        if not groups or any(len(group) != 1 for group in groups):
            return []
        text = " ".join(group[0].text for group in groups)
        return [Term(text, "prefix" if groups[-1][0].kind == "prefix" else "part")]

    def score(self) -> str:
        """The rank class of a hit, in millionths."""
        groups = self._terms()
        if not groups:
            return str(EXACT)
        cases: list[tuple[str, int]] = []
        for term in self.whole_names():
            key, last = like(term.key), "" if term.kind == "prefix" else " "
            if term.kind != "prefix":
                exact = (
                    f"f.name_key = {self.value(term.key)} or f.name_key like {self.value(key + '.%')}"
                    f" and f.name_key not like {self.value(key + '.%.%')}"
                )
                cases.append((exact, EXACT))
            if term.words:
                cases.append((self._spelt(term, " ", last + "%"), START))
            if term.kind != "phrase":
                cases.append((f"f.name_key like {self.value(key + '%')}", BEGINNING))
            if len(term.words) > 1 or (term.words and term.kind == "phrase"):
                cases.append((self._spelt(term, "% ", last + "%"), PHRASE))
        cases.sort(key=lambda case: -case[1])

        def everywhere(test: Any) -> str:
            each = [" or ".join(test(term) for term in group) or "false" for group in groups]
            return " and ".join(f"({any_of})" for any_of in each)

        cases.append((everywhere(self._as_words), WORDS))
        cases.append((everywhere(self._as_parts), PARTS))
        if any(self.near(term) for group in groups for term in group):
            cases.append((everywhere(lambda term: " or ".join(self._in_name(term))), NEAR))
        written = " ".join(f"when {test} then {score}" for test, score in cases)
        return f"(case {written} else {CONTENTS} end)"

    def _as_words(self, term: Term) -> str:
        if not term.words:
            return f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        return self._spelt(term, "% ", "%" if term.kind == "prefix" else " %")

    def _as_parts(self, term: Term) -> str:
        if term.kind != "part":  # only a part can be inside a word
            return self._as_words(term)
        literal = f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        return f"{literal} or {self._spelt(term, '% ', '%')}" if term.words else literal


def is_short(term: Term) -> bool:
    """Whether the term is a prefix so short that nearly all texts have it."""
    last = term.words[-1] if term.words else ""
    return term.kind == "prefix" and len(last) < SHORTEST_PART and not is_run(last)


def is_hint(term: Term) -> bool:
    """Whether the term is a short prefix for names and texts, which is looked up in names only (T81)."""
    return term.where == "any" and is_short(term)
