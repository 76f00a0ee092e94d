"""The arithmetic of multipart uploads: how a size is divided into parts, and which parts are still missing.

S3 allows 10,000 parts of 5 MiB to 5 GiB, only the last may be smaller, so the largest object is 48.8 TiB. The
plan is fixed when the upload begins (THREATS T43): a client that resumes on another day cuts at the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import FileTooLarge

MIB = 1024 * 1024
GIB = 1024 * MIB
PART_SIZE = 8 * MIB  # bytes of a part where the client does not choose; also what is held in memory for one upload


@dataclass(frozen=True, slots=True)
class PartPlan:
    size: int  # bytes of the entire file
    part_size: int  # bytes of every part but the last
    part_count: int

    def offset_of(self, number: int) -> int:
        """Where part ``number`` (from 1) begins. ValueError for a part that the plan does not have."""
        if not 1 <= number <= self.part_count:
            raise ValueError(f"part {number} of {self.part_count}")
        return (number - 1) * self.part_size

    def length_of(self, number: int) -> int:
        """Bytes of part ``number``. ValueError for a part that the plan does not have."""
        return min(self.part_size, self.size - self.offset_of(number))


def plan(
    size: int, *, min_size: int = 5 * MIB, preferred: int = PART_SIZE, max_count: int = 10_000, max_size: int = 5 * GIB
) -> PartPlan:
    """Parts of the preferred size, or of the next MiB with which ``max_count`` parts hold the file.

    An empty file is one empty part. FileTooLarge where even the largest parts can't hold it."""
    if size < 0:
        raise ValueError("a size is not negative")
    if size > max_count * max_size:
        raise FileTooLarge
    needed = -(-size // max_count)
    part_size = min(-(-max(needed, min_size, preferred) // MIB) * MIB, max_size)
    return PartPlan(size, part_size, max(1, -(-size // part_size)))


def missing(received: Iterable[int], part_count: int) -> list[tuple[int, int]]:
    """Part numbers not received, as ranges with both ends included, in order. Foreign numbers are ignored."""
    gaps, expected = [], 1
    for number in sorted({n for n in received if 1 <= n <= part_count} | {part_count + 1}):
        if number > expected:
            gaps.append((expected, number - 1))
        expected = number + 1
    return gaps
