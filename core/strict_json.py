"""JSON as clients may send it: I-JSON (RFC 7493), so that nothing is kept otherwise than it was sent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

_INTEGERS = range(-(2**63), 2**63)
_LONGEST = 400  # characters of a number; no double needs as many


def loads(body: bytes) -> Any:
    """The value. Raises ValueError, in words for the client, where the body is no JSON in UTF-8, is nested too deeply, gives a
    member twice, or has a number that 64 bits don't hold: PostgreSQL and most clients would round it."""
    try:
        return _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not in UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None


def _integer(text: str) -> int:
    if len(text) > 20 or (number := int(text)) not in _INTEGERS:
        raise ValueError("holds an integer of more than 64 bits")
    return number


def _fraction(text: str) -> float:
    """Exactly what was sent, as far as a reader of the shortest form that gives this double can tell."""
    number = float(text) if len(text) <= _LONGEST else math.inf
    try:
        if math.isfinite(number) and Decimal(text) == Decimal(repr(number)):
            return number
    except InvalidOperation:  # an exponent beyond any
        pass
    raise ValueError("holds a number that a double can't carry unchanged")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("gives a member twice")
    return found


_decode = json.JSONDecoder(
    parse_int=_integer, parse_float=_fraction, parse_constant=_constant, object_pairs_hook=_object
).decode
