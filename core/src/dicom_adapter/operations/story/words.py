"""Times, numbers and names in the sentences of a story."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone, tzinfo

SHORT = 8  # number of characters of an id in a sentence

_zone: ContextVar[tzinfo | None] = ContextVar("zone", default=timezone.utc)
_has_full_times: ContextVar[bool] = ContextVar("has_full_times", default=False)


@contextmanager
def times_in(zone: tzinfo | None) -> Iterator[None]:
    """Format the times of the block in this zone, instead of UTC. None: the local zone."""
    token = _zone.set(zone)
    try:
        yield
    finally:
        _zone.reset(token)


@contextmanager
def full_times() -> Iterator[None]:
    """Format the times of the block with their date and zone, so that a page can find them and show another zone."""
    token = _has_full_times.set(True)
    try:
        yield
    finally:
        _has_full_times.reset(token)


def clock(moment: datetime, reference: datetime) -> str:
    """Return the time of day of `moment`, with the date if `reference` is on another date.

    `reference`: a time that the reader sees next to the returned one, or the present time.
    """
    if _has_full_times.get():
        return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    local = moment.astimezone(_zone.get())
    is_same_day = local.date() == reference.astimezone(_zone.get()).date()
    return f"{local:%H:%M:%S}" if is_same_day else f"{local:%Y-%m-%d %H:%M:%S}"


def due(when: datetime, now: datetime) -> str:
    """Return the time at which a step is due. If this time is in the past, add why the step is probably late."""
    past = "" if when >= now else ", which is in the past: the service is late or not running"
    return f"at {clock(when, now)}{past}"


def until(first: datetime, last: datetime) -> str:
    """Return for example ` until 08:00:40`; an empty string if both times are in the same second."""
    return "" if clock(last, first) == clock(first, first) else f" until {clock(last, first)}"


def was(number: int) -> str:
    return "was" if number == 1 else "were"


def listed(words: Iterable[str]) -> str:
    """Return for example `one`, `one and two` or `one, two and three`; an empty string without words."""
    *some, last = [*words] or [""]
    return f"{', '.join(some)} and {last}" if some else last


def sentence(text: str) -> str:
    """Return the text with a full stop at its end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def with_reason(text: str, reason: str) -> str:
    """Return the text and the reason as a sentence; without a reason, the text only."""
    return sentence(f"{text}: {reason}" if reason else text)


def short(identifier: str) -> str:
    return identifier[:SHORT]
