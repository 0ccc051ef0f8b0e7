"""Structured logs: events with stable names and fields, without patient data. Logging never blocks its caller."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import MutableMapping
from datetime import datetime, timezone
from typing import Any

import orjson
import structlog

from dicom_adapter.runtime.logs.limits import RateLimits
from dicom_adapter.runtime.logs.output import LogOutput

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVEL_NAMES = {"warn": "warning", "exception": "error"}  # levels of the log methods that are not named like a level
NUMBERS = frozenset({bool, int, float})
STDERR = 2
FLUSH_SECONDS = 1.0  # time limit of `close` for lines that were not written yet
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters and Unicode's separators of lines


class _Destination:
    """The log output and the rate limits of this process."""

    output: LogOutput | None = None
    limits = RateLimits()


def configure(*, style: str, level: str, process: str, descriptor: int = STDERR) -> None:
    """Log to a descriptor, in the style "console" for people or "json" for programs."""
    _Destination.limits = RateLimits()
    _Destination.output = LogOutput(descriptor, report=report_missing)
    is_json = style == "json"
    console = structlog.dev.ConsoleRenderer(colors=os.isatty(descriptor))
    structlog.configure(
        processors=[
            _Destination.limits,
            _Frame(process),
            *((_render_json,) if is_json else (_escape_control_characters, console)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(_Lines(_Destination.output)),  # type: ignore[arg-type] # no TextIO
        cache_logger_on_first_use=True,
    )


def report_missing() -> None:
    """Log how many lines were dropped because the reader is too slow, or were above a rate limit."""
    log = structlog.get_logger("dicom_adapter.logs")  # not a global logger, which would keep its first configuration
    if _Destination.output is not None and (dropped := _Destination.output.take_dropped()):
        log.warning("log_lines_dropped", count=dropped)
    for (event, source), count in _Destination.limits.take_suppressed().items():
        log.warning("log_lines_suppressed", of=event, source=source, count=count)


def current_output() -> LogOutput:
    """Return the output of this process."""
    assert _Destination.output is not None  # `configure` was called
    return _Destination.output


def problem() -> str:
    """Return why lines of this process are missing from the log; "" if no lines are missing."""
    return "" if _Destination.output is None else _Destination.output.problem


def close() -> None:
    """Report the lines that are missing, and wait a short time for lines that were not written yet."""
    if _Destination.output is not None:
        report_missing()
        _Destination.output.flush(FLUSH_SECONDS)


def write_line(text: str) -> None:
    """Write a line that is not an event."""
    if _Destination.output is not None:
        _Destination.output.put([f"{text}\n"])


class _Lines:
    """The stream that structlog writes to. Each write is a line."""

    def __init__(self, output: LogOutput) -> None:
        self._output = output

    def write(self, text: str) -> None:
        lines: list[str] | None = getattr(_batch, "lines", None)
        if lines is None:
            self._output.put([text])
        else:
            lines.append(text)

    def flush(self) -> None:
        """Do nothing: `write` has written the line."""


_batch = threading.local()


class batch:  # noqa: N801 - a context manager, used like a function; a generator would take five times as long
    """Context manager: collect the lines that this thread logs, and write them together at the end of the block."""

    def __enter__(self) -> None:
        _batch.lines = []

    def __exit__(self, *_failure: object) -> None:
        lines, _batch.lines = _batch.lines, None
        if lines and _Destination.output is not None:
            _Destination.output.put(lines)


class _Frame:
    """Processor of structlog: put the common fields before the others, and omit empty fields. Zero is not empty."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        framed = {
            "event": event.pop("event"),
            "level": LEVEL_NAMES.get(method, method),
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="microseconds")[:-6] + "Z",
            "process": self._process,
        }
        for name, value in event.items():  # a loop, because it is faster than a comprehension with two conditions
            if value or value.__class__ in NUMBERS:
                framed[name] = value
        return framed


def _escape_control_characters(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace control characters, with which a peer could forge lines or change the terminal. (JSON escapes them.)"""
    for name, value in event.items():
        if isinstance(value, str) and CONTROL.search(value):
            event[name] = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), value)
    return event


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """Encode an event with orjson, because it is fast: at the level debug, a line is written for every instance."""
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:  # for example a path that is not Unicode, which orjson refuses
        return json.dumps(event, default=repr)
