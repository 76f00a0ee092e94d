"""Files with equal names in a folder get numbers, however many there are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.errors import InvalidName
from core.names import clean_name, name_key, numbered
from db import Database, Tx, files, folders, scalar
from tests.rows import add_file

FORMS: list[Callable[[str], str]] = [
    str,
    str.upper,
    str.swapcase,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFKC", name),
]


def take(tx: Tx, owner: str, folder: int | None, names: Iterable[str]) -> None:
    """Give files these names, without numbers."""
    tx.execute(
        "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, folder_id, status)"
        " select f.owner_id, taken.name, f.file_path, f.mime_type, f.file_type, f.file_size, %s, f.status"
        " from files f, unnest(%s::text[]) taken (name) where f.owner_id = %s and f.is_deleted",
        [folder, list(names), owner],
    )


def copied(tx: Tx, owner: str, folder: int | None, name: str) -> str:
    """The name of a copy that asks for ``name``."""
    source = files.get(
        tx, scalar(tx, "select id from files where owner_id = %(owner)s and is_deleted", {"owner": owner})
    )
    assert source is not None
    files.lock_names(tx, owner, folder)
    made = files.copy(tx, source, object_key=source.file_path, folder_id=folder, original_name=name, mime_type=None)
    assert made is not None
    return made.original_name


@st.composite
def clean_names(draw: st.DrawFn) -> str:
    stem = draw(
        st.one_of(st.text(max_size=12), st.text(min_size=80, max_size=260), st.sampled_from(["Straße", "ﬁle", "x (3)"]))
    )
    suffix = draw(st.sampled_from(["", ".bin", ".tar.gz", ".ÄÖ", ".e\u0301", " (1).bin"]))
    try:
        return clean_name(stem + suffix)
    except InvalidName:
        return clean_name("x" + suffix)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    clean_names(), st.integers(-1, 70), st.sets(st.integers(0, 75), max_size=8), st.sampled_from(FORMS), st.booleans()
)
@example("é" * 125 + ".bin", 70, {9, 10}, FORMS[1], True)
@example("x (1).bin", 20, set(), FORMS[0], False)
def test_T24_a_copy_gets_a_free_name(
    db: Database, name: str, last: int, gaps: set[int], form: Callable[[str], str], in_folder: bool
) -> None:
    """All numbers up to ``last`` are taken but the ``gaps``, in another case or Unicode form. Of the first 16 numbers the
    smallest free one is chosen, else one that follows a taken one."""
    owner = uuid4().hex
    add_file(db, name, owner=owner, deleted=True)  # holds no name
    with db.transaction() as tx:
        folder = folders.create(tx, owner, name="f", description="", parent_id=None) if in_folder else None
        every = [name, *(numbered(name, n) for n in range(1, 80))]
        here = {n: form(every[n]) for n in set(range(last + 1)) - gaps if len(form(every[n]).encode()) <= 255}
        take(tx, owner, folder, {name_key(taken): taken for taken in here.values()}.values())
        taken = {name_key(taken) for taken in here.values()}
        for _ in range(3):
            found = copied(tx, owner, folder, name)
            free = [n for n in range(80) if name_key(every[n]) not in taken]
            if free[0] <= 16:
                assert found == every[free[0]]
            else:
                assert found in [every[n] for n in free if n - 1 not in free]
            taken.add(name_key(found))


@pytest.mark.parametrize("in_folder", [True, False])
def test_T24_twelve_thousand_equal_names(db: Database, in_folder: bool) -> None:
    """The next name is found by a few look-ups in the index."""
    add_file(db, "x.bin", deleted=True)
    with db.transaction() as tx:
        folder = folders.create(tx, "alice", name="f", description="", parent_id=None) if in_folder else None
        take(tx, "alice", folder, ["x.bin", *(numbered("x.bin", n) for n in range(1, 12_000))])
    with db.connection() as tx:
        tx.execute("analyze files")
    with db.transaction() as tx:
        reads = "select seq_scan, idx_scan from pg_stat_xact_user_tables where relname = 'files'"
        assert copied(tx, "alice", folder, "X.bin") == "X (12000).bin"
        sequential, indexed = tx.execute(reads).fetchone() or (0, 0)
        assert sequential <= 1 and indexed < 200  # the test's own look-up of the source reads the table
        assert copied(tx, "alice", folder, "x.bin") == "x (12001).bin"


def test_chosen_numbers_cannot_take_every_step(db: Database) -> None:
    """Names with the numbers 1 to 16 and all powers of two don't lead the search beyond its largest number."""
    add_file(db, "x.bin", deleted=True)
    powers = {2**n for n in range(31)} | {2**n + 1 for n in range(31)}
    with db.transaction() as tx:
        take(tx, "alice", None, ["x.bin", *(numbered("x.bin", n) for n in {*range(1, 17), *powers})])
        for _ in range(20):
            assert re.fullmatch(r"x \(\d{2,4}\)\.bin", copied(tx, "alice", None, "x.bin"))
