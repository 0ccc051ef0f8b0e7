"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(given: object, known: Iterable[str]) -> str:
    """Return a clause for the end of a message, such as "; did you mean 'timeout'?", or "" without a similar name."""
    found = nearest(given, known) if isinstance(given, str) else ""
    return f"; did you mean '{found}'?" if found else ""


def nearest(given: str, known: Iterable[str]) -> str:
    """Return the most similar name, or "" without a similar name."""
    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(given.casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else ""


def listed(names: Iterable[str]) -> str:
    """Return the names for a message, in alphabetical order."""
    return ", ".join(sorted(names)) or "none"
