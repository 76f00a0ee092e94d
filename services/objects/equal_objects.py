"""A new file may be put on an equal object of its owner, but only if the bucket confirms that object. Otherwise the new bytes are
kept, and the files on the object, which is damaged or archived, are moved to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from services.objects.object_reader import ObjectReader

log = structlog.get_logger()

T = TypeVar("T")


class _Unconfirmed(Exception):
    def __init__(self, object_key: str, archived: bool):
        super().__init__(object_key)
        self.object_key, self.archived = object_key, archived


class EqualObjects:
    """The equal objects that a publication finds.

    The bucket can't be asked inside a transaction. So a transaction that finds an unchecked object is rolled back, and runs again
    after the check."""

    def __init__(self, reader: ObjectReader, *, new: Iterable[str] = ()):
        self._reader = reader
        self._sound = set(new)  # keys; what was just stored is sound
        self.damaged: list[str] = []  # keys

    def run(self, transaction: Callable[[], T]) -> T:
        """Run the transaction until it finds only checked objects, and return its result. Raises Unavailable."""
        while True:
            try:
                return transaction()
            except _Unconfirmed as error:
                key, archived = error.object_key, error.archived
            if self._reader.is_sound(key, archived=archived):
                self._sound.add(key)
            else:
                log.warning("unfit_object_met", key=key)
                self.damaged.append(key)

    def confirm(self, object_key: str, *, archived: bool = False) -> None:
        """Call it in the transaction, which is rolled back here unless the object is known to be sound. ``archived``: no file is
        to be put on it, so an archived one will do."""
        if object_key not in self._sound:
            raise _Unconfirmed(object_key, archived)
