"""The fuzz targets hold for what clients usually send, and for a few broken forms of it; `make fuzz` runs them for longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_target(target: Callable[[bytes], None]) -> None:
    examples = TARGETS[target]
    for example in examples:
        target(example)

    @settings(max_examples=50, deadline=None, database=None)
    @given(st.sampled_from(examples), st.integers(0, 200), st.binary(max_size=8), st.integers(0, 8))
    def with_changes(example: bytes, at: int, new: bytes, removed: int) -> None:
        target(example[:at] + new + example[at + removed :])

    with_changes()
