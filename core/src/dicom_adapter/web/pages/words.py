"""Texts for pages: the parts of a message, sizes, and the tone of a state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone

from attrs import frozen

UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
COMMAND = re.compile(r"`([^`]+)`")
TIME = re.compile(r"\b(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}) UTC\b")
MARKS = re.compile(f"{COMMAND.pattern}|{TIME.pattern}")
# The last clause of a problem, which names a command. On a page, the link to the other page replaces it.
LAST_CLAUSE = re.compile(r"[:;] `dicom-adapter [a-z -]+[^`]*` shows (?:why|more|them|what is known)$")

TONES = {  # by state of a job, instance, AE title or part: how a page colours it
    "queued": "calm",
    "created": "busy",
    "metadata-sent": "busy",
    "uploaded": "busy",
    "running": "busy",
    "submitted": "good",
    "succeeded": "good",
    "failed": "bad",
    "faulted": "bad",
    "cancelled": "calm",
    "pending": "busy",
    "quarantined": "warn",
    "released": "good",
    "reclaimed": "calm",
    "green": "good",
    "yellow": "warn",
    "red": "bad",
    "served": "good",
    "refusing": "warn",
    "full": "warn",
    "stopped": "bad",
    "draining": "calm",
    "not configured": "warn",
    "not served": "calm",
    "not yet served": "calm",
    "ok": "good",
    "degraded": "warn",
    "failing": "bad",
    "hangs": "bad",
    "asked": "busy",
    "replaced": "calm",
    "refused": "bad",
}


@frozen
class TextPart:
    """A part of a message: plain text, a command, or a time."""

    kind: str  # "text", "command" or "time"
    text: str
    at: datetime | None = None  # UTC; of a time


def text_parts(message: str) -> Iterator[TextPart]:
    """Yield the parts of a message with commands in backticks and times in UTC."""
    end = 0
    for match in MARKS.finditer(message):
        if match.start() > end:
            yield TextPart("text", message[end : match.start()])
        command, moment = match.groups()
        if command is not None:
            yield TextPart("command", command)
        else:
            at = datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
            yield TextPart("time", match.group(), at)
        end = match.end()
    if end < len(message):
        yield TextPart("text", message[end:])


def without_command(reason: str) -> str:
    """Return the reason of a problem without the clause about the command that shows more."""
    return LAST_CLAUSE.sub("", reason)


def size_text(count: int) -> str:
    """Return a number of bytes with a unit."""
    return next((f"{count / unit:.1f} {name}" for unit, name in UNITS if count >= unit), f"{count} bytes")


def number_text(count: int) -> str:
    """Return a number with a narrow space between groups of three digits."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def tone_of(state: str) -> str:
    """Return how a page colours a state: good, busy, calm, warn or bad."""
    return TONES.get(state, "calm")


def iso_utc(moment: datetime) -> str:
    """Return a time as the attribute `datetime` of a `time` element contains it."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_text(moment: datetime) -> str:
    """Return a time in UTC, which the browser replaces with the time in its zone."""
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
