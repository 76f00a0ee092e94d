"""JSON from clients, restricted to I-JSON (RFC 7493), so that values are stored as they were sent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

_INTEGERS = range(-(2**63), 2**63)
_LONGEST = 400  # characters of a number; more than any double needs


def loads(body: bytes) -> Any:
    """Parse JSON. Raises ValueError, with a message for the client, if the body is not JSON in UTF-8, is nested too deeply,
    repeats a member, or has a number that does not fit in 64 bits: PostgreSQL and most clients would round it."""
    try:
        return _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None


def _integer(text: str) -> int:
    if len(text) > 20 or (number := int(text)) not in _INTEGERS:
        raise ValueError("has an integer of more than 64 bits")
    return number


def _fraction(text: str) -> float:
    """The number, if its shortest decimal form as a double equals what was sent."""
    number = float(text) if len(text) <= _LONGEST else math.inf
    try:
        if math.isfinite(number) and Decimal(text) == Decimal(repr(number)):
            return number
    except InvalidOperation:  # an enormous exponent
        pass
    raise ValueError("has a number that a double can't represent")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which is not JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeats a member")
    return members


_decode = json.JSONDecoder(
    parse_int=_integer, parse_float=_fraction, parse_constant=_constant, object_pairs_hook=_object
).decode
