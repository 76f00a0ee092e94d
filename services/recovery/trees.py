"""What is imported: a folder of this machine, or the objects under a prefix of a bucket."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from parsers.entry_names import decode_all
from services.objects.object_reader import Reader
from storage_backends.base import ObjectStore

EXPORTING = ".gateway-export"  # a folder in an export: files that are being written
_DEPTH = 64  # more than the gateway's folders can be nested
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Source(Protocol):
    """The bytes of one file, which can be read again if that failed."""

    def open(self) -> AbstractContextManager[Reader]:
        """Read from the beginning. Raises OSError or StorageError."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class TreeFile(Protocol):
    """A file."""

    @property
    def path(self) -> tuple[str, ...]:
        """Its folders and its name."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def modified(self) -> datetime:
        """When it was last changed."""
        ...

    def source(self) -> Source:
        """Its bytes; to be called before the next file is asked for. Raises OSError."""
        ...


class TreeFolder(NamedTuple):
    """A folder, before what is in it."""

    path: tuple[str, ...]


class Unreadable(NamedTuple):
    """What can't be imported, and why."""

    path: str
    code: str  # unreadable, or skipped: no file or folder at all
    detail: str


Entry = TreeFile | TreeFolder | Unreadable


def local_tree(top: Path) -> Iterator[Entry]:
    """A folder with all below, in the order of names. Symbolic links in it are not followed; names that are not UTF-8 are decoded
    as the others in their folder suggest. Raises OSError if ``top`` can't be read."""
    top = top.resolve()  # it may be a link itself
    errors: list[OSError] = []
    with os.scandir(top):  # raises
        pass
    paths: dict[str, tuple[str, ...]] = {str(top): ()}
    for folder, folders, names, descriptor in os.fwalk(top, onerror=errors.append):
        yield from map(_unreadable, errors)
        errors.clear()
        above = paths.pop(folder)
        if not above and EXPORTING in folders:
            folders.remove(EXPORTING)
        if len(above) >= _DEPTH and folders:
            yield Unreadable(_shown(above), "folder_too_deep", f"More than {_DEPTH} folders in one another.")
            folders.clear()
        folders.sort()
        names.sort()
        texts = _decoded([*folders, *names])
        for name in list(folders):
            if _is_link(name, descriptor):
                folders.remove(name)
                yield Unreadable(_shown((*above, texts[name])), "skipped", "a symbolic link")
            else:
                paths[os.path.join(folder, name)] = (*above, texts[name])
                yield TreeFolder((*above, texts[name]))
        for name in names:
            path = (*above, texts[name])
            try:
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError as error:
                yield Unreadable(_shown(path), "unreadable", error.strerror or str(error))
                continue
            if stat.S_ISREG(found.st_mode):
                yield _LocalFile(path, found.st_size, _time_of(found), name, descriptor)
            else:
                what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "neither a file nor a folder"
                yield Unreadable(_shown(path), "skipped", what)
    yield from map(_unreadable, errors)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:  # gone; the walk does not find it either
        return False


def _unreadable(error: OSError) -> Unreadable:
    return Unreadable(_shown((str(error.filename),)), "unreadable", error.strerror or str(error))


def _shown(path: Iterable[str]) -> str:
    return "/".join(path).encode("utf-8", "backslashreplace").decode()


def _decoded(names: list[str]) -> dict[str, str]:
    """Names as the system has them, and as text."""
    encoded = [os.fsencode(name) if not _is_text(name) else name for name in names]
    return dict(zip(names, decode_all(encoded, usual="cp1252"), strict=True))


def _is_text(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _time_of(found: os.stat_result) -> datetime:
    """In microseconds, as the database has it; now if it is no time that a calendar has."""
    try:
        return _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1_000)
    except OverflowError:
        return datetime.now(UTC)


class _LocalFile(NamedTuple):
    path: tuple[str, ...]
    size: int
    modified: datetime
    name: str
    folder: int  # an open descriptor, until the next entry is asked for

    def source(self) -> Source:
        # O_NONBLOCK: if a pipe has taken its place, opening must not wait for a writer.
        descriptor = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.folder)
        file = os.fdopen(descriptor, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            raise OSError(0, "it is no longer a file")
        return _LocalSource(file)


class _LocalSource(NamedTuple):
    file: BinaryIO

    @contextmanager
    def open(self) -> Iterator[Reader]:
        self.file.seek(0)
        yield self.file

    def close(self) -> None:
        self.file.close()


def bucket_tree(store: ObjectStore, prefix: str) -> Iterator[Entry]:
    """The objects under a prefix, whose slashes separate folders. A key that ends in a slash is a folder. Raises StorageError."""
    prefix = prefix and prefix.rstrip("/") + "/"
    known: set[tuple[str, ...]] = {()}
    for info in store.list_objects(prefix):
        *above, name = info.key.removeprefix(prefix).split("/")
        folder = tuple(part for part in above if part)
        for depth in range(1, len(folder) + 1):
            if folder[:depth] not in known:
                known.add(folder[:depth])
                yield TreeFolder(folder[:depth])
        if name:
            yield _StoredFile((*folder, name), info.size, info.last_modified, store, info.key, info.etag)
        elif info.size:
            yield Unreadable(_shown((info.key,)), "skipped", "an object whose key ends in a slash")


class _StoredFile(NamedTuple):
    path: tuple[str, ...]
    size: int
    modified: datetime
    store: ObjectStore
    key: str
    etag: str

    def source(self) -> Source:
        return self

    @contextmanager
    def open(self) -> Iterator[Reader]:
        with self.store.open(self.key, if_match=self.etag) as reader:
            yield reader

    def close(self) -> None:
        pass
