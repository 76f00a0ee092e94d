"""Many cases in one test, where a fresh database for each would cost more than the case itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like ``pytest.mark.parametrize``, but all cases run in the same test, one after another.

    The first that fails ends the test and is named in the report."""
    listed = (names,) if isinstance(names, str) else names
    cases = list(cases)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def run(**fixtures: Any) -> None:
            for case in cases:
                values = (case,) if isinstance(names, str) else case
                try:
                    test(**fixtures, **dict(zip(listed, values, strict=True)))
                except BaseException as error:
                    error.add_note(f"in the case {dict(zip(listed, values, strict=True))!r:.300}")
                    raise

        parameters = inspect.signature(test).parameters.values()
        kept = [parameter for parameter in parameters if parameter.name not in listed]
        run.__signature__ = inspect.Signature(kept)  # type: ignore[attr-defined]
        return run

    return decorate
