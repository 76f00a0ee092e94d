"""The scrub reads every object back, compares it with its SHA-256, and repairs what is damaged if anybody has the bytes.

A pass goes over all objects, the oldest check first. A job reads a slice of it each minute, so that the pass is spread over
SCRUB_DAYS; a requested pass is read as fast as SCRUB_RATE allows. Before an object is read, its row is marked (db/scrub.py).

scrub_reading tells damage from an outage, and scrub_repair repairs. A finding is looked at again every hour until it is resolved:
by a repair here, by a new upload of the bytes, by a purge, or because the bytes are back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import structlog

from core.cursors import Cursors, Page
from core.errors import Unavailable
from db import Database, now, scrub
from db.records import ScrubFindingRecord, ScrubObject, ScrubPassRecord
from db.scrub import Damage
from services.upkeep.scrub_reading import BucketAway, BucketBusy, Examiner, Right, Stored, Throttle
from services.upkeep.scrub_repair import EVIDENCE, Repairs
from storage_backends.base import StorageError
from telemetry import Gauge, gauge, metrics

log = structlog.get_logger()

SLICE = 50.0  # seconds; an object that is larger is read to its end
_AGAIN_PER_SLICE = 10  # findings that are looked at again
_SOON, _LATER = timedelta(minutes=1), timedelta(hours=1)  # until a suspicion, and a finding, is looked at again
_PROGRESS = 2.0  # seconds between records of the pass's progress
_KEEP = timedelta(days=366)  # findings that were resolved, and passes
_KINDS = ("missing", "changed", "swapped", "unreadable")

_WHAT = {
    "missing": "the bucket has no such object",
    "changed": "the bucket has other bytes",
    "swapped": "the bucket has another object's bytes",
    "unreadable": "the bucket can't read it, though it can read others",
}

Outcome = Literal["verified", "missing", "changed", "swapped", "unreadable", "suspected", "frozen", "replaced"]
Progress = Callable[[ScrubPassRecord], None]


@dataclass(slots=True)
class ScrubRun:
    """What one run has read."""

    objects: int = 0
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    interrupted: str | None = None  # why it ended early: bucket or database could not be read


@dataclass(frozen=True, slots=True)
class ScrubState:
    """How the scrub stands."""

    days: int  # 0: only on request
    rate: int  # bytes per second
    latest_pass: ScrubPassRecord | None
    oldest_check: datetime | None
    open: dict[str, int]  # findings by kind
    suspected: int  # objects that could not be read, and are tried again


class Scrub:
    """Reads objects back."""

    def __init__(self, db: Database, examiner: Examiner, repairs: Repairs, cursors: Cursors, *, days: int, rate: int):
        """``days`` in which each object is read once; 0: only on request. ``rate``: bytes per second."""
        self._db = db
        self._examiner = examiner
        self._repairs = repairs
        self._cursors = cursors
        self._days = days
        self._rate = rate

    # -- passes --------------------------------------------------------------------------------------------------------

    def begin(self) -> ScrubPassRecord:
        """Begin a pass over all objects as fast as the rate allows; returns the one under way if it was requested too."""
        with self._db.transaction() as tx:
            found = scrub.begin_pass(tx, requested=True) or scrub.latest_pass(tx)
        assert found is not None
        return found

    def run(self, *, seconds: float | None = SLICE, progress: Progress = lambda _: None) -> ScrubRun:
        """Read what is due now: a slice, or all of it without ``seconds``. Never raises for an outage of bucket or database:
        the run ends, and the next one goes on."""
        run, throttle = ScrubRun(), Throttle(self._rate)
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        try:
            self._check_again(run, throttle, deadline)
            self._continue(run, throttle, deadline, progress)
            with self._db.connection() as tx:
                scrub.resolve(tx)
                scrub.forget_old(tx, keep=_KEEP)
        except (BucketAway, StorageError, Unavailable) as error:
            run.interrupted = str(error)
            log.warning("scrub_interrupted", error=str(error))
        run.bytes = throttle.bytes
        return run

    def suspected(self) -> int:
        """The number of objects that could not be read, and are to be tried again in a minute."""
        with self._db.connection() as tx:
            return scrub.suspicions(tx)

    def _check_again(self, run: ScrubRun, throttle: Throttle, deadline: float) -> None:
        with self._db.connection() as tx:
            scrub.resolve(tx)
            keys = scrub.to_check_again(tx, limit=_AGAIN_PER_SLICE)
        for key in keys:
            if time.monotonic() > deadline:
                return
            with self._db.connection() as tx:
                marked = scrub.mark(tx, key)
            if marked is not None:
                self._check(marked, run, throttle)

    def _continue(self, run: ScrubRun, throttle: Throttle, deadline: float, progress: Progress) -> None:
        current = self._current_pass()
        if current is None:
            return
        due = self._due(current)
        read, seen, told = 0, throttle.bytes, time.monotonic()
        after: ScrubObject | None = None
        try:
            while read < due and time.monotonic() < deadline and current.finished_at is None:
                marked = self._mark_next(current, after)
                if marked is None and after is not None:
                    after = None  # once more from the start: others may have put objects back
                    continue
                after = marked
                if marked is not None:
                    self._check(marked, run, throttle)
                    read += 1
                at_end = marked is None
                if at_end or time.monotonic() - told > _PROGRESS:
                    current = self._advance(current, read, throttle.bytes - seen, at_end=at_end)
                    due, read, seen, told = due - read, 0, throttle.bytes, time.monotonic()
                    progress(current)
        finally:
            self._advance(current, read, throttle.bytes - seen)

    def _current_pass(self) -> ScrubPassRecord | None:
        """The open pass, or a new one if it is time."""
        with self._db.transaction() as tx:
            latest = scrub.latest_pass(tx)
            if latest is not None and latest.finished_at is None:
                return latest if latest.requested or self._days else None
            if not self._days or (latest is not None and now(tx) < latest.began_at + timedelta(days=self._days)):
                return None
            return scrub.begin_pass(tx, requested=False)

    def _due(self, current: ScrubPassRecord) -> float:
        """The number of objects to be read now, so that all are read when the pass's time is over."""
        with self._db.connection() as tx:
            elapsed = (now(tx) - current.began_at) / timedelta(days=self._days or 1)
        if current.requested or current.swept_at is not None or elapsed >= 1:
            return float("inf")
        return int(current.objects * elapsed) - current.read_objects

    def _mark_next(self, current: ScrubPassRecord, after: ScrubObject | None) -> ScrubObject | None:
        with self._db.connection() as tx:
            if current.swept_at is None:
                return scrub.mark_next(tx, before=current.began_at, after=after)
            return scrub.mark_unfinished(tx, began=current.began_at, swept=current.swept_at)

    def _advance(self, current: ScrubPassRecord, objects: int, size: int, *, at_end: bool = False) -> ScrubPassRecord:
        swept = at_end and current.swept_at is None
        with self._db.connection() as tx:
            found = scrub.advance_pass(
                tx, current.id, objects=objects, size=size, swept=swept, finished=at_end and not swept
            )
        assert found is not None
        if at_end and not swept:
            log.info("scrub_pass_finished", objects=found.read_objects, bytes=found.read_bytes)
        return found

    # -- one object ----------------------------------------------------------------------------------------------------

    def _check(self, marked: ScrubObject, run: ScrubRun, throttle: Throttle) -> None:
        before = throttle.bytes
        try:
            outcome = self._judge(marked, run, throttle)
        except BucketBusy:
            raise
        except BucketAway:
            with self._db.connection() as tx:
                scrub.unmark(tx, marked, keep_place=False)
            raise
        run.objects += 1
        run.outcomes[outcome] += 1
        metrics().scrubbed(outcome, throttle.bytes - before)

    def _judge(self, marked: ScrubObject, run: ScrubRun, throttle: Throttle) -> Outcome:
        verdict = self._examiner.examine(marked, Stored.object(marked), throttle)
        if isinstance(verdict, Damage):
            return self._report(marked, verdict, run, throttle)
        if not isinstance(verdict, Right):
            if verdict == "frozen":
                with self._db.connection() as tx:
                    scrub.unmark(tx, marked, keep_place=True)
            return verdict
        if verdict.etag != marked.etag:
            log.warning("object_has_new_etag", key=marked.object_key)
        copy = Stored.public_copy(marked)
        of_copy = None if copy is None else self._examiner.examine(marked, copy, throttle)
        outcome: Outcome = "verified"
        if isinstance(of_copy, Damage):
            outcome = self._report(marked, of_copy, run, throttle)
            if outcome != "suspected":  # it was dropped
                marked = marked._replace(public_key=None)
        with self._db.transaction() as tx:
            copy_etag = of_copy.etag if isinstance(of_copy, Right) else None
            current = scrub.record_verified(tx, marked, etag=verdict.etag, public_etag=copy_etag)
            if copy is not None and copy_etag is not None:
                scrub.resolve_public(tx, copy.key)
        return outcome if current else "replaced"

    def _report(self, marked: ScrubObject, damage: Damage, run: ScrubRun, throttle: Throttle) -> Outcome:
        """Record the damage, and repair it if that is possible."""
        with self._db.transaction() as tx:
            reported = scrub.report(tx, marked, damage, soon=_SOON, later=_LATER)
        if reported is None:
            return "replaced"
        confirmed, new = reported
        if not confirmed:
            log.warning("object_not_readable", key=damage.key, error=damage.error)
            return "suspected"
        if new:
            log.error("object_damaged", key=damage.key, kind=damage.kind, belongs_to=damage.belongs_to)
        source = self._repairs.repair(marked, damage, throttle)
        if source is not None:
            run.repaired += 1
            metrics().scrub_repaired()
            log.warning("object_repaired", key=damage.key, source=source)
        return damage.kind  # type: ignore[return-value]

    # -- reports -------------------------------------------------------------------------------------------------------

    def state(self) -> ScrubState:
        """How the scrub stands now."""
        with self._db.connection() as tx:
            scrub.resolve(tx)
            return ScrubState(
                days=self._days,
                rate=self._rate,
                latest_pass=scrub.latest_pass(tx),
                oldest_check=scrub.oldest_check(tx),
                open=scrub.count_open(tx),
                suspected=scrub.suspicions(tx),
            )

    def report(self, *, limit: int = 100) -> str:
        """How the scrub stands, with the newest findings of each kind, open and resolved, as plain text."""
        resolved = [finding for finding in self.findings(limit=limit, resolved=True).items if finding.resolved_at]
        return summary(self.state(), self.findings(limit=limit).items + resolved)

    def findings(self, *, limit: int, cursor: str | None = None, resolved: bool = False) -> Page[ScrubFindingRecord]:
        """A page of open findings, or of all, newest first. Raises InvalidCursor."""
        scope = f"scrub:{resolved}"
        before = self._cursors.after(cursor, int, scope=scope)
        with self._db.connection() as tx:
            found = scrub.findings(tx, resolved=resolved, before=before, limit=limit + 1)
        return self._cursors.page(found, lambda finding: finding.id, limit=limit, scope=scope)

    def gauges(self) -> list[Gauge]:
        """What /metrics shows of the scrub."""
        with self._db.connection() as tx:
            open_findings, oldest, moment = scrub.count_open(tx), scrub.oldest_check(tx), now(tx)
        age = 0.0 if oldest is None else (moment - oldest).total_seconds()
        counts = [((kind,), float(open_findings.get(kind, 0))) for kind in _KINDS]
        return [
            Gauge("gateway_scrub_open_findings", "Damaged objects that are not repaired yet", ("kind",), counts),
            gauge("gateway_scrub_oldest_check_seconds", "Seconds since the oldest check of an object began", age),
        ]


def summary(state: ScrubState, findings: Sequence[ScrubFindingRecord]) -> str:
    """A report to be read, or mailed."""
    damaged = sum(state.open.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in state.open.items())
    lines = [f"{damaged} damaged objects ({kinds})." if damaged else "No object is known to be damaged."]
    if state.suspected:
        lines.append(f"{state.suspected} could not be read at the first try, and will be tried again.")
    latest = state.latest_pass
    if latest is None:
        lines.append("No pass over all objects has begun yet.")
    else:
        end = f"ended {_minute(latest.finished_at)}" if latest.finished_at else "goes on"
        read = f"{latest.read_objects} of {latest.objects} objects, {latest.read_bytes} bytes, were read"
        lines.append(f"The latest pass began {_minute(latest.began_at)} and {end}: {read}.")
    if state.oldest_check is not None:
        lines.append(f"The oldest check of an object began {_minute(state.oldest_check)}.")
    for title, wanted in (("Damaged", False), ("Repaired, or right again", True)):
        chosen = [finding for finding in findings if (finding.resolved_at is not None) == wanted]
        if chosen:
            lines += ["", f"{title}:"]
            lines += [line for finding in chosen for line in _described(finding)]
    return "\n".join(lines) + "\n"


def _described(finding: ScrubFindingRecord) -> list[str]:
    lines = [
        f"  {finding.object_key}",
        f"    {finding.kind}: {_WHAT[finding.kind]}; found {_minute(finding.found_at)}; owner {finding.owner_id}",
        f"    expected SHA-256 {finding.expected_sha256}, {finding.expected_size} bytes",
    ]
    if finding.found_sha256 is not None:
        lines.append(f"    found    SHA-256 {finding.found_sha256}, {finding.found_size} bytes")
    if finding.belongs_to is not None:
        lines.append(f"    these are the bytes of {finding.belongs_to}")
    if finding.error is not None:
        lines.append(f"    {finding.error}")
    if finding.repaired_at is not None:
        lines.append(
            f"    repaired {_minute(finding.repaired_at)} from {finding.repaired_from}, now {finding.repaired_key}; the damaged"
            f" object is kept until {_minute(finding.repaired_at + EVIDENCE)}"
        )
    elif finding.resolved_at is not None:
        lines.append(f"    resolved {_minute(finding.resolved_at)}: uploaded again, purged, or right again")
    return lines


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
