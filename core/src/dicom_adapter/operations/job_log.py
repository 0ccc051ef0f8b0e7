"""The last lines of a job's log, without control characters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from dicom_adapter.api.errors import DicomAdapterError, Refused, describe_failure
from dicom_adapter.api.values import Job
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.isolation import make_submitter
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.deadline import TookTooLong, call_within

LOG_SECONDS = 30.0  # time limit for a submitter to return a log, which may be on the platform
MAX_LINE = 2_000  # bytes of a line that are shown
PIECE = 1 << 16  # bytes that are read together


def last_lines(job: Job, config: Config | None, plugins: Plugins, lines: int) -> list[str]:
    """Return the last lines of a job's log. Raises Refused if there is no log or it cannot be read."""
    subject = f"job {job.job_id}"
    if config is None or not is_available(config, job.submitter):
        raise Refused(
            f"{subject}: its submitter {job.submitter!r}, which keeps the log, is not configured or not installed"
        )
    try:
        submitter = make_submitter(config, plugins, job.submitter)
        found = call_within(LOG_SECONDS, lambda: _read(submitter.log(job), lines))
    except (TookTooLong, DicomAdapterError) as failure:
        raise Refused(f"{subject}: the log cannot be read: {failure}") from None
    except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
        raise Refused(f"{subject}: bug in submitter {job.submitter!r}: {describe_failure(failure)}") from None
    if found is None:
        raise Refused(f"{subject} has no log: its submitter keeps none, or the job has not been started")
    return found


def is_available(config: Config, submitter: str) -> bool:
    """Return whether a submitter is configured, and its plugin is installed."""
    return submitter in config.submitters and not config.submitters[submitter].unavailable


def _read(log: BinaryIO | None, lines: int) -> list[str] | None:
    if log is None:
        return None
    with log:
        return [_printable(line) for line in deque(_split(log), maxlen=lines)]


def _split(log: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a log. Cut and mark each line after MAX_LINE bytes: it may be larger than the memory."""
    rest = b""
    while piece := log.read(PIECE):
        *ended, last = piece.split(b"\n")
        for part in ended:
            yield _cut(rest + part)
            rest = b""
        rest = (rest + last)[: MAX_LINE + 1]
    if rest:
        yield _cut(rest)


def _cut(line: bytes) -> bytes:
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …".encode()


def _printable(line: bytes) -> str:
    """Return a line as text. Escape sequences of a terminal, which a program has written, are shown, not executed."""
    text = line.rstrip(b"\r").decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)
