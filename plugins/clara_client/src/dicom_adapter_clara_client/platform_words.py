"""Text from the platform, made safe for logs."""

from __future__ import annotations


def one_line(text: str, most: int) -> str:
    """Return one line of at most `most` characters without control characters."""
    head = text[: most * 4]  # enough to fill the line, without processing a huge text
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= most and len(head) == len(text) else line[: most - 1] + "…"
