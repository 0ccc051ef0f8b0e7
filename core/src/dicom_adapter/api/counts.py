"""Numbers with their nouns, in texts for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return for example `1 instance`, `2 instances`, `3 studies` or `4 series`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun of this project, for example `studies`, `days`, `series` or `AE titles`."""
    if noun.endswith("series"):
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") and not noun.endswith("ay") else f"{noun}s"
