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
    """Log to stderr, for a person (`style` "console") or a program ("json")."""
    # A line has to be one write: the processes of the service share stderr, and must not write into each other's lines.
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Stamp(process),
            _renderer(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    _silence_libraries()


class _Unfailing:
    """A stream that may be full or closed. Logging never raises: errors of the stream are ignored."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        lines: list[str] | None = getattr(_gathering, "lines", None)
        if lines is not None:
            lines.append(text)
            return
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        if getattr(_gathering, "lines", None) is None:
            with suppress(OSError, ValueError):
                self._stream.flush()


_gathering = threading.local()


@contextmanager
def together() -> Iterator[None]:
    """Write everything that this thread logs in the block at the end of the block, in one write."""
    lines: list[str] = []
    _gathering.lines = lines
    try:
        yield
    finally:
        _gathering.lines = None
        if lines:
            stream = _Unfailing(sys.stderr)
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
    """Encode an event. A line is written for every instance, so speed matters."""
    try:
        return orjson.dumps(event, default=options.get("default")).decode()
    except TypeError:  # orjson refuses, for example, a path that is not Unicode
        return json.dumps(event, **options)


def _silence_libraries() -> None:
    """The DICOM libraries quote attribute values in messages and warnings, which may be a patient's."""
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    warnings.filterwarnings("ignore", module=r"pydicom\.")
