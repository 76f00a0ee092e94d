"""The bucket: one interface (``base``), two clients of real servers (``s3``, ``minio``) and a dict (``memory``).

Both clients send bytes as presigned requests over one urllib3 pool (``transfers``, ``signed_http``, ``presign``) and
leave everything else to their vendor's SDK. A process imports only the SDK of the backend that its settings name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from storage_backends.base import ObjectStore

Observer = Callable[[str, str, float], None]  # operation, outcome ("ok" or the error's name), seconds

_BACKENDS = {"s3": ("storage_backends.s3", "S3Store"), "minio": ("storage_backends.minio", "MinioStore")}


@dataclass(frozen=True, slots=True)
class StorageSettings:
    backend: str  # s3 | minio
    endpoint: str  # scheme, host and port, as the gateway reaches it
    public_endpoint: str  # the same bucket as browsers reach it
    region: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    connections: int = 32  # kept open to the bucket: one for each thread that may use it
    local_path: Path | None = None  # on the disk that its server stores on, where that is in this machine


def open_store(settings: StorageSettings, *, observe: Observer | None = None) -> ObjectStore:
    """The store that the settings name; ``observe`` hears of each call's outcome and time. Nothing is connected yet:
    each process makes its clients when first needed.

    Raises ValueError for an unknown backend or an endpoint that can't be signed for: a start with a wrong setting has
    to stop."""
    if settings.backend not in _BACKENDS:
        raise ValueError(f"STORAGE_BACKEND is {settings.backend!r}; it must be one of {', '.join(_BACKENDS)}")
    module, name = _BACKENDS[settings.backend]
    store = getattr(import_module(module), name)(settings, observe=observe)
    assert isinstance(store, ObjectStore)
    return store
