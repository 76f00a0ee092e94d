"""docs/security.md has each section of OWASP ASVS 5.0 with requirements of levels 1 and 2 once, and names only what exists."""

from __future__ import annotations

import re

from tests.paths import ROOT

PAGE = ROOT / "docs" / "security.md"
TEXT = PAGE.read_text()
# How many requirements of levels 1 and 2 each section of a chapter has. They are always its first ones.
COUNTS = {
    1: (2, 9, 11, 3, 2),
    2: (3, 3, 4, 1),
    3: (0, 2, 4, 6, 5, 0, 2),
    4: (3, 1, 2, 4),
    5: (1, 3, 2, 3),
    6: (3, 12, 4, 4, 5, 3, 0, 4),
    7: (3, 4, 2, 5, 2, 2),
    8: (2, 3, 1, 1),
    9: (3, 4),
    10: (2, 2, 4, 11, 5, 2, 3),
    11: (2, 3, 3, 4, 1, 1, 0),
    12: (3, 2, 4),
    13: (1, 5, 2, 5),
    14: (2, 4, 3),
    15: (3, 3, 7, 0),
    16: (1, 5, 4, 3, 3),
    17: (1, 4, 2),
}
SECTIONS = {
    f"{chapter}.{number}": count
    for chapter, counts in COUNTS.items()
    for number, count in enumerate(counts, 1)
    if count
}
ROWS = re.findall(r"^\| (\d+\.\d+) [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", TEXT, re.MULTILINE)
UNMET = re.findall(r"^- \*\*(.+?)\*\* \((partly|operator|provider|not met)\)", TEXT, re.MULTILINE)


def test_each_section_has_one_row_with_its_requirements() -> None:
    wanted = [(name, f"{name}.1" if count == 1 else f"{name}.1-{name}.{count}") for name, count in SECTIONS.items()]
    assert [(name, ids) for name, ids, _ in ROWS] == wanted


def test_a_section_is_met_if_nothing_of_it_is_listed_as_not_met() -> None:
    ids = [number for numbers, _ in UNMET for number in numbers.split(", ")]
    assert len(UNMET) == TEXT.count("- **") and len(ids) == len(set(ids))
    for number in ids:
        section, _, last = number.rpartition(".")
        assert int(last) <= SECTIONS[section], number
    unmet = {number.rpartition(".")[0] for number in ids}
    for name, _, status in ROWS:
        assert status in ("partly", "operator") if name in unmet else status in ("met", "n/a"), name


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`([\w./-]+\.(?:py|md|yml|conf|sh|txt|json)|Dockerfile|\.ci/\w+)`", TEXT)
    linked = re.findall(r"\]\((?!https:)([^)#]+)", TEXT)
    assert len(named) > 50 and linked
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert [name for name in linked if not (PAGE.parent / name).is_file()] == []
