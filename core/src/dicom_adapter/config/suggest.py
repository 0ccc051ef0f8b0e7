"""What was probably meant: the nearest of the names that would have been right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: object, known: Iterable[str]) -> str:
    """A clause that goes on after a message, such as "; did you mean 'timeout'?"; "" when nothing is near."""
    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(given.casefold(), by_folded, n=1) if isinstance(given, str) else []
    return f"; did you mean '{by_folded[found[0]]}'?" if found else ""


def listed(names: Iterable[str]) -> str:
    """Names for a message, in alphabetical order."""
    return ", ".join(sorted(names)) or "none"
