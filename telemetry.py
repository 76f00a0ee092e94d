"""Logs: one JSON object a line on standard error, with the request id bound to each. Metrics: every name declared here.

What is counted says how often and how long, never who or what: labels are routes, operations, tasks and outcomes, of
which there are few (THREATS T124). The processes of one machine write into one folder (``share_metrics``), so that any
of them can tell the sum of all.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog


def configure_logging(level: str) -> None:
    """Set up structlog, and let other libraries' loggers through it from WARNING on."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer(), foreign_pre_chain=shared)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING")


# -- metrics ---------------------------------------------------------------------------------------------------------------

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
_JOB_SECONDS = (0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0)


def share_metrics(data_dir: Path) -> None:
    """Count together with the other processes of this DATA_DIR; to be called before anything is counted.

    What ended processes counted stays, so that no counter falls; it goes when the first process of a new run finds none
    of them alive."""
    folder = data_dir / "metrics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
    except OSError:  # a read-only installation: its processes count by themselves
        folder = Path(tempfile.mkdtemp(prefix="metrics-"))
    found = list(folder.glob("*.db"))
    if not any(_alive(path) for path in found):
        for path in found:
            with suppress(OSError):
                path.unlink()
    os.environ[_SHARED] = str(folder)


def _alive(path: Path) -> bool:
    pid = path.stem.rpartition("_")[2]
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


class Metrics:
    def __init__(self) -> None:
        # Only here: the library decides at its import whether processes share.
        from prometheus_client import CollectorRegistry, Counter, Histogram

        own = self._own = CollectorRegistry()
        self._requests = Histogram(
            "gateway_http_request_seconds",
            "Requests until the answer began, by route, method and status",
            ["route", "method", "status"],
            registry=own,
            buckets=_SECONDS,
        )
        self._uploads = Counter(
            "gateway_uploads", "Files that ended their upload", ["protocol", "outcome"], registry=own
        )
        self._received = Counter(
            "gateway_received_bytes", "Bytes of files that came through the gateway", ["protocol"], registry=own
        )
        self._bucket = Histogram(
            "gateway_bucket_call_seconds",
            "Calls to the bucket",
            ["operation", "outcome"],
            registry=own,
            buckets=_SECONDS,
        )
        self._jobs = Histogram(
            "gateway_job_seconds",
            "Jobs by task and outcome: ok, retried, failed",
            ["task", "outcome"],
            registry=own,
            buckets=_JOB_SECONDS,
        )
        self._previews = Counter(
            "gateway_previews", "Previews asked for or made ahead", ["kind", "outcome"], registry=own
        )

    def request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """``route``: its template, ``/api/files/<id>``; None where none fitted."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route or "unmatched", known, str(status)).observe(seconds)

    def upload(self, protocol: str, outcome: str, size: int = 0) -> None:
        """``outcome``: ``done`` or the code of its refusal; ``size``: bytes that came through this process."""
        self._uploads.labels(protocol, outcome).inc()
        if size:
            self._received.labels(protocol).inc(size)

    def bucket_call(self, operation: str, outcome: str, seconds: float) -> None:
        self._bucket.labels(operation, outcome).observe(seconds)

    def job(self, task: str, outcome: str, seconds: float) -> None:
        self._jobs.labels(task, outcome).observe(seconds)

    def preview(self, kind: str, outcome: str) -> None:
        """``outcome``: ``stored`` (found in the bucket), ``made``, or the code of its refusal."""
        self._previews.labels(kind, outcome).inc()

    def exposition(self, now: Iterable[Gauge] = ()) -> bytes:
        """All in Prometheus' text format; ``now``: what was asked at this moment."""
        from prometheus_client import CollectorRegistry, Metric, generate_latest
        from prometheus_client.core import GaugeMetricFamily
        from prometheus_client.multiprocess import MultiProcessCollector

        families: list[Metric] = []
        for gauge in now:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples:
                family.add_metric(labels, value)
            families.append(family)

        class Now:
            def collect(self) -> Iterable[Metric]:
                return families

        registry = self._own
        if _SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        asked = CollectorRegistry()
        asked.register(Now())
        return generate_latest(registry) + generate_latest(asked)


@dataclass(frozen=True, slots=True)
class Gauge:
    name: str
    help: str
    labels: tuple[str, ...]
    samples: list[tuple[tuple[str, ...], float]]


def queue_jobs(samples: list[tuple[tuple[str, ...], float]]) -> Gauge:
    return Gauge("gateway_queue_jobs", "Jobs: waiting, scheduled, running, failed", ("queue", "state"), samples)


def queue_oldest(samples: list[tuple[tuple[str, ...], float]]) -> Gauge:
    text = "Seconds that the first job in line has been waiting"
    return Gauge("gateway_queue_oldest_seconds", text, ("queue",), samples)


def serve_metrics(host: str, port: int) -> None:
    """Show this process's metrics at a port of its own: a worker on a machine without the HTTP server."""
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_http_server(port, addr=host, registry=registry)


@cache
def metrics() -> Metrics:
    """This process's."""
    return Metrics()
