"""Archives what is not used any more, by the rules of ARCHIVE_RULES (core/archive_rules.py).

Once a day a pass begins: a job looks at the objects that are old enough, oldest first and a slice at a time, and enqueues a job
for each that a rule wants to archive. Those jobs take turns by owner, as all do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import structlog

from core.archive_rules import ArchiveRule
from core.errors import ContentMissing, FileArchived
from db import Database, archive, files
from db.archive import DueObject, Position
from services.library.archive import LEVEL, Archive
from services.objects.rewriting import Rewriter
from storage_backends.base import ObjectNotFound

log = structlog.get_logger()

_SLICE = 1_000  # objects looked at by one statement
_SECONDS = 20.0  # of one run of the job
_MAX_WAITING = 1_000  # jobs; a pass pauses above it
_SAMPLE = 40  # objects of which each rule's estimate reads the first MiB


@dataclass(slots=True)
class RuleReport:
    """What a rule wants to archive, or has archived."""

    rule: str
    files: int = 0
    objects: int = 0
    bytes: int = 0  # of the originals, once for each object
    stored_bytes: int = 0  # that leave the standard storage class
    archived_objects: int = 0
    # By compression; an estimate from the first MiB of `sampled` objects, weighted by their stored bytes
    estimated_saved_bytes: int = 0
    sampled: int = 0
    sample: list[DueObject] = field(default_factory=list)

    def as_dict(self) -> dict[str, int | str]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "sample"}


class ArchiveRules:
    """Applies the rules."""

    def __init__(self, db: Database, archive: Archive, rewriter: Rewriter, rules: Sequence[ArchiveRule]):
        self._db = db
        self._archive = archive
        self._rewriter = rewriter
        self.rules = rules
        self._days = min((rule.days for rule in rules), default=0)

    def instead(self, rules: Sequence[ArchiveRule]) -> ArchiveRules:
        """The same with other rules."""
        return ArchiveRules(self._db, self._archive, self._rewriter, rules)

    def continue_pass(self) -> int:
        """The periodic job: begin a pass if one is due, look at some slices, and return how many objects are to be archived."""
        if not self.rules:
            return 0
        with self._db.connection() as tx:
            archive.begin_pass(tx)
        found, deadline = 0, time.monotonic() + _SECONDS
        more = True
        while more and time.monotonic() < deadline:
            with self._db.transaction() as tx:
                position = archive.lock_pass(tx)
                if position is None or archive.waiting_jobs(tx, limit=_MAX_WAITING) >= _MAX_WAITING:
                    break
                seen = archive.next_objects(tx, position, days=self._days, limit=_SLICE)
                left = [place.object_key for place in seen]
                for rule in self.rules:
                    for due in archive.due(tx, rule, left):
                        self._archive.enqueue(tx, due.file_id, due.owner_id, due.object_key, days=rule.days)
                        left.remove(due.object_key)
                more = len(seen) == _SLICE
                archive.advance_pass(tx, seen[-1] if more else None)
                found += len(seen) - len(left)
        if found:
            log.info("archiving_by_rules", objects=found)
        return found

    def preview(self) -> list[RuleReport]:
        """What the rules would archive now, and an estimate of what compression would save."""
        reports = [RuleReport(rule.text) for rule in self.rules]
        random = Random(0)  # noqa: S311 a sample
        for number, _, due in self._all_due():
            report = reports[number]
            _count(report, due)
            if len(report.sample) < _SAMPLE:
                report.sample.append(due)
            elif (place := random.randrange(report.objects)) < _SAMPLE:
                report.sample[place] = due
        for report in reports:
            self._estimate(report)
        return reports

    def run(self, progress: Callable[[int], None] = lambda done: None) -> list[RuleReport]:
        """Archive now what the rules want. Raises Unavailable."""
        reports = [RuleReport(rule.text) for rule in self.rules]
        for number, rule, due in self._all_due():
            _count(reports[number], due)
            reports[number].archived_objects += self._archive.archive(due.file_id, days=rule.days)
            progress(1)
        return reports

    def _all_due(self) -> Iterator[tuple[int, ArchiveRule, DueObject]]:
        """Each object that is due, with the first rule that it meets."""
        position: Position | None = Position(None)
        while position is not None and self.rules:
            with self._db.connection() as tx:
                seen = archive.next_objects(tx, position, days=self._days, limit=_SLICE)
                left = {place.object_key for place in seen}
                due = []
                for number, rule in enumerate(self.rules):
                    found = archive.due(tx, rule, sorted(left))
                    left -= {item.object_key for item in found}
                    due += [(number, rule, item) for item in found]
            yield from due
            position = seen[-1] if seen else None

    def _estimate(self, report: RuleReport) -> None:
        with self._db.connection() as tx:
            records = {file.id: file for file in files.get_many(tx, [due.file_id for due in report.sample])}
        stored = saved = 0.0
        for due in report.sample:
            with suppress(ObjectNotFound, ContentMissing, FileArchived, KeyError):
                saving = self._rewriter.saving(records[due.file_id], level=LEVEL)
                stored += due.stored
                saved += due.stored * saving if saving >= 0.1 else 0
                report.sampled += 1
        report.estimated_saved_bytes = round(report.stored_bytes * saved / stored) if stored else 0


def _count(report: RuleReport, due: DueObject) -> None:
    report.files += due.files
    report.objects += 1
    report.bytes += due.size
    report.stored_bytes += due.stored
