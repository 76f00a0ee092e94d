"""docs/threats.md, the code and the tests agree on the numbered threats."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threats.md"
NUMBER = re.compile(r"(?<![A-Za-z0-9-])[RT]\d{1,3}(?![A-Za-z0-9])")
ROWS = dict(re.findall(r"^\| ([RT]\d+) \|.*\| ([^|]*) \|$", PAGE.read_text(), re.MULTILINE))


def cited(path: Path) -> set[str]:
    """The numbers cited in a file, without ruff's codes, which look similar."""
    return set(NUMBER.findall(re.sub(r"noqa.*", "", path.read_text())))


def files_below(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name[0] != "." and name not in ("node_modules", "var")]
        yield from (Path(folder, name) for name in names if name.endswith((".py", ".md", ".sql", ".yml", ".conf")))


def test_each_number_has_one_row() -> None:
    assert len(re.findall(r"^\| [RT]\d", PAGE.read_text(), re.MULTILINE)) == len(ROWS)


def test_every_cited_number_is_listed() -> None:
    unknown = {path: numbers for path in files_below(ROOT) if (numbers := cited(path) - ROWS.keys())}
    assert not unknown


def test_every_number_is_tested_where_its_row_says_or_open() -> None:
    for number, where in ROWS.items():
        files, _, reason = where.partition("open: ")
        named = re.findall(r"`([^`]+)`", files)
        assert named or reason, number
        for name in named:
            assert number in cited(ROOT / "tests" / name), (number, name)


def test_no_file_cites_documents_outside_the_repository() -> None:
    elsewhere = re.compile(r"\b(?:THREATS|DEPENDENCIES|PROTOCOLS|EXEMPLARS)\b|\bCONTRACT(?:\.md|, [A-Z][a-z])")
    paths = (path for path in files_below(ROOT) if path != Path(__file__))
    assert not [path for path in paths if elsewhere.search(path.read_text())]
