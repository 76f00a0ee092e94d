"""Where a repository is: a folder, or keys under a prefix of a bucket. Both write a name whole or not at all.

Whoever can write there may have put anything there: names are checked where they are listed (repository.py), and no symbolic
link is followed.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from core.errors import StorageFull, Unavailable
from core.parts import MIB, plan
from services.objects.bucket import bucket_errors
from services.objects.object_reader import Reader
from services.objects.part_writer import PartWriter
from storage_backends.base import MultipartStore, ObjectNotFound, PreconditionFailed

_TEMPORARY = "tmp"  # a folder of the repository: files that are being written


class Sink(Protocol):
    """Takes a stream of bytes."""

    def write(self, data: bytes, /) -> int:
        """Take all of the bytes; returns their number."""


class Location(Protocol):
    """Names with bytes. All methods raise Unavailable; ``write`` and ``create`` also StorageFull."""

    def write(self, name: str, *, size: int) -> AbstractContextManager[Sink]:
        """Write or replace ``name`` at the end of the block; after an error in it nothing is written. ``size``: about how
        many bytes will come."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write ``name`` unless it exists; False if it does."""
        ...

    def open(self, name: str) -> AbstractContextManager[Reader]:
        """Read ``name``. Raises ObjectNotFound."""
        ...

    def size(self, name: str) -> int | None:
        """The bytes of ``name``; None if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names under a prefix that ends in a slash, in any order, with their bytes."""
        ...

    def delete(self, name: str) -> None:
        """Delete ``name``; it may be absent."""
        ...

    def clear_unfinished(self) -> None:
        """Remove what writers that were killed left unfinished. Nobody may be writing."""
        ...


class Folder:
    """A folder, whose files and folders only its owner can read."""

    def __init__(self, root: Path):
        self._root = root

    @contextmanager
    def write(self, name: str, *, size: int) -> Iterator[Sink]:
        """As in Location: a temporary file, fsync, rename, fsync of the folder."""
        temporary = self._root / _TEMPORARY / secrets.token_hex(8)
        with _folder_errors():
            _make_folder(temporary.parent)
            try:
                with open(temporary, "xb", opener=_opener) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                target = self._root / name
                _make_folder(target.parent)
                temporary.replace(target)
                _sync(target.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def create(self, name: str, data: bytes) -> bool:
        """As in Location."""
        with _folder_errors():
            _make_folder(self._root)
            try:
                with open(self._root / name, "xb", opener=_opener) as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    @contextmanager
    def open(self, name: str) -> Iterator[Reader]:
        """As in Location."""
        with _folder_errors():
            with open(self._root / name, "rb", opener=_opener, buffering=0) as file:
                yield file

    def size(self, name: str) -> int | None:
        """As in Location."""
        with _folder_errors(), suppress(FileNotFoundError):
            return (self._root / name).stat(follow_symlinks=False).st_size
        return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As in Location."""
        with _folder_errors():
            for folder, _, names in os.walk(self._root / prefix):
                for name in names:
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):
                        yield path.relative_to(self._root).as_posix(), path.stat(follow_symlinks=False).st_size

    def delete(self, name: str) -> None:
        """As in Location; a folder that becomes empty is removed."""
        with _folder_errors():
            path = self._root / name
            path.unlink(missing_ok=True)
            if path.parent != self._root:
                with suppress(OSError):  # not empty
                    path.parent.rmdir()

    def clear_unfinished(self) -> None:
        """As in Location."""
        for name, _ in self.list(_TEMPORARY):
            self.delete(name)


class Bucket:
    """Keys under a prefix of a bucket."""

    def __init__(self, store: MultipartStore, prefix: str):
        self._store = store
        self._prefix = prefix and prefix.strip("/") + "/"

    @contextmanager
    def write(self, name: str, *, size: int) -> Iterator[Sink]:
        """As in Location."""
        parts = _Parts(self._store, self._prefix + name, size)
        try:
            yield parts
            parts.finish()
        except BaseException:
            parts.abort()
            raise

    def create(self, name: str, data: bytes) -> bool:
        """As in Location."""
        with bucket_errors():
            try:
                self._store.put(self._prefix + name, data, content_type=_BYTES, if_absent=True)
            except PreconditionFailed:
                return False
        return True

    @contextmanager
    def open(self, name: str) -> Iterator[Reader]:
        """As in Location."""
        missing: ObjectNotFound | None = None
        with bucket_errors():
            try:
                with self._store.open(self._prefix + name) as reader:
                    yield reader
            except ObjectNotFound as error:
                missing = error
        if missing is not None:
            raise missing

    def size(self, name: str) -> int | None:
        """As in Location."""
        with bucket_errors(), suppress(ObjectNotFound):
            return self._store.stat(self._prefix + name).size
        return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """As in Location."""
        with bucket_errors():
            for info in self._store.list_objects(self._prefix + prefix):
                yield info.key.removeprefix(self._prefix), info.size

    def delete(self, name: str) -> None:
        """As in Location."""
        with bucket_errors():
            self._store.delete(self._prefix + name)

    def clear_unfinished(self) -> None:
        """As in Location."""
        with bucket_errors():
            for ref in list(self._store.list_multiparts("")):  # MinIO lists none by a prefix
                if ref.key.startswith(self._prefix):
                    self._store.abort_multipart(ref)


_BYTES = "application/octet-stream"


class _Parts:
    """A sink that writes one object."""

    def __init__(self, store: MultipartStore, key: str, size: int):
        self._store = store
        self._key = key
        self._writer = PartWriter(store, plan(size + size // 1_000 + MIB).part_size)  # encryption adds a little

    def write(self, data: bytes, /) -> int:
        rest = memoryview(data)
        while rest := self._writer.add(rest):
            if self._writer.ref is None:
                self._writer.begin(self._key, _BYTES)
            self._writer.send()
        return len(data)

    def finish(self) -> None:
        self._writer.finish(self._key, _BYTES)

    def abort(self) -> None:
        """Best effort: the next run removes what is left."""
        if self._writer.ref is not None:
            with suppress(Exception):
                self._store.abort_multipart(self._writer.ref)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _make_folder(path: Path) -> None:
    """Make it and those above it, for their owner only."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Make the names in a folder outlive a power failure."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"There is no {error.filename}.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The backup's folder is full.") from error
        raise Unavailable(f"The backup's folder can't be used: {error}") from error
