"""The bucket: one interface, and two clients of S3 servers.

Open ``base`` first: it has the interface, its abilities and its errors. Both backends send all requests about one
object or one multipart upload themselves, and leave lists and the bucket to their SDK. A process imports only the SDK of the
backend that its settings name.

    base         ``ObjectStore``, one Protocol per ability, and the errors
    transfers    ``SignedStore``, the base class of both backends: objects, multipart uploads, presigned requests, rules
    s3           the backend on boto3, for any S3 server
    minio        the backend on minio-py
    messages     what S3's responses and headers say
    presign      AWS Signature Version 4
    signed_http  one signed request, and its errors
    http_client  the connection pool, HTTP/1.1
    faults       S3's error codes, and retries
    capacity     the space on the server's disk

Invariants:
- No call is repeated if that could hide the outcome of its first try. ``OutcomeUnknown`` says that a call may have taken
  effect, and ``StorageUnavailable`` that it had none.
- "Not found" is read from S3's error code, never from a status.
- A bucket that hangs blocks only some of a process's threads, and each request only once (``core.breaker``).
- Connections are not shared over a fork.

The prefixes of object keys are in ``core.ids``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from storage_backends.base import ObjectStore


class BucketCall(NamedTuple):
    """A call that has ended."""

    operation: str
    outcome: str  # "ok", or the error's name
    seconds: float  # until the response's head, if the caller reads its body
    failed: bool  # the bucket, not the caller, is to blame; "not found" is an answer
    request_id: str | None  # the bucket's, of the last try; None if an SDK made the call


Observer = Callable[[BucketCall], None]

_BACKENDS = {"s3": ("storage_backends.s3", "S3Store"), "minio": ("storage_backends.minio", "MinioStore")}


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How to reach the bucket."""

    backend: str  # s3 | minio
    endpoint: str  # scheme, host and port, as the gateway reaches it
    public_endpoint: str  # as browsers reach it
    region: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    connections: int = 32  # kept open: one for each thread that may use the bucket
    # What tells the space on the server's disk: a folder on it, if it is in this machine, or the server's metrics.
    local_path: Path | None = None
    metrics_url: str | None = None
    metrics_token: str | None = field(default=None, repr=False)


def open_store(settings: StorageSettings, *, observe: Observer | None = None) -> ObjectStore:
    """The store that the settings name. It connects on first use; ``observe`` gets each call.

    Raises ValueError for an unknown backend or an endpoint that can't be signed for."""
    if settings.backend not in _BACKENDS:
        raise ValueError(f"STORAGE_BACKEND is {settings.backend!r}; it must be one of {', '.join(_BACKENDS)}")
    module, name = _BACKENDS[settings.backend]
    store = getattr(import_module(module), name)(settings, observe=observe)
    assert isinstance(store, ObjectStore)
    return store
