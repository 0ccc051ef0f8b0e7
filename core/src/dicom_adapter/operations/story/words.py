"""How a story writes times, numbers and names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

SHORT = 8  # digits of an id that sentences show


def clock(moment: datetime, beside: datetime) -> str:
    """The time of day, with the date when it is not that of `beside`."""
    return f"{moment:%H:%M:%S}" if moment.date() == beside.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def due(when: datetime, now: datetime) -> str:
    """When that will be, or why it is not yet."""
    past = "" if when >= now else ", which is past: the service is behind, or does not run"
    return f"at {clock(when, now)}{past}"


def until(first: datetime, last: datetime) -> str:
    """Such as ` until 08:00:40`; nothing when that is the second of `first`."""
    return "" if clock(last, first) == clock(first, first) else f" until {clock(last, first)}"


def counted(number: int, noun: str) -> str:
    """Such as `1 instance`, `2 instances`, `3 studies`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def was(number: int) -> str:
    return "was" if number == 1 else "were"


def listed(words: Iterable[str]) -> str:
    """Such as `one`, `one and two`, `one, two and three`."""
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


def sentence(text: str) -> str:
    """The text with a full stop, which many reasons have not."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def short(identifier: str) -> str:
    return identifier[:SHORT]
