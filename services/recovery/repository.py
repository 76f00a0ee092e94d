"""A repository of backups: snapshots that share their blobs.

    blobs/ab/<name>[.zst][.age]    an object's bytes, once for all snapshots
    snapshots/<id>/database        the rows (db/dump.py), compressed
    snapshots/<id>/entries         object keys and SHA-256, compressed JSON lines
    snapshots/<id>/blobs           the blobs that the snapshot needs, with their stored bytes, compressed lines
    snapshots/<id>/manifest.json   checksums of the three, and a signature: written last, without it there is no snapshot
    lock                           who writes or prunes now (lock.py)

A blob's name is the SHA-256 of the original bytes; if it is encrypted, the HMAC of that, so that the names tell nobody which
files are there. ``blobs`` is never encrypted: pruning and going on with a backup need no identity.

What is read from here is untrusted until its signature (of a manifest) or its checksum (of all else) is verified.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson
import structlog
import zstandard

from core.errors import InvalidInput, NotFound, Unprocessable
from core.ids import FILE_PREFIX, INCOMING_PREFIX, PREVIEW_PREFIX, PROBE_PREFIX, TAIL_PREFIX
from services.objects.object_reader import Decompressed, Reader, read_exactly
from services.objects.streams import Hashed
from services.recovery import age
from services.recovery.locations import Bucket, Folder, Location, Sink
from storage_backends import StorageSettings, open_store
from storage_backends.base import Multipart, ObjectNotFound

log = structlog.get_logger()

VERSION = 1  # of the layout
LEVEL = 3  # of zstd, for rows and entries
_MAX_MANIFEST = 1024 * 1024  # bytes
_PIECE = 256 * 1024
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_BLOB = re.compile(r"blobs/([0-9a-f]{2})/((?:\1)[0-9a-f]{62})((?:\.zst)?(?:\.age)?)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_GATEWAY = (FILE_PREFIX, INCOMING_PREFIX, PREVIEW_PREFIX, PROBE_PREFIX, TAIL_PREFIX)


class BlobMissing(ObjectNotFound):
    """The repository does not have these bytes."""


class InvalidBackup(Unprocessable, code="backup_invalid", title="The backup is damaged or was not made here"):
    """A signature or a checksum does not match."""


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """How to read and write a repository."""

    keys: Sequence[bytes] = field(repr=False)  # sign manifests: the first signs, all verify (core/secrets.py)
    storage: StorageSettings | None = None  # for s3://, without the bucket
    gateway: StorageSettings | None = None  # the gateway's bucket, in which no repository may be among its objects
    recipients: Sequence[str] = ()  # age public keys; none: what is written is not encrypted
    identities: str | None = field(default=None, repr=False)  # the text of an age identity file
    unsigned: bool = (
        False  # read snapshots whatever their signature: for whoever has lost SECRET_KEY and trusts the place
    )


class StoredFile(NamedTuple):
    """A file of a snapshot, as it is stored."""

    size: int  # bytes
    sha256: str


class Entry(NamedTuple):
    """An object that a snapshot's rows name."""

    key: str
    sha256: str
    size: int  # bytes of the original
    content_type: str


class Blob(NamedTuple):
    """A blob as it is stored."""

    name: str
    form: str  # ".zst", ".age", ".zst.age" or ""
    size: int  # stored bytes

    @property
    def path(self) -> str:
        """Its name in the location."""
        return f"blobs/{self.name[:2]}/{self.name}{self.form}"


class Need(NamedTuple):
    """A blob that a snapshot needs. If the object's rows have no SHA-256, also what saves the next backup from reading it."""

    blob: Blob
    key_digest: str = ""  # of the object key
    masked: str = ""  # the SHA-256, readable for who knows SECRET_KEY and the object key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete snapshot: what its manifest says."""

    id: str
    taken_at: datetime  # the moment of the database that it shows
    finished_at: datetime
    files: int
    objects: int  # object keys
    bytes: int  # of the objects, uncompressed
    revision: str  # of the database's schema
    encrypted: bool
    damaged: int  # objects that could not be backed up
    damaged_keys: Sequence[str]  # the first of them
    parts: dict[str, StoredFile]  # database, entries, blobs

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"parts": {name: part._asdict() for name, part in self.parts.items()}}


def open_repository(location: str, options: RepositoryOptions) -> Repository:
    """The repository in a folder (``/folder``) or a bucket (``s3://bucket/prefix``); nothing is read or written yet. Raises
    InvalidInput."""
    if not location.startswith("s3://"):
        if "://" in location or not location:
            raise InvalidInput("A repository is a folder or s3://bucket/prefix.")
        return Repository(Folder(Path(location).absolute()), options)
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not bucket or options.storage is None or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise InvalidInput("A repository in a bucket is named s3://bucket/prefix.")
    ours = options.gateway
    if ours is not None and (ours.endpoint, ours.bucket) == (options.storage.endpoint, bucket):
        if not prefix or f"{prefix}/".startswith(_OF_GATEWAY):
            raise InvalidInput(f"s3://{bucket}/{prefix} is where the gateway keeps its objects; choose another prefix.")
        log.warning("backup_beside_its_source", bucket=bucket)
    store = open_store(replace(options.storage, bucket=bucket))
    if not isinstance(store, Multipart):
        raise InvalidInput("The backend can't write large objects.")
    return Repository(Bucket(cast(Any, store), prefix), options)


class Repository:
    """Reads and writes snapshots and blobs. Threads may share one."""

    def __init__(self, location: Location, options: RepositoryOptions):
        self.location = location
        self._keys = options.keys
        self._unsigned = options.unsigned
        self._recipients = [age.recipient(text) for text in options.recipients]
        self._identities = age.identities_of(options.identities) if options.identities else []
        self._forms = ["", ".zst", ".age", ".zst.age"]  # the one found last comes first

    @property
    def encrypts(self) -> bool:
        """Whether what is written is encrypted."""
        return bool(self._recipients)

    # -- snapshots ---------------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[Snapshot]:
        """All complete snapshots, oldest first; invalid ones are logged and left out. Raises InvalidBackup if there is none
        that SECRET_KEY has signed, but others."""
        found, invalid = [], 0
        for snapshot_id in self.snapshot_ids():
            try:
                found.append(self.snapshot(snapshot_id))
            except InvalidBackup as error:
                invalid += 1
                log.error("backup_invalid", snapshot=snapshot_id, error=str(error))
        if invalid and not found:
            raise InvalidBackup(
                "No snapshot has a signature by SECRET_KEY: give the one that the backups were made with."
            )
        return sorted(found, key=lambda snapshot: (snapshot.taken_at, snapshot.id))

    def snapshot_ids(self, *, complete: bool = True) -> list[str]:
        """Ids of snapshots, or of what is left of ``complete`` or unfinished ones, oldest first."""
        names = (name.split("/") for name, _ in self.location.list("snapshots/"))
        return sorted(
            {
                parts[1]
                for parts in names
                if len(parts) == 3 and _ID.fullmatch(parts[1]) and (not complete or parts[2] == "manifest.json")
            }
        )

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """A snapshot, after its signature is verified. Raises NotFound, InvalidBackup."""
        if not _ID.fullmatch(snapshot_id):
            raise NotFound(f"{snapshot_id[:50]!r} is no id of a snapshot.")
        try:
            with self.location.open(f"snapshots/{snapshot_id}/manifest.json") as reader:
                data = read_exactly(reader, _MAX_MANIFEST + 1)
        except ObjectNotFound:
            raise NotFound(f"There is no snapshot {snapshot_id}.") from None
        try:
            if len(data) > _MAX_MANIFEST:
                raise ValueError("too long")
            document = orjson.loads(data)
            manifest, signature = document["manifest"], bytes.fromhex(document["signature"])
            signed = _canonical(manifest)
            if not self._unsigned and not any(hmac.compare_digest(signature, _sign(key, signed)) for key in self._keys):
                raise InvalidBackup(f"The signature of snapshot {snapshot_id} is not by SECRET_KEY.")
            return _parsed(snapshot_id, manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidBackup(f"The manifest of snapshot {snapshot_id} can't be read.") from error

    @contextmanager
    def open_database(self, snapshot_id: str) -> Iterator[Reader]:
        """The rows, decrypted and decompressed, after all is verified. Raises NotFound, InvalidBackup, IdentityNeeded."""
        snapshot = self.snapshot(snapshot_id)
        with self._verified(snapshot, "database") as file, self._opened(file, snapshot.encrypted) as reader:
            yield reader

    def entries(self, snapshot_id: str) -> Iterator[Entry]:
        """All objects that the snapshot has. Raises as ``open_database``."""
        for values in self._entry_lines(snapshot_id):
            if "damaged" not in values:
                yield Entry(values["key"], values["sha256"], values["size"], values["content_type"])

    def damaged(self, snapshot_id: str) -> Iterator[tuple[str, str]]:
        """Keys of objects that could not be backed up, and why. Raises as ``open_database``."""
        for values in self._entry_lines(snapshot_id):
            if "damaged" in values:
                yield values["key"], values["damaged"]

    def _entry_lines(self, snapshot_id: str) -> Iterator[dict[str, Any]]:
        snapshot = self.snapshot(snapshot_id)
        with self._verified(snapshot, "entries") as file, self._opened(file, snapshot.encrypted) as reader:
            for line in _lines(reader):
                yield orjson.loads(line)

    def needed(self, snapshot_id: str) -> Iterator[Need]:
        """The blobs of a snapshot, some several times. Raises NotFound, InvalidBackup; needs no identity."""
        snapshot = self.snapshot(snapshot_id)
        with self._verified(snapshot, "blobs") as file, self._opened(file, encrypted=False) as reader:
            for line in _lines(reader):
                name, form, size, digest, masked = line.decode().split(",")
                yield Need(Blob(name, form, int(size)), digest, masked)

    @contextmanager
    def _verified(self, snapshot: Snapshot, part: str) -> Iterator[IO[bytes]]:
        """A copy of a snapshot's file, in a temporary file, once its checksum is verified: a reader never sees bytes that
        turn out wrong at their end."""
        expected, digest = snapshot.parts[part], hashlib.sha256()
        with tempfile.TemporaryFile() as copy:
            try:
                with self.location.open(f"snapshots/{snapshot.id}/{part}") as reader:
                    while (piece := reader.read(_PIECE)) and copy.tell() <= expected.size:
                        digest.update(piece)
                        copy.write(piece)
            except ObjectNotFound:
                raise InvalidBackup(f"Snapshot {snapshot.id} has lost its file {part}.") from None
            if StoredFile(copy.tell(), digest.hexdigest()) != expected:
                raise InvalidBackup(f"The file {part} of snapshot {snapshot.id} is damaged.")
            copy.seek(0)
            yield copy

    @contextmanager
    def _opened(self, file: Reader, encrypted: bool) -> Iterator[Reader]:
        if not encrypted:
            yield Decompressed(file)
            return
        with age.decrypted(file, self._identities) as reader:
            yield Decompressed(reader)

    def check_parts(self, snapshot: Snapshot) -> None:
        """Verify the checksums of a snapshot's files. Raises InvalidBackup."""
        for part in snapshot.parts:
            with self._verified(snapshot, part):
                pass

    def write_part(self, snapshot_id: str, part: str, source: Reader, *, size: int) -> StoredFile:
        """Write a file of a snapshot that ``pack`` has packed. ``size``: about how many bytes will come."""
        with self.location.write(f"snapshots/{snapshot_id}/{part}", size=size) as sink:
            counted = HashingSink(sink)
            while piece := source.read(_PIECE):
                counted.write(piece)
        return StoredFile(counted.size, counted.digest.hexdigest())

    def pack(self, pieces: Iterable[bytes], sink: Sink, *, encrypted: bool) -> None:
        """Compress, and encrypt if asked."""
        source = cast(IO[bytes], Pieces(pieces))
        with zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_reader(source) as reader:
            self._write(cast(Reader, reader), sink, encrypted=encrypted)

    def write_manifest(self, snapshot: Snapshot) -> None:
        """Complete a snapshot."""
        manifest = snapshot.as_dict() | {"version": VERSION}
        manifest |= {name: manifest[name].astimezone(UTC).isoformat() for name in ("taken_at", "finished_at")}
        document = {"manifest": manifest, "signature": _sign(self._keys[0], _canonical(manifest)).hex()}
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2)
        with self.location.write(f"snapshots/{snapshot.id}/manifest.json", size=len(data)) as sink:
            sink.write(data)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot, its manifest first: what is left is no snapshot."""
        for part in ("manifest.json", "database", "entries", "blobs"):
            self.location.delete(f"snapshots/{snapshot_id}/{part}")

    def remove_unfinished(self) -> None:
        """Remove what killed runs have left. The caller holds the lock."""
        complete = set(self.snapshot_ids())
        for snapshot_id in self.snapshot_ids(complete=False):
            if snapshot_id not in complete:
                self.remove_snapshot(snapshot_id)
        self.location.clear_unfinished()

    # -- blobs -------------------------------------------------------------------------------------------------------------

    def has(self, sha256: str) -> bool:
        """Whether the repository has these bytes."""
        return any(self.location.size(path) is not None for path, _ in self._paths(sha256))

    @contextmanager
    def open(self, sha256: str) -> Iterator[Hashed]:
        """The original bytes. Raises BlobMissing; ``read`` raises Damaged, at the end if they have another SHA-256."""
        found = next((item for item in self._paths(sha256) if self.location.size(item[0]) is not None), None)
        if found is None:
            raise BlobMissing(f"The repository has no blob with the SHA-256 {sha256}.")
        path, form = found
        self._forms = sorted(self._forms, key=lambda each: each != form)
        with self.location.open(path) as stored:
            if form.endswith(".age"):
                with age.decrypted(stored, self._identities) as reader:
                    yield Hashed(Decompressed(reader) if ".zst" in form else reader, sha256=sha256)
            else:
                yield Hashed(Decompressed(stored) if ".zst" in form else stored, sha256=sha256)

    def _paths(self, sha256: str) -> Iterator[tuple[str, str]]:
        """The names that a blob may have, each with its form."""
        if not _SHA256.fullmatch(sha256):
            raise BlobMissing("That is no SHA-256.")
        for form in self._forms:
            for name in self.blob_names(sha256, encrypted=form.endswith(".age")):
                yield Blob(name, form, 0).path, form

    def blob_names(self, sha256: str, *, encrypted: bool) -> list[str]:
        """The names of a blob without its form: the first is given to new ones, others come from earlier keys."""
        if not encrypted:
            return [sha256]
        return [hmac.digest(key, b"blob:" + sha256.encode(), "sha256").hex() for key in self._keys]

    def key_digest(self, object_key: str) -> str:
        """A digest of an object key, which nobody without SECRET_KEY can compare with one."""
        return hmac.digest(self._keys[0], b"key:" + object_key.encode(), "sha256").hex()[:32]

    def mask(self, object_key: str, sha256: str) -> str:
        """Hide an object's SHA-256, or show it again. Each key has one content, so a mask is used once."""
        mask = hmac.digest(self._keys[0], b"mask:" + object_key.encode(), "sha256")
        return bytes(a ^ b for a, b in zip(mask, bytes.fromhex(sha256), strict=True)).hex()

    def blobs(self) -> Iterator[Blob]:
        """All stored blobs, in any order."""
        for name, size in self.location.list("blobs/"):
            if match := _BLOB.fullmatch(name):
                yield Blob(match[2], match[3], size)

    def write_blob(self, sha256: str, source: Reader, *, zstd: bool, size: int) -> Blob:
        """Write a blob from its bytes, or with ``zstd`` from their compressed form. What ``source`` raises passes through, and
        nothing is written then. ``size``: about how many bytes will come."""
        form = (".zst" if zstd else "") + (".age" if self.encrypts else "")
        blob = Blob(self.blob_names(sha256, encrypted=self.encrypts)[0], form, 0)
        with self.location.write(blob.path, size=size) as sink:
            counted = HashingSink(sink)
            self._write(source, counted, encrypted=self.encrypts)
        return blob._replace(size=counted.size)

    def _write(self, source: Reader, sink: Sink, *, encrypted: bool) -> None:
        if encrypted:
            age.encrypt(source, sink, self._recipients)
        else:
            while piece := source.read(_PIECE):
                sink.write(piece)


class HashingSink:
    """Counts and hashes what passes to a sink."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        """As in Sink."""
        self.digest.update(data)
        self.size += len(data)
        return self._sink.write(data)


class Pieces:
    """Reads what an iterator gives."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """As in Reader."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = bytes(piece)
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _lines(reader: Reader) -> Iterator[bytes]:
    """Lines without their ends."""
    rest = b""
    while piece := reader.read(_PIECE):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _canonical(manifest: Any) -> bytes:
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)


def _sign(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"manifest:" + data, "sha256")


def _parsed(snapshot_id: str, manifest: dict[str, Any]) -> Snapshot:
    """Raises KeyError, TypeError, ValueError, InvalidBackup."""
    if manifest["version"] > VERSION:
        raise InvalidBackup(f"Snapshot {snapshot_id} was made by a later version of the gateway.")
    if manifest["id"] != snapshot_id:
        raise InvalidBackup(f"The manifest of snapshot {snapshot_id} belongs to another one.")
    values = {name: value for name, value in manifest.items() if name != "version"}
    values |= {name: datetime.fromisoformat(values[name]) for name in ("taken_at", "finished_at")}
    values["parts"] = {name: StoredFile(part["size"], part["sha256"]) for name, part in values["parts"].items()}
    return Snapshot(**values)
