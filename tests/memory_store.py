"""A bucket in memory, for tests. It passes the same contract suite as the real servers."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BytesIO
from typing import BinaryIO, Literal

from storage_backends.base import (
    ByteRange,
    Checksum,
    ChecksumMismatch,
    Copies,
    InvalidPart,
    Multipart,
    MultipartRef,
    ObjectInfo,
    ObjectNotFound,
    ObjectReader,
    ObjectStore,
    Part,
    PartLimits,
    PreconditionFailed,
    StorageError,
    UploadNotFound,
)


class _Reader(BytesIO):
    def __init__(self, info: ObjectInfo, data: bytes):
        super().__init__(data)
        self.info = info

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)


@dataclass
class _Upload:
    ref: MultipartRef
    content_type: str
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStore:
    """A bucket in memory."""

    part_limits = PartLimits()

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._uploads: dict[str, _Upload] = {}

    # Objects

    def put(
        self,
        key: str,
        body: BinaryIO | bytes | bytearray | memoryview,
        *,
        content_type: str,
        size: int | None = None,
        checksum: Checksum | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        if isinstance(body, bytes | bytearray | memoryview):
            data = bytes(body)
        elif size is None:
            raise ValueError("a stream needs its size")
        else:
            data = _read_all(body, size)
        if size is not None and len(data) != size:
            raise ValueError(f"the body has {len(data)} bytes instead of {size}")
        _verify(data, checksum)
        return self._store(key, data, content_type, if_absent, checksum)

    def _store(
        self, key: str, data: bytes, content_type: str | None, if_absent: bool, checksum: Checksum | None = None
    ) -> ObjectInfo:
        info = ObjectInfo(key, len(data), secrets.token_hex(16), content_type, datetime.now(UTC), checksum)
        with self._lock:
            if if_absent and key in self._objects:
                raise PreconditionFailed(f"{key} exists", code="PreconditionFailed")
            self._objects[key] = (info, data)
        return info

    def _load(self, key: str, etag: str | None = None) -> tuple[ObjectInfo, bytes]:
        with self._lock:
            if key not in self._objects:
                raise ObjectNotFound(key, code="NoSuchKey")
            info, data = self._objects[key]
        if etag is not None and info.etag != etag:
            raise PreconditionFailed(f"{key} has another ETag", code="PreconditionFailed")
        return info, data

    def stat(self, key: str) -> ObjectInfo:
        return self._load(key)[0]

    @contextmanager
    def open(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> Iterator[ObjectReader]:
        info, data = self._load(key, if_match)
        if byte_range:
            data = _slice(data, byte_range)
        yield _Reader(info, data)

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        with self._lock:
            keys = sorted(key for key in self._objects if key.startswith(prefix) and (after is None or key > after))
            found = [self._objects[key][0] for key in keys]
        for info in found:
            yield replace(info, content_type=None, checksum=None)

    def check(self) -> None:
        return None

    # Multipart

    def create_multipart(
        self,
        key: str,
        *,
        content_type: str,
        checksums: Literal["sha256", "crc32"] | None = None,
        storage_class: str | None = None,
    ) -> MultipartRef:
        ref = MultipartRef(key, secrets.token_hex(16), datetime.now(UTC))
        with self._lock:
            self._uploads[ref.upload_id] = _Upload(ref, content_type)
        return replace(ref, started_at=None)

    def _upload(self, ref: MultipartRef) -> _Upload:
        upload = self._uploads.get(ref.upload_id)
        if upload is None or upload.ref.key != ref.key:
            raise UploadNotFound(ref.upload_id, code="NoSuchUpload")
        return upload

    def put_part(
        self, ref: MultipartRef, number: int, body: bytes | bytearray | memoryview, *, checksum: Checksum | None = None
    ) -> Part:
        data = bytes(body)
        _verify(data, checksum)
        part = Part(number, len(data), secrets.token_hex(16), checksum)
        with self._lock:
            self._upload(ref).parts[number] = (part, data)
        return part

    def list_parts(self, ref: MultipartRef, *, after: int = 0) -> Iterator[Part]:
        with self._lock:
            parts = [part for number, (part, _) in sorted(self._upload(ref).parts.items()) if number > after]
        yield from parts

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        with self._lock:
            upload = self._upload(ref)
            numbers = [part.number for part in parts]
            if not numbers or numbers != sorted(set(numbers)):
                raise InvalidPart("the parts must ascend", code="InvalidPartOrder")
            held = [upload.parts.get(part.number) for part in parts]
            if any(has is None or has[0].etag != part.etag for part, has in zip(parts, held, strict=True)):
                raise InvalidPart("no such part", code="InvalidPart")
            pieces = [has[1] for has in held if has]
            if any(len(piece) < self.part_limits.min_size for piece in pieces[:-1]):
                raise InvalidPart("only the last part may be so small", code="EntityTooSmall")
            info = self._store(ref.key, b"".join(pieces), upload.content_type, if_absent)
            del self._uploads[ref.upload_id]
        return info

    def abort_multipart(self, ref: MultipartRef) -> None:
        with self._lock:
            self._uploads.pop(ref.upload_id, None)

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        with self._lock:
            refs = [upload.ref for upload in self._uploads.values() if upload.ref.key.startswith(prefix)]
        yield from sorted(refs, key=lambda ref: (ref.key, ref.upload_id))

    # Copies

    def copy(
        self,
        source: str,
        target: str,
        *,
        content_type: str | None = None,
        if_source_etag: str | None = None,
        storage_class: str | None = None,
    ) -> ObjectInfo:
        info, data = self._load(source, if_source_etag)
        return self._store(target, data, content_type or info.content_type, False)

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part:
        data = self._load(source, if_source_etag)[1]
        return self.put_part(ref, number, _slice(data, byte_range) if byte_range else data)


def _read_all(body: BinaryIO, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = body.read(size - len(data))
        if not piece:
            raise ValueError(f"the stream ended {size - len(data)} bytes early")
        data += piece
    return bytes(data)


def _slice(data: bytes, byte_range: ByteRange) -> bytes:
    if byte_range.first >= len(data):
        raise StorageError("the range begins after the end", code="InvalidRange")
    return data[byte_range.first : byte_range.last + 1]


def _verify(data: bytes, checksum: Checksum | None) -> None:
    if checksum is None:
        return
    digest = hashlib.sha256(data).digest() if checksum.algorithm == "sha256" else zlib.crc32(data).to_bytes(4)
    if base64.b64encode(digest).decode() != checksum.value:
        raise ChecksumMismatch("the bytes do not match the checksum", code="BadDigest")


# The abilities, for the type checker to prove.
_store: type[ObjectStore] = MemoryStore
_parts: type[Multipart] = MemoryStore
_copies: type[Copies] = MemoryStore
