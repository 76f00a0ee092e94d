"""May equal bytes that an owner has stand in for those that have just come? Only where the bucket confirms them: else the new
ones are kept, and mend what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from services.objects.object_reader import ObjectReader

log = structlog.get_logger()

T = TypeVar("T")


class _Unconfirmed(Exception):
    def __init__(self, object_key: str):
        super().__init__(object_key)
        self.object_key = object_key


class EqualObjects:
    """The objects of equal bytes that a publication meets. The bucket can't be asked inside a transaction, so one that meets an
    object that was not looked at is rolled back, and done again after the look."""

    def __init__(self, reader: ObjectReader, *, new: Iterable[str] = ()):
        self._reader = reader
        self._sound = set(new)  # keys; what has just been stored is sound
        self.damaged: list[str] = []  # keys

    def settle(self, transaction: Callable[[], T]) -> T:
        """What the transaction gives once it meets only what was looked at. Raises Unavailable."""
        while True:
            try:
                return transaction()
            except _Unconfirmed as met:
                key = met.object_key
            if self._reader.is_sound(key):
                self._sound.add(key)
            else:
                log.error("damaged_object_met", key=key)
                self.damaged.append(key)

    def confirm(self, object_key: str) -> None:
        """Called inside the transaction, which ends here unless the object is known to be sound."""
        if object_key not in self._sound:
            raise _Unconfirmed(object_key)
