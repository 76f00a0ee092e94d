"""Logs: one JSON object per line on standard error, each with its request's id, and without secrets; the access log has a line
for each request. Metrics: all of them are declared here.

Metrics count how often and how long, never who or what: their labels are routes, operations, tasks and outcomes, of which there
are few (T124). All processes on a machine write into one folder (``share_metrics``), so each can show the sum.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

import orjson
import structlog

import tracing
from core.errors import Unavailable
from core.origin import ORIGIN

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from storage_backends import BucketCall


# What is secret in a text, by a part of it that is quickly searched for: credentials, sealed links, signatures and passwords.
_SECRETS = {
    "gw": r"\bgw[a-z]?_[\w-]{16,}",
    "eyJ": r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*",  # a JWT
    "earer ": r"(?<=earer )[^\s\"']+",
    "/d/": r"(?<=/d/)[^/?\s\"']{16,}",
    "/t/": r"(?<=/t/)[^/?\s\"']{16,}",
    "ignature=": r"(?<=ignature=)\w+",
    "ticket=": r"(?<=ticket=)[\w-]+",
    "code=": r"(?<=[?&]code=)[^&\s\"']+",
    "state=": r"(?<=[?&]state=)[^&\s\"']+",
    "://": r"(?<=://)[^/\s:@\"']*:[^/\s@\"']+(?=@)",
}


class WithoutSecrets:
    """A text stream that hides secrets in what is written to it: logs, and tracebacks of all libraries (T140)."""

    def __init__(self, stream: TextIO, known: Iterable[str] = ()):
        self._stream = stream
        self._secrets = [(part, re.compile(found)) for part, found in _SECRETS.items()]
        self._secrets += [(secret, re.compile(re.escape(secret))) for secret in known]

    def write(self, text: str) -> int:
        """Write the text with ``[hidden]`` for each secret in it. Nothing fails if the disk is full or the reader is gone."""
        for part, secret in self._secrets:
            if part in text:
                text = secret.sub("[hidden]", text)
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_logs_debug = False


def configure_logging(level: str, known: Iterable[str] = ()) -> None:
    """Set up structlog, and hide secrets on standard error, those ``known`` from the settings too. Other libraries' loggers go
    through structlog from WARNING on."""
    global _logs_debug
    _logs_debug = level == "DEBUG"
    sys.stderr = cast(TextIO, WithoutSecrets(sys.stderr, known))
    shared: list[structlog.typing.Processor] = [
        _with_origin,
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


def _with_origin(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    origin = ORIGIN.get()
    if origin.request_id is not None:
        event.setdefault("request_id", origin.request_id)
    if origin.job is not None:
        event.setdefault("job", origin.job.id)
        event.setdefault("task", origin.job.task)
    if origin.trace is not None:
        event["trace_id"] = trace_id(origin.trace)
    return event


def trace_id(trace: str) -> str:
    """The id in a traceparent (W3C Trace Context, 3.2.2)."""
    return trace[3:35]


@cache
def _access_log() -> structlog.BytesLogger:
    return structlog.BytesLogger(sys.stderr.buffer)


def log_access(line: dict[str, Any]) -> None:
    """Write a line of the access log, if that is possible. Not through structlog's processors: each request pays for it."""
    text = orjson.dumps({"event": "request", "timestamp": datetime.now(UTC), **line}, option=orjson.OPT_UTC_Z)
    with suppress(OSError):  # the event loop would end with it
        _access_log().info(text)


_SLOW = 5.0  # seconds


def bucket_call(call: BucketCall) -> None:
    """Count a call to the bucket, and log it: at WARNING if it failed or was slow, else at DEBUG. A line has the bucket's id of
    the request, but no key and no URL."""
    metrics().bucket_call(call.operation, call.outcome, call.seconds)
    tracing.record(
        f"bucket {call.operation}",
        call.seconds,
        failed=call.failed,
        outcome=call.outcome,
        bucket_request_id=call.request_id,
    )
    noteworthy = call.failed or call.seconds > _SLOW
    if noteworthy or _logs_debug:
        structlog.get_logger().log(
            logging.WARNING if noteworthy else logging.DEBUG,
            "bucket_call",
            operation=call.operation,
            outcome=call.outcome,
            seconds=round(call.seconds, 6),
            bucket_request_id=call.request_id,
        )


# -- metrics ---------------------------------------------------------------------------------------------------------------

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own name
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
_JOB_SECONDS = (0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0)


def share_metrics(data_dir: Path) -> None:
    """Share metrics with the other processes of this DATA_DIR. Must be called before anything is counted.

    The counts of ended processes stay, so that no counter falls, until a process starts when none of the others is alive."""
    folder = data_dir / "metrics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
    except OSError:  # a read-only installation: each process shows its own metrics
        folder = Path(tempfile.mkdtemp(prefix="metrics-"))
    files = list(folder.glob("*.db"))
    if not any(_alive(path) for path in files):
        for path in files:
            with suppress(OSError):
                path.unlink()
    os.environ[_SHARED] = str(folder)


def _alive(path: Path) -> bool:
    """Whether the file belongs to another process that is alive."""
    pid = path.stem.rpartition("_")[2]
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


class Metrics:
    """This process's metrics."""

    def __init__(self) -> None:
        # Not at the top: prometheus-client decides at its import whether processes share their metrics.
        from prometheus_client import CollectorRegistry, Counter, Histogram

        own = self._own = CollectorRegistry()

        def histogram(name: str, text: str, labels: list[str], buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, labels, registry=own, buckets=buckets)

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(name, text, labels, registry=own)

        self._requests = histogram(
            "gateway_http_request_seconds",
            "Seconds until a response began, by route, method and status",
            ["route", "method", "status"],
        )
        own_bytes = "Bytes of HTTP {}, heads included, by route. What clients {} the bucket is not among them"
        self._http_received = counter("gateway_http_received_bytes", own_bytes.format("requests", "send to"), ["route"])
        self._http_sent = counter("gateway_http_sent_bytes", own_bytes.format("responses", "get from"), ["route"])
        self._of_route: dict[str | None, list[Counter]] = {}  # what ``labels`` would look for at each request
        self._uploads = counter("gateway_uploads", "Files whose upload ended", ["protocol", "outcome"])
        self._received = counter(
            "gateway_received_bytes", "Bytes of files that passed through the gateway", ["protocol"]
        )
        self._waits = histogram("gateway_database_wait_seconds", "Waiting for a free connection to the database", [])
        self._bucket = histogram("gateway_bucket_call_seconds", "Calls to the bucket", ["operation", "outcome"])
        outcomes = "Jobs by task and outcome: ok, retried, failed"
        self._jobs = histogram("gateway_job_seconds", outcomes, ["task", "outcome"], _JOB_SECONDS)
        self._previews = counter("gateway_previews", "Previews requested or made ahead", ["kind", "outcome"])
        self._janitor = counter("gateway_janitor_found", "What the janitor found, and bytes of it", ["kind"])
        self._scrubbed = counter("gateway_scrub_objects", "Objects that the scrub has read, by outcome", ["outcome"])
        self._scrubbed_bytes = counter("gateway_scrub_bytes", "Bytes that the scrub has read", [])
        self._repaired = counter("gateway_scrub_repairs", "Damaged objects that the scrub has repaired", [])
        self._archived = counter("gateway_archived_objects", "Objects archived and brought back", ["action"])
        self._archived_bytes = counter("gateway_archived_bytes", "Their bytes, before compression", ["action"])
        self._rate_limits = counter("gateway_rate_limits", "Rate limits that refused or failed", ["limit", "outcome"])

    def request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request. ``route``: its template, as ``/api/files/<id>``; None if no route matched."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route or "unmatched", known, str(status)).observe(seconds)

    def transferred(self, route: str | None, received: int, sent: int) -> None:
        """Count the bytes of a request that has ended."""
        counters = self._of_route.get(route)
        if counters is None:
            both = self._http_received, self._http_sent
            counters = self._of_route[route] = [counter.labels(route or "unmatched") for counter in both]
        counters[0].inc(received)
        counters[1].inc(sent)

    def database_wait(self, seconds: float) -> None:
        """Count that a connection to the database was taken from the pool, or that none was free in time."""
        self._waits.observe(seconds)

    def upload(self, protocol: str, outcome: str, size: int = 0) -> None:
        """Count an upload. ``outcome``: ``done`` or an error code; ``size``: bytes that passed through this process."""
        self._uploads.labels(protocol, outcome).inc()
        if size:
            self._received.labels(protocol).inc(size)

    def bucket_call(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a call to the bucket. ``outcome``: ``ok`` or the error's name."""
        self._bucket.labels(operation, outcome).observe(seconds)

    def job(self, task: str, outcome: str, seconds: float) -> None:
        """Count a job."""
        self._jobs.labels(task, outcome).observe(seconds)

    def archived(self, action: str, size: int) -> None:
        """Count an object of ``size`` bytes. ``action``: ``archived`` or ``unarchived``."""
        self._archived.labels(action).inc()
        self._archived_bytes.labels(action).inc(size)

    def preview(self, kind: str, outcome: str) -> None:
        """Count a preview. ``outcome``: ``stored`` (it was in the bucket), ``made``, ``not_modified``, or an error code."""
        self._previews.labels(kind, outcome).inc()

    def scrubbed(self, outcome: str, size: int) -> None:
        """Count an object that the scrub has read, and its bytes in the bucket."""
        self._scrubbed.labels(outcome).inc()
        self._scrubbed_bytes.inc(size)

    def scrub_repaired(self) -> None:
        """Count a repair."""
        self._repaired.inc()

    def rate_limit(self, name: str, outcome: str) -> None:
        """Count what a rate limit met. ``outcome``: ``refused``, or ``storage_down`` (the process counts by itself)."""
        self._rate_limits.labels(name, outcome).inc()

    def janitor_found(self, kind: str, count: int) -> None:
        """Count what the janitor found: objects, files, uploads, rows or bytes by kind."""
        self._janitor.labels(kind).inc(count)

    def exposition(self, gauges: Iterable[Gauge] = ()) -> bytes:
        """All metrics in Prometheus' text format, with ``gauges`` that were measured now."""
        from prometheus_client import generate_latest

        registry = _all_processes() if _SHARED in os.environ else self._own
        return generate_latest(registry) + generate_latest(_Measured(lambda: gauges))

    def declared(self) -> set[str]:
        """The names of all metrics but those that are measured when they are asked for."""
        return {family.name for family in self._own.collect()}


@dataclass(frozen=True, slots=True)
class Gauge:
    """Values that were measured now, each with its labels."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


def gauge(name: str, help: str, value: float) -> Gauge:
    """A single value that was measured now."""
    return Gauge(name, help, (), [((), value)])


def measured(sources: Iterable[Callable[[], list[Gauge]]]) -> list[Gauge]:
    """The gauges of all sources. One that fails, mostly for want of the database, is left out."""
    found: list[Gauge] = []
    for source in sources:
        try:
            found += source()
        except Unavailable:
            pass
        except Exception:  # the other metrics tell about the rest
            structlog.get_logger().exception("gauges_failed")
    return found


class _Measured:
    """Gauges for prometheus-client."""

    def __init__(self, measure: Callable[[], Iterable[Gauge]]):
        self._measure = measure

    def collect(self) -> Iterable[Metric]:
        """Each gauge with its samples."""
        from prometheus_client.core import GaugeMetricFamily

        for gauge in self._measure():
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.samples:
                family.add_metric(labels, value)
            yield family


_ROLES = ("serve", "worker")


def processes() -> list[Gauge]:
    """What the processes of this machine use that share their metrics, by role, as Linux tells it."""
    found: dict[str, list[_Usage]] = {}
    for pid in {path.stem.rpartition("_")[2] for path in Path(os.environ.get(_SHARED, "/nowhere")).glob("*.db")}:
        with suppress(OSError, ValueError):  # it has ended, or belongs to another user
            role, used = _usage(pid)
            found.setdefault(role, []).append(used)

    def by_role(name: str, text: str, value: Callable[[list[_Usage]], float]) -> Gauge:
        return Gauge(name, text, ("role",), [((role,), value(used)) for role, used in sorted(found.items())])

    def of(name: str) -> Callable[[list[_Usage]], float]:
        return lambda used: sum(getattr(one, name) for one in used)

    return [
        by_role("gateway_processes", "Processes on this machine", len),
        by_role("gateway_process_resident_bytes", "Their memory", of("resident")),
        by_role("gateway_process_cpu_seconds", "CPU time that those alive have used", of("seconds")),
        by_role(
            "gateway_process_files_ratio",
            "Open files and sockets of the process that is asked, as a share of its limit",
            lambda used: max(one.files for one in used),
        ),
    ]


class _Usage(NamedTuple):
    resident: int  # bytes
    seconds: float  # of CPU time
    files: float  # open ones, as a share of the limit


def _usage(pid: str) -> tuple[str, _Usage]:
    """A process's role and usage (proc(5)). OSError or ValueError if it has ended."""
    proc = Path("/proc", pid)
    stat = (proc / "stat").read_text().rpartition(")")[2].split()  # from the third field on
    limit = re.search(r"^Max open files +(\d+)", (proc / "limits").read_text(), re.MULTILINE)
    words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
    role = next((word for word in words if word in _ROLES), "other")
    seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    files = 0.0
    with suppress(OSError):  # processes hide theirs from others (parsers/sandbox.hide), but not from themselves
        files = len(os.listdir(proc / "fd")) / int(limit[1]) if limit else 0.0
    return role, _Usage(int(stat[21]) * os.sysconf("SC_PAGE_SIZE"), seconds, files)


def _all_processes() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def serve_metrics(host: str, port: int) -> None:
    """Serve the metrics at a port: for a worker on a machine without the HTTP server."""
    from prometheus_client import start_http_server

    registry = _all_processes()
    registry.register(_Measured(processes))
    start_http_server(port, addr=host, registry=registry)


@cache
def metrics() -> Metrics:
    """This process's metrics."""
    return Metrics()
