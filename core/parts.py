"""How a file is divided into the parts of a multipart upload, and which parts are missing.

S3 allows 10,000 parts of 5 MiB to 5 GiB (the last may be smaller), so at most 48.8 TiB. The plan is fixed when the upload
begins (T43), so a client that resumes later divides the file at the same offsets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import FileTooLarge

MIB = 1024 * 1024
GIB = 1024 * MIB
PART_SIZE = 8 * MIB  # bytes of a part by default, and the memory for one upload


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How a file is divided into parts."""

    size: int  # bytes of the entire file
    part_size: int  # bytes of every part but the last
    part_count: int

    def offset_of(self, number: int) -> int:
        """The offset of part ``number`` (from 1). Raises ValueError if there is no such part."""
        if not 1 <= number <= self.part_count:
            raise ValueError(f"part {number} of {self.part_count}")
        return (number - 1) * self.part_size

    def length_of(self, number: int) -> int:
        """The length of part ``number``. Raises ValueError if there is no such part."""
        return min(self.part_size, self.size - self.offset_of(number))


def plan(
    size: int, *, min_size: int = 5 * MIB, preferred: int = PART_SIZE, max_count: int = 10_000, max_size: int = 5 * GIB
) -> PartPlan:
    """Parts of the preferred size, or larger (in whole MiB) if ``max_count`` parts would not suffice.

    An empty file is one empty part. Raises FileTooLarge if the largest parts don't suffice."""
    if size < 0:
        raise ValueError("the size is negative")
    if size > max_count * max_size:
        raise FileTooLarge
    needed = -(-size // max_count)
    part_size = min(-(-max(needed, min_size, preferred) // MIB) * MIB, max_size)
    return PartPlan(size, part_size, max(1, -(-size // part_size)))


def missing(received: Iterable[int], part_count: int) -> list[tuple[int, int]]:
    """The missing part numbers, in order, as ranges that include both ends. Numbers outside the plan are ignored."""
    gaps, expected = [], 1
    for number in sorted({n for n in received if 1 <= n <= part_count} | {part_count + 1}):
        if number > expected:
            gaps.append((expected, number - 1))
        expected = number + 1
    return gaps
