"""Structured logs: events with stable names and fields, without patient data."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any, TextIO, cast

import orjson
import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(*, style: str, level: str, process: str) -> None:
    """Log to standard error, in the style "console" for people or "json" for programs."""
    # Each line is one write, so that the processes of the service, which share stderr, do not mix their lines.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Stamp(process),
            _renderer(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _SafeStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    _silence_libraries()


class _SafeStream:
    """A stream that ignores errors, because logging must not raise if the stream is full or closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        lines: list[str] | None = getattr(_batch, "lines", None)
        if lines is not None:
            lines.append(text)
            return
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        if getattr(_batch, "lines", None) is None:
            with suppress(OSError, ValueError):
                self._stream.flush()


_batch = threading.local()


@contextmanager
def batch() -> Iterator[None]:
    """Context in which the lines that this thread logs are collected. They are written with one write at its end."""
    lines: list[str] = []
    _batch.lines = lines
    try:
        yield
    finally:
        _batch.lines = None
        if lines:
            stream = _SafeStream(sys.stderr)
            stream.write("".join(lines))
            stream.flush()


class _Stamp:
    """Adds the time and the name of the process to each event."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["timestamp"] = datetime.now(timezone.utc).isoformat(timespec="microseconds")[:-6] + "Z"
        event["process"] = self._process
        return event


def _renderer(style: str) -> Any:
    if style == "json":
        return structlog.processors.JSONRenderer(serializer=_to_json)
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def _to_json(event: Any, **options: Any) -> str:
    """Encode an event. Speed matters, because a line is written for every instance."""
    try:
        return orjson.dumps(event, default=options.get("default")).decode()
    except TypeError:  # for example a path that is not Unicode, which orjson refuses
        return json.dumps(event, **options)


def _silence_libraries() -> None:
    """Suppress the messages of DICOM libraries: they contain attribute values, which may be patient data."""
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    warnings.filterwarnings("ignore", module=r"pydicom\.")
