"""Searches of a small library compared with a model in plain Python: items in order, totals, facets and pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from core.names import name_key
from core.search_query import Is, Leaf, SearchTree, Term, Within, parse
from core.tokenizer import is_run, tokens, words
from db import Database, Tx, execute, scalar
from db.file_lists import FileFilter
from db.search import query as index
from db.search.terms import whole_names
from tests.rows import add_file, index_now, put_text

AT = datetime(2026, 1, 1, tzinfo=UTC)
NEAR = {"noet": ["note"]}
TYPES = {"pdf": ("document", "application/pdf"), "jpg": ("image", "image/jpeg"), "txt": ("text", "text/plain")}
NAME_WORDS = ("plan", "plans", "replan", "planNote", "note", "it", "is", "12", "note2026", "東京都", "été", "100%")
TEXT_WORDS = ("plan", "planning", "note", "it", "is", "12", "note2026", "東京都", "été")
OPERATORS = """
plan pla* lan plann plannote annot note it i* 12 1 note2026 note20 202 東京 京 ete été e* plan_note lan_n e2026 100% % _
planx noet "plannote" "東京都" plan_no* noteX* note20* name:plan name:it* content:note content:pl* content:planni*
content:東京 -plan -content:it -note -12 -name:it -content:p* -e* -type:image -ext:pdf -tag:work -before:2026-01-09
-size:>5 type:image type:image/* type:text/plain type:pdf ext:jpg ext:PDF ext:2026.txt tag:work tag:WORK tag:it's
after:2026-01-05 before:2026-01-09 before:2020-01-01 after:2030-01-01 size:>5 size:<3 size:>1tb is:deleted
"""
QUERIES = [
    *OPERATORS.split(),
    '"plan note"',
    '"note it is"',
    'content:"it is"',
    '-"plan note"',
    "plans OR 12",
    '"plan note" OR it',
    "content:note OR name:12",
    "-plan OR note",
    "type:image OR plan",
    "ext:txt OR it",
    "ext:jpg OR ext:pdf",
    "tag:work OR before:2026-01-04",
]


@dataclass(frozen=True)
class Model:
    """A file, and whether and how well it matches."""

    name: str
    text: str
    ending: str
    tags: Sequence[str]
    size: int
    day: int
    owner: str
    deleted: bool
    ready: bool
    id: UUID

    @property
    def key(self) -> str:
        return name_key(self.name)

    def matches(self, tree: SearchTree) -> bool:
        return self.deleted == tree.deleted and all(any(map(self._leaf, group)) for group in tree.groups)

    def _leaf(self, leaf: Leaf) -> bool:
        at = AT + timedelta(days=self.day)
        file_type, mime_type = TYPES[self.ending]
        match leaf:
            case Term():
                found = self.named(leaf, NEAR.get(leaf.key, [])) or self._has_text(leaf)
            case Is("type", value):
                value = value.lower()
                found = value in (file_type, mime_type, mime_type.split("/")[0] + "/*")
                found = found or ("/" not in value and (self.key.endswith("." + value) or value in mime_type))
            case Is("ext", value):
                found = self.key.endswith("." + name_key(value))
            case Is("tag", value):
                found = value in self.tags or value.casefold() in self.tags
            case Within("size", low, high):
                found = (low is None or self.size >= low) and (high is None or self.size < high)
            case Within("uploaded", start, end):
                found = (start is None or at >= start) and (end is None or at < end)
        return found != leaf.negated

    def named(self, term: Term, near: Sequence[str] = ()) -> bool:
        if term.where == "content":
            return False
        if not term.words:
            return term.key in self.key
        first = term.words[0]
        inside = len(term.words) > 1 or (len(first) > 2 and not first.isdecimal() and not is_run(first))
        begins = "" if term.kind == "part" and inside else " "
        ends = " " if term.kind == "phrase" else ""
        found = begins + " ".join(term.words) + ends in f" {' '.join(words(self.name))} "
        token = first if len(term.words) == 1 else term.token
        found = found or (token is not None and f" {token}{ends}" in f" {' '.join(self._split())} ")
        if len(term.words) == 1 and term.kind == "part" and first != term.key:
            found = found and term.key in self.key
        return found or bool(set(near) & set(words(self.name)))

    def _split(self) -> list[str]:
        return [token for token, pieces in tokens(self.name) if len(pieces) > 1]

    def _has_text(self, term: Term) -> bool:
        if not self.ready or not self.text or term.where == "name" or not term.words:
            return False
        last = term.words[-1]
        if term.where == "any" and term.kind == "prefix" and len(last) < 3 and not is_run(term.key):
            return False
        ends = "" if term.kind == "prefix" or (len(last) == 1 and is_run(last)) else " "
        text = words(self.text)
        split = [token for token, pieces in tokens(self.text) if len(pieces) > 1]
        found = f" {' '.join(term.words)}{ends}" in f" {' '.join(text)} "
        if len(term.words) == 1:
            return found or any(token == last or (not ends and token.startswith(last)) for token in split)
        return found or term.token in split

    def score(self, tree: SearchTree) -> int:
        groups = [[leaf for leaf in group if isinstance(leaf, Term) and not leaf.negated] for group in tree.groups]
        groups = [group for group in groups if group]
        if not groups:
            return 1_000_000
        groups = [[term for term in group if term.where != "content"] for group in groups]
        name = f" {' '.join(words(self.name))} "
        classes = [300_000]
        for term in whole_names(tree):
            ends = "" if term.kind == "prefix" else " "
            spelt = " " + " ".join(term.words) + ends
            stem, _, _ = self.key.rpartition(".")
            if term.kind != "prefix" and term.key in (self.key, stem):
                classes.append(1_000_000)
            if term.words and name.startswith(spelt):
                classes.append(900_000)
            if term.kind != "phrase" and self.key.startswith(term.key):
                classes.append(850_000)
            if term.words and (len(term.words) > 1 or term.kind == "phrase") and self._whole(term, ends):
                classes.append(800_000)
        if all(any(self._whole(term, "" if term.kind == "prefix" else " ") for term in group) for group in groups):
            classes.append(700_000)
        if all(any(self.named(term) for term in group) for group in groups):
            classes.append(600_000)
        if all(any(self.named(term, NEAR.get(term.key, [])) for term in group) for group in groups):
            classes.append(500_000)
        return max(classes)

    def _whole(self, term: Term, ends: str) -> bool:
        if not term.words:
            return term.key in self.key
        token = term.words[0] if len(term.words) == 1 else term.token
        found = f" {' '.join(term.words)}{ends}" in f" {' '.join(words(self.name))} "
        return found or (token is not None and f" {token}{ends}" in f" {' '.join(self._split())} ")


FILES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAME_WORDS), min_size=1, max_size=3),
        st.sampled_from([" ", "_", ""]),
        st.lists(st.sampled_from(TEXT_WORDS), max_size=5),
        st.sampled_from(list(TYPES)),
        st.sampled_from([[], ["work"], ["it's"]]),
        st.integers(0, 12),
        st.sampled_from(["alice", "alice", "alice", "bob"]),
        st.sampled_from([True, False, False, False]),
        st.sampled_from(["ready", "ready", "processing"]),
    ),
    max_size=14,
)
EXAMPLE: Any = [
    (["report"], " ", [], "txt", [], day, owner, False, "ready") for day in (1, 6) for owner in ("alice", "bob")
]


@pytest.mark.slow
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
)
@given(
    FILES,
    st.lists(st.lists(st.sampled_from(QUERIES), min_size=1, max_size=3).map(" ".join), min_size=30, max_size=30),
    st.booleans(),
)
@example(
    EXAMPLE,
    ["report before:2020-01-01", "report after:2030-01-01", "report after:2026-01-04", "report size:>1tb"],
    False,
)
@example(
    [(["12"], " ", ["note", "it", "note"], "pdf", [], 1, "alice", False, "ready")],
    ["it content:pl*", "it content:pl* type:pdf", "it plan", "it -plan OR content:pl*", "it type:image OR plan"],
    False,
)
@example(
    [(["annual", "Report", "2026"], "", [], "txt", [], 1, "alice", False, "ready")],
    ["annualr", "ualrep", "annualreport20*"],
    False,
)
@example(
    [  # "annot" is inside of the second name's word, and of a token that the first name is split from
        (["planNote"], " ", ["annot"], "txt", [], 1, "alice", False, "ready"),
        (["plan", "note", "東京都"], "", [], "txt", [], 2, "alice", False, "ready"),
        (["planNote"], " ", [], "txt", [], 3, "alice", False, "ready"),
    ],
    ["annot", "annot -tag:work", "noet OR annot"],
    False,
)
def test_T82_results_equal_those_of_a_model(db: Database, library: Any, queries: list[str], reindexed: bool) -> None:
    with db.connection() as tx:
        execute(tx, "truncate files, file_tags, search_index, search_queue, search_words cascade")
        files = [add(db, tx, number, *row) for number, row in enumerate(library)]
    index_now(db)
    if reindexed:  # each by itself, so that the segments and words of others do not matter
        with db.connection() as tx:
            execute(tx, "select setval('search_places', (last_value / 32768 + 1) * 32768) from search_places")
            execute(
                tx,
                "update files set original_name = original_name || '.pdf', version = version + 1 where tags = '{work}'",
            )
            for file in files:
                if list(file.tags) == ["work"] and file.text:  # it is read anew under its new name
                    key = scalar(tx, "select file_path from files where id = %(id)s", {"id": file.id})
                    assert put_text(tx, key, content=file.text, language=None)
        index_now(db)
        files = [
            Model(**(vars(file) | {"name": file.name + ".pdf"})) if list(file.tags) == ["work"] else file
            for file in files
        ]
    with db.connection() as tx:
        for number, query in enumerate(queries):
            owner = None if number % 3 == 0 else "alice"
            compare(tx, query, [file for file in files if owner in (None, file.owner)], owner, paged=number % 4 == 0)


def add(db: Database, tx: Tx, number: int, name: list[str], gap: str, text: list[str], ending: str, *row: Any) -> Model:
    tags, day, owner, deleted, status = row
    key, full = f"files/{uuid4().hex}", gap.join([*name, f" {number}" if gap else f"x{number}"]) + f".{ending}"
    file_type, mime_type = TYPES[ending]
    columns = {
        "owner": owner,
        "deleted": deleted,
        "status": status,
        "tags": tags,
        "size": day,
        "at": AT + timedelta(days=day),
    }
    file_id = add_file(db, full, key=key, file_type=file_type, mime_type=mime_type, **columns)
    if text:
        assert put_text(tx, key, content=" ".join(text), language=None)
    return Model(full, " ".join(text), ending, tags, day, day, owner, deleted, status == "ready", file_id)


def compare(tx: Tx, query: str, files: list[Model], owner: str | None, *, paged: bool) -> None:
    tree = parse(query)
    expected = [file for file in files if file.matches(tree)]
    expected.sort(key=lambda file: (file.score(tree), file.day, file.id), reverse=True)

    def find(limit: int = 100, **options: Any) -> Any:
        return index.find(tx, FileFilter(owner, deleted=tree.deleted), tree, corrections=NEAR, limit=limit, **options)

    found = find(facets=("file_type",))
    assert [(hit.file.original_name, hit.score) for hit in found.hits] == [(f.name, f.score(tree)) for f in expected], (
        query
    )
    assert found.matched == len(expected), query
    types = Counter(TYPES[file.ending][0] for file in expected)
    assert {value["value"]: value["count"] for value in found.facets["file_type"]} == types, query
    assert find(newest=100).hits == found.hits, query
    if paged and found.hits:
        page = find(3)
        assert page.matched == len(expected) and page.hits == found.hits[:3], query
        assert find(after=page.hits[-1].position).hits == found.hits[3:], query
