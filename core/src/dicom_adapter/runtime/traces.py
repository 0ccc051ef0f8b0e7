"""Traces: spans of OpenTelemetry that follow instances from their association to the delivery of results.

Only the API of OpenTelemetry is used. Traces are on if an SDK was set up in the process before, or if the environment
names one (`OTEL_PYTHON_TRACER_PROVIDER`). Otherwise they are off: nothing of OpenTelemetry is imported, and each call
returns at once.

A context is a text in the format `traceparent` of W3C Trace Context, which the ledger can store; "" is no context.
"""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

import structlog

from dicom_adapter.api.errors import describe_failure

log = structlog.get_logger("dicom_adapter.traces")

PROVIDER_VARIABLE = "OTEL_PYTHON_TRACER_PROVIDER"  # of OpenTelemetry: the entry point of a configured SDK
TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
FLUSH_MILLISECONDS = 2000  # time limit for the export of the last spans when the process ends
# All attributes of spans. Their values are ids of the adapter, names of the configuration, counts, and fixed words:
# never patient data, UIDs, addresses, or texts of platforms.
ATTRIBUTES = frozenset(
    (
        "ae_title",
        "association_id",
        "attempts",
        "instances",
        "job_id",
        "outcome",
        "pipeline",
        "state",
        "step",
        "submitter",
    )
)


class Span:
    """A span that is not recorded, because traces are off."""

    context = ""  # of this span, as the parent of others

    def set(self, **attributes: str | int) -> None:
        """Set attributes. Raises ValueError for a name that is not in ATTRIBUTES."""

    def fail(self, kind: str) -> None:
        """Mark the span as failed. `kind` is a fixed word or the name of a class, without patient data."""

    def end(self, at: datetime | None = None) -> None:
        """End the span. A span that is never ended is not exported."""


class Traces(ABC):
    """The spans of a process. Thread-safe."""

    is_on: ClassVar[bool]

    @abstractmethod
    def start(self, name: str, *, parent: str = "", links: Sequence[str] = (), at: datetime | None = None) -> Span:
        """Start a span. `links`: contexts in other traces to link it to. `at`: time of its start; None: now."""

    @abstractmethod
    def span(self, name: str, *, parent: str = "") -> AbstractContextManager[Span]:
        """Context manager: a span, which is the current one of the thread. An exception marks it as failed."""

    @abstractmethod
    def close(self) -> None:
        """Export the spans that wait, within FLUSH_MILLISECONDS."""


NO_SPAN = Span()


class NoTraces(Traces):
    """Traces that are off."""

    is_on = False

    def start(self, *_name: str, **_options: object) -> Span:
        return NO_SPAN

    def span(self, *_name: str, **_options: object) -> AbstractContextManager[Span]:
        return nullcontext(NO_SPAN)

    def close(self) -> None:
        """Do nothing."""


OFF = NoTraces()


class _RecordedSpan(Span):
    def __init__(self, api: Any, span: Any) -> None:
        self._api, self._span = api, span
        own = span.get_span_context()
        self.context = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def set(self, **attributes: str | int) -> None:
        unknown = attributes.keys() - ATTRIBUTES
        if unknown:
            raise ValueError(f"attributes {sorted(unknown)} of a span are not in ATTRIBUTES")
        self._span.set_attributes({f"dicom_adapter.{name}": value for name, value in attributes.items()})

    def fail(self, kind: str) -> None:
        self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, kind))

    def end(self, at: datetime | None = None) -> None:
        self._span.end(_nanoseconds(at))


class OpenTelemetryTraces(Traces):
    """The spans of a process with an SDK."""

    is_on = True

    def __init__(self, provider: Any) -> None:
        """`provider`: the TracerProvider of the SDK."""
        from opentelemetry import trace

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("dicom_adapter")

    def start(self, name: str, *, parent: str = "", links: Sequence[str] = (), at: datetime | None = None) -> Span:
        return _RecordedSpan(self._api, self._start(name, parent, links, at))

    def span(self, name: str, *, parent: str = "") -> AbstractContextManager[Span]:
        return self._current(name, parent)

    def close(self) -> None:
        flush = getattr(self._provider, "force_flush", None)  # the API has no such method
        if flush is not None:
            flush(FLUSH_MILLISECONDS)

    @contextmanager
    def _current(self, name: str, parent: str) -> Iterator[Span]:
        started = self._start(name, parent, (), None)
        span = _RecordedSpan(self._api, started)
        try:
            # The text of an exception may contain patient data: the SDK must not record it.
            with self._api.use_span(started, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as failure:
            span.fail(type(failure).__name__)
            raise
        finally:
            span.end()

    def _start(self, name: str, parent: str, links: Sequence[str], at: datetime | None) -> Any:
        from opentelemetry.context import Context

        found = self._span_context(parent)
        # An empty context: the span does not depend on a span that is current in this thread by chance.
        context = Context()
        if found is not None:
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(found), context)
        linked = [self._api.Link(other) for link in links if (other := self._span_context(link)) is not None]
        return self._tracer.start_span(name, context=context, links=linked, start_time=_nanoseconds(at))

    def _span_context(self, context: str) -> Any:
        parts = TRACEPARENT.fullmatch(context)
        if parts is None:
            return None
        trace_id, span_id, flags = (int(part, 16) for part in parts.groups())
        return self._api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=self._api.TraceFlags(flags))


@cache
def of_process() -> Traces:
    """Return the traces of this process: on, if it has an SDK of OpenTelemetry."""
    if "opentelemetry" not in sys.modules and not os.environ.get(PROVIDER_VARIABLE):
        return OFF
    try:
        from opentelemetry import trace

        provider = trace.get_tracer_provider()
    except Exception as failure:  # noqa: BLE001 - an SDK is not ours and may raise anything
        log.warning("traces_off", error=describe_failure(failure))
        return OFF
    # A proxy: no SDK was set up.
    return OFF if isinstance(provider, trace.ProxyTracerProvider) else OpenTelemetryTraces(provider)


def _nanoseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1e9)
