"""Many cases in one test, for tests whose fixtures (a fresh database, for example) cost more than a case."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest


def with_subtests(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Callable[..., None]], Any]:
    """Like ``pytest.mark.parametrize``, but every case is a subtest of one test: all share its fixtures."""
    listed = (names,) if isinstance(names, str) else names
    rows = [dict(zip(listed, (case,) if isinstance(names, str) else case, strict=True)) for case in cases]

    def decorate(test: Callable[..., None]) -> Any:
        @wraps(test)
        def run(subtests: pytest.Subtests, **fixtures: Any) -> None:
            for row in rows:
                with subtests.test(**row):
                    test(**fixtures, **row)

        parameters = [p for p in inspect.signature(test).parameters.values() if p.name not in listed]
        subtests = inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = inspect.Signature([*parameters, subtests])  # type: ignore[attr-defined]
        return run

    return decorate
