"""The space on the bucket's disk: of a local path, or as SeaweedFS and MinIO tell it in their metrics for Prometheus."""

from __future__ import annotations

import shutil
from pathlib import Path
from time import monotonic

import urllib3

from storage_backends.base import Capacity, StorageUnavailable

_TIMEOUT = urllib3.Timeout(connect=2, read=3)  # seconds
_SECONDS = 5.0  # for all of the answer
_MOST = 8 * 1024 * 1024  # bytes of metrics that are read
# The metrics that tell it: name, and the label that must have a value.
_Wanted = tuple[tuple[str, dict[str, str]], ...]
_FREE: _Wanted = (
    ("SeaweedFS_volumeServer_resource", {"type": "avail"}),
    ("minio_cluster_capacity_usable_free_bytes", {}),  # MinIO's metrics, version 2
    ("minio_cluster_health_capacity_usable_free_bytes", {}),  # version 3
)
_TOTAL: _Wanted = (
    ("SeaweedFS_volumeServer_resource", {"type": "all"}),
    ("minio_cluster_capacity_usable_total_bytes", {}),
    ("minio_cluster_health_capacity_usable_total_bytes", {}),
)
_NAMES = tuple(name.encode() for name, _ in (*_FREE, *_TOTAL))


def of_path(path: Path) -> Capacity:
    """The space on the disk that holds ``path``. Raises StorageUnavailable."""
    try:
        disk = shutil.disk_usage(path)
    except OSError as error:
        raise StorageUnavailable(f"disk: {error}") from error
    return Capacity(free=disk.free, total=disk.total)


def of_metrics(url: str, token: str | None) -> Capacity:
    """The space as the bucket's server tells it at ``url``, with ``token`` as a Bearer credential. Raises StorageUnavailable if
    it does not answer, or its metrics don't tell."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as pool:
            answer = pool.request("GET", url, headers=headers, preload_content=False)
            text = _read(answer).decode(errors="replace")
    except urllib3.exceptions.HTTPError as error:
        raise StorageUnavailable(f"metrics: {error}") from error
    if answer.status != 200:
        raise StorageUnavailable(f"metrics: the server answers {answer.status}")
    return parse(text)


def _read(answer: urllib3.BaseHTTPResponse) -> bytes:
    """The lines that may tell the space. Raises StorageUnavailable if there are too many, or they come too slowly."""
    ends, text = monotonic() + _SECONDS, bytearray()
    while piece := answer.read1(64 * 1024):
        text += piece
        if len(text) > _MOST or monotonic() > ends:
            answer.close()
            raise StorageUnavailable("metrics: the answer is too long or too slow")
    return b"\n".join(line for line in text.splitlines() if line.startswith(_NAMES)) + b"\n"


def parse(text: str) -> Capacity:
    """The space that metrics in Prometheus' text format tell; several disks are added up. Raises StorageUnavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    free = total = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if _is_one_of(_FREE, sample.name, sample.labels):
                    free = (free or 0) + int(sample.value)
                elif _is_one_of(_TOTAL, sample.name, sample.labels):
                    total = (total or 0) + int(sample.value)
    except (ValueError, OverflowError, LookupError) as error:
        raise StorageUnavailable(f"metrics: {error}") from error
    if free is None or total is None:
        raise StorageUnavailable("metrics: they do not tell the space of a MinIO or SeaweedFS")
    return Capacity(free=free, total=total)


def _is_one_of(wanted: _Wanted, name: str, labels: dict[str, str]) -> bool:
    return any(name == known and labels.items() >= needed.items() for known, needed in wanted)
