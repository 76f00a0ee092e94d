"""OpenTelemetry spans of requests, jobs and calls to the bucket, sent to OTEL_EXPORTER_OTLP_ENDPOINT (OTLP over HTTP).

Without that variable nothing is imported and nothing is made. The SDK reads its other settings from the environment too, such as
OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME. A span has the request's id and what metrics have as labels, but no path and no names.
Spans find their parent in ``ORIGIN``, as log lines find their request, also where a job continues the trace of a request.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import TYPE_CHECKING, Literal

from core.origin import ORIGIN

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

Value = str | int | float | None

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
ON = any(os.environ.get(name) for name in _VARIABLES)


@cache
def _tracer() -> Tracer:
    """This process's tracer. ImportError without the packages of requirements-tracing.txt."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "upload-gateway"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("upload-gateway")


def check() -> None:
    """Raise ValueError if spans are to be sent and the packages are missing."""
    if ON:
        try:
            import opentelemetry.exporter.otlp.proto.http  # noqa: F401
        except ImportError as error:
            needed = "OTEL_EXPORTER_OTLP_ENDPOINT needs the packages of requirements-tracing.txt"
            raise ValueError(f"{needed}: python3 embedded/install.py --tracing") from error


class Span:
    """A request or job in progress."""

    def __init__(self, name: str, kind: Literal["SERVER", "CONSUMER"], parent: str | None):
        from opentelemetry.trace import SpanKind

        self._span = _tracer().start_span(name, context=_context(parent), kind=SpanKind[kind])
        context = self._span.get_span_context()
        # W3C Trace Context, 3.2.2
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, name: str, *, failed: bool, **attributes: Value) -> None:
        """End it, under the name that is known by now."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(name)
        self._span.set_attributes(_known(attributes))
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def begin(name: str, kind: Literal["SERVER", "CONSUMER"], parent: str | None) -> Span | None:
    """A span that continues the trace of ``parent``, a traceparent; None unless spans are sent."""
    return Span(name, kind, parent) if ON else None


def record(name: str, seconds: float, *, failed: bool, **attributes: Value) -> None:
    """A span that has just ended, inside the innermost one."""
    if not ON:
        return
    from opentelemetry.trace import SpanKind, StatusCode

    now, context = time.time_ns(), _context(ORIGIN.get().trace)
    began = now - int(seconds * 1e9)
    span = _tracer().start_span(name, context, SpanKind.CLIENT, _known(attributes), start_time=began)
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end(now)


def _context(traceparent: str | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _known(attributes: dict[str, Value]) -> dict[str, str | int | float]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}
