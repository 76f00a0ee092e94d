from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FileTooLarge
from core.parts import GIB, MIB, PartPlan, missing, plan

LARGEST = 10_000 * 5 * GIB  # 48.8 TiB


@given(st.integers(0, LARGEST))
def test_T43_parts_cover_the_file_within_the_limits(size: int) -> None:
    made = plan(size)
    assert 1 <= made.part_count <= 10_000
    assert 8 * MIB <= made.part_size <= 5 * GIB
    assert made.part_size % MIB == 0
    assert (made.part_count - 1) * made.part_size < max(size, 1) <= made.part_count * made.part_size
    assert made.offset_of(made.part_count) + made.length_of(made.part_count) == size


def test_T43_plans_at_the_edges() -> None:
    assert plan(0) == PartPlan(0, 8 * MIB, 1)
    assert plan(0).length_of(1) == 0
    assert plan(8 * MIB).part_count == 1
    assert plan(8 * MIB + 1).length_of(2) == 1
    assert plan(LARGEST) == PartPlan(LARGEST, 5 * GIB, 10_000)
    assert plan(100, preferred=1).part_size == 5 * MIB
    with pytest.raises(FileTooLarge):
        plan(LARGEST + 1)
    with pytest.raises(ValueError, match="negative"):
        plan(-1)
    for number in (0, 3, -1):
        with pytest.raises(ValueError, match="part"):
            plan(9 * MIB).length_of(number)


@given(st.sets(st.integers(-2, 40)), st.integers(0, 30))
def test_missing_parts(received: set[int], part_count: int) -> None:
    gaps = missing(received, part_count)
    listed = [number for first, last in gaps for number in range(first, last + 1)]
    assert listed == [number for number in range(1, part_count + 1) if number not in received]
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(gaps))
