"""What a run of the janitor found: a number and the first few names of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

_EXAMPLES = 5  # names of each kind


@dataclass(slots=True)
class JanitorReport:
    """What a run did, or would do (``dry_run``). What several runs at once do is in the report of one of them."""

    dry_run: bool
    compared: bool = False  # whether all of the bucket was compared with the rows
    requeued_jobs: int = 0  # of files that waited for a job which was lost or had failed
    expired_uploads: int = 0
    cleaned_uploads: int = 0
    expired_files: int = 0  # moved to the trash
    purged_files: int = 0  # from the trash
    purged_objects: int = 0  # whose purge was interrupted
    retired_objects: int = 0  # replaced, or given up
    orphaned_objects: int = 0  # without a row
    orphaned_bytes: int = 0
    orphaned_multiparts: int = 0
    protected_objects: int = 0  # without a row, but kept
    protected_bytes: int = 0
    protected_multiparts: int = 0
    missing_objects: int = 0  # found now
    still_missing_objects: int = 0  # found by an earlier run
    missing_previews: int = 0  # to be made again
    missing_public_copies: int = 0  # to be made again
    returned_objects: int = 0  # that were missing
    forgotten_rows: int = 0
    corrected_counters: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)  # keys, ids or counters by kind

    def add(self, kind: str, names: Iterable[object] = (), *, count: int | None = None) -> None:
        """Count what was found of a kind; by default each of ``names`` once."""
        listed = [str(name) for name in names]
        number = len(listed) if count is None else count
        setattr(self, kind, getattr(self, kind) + number)
        shown = self.examples.setdefault(kind, []) if listed else []
        shown += listed[: _EXAMPLES - len(shown)]

    def counts(self) -> dict[str, int]:
        """The numbers by kind."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
