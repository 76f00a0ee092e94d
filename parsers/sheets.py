"""Spreadsheets: the text of all cells as shown, and the rows of the first sheet."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from parsers.packages import Enough, Handler, Package, Relationships
from parsers.table import MAX_CELL, MAX_COLUMNS, MAX_ROWS

_MAX_SHEETS = 100
_MAX_STRINGS = 1_000_000
_MAX_STRING_CHARACTERS = 32 * 1024 * 1024


def numbered(package: Package, pattern: str) -> list[str]:
    """The parts whose names match, in the order of the number in them."""
    matches = [(int(match[1]), name) for name in package.names if (match := re.fullmatch(pattern, name, re.I))]
    return [name for _, name in sorted(matches)]


def relation(attributes: Any) -> str:
    """The identifier of the part that an element refers to: ``id`` in whatever prefix the namespace of relations has."""
    return next((value for name, value in attributes.items() if name.endswith(":id")), "")


class _Cells(Handler):
    """Collects the text of all rows, at most ``limit`` characters, and the cells of the first ones."""

    def __init__(self, limit: int):
        super().__init__()
        self.lines: list[str] = []
        self.rows: list[list[str]] = []
        self._row: list[str] = []
        self._left = limit

    def _add(self, cell: str, column: int | None = None) -> None:
        if column is not None and len(self._row) < column <= MAX_COLUMNS:
            self._row += [""] * (column - len(self._row))
        self._row.append(cell)

    def _end_row(self) -> None:
        row, self._row = self._row, []
        while row and not row[-1]:
            row.pop()
        if not row:
            return
        if len(self.rows) < MAX_ROWS:
            self.rows.append([cell[:MAX_CELL] for cell in row[:MAX_COLUMNS]])
        line = "\t".join(cell for cell in row if cell)
        self.lines.append(line)
        self._left -= len(line) + 1
        if self._left < 0:
            raise Enough


# -- xlsx --------------------------------------------------------------------------------------------------------------


def xlsx(package: Package, main: str, limit: int) -> tuple[str, list[list[str]]]:
    """The names and text of all sheets, about ``limit`` characters at most, and the rows of the first one with any that is not
    hidden."""
    relations, book = Relationships(package, main), _Workbook()
    strings, styles = _Strings(), _Styles()
    for kind, handler in (("sharedStrings", strings), ("styles", styles)):
        for name in relations.of_kind(kind, f"{kind}.xml")[:1]:
            with suppress(Enough):
                package.parse_xml(name, handler)
    package.parse_xml(main, book)
    parts = numbered(package, r"xl/worksheets/sheet(\d{1,5})\.xml")
    lines: list[str] = []
    tables: list[tuple[bool, list[list[str]]]] = []
    for at, (title, identifier, hidden) in enumerate((book.sheets or [("", "", False)] * len(parts))[:_MAX_SHEETS]):
        part = relations.parts.get(identifier) or next(iter(parts[at : at + 1]), None)
        sheet = _Sheet(limit, strings.strings, styles.dates(), book.epoch)
        if part:
            with suppress(Enough):
                package.parse_xml(part, sheet)
        lines += [title, *sheet.lines]
        tables.append((hidden, sheet.rows))
        limit -= sum(map(len, sheet.lines))
        if limit < 0:
            break
    shown = sorted(tables, key=lambda table: (not table[1], table[0]))
    return "\n".join(lines), shown[0][1] if shown else []


class _Workbook(Handler):
    """The sheets in order, and the day from which dates count."""

    def __init__(self) -> None:
        super().__init__()
        self.sheets: list[tuple[str, str, bool]] = []  # name, identifier, whether it is hidden
        self.epoch = datetime(1899, 12, 30)

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "workbookPr" and attributes.get("date1904") in ("1", "true"):
            self.epoch = datetime(1904, 1, 1)
        elif tag == "sheet":
            hidden = attributes.get("state", "visible") != "visible"
            self.sheets.append((attributes.get("name", ""), relation(attributes), hidden))


class _Strings(Handler):
    """The strings that cells refer to by number."""

    def __init__(self) -> None:
        super().__init__()
        self.strings: list[str] = []
        self._pieces: list[str] | None = None
        self._text = self._phonetic = False
        self._size = 0

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "si":
            self._pieces = []
        elif tag == "rPh":  # the pronunciation of the text
            self._phonetic = True
        elif tag == "t":
            self._text = not self._phonetic

    def characters(self, content: str) -> None:
        if self._text and self._pieces is not None:
            self._pieces.append(content)
            self._size += len(content)

    def end(self, tag: str) -> None:
        if tag == "t":
            self._text = False
        elif tag == "rPh":
            self._phonetic = False
        elif tag == "si" and self._pieces is not None:
            self.strings.append(_unescaped("".join(self._pieces)))
            self._pieces = None
            if len(self.strings) > _MAX_STRINGS or self._size > _MAX_STRING_CHARACTERS:
                raise Enough


class _Styles(Handler):
    """Which cell formats show dates or elapsed times: ECMA-376 part 1, 18.8.30, and custom formats."""

    _DATES = (*range(14, 23), *range(27, 37), 45, 47, *range(50, 59))
    _BUILT_IN = dict.fromkeys(map(str, _DATES), "date") | {"46": "time"}
    _ELAPSED = re.compile(r"\[(?:h+|m+|s+)\]")
    _QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')

    def __init__(self) -> None:
        super().__init__()
        self._custom: dict[str, str] = {}
        self._formats: list[str] = []
        self._cells = False

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "numFmt":
            code = attributes.get("formatCode", "")[:200].lower()
            is_date = any(letter in self._QUOTED.sub("", code) for letter in "ydhs")
            shown = "time" if self._ELAPSED.search(code) else "date" if is_date else ""
            self._custom[attributes.get("numFmtId", "")] = shown
        elif tag == "cellXfs":
            self._cells = True
        elif tag == "xf" and self._cells:
            self._formats.append(attributes.get("numFmtId", ""))

    def end(self, tag: str) -> None:
        if tag == "cellXfs":
            self._cells = False

    def dates(self) -> dict[str, str]:
        """What formats show, "date" or "time", by their number as cells refer to them."""
        known = self._BUILT_IN | self._custom
        return {str(at): known[number] for at, number in enumerate(self._formats) if known.get(number)}


class _Sheet(_Cells):
    def __init__(self, limit: int, strings: list[str], dates: dict[str, str], epoch: datetime):
        super().__init__(limit)
        self._strings, self._dates, self._epoch = strings, dates, epoch
        self._kind, self._style, self._column = "", "", 0
        self._value: list[str] = []
        self._reading = False

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "c":
            self._kind, self._style = attributes.get("t", "n"), attributes.get("s", "")
            self._column = _column(attributes.get("r", ""))
            self._value = []
        elif tag in ("v", "t"):
            self._reading = True

    def characters(self, content: str) -> None:
        if self._reading:
            self._value.append(content)

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._reading = False
        elif tag == "c":
            if self._value:
                self._add(self._shown("".join(self._value)), self._column)
        elif tag == "row":
            self._end_row()

    def _shown(self, value: str) -> str:
        if self._kind == "s":
            return self._strings[int(value[:8])] if value.isdecimal() and int(value[:8]) < len(self._strings) else ""
        if self._kind in ("str", "inlineStr"):
            return _unescaped(value)
        if self._kind == "b":
            return "TRUE" if value == "1" else "FALSE"
        if self._kind == "d":  # ISO 8601, in strict workbooks
            return value.replace("T", " ").removesuffix(" 00:00:00")
        if self._kind == "n" and self._style in self._dates:
            return _date(value, self._epoch if self._dates[self._style] == "date" else None)
        return value


def _unescaped(text: str) -> str:
    """A string with the characters that XML can't have, or that Excel escapes as if it could not: ECMA-376 part 1, 22.9.2.19."""
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)


def _column(reference: str) -> int:
    """0 for A1; -1, the next column, if it is not a reference."""
    column = 0
    for letter in reference[:4]:
        if not "A" <= letter <= "Z":
            break
        column = column * 26 + ord(letter) - 64
    return column - 1


def _date(value: str, epoch: datetime | None) -> str:
    """A number of days since ``epoch`` as date and time; without a day, the time alone; without an epoch, hours."""
    try:
        days = float(value)
        if epoch is None:
            minutes, seconds = divmod(round(abs(days) * 86_400), 60)
            return f"{'-' * (days < 0)}{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        moment = epoch + timedelta(seconds=round(days * 86_400))
    except (ValueError, OverflowError):
        return value
    if 0 <= days < 1:
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d") if days == int(days) else moment.strftime("%Y-%m-%d %H:%M:%S")


# -- ods ---------------------------------------------------------------------------------------------------------------


def ods(package: Package, main: str, limit: int) -> tuple[str, list[list[str]]]:
    """As for xlsx."""
    handler = _Ods(limit)
    with suppress(Enough):
        package.parse_xml(main, handler)
    return "\n".join(handler.lines), handler.first or handler.rows


class _Ods(_Cells):
    _NOT_SHOWN = frozenset({"annotation", "tracked-changes"})

    def __init__(self, limit: int):
        super().__init__(limit)
        self.first: list[list[str]] = []
        self._text: list[str] = []
        self._repeated = 1
        self._reading = self._skipped = 0

    def start(self, tag: str, attributes: Any) -> None:
        self._skipped += tag in self._NOT_SHOWN
        if self._skipped:
            return
        if tag == "table":
            self.lines.append(attributes.get("table:name", ""))
        elif tag in ("table-cell", "covered-table-cell"):
            times = attributes.get("table:number-columns-repeated", "1")
            self._repeated = min(int(times[:4]), MAX_COLUMNS) if times.isdecimal() else 1
            self._text = []
        elif tag == "p":
            if self._text:
                self._text.append("\n")
            self._reading += 1
        elif tag == "s":
            self._text.append(" ")

    def characters(self, content: str) -> None:
        if self._reading and not self._skipped:
            self._text.append(content)

    def end(self, tag: str) -> None:
        self._skipped -= tag in self._NOT_SHOWN
        if self._skipped:
            return
        if tag == "p":
            self._reading -= 1
        elif tag in ("table-cell", "covered-table-cell"):
            for _ in range(self._repeated if len(self._row) < MAX_COLUMNS else 1):
                self._add("".join(self._text))
        elif tag == "table-row":
            self._end_row()
        elif tag == "table" and not self.first:
            self.first, self.rows = self.rows, []
